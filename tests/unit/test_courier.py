"""The use case: what is done in which order, what ends early, and that nothing is sent twice."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from itertools import chain
from pathlib import PurePath
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from contracts.address import AddrSpec, parse
from contracts.cancellation import CANCELLATION_TYPE, Cancellation
from contracts.delivery import DeliveryStatus, RecipientStatus, Result
from contracts.wire import Properties, encode
from tests.factories import JANA, NOON, OMAR, directory, document, mailbox, progress, verdict
from tests.fakes import Bug, Clock, Events, FakeFiles, FakeGate, FakeLedger, FakeTemplates, FakeTransport, Journal
from worker.courier import Courier, Intake
from worker.domain.decision import Acknowledge, DeadLetter, Decision, WaitUntil
from worker.domain.delivery import Accepted, Broken, Busy, Fault, HandedOver, Key, Refused, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import (
    Directory,
    Endpoint,
    GraphEndpoint,
    Limits,
    Mailbox,
    OAuth,
    Organisation,
    PickupDirectory,
    PickupFlavour,
    Rank,
    Redirect,
    Restraint,
    Secret,
    SmtpEndpoint,
    Stop,
    TooMany,
)
from worker.domain.reply import Reply
from worker.domain.retry import RetryPolicy
from worker.domain.verdict import Action, catalogue
from worker.events import Crashed, MailboxPaused, MailboxResumed, UnknownReply
from worker.ports import Admission, Demand, FileMissing, Full, HandingOver, Hold, Paced, StoreDown

EVE = parse("eve@fabrikam.com")
KEY = Key("contoso", "reset-7f3a")
PLATFORM = mailbox("platform")
DIRECTORY = directory(PLATFORM, default="platform")
GRAPH = GraphEndpoint("https://graph.example/v1.0", "u", OAuth("a", "c", Secret(SecretStr("s")), "scope", "u"))
THROTTLED = verdict(Action.PAUSE, "throttled-mailbox", pause=timedelta(minutes=5))


@dataclass
class House:
    """A courier and everything around it."""

    known: Directory = DIRECTORY
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    journal: Journal = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    gate: FakeGate = field(default_factory=FakeGate)
    files: FakeFiles = field(default_factory=FakeFiles)
    templates: FakeTemplates = field(default_factory=FakeTemplates)
    events: Events = field(default_factory=Events)

    def __post_init__(self) -> None:
        self.ledger = FakeLedger(self.journal)
        self.transport = FakeTransport(self.journal)
        self.courier = Courier(
            directory=self.known,
            rows=catalogue(),
            ledger=self.ledger,
            register=self.ledger,
            gate=self.gate,
            transports={SmtpEndpoint: self.transport},
            files=self.files,
            templates=self.templates,
            policy=self.policy,
            clock=self.clock,
            dice=lambda: 0.5,
            observe=self.events,
            max_octets=1_000_000,
        )

    async def deliver(self, carry: str = "", properties: Properties | None = None, **fields: Any) -> Decision:
        body = json.dumps(document(**fields)).encode()
        return await self.courier.deliver(Intake(body, properties or Properties(), carry))

    @property
    def recipients(self) -> list[tuple[AddrSpec, ...]]:
        """Of each submission."""
        return [envelope.rcpt_to for _, envelope, _ in self.transport.sent]

    def answers(self, *submissions: Submission) -> None:
        """What the server will say, one attempt after the other."""
        left = iter(submissions)
        self.transport.answer = lambda _: next(left)


@pytest.fixture
def house() -> House:
    return House()


def only(decision: Decision) -> Result:
    (result,) = decision.results
    return result


def when(decision: Decision) -> Any:
    assert isinstance(decision.disposition, WaitUntil)
    return decision.disposition.when


GREYLISTED = Refused(Stage.MAIL, Reply.parse("450 4.2.0 Greylisted"))
OK = Reply.parse("250 2.0.0 OK")


# ---------------------------------------------------------------- the order of things


async def test_mail_is_claimed_before_and_marked_at_and_settled_after_the_hand_over(house: House) -> None:
    decision = await house.deliver()
    assert house.journal == ["claim", "submit", "handing over", "dot", "settle"]
    assert only(decision).status is DeliveryStatus.ACCEPTED
    assert decision.disposition == Acknowledge()


async def test_outcome_is_on_record_when_the_courier_returns(house: House) -> None:
    decision = await house.deliver()
    assert house.ledger.page.result == only(decision)
    assert not house.ledger.page.underway


async def test_mail_goes_through_the_routed_mailbox_to_everybody_once(house: House) -> None:
    await house.deliver(to=[str(JANA)], cc=[str(OMAR), str(JANA)], bcc=[str(EVE)])
    ((used, envelope, message),) = house.transport.sent
    assert used == PLATFORM
    assert envelope == Envelope(PLATFORM.address, (JANA, OMAR, EVE))
    assert str(EVE).encode() not in message.content


async def test_result_names_mailbox_mail_and_attempt(house: House) -> None:
    result = only(await house.deliver(metadata={"order": 7}))
    assert result.mailbox is not None
    assert (result.mailbox.name, result.mailbox.because) == ("platform", "default")
    assert result.message_id == house.transport.sent[0][2].message_id
    assert (result.attempt, result.metadata) == (1, {"order": 7})


# ---------------------------------------------------------------- what ends early


@pytest.mark.parametrize(
    ("intake", "kind"),
    [
        pytest.param(Intake(b"{", Properties()), "malformed", id="unreadable"),
        pytest.param(Intake(b"{" * 1_000_001, Properties()), "malformed", id="too-large"),
        pytest.param(
            Intake(json.dumps(document()).encode(), Properties(), reserved=("x-postlane-carry",)),
            "not-allowed",
            id="forged-headers",
        ),
        pytest.param(
            Intake(json.dumps(document()).encode(), Properties(routing_key="t.fabrikam")),
            "not-allowed",
            id="not-allowed",
        ),
    ],
)
async def test_message_that_is_nobodys_business_never_reaches_the_ledger(
    house: House, intake: Intake, kind: str
) -> None:
    decision = await house.courier.deliver(intake)
    result = only(decision)
    assert (result.status, result.final) == (DeliveryStatus.REJECTED, True)
    assert result.reason is not None
    assert result.reason.kind == kind
    assert isinstance(decision.disposition, DeadLetter)
    assert house.journal == []


@pytest.mark.parametrize(
    ("known", "fields", "kind"),
    [
        pytest.param(directory(), {}, "no-mailbox", id="no-mailbox"),
        pytest.param(directory(PLATFORM, default="platform", tenants={}), {}, "unknown-tenant", id="unknown-tenant"),
        pytest.param(DIRECTORY, {"mailbox": "another"}, "unknown-mailbox", id="unknown-mailbox"),
        pytest.param(DIRECTORY, {"sender": "boss@contoso.com"}, "sender-not-allowed", id="sender-not-allowed"),
    ],
)
async def test_notification_that_cannot_be_routed_is_rejected_and_given_back(
    known: Directory, fields: dict[str, str], kind: str
) -> None:
    house = House(known)
    if "sender" in fields:
        fields = {"from": fields["sender"]}
    decision = await house.deliver(**fields)
    reason = only(decision).reason
    assert reason is not None
    assert reason.kind == kind
    assert isinstance(decision.disposition, DeadLetter)
    assert house.journal == ["claim", "settle"]


async def test_expired_notification_is_told_and_not_sent(house: House) -> None:
    decision = await house.deliver(expires_at=NOON.isoformat())
    assert only(decision).status is DeliveryStatus.EXPIRED
    assert decision.disposition == Acknowledge()
    assert house.journal == ["claim", "settle"]


async def test_notification_for_later_waits_in_silence(house: House) -> None:
    later = NOON + timedelta(days=2)
    decision = await house.deliver(not_before=later.isoformat())
    assert decision.results == ()
    assert when(decision) == later
    assert house.journal == ["claim", "settle"]
    house.clock.now = later
    assert only(await house.deliver(decision.carry, not_before=later.isoformat())).status is DeliveryStatus.ACCEPTED


async def test_notification_for_later_has_all_its_attempts_when_its_time_has_come(house: House) -> None:
    later = NOON + timedelta(days=2)
    waiting = await house.deliver(not_before=later.isoformat())
    house.clock.now = later
    house.answers(GREYLISTED)
    result = only(await house.deliver(waiting.carry, not_before=later.isoformat()))
    assert result.status is DeliveryStatus.DEFERRED


async def test_finished_notification_is_answered_from_the_record_and_not_sent_again(house: House) -> None:
    first = await house.deliver()
    house.clock.forward(timedelta(days=1))
    again = await house.deliver()
    assert again.results == first.results
    assert again.disposition == Acknowledge()
    assert len(house.transport.sent) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2, "a": 1}}, id="metadata-in-another-order"),
        pytest.param(
            {"headers": {"X-A": "1", "X-B": "2"}}, {"headers": {"X-B": "2", "X-A": "1"}}, id="headers-in-another-order"
        ),
        pytest.param({"to": ["a@x.de"]}, {"to": [{"address": "a@x.de"}]}, id="address-as-an-object"),
        pytest.param({"priority": "normal"}, {}, id="default-written-out"),
        pytest.param(
            {"expires_at": "2026-07-01T12:00:00Z"}, {"expires_at": "2026-07-01T12:00:00.000+00:00"}, id="same-moment"
        ),
    ],
)
async def test_same_content_laid_out_differently_is_the_same_notification(
    house: House, one: dict[str, Any], other: dict[str, Any]
) -> None:
    # JSON objects have no order (RFC 8259 section 1), and many languages' maps have none either.
    first = await house.deliver(**one)
    assert (await house.deliver(**other)).results == first.results


async def test_tenant_in_another_case_is_the_same_tenant_and_gets_one_mail(house: House) -> None:
    # Routing and permissions take Contoso and contoso for one tenant; an id is unique per tenant.
    await house.deliver(tenant="contoso")
    await house.deliver(tenant="Contoso")
    assert len(house.transport.sent) == 1


async def test_id_used_again_for_other_content_is_rejected_and_the_first_one_stands(house: House) -> None:
    first = await house.deliver()
    second = await house.deliver(subject="Something else")
    result = only(second)
    assert result.status is DeliveryStatus.REJECTED
    assert result.reason is not None
    assert result.reason.kind == "duplicate-id"
    assert isinstance(second.disposition, DeadLetter)
    assert len(house.transport.sent) == 1
    assert house.ledger.page.result == only(first)


async def test_id_used_again_while_the_first_is_under_way_does_not_disturb_it(house: House) -> None:
    await house.deliver()
    house.ledger.page.underway, house.ledger.page.result = True, None
    assert only(await house.deliver(subject="Something else")).status is DeliveryStatus.REJECTED
    assert house.ledger.page.underway


async def test_notification_under_way_elsewhere_is_looked_at_again_soon_and_left_alone(house: House) -> None:
    await house.deliver()
    house.ledger.page.underway, house.ledger.page.result = True, None
    house.journal.clear()
    decision = await house.deliver()
    assert decision.results == ()
    assert timedelta() < when(decision) - NOON <= timedelta(seconds=10)
    assert house.journal == ["claim"]


async def test_progress_goes_along_with_a_message_that_is_under_way_elsewhere(house: House) -> None:
    house.answers(GREYLISTED)
    waiting = await house.deliver()
    house.ledger.page.underway = True
    assert (await house.deliver(waiting.carry)).carry == waiting.carry


async def test_copy_that_comes_by_before_its_time_waits_on_and_is_not_tried(house: House) -> None:
    house.answers(GREYLISTED)
    waiting = await house.deliver()
    assert when(await house.deliver(waiting.carry)) == when(waiting)
    assert len(house.transport.sent) == 1


async def test_result_that_was_recorded_but_never_told_is_told_by_the_next_worker(house: House) -> None:
    first = await house.deliver()
    house.ledger.page.told = False
    second = await house.deliver()
    assert (second.results, second.key) == (first.results, KEY)


async def test_failure_that_was_recorded_but_not_set_aside_is_set_aside_by_the_next_worker(house: House) -> None:
    house.answers(Refused(Stage.MAIL, Reply.parse("550 5.1.8 Bad sender")))
    first = await house.deliver()
    house.ledger.page.told = False
    second = await house.deliver()
    assert (second.disposition, second.carry) == (first.disposition, first.carry)


async def test_failure_that_was_told_is_not_set_aside_a_second_time(house: House) -> None:
    house.answers(Refused(Stage.MAIL, Reply.parse("550 5.1.8 Bad sender")))
    first = await house.deliver()
    assert await house.deliver() == Decision(first.results, Acknowledge())


async def test_leftover_copy_of_a_finished_notification_is_dropped_without_a_word(house: House) -> None:
    house.answers(GREYLISTED, Accepted(OK))
    waiting = await house.deliver()
    house.clock.now = when(waiting)
    await house.deliver(waiting.carry)
    assert await house.deliver(waiting.carry) == Decision((), Acknowledge())


# ---------------------------------------------------------------- doubts after a crash


async def test_crash_after_the_mark_is_a_doubt_that_a_person_ends(house: House) -> None:
    await crashed(house)
    decision = await house.deliver()
    result = only(decision)
    assert (result.status, result.reason and result.reason.kind) == (DeliveryStatus.IN_DOUBT, "worker-crash")
    assert isinstance(decision.disposition, DeadLetter)
    assert house.transport.sent == []


async def test_doubt_after_a_crash_says_in_which_mailbox_to_look_for_which_message_id(house: House) -> None:
    await crashed(house)
    result = only(await house.deliver())
    assert result.mailbox is not None
    assert result.mailbox.name == "platform"
    house.ledger.pages.clear()
    assert result.message_id == only(await house.deliver()).message_id


async def test_crash_after_the_mark_is_sent_again_if_a_second_copy_does_no_harm(house: House) -> None:
    await crashed(house, on_doubt="resend")
    result = only(await house.deliver(on_doubt="resend"))
    assert result.status is DeliveryStatus.ACCEPTED


async def test_second_copy_that_is_refused_leaves_the_first_in_doubt(house: House) -> None:
    await crashed(house, on_doubt="resend")
    house.answers(Refused(Stage.DOT, Reply.parse("550 5.7.1 Spam")))
    result = only(await house.deliver(on_doubt="resend"))
    assert result.status is DeliveryStatus.IN_DOUBT


async def test_worker_that_was_taken_for_dead_ends_the_doubt_with_what_it_knows(house: House) -> None:
    def taken_for_dead(_: Envelope) -> Submission:
        house.ledger.stolen = True
        return Accepted(OK)

    house.transport.answer = taken_for_dead
    decision = await house.deliver()
    assert decision.results == ()
    ((key, result, actor),) = house.ledger.resolutions
    assert (key, result.status, actor) == (KEY, DeliveryStatus.RESOLVED, "worker")
    assert [each.status for each in result.recipients] == ["accepted"]


async def crashed(house: House, **fields: Any) -> None:
    """A worker has died over the notification after the mark."""
    house.transport.bug_after = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await house.deliver(**fields)
    house.transport.bug_after = None
    house.ledger.page.doubtful = True
    house.transport.sent.clear()


# ---------------------------------------------------------------- cancellation


async def test_notification_that_was_never_seen_is_cancelled_before_it_comes(house: House) -> None:
    cancelled = only(await cancel(house))
    assert (cancelled.status, cancelled.final) == (DeliveryStatus.CANCELLED, True)
    assert (await house.deliver()).results == (cancelled,)
    assert house.transport.sent == []


async def test_notification_that_waits_is_cancelled_and_its_copy_sends_nothing(house: House) -> None:
    house.answers(GREYLISTED)
    waiting = await house.deliver(metadata={"ticket": 42})
    cancelled = only(await cancel(house))
    assert (cancelled.status, cancelled.metadata) == (DeliveryStatus.CANCELLED, {"ticket": 42})
    assert [each.status for each in cancelled.recipients] == ["cancelled"]
    house.clock.now = when(waiting)
    assert (await house.deliver(waiting.carry, metadata={"ticket": 42})).disposition == Acknowledge()
    assert len(house.transport.sent) == 1


async def test_cancellation_after_somebody_has_the_mail_says_who(house: House) -> None:
    await partly_accepted(house)
    cancelled = only(await cancel(house))
    assert cancelled.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert [each.status for each in cancelled.recipients] == ["accepted", "cancelled"]


async def test_cancellation_of_what_is_finished_is_answered_with_the_result(house: House) -> None:
    accepted = await house.deliver()
    assert await cancel(house) == Decision(accepted.results, Acknowledge())


async def test_cancellation_of_what_is_under_way_keeps_it_from_being_handed_over(house: House) -> None:
    answers = []

    async def meanwhile(*_: object) -> None:
        answers.append(await cancel(house))

    house.files = FakeFiles(meanwhile=meanwhile)
    house.courier = replace(house.courier, files=house.files)
    decision = await house.deliver()
    assert "dot" not in house.journal
    assert isinstance(answers[0].disposition, WaitUntil)
    assert isinstance(decision.disposition, WaitUntil)
    house.ledger.page.unwanted = False
    assert only(await cancel(house)).status is DeliveryStatus.CANCELLED


async def test_cancellation_by_a_producer_of_another_tenant_is_refused(house: House) -> None:
    decision = await cancel(house, Properties(routing_key="t.fabrikam"))
    assert only(decision).status is DeliveryStatus.REJECTED
    assert only(decision).notification_id is None
    assert only(await house.deliver()).status is DeliveryStatus.ACCEPTED


async def cancel(house: House, properties: Properties | None = None) -> Decision:
    wish = Cancellation(type=CANCELLATION_TYPE, id=KEY.notification_id, tenant="Contoso")
    return await house.courier.deliver(Intake(encode(wish), properties or Properties()))


# ---------------------------------------------------------------- limits of a mailbox


async def test_mailbox_at_its_limit_gives_the_notification_a_place_that_it_keeps(house: House) -> None:
    slot = NOON + timedelta(seconds=12)
    house.gate.holds["platform"] = Paced(slot, THROTTLED)
    waiting = await house.deliver()
    assert (waiting.results, when(waiting)) == ((), slot)
    house.clock.now = slot
    assert only(await house.deliver(waiting.carry)).status is DeliveryStatus.ACCEPTED
    assert [demand.slot for demand in house.gate.demands] == [None, slot]


async def test_wait_that_a_person_would_notice_is_told_once(house: House) -> None:
    house.gate.holds["platform"] = Paced(NOON + timedelta(minutes=5), THROTTLED)
    first = await house.deliver()
    assert only(first).status is DeliveryStatus.DEFERRED
    house.clock.now = when(first)
    house.gate.holds["platform"] = Paced(NOON + timedelta(minutes=9), THROTTLED)
    assert (await house.deliver(first.carry)).results == ()


@pytest.mark.parametrize(
    ("organisation", "outside"),
    [
        pytest.param(None, 1, id="outside its own domain"),
        pytest.param(Organisation("contoso", frozenset({"contoso.com"}), 10_000), 1, id="outside its organisation"),
        pytest.param(Organisation("both", frozenset({"contoso.com", JANA.domain}), 10_000), 0, id="both are inside"),
    ],
)
async def test_gate_is_told_how_many_recipients_and_how_many_outside(
    organisation: Organisation | None, outside: int
) -> None:
    house = House(directory(mailbox("platform", organisation=organisation), default="platform"))
    await house.deliver(to=[str(JANA), "in@contoso.com"], priority="high")
    (demand,) = house.gate.demands
    assert (demand.tenant, demand.priority, demand.recipients, demand.external) == ("contoso", "high", 2, outside)
    assert house.gate.accepted == [2]


class OutsideShut(FakeGate):
    """The mailbox is as it should be, but its organisation has sent to as many outsiders as it may."""

    open = False

    async def admit(self, mailbox: Mailbox, demand: Demand, now: datetime) -> Admission | Hold | Paced:
        if demand.external and not self.open:
            self.demands.append(demand)
            return Full(NOON + timedelta(hours=3), THROTTLED)
        return await super().admit(mailbox, demand, now)


INSIDER = "in@contoso.com"


async def test_recipients_inside_have_their_mail_while_the_way_to_the_outside_is_closed() -> None:
    box = mailbox("platform", organisation=Organisation("contoso", frozenset({"contoso.com"}), 10_000))
    gate = OutsideShut()
    house = House(directory(box, default="platform"), gate=gate)
    first = await house.deliver(to=[str(JANA), INSIDER])
    assert house.recipients == [(parse(INSIDER),)]
    assert {each.address: each.status for each in only(first).recipients} == {
        str(JANA): "deferred",
        INSIDER: "accepted",
    }
    house.clock.now = when(first)
    second = await house.deliver(first.carry, to=[str(JANA), INSIDER])
    assert house.recipients == [(parse(INSIDER),)]
    gate.open = True
    house.clock.now = when(second)
    last = await house.deliver(second.carry, to=[str(JANA), INSIDER])
    assert only(last).status is DeliveryStatus.ACCEPTED
    assert house.recipients == [(parse(INSIDER),), (JANA,)]


async def test_mail_that_must_not_be_split_waits_whole_while_the_way_to_the_outside_is_closed() -> None:
    organisation = Organisation("contoso", frozenset({"contoso.com"}), 10_000)
    box = mailbox("platform", organisation=organisation, too_many=TooMany.REFUSE)
    house = House(directory(box, default="platform"), gate=OutsideShut())
    assert only(await house.deliver(to=[str(JANA), INSIDER])).status is DeliveryStatus.DEFERRED
    assert house.recipients == []


# ---------------------------------------------------------------- attempts


async def test_deferred_notification_waits_and_carries_its_progress(house: House) -> None:
    house.answers(Accepted(OK, {OMAR: Reply.parse("450 4.2.0 Greylisted")}))
    decision = await house.deliver(to=[str(JANA), str(OMAR)])
    result = only(decision)
    assert result.status is DeliveryStatus.DEFERRED
    assert result.next_attempt_at == when(decision)
    assert [each.status for each in result.recipients] == ["accepted", "deferred"]
    assert house.ledger.page.result is None
    assert house.ledger.page.progress.settled.keys() == {JANA}
    assert decision.carry


async def test_second_attempt_is_for_the_open_recipients_only(house: House) -> None:
    house.answers(Accepted(OK, {OMAR: Reply.parse("450 4.2.0 Greylisted")}), Accepted(OK))
    fields = {"to": [str(JANA), str(OMAR)]}
    waiting = await house.deliver(**fields)
    house.clock.now = when(waiting)
    result = only(await house.deliver(waiting.carry, **fields))
    assert house.recipients == [(JANA, OMAR), (OMAR,)]
    assert result.status is DeliveryStatus.ACCEPTED
    assert [each.address for each in result.recipients] == [str(JANA), str(OMAR)]


async def test_progress_of_the_message_counts_where_the_ledger_knows_nothing() -> None:
    one, other = House(), House()
    one.answers(Accepted(OK, {OMAR: Reply.parse("450 4.2.0 Greylisted")}))
    fields = {"to": [str(JANA), str(OMAR)]}
    waiting = await one.deliver(**fields)
    other.clock.now = when(waiting)
    await other.deliver(waiting.carry, **fields)
    assert other.recipients == [(OMAR,)]


async def test_every_attempt_sends_the_same_octets(house: House) -> None:
    house.answers(GREYLISTED, Accepted(OK))
    waiting = await house.deliver()
    house.clock.now = when(waiting)
    await house.deliver(waiting.carry)
    first, second = (message for _, _, message in house.transport.sent)
    assert first == second


@pytest.mark.parametrize(
    ("stamp", "dated"),
    [
        pytest.param(None, NOON, id="none"),
        pytest.param(NOON - timedelta(hours=3), NOON - timedelta(hours=3), id="waited-in-the-queue"),
        pytest.param(NOON + timedelta(minutes=4), NOON + timedelta(minutes=4), id="clocks-differ-a-little"),
        pytest.param(NOON + timedelta(minutes=6), NOON, id="from-the-future"),
        pytest.param(NOON - timedelta(days=31), NOON, id="from-long-ago"),
    ],
)
async def test_mail_is_dated_by_the_producer_if_that_is_believable(house: House, stamp: Any, dated: Any) -> None:
    await house.deliver(properties=Properties(timestamp=stamp))
    mail = message_from_bytes(house.transport.sent[0][2].content)
    assert parsedate_to_datetime(mail["Date"]) == dated


async def test_large_mail_is_composed_like_a_small_one(house: House) -> None:
    await house.deliver(text="x" * 300_000)
    (used, _, message) = house.transport.sent[0]
    assert used == PLATFORM
    assert len(message.content) > 300_000


async def test_pickup_directory_is_another_transport_with_another_word(house: House) -> None:
    house.answers(HandedOver("/pickup/1.eml"))
    decision = await house.deliver()
    assert only(decision).status is DeliveryStatus.HANDED_OVER
    assert decision.disposition == Acknowledge()


async def test_message_taken_over_by_another_worker_is_not_sent_and_not_reported(house: House) -> None:
    house.ledger.stolen = True
    decision = await house.deliver()
    assert "dot" not in house.journal
    assert decision.results == ()
    assert NOON < when(decision) <= NOON + timedelta(seconds=10)
    assert house.gate.out == []


async def test_mailbox_without_a_free_connection_costs_a_moment_and_no_attempt(house: House) -> None:
    house.transport.never_asks = True
    house.answers(Busy())
    decision = await house.deliver()
    assert decision.results == ()
    assert NOON < when(decision) <= NOON + timedelta(seconds=10)
    assert house.ledger.page.progress.attempts == 0
    assert house.gate.tried == [False]


async def test_unknown_reply_is_counted(house: House) -> None:
    house.answers(Refused(Stage.MAIL, Reply.parse("554 5.9.9 Never heard of")))
    await house.deliver()
    assert house.events.of(UnknownReply) == [UnknownReply("platform", "mail", "554 5.9.9 Never heard of")]


async def test_unknown_reply_about_one_recipient_is_counted_too(house: House) -> None:
    # "unknown → safe default, counted": it is the replies that nobody has counted that the catalogue lacks.
    house.answers(Accepted(OK, {OMAR: Reply.parse("554 5.9.9 Never heard of")}))
    await house.deliver(to=[str(JANA), str(OMAR)])
    assert [type(event) for event in house.events.of(UnknownReply)] == [UnknownReply]


# ---------------------------------------------------------------- pauses


async def test_fault_of_the_mailbox_pauses_it_and_spends_no_attempt(house: House) -> None:
    house.answers(Refused(Stage.MAIL, Reply.parse("421 4.4.2 Message submission rate exceeded")))
    decision = await house.deliver()
    assert only(decision).status is DeliveryStatus.DEFERRED
    assert house.ledger.page.progress.attempts == 0
    assert when(decision) >= house.gate.holds["platform"].until
    (paused,) = house.events.of(MailboxPaused)
    assert paused == MailboxPaused(
        "platform", "throttled-mailbox/rate", paused.explanation, paused.remedy, house.gate.holds["platform"].until
    )


async def test_paused_mailbox_is_told_once_and_nothing_is_submitted(house: House) -> None:
    house.gate.holds["platform"] = Hold(NOON + timedelta(hours=1), THROTTLED)
    first = await house.deliver()
    assert only(first).status is DeliveryStatus.DEFERRED
    house.clock.forward(timedelta(minutes=30))
    second = await house.deliver(first.carry)
    assert second.results == ()
    assert house.transport.sent == []
    assert house.ledger.page.progress.attempts == 0


async def test_mail_of_a_mailbox_that_is_mended_goes_within_minutes_whatever_its_rest(house: House) -> None:
    house.gate.holds["platform"] = Hold(NOON + timedelta(hours=1), THROTTLED)
    first = await house.deliver()
    house.clock.now = when(first)
    del house.gate.holds["platform"]
    assert house.clock.now - NOON <= timedelta(minutes=6)
    assert only(await house.deliver(first.carry)).status is DeliveryStatus.ACCEPTED


async def test_paused_mailbox_is_told_again_when_the_reason_changes(house: House) -> None:
    house.gate.holds["platform"] = Hold(NOON + timedelta(hours=1), THROTTLED)
    first = await house.deliver()
    house.clock.now = when(first)
    house.gate.holds["platform"] = Hold(NOON + timedelta(hours=2), verdict(Action.PAUSE, "auth-config"))
    second = only(await house.deliver(first.carry))
    assert second.reason is not None
    assert second.reason.kind == "auth-config"


async def test_pause_beyond_the_expiry_keeps_the_notification_until_then(house: House) -> None:
    """Somebody may mend the mailbox before."""
    house.gate.holds["platform"] = Hold(NOON + timedelta(hours=1), THROTTLED)
    expires_at = NOON + timedelta(minutes=10)
    decision = await house.deliver(expires_at=expires_at.isoformat())
    assert only(decision).status is DeliveryStatus.DEFERRED
    looks = []
    while not decision.final:
        looks.append(when(decision))
        house.clock.now = when(decision)
        decision = await house.deliver(decision.carry, expires_at=expires_at.isoformat())
    assert [look - NOON for look in looks[-1:]] == [timedelta(minutes=9, seconds=59)]
    assert only(decision).status is DeliveryStatus.EXPIRED
    assert house.transport.sent == []


async def test_mailbox_that_is_mended_before_the_expiry_sends_what_waits_for_it(house: House) -> None:
    house.gate.holds["platform"] = Hold(NOON + timedelta(hours=1), THROTTLED)
    expires_at = (NOON + timedelta(minutes=10)).isoformat()
    waiting = await house.deliver(expires_at=expires_at)
    house.clock.now = when(waiting)
    del house.gate.holds["platform"]
    assert only(await house.deliver(waiting.carry, expires_at=expires_at)).status is DeliveryStatus.ACCEPTED


async def test_wait_for_a_limit_of_the_day_is_not_ended_by_the_retry_horizon(house: House) -> None:
    """Nothing was tried; and from then on it has all its attempts before it."""
    house.gate.holds["platform"] = Full(NOON + timedelta(hours=24, minutes=5), THROTTLED)
    waiting = await house.deliver()
    assert only(waiting).status is DeliveryStatus.DEFERRED
    while house.clock.now < NOON + timedelta(hours=24, minutes=5):
        house.clock.now = when(waiting)
        waiting = await house.deliver(waiting.carry)
        if house.transport.sent:
            break
        assert waiting.results == ()
    assert only(waiting).status is DeliveryStatus.ACCEPTED


async def test_raised_limit_is_noticed_within_twenty_minutes(house: House) -> None:
    house.gate.holds["platform"] = Full(NOON + timedelta(hours=24), THROTTLED)
    waiting = await house.deliver()
    assert when(waiting) <= NOON + timedelta(minutes=20)
    house.clock.now = when(waiting)
    del house.gate.holds["platform"]
    assert only(await house.deliver(waiting.carry)).status is DeliveryStatus.ACCEPTED


async def test_mail_that_waited_for_a_limit_is_tried_as_often_as_any_other(house: House) -> None:
    house.gate.holds["platform"] = Paced(NOON + timedelta(hours=30), THROTTLED)
    waiting = await house.deliver()
    house.clock.now = when(waiting)
    house.transport.answer = lambda _: Refused(Stage.DATA, Reply.parse("451 4.3.0 try later"))
    assert only(await house.deliver(waiting.carry)).status is DeliveryStatus.DEFERRED


async def test_mailbox_that_works_again_is_announced(house: House) -> None:
    house.gate.holds["platform"] = Hold(NOON - timedelta(seconds=1), THROTTLED)
    await house.deliver()
    assert house.events.of(MailboxResumed) == [MailboxResumed("platform")]


# ---------------------------------------------------------------- what must not happen, and what then


async def test_missing_file_rejects_the_notification_and_gives_the_mailbox_back(house: House) -> None:
    house.files.bug = FileMissing("invoice.pdf is not there")
    decision = await house.deliver()
    reason = only(decision).reason
    assert reason is not None
    assert (reason.kind, reason.explanation) == ("attachment", "invoice.pdf is not there")
    assert isinstance(decision.disposition, DeadLetter)
    assert (house.gate.out, house.gate.tried) == ([], [False])
    assert house.transport.sent == []


async def test_bug_in_a_transport_before_the_mark_fails_the_notification(house: House) -> None:
    house.transport.bug_before = Bug()
    decision = await house.deliver()
    result = only(decision)
    assert result.status is DeliveryStatus.FAILED
    assert result.reason is not None
    assert result.reason.kind == "internal-error"
    assert isinstance(decision.disposition, DeadLetter)
    assert house.events.of(Crashed) == [Crashed("submit", "reset-7f3a", house.transport.bug_before)]
    assert house.journal[-1] == "settle"


async def test_bug_in_a_transport_after_the_mark_leaves_doubt(house: House) -> None:
    house.transport.bug_after = Bug()
    decision = await house.deliver()
    assert only(decision).status is DeliveryStatus.IN_DOUBT
    assert isinstance(decision.disposition, DeadLetter)
    assert house.ledger.page.result == only(decision)


async def test_doubt_is_sent_again_if_the_producer_says_so(house: House) -> None:
    house.transport.bug_after = Bug()
    decision = await house.deliver(on_doubt="resend")
    assert only(decision).status is DeliveryStatus.DEFERRED
    assert isinstance(decision.disposition, WaitUntil)


async def test_notification_in_doubt_is_not_sent_again_when_it_is_asked_for_again(house: House) -> None:
    house.answers(Broken(Stage.DOT, Fault.TIMEOUT, "no answer"))
    first = await house.deliver()
    again = await house.deliver()
    assert again.results == first.results
    assert only(again).status is DeliveryStatus.IN_DOUBT
    assert len(house.transport.sent) == 1


def loaded_dice() -> NoReturn:
    """A bug in the middle of a decision."""
    raise Bug


async def test_bug_in_a_decision_sets_the_message_aside_and_gives_it_back(house: House) -> None:
    house.courier = replace(house.courier, dice=loaded_dice)
    decision = await house.deliver()
    result = only(decision)
    assert result.status is DeliveryStatus.REJECTED
    assert result.reason is not None
    assert result.reason.kind == "internal-error"
    assert isinstance(decision.disposition, DeadLetter)
    assert len(list(house.events.of(Crashed))) == 1
    assert house.journal == ["claim", "settle"]


async def test_bug_before_the_submission_gives_the_mailbox_back(house: House) -> None:
    # A gate lets one attempt through after a pause. One that never comes back would keep the mailbox shut.
    house.files.bug = Bug()
    decision = await house.deliver()
    assert isinstance(decision.disposition, DeadLetter)
    assert (house.gate.out, house.gate.tried) == ([], [False])


async def test_bug_after_the_server_has_accepted_does_not_say_that_nothing_was_sent(house: House) -> None:
    # Whoever reads "failed before anything was sent" replays the dead letter, and everybody gets the mail twice.
    house.gate.bug = Bug()
    result = only(await house.deliver())
    assert "dot" in house.journal
    assert result.status not in (DeliveryStatus.REJECTED, DeliveryStatus.FAILED)
    assert result.reason is None or "before anything was sent" not in result.reason.explanation


async def test_long_outage_does_not_make_the_courier_forget_who_has_the_mail() -> None:
    house = House(policy=RetryPolicy(horizon=timedelta(days=30)))
    house.answers(GREYLISTED, Accepted(OK, {OMAR: Reply.parse("450 4.2.0 Greylisted")}))
    house.clock.now = when(await house.deliver(to=[str(JANA), str(OMAR)]))
    house.ledger.page.progress = progress(attempts=60)  # two days and a half of hourly attempts
    decision = await house.deliver(to=[str(JANA), str(OMAR)])
    assert only(decision).status is DeliveryStatus.DEFERRED
    assert house.ledger.page.progress.settled.keys() == {JANA}


async def test_stop_in_the_middle_decides_nothing(house: House) -> None:
    # What did not finish is not acknowledged; the ledger's mark says how far it had come.
    house.transport.bug_after = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await house.deliver()
    assert house.journal == ["claim", "submit", "handing over", "dot"]
    assert house.ledger.page.underway


@pytest.mark.parametrize("carry", ["{", "[]", '{"first":"x"}'])
async def test_damaged_progress_is_set_aside_for_a_person_and_does_not_loop(house: House, carry: str) -> None:
    # Raised out of `deliver` it would be redelivered, and raise again, for ever.
    decision = await house.deliver(carry)
    assert isinstance(decision.disposition, DeadLetter)
    assert house.transport.sent == []


class Unreachable(Exception):  # noqa: N818 - what happened
    """No database."""


async def test_ledger_out_of_reach_at_the_claim_is_no_decision_at_all(house: House) -> None:
    # Not acknowledged, the message comes again when there is a ledger.
    async def claim(*_: object) -> None:
        raise Unreachable

    courier = replace(house.courier, ledger=_LedgerWith(house.ledger, claim=claim))
    with pytest.raises(Unreachable):
        await courier.deliver(Intake(json.dumps(document()).encode(), Properties()))
    assert house.transport.sent == []


async def test_ledger_out_of_reach_at_the_dot_neither_sends_nor_fails_the_mail_for_good(house: House) -> None:
    async def handing_over(*_: object) -> bool:
        raise Unreachable

    courier = replace(house.courier, ledger=_LedgerWith(house.ledger, handing_over=handing_over))
    with contextlib.suppress(Unreachable):
        await courier.deliver(Intake(json.dumps(document()).encode(), Properties()))
    assert "dot" not in house.journal
    assert house.ledger.page.result is None


async def test_store_that_is_down_at_the_dot_is_no_bug_of_ours(house: House) -> None:
    async def handing_over(*_: object) -> bool:
        raise StoreDown("the disk is full")

    courier = replace(house.courier, ledger=_LedgerWith(house.ledger, handing_over=handing_over))
    with contextlib.suppress(StoreDown):
        await courier.deliver(Intake(json.dumps(document()).encode(), Properties()))
    assert "dot" not in house.journal
    assert house.events.of(Crashed) == []


class _LedgerWith:
    """A ledger of which some methods are out of reach."""

    def __init__(self, ledger: FakeLedger, **methods: Any) -> None:
        self.claim = methods.get("claim", ledger.claim)
        self.handing_over = methods.get("handing_over", ledger.handing_over)
        self.settle = ledger.settle


PARTLY = {"to": [str(JANA), str(OMAR)], "expires_at": (NOON + timedelta(hours=2)).isoformat()}


async def partly_accepted(house: House) -> Decision:
    """Jana has the mail, Omar waits for another attempt."""
    house.answers(Accepted(OK, {OMAR: Reply.parse("450 4.2.0 Greylisted")}))
    return await house.deliver(**PARTLY)


async def test_expiry_after_somebody_has_the_mail_does_not_say_that_it_was_not_sent(house: House) -> None:
    waiting = await partly_accepted(house)
    house.clock.forward(timedelta(hours=3))
    result = only(await house.deliver(waiting.carry, **PARTLY))
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert {each.address: each.status for each in result.recipients} == {str(JANA): "accepted", str(OMAR): "failed"}


async def test_refusal_after_somebody_has_the_mail_does_not_say_that_it_was_rejected(house: House) -> None:
    # Between two attempts an administrator takes the mailbox away.
    waiting = await partly_accepted(house)
    house.clock.now = when(waiting)
    courier = replace(house.courier, directory=directory())
    result = only(await courier.deliver(Intake(json.dumps(document(**PARTLY)).encode(), Properties(), waiting.carry)))
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED


# ---------------------------------------------------------------- several servers

FIRST = mailbox("first", "first@contoso.com", tenants=frozenset({"contoso"}), rank=Rank.HIGH)
SECOND = mailbox("second", "second@contoso.com", tenants=frozenset({"contoso"}))
POOL = directory(FIRST, SECOND)
UNREACHABLE = Broken(Stage.CONNECT, Fault.UNREACHABLE, "refused")
LOST = Broken(Stage.DOT, Fault.TIMEOUT, "no answer within 600 s")


def used(house: House) -> list[str]:
    return [box.name for box, _, _ in house.transport.sent]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(UNREACHABLE, id="no-connection"),
        pytest.param(Broken(Stage.CONNECT, Fault.CERTIFICATE, "expired"), id="certificate"),
        pytest.param(Refused(Stage.AUTH, Reply.parse("535 5.7.139 disabled"), mechanism="login"), id="login"),
        pytest.param(Refused(Stage.MAIL, Reply.parse("432 4.3.2 Concurrent connections limit exceeded")), id="limit"),
        pytest.param(Busy(), id="all-connections-in-use"),
    ],
)
async def test_mail_that_a_server_cannot_take_goes_to_the_next_one_at_once(failure: Submission) -> None:
    house = House(POOL)
    house.transport.never_asks = True
    house.answers(failure, Accepted(OK))
    result = only(await house.deliver())
    assert result.status is DeliveryStatus.ACCEPTED
    assert used(house) == ["first", "second"]
    assert result.mailbox is not None
    assert (result.mailbox.name, result.mailbox.because, result.attempt) == ("second", "priority", 1)
    assert "Passed over 'first'" in (result.mailbox.why or "")


async def test_server_that_rests_is_passed_over_without_being_asked() -> None:
    house = House(POOL)
    house.gate.holds["first"] = Hold(NOON + timedelta(hours=1), THROTTLED)
    assert only(await house.deliver()).status is DeliveryStatus.ACCEPTED
    assert used(house) == ["second"]


async def test_mail_waits_for_the_server_that_is_back_first() -> None:
    house = House(POOL)
    house.gate.holds["first"] = Hold(NOON + timedelta(minutes=10), THROTTLED)
    house.gate.holds["second"] = Hold(NOON + timedelta(hours=1), THROTTLED)
    decision = await house.deliver()
    assert only(decision).status is DeliveryStatus.DEFERRED
    assert only(decision).next_attempt_at is not None
    assert timedelta(minutes=10) <= only(decision).next_attempt_at - NOON < timedelta(minutes=11)
    assert used(house) == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(Refused(Stage.RCPT, Reply.parse("550 5.1.1 unknown")), "failed", id="recipient-refused"),
        pytest.param(GREYLISTED, "deferred", id="greylisted"),
        pytest.param(LOST, "in_doubt", id="after-the-dot"),
    ],
)
async def test_what_is_no_fault_of_the_server_or_may_have_been_accepted_goes_nowhere_else(
    answer: Submission, status: str
) -> None:
    house = House(POOL)
    house.answers(answer)
    assert only(await house.deliver()).status == status
    assert used(house) == ["first"]


async def test_second_copy_of_a_doubtful_mail_waits_for_its_server() -> None:
    house = House(POOL)
    house.answers(LOST)
    waiting = await house.deliver(on_doubt="resend")
    house.clock.now = when(waiting)
    house.gate.holds["first"] = Hold(house.clock.now + timedelta(hours=1), THROTTLED)
    assert only(await house.deliver(waiting.carry, on_doubt="resend")).status is DeliveryStatus.DEFERRED
    assert used(house) == ["first"]


async def test_own_server_that_is_down_leaves_nothing_to_the_default() -> None:
    house = House(directory(FIRST, PLATFORM, default="platform"))
    house.transport.never_asks = True
    house.answers(UNREACHABLE)
    assert only(await house.deliver()).status is DeliveryStatus.DEFERRED
    assert used(house) == ["first"]


# ---------------------------------------------------------------- what keeps mail back

SANDBOX = parse("sandbox@test.example")


async def test_switched_off_server_keeps_its_mail_waiting_beyond_the_retry_horizon() -> None:
    house = House(directory(replace(FIRST, enabled=False)))
    waiting = await house.deliver()
    result = only(waiting)
    assert result.status is DeliveryStatus.DEFERRED
    assert result.reason is not None
    assert result.reason.kind == "disabled"
    house.clock.forward(timedelta(days=3))
    later = await house.deliver(waiting.carry)
    assert later.results == ()
    assert when(later) > house.clock.now
    house.courier = replace(house.courier, directory=directory(FIRST))
    house.clock.now = when(later)
    assert only(await house.deliver(later.carry)).status is DeliveryStatus.ACCEPTED


async def test_stop_switch_holds_mail_and_lets_it_go_when_it_is_lifted() -> None:
    house = House(directory(FIRST, restraint=Restraint(stop=Stop.HOLD)))
    waiting = await house.deliver()
    assert only(waiting).reason is not None
    assert only(waiting).mailbox is None
    assert house.transport.sent == []
    house.courier = replace(house.courier, directory=directory(FIRST))
    house.clock.now = when(waiting)
    assert only(await house.deliver(waiting.carry)).status is DeliveryStatus.ACCEPTED


async def test_mail_that_expires_behind_a_stop_switch_is_told_as_expired() -> None:
    house = House(directory(FIRST, restraint=Restraint(stop=Stop.HOLD)))
    fields = {"expires_at": (NOON + timedelta(seconds=3)).isoformat()}
    waiting = await house.deliver(**fields)
    assert when(waiting) == NOON + timedelta(seconds=3)
    house.clock.now = when(waiting)
    assert only(await house.deliver(waiting.carry, **fields)).status is DeliveryStatus.EXPIRED


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        pytest.param(directory(FIRST, restraint=Restraint(stop=Stop.REFUSE)), "stopped", id="stopped"),
        pytest.param(
            directory(FIRST, restraint=Restraint(purposes_off=frozenset({"password-reset"}))), "purpose-off", id="off"
        ),
        pytest.param(directory(tenants={"contoso": False}), "no-mailbox", id="unconfigured"),
    ],
)
async def test_password_reset_that_cannot_be_sent_is_refused_at_once(known: Directory, kind: str) -> None:
    house = House(known)
    decision = await house.deliver(category="password-reset")
    result = only(decision)
    assert (result.status, result.final) == (DeliveryStatus.REJECTED, True)
    assert result.reason is not None
    assert result.reason.kind == kind
    assert isinstance(decision.disposition, DeadLetter)
    assert house.transport.sent == []


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(directory(FIRST, restraint=Restraint(suppress=True)), id="scope"),
        pytest.param(directory(replace(FIRST, suppress=True)), id="mailbox"),
        pytest.param(directory(replace(FIRST, enabled=False), restraint=Restraint(suppress=True)), id="switched-off"),
    ],
)
async def test_suppressed_mail_is_decided_and_done_with_and_nothing_leaves(known: Directory) -> None:
    house = House(known)
    decision = await house.deliver()
    result = only(decision)
    assert (result.status, result.final, result.attempt) == (DeliveryStatus.SUPPRESSED, True, 0)
    assert result.mailbox is not None
    assert result.mailbox.name == "first"
    assert decision.disposition == Acknowledge()
    assert house.journal == ["claim", "settle"]


async def test_redirected_mail_reaches_the_sandbox_and_the_result_says_so() -> None:
    house = House(directory(FIRST, restraint=Restraint(redirect=Redirect(SANDBOX))))
    result = only(await house.deliver(to=[str(JANA)], cc=[str(OMAR)], bcc=[str(EVE)]))
    ((_, envelope, message),) = house.transport.sent
    assert envelope.rcpt_to == (SANDBOX,)
    assert message_from_bytes(message.content)["To"] == str(SANDBOX)
    assert result.redirected_to == str(SANDBOX)
    assert [each.address for each in result.recipients] == [str(JANA), str(OMAR), str(EVE)]


async def test_refusal_of_the_sandbox_is_every_recipients_refusal() -> None:
    house = House(directory(FIRST, restraint=Restraint(redirect=Redirect(SANDBOX))))
    no = Reply.parse("450 4.2.0 Greylisted")
    house.answers(Refused(Stage.RCPT, no, {SANDBOX: no}), Accepted(OK))
    waiting = await house.deliver(to=[str(JANA), str(OMAR)])
    assert [each.status for each in only(waiting).recipients] == ["deferred", "deferred"]
    house.clock.now = when(waiting)
    result = only(await house.deliver(waiting.carry, to=[str(JANA), str(OMAR)]))
    assert result.status is DeliveryStatus.ACCEPTED
    assert house.recipients == [(SANDBOX,), (SANDBOX,)]


async def test_recipient_outside_the_allowed_domains_is_named_and_not_reached() -> None:
    house = House(directory(replace(FIRST, allowed_domains=frozenset({"fabrikam.com"}))))
    decision = await house.deliver(to=[str(JANA), "eve@elsewhere.org"])
    result = only(decision)
    assert house.recipients == [(JANA,)]
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert result.reason is not None
    assert result.reason.kind == "recipient-not-allowed"
    assert isinstance(decision.disposition, DeadLetter)
    assert decision.disposition.kind == "recipient-not-allowed"
    assert {each.address: each.kind for each in result.recipients} == {
        str(JANA): "",
        "eve@elsewhere.org": "recipient-not-allowed",
    }


async def test_mail_to_nobody_inside_the_allowed_domains_is_rejected() -> None:
    house = House(directory(replace(FIRST, allowed_domains=frozenset({"contoso.com"}))))
    result = only(await house.deliver())
    assert result.status is DeliveryStatus.REJECTED
    assert result.reason is not None
    assert result.reason.kind == "recipient-not-allowed"


async def test_fall_back_sends_in_its_own_name() -> None:
    box = mailbox("fallback", "invites@platform.example", fallback_for=frozenset({"invite"}))
    house = House(directory(box, tenants={"contoso": False}))
    result = only(await house.deliver(category="invite", **{"from": "anna@contoso.com"}))
    ((_, envelope, message),) = house.transport.sent
    assert result.mailbox is not None
    assert result.mailbox.because == "purpose"
    assert str(envelope.mail_from) == "invites@platform.example"
    assert message_from_bytes(message.content)["Reply-To"] == "anna@contoso.com"


# ---------------------------------------------------------------- the whole life of a notification

EVERYBODY = (JANA, OMAR, EVE)
SAYINGS = st.sampled_from(["550 5.1.1 unknown", "450 4.2.0 later", "432 4.3.2 Concurrent connections limit exceeded"])


@dataclass(frozen=True)
class Turn:
    """What a server makes of one attempt: how it ends, where, with which words, and whom it refuses."""

    how: str
    stage: Stage
    words: str
    refused: Mapping[AddrSpec, str]


turns = st.builds(
    Turn,
    st.sampled_from(["accept", "refuse", "break", "busy", "bug before", "bug after"]),
    st.sampled_from([Stage.CONNECT, Stage.MAIL, Stage.DATA, Stage.DOT]),
    SAYINGS,
    st.dictionaries(st.sampled_from(EVERYBODY), SAYINGS, max_size=2),
)
GENTLE = Turn("accept", Stage.DOT, "", {})


@dataclass
class Server:
    """Keeps the truth about who has the mail, which the results must agree with.

    Who may have it stays in doubt, even if the server refuses a second copy: it may have changed its mind.
    """

    script: list[Turn]
    resend: bool
    has_it: list[AddrSpec] = field(default_factory=list)
    may_have_it: set[AddrSpec] = field(default_factory=set)
    never: set[AddrSpec] = field(default_factory=set)

    async def submit(self, _: object, envelope: Envelope, __: object, handing_over: HandingOver) -> Submission:
        assert not set(envelope.rcpt_to) & {*self.has_it, *self.never}
        assert self.resend or not set(envelope.rcpt_to) & self.may_have_it
        turn = self.script.pop(0) if self.script else GENTLE
        if turn.how == "busy":
            return Busy()
        if turn.how == "bug before":
            raise Bug
        refused = {rcpt: Reply.parse(said) for rcpt, said in turn.refused.items() if rcpt in envelope.rcpt_to}
        taken = [rcpt for rcpt in envelope.rcpt_to if rcpt not in refused]
        if turn.how == "refuse" or not taken:
            whole = Refused(turn.stage, Reply.parse(turn.words), refused)
            return self._noted(whole if taken else Refused(Stage.RCPT, next(iter(refused.values())), refused), taken)
        if turn.how == "break" and turn.stage is not Stage.DOT:
            return Broken(turn.stage, Fault.DISCONNECTED, "gone")
        assert await handing_over()
        if turn.how == "accept":
            self.has_it += taken
            return self._noted(Accepted(OK, refused), [])
        if turn.how == "bug after":
            self.may_have_it.update(envelope.rcpt_to)
            raise Bug
        self.may_have_it.update(taken)
        return self._noted(Broken(Stage.DOT, Fault.TIMEOUT, "silence", refused), [])

    def _noted(self, answer: Accepted | Refused | Broken, others: Sequence[AddrSpec]) -> Submission:
        """Remember who was refused for good."""
        self.never.update(rcpt for rcpt, reply in answer.refused.items() if reply.code == 550)
        if isinstance(answer, Refused) and answer.reply.code == 550:
            self.never.update(others)
        return answer


@settings(max_examples=150)
@given(
    script=st.lists(turns, max_size=8),
    on_doubt=st.sampled_from(["hold", "resend"]),
    expires=st.sampled_from([None, timedelta(minutes=1), timedelta(minutes=30)]),
    late=st.sampled_from([timedelta(), timedelta(minutes=10), timedelta(hours=25)]),
)
def test_whatever_the_server_does_nobody_gets_two_mails_and_there_is_one_true_last_word(
    script: list[Turn], on_doubt: str, expires: timedelta | None, late: timedelta
) -> None:
    server = Server(script, on_doubt == "resend")
    fields: dict[str, Any] = {"to": [str(rcpt) for rcpt in EVERYBODY], "on_doubt": on_doubt}
    if expires is not None:
        fields["expires_at"] = (NOON + expires).isoformat()
    last = asyncio.run(whole_life(server, fields, late))

    told = {each.address: each.status for each in last.recipients}
    for rcpt in EVERYBODY:
        if rcpt in server.has_it:
            assert told.get(str(rcpt)) == "accepted"
        elif rcpt in server.may_have_it:
            assert told.get(str(rcpt)) == "in_doubt"
        elif str(rcpt) in told:
            assert told[str(rcpt)] == "failed"
    if server.has_it:
        assert last.status in ("accepted", "partially_accepted", "in_doubt")
    elif server.may_have_it:
        assert last.status == "in_doubt"
    else:
        assert last.status in ("failed", "expired")
    assert len(server.has_it) == len(set(server.has_it))


async def whole_life(server: Server, fields: dict[str, Any], late: timedelta) -> Result:
    """Deliver until it is decided, each time as late as the broker may be; the last word is the only one."""
    house = House()
    house.courier = replace(house.courier, transports={SmtpEndpoint: server})
    carry = ""
    for _ in range(60):
        decision = await house.deliver(carry, **fields)
        if not isinstance(decision.disposition, WaitUntil):
            break
        assert decision.final is None
        assert decision.disposition.when > house.clock.now
        house.clock.now, carry = decision.disposition.when + late, decision.carry
    last = only(decision)
    assert last.final
    assert (await house.deliver(**fields)).results == (last,)
    return last


# ---------------------------------------------------------------- one recipient spoils the message


def crowd(size: int) -> list[AddrSpec]:
    return [parse(f"r{number}@fabrikam.com") for number in range(size)]


@dataclass
class Picky:
    """A server that refuses a whole message because of some of its recipients, or because of their number."""

    bad: frozenset[AddrSpec]
    names_them: bool = False
    most: int = 1000
    taken: list[AddrSpec] = field(default_factory=list)
    submissions: int = 0

    def __call__(self, envelope: Envelope) -> Submission:
        self.submissions += 1
        if len(envelope.rcpt_to) > self.most:
            return Refused(Stage.DOT, Reply.parse("550 5.5.3 Too many recipients"))
        if spoilers := self.bad.intersection(envelope.rcpt_to):
            named = ", ".join(map(str, spoilers)) if self.names_them else "some recipients"
            return Refused(Stage.DOT, Reply.parse(f"550 5.7.703 Messages to {named} are blocked by your organization."))
        self.taken += envelope.rcpt_to
        return Accepted(OK)


async def until_final(house: House, people: list[AddrSpec]) -> Result:
    carry = ""
    for _ in range(1000):
        decision = await house.deliver(carry, to=[str(person) for person in people])
        if decision.final is not None:
            return decision.final
        assert len(only(decision).recipients) == len(people)
        house.clock.now, carry = when(decision), decision.carry
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    ("size", "bad", "names_them", "most", "submissions"),
    [
        pytest.param(5, [2], True, 1000, 2, id="named"),
        pytest.param(100, [7, 93], True, 1000, 2, id="two-named"),
        pytest.param(2, [1], False, 1000, 3, id="one-of-two"),
        pytest.param(100, [0], False, 1000, 16, id="first-of-a-hundred"),
        pytest.param(100, [99], False, 1000, 16, id="last-of-a-hundred"),
        pytest.param(100, [50], False, 1000, 16, id="in-the-middle"),
        pytest.param(64, [3, 40], False, 1000, 32, id="two-of-many"),
        pytest.param(8, list(range(8)), False, 1000, 12, id="all-of-them"),
        pytest.param(1, [0], False, 1000, 1, id="alone"),
        pytest.param(100, [], False, 30, 7, id="too-many-at-once"),
        pytest.param(40, [11], False, 25, 16, id="too-many-and-a-bad-one"),
    ],
)
async def test_only_the_recipient_that_spoils_a_message_fails_and_nobody_gets_two(
    house: House,
    size: int,
    bad: list[int],
    most: int,
    submissions: int,
    *,
    names_them: bool,
) -> None:
    people = crowd(size)
    server = Picky(frozenset(people[number] for number in bad), names_them, most)
    house.transport.answer = server
    result = await until_final(house, people)
    assert sorted(map(str, server.taken)) == sorted(str(person) for person in people if person not in server.bad)
    failed = {recipient.address for recipient in result.recipients if recipient.status is RecipientStatus.FAILED}
    assert failed == {str(person) for person in server.bad}
    assert server.submissions <= submissions
    assert {recipient.status for recipient in result.recipients} <= {RecipientStatus.ACCEPTED, RecipientStatus.FAILED}


async def test_next_group_has_its_turn_at_once_and_the_others_are_told_so(house: House) -> None:
    people = crowd(4)
    house.transport.answer = Picky(frozenset({people[3]}))
    first = await house.deliver(to=[str(person) for person in people])
    assert when(first) - house.clock.now < timedelta(seconds=5)
    assert only(first).status is DeliveryStatus.DEFERRED
    house.clock.now = when(first)
    second = await house.deliver(first.carry, to=[str(person) for person in people])
    assert {recipient.kind for recipient in only(second).recipients} >= {"transient/in-turn"}
    assert only(second).status is DeliveryStatus.DEFERRED
    assert only(second).reason is not None


async def test_recipients_beyond_the_number_that_a_server_takes_follow_in_the_next_submission(house: House) -> None:
    people = crowd(5)
    more = Reply.parse("452 4.5.3 Too many recipients")
    house.answers(Accepted(OK, dict.fromkeys(people[2:], more)), Accepted(OK), Accepted(OK))
    result = await until_final(house, people)
    assert result.status is DeliveryStatus.ACCEPTED
    assert [len(group) for group in house.recipients] == [5, 2, 1]


def small(most: int = 3, **fields: Any) -> House:
    """Its mailbox takes so many recipients at once."""
    platform = mailbox("platform", limits=Limits(recipients_per_message=most), **fields)
    return House(directory(platform, default="platform"))


async def test_mail_with_more_recipients_than_its_mailbox_takes_goes_in_parts_of_which_nobody_is_in_two() -> None:
    house, people = small(), crowd(8)
    result = await until_final(house, people)
    assert [len(group) for group in house.recipients] == [3, 3, 2]
    assert sorted(map(str, chain.from_iterable(house.recipients))) == sorted(map(str, people))
    assert (result.status, len(result.recipients)) == (DeliveryStatus.ACCEPTED, 8)
    assert len({message.content for _, _, message in house.transport.sent}) == 1


async def test_parts_of_a_mail_spend_one_attempt(house: House) -> None:
    house = small()
    assert (await until_final(house, crowd(8))).attempt == 1


async def test_each_part_of_a_mail_is_on_record_before_the_next_one_leaves() -> None:
    house, people = small(), crowd(4)
    await house.deliver(to=[str(person) for person in people])
    assert set(house.ledger.page.progress.settled) == set(house.recipients[0])
    assert house.journal == ["claim", "submit", "handing over", "dot", "settle"]


async def test_part_that_is_refused_leaves_the_others_their_turn() -> None:
    house, people = small(2), crowd(5)
    house.answers(Accepted(OK), Refused(Stage.DOT, Reply.parse("554 5.6.0 Invalid message content")), Accepted(OK))
    result = await until_final(house, people)
    assert result.status is DeliveryStatus.PARTIALLY_ACCEPTED
    assert [item.status for item in result.recipients].count(RecipientStatus.FAILED) == 2


async def test_mail_with_too_many_recipients_is_refused_where_that_is_the_policy() -> None:
    house = small(too_many=TooMany.REFUSE)
    result = only(await house.deliver(to=[str(person) for person in crowd(4)]))
    assert (result.status, house.transport.sent) == (DeliveryStatus.FAILED, [])
    assert result.reason is not None
    assert "4 recipients" in result.reason.explanation


async def test_redirected_mail_is_one_however_many_recipients_it_had() -> None:
    house, people = small(redirect=Redirect(EVE)), crowd(8)
    result = only(await house.deliver(to=[str(person) for person in people]))
    assert (result.status, len(result.recipients)) == (DeliveryStatus.ACCEPTED, 8)
    assert house.recipients == [(EVE,)]


async def test_recipients_that_must_not_be_reached_take_up_no_place_in_a_part() -> None:
    house, barred = small(allowed_domains=frozenset({"fabrikam.com"})), [parse(f"b{n}@elsewhere.com") for n in range(4)]
    result = await until_final(house, [*barred, *crowd(4)])
    assert [len(group) for group in house.recipients] == [3, 1]
    assert [item.status for item in result.recipients].count(RecipientStatus.FAILED) == 4


async def crashed_over_the_second_part(house: House, people: list[AddrSpec], **fields: Any) -> Decision:
    """Its worker died after the mark of the second part; what the next worker decides."""
    house.clock.now = when(await house.deliver(to=[str(person) for person in people], **fields))
    house.transport.bug_after = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await house.deliver(to=[str(person) for person in people], **fields)
    house.transport.bug_after, house.ledger.page.doubtful = None, True
    return await house.deliver(to=[str(person) for person in people], **fields)


async def test_only_the_part_that_a_dead_worker_was_handing_over_is_in_doubt_and_the_others_go_on() -> None:
    house, people = small(2), crowd(6)
    result = only(await crashed_over_the_second_part(house, people))
    assert result.status is DeliveryStatus.IN_DOUBT
    doubts = [item.address for item in result.recipients if item.status is RecipientStatus.IN_DOUBT]
    assert doubts == sorted(map(str, house.recipients[1]))
    assert len(house.recipients) == 3
    assert len(set(chain.from_iterable(house.recipients))) == 6
    assert result.reason is not None
    assert "2 of its recipients" in result.reason.explanation


async def test_last_part_that_a_dead_worker_was_handing_over_is_in_doubt_alone() -> None:
    house, people = small(2), crowd(4)
    result = only(await crashed_over_the_second_part(house, people))
    assert [item.status for item in result.recipients].count(RecipientStatus.IN_DOUBT) == 2
    assert len(house.recipients) == 2


async def test_part_of_a_dead_worker_is_sent_again_where_the_producer_allows_it_and_no_other_one() -> None:
    house, people = small(2), crowd(4)
    result = only(await crashed_over_the_second_part(house, people, on_doubt="resend"))
    assert result.status is DeliveryStatus.ACCEPTED
    assert house.recipients[1] == house.recipients[2]
    assert len(house.recipients) == 3


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param(PickupDirectory(PurePath("/pickup"), PurePath("/staging"), PickupFlavour.EXCHANGE), id="pickup"),
        pytest.param(GRAPH, id="graph"),
    ],
)
async def test_part_for_a_reader_of_headers_names_nobody_of_another_part(endpoint: Endpoint) -> None:
    house, people = small(3, endpoint=endpoint), crowd(5)
    object.__setattr__(house.courier, "transports", {type(endpoint): house.transport})
    await until_final(house, people)
    for _, envelope, message in house.transport.sent:
        assert message.visible == set(envelope.rcpt_to)
    assert len({message.message_id for _, _, message in house.transport.sent}) == 1


async def test_exchange_pickup_directory_gets_a_hundred_recipients_a_file() -> None:
    place = PickupDirectory(PurePath("/pickup"), PurePath("/staging"), PickupFlavour.EXCHANGE)
    house = House(directory(mailbox("platform", endpoint=place), default="platform"))
    object.__setattr__(house.courier, "transports", {PickupDirectory: house.transport})
    await until_final(house, crowd(250))
    assert [len(group) for group in house.recipients] == [100, 100, 50]


async def test_single_recipient_that_is_too_many_waits_as_usual(house: House) -> None:
    house.answers(Refused(Stage.RCPT, Reply.parse("452 4.5.3 Too many recipients"), {}))
    decision = await house.deliver()
    assert only(decision).status is DeliveryStatus.DEFERRED
    assert when(decision) - house.clock.now > timedelta(seconds=20)


async def test_everybody_has_failed_when_the_horizon_ends_the_groups(house: House) -> None:
    people = crowd(4)
    house.answers(Refused(Stage.DOT, Reply.parse("550 5.1.3 STOREDRV.Submit; invalid recipient address")))
    first = await house.deliver(to=[str(person) for person in people])
    house.clock.forward(timedelta(hours=24))
    house.transport.answer = lambda _: GREYLISTED
    result = only(await house.deliver(first.carry, to=[str(person) for person in people]))
    assert result.status is DeliveryStatus.FAILED
    assert len(result.recipients) == 4


async def test_wait_that_a_reply_asks_for_is_kept(house: House) -> None:
    house.answers(Refused(Stage.RCPT, Reply.parse("554 5.2.122 receive limit")))
    assert when(await house.deliver()) - house.clock.now >= timedelta(minutes=30)


async def test_reason_that_exchange_hides_in_its_diagnostics_is_told(house: House) -> None:
    said = "554 5.2.252 SendAsDenied [BeginDiagnosticData]5.1:DC04000053656E64417320636865636B[EndDiagnosticData]"
    house.answers(Refused(Stage.DOT, Reply.parse(said)))
    result = only(await house.deliver())
    assert result.reason is not None
    assert result.reason.explanation.endswith("(SendAs check)")


async def test_wait_that_graph_asks_for_rests_the_mailbox_and_spends_no_attempt() -> None:
    house = House(directory(mailbox("platform", endpoint=GRAPH), default="platform"))
    object.__setattr__(house.courier, "transports", {GraphEndpoint: house.transport})
    house.transport.never_asks = True
    said = Reply(429, None, "ApplicationThrottled: Application is over its MailboxConcurrency limit.")
    house.answers(Refused(Stage.GRAPH, said, retry_after=timedelta(minutes=2)))
    decision = await house.deliver()
    assert house.gate.holds["platform"].until == NOON + timedelta(minutes=2)
    assert house.gate.rests == [("", None)]
    assert decision.progress is not None
    assert decision.progress.attempts == 0
