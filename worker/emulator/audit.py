"""Holds the emulator's journal against the limits: what a pacing benchmark is judged by.

python -m worker.emulator.audit build/emulator/events.jsonl --per-minute 300
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_THROTTLED = ("432", "421", "429")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one login may do.

    Attributes:
        connections: over SMTP that submit at once.
        per_minute: messages over SMTP in any window of `minute` seconds.
        recipients: in any window of `day` seconds, over SMTP and Graph.
        graph_requests: to Graph at once.

    0 is no limit, as in a scenario.
    """

    connections: int = 3
    per_minute: int = 30
    minute: float = 60
    recipients: int = 10_000
    day: float = 24 * 3600
    graph_requests: int = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """What one login did.

    Attributes:
        accepted: over SMTP and Graph.
        most_connections: over SMTP, logged in at the same moment.
        most_submitting: of them that had begun a mail.
        most_requests: to Graph at the same moment.
        fullest_window: messages over SMTP in the fullest window of a minute.
        windows_over: windows of a minute, one ending with each message, that hold more than allowed.
        days_over: the same of recipients in a day.
        throttled: answers 432, 421 and 429, by their code.
        used: share of the allowed rate that was used between the first and the last message over SMTP.
    """

    login: str
    accepted: int
    recipients: int
    most_connections: int
    most_submitting: int
    most_requests: int
    fullest_window: int
    windows_over: int
    days_over: int
    throttled: Mapping[str, int]
    used: float

    def keeps(self, allowed: Allowed) -> bool:
        """Whether it stayed within the limits and was never told that it did not."""
        at_once = _within(self.most_submitting, allowed.connections) and _within(
            self.most_requests, allowed.graph_requests
        )
        return at_once and not (self.windows_over or self.days_over or any(self.throttled.values()))


def _within(most: int, allowed: int) -> bool:
    return not allowed or most <= allowed


@dataclass(frozen=True, slots=True)
class _Accepted:
    time: float
    recipients: int
    over_graph: bool


@dataclass(slots=True)
class _AtOnce:
    """Connections of one kind."""

    now: set[int] = field(default_factory=set)
    most: int = 0

    def add(self, connection: int) -> None:
        self.now.add(connection)
        self.most = max(self.most, len(self.now))


@dataclass(slots=True)
class _Login:
    """What one login did; the limits of a run know nothing of the one before."""

    runs: list[list[_Accepted]] = field(default_factory=lambda: [[]])
    graph: set[int] = field(default_factory=set)
    open: _AtOnce = field(default_factory=_AtOnce)
    submitting: _AtOnce = field(default_factory=_AtOnce)
    requests: _AtOnce = field(default_factory=_AtOnce)
    throttled: Counter[str] = field(default_factory=Counter)

    def starts_anew(self) -> None:
        self.runs.append([])
        self.closes(*self.open.now, *self.submitting.now, *self.requests.now)

    def closes(self, *connections: int) -> None:
        for kind in (self.open.now, self.submitting.now, self.requests.now, self.graph):
            kind.difference_update(connections)


def read(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a journal, in order. A last line that was not written to its end has not happened."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def audit(events: Iterable[Mapping[str, Any]], allowed: Allowed) -> tuple[Finding, ...]:
    """What every login did, by name. Connections whose login the server never heard are nobody's."""
    logins: defaultdict[str, _Login] = defaultdict(_Login)
    for event in events:
        login = str(event.get("login", "")).lower()
        if event["event"] == "start":
            for each in logins.values():
                each.starts_anew()
        elif login:
            _take(logins[login], event)
    return tuple(_finding(name, login, allowed) for name, login in sorted(logins.items()))


def _take(login: _Login, event: Mapping[str, Any]) -> None:
    connection, over_graph = int(event.get("connection", 0)), event.get("mechanism") == "graph"
    match event["event"]:
        case "login" if over_graph:
            login.graph.add(connection)
        case "login":
            login.open.add(connection)
        case "submitting" if connection in login.graph:
            login.requests.add(connection)
        case "submitting":
            login.submitting.add(connection)
        case "close":
            login.closes(connection)
        case "accepted":
            login.runs[-1].append(_Accepted(float(event["time"]), int(event["recipients"]), over_graph))
        case "refused" if str(event["reply"])[:3] in _THROTTLED:
            login.throttled[str(event["reply"])[:3]] += 1
        case _:
            pass


def _finding(name: str, login: _Login, allowed: Allowed) -> Finding:
    smtp = [[mail for mail in run if not mail.over_graph] for run in login.runs]
    windows = [count for run in smtp for count in _windows(run, lambda _: 1, allowed.minute)]
    days = [count for run in login.runs for count in _windows(run, lambda mail: mail.recipients, allowed.day)]
    seconds = sum(run[-1].time - run[0].time for run in smtp if run)
    sent = sum(len(run) - 1 for run in smtp if run)
    return Finding(
        login=name,
        accepted=sum(map(len, login.runs)),
        recipients=sum(mail.recipients for run in login.runs for mail in run),
        most_connections=login.open.most,
        most_submitting=login.submitting.most,
        most_requests=login.requests.most,
        fullest_window=max(windows, default=0),
        windows_over=sum(not _within(count, allowed.per_minute) for count in windows),
        days_over=sum(not _within(count, allowed.recipients) for count in days),
        throttled=dict(login.throttled),
        used=sent / seconds * allowed.minute / allowed.per_minute if seconds and allowed.per_minute else 0.0,
    )


def _windows(mails: Sequence[_Accepted], counted: Callable[[_Accepted], int], width: float) -> Iterator[int]:
    """For every mail the sum over the window that ends with it, its beginning not included."""
    start = total = 0
    for mail in mails:
        total += counted(mail)
        while mails[start].time <= mail.time - width:
            total -= counted(mails[start])
            start += 1
        yield total


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each login; 1 if one went beyond its limits, 2 if there is nothing to judge by."""
    usual = Allowed()
    parser = argparse.ArgumentParser(
        prog="audit", description="Hold the emulator's journal against the limits; 0 is no limit."
    )
    parser.add_argument("journal", type=Path)
    parser.add_argument("--connections", type=int, default=usual.connections)
    parser.add_argument("--per-minute", type=int, default=usual.per_minute)
    parser.add_argument("--minute", type=_width, default=usual.minute, help="seconds, as the scenario has it")
    parser.add_argument("--recipients", type=int, default=usual.recipients)
    parser.add_argument("--day", type=_width, default=usual.day, help="seconds, as the scenario has it")
    parser.add_argument("--graph-requests", type=int, default=usual.graph_requests)
    given = vars(parser.parse_args(arguments))
    path = given.pop("journal")
    allowed = Allowed(**given)
    try:
        findings = audit(read(path), allowed)
    except OSError as error:
        parser.error(f"{path} cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        parser.error(f"{path} is no journal of the emulator: {error!r}")
    for each in findings:
        mark = "ok  " if each.keeps(allowed) else "OVER"
        sys.stdout.write(
            f"{mark} {each.login}: {each.accepted} accepted, {each.used:.1%} of the rate, fullest minute "
            f"{each.fullest_window}, {each.windows_over} windows over, {each.most_submitting} connections at most, "
            f"{each.most_requests} requests at most, {each.days_over} days over, throttled {dict(each.throttled)}\n"
        )
    return 0 if all(each.keeps(allowed) for each in findings) else 1


def _width(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is no width of a window")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
