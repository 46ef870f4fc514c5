"""Where a worker can be made to die or to freeze: between every two steps of the hand-over.

The points lie around the ledger's methods, which the composition root lets a test wrap; nothing in the product knows of
them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from contracts.delivery import Result
from worker.domain.delivery import Key, Progress
from worker.events import Concluded, Event
from worker.ports import Claim, Claimed, Doubtful, Settlement


class Point(StrEnum):
    """In the order in which a notification passes them."""

    CLAIMED = "claimed"
    MARKING = "before the mark"
    MARKED = "marked, before the dot"
    ANSWERED = "answered, not recorded"
    SETTLED = "recorded, not told"
    TOLD = "told, not disposed of"
    DISPOSED = "disposed of, not acknowledged"


WINDOW = frozenset({Point.MARKED, Point.ANSWERED})
"""Where the fate of a mail that is cut off cannot be known."""

EXPOSED = "EXPOSED"


@dataclass(slots=True)
class Trap:
    """Kills or freezes this process at the so-manieth passing of a point, and notes which notification was there.

    Attributes:
        notes: file that outlives us: where the trap sprang, and who else was in the window by then.
        exposed: notifications between the mark and the record, or on their way there.
    """

    point: Point
    passings: int
    number: signal.Signals
    notes: str
    exposed: set[str] = field(default_factory=set)

    def __call__(self, point: Point, notification_id: str) -> None:
        if point is not self.point:
            return
        self.passings -= 1
        if self.passings:
            return
        lines = [f"{point.name} {notification_id}", *(f"{EXPOSED} {name}" for name in self.exposed - {notification_id})]
        notes = os.open(self.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(notes, "".join(f"{line}\n" for line in lines).encode())
        os.close(notes)
        os.kill(os.getpid(), self.number)


class TrappedStore:
    """A store with a trap around every transition."""

    def __init__(self, store: Any, trap: Trap) -> None:
        self._store = store
        self._trap = trap

    async def claim(self, key: Key, digest: str, progress: Progress, now: datetime) -> Claim:
        claim: Claim = await self._store.claim(key, digest, progress, now)
        if isinstance(claim, Claimed | Doubtful):
            self._trap(Point.CLAIMED, key.notification_id)
        return claim

    async def handing_over(self, claimed: Claimed) -> bool:
        self._trap(Point.MARKING, claimed.key.notification_id)
        self._trap.exposed.add(claimed.key.notification_id)  # marks are written by the dozen: others may be first
        ours: bool = await self._store.handing_over(claimed)
        if ours:
            self._trap(Point.MARKED, claimed.key.notification_id)
        return ours

    async def settle(self, claimed: Claimed, settlement: Settlement) -> tuple[Result, ...] | None:
        self._trap(Point.ANSWERED, claimed.key.notification_id)
        results: tuple[Result, ...] | None = await self._store.settle(claimed, settlement)
        self._trap.exposed.discard(claimed.key.notification_id)
        self._trap(Point.SETTLED, claimed.key.notification_id)
        return results

    async def published(self, key: Key, results: Sequence[Result], *, disposed: bool) -> None:
        if disposed:
            self._trap(Point.DISPOSED, key.notification_id)
        await self._store.published(key, results, disposed=disposed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def watch(self, event: Event) -> None:
        """The point between the result and the message's disposal is only seen from outside."""
        if isinstance(event, Concluded) and event.result.notification_id:
            self._trap(Point.TOLD, event.result.notification_id)
