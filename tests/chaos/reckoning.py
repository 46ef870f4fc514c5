"""The books against each other: what was published, what was told, what the mail servers took."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from tests.chaos.arena import Arena

_SENT = ("accepted", "handed_over")


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What a scenario came to.

    Attributes:
        fault: in words.
        injected: how many times it was really done.
        published: notifications.
        lost: without a final result, or told as sent although no server has the mail, or told as failed.
        doubled: more than one mail, although nobody had allowed it.
        contradicted: more than one final result.
        in_doubt: told as such.
        unfounded: in doubt although no fault had hit them in the window.
        taken: of those in doubt, how many a mail server had really taken.
        recovery: seconds from the last fault until everything was told.
    """

    fault: str
    injected: int
    published: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    contradicted: tuple[str, ...]
    in_doubt: tuple[str, ...]
    unfounded: tuple[str, ...]
    taken: int
    recovery: float

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.doubled or self.contradicted or self.unfounded)


def reckon(
    arena: Arena,
    fault: str,
    injected: int,
    last_fault: float,
    *,
    resend: AbstractSet[str] = frozenset(),
    known: bool = True,
) -> Reckoning:
    """Compare the books.

    Args:
        arena: where it happened.
        fault: in words.
        injected: how many.
        last_fault: moment of the last one.
        resend: notifications of which a second mail was allowed.
        known: whether it is known which notifications the faults hit; else any of them may be in doubt.
    """
    books, mails = arena.books, arena.mails()
    statuses: Mapping[str, list[str]] = {
        name: [result.status for result in told.values()]
        for name, told in books.finals.items()
        if name in books.published  # what an earlier scenario has left in the database is told, too
    }
    in_doubt = tuple(sorted(name for name, told in statuses.items() if "in_doubt" in told))
    window = arena.cut_in_the_window()
    lost = [
        name
        for name in books.published
        if not (told := statuses.get(name))
        or any(status not in (*_SENT, "in_doubt") for status in told)
        or (any(status in _SENT for status in told) and not mails[name])
    ]
    ends = [books.moments[name] for name in books.published if name in books.moments]
    return Reckoning(
        fault=fault,
        injected=injected,
        published=len(books.published),
        lost=tuple(lost),
        doubled=tuple(sorted(name for name, count in mails.items() if count > 1 and name not in resend)),
        contradicted=tuple(sorted(name for name, told in statuses.items() if len(told) > 1)),
        in_doubt=in_doubt,
        unfounded=tuple(name for name in in_doubt if known and name not in window),
        taken=sum(bool(mails[name]) for name in in_doubt),
        recovery=max(0.0, max(ends, default=last_fault) - last_fault),
    )
