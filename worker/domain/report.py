"""Results: what the producer is told, made from decisions."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from contracts.address import AddrSpec
from contracts.cancellation import Cancellation
from contracts.delivery import DeliveryStatus, MailboxUsed, Problem, Reason, RecipientResult, RecipientStatus, Result
from contracts.notification import Notification
from contracts.wire import Malformed, Properties
from worker.domain import mass
from worker.domain.delivery import Outcome, Progress, overall
from worker.domain.reply import bounded
from worker.domain.routing import Refusal, Route
from worker.domain.verdict import Verdict

_NAMESPACE = uuid.UUID("6d9c7d52-3c0b-5d0e-9d3c-0f1b5b7f2a10")
_NOBODY: Mapping[AddrSpec, Outcome] = MappingProxyType({})
_MAX_REPLY = 600  # characters of a server's words per recipient


@dataclass(frozen=True, slots=True)
class Case:
    """What every result about one notification has in common."""

    notification: Notification
    properties: Properties
    progress: Progress
    now: datetime


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a mail of which nobody knows whether it was sent would be found."""

    route: Route
    message_id: str


def malformed(found: Malformed, body: bytes, properties: Properties, now: datetime) -> Result:
    """The answer to a message that is no notification."""
    listed = "; ".join(f"{item.field} {item.problem}" for item in found.problems)
    seed = f"{properties.message_id}\0{hashlib.sha256(body).hexdigest()}"
    return Result(
        event_id=_event_id(seed, DeliveryStatus.REJECTED, 0),
        notification_id=found.notification_id,
        correlation_id=properties.correlation_id,
        tenant=found.tenant,
        status=DeliveryStatus.REJECTED,
        final=True,
        received_at=now,
        occurred_at=now,
        reason=Reason(
            kind="malformed",
            explanation=f"The message is not a valid notification: {listed}.",
            remedy="Correct it at the producer; the original lies in the dead-letter queue.",
            problems=found.problems,
        ),
    )


def crashed(found: Notification | Malformed, body: bytes, properties: Properties, now: datetime) -> Result:
    """The answer to a message on which Postlane itself failed: how far it had come by then is not known."""
    if isinstance(found, Malformed):
        return malformed(found, body, properties, now)
    kind = "internal-error"
    return Result(
        event_id=_event_id(f"{found.tenant}\0{found.id}\0{kind}", DeliveryStatus.IN_DOUBT, 0),
        notification_id=found.id,
        correlation_id=properties.correlation_id,
        tenant=found.tenant,
        category=found.category,
        status=DeliveryStatus.IN_DOUBT,
        final=True,
        received_at=now,
        occurred_at=now,
        reason=Reason(
            kind=kind,
            explanation="Postlane itself failed on this notification; whether a mail had left by then is not known.",
            remedy="The worker's log has the fault, the dead-letter queue the notification. Report the fault.",
        ),
        metadata=found.metadata,
    )


def cancelled(wish: Cancellation, properties: Properties, last: Result | None, now: datetime) -> Result:
    """The end of a notification that was taken back in time, for all recipients that had no mail by then.

    Args:
        wish: the cancellation.
        properties: of its message.
        last: the latest result so far, if there is one: what is settled in it stays.
        now: the moment.
    """
    seed = f"{wish.tenant}\0{wish.id}\0\0"
    reason = Reason(kind="cancelled", explanation="Its producer took it back before it was handed over.")
    if last is None:
        return Result(
            event_id=_event_id(seed, DeliveryStatus.CANCELLED, 0),
            notification_id=wish.id,
            correlation_id=properties.correlation_id,
            tenant=wish.tenant,
            status=DeliveryStatus.CANCELLED,
            final=True,
            received_at=now,
            occurred_at=now,
            reason=reason,
        )
    kept = tuple(
        item
        if item.status is not RecipientStatus.DEFERRED
        else item.model_copy(update={"status": RecipientStatus.CANCELLED, "kind": "cancelled"})
        for item in last.recipients
    )
    taken = any(item.status in (RecipientStatus.ACCEPTED, RecipientStatus.HANDED_OVER) for item in kept)
    status = DeliveryStatus.PARTIALLY_ACCEPTED if taken else DeliveryStatus.CANCELLED
    changes = {
        "event_id": _event_id(seed, status, last.attempt),
        "status": status,
        "final": True,
        "recipients": kept,
        "occurred_at": now,
        "next_attempt_at": None,
        "reason": reason,
    }
    return last.model_copy(update=changes)


def not_cancelled(wish: Cancellation, properties: Properties, refusal: Refusal, now: datetime) -> Result:
    """The answer to a cancellation whose producer had no right to it."""
    return Result(
        event_id=_event_id(f"{wish.tenant}\0{wish.id}\0cancel\0{refusal.kind}", DeliveryStatus.REJECTED, 0),
        notification_id=None,  # the notification itself has its own results, and only one of them is final
        correlation_id=properties.correlation_id,
        tenant=wish.tenant,
        status=DeliveryStatus.REJECTED,
        final=True,
        received_at=now,
        occurred_at=now,
        reason=Reason(
            kind=refusal.kind,
            explanation=f"The cancellation of {wish.id!r} was refused. {refusal.explanation}",
            remedy=refusal.remedy,
            problems=(Problem(field=refusal.field, problem=refusal.explanation),),
        ),
    )


def resolved(known: Result, now: datetime) -> Result:
    """The end of a doubt: what came of the notification after all, after its final result `in_doubt`."""
    told = known.reason.explanation if known.reason else f"What came of it is known now: {known.status}."
    reason = Reason(kind="resolved", explanation=told, remedy=known.reason.remedy if known.reason else "")
    seed = f"{known.tenant}\0{known.notification_id}\0\0"
    changes = {
        "event_id": _event_id(seed, DeliveryStatus.RESOLVED, known.attempt),
        "status": DeliveryStatus.RESOLVED,
        "final": True,
        "occurred_at": now,
        "reason": reason,
    }
    return known.model_copy(update=changes)


def looked_up(doubt: Result, *, accepted: bool, finder: str, now: datetime) -> Result:
    """The end of a doubt that somebody has looked into.

    Args:
        doubt: the result that told of it.
        accepted: what was found.
        finder: who has found it.
        now: the moment.
    """
    status, word = (RecipientStatus.ACCEPTED, "was") if accepted else (RecipientStatus.FAILED, "was not")
    recipients = tuple(
        item.model_copy(update={"status": status, "kind": "" if accepted else "resolved"})
        if item.status is RecipientStatus.IN_DOUBT
        else item
        for item in doubt.recipients
    )
    reason = Reason(kind="resolved", explanation=f"{finder} found that the mail {word} accepted.")
    return resolved(doubt.model_copy(update={"recipients": recipients, "reason": reason}), now)


def due_since(case: Case) -> datetime:
    """The moment from which the notification could be sent: what its Date header and its retry horizon begin with."""
    not_before = case.notification.not_before
    return max(case.progress.first_seen, not_before) if not_before else case.progress.first_seen


def refused(
    case: Case,
    refusal: Refusal,
    outcomes: Mapping[AddrSpec, Outcome] = _NOBODY,
    nobody: DeliveryStatus = DeliveryStatus.REJECTED,
    trace: Trace | None = None,
) -> Result:
    """The answer to a notification that is not to be sent, or no further.

    Args:
        case: what it is about.
        refusal: why.
        outcomes: of all recipients, if some have the mail already or may have it; else empty.
        nobody: the status if nothing is known of anybody.
        trace: where to look for a mail that may have been sent.
    """
    return _result(
        case,
        overall(outcomes) if outcomes else nobody,
        route=trace.route if trace else None,
        outcomes=outcomes,
        reason=_because(refusal),
        message_id=trace.message_id if trace else None,
    )


def expanded(case: Case, parts: int, last_id: str) -> Result:
    """The answer to a mass mail: from here on its parts have results of their own."""
    notification = case.notification
    result = _result(
        case,
        DeliveryStatus.EXPANDED,
        outcomes=_NOBODY,
        reason=Reason(
            kind="mass",
            explanation=f"It became {parts} mails, one for each recipient, with ids up to {last_id}; "
            "each has results of its own.",
            remedy=f"To stop those that are not sent yet: postlane cancel {notification.id}",
        ),
    )
    return result.model_copy(update={"expanded_into": mass.places(notification)})


def expired(case: Case, outcomes: Mapping[AddrSpec, Outcome] = _NOBODY) -> Result:
    """The answer to a notification whose time has passed; outcomes as in `refused`."""
    expiry = f"{case.notification.expires_at:%Y-%m-%d %H:%M:%S %Z}"
    sent = "it was not sent to those who had no mail by then" if outcomes else "it was not sent"
    return _result(
        case,
        overall(outcomes, expires=True) if outcomes else DeliveryStatus.EXPIRED,
        outcomes=outcomes,
        reason=Reason(kind="expired", explanation=f"It was worthless after {expiry}; {sent}."),
    )


def suppressed(case: Case, route: Route, outcomes: Mapping[AddrSpec, Outcome] = _NOBODY) -> Result:
    """The answer to a notification that a dry run keeps from leaving; outcomes as in `refused`."""
    return _result(
        case,
        overall(outcomes) if outcomes else DeliveryStatus.SUPPRESSED,
        route=route,
        outcomes=outcomes,
        reason=Reason(
            kind="suppressed",
            explanation=f"Suppressed mode is on: nothing was sent. Mailbox {route.mailbox.name!r} would have.",
            remedy="Remove `suppress` when mail may leave, then publish the notification under a new id.",
        ),
    )


def attempted(
    case: Case,
    route: Route | None,
    status: DeliveryStatus,
    outcomes: Mapping[AddrSpec, Outcome],
    *,
    verdict: Verdict | None,
    message_id: str | None,
    next_attempt_at: datetime | None,
) -> Result:
    """The answer after an attempt, for all recipients, those settled before included."""
    return _result(
        case,
        status,
        route=route,
        outcomes=outcomes,
        reason=_reason(verdict) if verdict is not None else None,
        message_id=message_id,
        next_attempt_at=next_attempt_at,
    )


def _result(
    case: Case,
    status: DeliveryStatus,
    *,
    route: Route | None = None,
    outcomes: Mapping[AddrSpec, Outcome],
    reason: Reason | None = None,
    message_id: str | None = None,
    next_attempt_at: datetime | None = None,
) -> Result:
    notification, attempt = case.notification, case.progress.attempts
    seed = "\0".join([notification.tenant, notification.id, *(["again"] * case.progress.replays)])
    moment = case.now.isoformat() if status is DeliveryStatus.DEFERRED else ""
    return Result(
        event_id=_event_id(f"{seed}\0{moment}\0{reason.kind if reason else ''}", status, attempt),
        notification_id=notification.id,
        correlation_id=case.properties.correlation_id,
        tenant=notification.tenant,
        category=notification.category,
        status=status,
        final=status.final,
        recipients=tuple(_recipients(notification, outcomes)),
        mailbox=_mailbox(route) if route else None,
        redirected_to=str(route.redirect.to) if route and route.redirect else None,
        message_id=message_id,
        server_reply=_last_reply(outcomes, case.progress.settled),
        attempt=attempt,
        received_at=case.progress.first_seen,
        occurred_at=case.now,
        next_attempt_at=next_attempt_at,
        reason=reason,
        metadata=notification.metadata,
    )


def _recipients(notification: Notification, outcomes: Mapping[AddrSpec, Outcome]) -> Iterable[RecipientResult]:
    """Each address once, as the producer wrote it."""
    told: set[AddrSpec] = set()
    for person in notification.recipients():
        outcome = outcomes.get(person.spec)
        if outcome is None or person.spec in told:
            continue
        told.add(person.spec)
        reply = outcome.reply
        yield RecipientResult(
            address=person.address,
            status=outcome.status,
            code=reply.code if reply else None,
            enhanced=str(reply.enhanced) if reply and reply.enhanced else None,
            text=bounded(reply.text, _MAX_REPLY) if reply else "",
            kind=outcome.verdict,
        )


def _mailbox(route: Route) -> MailboxUsed:
    mailbox = route.mailbox
    return MailboxUsed(
        name=mailbox.name,
        address=str(mailbox.address),
        transport=mailbox.transport,
        because=route.because,
        why=route.why or None,
    )


def _because(refusal: Refusal) -> Reason:
    return Reason(
        kind=refusal.kind,
        explanation=refusal.explanation,
        remedy=refusal.remedy,
        problems=(Problem(field=refusal.field, problem=refusal.explanation),),
    )


def _reason(verdict: Verdict) -> Reason:
    return Reason(kind=verdict.kind, explanation=verdict.explanation, remedy=verdict.remedy, link=verdict.link)


def _last_reply(outcomes: Mapping[AddrSpec, Outcome], before: Mapping[AddrSpec, Outcome]) -> str | None:
    """What the server said in this attempt, not in an earlier one."""
    said = (outcome.reply for rcpt, outcome in outcomes.items() if rcpt not in before and outcome.reply is not None)
    last = next(said, None)
    return str(last) if last is not None else None


def _event_id(seed: str, status: DeliveryStatus, attempt: int) -> str:
    """The same event always has the same id, so that a repeated one can be dropped."""
    return str(uuid.uuid5(_NAMESPACE, f"{seed}\0{status}\0{attempt}"))
