"""Sessions of one mailbox, lent out one at a time each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from worker.domain.delivery import Broken, Busy, Refused, TokenRefused
from worker.domain.mailbox import SessionLimits
from worker.permits import GivesWay, Places
from worker.smtp.session import Session

_ECHO = 1.0  # seconds in which a failure also answers those who were on their way to ask when it came

Unopened = Refused | TokenRefused | Broken | Busy


class Open(Protocol):
    """How a session comes about."""

    async def __call__(self, *, urgent: bool, gives_way: GivesWay) -> Session | Unopened:
        """Open and authenticate it, for urgent mail or for such as may give way to it."""


@dataclass(slots=True, eq=False)
class _Idle:
    session: Session
    closing: asyncio.TimerHandle | None = None

    def done(self) -> None:
        if self.closing is not None:
            self.closing.cancel()


class Pool:
    """At most `limits.connections` sessions, the most recently used one first, idle ones closed by themselves."""

    def __init__(
        self, open_session: Open, limits: SessionLimits, patience: float, wanted: Callable[[], bool] | None = None
    ) -> None:
        """Make an empty pool.

        Args:
            open_session: how a session comes about.
            limits: of this mailbox.
            patience: seconds that a mail may wait for a session before it goes back to the broker.
            wanted: whether another worker waits for one of our connections to be closed; None: nobody ever does.
        """
        self._open = open_session
        self._limits = limits
        self._wanted = wanted
        self._places = Places(limits.connections, patience)
        self._door = asyncio.Lock()
        self._urgent_at_the_door = 0
        self._failure: tuple[float, Unopened] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._idle: deque[_Idle] = deque()

    @asynccontextmanager
    async def session(self, *, fresh: bool = False, urgent: bool = False) -> AsyncIterator[Session | Unopened]:
        """Lend a session, an idle one if there is one and `fresh` does not forbid it."""
        asked = time.monotonic()
        async with self._places.place(urgent=urgent) as free:
            if not free:
                yield Busy()
                return
            session = await self._lent(asked, fresh=fresh, urgent=urgent)
            try:
                yield session
            finally:
                if isinstance(session, Session):
                    self._take_back(session)

    @property
    def unused(self) -> bool:
        """Whether nothing would be lost with it: it has no session, nobody waits for one, and none has just failed."""
        empty = self._places.unused and not self._idle and not self._leaving
        return empty and self._failed_since(time.monotonic()) is None

    def close_idle(self) -> None:
        """Say goodbye on all sessions that nobody uses."""
        while self._idle:
            self._retire(self._idle.pop())

    async def close(self) -> None:
        """Close what is idle and wait for it; what is lent out is closed when it comes back."""
        self._limits = SessionLimits(connections=self._limits.connections, messages=0)
        self.close_idle()
        await self._retired()

    async def _lent(self, asked: float, *, fresh: bool, urgent: bool) -> Session | Unopened:
        """An idle session, or a new one once those that it replaces are gone: the server counts them too."""
        if (session := self._reused(fresh=fresh)) is not None:
            return session
        self._urgent_at_the_door += urgent
        try:
            async with self._door:
                # While it waited another mail may have come back with its session.
                return self._reused(fresh=fresh) or await self._opened(asked, urgent=urgent)
        finally:
            self._urgent_at_the_door -= urgent

    def _reused(self, *, fresh: bool) -> Session | None:
        while self._idle:
            idle = self._idle.pop()
            if not fresh and idle.session.reusable(self._limits):
                idle.done()
                return idle.session
            self._retire(idle)
        return None

    async def _opened(self, asked: float, *, urgent: bool) -> Session | Unopened:
        """One login at a time, and a failure is everybody's who was waiting: a wrong password is tried once.

        Accounts are locked after a handful of refusals, which several connections would bring about by themselves.
        """
        if (failure := self._failed_since(asked)) and not (urgent and isinstance(failure, Busy)):
            return failure
        await self._retired()
        opened = await self._open(urgent=urgent, gives_way=lambda: not urgent and self._urgent_at_the_door > 0)
        if isinstance(opened, Session):
            self._failure = None
        else:
            echo = 0 if isinstance(opened, Busy) else _ECHO
            self._failure = time.monotonic() + echo, opened
        return opened

    def _failed_since(self, asked: float) -> Unopened | None:
        return self._failure[1] if self._failure is not None and self._failure[0] > asked else None

    def _take_back(self, session: Session) -> None:
        idle = _Idle(session)
        if session.reusable(self._limits) and not self._is_wanted():
            self._idle.append(idle)
            left = self._limits.idle.total_seconds()
            idle.closing = asyncio.get_running_loop().call_later(left, self._expired, idle)
        else:
            self._retire(idle)

    def _is_wanted(self) -> bool:
        return self._wanted is not None and self._wanted()

    def _expired(self, idle: _Idle) -> None:
        if idle in self._idle:
            self._idle.remove(idle)
            self._retire(idle)

    def _retire(self, idle: _Idle) -> None:
        """Say goodbye without keeping anybody waiting but those who need the place."""
        idle.done()
        task = asyncio.create_task(idle.session.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _retired(self) -> None:
        if self._leaving:
            await asyncio.wait(self._leaving)
