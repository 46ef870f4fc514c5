"""A breaker for each mailbox, whatever the store: pauses, probes, what ends them, and what other workers see of it."""

import asyncio
import time
from datetime import datetime, timedelta

import pytest
from pydantic import SecretStr

from contracts.notification import Priority
from tests.adapters.store.conftest import Backend
from tests.factories import NOON, mailbox, verdict
from worker.domain.mailbox import Mailbox, Password, SmtpEndpoint, Tls
from worker.domain.verdict import Action, Verdict
from worker.ports import Admission, Demand, Gate, Hold
from worker.store.gate import SqlGate

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
DEMAND = Demand("contoso", Priority.NORMAL, 1, 0)
BOX = mailbox("box")


def trouble(minutes: float = 1, kind: str = "auth-config") -> Verdict:
    return verdict(Action.PAUSE, kind, pause=minutes * MINUTE)


async def let_through(gate: Gate, now: datetime, box: Mailbox = BOX) -> Admission:
    answer = await gate.admit(box, DEMAND, now)
    assert isinstance(answer, Admission)
    return answer


async def held(gate: Gate, now: datetime, box: Mailbox = BOX) -> Hold:
    answer = await gate.admit(box, DEMAND, now)
    assert isinstance(answer, Hold)
    return answer


async def paused(backend: Backend, minutes: float = 1, *, at: datetime = NOON) -> tuple[Gate, datetime, Admission]:
    """A gate whose mailbox rests, until when, and somebody who was let through before."""
    gate = await backend.gate()
    straggler = await let_through(gate, at)
    return gate, await gate.paused(await let_through(gate, at), trouble(minutes), at), straggler


async def test_mailbox_without_trouble_lets_everybody_through(backend: Backend) -> None:
    gate = await backend.gate()
    for _ in range(10):
        await let_through(gate, NOON)


async def test_paused_mailbox_holds_everybody_until_the_end(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    assert until == NOON + MINUTE
    assert await held(gate, NOON) == Hold(until, trouble())
    assert await held(gate, until - SECOND) == Hold(until, trouble())


async def test_other_mailboxes_do_not_rest(backend: Backend) -> None:
    gate, _, _ = await paused(backend)
    await let_through(gate, NOON, mailbox("other"))


async def test_after_the_pause_one_is_let_through_and_the_others_look_again_soon(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    await let_through(gate, until)
    hold = await held(gate, until)
    assert until < hold.until <= until + 10 * SECOND
    assert hold.verdict == trouble()


async def test_probe_that_succeeds_ends_the_pause_for_all(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    probe = await let_through(gate, until)
    assert await gate.cleared(probe, tried=True)
    for _ in range(5):
        await let_through(gate, until)


async def test_end_of_a_pause_is_told_once(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    probe = await let_through(gate, until)
    assert await gate.cleared(probe, tried=True)
    assert not await gate.cleared(probe, tried=True)


async def test_success_without_a_pause_ends_nothing(backend: Backend) -> None:
    gate = await backend.gate()
    assert not await gate.cleared(await let_through(gate, NOON), tried=True)


async def test_probe_that_fails_makes_the_next_pause_twice_as_long(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    probe = await let_through(gate, until)
    assert await gate.paused(probe, trouble(), until) == until + 2 * MINUTE


async def test_probe_that_comes_to_nothing_gives_its_turn_to_the_next(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    probe = await let_through(gate, until)
    assert not await gate.cleared(probe, tried=False)
    await let_through(gate, until)


async def test_probe_that_never_comes_back_is_followed_by_another(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    await let_through(gate, until)
    await held(gate, until + 30 * SECOND)
    await let_through(gate, until + 2 * MINUTE)


async def test_success_from_before_the_pause_ends_it_neither_before_its_time_nor_after(backend: Backend) -> None:
    gate, until, straggler = await paused(backend)
    assert not await gate.cleared(straggler, tried=True)
    assert await held(gate, until - SECOND) == Hold(until, trouble())
    await let_through(gate, until)
    await held(gate, until)


async def test_failure_of_a_mail_from_before_the_pause_does_not_lengthen_it(backend: Backend) -> None:
    gate, until, straggler = await paused(backend)
    assert await gate.paused(straggler, trouble(), NOON + 30 * SECOND) == until
    probe = await let_through(gate, until)
    assert await gate.paused(probe, trouble(), until) == until + 2 * MINUTE


async def test_pauses_double_up_to_an_hour(backend: Backend) -> None:
    gate, now = await backend.gate(), NOON
    lengths = []
    for _ in range(24):
        until = await gate.paused(await let_through(gate, now), trouble(), now)
        lengths.append((until - now) / MINUTE)
        now = until
    assert lengths == [1, 2, 4, 8, 16, 32, *[60] * 18]


async def test_pause_longer_than_an_hour_is_neither_cut_nor_doubled(backend: Backend) -> None:
    gate, until, _ = await paused(backend, 180)
    assert until == NOON + 180 * MINUTE
    assert await gate.paused(await let_through(gate, until), trouble(180), until) == until + 180 * MINUTE


async def test_success_makes_the_next_pause_short_again(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    until = await gate.paused(await let_through(gate, until), trouble(), until)
    await gate.cleared(await let_through(gate, until), tried=True)
    assert await gate.paused(await let_through(gate, until), trouble(), until) == until + MINUTE


async def test_hold_tells_the_latest_trouble(backend: Backend) -> None:
    gate, until, _ = await paused(backend)
    later = await gate.paused(await let_through(gate, until), trouble(5, "other"), until)
    assert await held(gate, until) == Hold(later, trouble(5, "other"))
    assert later == until + 10 * MINUTE


@pytest.mark.parametrize("tried", [True, False], ids=["success", "came-to-nothing"])
async def test_straggler_from_before_the_pause_does_not_take_the_probes_turn(backend: Backend, *, tried: bool) -> None:
    """Several mails are on their way when the pause begins; one comes back while the probe is out."""
    gate, until, straggler = await paused(backend)
    probe = await let_through(gate, until)
    assert not await gate.cleared(straggler, tried=tried)
    await held(gate, until)
    assert await gate.cleared(probe, tried=True), "now the probe has come back"
    await let_through(gate, until)


async def test_pause_is_seen_by_a_worker_that_starts_later_before_it_tries_anything(durable: Backend) -> None:
    _, until, _ = await paused(durable)
    assert await held(await durable.gate(), NOON) == Hold(until, trouble())


async def test_pause_is_seen_by_the_others_at_their_next_look(durable: Backend) -> None:
    other = await durable.gate()
    await let_through(other, NOON)
    _, until, _ = await paused(durable)
    await other._look_once()
    assert await held(other, NOON) == Hold(until, trouble())


async def test_one_of_two_workers_gets_the_probe(durable: Backend) -> None:
    one, until, _ = await paused(durable)
    two = await durable.gate()
    await let_through(two, until)
    await held(one, until)


async def test_store_that_is_down_holds_mailboxes_that_need_it_and_loses_no_success(durable: Backend) -> None:
    gate, until, _ = await paused(durable)
    probe = await let_through(gate, until)
    await durable.sql("ALTER TABLE mailbox RENAME TO elsewhere")
    assert not await gate.cleared(probe, tried=True)
    assert "The store" in (await held(gate, until + MINUTE)).verdict.explanation
    await durable.sql("ALTER TABLE elsewhere RENAME TO mailbox")
    async with asyncio.timeout(30):
        while isinstance(await gate.admit(BOX, DEMAND, until), Hold):
            await gate._look_once()


def by_password(password: str) -> Mailbox:
    login = Password("robot", SecretStr(password))
    return mailbox("box", endpoint=SmtpEndpoint("smtp.contoso.com", 587, Tls.STARTTLS, login))


async def test_mailbox_with_another_password_is_tried_at_once_and_the_old_one_is_not(durable: Backend) -> None:
    """As after a change of the file, worker by worker."""
    old, new = await durable.gate(), await durable.gate()
    wrong, right = by_password("wrong"), by_password("right")
    await old.paused(await let_through(old, NOON, wrong), trouble(60), NOON)
    await new.look()
    await held(new, NOON, wrong)
    probe = await let_through(new, NOON, right)
    assert probe.probe
    assert (await held(new, NOON, right)).until < NOON + MINUTE, "one is enough"
    assert await new.cleared(probe, tried=True)
    await let_through(new, NOON, right)


async def test_another_password_that_is_wrong_too_is_tried_once(durable: Backend) -> None:
    old, new = await durable.gate(), await durable.gate()
    first, second = by_password("first"), by_password("second")
    await old.paused(await let_through(old, NOON, first), trouble(60), NOON)
    await new.look()
    await new.paused(await let_through(new, NOON, second), trouble(60), NOON)
    for gate in (old, new):
        await gate.look()
        for box in (first, second):
            assert (await held(gate, NOON + MINUTE, box)).until > NOON + 10 * MINUTE


async def test_no_secret_is_written_beside_a_pause(durable: Backend) -> None:
    gate = await durable.gate()
    await gate.paused(await let_through(gate, NOON, by_password("wrong")), trouble(60), NOON)
    ((written,),) = await durable.sql("SELECT paused_for FROM mailbox")
    assert len(written) == 4


async def test_rest_is_told_to_those_who_were_let_through_before(durable: Backend) -> None:
    one, other = await durable.gate(), await durable.gate()
    before = time.monotonic()
    straggler = await let_through(other, NOON)
    await one.paused(await let_through(one, NOON), trouble(60), NOON)
    await other.look()
    for gate in (one, other):
        assert isinstance(gate, SqlGate)
        assert gate.rested_since(straggler.mailbox, before)
        assert not gate.rested_since(straggler.mailbox, time.monotonic())
    again = time.monotonic()
    await other.look()
    assert isinstance(other, SqlGate)
    assert not other.rested_since(straggler.mailbox, again), "it is the same rest"
