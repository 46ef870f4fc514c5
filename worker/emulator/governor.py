"""Counts what a mailbox has used of its limits, over SMTP and Graph together."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable

from worker.emulator.scenario import Limits


class Governor:
    """Exact sliding windows; what is under way counts as if it had been accepted."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing was sent.

        Args:
            limits: of every mailbox.
            clock: seconds.
        """
        self.limits = limits.in_force
        self._clock = clock
        self._messages: defaultdict[str, deque[float]] = defaultdict(deque)
        self._recipients: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)
        self._octets: Counter[str] = Counter()
        self.submitting: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._requested: defaultdict[str, deque[float]] = defaultdict(deque)
        self._under_way: Counter[str] = Counter()

    def hold_to(self, limits: Limits) -> None:
        """Other limits from now on; what was used stays used."""
        self.limits = limits.in_force

    def forget(self) -> None:
        """Nothing was used; what is under way stays so."""
        for used in (self._messages, self._recipients, self._octets, self._requested):
            used.clear()

    def begin(self, login: str) -> bool:
        """A message begins; False if there is no room for it in the minute. A place must be given back by `end`."""
        if self.limits.over == "reject" and self._wait(login) > 0:
            return False
        self._under_way[login] += 1
        return True

    def end(self, login: str, *, accepted: bool) -> None:
        """A message that had begun has ended."""
        self._under_way[login] -= 1
        if accepted:
            self._messages[login].append(self._clock())

    def delay(self, login: str) -> float:
        """Seconds until a message that is under way may be accepted."""
        rate, sent = self.limits.per_minute, self._recent(login)
        return max(sent[-rate] + self.limits.minute - self._clock(), 0.0) if rate and len(sent) >= rate else 0.0

    def turned_away(self, user: str) -> float:
        """Count a request to Graph. Returns the seconds until there is room for the next one; 0: there was for this."""
        limits, now = self.limits, self._clock()
        if not limits.graph_rate:
            return 0.0
        made = self._requested[user]
        while made and made[0] <= now - limits.graph_window:
            made.popleft()
        made.append(now)
        if len(made) <= limits.graph_rate:
            return 0.0
        return made[-limits.graph_rate] + limits.graph_window - now

    def quota(self, login: str, recipients: int, octets: int) -> str:
        """Why the mailbox may not send so much more today; empty if it may. It is counted then."""
        limits, now = self.limits, self._clock()
        used = self._recipients[login]
        while used and used[0][0] <= now - limits.day:
            used.popleft()
        if limits.recipients_per_day and sum(count for _, count in used) + recipients > limits.recipients_per_day:
            return "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"
        if limits.mailbox_octets and self._octets[login] + octets > limits.mailbox_octets:
            return (
                "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException."
                "MapiExceptionShutoffQuotaExceeded"
            )
        used.append((now, recipients))
        self._octets[login] += octets
        return ""

    def _wait(self, login: str) -> float:
        """Seconds until there is room for one more."""
        limits = self.limits
        if not limits.per_minute:
            return 0.0
        sent = self._recent(login)
        if len(sent) + self._under_way[login] < limits.per_minute:
            return 0.0
        return max(sent[0] + limits.minute - self._clock(), 0.001) if sent else limits.minute

    def _recent(self, login: str) -> deque[float]:
        sent = self._messages[login]
        while sent and sent[0] <= self._clock() - self.limits.minute:
            sent.popleft()
        return sent
