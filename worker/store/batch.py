"""Group commit: whatever arrives while a transaction is on its way goes together into the next one.

A lone operation starts at once; nobody waits for company. The busier it is, the larger the groups become by themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from worker.ports import StoreDown

_LARGEST = 200
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0  # seconds between attempts to reach a store that is down


class Operation(Protocol):
    """One thing to be done in a transaction."""

    patient: bool
    """It must be done whenever the store is back; the others are told at once that it is down."""
    answer: asyncio.Future[Any]
    repeated: bool
    """It was tried before, and nobody knows whether the database has done it."""


Op = TypeVar("Op", bound=Operation)


class Batches:
    """A queue in front of one transaction at a time."""

    def __init__(self, carry_out: Callable[[Sequence[Any]], Awaitable[None]]) -> None:
        """Begin with nothing to do.

        Args:
            carry_out: does all of them in one transaction and then gives each its answer; raises StoreDown if none of
                them may have been done, or nobody knows.
        """
        self._carry_out = carry_out
        self._line: deque[Operation] = deque()
        self._later: list[Operation] = []
        self._stuck: list[Operation] = []
        self._news = asyncio.Event()
        self._backoff = _FIRST_BACKOFF
        self._closing = False
        self._running: asyncio.Task[None] | None = None

    def put(self, operation: Operation) -> None:
        """Have it done as soon as may be."""
        self._line.append(operation)
        self._wake()

    def put_later(self, operation: Operation, within: float) -> None:
        """Have it done with the next group, or alone if there is none within so many seconds."""
        if not self._later:
            asyncio.get_running_loop().call_later(within, self._wake)
        self._later.append(operation)

    async def close(self) -> None:
        """Do what is left, if the store lets us; what is stuck is given up."""
        self._closing = True
        self._wake()
        if self._running is not None:
            await self._running
        for operation in (*self._line, *self._later, *self._stuck):
            operation.answer.cancel()

    def _wake(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        self._news.set()

    async def _run(self) -> None:
        while True:
            if not self._line and not self._later:
                if self._closing:
                    return
                self._news.clear()
                await self._news.wait()
            group = self._next()
            if not group:
                continue
            try:
                await self._carry_out(group)
            except StoreDown as error:
                self._refuse(group, error)
                if self._closing:
                    return
            else:
                self._backoff = _FIRST_BACKOFF
                self._unstick()

    def _next(self) -> Sequence[Operation]:
        self._line.extendleft(reversed(self._later))
        self._later.clear()
        group = [self._line.popleft() for _ in range(min(len(self._line), _LARGEST))]
        return [operation for operation in group if not operation.answer.done()]

    def _refuse(self, group: Sequence[Operation], error: StoreDown) -> None:
        for operation in group:
            operation.repeated = True
            if operation.patient:
                self._stuck.append(operation)
            elif not operation.answer.done():
                operation.answer.set_exception(StoreDown(str(error)))
        if self._stuck:
            asyncio.get_running_loop().call_later(self._backoff, self._unstick)
            self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)

    def _unstick(self) -> None:
        if self._stuck:
            self._line.extendleft(reversed(self._stuck))
            self._stuck.clear()
            self._wake()
