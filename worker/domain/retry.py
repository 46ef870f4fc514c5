"""When to try again. Pure: the clock and the dice are arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits that grow until a horizon in time, not a number of tries: outages are measured in hours.

    Attributes:
        first: wait after the first attempt.
        factor: by which each further wait grows.
        longest: a wait never grows beyond this, jitter apart.
        horizon: given up when the next attempt would come later than this after the first sight.
        jitter: share of a wait that is left to the dice, so that a backlog does not return at once.
    """

    first: timedelta = timedelta(seconds=30)
    factor: float = 2.0
    longest: timedelta = timedelta(hours=1)
    horizon: timedelta = timedelta(hours=24)
    jitter: float = 0.2


def wait_after(policy: RetryPolicy, attempt: int, dice: float) -> timedelta:
    """Wait after the given attempt (1 = the first), `dice` between 0 and 1."""
    try:
        base = min(policy.first * policy.factor ** (attempt - 1), policy.longest)
    except OverflowError:  # after days of attempts; what cannot be counted is longer than the longest
        base = policy.longest
    return base * (1 + policy.jitter * (2 * dice - 1))
