"""Asking for a connection's permit, whatever it is that is opened."""

from __future__ import annotations

import asyncio

from worker.domain.mailbox import Mailbox
from worker.ports import Permits

PATIENCE = 2.0  # seconds
_LOOKS = 8  # within the patience


async def permitted(permits: Permits, mailbox: Mailbox) -> int | None:
    """A permit as soon as there is one; None if there is none within a moment."""
    permit = await permits.acquire(mailbox)
    for _ in range(_LOOKS):
        if permit is not None:
            break
        await asyncio.sleep(PATIENCE / _LOOKS)
        permit = await permits.acquire(mailbox)
    return permit
