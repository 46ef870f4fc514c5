"""Mass mail: one notification to many people becomes one mail a person. Pure.

The parts have ids of their own that anybody can work out: `<id>/<n>`, where n is the recipient's place in to, cc and
bcc together, counted from 1. So it does no harm to split the same notification twice, and a single part, or all of
them, can be cancelled by id.
"""

from __future__ import annotations

import hashlib

from contracts.address import AddrSpec
from contracts.cancellation import Cancellation
from contracts.notification import MASS, Address, Notification
from contracts.wire import encode
from worker.domain.routing import Refusal

MAX_OCTETS = 256 * 1024 * 1024  # that all parts together may put into the broker
_MAX_ID = 128
_LONGEST_PLACE = len("/1000")


def to_many(notification: Notification) -> bool:
    """Whether it is to be split."""
    return notification.category == MASS and len({person.spec for person in notification.recipients()}) > 1


def split(notification: Notification) -> tuple[Notification, ...]:
    """A notification for every recipient, in their order; who is named twice gets one."""
    first: dict[AddrSpec, tuple[int, Address]] = {}
    for place, person in enumerate(notification.recipients(), 1):
        first.setdefault(person.spec, (place, person))
    return tuple(
        notification.model_copy(update={"id": part_id(notification.id, place), "to": (person,), "cc": (), "bcc": ()})
        for place, person in first.values()
    )


def too_large(notification: Notification) -> Refusal | None:
    """Refuse what the broker could not hold."""
    people = len({person.spec for person in notification.recipients()})
    octets = len(encode(notification))
    if people * octets <= MAX_OCTETS:
        return None
    return Refusal(
        "too-large",
        "attachments",
        f"{people} mails from a message of {octets} octets would be more than {MAX_OCTETS} octets in the broker.",
        "Give large attachments by reference, or send it to fewer people at once.",
    )


def places(notification: Notification) -> int:
    """The highest number of a part."""
    return len(tuple(notification.recipients()))


def part_id(whole: str, place: int) -> str:
    """Id of a part. Of an id that is too long to be added to, its digest is taken."""
    if len(whole) > _MAX_ID - _LONGEST_PLACE:
        whole = hashlib.sha256(whole.encode()).hexdigest()
    return f"{whole}/{place}"


def cancellations(wish: Cancellation, count: int) -> tuple[Cancellation, ...]:
    """Take back every part of a notification that was split."""
    return tuple(
        Cancellation(type="postlane.cancel.v1", id=part_id(wish.id, place), tenant=wish.tenant)
        for place in range(1, count + 1)
    )
