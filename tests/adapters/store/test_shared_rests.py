"""What mailboxes share rests for all of them, in all workers, until one mail finds out that it is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from contracts.address import parse
from contracts.notification import Priority
from tests.adapters.store.conftest import Backend
from tests.factories import NOON, mailbox, verdict
from worker.domain.delivery import Stage
from worker.domain.mailbox import GraphEndpoint, Limits, Mailbox, OAuth, Secret, SmtpEndpoint, Tls
from worker.domain.sharing import whose
from worker.domain.verdict import Action, Scope, Verdict
from worker.ports import Admission, Demand, Hold
from worker.resting import Leave, SharedGate

MINUTE = timedelta(minutes=1)
SENDER = parse("noreply@contoso.com")
DEMAND = Demand("contoso", Priority.NORMAL, 1, 1, sender=SENDER)
ONE, OTHER = mailbox("one"), mailbox("other", "info@fabrikam.com")
ELSEWHERE = mailbox("elsewhere", endpoint=SmtpEndpoint("smtp.fabrikam.com", 587, Tls.STARTTLS))
DOWN = verdict(Action.PAUSE, "transient", Scope.SERVER, pause=MINUTE)
FOR_OTHERS = replace(DOWN, kind="for-others")
SERVER = whose(DOWN, ONE, SENDER, Stage.CONNECT)


async def let_through(gate: SharedGate, box: Mailbox, now: datetime = NOON) -> Admission:
    answer = await gate.admit(box, DEMAND, now)
    assert isinstance(answer, Leave)
    return answer


async def held(gate: SharedGate, box: Mailbox, now: datetime = NOON) -> Hold:
    answer = await gate.admit(box, DEMAND, now)
    assert isinstance(answer, Hold)
    return answer


async def down(backend: Backend) -> tuple[SharedGate, datetime]:
    """A gate before a server that has just been found down, and until when it rests."""
    gate = SharedGate(await backend.gate())
    leave = await let_through(gate, ONE)
    return gate, await gate.paused(leave, DOWN, NOON, shared=SERVER, others=FOR_OTHERS)


async def test_server_that_is_down_rests_for_all_its_mailboxes_and_for_no_others(backend: Backend) -> None:
    gate, until = await down(backend)
    assert (await held(gate, OTHER)).until == until == NOON + MINUTE
    await let_through(gate, ELSEWHERE)


async def test_others_are_told_what_is_meant_for_them(backend: Backend) -> None:
    gate, _ = await down(backend)
    assert (await held(gate, OTHER)).verdict.kind == "for-others"


async def test_one_mail_of_all_mailboxes_looks_whether_it_is_over(backend: Backend) -> None:
    gate, until = await down(backend)
    probe = await let_through(gate, OTHER, until)
    await held(gate, ONE, until)
    assert await gate.cleared(probe, tried=True, by=OTHER) == (SERVER,)
    for box in (ONE, OTHER, ONE):
        await let_through(gate, box, until)


async def test_second_rest_is_longer(backend: Backend) -> None:
    gate, until = await down(backend)
    probe = await let_through(gate, OTHER, until)
    assert await gate.paused(probe, DOWN, until, shared=SERVER) == until + 2 * MINUTE


async def test_probe_that_finds_its_own_mailbox_at_fault_leaves_the_next_one_to_look(backend: Backend) -> None:
    gate, until = await down(backend)
    probe = await let_through(gate, ONE, until)
    await gate.paused(probe, verdict(Action.PAUSE, "credential", pause=MINUTE), until)
    await held(gate, ONE, until)
    await let_through(gate, OTHER, until)


async def test_probe_is_given_back_when_the_mailbox_itself_may_not_send(durable: Backend) -> None:
    gate, until = await down(durable)
    alone = await durable.gate()
    straggler = await alone.admit(ONE, DEMAND, NOON)
    assert isinstance(straggler, Admission)
    await alone.paused(straggler, verdict(Action.PAUSE, "credential", pause=60 * MINUTE), NOON)
    await alone.look()
    await gate._gate.look()
    await held(gate, ONE, until)
    await let_through(gate, OTHER, until)


async def test_rest_is_seen_by_a_worker_that_starts_later(durable: Backend) -> None:
    await down(durable)
    later = SharedGate(await durable.gate())
    await held(later, OTHER)
    await let_through(later, ELSEWHERE)


async def test_bad_password_of_a_mailbox_is_nothing_to_the_others_of_its_server(backend: Backend) -> None:
    gate = SharedGate(await backend.gate())
    leave = await let_through(gate, ONE)
    await gate.paused(leave, verdict(Action.PAUSE, "credential", pause=MINUTE), NOON)
    await held(gate, ONE)
    await let_through(gate, OTHER)


async def test_place_in_the_window_is_given_back_by_a_mail_that_met_a_server_that_is_down(durable: Backend) -> None:
    gate = SharedGate(await durable.gate())
    box = replace(ONE, limits=Limits(per_minute=1))
    leave = await let_through(gate, box)
    until = await gate.paused(leave, DOWN, NOON, shared=SERVER)
    assert (await let_through(gate, box, until)).ticket is not None


async def test_way_out_that_is_open_is_used_while_the_other_ones_server_rests(backend: Backend) -> None:
    gate, until = await down(backend)
    credentials = OAuth("https://login.example/contoso", "app", Secret(None), "scope", "u")  # type: ignore[arg-type]
    graph = GraphEndpoint("https://graph.example/v1.0", "u", replace(credentials, client_id=""))
    answer = await gate.admit(replace(ONE, further=(graph,)), DEMAND, NOON)
    assert isinstance(answer, Leave)
    assert answer.closed == {"smtp"}
    answer = await gate.admit(replace(ONE, further=(graph,)), DEMAND, until)
    assert isinstance(answer, Leave)
    assert not answer.closed


@pytest.mark.parametrize("by", ["smtp", "graph"])
async def test_success_by_one_way_out_says_nothing_of_the_server_of_the_other(backend: Backend, by: str) -> None:
    gate, until = await down(backend)
    credentials = OAuth("https://login.example/contoso", "", Secret(None), "scope", "u")  # type: ignore[arg-type]
    both = replace(ONE, further=(GraphEndpoint("https://graph.example/v1.0", "u", credentials),))
    answer = await gate.admit(both, DEMAND, until)
    assert isinstance(answer, Leave)
    used = both.via(both.channels[by == "graph"])
    assert await gate.cleared(answer, tried=True, by=used) == ((SERVER,) if by == "smtp" else ())


async def test_sender_that_is_punished_rests_alone(backend: Backend) -> None:
    refused: Verdict = verdict(Action.FAIL, "auth-config/send-as", Scope.SENDER, punished=True, pause=MINUTE)
    gate = SharedGate(await backend.gate())
    leave = await let_through(gate, ONE)
    until = await gate.paused(leave, refused, NOON, shared=whose(refused, ONE, SENDER, Stage.DOT), tried=True)
    await held(gate, ONE)
    other = await gate.admit(ONE, replace(DEMAND, sender=parse("billing@contoso.com")), NOON)
    assert isinstance(other, Leave)
    probe = await let_through(gate, ONE, until)
    assert await gate.cleared(probe, tried=True, by=ONE) == (f"sender of one: {SENDER}",)
