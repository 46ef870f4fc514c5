"""AMQP messages to intakes, and decisions to AMQP messages: which headers are ours, and whom we believe them.

A message that comes back from a wait queue was published by a worker, so the broker has put the worker's login into
`user_id`. Only then are our headers believed; from anybody else they are an attempt to deceive.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage
from pamqp.encode import field_table

from contracts.cancellation import Cancellation
from contracts.delivery import Result
from contracts.notification import Notification
from contracts.wire import JSON, Properties, encode
from worker.courier import Intake
from worker.domain.decision import DeadLetter

OURS = "x-postlane-"
NOT_BEFORE = "x-postlane-not-before"
CARRY = "x-postlane-carry"
PRODUCER = "x-postlane-producer"
MESSAGE_ID = "x-postlane-message-id"
REASON = "x-postlane-reason"
EXPLANATION = "x-postlane-explanation"
DIED_AT = "x-postlane-died-at"
KEY = "x-postlane-routing-key"
MAILBOX = "x-postlane-mailbox"

# Set by the broker, or orders to it: CC and BCC would send copies to queues of the producer's choice with our rights.
_NOT_COPIED = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-opt-", "x-acquired-count", OURS)
_ORDERS = frozenset({"cc", "bcc"})
_LARGEST_HEADERS = 32 * 1024  # octets; with ours they must fit into one frame of 128 KiB


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery, understood as far as AMQP goes.

    Attributes:
        not_before: it came back too early from a wait queue; None: it may be worked on at once.
        urgency: smaller is sooner.
    """

    intake: Intake
    not_before: datetime | None
    urgency: int


def received(message: AbstractIncomingMessage, own_login: str) -> Parcel:
    """Read a delivery."""
    headers = message.headers
    ours = message.user_id == own_login
    reserved = () if ours else tuple(sorted(name for name in headers if name.lower().startswith(OURS)))
    hop = headers if ours and CARRY in headers else {}
    properties = Properties(
        message_id=_text(hop.get(MESSAGE_ID)) if hop else message.message_id,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        user_id=_text(hop.get(PRODUCER)) if hop else message.user_id,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        timestamp=message.timestamp,
        routing_key=message.routing_key or "",
        headers=dict(headers),
    )
    return Parcel(
        Intake(message.body, properties, _text(hop.get(CARRY)) or "", reserved),
        _moment(hop.get(NOT_BEFORE)),
        -(message.priority or 4),
    )


def parked(message: AbstractIncomingMessage, parcel: Parcel, until: datetime, carry: str, login: str) -> Message:
    """The message as it goes into a wait queue: the same octets, our headers, a fresh AMQP id."""
    ours = {NOT_BEFORE: math.ceil(until.timestamp() * 1000), CARRY: carry}  # never early, not even by a fraction
    return _copy(message, parcel, ours, login)


def buried(
    message: AbstractIncomingMessage, parcel: Parcel, dead: DeadLetter, carry: str, login: str, now: datetime
) -> Message:
    """The message as it goes to the dead letters: the same octets, and why."""
    ours = {
        REASON: dead.kind,
        EXPLANATION: dead.explanation[:1000],
        DIED_AT: now.isoformat(),
        KEY: message.routing_key or "",
        MAILBOX: dead.mailbox,
        CARRY: carry,
    }
    return _copy(message, parcel, ours, login)


def replayed(message: AbstractIncomingMessage, parcel: Parcel, body: bytes, carry: str, login: str) -> Message:
    """A dead letter on its way again, with the octets that it is to have now."""
    copy = _copy(message, parcel, {CARRY: carry}, login)
    copy.body, copy.body_size = body, len(body)
    return copy


def part(message: AbstractIncomingMessage, parcel: Parcel, content: Notification | Cancellation, login: str) -> Message:
    """What a message is split into: its producer's word still, in other octets and under another id."""
    copy = _copy(message, parcel, {CARRY: "", MESSAGE_ID: content.id}, login)
    copy.body = encode(content)
    copy.body_size = len(copy.body)
    copy.content_type, copy.content_encoding, copy.type = JSON, None, content.type
    return copy


def published(result: Result, login: str, *, message_id: str) -> Message:
    """A result on its way."""
    outgoing = Message(
        encode(result),
        content_type=JSON,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=message_id,
        correlation_id=result.correlation_id,
        timestamp=result.occurred_at,
        type=result.type,
        user_id=login,
        app_id="postlane",
    )
    outgoing.priority = None
    return outgoing


def _copy(message: AbstractIncomingMessage, parcel: Parcel, ours: Mapping[str, Any], login: str) -> Message:
    """A copy must not share its AMQP id with the original: the library tells returned messages apart by it."""
    kept = {
        name: value
        for name, value in message.headers.items()
        if not name.lower().startswith(_NOT_COPIED) and name.lower() not in _ORDERS
    }
    if len(field_table(kept)) > _LARGEST_HEADERS:
        kept = {"x-headers-dropped": f"{len(kept)} headers were too large to keep"}
    properties = parcel.intake.properties
    known = {PRODUCER: properties.user_id, MESSAGE_ID: properties.message_id}
    copy = Message(
        message.body,
        headers={**kept, **{name: value for name, value in known.items() if value is not None}, **ours},
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=uuid.uuid4().hex,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        timestamp=message.timestamp,
        type=message.type,
        app_id=message.app_id,
        user_id=login,
    )
    copy.priority = message.priority or None
    return copy


def _moment(milliseconds: object) -> datetime | None:
    """None if it is no moment: what nobody can have meant must not wait for ever."""
    if not isinstance(milliseconds, int):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _text(value: object) -> str | None:
    match value:
        case str():
            return value
        case bytes():
            return value.decode("utf-8", "replace")
        case _:
            return None
