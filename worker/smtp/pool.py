"""Sessions of one mailbox, lent out one at a time each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from worker.domain.delivery import Broken, Busy, Refused, TokenRefused
from worker.domain.mailbox import SessionLimits
from worker.smtp.session import Session

_LINE_PER_CONNECTION = 2

Unopened = Refused | TokenRefused | Broken
Open = Callable[[], Awaitable[Session | Unopened]]


@dataclass(slots=True)
class _Idle:
    session: Session
    closing: asyncio.TimerHandle


class Pool:
    """At most `limits.connections` sessions, the most recently used one first, idle ones closed by themselves."""

    def __init__(self, open_session: Open, limits: SessionLimits, patience: float) -> None:
        """Make an empty pool.

        Args:
            open_session: opens and authenticates a session.
            limits: of this mailbox.
            patience: seconds that a mail may wait for a session before it goes back to the broker.
        """
        self._open = open_session
        self._limits = limits
        self._patience = patience
        self._permits = asyncio.Semaphore(limits.connections)
        self._waiting = 0
        self._idle: deque[_Idle] = deque()

    @asynccontextmanager
    async def session(self, *, fresh: bool = False) -> AsyncIterator[Session | Unopened | Busy]:
        """Lend a session, an idle one if there is one and `fresh` does not forbid it."""
        if not await self._permitted():
            yield Busy()
            return
        try:
            lent = None if fresh else self._reusable()
            session = lent or await self._open()
            try:
                yield session
            finally:
                if isinstance(session, Session):
                    self._take_back(session)
        finally:
            self._permits.release()

    async def _permitted(self) -> bool:
        """Take a place, in a line that is kept short: a mailbox with a backlog must not occupy the whole worker."""
        if self._permits.locked() and self._waiting >= _LINE_PER_CONNECTION * self._limits.connections:
            return False
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                return await self._permits.acquire()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Close what is idle; what is lent out is closed when it comes back."""
        self._limits = SessionLimits(connections=self._limits.connections, messages=0)
        while self._idle:
            self._drop(self._idle.pop())

    def _reusable(self) -> Session | None:
        while self._idle:
            idle = self._idle.pop()
            idle.closing.cancel()
            if idle.session.reusable(self._limits):
                return idle.session
            idle.session.close()
        return None

    def _take_back(self, session: Session) -> None:
        if not session.reusable(self._limits):
            session.close()
            return
        seconds = self._limits.idle.total_seconds()
        idle = _Idle(session, asyncio.get_running_loop().call_later(seconds, self._expire, session))
        self._idle.append(idle)

    def _expire(self, session: Session) -> None:
        for idle in [idle for idle in self._idle if idle.session is session]:
            self._idle.remove(idle)
            self._drop(idle)

    @staticmethod
    def _drop(idle: _Idle) -> None:
        idle.closing.cancel()
        idle.session.close()
