"""sendMail against the emulated Graph: what is accepted, what is refused, what nobody knows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from contracts.address import parse
from contracts.notification import Priority
from tests.adapters.graph.conftest import Sender, graph_mailbox
from tests.factories import JANA, OMAR
from tests.fakes import Events
from worker.domain.delivery import Accepted, Broken, Busy, Fault, Fenced, Refused, Stage, TokenRefused
from worker.domain.mailbox import GraphEndpoint, Mailbox
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.scenario import Limits
from worker.graph.lookup import SentItems
from worker.graph.transport import GraphTransport
from worker.oauth.tokens import MsalTokens

HIDDEN = parse("hidden@fabrikam.com")


def endpoint(mailbox: Mailbox) -> GraphEndpoint:
    assert isinstance(mailbox.endpoint, GraphEndpoint)
    return mailbox.endpoint


async def test_mail_is_accepted_by_202_and_arrives_octet_for_octet(sender: Sender, emulator: Emulator) -> None:
    message = sender.mail(subject="Příliš žluťoučký kůň", html="<p>Dobrý den</p>")
    outcome = await sender.send(message)
    assert isinstance(outcome, Accepted)
    assert outcome.reply.code == 202
    assert "request-id=" in outcome.reply.text
    (path,) = emulator.accepted.directory.glob("*.eml")
    assert path.read_bytes() == message.content
    assert sender.marks == 1


async def test_hidden_recipient_gets_the_mail_and_stands_in_no_header(sender: Sender, emulator: Emulator) -> None:
    message = sender.mail(bcc=[str(HIDDEN)])
    assert isinstance(await sender.send(message, JANA, HIDDEN), Accepted)
    (path,) = emulator.accepted.directory.glob("*.eml")
    assert b"hidden" not in path.read_bytes()
    assert '"rcpt_to": ["jana@fabrikam.com", "hidden@fabrikam.com"]' in emulator.accepted.log.read_text()


async def test_mail_whose_headers_name_people_who_have_it_is_not_sent_again(sender: Sender, emulator: Emulator) -> None:
    message = sender.mail(to=[str(JANA), str(OMAR)])
    outcome = await sender.send(message, OMAR)
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.GRAPH, Fault.NAMED_ALREADY)
    assert sender.marks == 0
    assert emulator.accepted.log.read_text() == ""


async def test_open_hidden_recipient_alone_gets_a_mail_that_names_nobody(sender: Sender, emulator: Emulator) -> None:
    message = sender.mail(to=[], bcc=[str(HIDDEN), str(OMAR)])
    assert isinstance(await sender.send(message, HIDDEN), Accepted)
    assert '"rcpt_to": ["hidden@fabrikam.com"]' in emulator.accepted.log.read_text()


async def test_mail_without_the_ledgers_leave_does_not_arrive(sender: Sender, emulator: Emulator) -> None:
    sender.fenced = True
    assert isinstance(await sender.send(), Fenced)
    assert emulator.accepted.log.read_text() == ""


@pytest.mark.parametrize(
    ("rule", "code", "word", "wait"),
    [
        ("graph-throttled", 429, "ApplicationThrottled", 10),
        ("graph-throttled-no-wait", 429, "TooManyRequests", None),
        ("graph-busy", 503, "ErrorServerBusy", 10),
        ("graph-access-denied", 403, "ErrorAccessDenied", None),
        ("graph-send-as-denied", 403, "ErrorSendAsDenied", None),
        ("graph-no-mailbox", 404, "MailboxNotEnabledForRESTAPI", None),
        ("graph-invalid-recipients", 400, "ErrorInvalidRecipients", None),
        ("graph-mailbox-full", 507, "ErrorQuotaExceeded", None),
        ("graph-token-expired", 401, "InvalidAuthenticationToken", None),
    ],
)
async def test_refusal_is_definite_and_carries_the_error_code(
    sender: Sender, emulator: Emulator, rule: str, code: int, word: str, wait: int | None
) -> None:
    emulator.play(rule)
    outcome = await sender.send()
    assert isinstance(outcome, Refused)
    assert (outcome.stage, outcome.reply.code) == (Stage.GRAPH, code)
    assert outcome.reply.text.startswith(f"{word}: ")
    assert outcome.retry_after == (timedelta(seconds=wait) if wait else None)
    assert emulator.accepted.log.read_text() == ""


@pytest.mark.parametrize(
    ("rule", "fault", "arrived"),
    [
        ("graph-error", Fault.SERVER_ERROR, 0),
        ("graph-error-sent", Fault.SERVER_ERROR, 1),
        ("graph-unavailable", Fault.SERVER_ERROR, 0),
        ("graph-gateway", Fault.SERVER_ERROR, 0),
        ("graph-timeout-sent", Fault.SERVER_ERROR, 1),
        ("graph-concurrency-sent", Fault.SERVER_ERROR, 1),
        ("graph-drop", Fault.DISCONNECTED, 0),
        ("graph-lost", Fault.DISCONNECTED, 1),
    ],
)
async def test_failure_after_the_last_octet_is_in_doubt_whether_the_mail_arrived_or_not(
    sender: Sender, emulator: Emulator, rule: str, fault: Fault, arrived: int
) -> None:
    emulator.play(rule)
    outcome = await sender.send()
    assert isinstance(outcome, Broken)
    assert (outcome.stage, outcome.fault) == (Stage.DOT, fault)
    assert len(emulator.accepted.log.read_text().splitlines()) == arrived


async def test_revoked_token_is_replaced_once_and_the_ledger_is_asked_once(sender: Sender, emulator: Emulator) -> None:
    assert isinstance(await sender.send(), Accepted)
    emulator.expire_tokens()
    assert isinstance(await sender.send(), Accepted)
    assert (emulator.authority.requests, sender.marks) == (2, 2)


async def test_fresh_token_that_is_refused_is_not_replaced(sender: Sender, emulator: Emulator) -> None:
    emulator.play("graph-token-expired")
    await sender.send()
    assert emulator.authority.requests == 1


async def test_token_for_smtp_is_refused_by_graph(sender: Sender) -> None:
    credentials = replace(endpoint(sender.mailbox).credentials, scope="https://outlook.office365.com/.default")
    sender.mailbox = sender.mailbox.via(replace(endpoint(sender.mailbox), credentials=credentials))
    outcome = await sender.send()
    assert isinstance(outcome, Refused)
    assert "Invalid audience" in outcome.reply.text


async def test_wrong_client_secret_is_a_refused_token_and_nothing_is_asked_of_graph(
    sender: Sender, emulator: Emulator
) -> None:
    credentials = replace(endpoint(sender.mailbox).credentials, client_id="somebody-else")
    sender.mailbox = sender.mailbox.via(replace(endpoint(sender.mailbox), credentials=credentials))
    assert isinstance(await sender.send(), TokenRefused)
    assert sender.marks == 0


async def test_no_more_requests_at_once_than_allowed_and_the_rest_wait_their_turn(
    sender: Sender, emulator: Emulator
) -> None:
    outcomes = await asyncio.gather(*(sender.send(sender.mail(id=f"n-{n}")) for n in range(12)))
    assert all(isinstance(outcome, Accepted | Busy) for outcome in outcomes)
    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) >= 4


async def test_urgent_mails_may_join_a_long_line(sender: Sender, emulator: Emulator) -> None:
    urgent = (sender.mail(id=f"n-{n}", priority=Priority.HIGH) for n in range(13))
    outcomes = await asyncio.gather(*map(sender.send, urgent))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), "4 places and 8 in the line, for others"


async def test_fifth_request_at_once_is_turned_away_by_graph(sender: Sender, emulator: Emulator) -> None:
    emulator.backstage.governor.requests["notifications@contoso.example"] = 4
    outcome = await sender.send()
    assert isinstance(outcome, Refused)
    assert (outcome.reply.code, outcome.retry_after) == (429, timedelta(seconds=1))


async def test_sent_items_tell_whether_a_doubtful_mail_went_out(sender: Sender, emulator: Emulator) -> None:
    emulator.play("graph-lost")
    message = sender.mail(id="it's-lost")
    assert isinstance(await sender.send(message), Broken)
    sent_items = SentItems(sender.transport)
    assert await sent_items.was_sent(sender.mailbox, message.message_id) is True
    assert await sent_items.was_sent(sender.mailbox, "<another'one@contoso.example>") is False


async def test_sent_items_that_may_not_be_read_tell_nothing(sender: Sender, emulator: Emulator) -> None:
    stranger = graph_mailbox(emulator, "stranger@contoso.example")
    assert await SentItems(sender.transport).was_sent(stranger, "<1@contoso.example>") is None


async def test_probe_finds_a_mailbox_that_can_send_and_sends_nothing(sender: Sender, emulator: Emulator) -> None:
    assert await sender.transport.probe(sender.mailbox) is None
    assert emulator.accepted.log.read_text() == ""


async def test_probe_names_what_keeps_a_mailbox_from_sending(sender: Sender, emulator: Emulator) -> None:
    problem = await sender.transport.probe(graph_mailbox(emulator, "stranger@contoso.example"))
    assert isinstance(problem, Refused)
    assert problem.reply.code == 404


@pytest.mark.parametrize("rule", ["graph-access-denied", "graph-odata-disabled", "graph-no-mailbox"])
async def test_probe_meets_what_a_mail_would_meet(sender: Sender, emulator: Emulator, rule: str) -> None:
    problem = await sender.transport.probe(graph_mailbox(emulator, f"{rule}@contoso.example"))
    assert isinstance(problem, Refused)
    assert problem.reply.code in (403, 404)


async def test_requests_above_the_rate_are_turned_away_until_the_window_has_moved_on(tmp_path: Path) -> None:
    limits = Limits(graph_rate=2, graph_window=600)
    async with emulating(Plan(tmp_path / "emulator", limits=limits)) as emulator:
        tokens = MsalTokens(Events())
        graph = GraphTransport(tokens)
        sender = Sender(graph, tokens, graph_mailbox(emulator))
        sent = [await sender.send(sender.mail(id=f"n-{number}")) for number in range(3)]
        await graph.close()
        tokens.close()
    assert [type(each) for each in sent] == [Accepted, Accepted, Refused]
    assert isinstance(sent[2], Refused)
    assert (sent[2].reply.code, sent[2].retry_after) == (429, timedelta(seconds=600))
