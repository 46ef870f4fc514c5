"""Whether and how a dead letter may be sent on its way again. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.address import AddrSpec, parse
from contracts.delivery import RecipientStatus, Result
from contracts.notification import Notification
from contracts.recipients import split
from contracts.wire import Malformed, Properties, decode
from worker.domain.carry import unpack
from worker.domain.delivery import Outcome, Progress
from worker.domain.reply import EnhancedStatusCode, Reply

_TAKEN = (RecipientStatus.ACCEPTED, RecipientStatus.HANDED_OVER)


@dataclass(frozen=True, slots=True)
class Correction:
    """What is to be different this time.

    Attributes:
        mailbox: send through this one.
        recipients: old address → new address.
        document: replaces the whole message.
    """

    mailbox: str | None = None
    recipients: Mapping[str, str] | None = None
    document: bytes | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """It may go."""

    body: bytes
    notification: Notification
    progress: Progress


@dataclass(frozen=True, slots=True)
class Unfit:
    """It may not, or there is no use in it."""

    why: str


def prepare(
    body: bytes,
    properties: Properties,
    last: Result | None,
    correction: Correction,
    now: datetime,
    *,
    carry: str = "",
    even_in_doubt: bool = False,
) -> Replay | Unfit:
    """Prepare a letter for another life: who has the mail keeps it, who may have it is left alone.

    Args:
        body: of the letter.
        properties: of the letter.
        last: the latest result on record; None if the notification was never taken on.
        correction: what is to be different.
        now: the moment, from which its time to be retried counts anew.
        carry: the progress that lies with the letter; what is on record is newer.
        even_in_doubt: send it to those as well who may have it.
    """
    corrected = _corrected(body, correction)
    match decode(corrected, properties, max_octets=max(len(corrected), 1)):
        case Malformed(problems):
            listed = "; ".join(f"{item.field} {item.problem}" for item in problems)
            return Unfit(f"it would be rejected again: {listed}; give a corrected message")
        case Notification() as notification:
            pass
        case _:
            return Unfit("it is a cancellation; cancel again instead")
    if notification.expired(now):
        return Unfit(f"it was worthless after {notification.expires_at:%Y-%m-%d %H:%M:%S %Z}")
    before = _carried(body, properties, carry)
    if before is None:
        return Unfit("the progress that lies with it cannot be read, so who has the mail is not known")
    settled = {**before.settled, **_settled(last)}
    if not even_in_doubt and any(outcome.status is RecipientStatus.IN_DOUBT for outcome in settled.values()):
        return Unfit("somebody may have it already: end the doubt first (postlane doubt resolve)")
    kept = {rcpt: outcome for rcpt, outcome in settled.items() if outcome.status in _TAKEN}
    people = {person.spec for person in notification.recipients()}
    if people and people <= kept.keys():  # an event's people are the rule's
        return Unfit("everybody has it already")
    return Replay(corrected, notification, Progress(first_seen=now, settled=kept, replays=before.replays + 1))


def _carried(body: bytes, properties: Properties, carry: str) -> Progress | None:
    """What lay with the letter; it names people by their position in the message as it was."""
    original = decode(body, properties, max_octets=max(len(body), 1))
    nothing = Progress(first_seen=datetime.min.replace(tzinfo=UTC))
    if not carry or not isinstance(original, Notification):
        return nothing
    try:
        return unpack(carry, original)
    except ValueError:
        return None


def _corrected(body: bytes, correction: Correction) -> bytes:
    """The body with the correction; what cannot be read stays as it is and is told so by the decoder."""
    if correction.document is not None:
        return correction.document
    if not correction.mailbox and not correction.recipients:
        return body
    try:
        document = json.loads(body)
    except ValueError:
        return body
    if not isinstance(document, dict):
        return body
    if correction.mailbox:
        document["mailbox"] = correction.mailbox
    for name in ("to", "cc", "bcc"):
        if isinstance(document.get(name), str):
            document[name] = split(document[name])
        if isinstance(document.get(name), list):
            document[name] = [_renamed(person, correction.recipients or {}) for person in document[name]]
    return json.dumps(document, ensure_ascii=False).encode()


def _renamed(person: object, names: Mapping[str, str]) -> object:
    match person:
        case str():
            return names.get(person.lower(), person)
        case {"address": str(address), **rest}:
            return {**rest, "address": names.get(address.lower(), address)}
        case _:
            return person


def _settled(last: Result | None) -> Mapping[AddrSpec, Outcome]:
    if last is None:
        return {}
    return {
        parse(item.address): Outcome(
            item.status,
            Reply(item.code, EnhancedStatusCode.parse(item.enhanced or ""), item.text) if item.code else None,
            item.kind,
        )
        for item in last.recipients
    }
