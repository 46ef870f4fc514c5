"""The use case: one delivery from the broker becomes one Decision.

Read `Courier.deliver` from top to bottom; every step either goes on or ends in a Decision. The order is the promise:
claim before anything leaves, the ledger marked before the final dot, the outcome recorded before the result is
published, the result published before the broker may forget the message.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from contracts.address import AddrSpec
from contracts.notification import Notification
from contracts.wire import Malformed, Properties, decode
from worker.domain import report
from worker.domain.carry import pack, unpack
from worker.domain.decision import (
    Acknowledge,
    Decision,
    Trial,
    WaitUntil,
    after_attempt,
    expire,
    puzzle,
    refuse,
    reject,
    while_busy,
    while_held,
)
from worker.domain.delivery import Broken, Busy, Fault, Fenced, Progress, Stage, Submission
from worker.domain.envelope import Envelope
from worker.domain.judgement import Judgement, judge
from worker.domain.mailbox import Directory, Endpoint, Mailbox
from worker.domain.message import OutgoingMessage, compose, sender_of
from worker.domain.permission import authorise
from worker.domain.report import Case, due_since
from worker.domain.retry import RetryPolicy
from worker.domain.routing import Refusal, Route, check_sender, route
from worker.domain.verdict import Row
from worker.events import Crashed, MailboxPaused, MailboxResumed, UnknownReply
from worker.ports import (
    Admission,
    Claimed,
    Clock,
    Contradicted,
    Dice,
    FileMissing,
    Files,
    Finished,
    Gate,
    Hold,
    Key,
    Ledger,
    Observe,
    Transport,
    Underway,
)

_LOOK_AGAIN = timedelta(seconds=2)  # when somebody else has it
_THREAD_ABOVE = 256 * 1024  # octets of body beyond which composing would hold up the event loop
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
    gate: Gate
    transports: Mapping[type[Endpoint], Transport]
    files: Files
    policy: RetryPolicy
    clock: Clock
    dice: Dice
    observe: Observe
    max_octets: int = field(default=16 * 1024 * 1024)

    async def deliver(self, intake: Intake) -> Decision:
        """Decide on one delivery."""
        now = self.clock()
        notification = decode(intake.body, intake.properties, max_octets=self.max_octets)
        if isinstance(notification, Malformed):
            return reject(report.malformed(notification, intake.body, intake.properties, now))
        case = Case(notification, intake.properties, Progress(first_seen=now), now)
        if refusal := _forged(intake) or authorise(notification, intake.properties, self.directory):
            return refuse(case, refusal)
        try:
            progress = unpack(intake.carry, notification) if intake.carry else case.progress
        except ValueError as error:
            self.observe(Crashed("carry", notification.id, error))
            return puzzle(case, _ILLEGIBLE, _open(case))
        match await self.ledger.claim(_key(notification), _digest(notification), progress):
            case Finished(result):
                return Decision((result,), Acknowledge())
            case Underway():
                return Decision((), WaitUntil(now + _LOOK_AGAIN), intake.carry)
            case Contradicted():
                return refuse(case, _USED_ID)
            case Claimed(further):
                decision = await self._settled(replace(case, progress=further))
                left = decision.progress
                return replace(decision, carry=pack(left, notification)) if left else decision

    async def _settled(self, case: Case) -> Decision:
        """Deliver a claimed notification and record what came of it, before anybody is told."""
        handover = _Handover(self.ledger, _key(case.notification), self.observe)
        try:
            decision = await self._due(case, handover)
        except Exception as error:  # noqa: BLE001 - the boundary: a bug must not become a loop of redeliveries
            self.observe(Crashed("courier", case.notification.id, error))
            conclude, bug = (puzzle, _BUG_AFTER) if handover.begun else (refuse, _BUG_BEFORE)
            decision = conclude(case, bug, _open(case))
        await self.ledger.settle(_key(case.notification), decision.progress or case.progress, decision.final)
        return decision

    async def _due(self, case: Case, handover: _Handover) -> Decision:
        notification = case.notification
        if notification.expired(case.now):
            return expire(case, _open(case))
        if notification.not_before is not None and notification.not_before > case.now:
            return Decision((), WaitUntil(notification.not_before, case.progress))
        match route(notification, self.directory):
            case Refusal() as refusal:
                return refuse(case, refusal, _open(case))
            case Route(mailbox) as chosen:
                refused = check_sender(notification, mailbox)
                return refuse(case, refused, _open(case)) if refused else await self._routed(case, chosen, handover)

    async def _routed(self, case: Case, chosen: Route, handover: _Handover) -> Decision:
        mailbox = chosen.mailbox
        still_open = _open(case)
        tried = case.progress.turn(still_open)
        envelope = Envelope.of(sender_of(case.notification, mailbox).spec, tried)
        waiting = tuple(rcpt for rcpt in still_open if rcpt not in tried)
        trial = Trial(case, chosen, self.policy, envelope.rcpt_to, None, case.now, self.dice(), waiting)
        match self.gate.admit(mailbox.name, case.now):
            case Hold(until, verdict):
                return while_held(trial, verdict, until)
            case Admission() as admission:
                return await self._admitted(trial, envelope, admission, handover)

    async def _admitted(self, trial: Trial, envelope: Envelope, admission: Admission, handover: _Handover) -> Decision:
        case, mailbox = trial.case, trial.route.mailbox
        try:
            message = await self._compose(case, mailbox)
            submission = await self._submit(case, mailbox, envelope, message, handover)
        except FileMissing as error:
            self.gate.cleared(admission, tried=False)
            return refuse(case, _missing(error), _open(case))
        except BaseException:
            self.gate.cleared(admission, tried=False)
            raise
        trial = replace(trial, message_id=message.message_id, now=self.clock())
        return self._judged(trial, submission, admission)

    async def _compose(self, case: Case, mailbox: Mailbox) -> OutgoingMessage:
        notification = case.notification
        files = await self.files.fetch(notification.attachments)
        size = sum(map(len, (notification.text or "", notification.html or "", *files)))
        if size <= _THREAD_ABOVE:
            return compose(notification, mailbox, files, _date(case))
        return await asyncio.to_thread(compose, notification, mailbox, files, _date(case))

    async def _submit(
        self, case: Case, mailbox: Mailbox, envelope: Envelope, message: OutgoingMessage, handover: _Handover
    ) -> Submission:
        """One attempt. A bug of ours in a transport is no surprise to the producer: how far it came decides."""
        transport = self.transports[type(mailbox.endpoint)]
        try:
            return await transport.submit(mailbox, envelope, message, handover)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, the mail's fate must be told
            self.observe(Crashed("submit", case.notification.id, error))
            return Broken(Stage.DOT if handover.begun else Stage.CONNECT, Fault.INTERNAL, type(error).__name__)

    def _judged(self, trial: Trial, submission: Submission, admission: Admission) -> Decision:
        if isinstance(submission, Busy | Fenced):
            self.gate.cleared(admission, tried=False)
            return while_busy(trial)
        judgement = judge(submission, trial.tried, self.rows, trial.case.notification.on_doubt)
        for stage, reply in judgement.unknown:
            self.observe(UnknownReply(admission.mailbox, stage, str(reply)))
        ours = isinstance(submission, Broken) and submission.fault is Fault.INTERNAL
        return after_attempt(trial, judgement, self._rest(admission, judgement, trial.now, tried=not ours))

    def _rest(self, admission: Admission, judgement: Judgement, now: datetime, *, tried: bool) -> datetime | None:
        """Pause the mailbox or clear it; the end of the pause if there is one."""
        mailbox, verdict = admission.mailbox, judgement.pause
        if verdict is None:
            if self.gate.cleared(admission, tried=tried):
                self.observe(MailboxResumed(mailbox))
            return None
        until = self.gate.paused(admission, verdict, now)
        self.observe(MailboxPaused(mailbox, verdict.kind, verdict.explanation, verdict.remedy, until))
        return until


class _Handover:
    """The ledger's mark before the point of no return, and whether it was set: it tells `failed` from `in doubt`."""

    def __init__(self, ledger: Ledger, key: Key, observe: Observe) -> None:
        self._ledger = ledger
        self._key = key
        self._observe = observe
        self.begun = False

    async def __call__(self) -> bool:
        try:
            self.begun = await self._ledger.handing_over(self._key)
        except Exception as error:  # noqa: BLE001 - without the mark nothing may be sent, and nothing was: try later
            self._observe(Crashed("ledger", self._key.notification_id, error))
        return self.begun


def _open(case: Case) -> tuple[AddrSpec, ...]:
    """The recipients that are still open, each once."""
    everybody = dict.fromkeys(person.spec for person in case.notification.recipients())
    return tuple(rcpt for rcpt in everybody if rcpt not in case.progress.settled)


def _key(notification: Notification) -> Key:
    return Key(notification.tenant.lower(), notification.id)


def _digest(notification: Notification) -> str:
    """Fingerprint of the content: the same for the same message, however its JSON is laid out."""
    content = {**notification.model_dump(mode="json"), "tenant": notification.tenant.lower()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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

_ILLEGIBLE = Refusal(
    "internal-error",
    "notification",
    "It came back from a wait queue with a progress that this worker cannot read, so who has the mail is not known.",
    f"{_REPORT_IT} Look for the mail in the mailbox's Sent Items before sending it again.",
)
