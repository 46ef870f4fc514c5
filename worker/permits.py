"""Getting a place at a mailbox: in this worker's own short line, and a permit that all workers share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from worker.domain.mailbox import Mailbox
from worker.ports import Permits

PATIENCE = 2.0  # seconds
_LOOK_EVERY = 0.25  # seconds
_LINE_PER_PLACE = 2

GivesWay = Callable[[], bool]
"""Whether urgent mail has come to wait behind this one."""


class Places:
    """Connections or requests of one mailbox in this worker, and a line before them.

    The line is kept short: a mailbox with a backlog must not occupy the whole worker. Urgent mail may join it always,
    and comes first.
    """

    def __init__(self, count: int, patience: float = PATIENCE) -> None:
        """All are free.

        Args:
            count: places.
            patience: seconds that a mail may wait for one.
        """
        self._count = count
        self._free = count
        self._longest = count * _LINE_PER_PLACE
        self._patience = patience
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def place(self, *, urgent: bool) -> AsyncIterator[bool]:
        """A place while the context lasts; False if there is none within the patience."""
        if not await self._taken(urgent=urgent):
            yield False
            return
        try:
            yield True
        finally:
            self._left()

    @property
    def unused(self) -> bool:
        """Whether all are free."""
        return self._free == self._count

    async def _taken(self, *, urgent: bool) -> bool:
        if self._free:
            self._free -= 1
            return True
        line = self._urgent if urgent else self._others
        if not urgent and len(line) >= self._longest:
            return False
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await asyncio.wait((turn,), timeout=self._patience)
        except asyncio.CancelledError:
            if turn.done():
                self._left()
            raise
        finally:
            if not turn.done():
                line.remove(turn)
        return turn.done()

    def _left(self) -> None:
        for line in (self._urgent, self._others):
            if line:
                line.popleft().set_result(None)
                return
        self._free += 1


async def permitted(
    permits: Permits, mailbox: Mailbox, *, urgent: bool, gives_way: GivesWay = lambda: False
) -> int | None:
    """A permit as soon as there is one; None if there is none within a moment, or this mail gives way to another."""
    permit = await permits.acquire(mailbox, urgent=urgent)
    waited = 0.0
    while permit is None and waited < PATIENCE and not gives_way():
        await asyncio.sleep(_LOOK_EVERY)
        waited += _LOOK_EVERY
        permit = await permits.acquire(mailbox, urgent=urgent)
    return permit
