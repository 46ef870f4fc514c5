"""Ledger and gate of a single worker process, forgotten when it ends.

They keep one worker from sending a notification twice. What they cannot do, and the durable ledger is for: know what
another worker did, or what this one did before it crashed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from contracts.delivery import Result
from worker.domain.delivery import Progress
from worker.domain.verdict import Verdict
from worker.ports import Admission, Claim, Claimed, Contradicted, Finished, Hold, Key, Underway

_LONGEST_PAUSE = timedelta(hours=1)
_PROBE = timedelta(seconds=60)  # a probe that has not come back by then is given up
_LOOK_AGAIN = timedelta(seconds=5)


@dataclass(slots=True)
class _Entry:
    digest: str
    progress: Progress
    underway: bool = True
    result: Result | None = None


class MemoryLedger:
    """The port `Ledger`, with a bounded memory."""

    def __init__(self, capacity: int = 50_000) -> None:
        """Start empty.

        Args:
            capacity: notifications remembered; the oldest finished or waiting ones are forgotten first.
        """
        self._capacity = capacity
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    async def claim(self, key: Key, digest: str, progress: Progress) -> Claim:
        """Take it, unless it was finished, is being sent, or is another notification under the same id."""
        entry = self._entries.get(key)
        match entry:
            case None:
                self._entries[key] = _Entry(digest, progress)
                self._forget()
                return Claimed(progress)
            case _Entry() if entry.digest != digest:
                return Contradicted()
            case _Entry(result=Result() as result):
                return Finished(result)
            case _Entry(underway=True):
                return Underway()
            case _Entry():
                entry.underway = True
                return Claimed(_merged(entry.progress, progress))

    async def handing_over(self, key: Key) -> bool:
        """Whether it is still ours, which nobody can have changed in this process."""
        entry = self._entries.get(key)
        return entry is not None and entry.underway

    async def settle(self, key: Key, progress: Progress, result: Result | None) -> None:
        """Give it back. A rejected one is forgotten: once its cause is mended it may come again."""
        if result is not None and result.status == "rejected":
            self._entries.pop(key, None)
            return
        entry = self._entries[key]
        entry.underway, entry.progress, entry.result = False, progress, result
        self._entries.move_to_end(key)

    def _forget(self) -> None:
        while len(self._entries) > self._capacity:
            key = next((key for key, entry in self._entries.items() if not entry.underway), None)
            if key is None:
                return
            del self._entries[key]


def _merged(ours: Progress, carried: Progress) -> Progress:
    """What either of them knows: a copy that waited in the broker may know more than we do, or less."""
    return replace(
        carried,
        first_seen=min(ours.first_seen, carried.first_seen),
        attempts=max(ours.attempts, carried.attempts),
        settled={**carried.settled, **ours.settled},
        doubted=(ours.doubted | carried.doubted) - ours.settled.keys() - carried.settled.keys(),
    )


@dataclass(slots=True)
class _Rest:
    until: datetime
    verdict: Verdict
    epoch: int
    probing_until: datetime | None = None


class MemoryGate:
    """The port `Gate`: a breaker for each mailbox, half-open after each pause."""

    def __init__(self) -> None:
        """No mailbox rests."""
        self._resting: dict[str, _Rest] = {}

    def admit(self, mailbox: str, now: datetime) -> Admission | Hold:
        """Let through, unless it rests or somebody is just trying whether it must rest longer."""
        rest = self._resting.get(mailbox)
        if rest is None:
            return Admission(mailbox)
        if now < rest.until:
            return Hold(rest.until, rest.verdict)
        if rest.probing_until is not None and now < rest.probing_until:
            return Hold(now + _LOOK_AGAIN, rest.verdict)
        rest.probing_until = now + _PROBE
        return Admission(mailbox, rest.epoch, probe=True)

    def paused(self, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        """Rest it; each pause without a success between is twice as long, up to an hour."""
        rest = self._resting.get(admission.mailbox)
        if rest is not None and not self._current(admission):
            return rest.until  # let through before the pause began: no news
        epoch = rest.epoch + 1 if rest else 1
        longest = max(_LONGEST_PAUSE, verdict.pause)
        until = now + min(verdict.pause * float(2 ** min(epoch - 1, 16)), longest)
        self._resting[admission.mailbox] = _Rest(until, verdict, epoch)
        return until

    def cleared(self, admission: Admission, *, tried: bool) -> bool:
        """End the pause if this was its probe, or give the probe back if it came to nothing."""
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
