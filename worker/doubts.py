"""Doubts that end by themselves: what lies in the mailbox's Sent Items was accepted.

Looking proves only that: a mail that does not lie there may still have been accepted, so a doubt that finds nothing
stays with a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from worker.domain.mailbox import Mailbox
from worker.domain.report import looked_up
from worker.events import DoubtEnded
from worker.ports import Doubt, Lookup, Observe, Register

FINDER = "A look into Sent Items"
_AGES = timedelta(seconds=20), timedelta(days=2)  # the copy comes a moment after the mail; later on it may be moved
_AT_ONCE = 50


async def look_into(
    register: Register, lookup: Lookup, mailboxes: Mapping[str, Mailbox], now: datetime, observe: Observe
) -> None:
    """Look once into the doubts that may be old enough, and end those that a look ends.

    Raises:
        StoreDown: the store is out of reach.
    """
    youngest, oldest = _AGES
    candidates = [doubt for doubt in await register.doubts() if youngest <= now - doubt.result.occurred_at <= oldest]
    for doubt in candidates[:_AT_ONCE]:
        if await _lies_there(doubt, lookup, mailboxes):
            result = looked_up(doubt.result, accepted=True, finder=FINDER, now=now)
            if await register.resolve(doubt.key, result, None, FINDER):
                observe(DoubtEnded(doubt.key.notification_id))


async def _lies_there(doubt: Doubt, lookup: Lookup, mailboxes: Mapping[str, Mailbox]) -> bool:
    used, message_id = doubt.result.mailbox, doubt.result.message_id
    mailbox = mailboxes.get(used.name) if used else None
    return mailbox is not None and message_id is not None and await lookup.was_sent(mailbox, message_id) is True
