"""What one mailbox finds out spares the others the same attempt, at the right scope, without telling them too much."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from pydantic import SecretStr

from contracts.delivery import DeliveryStatus
from tests.factories import directory, mailbox
from tests.unit.test_courier import House, only, when
from worker.domain.delivery import Accepted, Broken, Fault, Refused, Stage, Submission
from worker.domain.mailbox import Password, SmtpEndpoint, Tls
from worker.domain.reply import Reply
from worker.events import MailboxPaused, MailboxResumed
from worker.resting import SharedGate
from worker.store.memory import MemoryGate

OK = Accepted(Reply.parse("250 2.0.0 OK"))
BUSY = Refused(Stage.CONNECT, Reply.parse("421 4.3.2 Service not available [HOST-OF-CONTOSO]"))
WRONG_PASSWORD = Refused(
    Stage.AUTH, Reply.parse("535 5.7.139 Authentication unsuccessful, the user credentials were incorrect."),
    mechanism="login",
)  # fmt: skip
SEND_AS = Refused(Stage.DOT, Reply.parse("554 5.2.252 SendAsDenied; noreply@contoso.com not allowed to send as x"))


@dataclass
class Street(House):
    """Two tenants with a mailbox each at one server."""

    gate_of_all: SharedGate = field(default_factory=lambda: SharedGate(MemoryGate()))

    def __post_init__(self) -> None:
        here = SmtpEndpoint("smtp.office365.com", 587, Tls.STARTTLS, Password("u", SecretStr("p")))
        boxes = [
            mailbox(name, f"noreply@{name}.com", endpoint=here, tenants=frozenset({name}))
            for name in ("contoso", "fabrikam")
        ]
        self.known = directory(*boxes)
        super().__post_init__()
        object.__setattr__(self.courier, "gate", self.gate_of_all)


@pytest.fixture
def street() -> Street:
    return Street()


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(BUSY, id="421-at-connect"),
        pytest.param(Broken(Stage.CONNECT, Fault.TLS, "handshake of contoso"), id="tls"),
        pytest.param(Broken(Stage.CONNECT, Fault.UNREACHABLE, "10.0.0.1 of contoso"), id="unreachable"),
        pytest.param(Broken(Stage.CONNECT, Fault.CERTIFICATE, "expired, of contoso"), id="certificate"),
    ],
)
async def test_server_that_turns_one_mailbox_away_is_not_asked_by_the_other(
    street: Street, trouble: Submission
) -> None:
    street.answers(trouble, OK, OK)
    first = await street.deliver(tenant="contoso")
    second = await street.deliver(tenant="fabrikam")
    assert [only(each).status for each in (first, second)] == [DeliveryStatus.DEFERRED] * 2
    assert len(street.transport.sent) == 1
    reason = only(second).reason
    assert reason is not None
    assert "server smtp.office365.com:587" in reason.explanation
    assert "contoso" not in reason.explanation.lower()
    (paused,) = street.events.of(MailboxPaused)
    assert (paused.mailbox, paused.found_by) == ("server smtp.office365.com:587 (starttls)", "contoso")
    street.clock.now = paused.until
    assert only(await street.deliver(tenant="fabrikam", id="next")).status is DeliveryStatus.ACCEPTED
    assert street.events.of(MailboxResumed) == [MailboxResumed(paused.mailbox)]


async def test_mail_that_is_turned_away_at_the_door_spends_no_attempt(street: Street) -> None:
    street.answers(BUSY)
    decision = await street.deliver(tenant="contoso")
    assert decision.progress is not None
    assert decision.progress.attempts == 0


async def test_wrong_password_of_one_mailbox_is_nothing_to_the_other(street: Street) -> None:
    street.answers(WRONG_PASSWORD, OK)
    assert only(await street.deliver(tenant="contoso")).status is DeliveryStatus.DEFERRED
    assert only(await street.deliver(tenant="fabrikam")).status is DeliveryStatus.ACCEPTED


async def test_sender_that_the_server_punishes_is_not_tried_again_with_the_next_mail(street: Street) -> None:
    street.answers(SEND_AS, OK)
    assert only(await street.deliver(tenant="contoso")).status is DeliveryStatus.FAILED
    waiting = await street.deliver(tenant="contoso", id="another")
    assert only(waiting).status is DeliveryStatus.DEFERRED
    assert len(street.transport.sent) == 1
    assert when(waiting) - street.clock.now >= timedelta(minutes=1)
    street.clock.now = when(waiting)
    later = await street.deliver(waiting.carry, tenant="contoso", id="another")
    assert only(later).status is DeliveryStatus.ACCEPTED


async def test_mail_looks_at_a_long_rest_every_few_minutes_and_is_told_of_it_once(street: Street) -> None:
    street.answers(WRONG_PASSWORD)  # rests for an hour
    first = await street.deliver(tenant="contoso")
    assert when(first) - street.clock.now <= timedelta(minutes=6)
    assert only(first).next_attempt_at is not None
    assert only(first).next_attempt_at - street.clock.now >= timedelta(hours=1)
    street.clock.now = when(first)
    second = await street.deliver(first.carry, tenant="contoso")
    assert (second.results, len(street.transport.sent)) == ((), 1)
    assert when(second) - street.clock.now <= timedelta(minutes=6)
