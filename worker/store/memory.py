"""Ledger and gate of a single worker process, forgotten when it ends.

For tests, the demo and measurements. They keep one worker from sending a notification twice; what they cannot do, and
the durable store is for: know what another worker did, or what this one did before it crashed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contracts.delivery import DeliveryStatus, Result
from worker.domain.delivery import Key, Progress, merged
from worker.domain.mailbox import Mailbox
from worker.domain.verdict import Verdict
from worker.ports import (
    Admission,
    Claim,
    Claimed,
    Contradicted,
    Demand,
    Doubt,
    Finished,
    Hold,
    Recalled,
    Settlement,
    Underway,
    Unpublished,
    Waiting,
)

_LONGEST_PAUSE = timedelta(hours=1)
_PROBE = timedelta(seconds=60)  # a probe that has not come back by then is given up
_LOOK_AGAIN = timedelta(seconds=5)
_SOON = timedelta(seconds=2)  # a copy that comes by so little too early is no copy but the message itself


@dataclass(slots=True)
class _Entry:
    digest: str
    progress: Progress
    underway: bool = True
    unwanted: bool = False
    told: bool = True
    epoch: int = 1
    next_at: datetime | None = None
    last: Result | None = None
    pending: list[Unpublished] = field(default_factory=list)

    @property
    def final(self) -> Result | None:
        return self.last if self.last is not None and self.last.final else None

    def taken(self, key: Key, progress: Progress) -> Claimed:
        self.underway, self.unwanted, self.epoch = True, False, self.epoch + 1
        self.progress, self.next_at = merged(self.progress, progress), None
        return Claimed(key, self.progress, self.epoch)

    def answer(self, final: Result) -> Finished:
        return Finished(tuple(item.result for item in self.pending) or (final,), self.progress, self.told)


class MemoryLedger:
    """The ports `Ledger`, `Outbox` and `Register`, with a bounded memory."""

    def __init__(self, capacity: int = 50_000) -> None:
        """Start empty.

        Args:
            capacity: notifications remembered; the oldest finished or waiting ones are forgotten first.
        """
        self._capacity = capacity
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self.audit: list[tuple[str, str, str, str]] = []

    async def claim(self, key: Key, digest: str, progress: Progress, now: datetime) -> Claim:
        """Take it, unless it was finished, is being sent, or is another notification under the same id."""
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry(digest, progress)
            self._forget()
            return Claimed(key, progress, 1)
        if entry.digest not in ("", digest):
            return Contradicted()
        if entry.final is not None:
            return entry.answer(entry.final)
        if entry.underway:
            return Underway()
        if entry.next_at is not None and entry.next_at > now + _SOON:
            return Waiting(entry.next_at, merged(entry.progress, progress))
        return entry.taken(key, progress)

    async def handing_over(self, claimed: Claimed) -> bool:
        """Whether it is still ours, which only a cancellation can have changed in this process."""
        entry = self._entries.get(claimed.key)
        return entry is not None and entry.underway and entry.epoch == claimed.epoch and not entry.unwanted

    async def settle(self, claimed: Claimed, settlement: Settlement) -> tuple[Result, ...] | None:
        """Give it back. A rejected one is forgotten."""
        key, final = claimed.key, settlement.final
        entry = self._entries.get(key)
        if entry is None or not entry.underway or entry.epoch != claimed.epoch:
            return None
        fresh = [Unpublished(key, result, settlement.reply_to) for result in settlement.results]
        unpublished = tuple(item.result for item in (*entry.pending, *fresh))
        if final is not None and final.status is DeliveryStatus.REJECTED:
            del self._entries[key]
            return unpublished
        entry.underway, entry.progress, entry.next_at = False, settlement.progress, settlement.next_at
        entry.told, entry.last = False, settlement.results[-1] if settlement.results else entry.last
        entry.pending += fresh
        self._entries.move_to_end(key)
        return unpublished

    async def recall(self, key: Key, now: datetime) -> Recalled | Finished | Underway:
        """Take it in order to cancel it; an id that was never seen is taken as well, so that it cannot come later."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry("", Progress(first_seen=now))
            return Recalled(Claimed(key, entry.progress, 1), None)
        if entry.final is not None:
            return entry.answer(entry.final)
        if entry.underway:
            entry.unwanted = True
            return Underway()
        return Recalled(entry.taken(key, entry.progress), entry.last)

    async def ready(self) -> None:
        """It always is."""

    async def published(self, key: Key, results: Sequence[Result], *, disposed: bool) -> None:
        """Strike them off."""
        entry = self._entries.get(key)
        if entry is not None:
            events = {result.event_id for result in results}
            entry.pending = [item for item in entry.pending if item.result.event_id not in events]
            entry.told = entry.told or disposed

    async def unpublished(self) -> Sequence[Unpublished]:
        """None: who settles here publishes here, and what ends this process takes the memory with it."""
        return ()

    async def doubts(self) -> Sequence[Doubt]:
        """Open doubts."""
        finals = ((key, entry.final) for key, entry in self._entries.items())
        return [Doubt(key, final) for key, final in finals if final and final.status is DeliveryStatus.IN_DOUBT]

    async def find(self, key: Key) -> Result | None:
        """The latest result."""
        entry = self._entries.get(key)
        return entry.last if entry else None

    async def resolve(self, key: Key, result: Result, reply_to: str | None, actor: str) -> bool:
        """Close a doubt."""
        entry = self._entries.get(key)
        if entry is None or entry.final is None or entry.final.status is not DeliveryStatus.IN_DOUBT:
            return False
        entry.last = result
        entry.pending.append(Unpublished(key, result, reply_to))
        await self.note(actor, "resolve", str(key), str(result.status))
        return True

    async def reopen(self, key: Key, digest: str, progress: Progress, actor: str) -> bool:
        """Let it be attempted again."""
        entry = self._entries.get(key)
        if entry is not None and entry.underway:
            return False
        epoch, pending = (entry.epoch, entry.pending) if entry else (0, [])
        self._entries[key] = _Entry(digest, progress, underway=False, epoch=epoch, pending=pending)
        await self.note(actor, "replay", str(key), "")
        return True

    async def note(self, actor: str, action: str, subject: str, detail: str) -> None:
        """Write a line into the audit trail."""
        self.audit.append((actor, action, subject, detail))

    def _forget(self) -> None:
        while len(self._entries) > self._capacity:
            key = next((key for key, entry in self._entries.items() if not entry.underway), None)
            if key is None:
                return
            del self._entries[key]


@dataclass(slots=True)
class _Rest:
    until: datetime
    verdict: Verdict
    epoch: int
    probing_until: datetime | None = None


class MemoryGate:
    """The port `Gate` without limits: a breaker for each mailbox, half-open after each pause."""

    def __init__(self) -> None:
        """No mailbox rests."""
        self._resting: dict[str, _Rest] = {}

    async def admit(self, mailbox: Mailbox, demand: Demand, now: datetime) -> Admission | Hold:
        """Let through, unless it rests or somebody is just trying whether it must rest longer."""
        del demand
        rest = self._resting.get(mailbox.name)
        if rest is None:
            return Admission(mailbox.name)
        if now < rest.until:
            return Hold(rest.until, rest.verdict)
        if rest.probing_until is not None and now < rest.probing_until:
            return Hold(now + _LOOK_AGAIN, rest.verdict)
        rest.probing_until = now + _PROBE
        return Admission(mailbox.name, rest.epoch, probe=True)

    async def look(self) -> None:
        """Nobody else changes anything."""

    def share(self, mailbox: str) -> float:
        """All: nobody counts."""
        del mailbox
        return 1.0

    def resting(self, mailbox: Mailbox, now: datetime) -> Hold | None:
        """As far as it is known here."""
        rest = self._resting.get(mailbox.name)
        return None if rest is None or rest.until <= now else Hold(rest.until, rest.verdict)

    async def paused(self, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        """Rest it; each pause without a success between is twice as long, up to an hour."""
        rest = self._resting.get(admission.mailbox)
        if rest is not None and not self._current(admission):
            return rest.until  # let through before the pause began: no news
        epoch = rest.epoch + 1 if rest else 1
        longest = max(_LONGEST_PAUSE, verdict.pause)
        until = now + min(verdict.pause * float(2 ** min(epoch - 1, 16)), longest)
        self._resting[admission.mailbox] = _Rest(until, verdict, epoch)
        return until

    async def cleared(
        self, admission: Admission, *, tried: bool, accepted: int = 0, said: Verdict | None = None
    ) -> bool:
        """End the pause if this was its probe, or give the probe back if it came to nothing."""
        del accepted, said
        if not self._current(admission):
            return False
        if tried:
            del self._resting[admission.mailbox]
            return True
        self._resting[admission.mailbox].probing_until = None
        return False

    def _current(self, admission: Admission) -> bool:
        """Whether it is the probe of the pause that lasts."""
        rest = self._resting.get(admission.mailbox)
        return rest is not None and admission.probe and admission.epoch == rest.epoch


class NoPermits:
    """The port `Permits` for a worker that shares its mailboxes with nobody: its own pools count."""

    async def acquire(self, mailbox: Mailbox, *, urgent: bool = False) -> int | None:
        """Always."""
        del mailbox, urgent
        return 0

    async def release(self, number: int) -> None:
        """There is nothing to give back."""

    def rested_since(self, mailbox: str, moment: float) -> bool:
        """Nobody tells."""
        del mailbox, moment
        return False

    def wanted(self) -> frozenset[str]:
        """None: nobody is ever refused."""
        return frozenset()
