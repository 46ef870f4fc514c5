"""Getting a place at a mailbox: in this worker's own short line, and a permit that all workers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.domain.mailbox import Mailbox
from worker.ports import Permits

PATIENCE = 2.0  # seconds
_LOOKS = 8  # within the patience
_LINE_PER_PLACE = 2


class Places:
    """Connections or requests of one mailbox in this worker, and a line before them.

    The line is kept short: a mailbox with a backlog must not occupy the whole worker. Urgent mail may join it always.
    """

    def __init__(self, count: int, patience: float = PATIENCE) -> None:
        """All are free.

        Args:
            count: places.
            patience: seconds that a mail may wait for one.
        """
        self._places = asyncio.Semaphore(count)
        self._longest = count * _LINE_PER_PLACE
        self._patience = patience
        self._waiting = 0

    @asynccontextmanager
    async def place(self, *, urgent: bool) -> AsyncIterator[bool]:
        """A place while the context lasts; False if there is none within the patience."""
        if not await self._taken(urgent=urgent):
            yield False
            return
        try:
            yield True
        finally:
            self._places.release()

    async def _taken(self, *, urgent: bool) -> bool:
        if self._places.locked() and not urgent and self._waiting >= self._longest:
            return False
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                return await self._places.acquire()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1


async def permitted(permits: Permits, mailbox: Mailbox) -> int | None:
    """A permit as soon as there is one; None if there is none within a moment."""
    permit = await permits.acquire(mailbox)
    for _ in range(_LOOKS):
        if permit is not None:
            break
        await asyncio.sleep(PATIENCE / _LOOKS)
        permit = await permits.acquire(mailbox)
    return permit
