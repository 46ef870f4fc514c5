"""The use case: one delivery from the broker becomes one Decision.

Read `Courier.deliver` from top to bottom; every step either goes on or ends in a Decision. The order is the promise:
claim before anything leaves, the ledger marked before the final dot, the outcome recorded before the result is
published, the result published before the broker may forget the message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from contracts.address import AddrSpec
from contracts.cancellation import Cancellation
from contracts.delivery import DeliveryStatus, RecipientStatus
from contracts.notification import Notification, OnDoubt
from contracts.wire import Malformed, Properties, decode
from worker.domain import mass, report
from worker.domain.addressing import names_others, narrowed
from worker.domain.capacity import beyond, most_at_once
from worker.domain.carry import pack, unpack
from worker.domain.channel import closed, unasked
from worker.domain.decision import (
    Acknowledge,
    Decision,
    Split,
    Trial,
    WaitUntil,
    after_attempt,
    again,
    expand,
    expire,
    puzzle,
    refuse,
    reject,
    suppress,
    while_busy,
    while_full,
    while_held,
    while_kept,
    while_paced,
)
from worker.domain.delivery import (
    Accepted,
    Broken,
    Busy,
    Fault,
    Fenced,
    HandedOver,
    Key,
    Outcome,
    Progress,
    Refused,
    Stage,
    Submission,
)
from worker.domain.envelope import Envelope
from worker.domain.judgement import Judgement, judge
from worker.domain.mailbox import Directory, Endpoint, Mailbox, Restraint, TooMany, reads_headers
from worker.domain.message import OutgoingMessage, compose, message_id_of, sender_of
from worker.domain.permission import authorise
from worker.domain.report import Case, Trace, due_since
from worker.domain.restraint import Outgoing, answered, outgoing, stopped, suppressed
from worker.domain.retry import RetryPolicy
from worker.domain.routing import Refusal, Route, Unavailable, Wait, check_sender, presented, route, scope_of
from worker.domain.sharing import eased, shown, whose
from worker.domain.verdict import Action, Row, Scope, Verdict, for_others
from worker.domain.wording import Unreadable, Unrenderable, Wording, filled, ordered, refusal_of, verdict_of, worded
from worker.events import (
    ChannelRested,
    Crashed,
    MailboxPaused,
    MailboxResumed,
    Overtaken,
    Submitted,
    Submitting,
    UnknownReply,
)
from worker.ports import (
    Admission,
    Claimed,
    Clock,
    Contradicted,
    Demand,
    Dice,
    Doubtful,
    Entrance,
    FileMissing,
    Files,
    Finished,
    Full,
    Hold,
    Ledger,
    Observe,
    Paced,
    Recalled,
    Register,
    Settlement,
    StoreDown,
    Templates,
    Transport,
    Underway,
    Waiting,
)
from worker.resting import Leave, RestingChannels

_Turn = Callable[[Sequence[AddrSpec]], Sequence[AddrSpec]]
"""Of those who may be reached: who has a part in this submission."""

_LOOK_AGAIN = timedelta(seconds=2)  # when somebody else has it
_THREAD_ABOVE = 256 * 1024  # octets of body beyond which composing would hold up the event loop
_NEVER = datetime.max.replace(tzinfo=UTC)
_CLOCKS_DIFFER = timedelta(minutes=5)
_OLDEST_DATE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Intake:
    """What came from the broker.

    Attributes:
        carry: progress of earlier attempts, if the message came back from a wait queue of ours.
        reserved: headers that only Postlane may set but somebody else has.
    """

    body: bytes
    properties: Properties
    carry: str = ""
    reserved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Courier:
    """The parts that delivering needs, put together in `bootstrap`."""

    directory: Directory
    rows: tuple[Row, ...]
    ledger: Ledger
    register: Register
    gate: Entrance
    transports: Mapping[type[Endpoint], Transport]
    files: Files
    templates: Templates
    policy: RetryPolicy
    clock: Clock
    dice: Dice
    observe: Observe
    resting: RestingChannels = field(default_factory=RestingChannels)
    max_octets: int = field(default=16 * 1024 * 1024)

    async def deliver(self, intake: Intake) -> Decision:
        """Decide on one delivery.

        Raises:
            StoreDown: nothing was decided, and nothing is sent until the store is back.
        """
        now = self.clock()
        match decode(intake.body, intake.properties, max_octets=self.max_octets):
            case Malformed() as found:
                return reject(report.malformed(found, intake.body, intake.properties, now))
            case Cancellation() as wish:
                return await self._recall(wish, intake, now)
            case Notification() as notification:
                return await self._notified(notification, intake, now)

    async def _notified(self, notification: Notification, intake: Intake, now: datetime) -> Decision:
        case = Case(notification, intake.properties, Progress(first_seen=now), now)
        if refusal := _forged(intake) or authorise(notification, intake.properties, self.directory):
            return refuse(case, refusal)
        try:
            progress = unpack(intake.carry, notification) if intake.carry else case.progress
        except ValueError as error:
            self.observe(Crashed("carry", notification.id, error))
            return puzzle(case, _ILLEGIBLE, _open(case))
        key = _key(notification)
        match await self.ledger.claim(key, digest(notification), progress, now):
            case Finished(results, further, told):
                repeated = again(key, notification, results, further, told=told, own_copy=bool(intake.carry))
                return _packed(repeated, notification)
            case Underway():
                return Decision((), WaitUntil(now + _LOOK_AGAIN), intake.carry)
            case Waiting(until, further):
                return _packed(Decision((), WaitUntil(until, further)), notification)
            case Contradicted():
                return refuse(case, _USED_ID)
            case Doubtful(claimed):
                return await self._settled(replace(case, progress=claimed.progress), claimed, doubtful=True)
            case Claimed() as claimed:
                return await self._settled(replace(case, progress=claimed.progress), claimed)

    async def _settled(self, case: Case, claimed: Claimed, *, doubtful: bool = False) -> Decision:
        """Deliver a claimed notification and record what came of it, before anybody is told."""
        handover = _Handover(self.ledger, claimed, self.observe)
        try:
            decision = await self._addressed(case, handover, doubtful=doubtful)
        except Exception as error:  # noqa: BLE001 - the boundary: a bug must not become a loop of redeliveries
            self.observe(Crashed("courier", case.notification.id, error))
            conclude, bug = (puzzle, _BUG_AFTER) if handover.begun or doubtful else (refuse, _BUG_BEFORE)
            decision = conclude(case, bug, _open(case))
        return await self._recorded(case, claimed, decision)

    async def _recorded(self, case: Case, claimed: Claimed, decision: Decision) -> Decision:
        when = decision.disposition.when if isinstance(decision.disposition, WaitUntil) else None
        reply_to = case.properties.reply_to
        settlement = Settlement(decision.progress or case.progress, decision.results, when, reply_to)
        results = await self.ledger.settle(claimed, settlement)
        if results is not None:
            return _packed(replace(decision, results=results, key=claimed.key), case.notification)
        return await self._overtaken(case, claimed.key, decision)

    async def _overtaken(self, case: Case, key: Key, decision: Decision) -> Decision:
        """We were taken for dead, and somebody has told the producer a doubt in our place: end it if we know better.

        The copy of the message that we hold is looked at again, in case it is the only one.
        """
        final = decision.final
        self.observe(Overtaken(key.notification_id, final.status if final else ""))
        if final is not None and final.status in _KNOWN:
            await self.register.resolve(key, report.resolved(final, case.now), case.properties.reply_to, "worker")
        return _packed(Decision((), WaitUntil(self.clock() + _LOOK_AGAIN, case.progress)), case.notification)

    async def _recall(self, wish: Cancellation, intake: Intake, now: datetime) -> Decision:
        """Take a notification back, if it is not too late."""
        properties = intake.properties
        if refusal := _forged(intake) or authorise(wish, properties, self.directory):
            return reject(report.not_cancelled(wish, properties, refusal, now))
        match await self.ledger.recall(Key(wish.tenant.lower(), wish.id), now):
            case Underway():
                return Decision((), WaitUntil(now + _LOOK_AGAIN))
            case Finished(results=results):
                parts = mass.cancellations(wish, results[-1].expanded_into or 0)
                return Decision(results, Split(parts) if parts else Acknowledge())
            case Recalled(claimed, last):
                cancelled = report.cancelled(wish, properties, last, now)
                settlement = Settlement(claimed.progress, (cancelled,), None, properties.reply_to)
                to_tell = await self.ledger.settle(claimed, settlement)
                if to_tell is None:
                    return Decision((), WaitUntil(now + _LOOK_AGAIN))
                return Decision(to_tell, Acknowledge(), key=claimed.key)

    async def _addressed(self, case: Case, handover: _Handover, *, doubtful: bool) -> Decision:
        """Fill in what an event's rule gives, and go on with that."""
        notification = case.notification
        if notification.event is not None:
            match await self._by_rule(case, notification.event):
                case Decision() as ended:
                    return puzzle(case, _CRASHED, _open(case)) if doubtful else ended
                case Notification() as notification:
                    case = replace(case, notification=notification)
        if doubtful and notification.on_doubt is OnDoubt.HOLD:
            case = _with_part_in_doubt(case)
            if not (case.progress.handed and _open(case)):
                return puzzle(_of_this_claim(case), _CRASHED, _open(case), self._trace(notification))
        elif doubtful:
            case = _with_doubts(case)
        return await self._due(_of_this_claim(case), handover)

    def _trace(self, notification: Notification) -> Trace | None:
        """Where a mail would be found that a worker may have sent before it died."""
        match route(notification, self.directory):
            case Route() as chosen:
                sender = sender_of(presented(notification, chosen), chosen.mailbox)
                return Trace(chosen, message_id_of(notification, sender.spec))
            case _:
                return None

    async def _by_rule(self, case: Case, event: str) -> Notification | Decision:
        notification = case.notification
        match await self.templates.rule(event, scope_of(notification)):
            case Unreadable() as away:
                return while_kept(case, verdict_of(away), _open(case), self.dice())
            case rule:
                whole = filled(notification, rule)
        if isinstance(whole, Refusal):
            return refuse(case, whole, _open(case))
        forbidden = authorise(whole, case.properties, self.directory, by_rule=True)
        return refuse(case, forbidden, _open(case)) if forbidden else whole

    async def _due(self, case: Case, handover: _Handover) -> Decision:
        notification = case.notification
        if notification.expired(case.now):
            return expire(case, _open(case))
        if notification.not_before is not None and notification.not_before > case.now:
            return Decision((), WaitUntil(notification.not_before, case.progress))
        scope = scope_of(notification)
        restraint = self.directory.restraint_of(scope)
        match stopped(notification, scope, restraint):
            case Refusal() as refusal:
                return refuse(case, refusal, _open(case))
            case Verdict() as verdict:
                return while_kept(case, verdict, _open(case), self.dice())
            case None:
                return await self._written(case, restraint, handover)

    async def _written(self, case: Case, restraint: Restraint, handover: _Handover) -> Decision:
        """One mail a person if it is mass mail, and the words that its template has for it."""
        notification = case.notification
        if mass.to_many(notification):
            return self._expanded(case)
        if (order := ordered(notification)) is None:
            return await self._through(case, restraint, handover)
        match await self.templates.render(order):
            case Wording() as wording:
                case = replace(case, notification=worded(notification, wording))
                return await self._through(case, restraint, handover)
            case Unrenderable() as fault:
                return refuse(case, refusal_of(fault), _open(case))
            case Unreadable() as away:
                return while_kept(case, verdict_of(away), _open(case), self.dice())

    def _expanded(self, case: Case) -> Decision:
        """Split it, unless every part would be refused for the same reason."""
        match route(case.notification, self.directory):
            case Refusal() as refusal:
                return refuse(case, refusal, _open(case))
            case Route() | Wait() as found:
                chosen = found.route if isinstance(found, Wait) else found
                refused = check_sender(presented(case.notification, chosen), chosen.mailbox)
                return refuse(case, refused, _open(case)) if refused else expand(case)

    async def _through(self, case: Case, restraint: Restraint, handover: _Handover) -> Decision:
        """Through the first mailbox that is available, or the next one while nothing was handed over."""
        passed: dict[str, Unavailable] = {}
        waiting: list[Decision] = []
        choice = route(case.notification, self.directory)
        while True:
            match choice:
                case Refusal():
                    return refuse(case, choice, _open(case))
                case Wait(chosen) if suppressed(chosen.mailbox, restraint):
                    return suppress(case, chosen, _open(case))
                case Wait(chosen, unavailable):
                    return while_kept(case, unavailable.verdict, _open(case), self.dice(), chosen)
                case Route():
                    found = await self._routed(case, choice, restraint, handover)
            if isinstance(found, Decision):
                return found
            passed[choice.mailbox.name] = found.unavailable
            waiting.append(found.decision)
            choice = route(case.notification, self.directory, passed.get)
            if not isinstance(choice, Route) or case.progress.doubted:
                return min(waiting, key=_again_at)

    async def _routed(
        self, case: Case, chosen: Route, restraint: Restraint, handover: _Handover
    ) -> Decision | _Elsewhere:
        mailbox = chosen.mailbox
        if refused := check_sender(presented(case.notification, chosen), mailbox):
            return refuse(case, refused, _open(case))
        if suppressed(mailbox, restraint):
            return suppress(case, chosen, _open(case))
        turn = partial(case.progress.turn, most=most_at_once(mailbox))
        part = self._part(case, chosen, restraint, turn)
        if isinstance(part, Refusal):
            return refuse(case, part, _open(case))
        answer = await self.gate.admit(mailbox, part.demand, case.now)
        if isinstance(answer, Hold | Full) and (inside := self._inside(part, restraint, turn)) is not None:
            let_in = await self.gate.admit(mailbox, inside.demand, case.now)
            if isinstance(let_in, Admission):
                part, answer = inside, let_in
        trial, sent, envelope = part.trial, part.sent, part.envelope
        handover.of(trial.case.progress, frozenset(sent.tried) if trial.waiting else frozenset())
        match answer:
            case Hold(until, verdict):
                return _Elsewhere(while_held(trial, verdict, until), Unavailable(verdict, until))
            case Full(slot, verdict):
                return _Elsewhere(while_full(trial, verdict, slot), Unavailable(verdict, slot))
            case Paced(slot, verdict):
                return _Elsewhere(while_paced(trial, verdict, slot), Unavailable(verdict, slot))
            case Admission() as admission:
                return await self._admitted(trial, sent, envelope, admission, handover)

    def _part(self, case: Case, chosen: Route, restraint: Restraint, turn: _Turn) -> _Part | Refusal:
        """One submission: who has a part in it, and what it asks of the mailbox."""
        still_open = _open(case)
        sent = outgoing(case.notification, chosen, restraint, still_open, turn)
        if isinstance(sent, Refusal):
            return sent
        case = replace(case, progress=replace(case.progress, settled={**case.progress.settled, **sent.barred}))
        envelope = Envelope.of(sender_of(sent.notification, chosen.mailbox).spec, sent.rcpt_to)
        waiting = tuple(rcpt for rcpt in still_open if rcpt not in {*sent.tried, *sent.barred})
        trial = Trial(case, sent.route, self.policy, sent.tried, None, case.now, self.dice(), waiting)
        return _Part(trial, sent, envelope, _demand(case, envelope, chosen.mailbox))

    def _inside(self, whole: _Part, restraint: Restraint, turn: _Turn) -> _Part | None:
        """The same for recipients inside the organisation, in case only the way to the outside is closed."""
        chosen = whole.trial.route
        mailbox, demand = chosen.mailbox, whole.demand
        if mailbox.too_many is TooMany.REFUSE or not 0 < demand.external < demand.recipients:
            return None
        within = self._part(
            whole.trial.case, chosen, restraint, lambda open_: turn([r for r in open_ if not mailbox.outside(r)])
        )
        return within if isinstance(within, _Part) and not within.demand.external else None

    async def _admitted(
        self, trial: Trial, sent: Outgoing, envelope: Envelope, admission: Admission, handover: _Handover
    ) -> Decision | _Elsewhere:
        case = trial.case
        try:
            message = await self._compose(case, sent)
            closed = admission.closed if isinstance(admission, Leave) else frozenset()
            attempt = self._submit(case, sent, envelope, message, handover, closed)
            came_to = await self._seen(trial.route.mailbox, attempt)
        except FileMissing as error:
            await self.gate.cleared(admission, tried=False)
            return refuse(case, _missing(error), _open(case))
        except BaseException:
            await self.gate.cleared(admission, tried=False)
            raise
        chosen = replace(trial.route, mailbox=came_to.by)
        trial = replace(trial, route=chosen, message_id=message.message_id, now=self.clock())
        came_to = replace(came_to, submission=answered(came_to.submission, sent))
        return await self._judged(trial, came_to, admission, envelope, handover)

    async def _compose(self, case: Case, sent: Outgoing) -> OutgoingMessage:
        notification, mailbox = sent.notification, sent.route.mailbox
        files = await self.files.fetch(notification.attachments)
        size = sum(map(len, (notification.text or "", notification.html or "", *files)))
        if size <= _THREAD_ABOVE:
            return compose(notification, mailbox, files, _date(case))
        return await asyncio.to_thread(compose, notification, mailbox, files, _date(case))

    async def _seen(self, mailbox: Mailbox, attempt: Awaitable[_CameTo]) -> _CameTo:
        """One attempt, and its beginning and end for those who count what is under way."""
        self.observe(Submitting(mailbox.name))
        sent = False
        try:
            came_to = await attempt
            sent = isinstance(came_to.submission, Accepted | HandedOver)
        finally:
            self.observe(Submitted(mailbox.name, sent))
        return came_to

    async def _submit(
        self,
        case: Case,
        sent: Outgoing,
        envelope: Envelope,
        message: OutgoingMessage,
        handover: _Handover,
        resting: frozenset[str] = frozenset(),
    ) -> _CameTo:
        """One attempt, by the first channel that gets as far as the mail; the last one's failure counts.

        Args:
            case: what it is about.
            sent: the notification as it leaves.
            envelope: of it.
            message: of it.
            handover: the ledger's mark.
            resting: channels that nobody is to use now.
        """
        mailbox = sent.route.mailbox
        ways = self.resting.awake(mailbox, self.clock())
        first, *further = tuple(way for way in ways if way.transport not in resting) or ways
        used, submission = first, await self._by(first, case, sent, envelope, message, handover)
        throttled: Verdict | None = None
        for way in further:
            trouble = closed(submission, self.rows, handed=handover.begun)
            if trouble is None:
                break
            throttled = trouble if trouble.throttle else throttled
            handover.given_back()
            until = self.resting.rest(used, trouble, self.clock())
            self.observe(ChannelRested(mailbox.name, used.transport, trouble.kind, trouble.explanation, until))
            other = await self._by(way, case, sent, envelope, message, handover)
            if not unasked(other):
                used, submission = way, other
        return _CameTo(used, submission, throttled)

    async def _by(
        self,
        mailbox: Mailbox,
        case: Case,
        sent: Outgoing,
        envelope: Envelope,
        message: OutgoingMessage,
        handover: _Handover,
    ) -> Submission:
        """One channel. A bug of ours in a transport is no surprise to the producer: how far it came decides."""
        transport = self.transports[type(mailbox.endpoint)]
        parts = mailbox.too_many is TooMany.SPLIT and reads_headers(mailbox.endpoint)
        if parts and names_others(envelope, message):
            mine = replace(sent, notification=narrowed(sent.notification, envelope))
            message = await self._compose(case, mine)
        if (too_much := beyond(mailbox.limits, envelope, message)) is not None:
            return too_much
        try:
            return await transport.submit(mailbox, envelope, message, handover)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, the mail's fate must be told
            self.observe(Crashed("submit", case.notification.id, error))
            return Broken(Stage.DOT if handover.begun else Stage.CONNECT, Fault.INTERNAL, type(error).__name__)

    async def _judged(
        self, trial: Trial, came_to: _CameTo, admission: Admission, envelope: Envelope, handover: _Handover
    ) -> Decision | _Elsewhere:
        submission = came_to.submission
        if isinstance(submission, Busy | Fenced):
            await self.gate.cleared(admission, tried=False)
            waiting = while_busy(trial)
            return _Elsewhere(waiting, Unavailable(_BUSY)) if isinstance(submission, Busy) else waiting
        judgement = judge(submission, trial.tried, self.rows, trial.case.notification.on_doubt)
        for stage, reply in judgement.unknown:
            self.observe(UnknownReply(admission.mailbox, stage, str(reply)))
        reached = submission.stage if isinstance(submission, Refused | Broken) else None
        ours = isinstance(submission, Broken) and (submission.fault is Fault.INTERNAL or unasked(submission))
        shared = partial(whose, way=trial.route.mailbox, sender=envelope.mail_from, stage=reached)
        until = await self._rest(admission, judgement, trial, shared, tried=not ours, throttled=came_to.throttled)
        decision = after_attempt(trial, judgement, until)
        if judgement.pause is None or handover.begun:
            return decision
        return _Elsewhere(decision, Unavailable(judgement.pause, until))

    async def _rest(
        self,
        admission: Admission,
        judgement: Judgement,
        trial: Trial,
        shared: Callable[[Verdict], str],
        *,
        tried: bool,
        throttled: Verdict | None,
    ) -> datetime | None:
        """Rest the mailbox, or what it shares, or clear both; the end of the rest if it waits for that."""
        verdict = judgement.pause or judgement.punished
        if verdict is None:
            said, used = throttled or judgement.verdict, trial.route.mailbox
            for name in await self.gate.cleared(admission, tried=tried, accepted=judgement.counted, said=said, by=used):
                self.observe(MailboxResumed(name))
            return None
        if name := shared(verdict):
            verdict = eased(verdict)
        others = for_others(verdict, self.rows, shown(name)) if name else None
        until = await self.gate.paused(
            admission, verdict, trial.now, shared=name, others=others, tried=judgement.pause is None
        )
        rests, found_by = (shown(name), admission.mailbox) if name else (admission.mailbox, "")
        self.observe(MailboxPaused(rests, verdict.kind, verdict.explanation, verdict.remedy, until, found_by))
        return until if judgement.pause else None


@dataclass(frozen=True, slots=True)
class _Part:
    """A submission before it is let through."""

    trial: Trial
    sent: Outgoing
    envelope: Envelope
    demand: Demand


@dataclass(frozen=True, slots=True)
class _CameTo:
    """An attempt.

    Attributes:
        by: the mailbox by the channel that was used last.
        throttled: what an earlier channel's server said if it wants less, though the mail may have gone by another one.
    """

    by: Mailbox
    submission: Submission
    throttled: Verdict | None = None


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """Nothing was handed over: another mailbox of the scope may take it; if there is none, this is decided."""

    decision: Decision
    unavailable: Unavailable


class _Handover:
    """The ledger's mark before the point of no return, and whether it was set: it tells `failed` from `in doubt`."""

    def __init__(self, ledger: Ledger, claimed: Claimed, observe: Observe) -> None:
        self._ledger = ledger
        self._claimed = claimed
        self._observe = observe
        self.begun = False

    def of(self, progress: Progress, handed: frozenset[AddrSpec]) -> None:
        """What the mark is to say: whose part is handed over, if not everybody's."""
        self._claimed = replace(self._claimed, progress=replace(progress, handed=handed))

    def given_back(self) -> None:
        """Nothing was taken, so another channel begins anew. The mark stays: that one asks for it again."""
        self.begun = False

    async def __call__(self) -> bool:
        try:
            self.begun = await self._ledger.handing_over(self._claimed)
        except StoreDown:
            pass  # nothing was sent, and who takes in mail tells of the store
        except Exception as error:  # noqa: BLE001 - without the mark nothing may be sent, and nothing was: try later
            self._observe(Crashed("ledger", self._claimed.key.notification_id, error))
        return self.begun


def _open(case: Case) -> tuple[AddrSpec, ...]:
    """The recipients that are still open, each once."""
    everybody = dict.fromkeys(person.spec for person in case.notification.recipients())
    return tuple(rcpt for rcpt in everybody if rcpt not in case.progress.settled)


def _again_at(decision: Decision) -> tuple[datetime, datetime]:
    """When it is looked at again, and when tried; what is not comes last."""
    if not isinstance(decision.disposition, WaitUntil):
        return _NEVER, _NEVER
    tried = next((result.next_attempt_at for result in decision.results), None)
    return decision.disposition.when, tried or decision.disposition.when


def _key(notification: Notification) -> Key:
    return Key(notification.tenant.lower(), notification.id)


def digest(notification: Notification) -> str:
    """Fingerprint of the content: the same for the same message, however its JSON is laid out.

    What is left out leaves no trace in it, so that a new field of the contract changes no fingerprint on record.
    """
    said = notification.model_dump(mode="json", exclude_defaults=True)
    content = {**said, "tenant": notification.tenant.lower()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _packed(decision: Decision, notification: Notification) -> Decision:
    """With the progress in the form in which it travels."""
    left = decision.progress
    return replace(decision, carry=pack(left, notification)) if left else decision


def _with_doubts(case: Case) -> Case:
    """The producer said that a second copy does no harm: go on, but never say of these people that none was sent."""
    doubted = case.progress.doubted | (case.progress.handed or frozenset(_open(case)))
    return replace(case, progress=replace(case.progress, doubted=doubted))


def _with_part_in_doubt(case: Case) -> Case:
    """Of a mail that was split only the part that was being handed over is in doubt, if the mark says which it was."""
    before = case.progress
    unknown = {rcpt: Outcome(RecipientStatus.IN_DOUBT, None, _CRASHED.kind) for rcpt in before.handed}
    return replace(case, progress=replace(before, settled={**unknown, **before.settled}))


def _of_this_claim(case: Case) -> Case:
    """What another claim was handing over is no longer of interest."""
    return replace(case, progress=replace(case.progress, handed=frozenset()))


def _demand(case: Case, envelope: Envelope, mailbox: Mailbox) -> Demand:
    notification, external = case.notification, sum(map(mailbox.outside, envelope.rcpt_to))
    slot = case.progress.slot
    return Demand(
        notification.tenant.lower(),
        notification.priority,
        len(envelope.rcpt_to),
        external,
        slot,
        envelope.mail_from,
    )


def _date(case: Case) -> datetime:
    """For the Date header: the producer's timestamp if it is believable, else the moment from which it was due."""
    due, stamp = due_since(case), case.properties.timestamp
    if stamp is None or case.notification.not_before is not None:
        return due
    return stamp if due - _OLDEST_DATE <= stamp <= due + _CLOCKS_DIFFER else due


def _forged(intake: Intake) -> Refusal | None:
    if not intake.reserved:
        return None
    names = ", ".join(intake.reserved)
    return Refusal("not-allowed", "headers", f"The AMQP headers {names} are Postlane's own.", "Leave them out.")


def _missing(error: FileMissing) -> Refusal:
    return Refusal("attachment", "attachments", str(error), "Put the file there first, then replay the dead letter.")


_BUSY = Verdict("busy", Scope.MAILBOX, Action.PAUSE, "All of its connections are in use.")

_USED_ID = Refusal(
    "duplicate-id",
    "id",
    "This id was used before for a notification with other content; the first one stands.",
    "Give every notification an id of its own; repeat an id only to ask again for the same mail.",
)

_REPORT_IT = "Please report it with the log line that carries this notification's id."

_BUG_BEFORE = Refusal(
    "internal-error",
    "notification",
    "Postlane itself failed on this notification before anything was handed over.",
    f"{_REPORT_IT} Then replay the dead letter.",
)

_BUG_AFTER = Refusal(
    "internal-error",
    "notification",
    "Postlane itself failed after the mail was handed over: it may or may not have been accepted.",
    f"{_REPORT_IT} Look for the mail in the mailbox's Sent Items before sending it again.",
)

_CRASHED = Refusal(
    "worker-crash",
    "notification",
    "A worker died after it had sent the whole mail and before it had written down the server's answer: the mail was "
    "very probably accepted.",
    "Look for the Message-ID in the mailbox's Sent Items or in the message trace, then: "
    "postlane doubt resolve ID --accepted (or --not-sent).",
)

_KNOWN = frozenset(
    {
        DeliveryStatus.ACCEPTED,
        DeliveryStatus.PARTIALLY_ACCEPTED,
        DeliveryStatus.HANDED_OVER,
        DeliveryStatus.FAILED,
        DeliveryStatus.EXPIRED,
    }
)

_ILLEGIBLE = Refusal(
    "internal-error",
    "notification",
    "It came back from a wait queue with a progress that this worker cannot read, so who has the mail is not known.",
    f"{_REPORT_IT} Look for the mail in the mailbox's Sent Items before sending it again.",
)
