"""A mailbox's limits over all workers together, on real stores: exact, whoever sends and whoever dies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from contracts.notification import Priority
from tests.adapters.store.conftest import Backend
from tests.factories import mailbox, verdict
from worker.domain.mailbox import Limits, Mailbox, Organisation
from worker.domain.verdict import Action
from worker.ports import Admission, Demand, Full, Gate, Hold, Paced

MINUTE = timedelta(minutes=1)


def limited(name: str = "box", **limits: int) -> Mailbox:
    return replace(mailbox(name), limits=Limits(**limits))


def demand(tenant: str = "contoso", priority: Priority = Priority.NORMAL, **fields: object) -> Demand:
    return Demand(**{"tenant": tenant, "priority": priority, "recipients": 1, "external": 1, **fields})


def now() -> datetime:
    return datetime.now(UTC)


async def admitted(gate: Gate, box: Mailbox, wanted: Demand | None = None) -> Admission:
    answer = await gate.admit(box, wanted or demand(), now())
    assert isinstance(answer, Admission)
    return answer


async def paced(gate: Gate, box: Mailbox, wanted: Demand | None = None) -> Paced:
    answer = await gate.admit(box, wanted or demand(), now())
    assert isinstance(answer, Paced)
    return answer


async def used_up(gate: Gate, box: Mailbox, count: int) -> list[Admission]:
    """So many mails, urgent ones so that none is kept free, at their end."""
    through = [await admitted(gate, box, demand(priority=Priority.HIGH)) for _ in range(count)]
    for each in through:
        await gate.cleared(each, tried=True, accepted=1)
    return through


async def test_limit_is_one_for_all_workers(durable: Backend) -> None:
    one, two = await durable.gate(), await durable.gate()
    box = limited(per_minute=4)
    await used_up(one, box, 2)
    await used_up(two, box, 2)
    waits = [(await paced(gate, box)).slot - now() for gate in (one, two)]
    assert timedelta(seconds=30) < waits[0] <= timedelta(seconds=60)
    assert abs(waits[1] - waits[0] - timedelta(seconds=15)) < timedelta(seconds=5), "one place further"


async def test_many_who_ask_at_once_get_no_more_than_the_limit(durable: Backend) -> None:
    gates = [await durable.gate() for _ in range(3)]
    box = limited(per_minute=10)
    asked = [gate.admit(box, demand(priority=Priority.HIGH), now()) for gate in gates for _ in range(15)]
    answers = await asyncio.gather(*asked)
    assert sum(isinstance(answer, Admission) for answer in answers) == 10
    slots = sorted(answer.slot for answer in answers if isinstance(answer, Paced))
    assert len(set(slots)) == 35, "everybody has a place of its own"


async def test_mail_in_flight_counts_until_it_ends_and_a_window_longer(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_minute=1)
    through = await admitted(gate, box, demand(priority=Priority.HIGH))
    await paced(gate, box)
    await gate.cleared(through, tried=True, accepted=1)
    await paced(gate, box)


async def test_attempt_that_came_to_nothing_gives_its_place_back(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_minute=1)
    through = await admitted(gate, box, demand(priority=Priority.HIGH))
    await gate.cleared(through, tried=False)
    await admitted(gate, box, demand(priority=Priority.HIGH))


async def test_mail_of_a_dead_worker_counts_from_its_death(durable: Backend) -> None:
    dead, heir = await durable.gate(), await durable.gate()
    box = limited(per_minute=1, recipients_per_day=10)
    await admitted(dead, box, demand(priority=Priority.HIGH, recipients=10))
    await durable.sql("UPDATE worker SET seen_at = seen_at - 20000000 WHERE instance = :me", me=dead._life.me)
    waits = (await paced(heir, box, demand(priority=Priority.HIGH))).slot - now()
    assert waits > timedelta(hours=23), "its recipients count as well"
    ((ended,),) = await durable.sql("SELECT count(*) FROM ticket WHERE ended_at IS NOT NULL")
    assert ended == 1


async def test_place_is_kept_by_who_comes_too_early_and_honoured_when_it_has_come(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_minute=2)
    await used_up(gate, box, 2)
    first = await paced(gate, box)
    again = await paced(gate, box, demand(slot=first.slot))
    assert abs(again.slot - first.slot) < timedelta(seconds=1)
    await durable.sql("UPDATE ticket SET ended_at = ended_at - 60000000")
    await admitted(gate, box, demand(slot=now() - timedelta(seconds=1)))


async def test_urgent_mail_has_a_line_of_its_own(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_minute=30)
    await used_up(gate, box, 30)
    for _ in range(10):
        last = await paced(gate, box)
    urgent = await paced(gate, box, demand(priority=Priority.HIGH))
    assert urgent.slot < last.slot - timedelta(seconds=10)


async def test_tenant_waits_behind_its_own_mail_not_behind_anothers(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_minute=30)
    await used_up(gate, box, 30)
    for _ in range(20):
        last = await paced(gate, box, demand("contoso"))
    other = await paced(gate, box, demand("fabrikam"))
    assert other.slot < last.slot - timedelta(seconds=20)


async def test_mails_of_an_hour_are_counted_over_all_workers(durable: Backend) -> None:
    one, two = await durable.gate(), await durable.gate()
    box = limited(per_minute=30, per_hour=3)
    for _ in range(2):
        await one.cleared(await admitted(one, box), tried=True, accepted=1)
    await admitted(two, box)
    refused = await paced(two, box)
    assert timedelta(minutes=59) < refused.slot - now() <= timedelta(hours=1)
    assert "3 mails in the last hour" in refused.verdict.explanation
    behind = await paced(one, box)
    apart = (behind.slot - refused.slot) / timedelta(seconds=1)
    assert apart == pytest.approx(2, abs=0.1), "as the minute's limit asks for"


async def test_mails_of_the_hour_before_do_not_count(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_hour=1)
    await gate.cleared(await admitted(gate, box), tried=True, accepted=1)
    await durable.sql("UPDATE ticket SET ended_at = ended_at - 3540000000")
    soon = await paced(gate, box)
    assert timedelta(seconds=50) < soon.slot - now() <= timedelta(minutes=1)
    await durable.sql("UPDATE ticket SET ended_at = ended_at - 60000000")
    await admitted(gate, box, demand(slot=now() - timedelta(seconds=1)))


async def test_recipients_of_a_day_are_counted_over_all_workers(durable: Backend) -> None:
    one, two = await durable.gate(), await durable.gate()
    box = limited(recipients_per_day=100)
    await one.cleared(await admitted(one, box, demand(recipients=60)), tried=True, accepted=60)
    await admitted(two, box, demand(recipients=40))
    refused = await paced(two, box)
    assert refused.slot - now() > timedelta(minutes=5)
    assert "100 recipients in the last 24 hours" in refused.verdict.explanation


async def test_recipients_of_yesterday_do_not_count(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(recipients_per_day=100)
    await gate.cleared(await admitted(gate, box, demand(recipients=100)), tried=True, accepted=100)
    await durable.sql("UPDATE day SET beginning = beginning - 86700000000")
    await admitted(gate, box, demand(recipients=100))


CONTOSO = Organisation("contoso", frozenset({"contoso.com"}), 100)


async def test_mailboxes_of_an_organisation_share_its_limit_to_the_outside(durable: Backend) -> None:
    gate = await durable.gate()
    one, two = mailbox("one", organisation=CONTOSO), mailbox("two", organisation=CONTOSO)
    await gate.cleared(await admitted(gate, one, demand(recipients=100, external=100)), tried=True, accepted=100)
    assert "outside recipients" in (await paced(gate, two)).verdict.explanation
    await admitted(gate, two, demand(external=0))


async def test_recipients_in_flight_from_one_mailbox_of_an_organisation_count_for_the_others(durable: Backend) -> None:
    gate = await durable.gate()
    one, two = mailbox("one", organisation=CONTOSO), mailbox("two", organisation=CONTOSO)
    await admitted(gate, one, demand(recipients=60, external=60))
    await paced(gate, two, demand(recipients=60, external=60))
    await admitted(gate, two, demand(recipients=40, external=40))


async def test_mailbox_without_limits_has_no_row(durable: Backend) -> None:
    gate = await durable.gate()
    for number in range(50):
        await gate.cleared(await admitted(gate, mailbox(f"box-{number}")), tried=True, accepted=1)
    assert await durable.sql("SELECT count(*) FROM mailbox") == [(0,)]
    assert await durable.sql("SELECT count(*) FROM ticket") == [(0,)]


async def test_server_that_asks_for_less_gets_less_from_all_workers_and_it_comes_back(durable: Backend) -> None:
    one, two = await durable.gate(), await durable.gate()
    box = limited(per_minute=10, connections=3)
    said = verdict(Action.RETRY, "throttled-mailbox", throttle=True)
    await one.cleared(await admitted(one, box), tried=True, said=said)
    shown = await two.effective(box)
    assert (shown.per_minute, shown.connections) == (5, 1)
    await used_up(two, box, 4)
    wait = await paced(two, box)
    assert "less than its 10 since its server asked for it" in wait.verdict.explanation
    await durable.sql("UPDATE mailbox SET throttled_at = throttled_at - 600000000")
    shown = await two.effective(box)
    assert (shown.per_minute, shown.connections) == (10, 3)


async def test_limits_of_a_mailbox_that_rests_come_back_after_the_rest_and_not_during_it(durable: Backend) -> None:
    one, two = await durable.gate(), await durable.gate()
    box = limited(per_minute=10)
    penalty = verdict(Action.PAUSE, "throttled-mailbox/penalty", throttle=True, pause=timedelta(hours=2))
    await one.paused(await admitted(one, box), penalty, now())
    back = "UPDATE mailbox SET throttled_at = throttled_at - :microseconds"
    await durable.sql(back, microseconds=7_199_000_000)
    assert (await two.effective(box)).per_minute == 5
    await durable.sql(back, microseconds=121_000_000)
    assert (await two.effective(box)).per_minute == 7


@pytest.mark.parametrize("punished", [True, False])
async def test_limits_come_down_when_the_server_punishes_repetition(durable: Backend, *, punished: bool) -> None:
    gate, box = await durable.gate(), limited(per_minute=10)
    said = verdict(Action.FAIL, "recipient-permanent", punished=punished)
    await gate.cleared(await admitted(gate, box), tried=True, said=said)
    assert (await gate.effective(box)).per_minute == (5 if punished else 10)


# connections


async def test_connections_are_counted_over_all_workers(durable: Backend) -> None:
    await durable.gate()
    await durable.gate()
    one, two = (each.permits for each in durable.all)
    box = limited(connections=3)
    permits = [await one.acquire(box), await two.acquire(box), await one.acquire(box)]
    assert None not in permits
    assert await two.acquire(box) is None
    await two._look_once()
    await one._look_once()
    assert box.name in one.wanted()
    await one.release(permits[0])
    assert await two.acquire(box) is not None


async def test_next_connection_is_urgent_mails_that_has_asked(durable: Backend) -> None:
    await durable.gate()
    await durable.gate()
    one, two = (each.permits for each in durable.all)
    box = limited(connections=1)
    held = await one.acquire(box)
    assert held is not None
    assert await two.acquire(box, urgent=True) is None
    await one.release(held)
    assert await one.acquire(box) is None, "it is kept"
    urgent = await two.acquire(box, urgent=True)
    assert urgent is not None
    await two.release(urgent)
    assert await one.acquire(box) is not None, "nobody urgent waits any longer"


async def test_connection_is_not_kept_for_urgent_mail_that_has_stopped_asking(durable: Backend) -> None:
    await durable.gate()
    permits, box = durable.all[0].permits, limited(connections=1)
    held = await permits.acquire(box)
    assert held is not None
    assert await permits.acquire(box, urgent=True) is None
    await permits.release(held)
    await durable.sql("UPDATE mailbox SET awaited_at = awaited_at - 1000000")
    assert await permits.acquire(box) is not None


async def test_connections_of_a_dead_worker_end_with_it(durable: Backend) -> None:
    await durable.gate()
    await durable.gate()
    dead, heir = (each.permits for each in durable.all)
    box = limited(connections=1)
    assert await dead.acquire(box)
    assert await heir.acquire(box) is None
    await durable.sql("UPDATE worker SET seen_at = 0 WHERE instance = :me", me=dead._life.me)
    assert await heir.acquire(box)


async def test_connections_without_a_limit_are_not_counted(backend: Backend) -> None:
    await backend.gate()
    permits = backend.all[0].permits
    assert await permits.acquire(mailbox("box")) == 0
    await permits.release(0)
    assert not permits.wanted()


# a fleet


@pytest.mark.parametrize("dies", [False, True], ids=["all-live", "one-dies"])
async def test_fleet_never_sends_more_than_the_limit_in_any_window(durable: Backend, *, dies: bool) -> None:
    """Three workers with a backlog each; a minute lasts a second and a half."""
    window = timedelta(seconds=1.5)
    gates = [await durable.gate(window=window, lease=1.0) for _ in range(3)]
    box = limited(per_minute=15)
    sent: list[float] = []
    dead: set[int] = set()

    async def send(number: int, gate: Gate) -> None:
        slot = None
        while number not in dead:
            answer = await gate.admit(box, demand(f"tenant-{number}", slot=slot), now())
            if isinstance(answer, Paced):
                slot = answer.slot
                await asyncio.sleep(max(0.0, (slot - now()).total_seconds()))
                continue
            if isinstance(answer, Hold):  # a machine that was too busy to renew its lease in time asks again
                await asyncio.sleep(0.1)
                continue
            sent.append(time.monotonic())
            if dies and number == 0 and len(sent) > 20:
                dead.add(number)
                return  # as if killed: what it had begun, it never ends
            await gate.cleared(answer, tried=True, accepted=1)
            return

    backlogs = [send(number, gate) for number, gate in enumerate(gates) for _ in range(15)]
    async with asyncio.timeout(60):
        await asyncio.gather(*backlogs)
    assert len(sent) >= (31 if dies else 45)
    for begin in sent:
        assert sum(begin <= each < begin + window.total_seconds() for each in sent) <= 15


async def test_mail_that_is_too_much_for_the_day_keeps_no_other_from_leaving(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_minute=30, recipients_per_day=10)
    await gate.cleared(await admitted(gate, box, demand(recipients=8)), tried=True, accepted=8)
    assert isinstance(await paced(gate, box, demand(recipients=5)), Full)
    await admitted(gate, box, demand(recipients=1))


async def test_mail_to_the_inside_does_not_wait_behind_mail_to_the_outside(durable: Backend) -> None:
    gate = await durable.gate()
    box = mailbox("one", limits=Limits(per_minute=30), organisation=CONTOSO)
    await gate.cleared(await admitted(gate, box, demand(recipients=100, external=100)), tried=True, accepted=100)
    await paced(gate, box, demand(external=1))
    await admitted(gate, box, demand(external=0))


async def test_who_waits_for_the_day_goes_as_soon_as_the_limit_is_raised(durable: Backend) -> None:
    gate = await durable.gate()
    box = limited(per_minute=30, recipients_per_day=1)
    await gate.cleared(await admitted(gate, box, demand(recipients=1)), tried=True, accepted=1)
    waiting = await paced(gate, box)
    kept = await paced(gate, box, demand(slot=waiting.slot))
    assert abs(kept.slot - waiting.slot) < timedelta(seconds=1), "its place is kept"
    await admitted(gate, limited(per_minute=30, recipients_per_day=2), demand(slot=waiting.slot))
