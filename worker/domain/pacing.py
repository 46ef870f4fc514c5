"""A mailbox's limits, kept exactly and shared out fairly: who may send now, and who comes when. Pure.

Every moment here is in microseconds of one clock. A mailbox may send so many mails in any window (60 seconds at
Office 365); a mail counts from its admission until a window after its end. Who must wait is given a place once and
comes back for it, so that a backlog of any length costs nothing while it waits. Urgent mail has places of its own, and
other mail is let through only where urgent mail could still follow promptly: ten thousand newsletters do not delay a
login code. Each tenant has a line of its own; the more of them wait, the wider its places are apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

_URGENT = 0.1
"""Share of the limit that urgent mail finds free, however much other mail there is."""
_URGENT_AT_MOST = 0.8
"""Share of the limit that urgent mail takes, however much of it there is."""
_PROMPTLY = 2.25
"""Places that urgent mail waits at most. The quarter is for mailboxes of a few mails a minute, where two cost the rest
of the mail more than three in a hundred."""
_RECOVERY = 0.1
"""Share of the limit that a quiet minute gives back after the server has asked for less."""
_LEAST = 0.05

_MINUTE = 60_000_000
HOUR = 60 * _MINUTE
DAY = 24 * 60 * _MINUTE
LONGEST_RECOVERY = 10 * _MINUTE
"""After which a mailbox has all of its limits again, however often its server has asked for less."""
BUCKET = 5 * _MINUTE
"""Recipients of a day are counted in buckets; a bucket counts until its last moment is a day old."""


@dataclass(frozen=True, slots=True)
class Pace:
    """So many mails in any window."""

    most: int
    window: int = _MINUTE

    @property
    def interval(self) -> int:
        """Between two places."""
        return self.window // self.most

    @property
    def reserved(self) -> int:
        """Mails that urgent mail finds free at once, or nearly."""
        return max(1, int(self.most * _URGENT))


@dataclass(frozen=True, slots=True)
class Used:
    """What counts against the limit now.

    Attributes:
        ended: when mails of this window came to their end.
        in_flight: mails that have not yet.
    """

    ended: Sequence[int] = ()
    in_flight: int = 0

    def at(self, now: int, window: int) -> tuple[list[int], int]:
        """When each stops counting, in order, and how many do not yet know."""
        return sorted(end + window for end in self.ended if end + window > now), self.in_flight


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits for one mailbox, of one tenant and one urgency.

    Attributes:
        last: the last place that was given.
        again: the last place that was given to somebody whose first place was lost.
    """

    last: int = 0
    again: int = 0

    def waiting(self, now: int) -> bool:
        """Whether anybody's place is still to come."""
        return max(self.last, self.again) > now


@dataclass(frozen=True, slots=True)
class Request:
    """One mail that wants to be sent.

    Attributes:
        slot: the place that it was given before.
        tenants: whose mail of this urgency waits, its own tenant included.
        urgent_expected: urgent mail has places that are still to come, or have just come.
    """

    urgent: bool
    slot: int | None = None
    tenants: int = 1
    urgent_expected: bool = False


@dataclass(frozen=True, slots=True)
class Go:
    """Send it now."""


@dataclass(frozen=True, slots=True)
class Place:
    """Come back then.

    Attributes:
        line: as it is from now on.
    """

    at: int
    line: Line


def decide(pace: Pace, used: Used, line: Line, request: Request, now: int) -> Go | Place:
    """Whether a mail may be sent now, or when it is to come back."""
    if request.slot is not None and request.slot > now:
        return Place(request.slot, line)
    if (request.slot is not None or not line.waiting(now)) and _room(pace, used, request, now):
        return Go()
    earliest = _earliest(pace, used, request, now)
    apart = pace.interval * max(1, request.tenants)
    if request.urgent:
        apart = int(apart / _URGENT_AT_MOST)
    if request.slot is None:
        at = max(earliest, max(line.last, line.again) + apart if line.waiting(now) else 0)
        return Place(at, replace(line, last=at))
    at = max(earliest, line.again + apart if line.again > now else 0)
    return Place(at, replace(line, again=at))


def _room(pace: Pace, used: Used, request: Request, now: int) -> bool:
    return _opens(pace, used, request, now) <= now


def _opens(pace: Pace, used: Used, request: Request, now: int) -> int:
    """When there is room if nobody else comes and what is in flight does not end.

    Some mails must have left the window, and behind this one urgent mails could still follow: the first of those that
    the limit keeps free within so many places, each further one a place later.
    """
    ends, in_flight = used.at(now, pace.window)
    free = 0 if request.urgent else pace.reserved
    spare = pace.most - len(ends) - in_flight - 1 - (request.urgent_expected and not request.urgent)
    ends += [now + pace.window] * max(0, free - spare)
    first, follow = ends[-1] if ends else now, now
    for gone in range(max(0, free - spare), max(0, -spare) - 1, -1):
        if gone < free - spare:
            follow = max(follow, ends[gone] - int((gone + spare + _PROMPTLY) * pace.interval))
        first = min(first, max(follow, ends[gone - 1] if gone else now))
    return first


def _earliest(pace: Pace, used: Used, request: Request, now: int) -> int:
    """When there is room if nobody else comes; what is in flight is taken to end now."""
    ends, in_flight = used.at(now, pace.window)
    later = Used([*(end - pace.window for end in ends), *[now] * in_flight])
    opens = _opens(pace, later, replace(request, urgent_expected=False), now)
    return opens if opens > now else now + pace.interval


def eased(factor: float, throttled_at: int, now: int) -> float:
    """How much of its limits a mailbox has, some time after its server has asked for less."""
    return min(1.0, factor + _RECOVERY * max(0, now - throttled_at) / _MINUTE)


def throttled(factor: float, throttled_at: int, now: int) -> float:
    """How much of its limits a mailbox has when its server asks for less."""
    return max(_LEAST, eased(factor, throttled_at, now) / 2)


def of_limit(limit: int | None, factor: float) -> int | None:
    """So much of a limit; never nothing."""
    return None if limit is None else max(1, int(limit * factor + 1e-9))


def external_recipients_per_day(licences: int, *, trial: bool = False) -> int:
    """Recipients outside the organisation that Exchange Online takes from a whole tenant in 24 hours (TERRL).

    https://techcommunity.microsoft.com/blog/exchange/introducing-exchange-online-tenant-outbound-email-limits/4372797
    """
    return 5000 if trial else int(500 * licences**0.7 + 9500)


ONMICROSOFT_EXTERNAL_PER_DAY = 100
"""Recipients outside the organisation for mail from `*.onmicrosoft.com`, a whole tenant in 24 hours."""


def hour_has_room_at(used: Used, most: int, now: int) -> int:
    """When one more mail fits into the hour; what is in flight is taken to end now."""
    ends, in_flight = used.at(now, HOUR)
    ends += [now + HOUR] * in_flight
    return now if len(ends) < most else ends[len(ends) - most]


def bucket(moment: int) -> int:
    """The bucket that a moment falls into."""
    return moment // BUCKET * BUCKET


def oldest_bucket(now: int) -> int:
    """The oldest bucket that still counts."""
    return bucket(now - DAY)


def day_has_room_at(buckets: Sequence[tuple[int, int]], in_flight: int, wanted: int, most: int, now: int) -> int:
    """When so many more recipients fit into the day: now, or when enough buckets have left it.

    Args:
        buckets: beginning and recipients, in order.
        in_flight: recipients of mails that have not come to their end.
        wanted: recipients; more than a whole day's are let through alone, or they would wait for ever.
        most: recipients of a day.
        now: this moment.
    """
    total = sum(count for _, count in buckets) + in_flight
    wanted = min(wanted, most)
    if total + wanted <= most:
        return now
    for beginning, count in buckets:
        total -= count
        if total + wanted <= most:
            return beginning + BUCKET + DAY
    return now + BUCKET
