"""Holds the emulator's journal against the limits: what a pacing benchmark is judged by.

python -m worker.emulator.audit build/emulator/events.jsonl --per-minute 300
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_THROTTLED = ("432", "421", "429")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one login may do.

    Attributes:
        connections: that submit at once.
        per_minute: messages in any window of `minute` seconds.
        recipients: in any window of `day` seconds.
    """

    connections: int = 3
    per_minute: int = 30
    minute: float = 60
    recipients: int = 10_000
    day: float = 24 * 3600


@dataclass(frozen=True, slots=True)
class Finding:
    """What one login did.

    Attributes:
        most_connections: logged in at the same moment.
        most_submitting: of them that had begun a mail.
        fullest_window: messages in the fullest window of a minute.
        windows_over: windows of a minute, one ending with each message, that hold more than allowed.
        days_over: the same of recipients in a day.
        throttled: answers 432, 421 and 429, by their code.
        used: share of the allowed rate that was used between the first and the last message.
    """

    login: str
    accepted: int
    recipients: int
    most_connections: int
    most_submitting: int
    fullest_window: int
    windows_over: int
    days_over: int
    throttled: Mapping[str, int]
    used: float

    def keeps(self, allowed: Allowed) -> bool:
        """Whether it stayed within the limits and was never told that it did not."""
        within = self.most_submitting <= allowed.connections and not (self.windows_over or self.days_over)
        return within and not any(self.throttled.values())


@dataclass(slots=True)
class _Login:
    times: list[float] = field(default_factory=list)
    recipients: list[int] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    submitting: set[int] = field(default_factory=set)
    most_open: int = 0
    most_submitting: int = 0
    throttled: Counter[str] = field(default_factory=Counter)


def read(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a journal, in order."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def audit(events: Iterable[Mapping[str, Any]], allowed: Allowed) -> tuple[Finding, ...]:
    """What every login did, by name. Connections whose login the server never heard are nobody's."""
    logins: defaultdict[str, _Login] = defaultdict(_Login)
    for event in events:
        login = str(event.get("login", "")).lower()
        if login:
            _take(logins[login], event)
    return tuple(_finding(name, login, allowed) for name, login in sorted(logins.items()))


def _take(login: _Login, event: Mapping[str, Any]) -> None:
    connection = int(event.get("connection", 0))
    match event["event"]:
        case "login":
            login.open.add(connection)
        case "submitting":
            login.submitting.add(connection)
        case "close":
            login.open.discard(connection)
            login.submitting.discard(connection)
        case "accepted":
            login.times.append(float(event["time"]))
            login.recipients.append(int(event["recipients"]))
        case "refused" if str(event["reply"])[:3] in _THROTTLED:
            login.throttled[str(event["reply"])[:3]] += 1
        case _:
            pass
    login.most_open = max(login.most_open, len(login.open))
    login.most_submitting = max(login.most_submitting, len(login.submitting))


def _finding(name: str, login: _Login, allowed: Allowed) -> Finding:
    windows = list(_windows(login.times, [1] * len(login.times), allowed.minute))
    days = list(_windows(login.times, login.recipients, allowed.day))
    seconds = login.times[-1] - login.times[0] if login.times else 0.0
    return Finding(
        login=name,
        accepted=len(login.times),
        recipients=sum(login.recipients),
        most_connections=login.most_open,
        most_submitting=login.most_submitting,
        fullest_window=max(windows, default=0),
        windows_over=sum(count > allowed.per_minute for count in windows),
        days_over=sum(count > allowed.recipients for count in days),
        throttled=dict(login.throttled),
        used=(len(login.times) - 1) / seconds * allowed.minute / allowed.per_minute if seconds else 0.0,
    )


def _windows(times: Sequence[float], counts: Sequence[int], width: float) -> Iterator[int]:
    """For every event the sum over the window that ends with it, its beginning not included."""
    start = total = 0
    for end, moment in enumerate(times):
        total += counts[end]
        while times[start] <= moment - width:
            total -= counts[start]
            start += 1
        yield total


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each login; 1 if one went beyond its limits."""
    parser = argparse.ArgumentParser(prog="audit", description="Hold the emulator's journal against the limits.")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--connections", type=int, default=Allowed().connections)
    parser.add_argument("--per-minute", type=int, default=Allowed().per_minute)
    parser.add_argument("--recipients", type=int, default=Allowed().recipients)
    given = parser.parse_args(arguments)
    allowed = Allowed(given.connections, given.per_minute, recipients=given.recipients)
    findings = audit(read(given.journal), allowed)
    for each in findings:
        mark = "ok  " if each.keeps(allowed) else "OVER"
        sys.stdout.write(
            f"{mark} {each.login}: {each.accepted} accepted, {each.used:.1%} of the rate, fullest minute "
            f"{each.fullest_window}, {each.windows_over} windows over, {each.most_submitting} connections at most, "
            f"{each.days_over} days over, throttled {dict(each.throttled)}\n"
        )
    return 0 if all(each.keeps(allowed) for each in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
