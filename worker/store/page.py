"""The state table of the ledger as functions: a notification's page and what is asked give an answer and a new page.

    stage           claim by somebody            becomes
    (no page)       Claimed                      C
    C  claimed      Underway, or if the owner    C, next epoch
                    is dead: Claimed
    D  dot mark     Underway, or if the owner    D, next epoch: a second crash must not turn a doubt into a second mail
                    is dead: Doubtful
    W  waiting      Waiting, or if due: Claimed  C, next epoch
    F  finished     Finished                     F
    R  rejected     Claimed                      C, next epoch; the page is kept only for its results

No page leaves F but by `reopen` (a person's word); `resolve` replaces the doubt on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.delivery import DeliveryStatus, Result
from worker.domain.delivery import Key, Progress, merged
from worker.ports import (
    Claim,
    Claimed,
    Contradicted,
    Doubtful,
    Finished,
    Recalled,
    Settlement,
    Underway,
    Waiting,
)
from worker.store import record

_SOON = timedelta(seconds=2)  # a copy that comes by so little too early is no copy but the message itself


class Stage(StrEnum):
    """Where a notification stands."""

    CLAIMED = "C"
    DOT = "D"
    WAITING = "W"
    FINISHED = "F"
    REJECTED = "R"


_UNDERWAY = (Stage.CLAIMED, Stage.DOT)


class Due(StrEnum):
    """From when on its results may be published by anybody."""

    SAME = "same"
    LATER = "later"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class Page:
    """One notification's row.

    Attributes:
        epoch: counts the claims.
        unwanted: it is to be cancelled; it must not be handed over.
        told: all results are published and the message is where it belongs.
        next_at: microseconds.
        pending: results to be published, as JSON.
        due: what this change does to the moment from which on the results are anybody's.
    """

    key: Key
    digest: str
    stage: str
    owner: str
    epoch: int
    unwanted: bool
    told: bool
    next_at: int | None
    progress: str
    status: str | None
    result: str | None
    pending: str | None
    due: Due = Due.SAME

    @property
    def underway(self) -> bool:
        """Whether it is claimed."""
        return self.stage in _UNDERWAY

    def only_marked_since(self, old: Page) -> bool:
        """Whether nothing but the stage and the wish to cancel has changed."""
        return (
            self.epoch == old.epoch
            and self.owner == old.owner
            and self.told == old.told
            and self.pending is old.pending
            and self.progress is old.progress
            and self.result is old.result
            and self.due is Due.SAME
        )

    @property
    def open(self) -> tuple[Result, ...]:
        """Results to be published."""
        return tuple(item.result for item in record.pending(self.pending))

    @property
    def last(self) -> Result | None:
        """The latest result."""
        return record.result(self.result) if self.result else None


@dataclass(frozen=True, slots=True)
class Standpoint:
    """Who asks.

    Attributes:
        me: this process.
        busy: whether the page's owner is still at work on it.
    """

    me: str
    busy: Callable[[Page], bool]


def first(key: Key, digest: str, progress: Progress, me: str) -> Page:
    """The page of a notification that is claimed and was never seen before."""
    return Page(
        key, digest, Stage.CLAIMED, me, 1, False, True, None, record.progress_text(progress), None, None, None  # noqa: FBT003
    )  # fmt: skip


def claim(page: Page, digest: str, progress: Progress, now: datetime, view: Standpoint) -> tuple[Claim, Page]:
    """Take it, unless it was finished, is being sent, or is another notification under the same id."""
    if page.stage == Stage.REJECTED:
        return _begun_anew(page, digest, progress, view)
    if page.digest not in ("", digest):
        return Contradicted(), page
    if page.stage == Stage.FINISHED:
        return _finished(page), page
    if page.underway and view.busy(page):
        return Underway(), page
    known = merged(record.progress(page.progress), progress)
    if page.stage == Stage.DOT:
        claimed, taken = _taken(page, known, view)
        return Doubtful(claimed), replace(taken, stage=Stage.DOT, unwanted=page.unwanted)
    if page.next_at is not None and (until := record.moment(page.next_at)) > now + _SOON:
        return Waiting(until, known), page
    claimed, taken = _taken(page, known, view)
    return claimed, replace(taken, digest=digest)


def mark(page: Page | None, claimed: Claimed, view: Standpoint) -> tuple[bool, Page | None]:
    """Whether it may be handed over now; then it says so from here on, and to whom if not to everybody."""
    if page is None or not _ours(page, claimed.epoch, view) or page.unwanted:
        return False, page
    if claimed.progress.handed:
        return True, replace(page, stage=Stage.DOT, progress=record.progress_text(claimed.progress))
    return True, page if page.stage == Stage.DOT else replace(page, stage=Stage.DOT)


def settle(
    page: Page | None, epoch: int, settlement: Settlement, view: Standpoint, *, repeated: bool
) -> tuple[tuple[Result, ...] | None, Page | None]:
    """Give it back.

    Args:
        page: as it is.
        epoch: of the claim.
        settlement: what became of it.
        view: who asks.
        repeated: it was tried before, and nobody knows whether the database has it already.
    """
    if page is None or page.owner != view.me or page.epoch != epoch:
        return None, page
    if not page.underway:
        return (page.open if repeated else None), page
    texts = [record.result_text(result) for result in settlement.results]
    open_ = record.pending_text(page.pending, texts, settlement.reply_to)
    results, final = (*page.open, *settlement.results), settlement.final
    if final is not None and final.status is DeliveryStatus.REJECTED:
        left = replace(page, stage=Stage.REJECTED, status=None, result=None, pending=open_, due=Due.LATER)
        return results, left
    settled = replace(
        page,
        stage=Stage.FINISHED if final is not None else Stage.WAITING,
        told=False,
        next_at=record.microseconds(settlement.next_at) if settlement.next_at else None,
        progress=record.progress_text(settlement.progress),
        status=settlement.results[-1].status if texts else page.status,
        result=texts[-1] if texts else page.result,
        pending=open_,
        due=Due.LATER,
    )
    return results, settled


def recall(page: Page, now: datetime, view: Standpoint) -> tuple[Recalled | Finished | Underway, Page]:
    """Take it in order to cancel it, or keep it from being handed over."""
    if page.stage == Stage.FINISHED:
        return _finished(page), page
    if page.stage == Stage.REJECTED:
        claimed, taken = _begun_anew(page, "", Progress(first_seen=now), view)
        return Recalled(claimed, None), taken
    # The mark of a dead worker is a doubt: whoever gets the message will say so.
    if page.stage == Stage.DOT or (page.underway and view.busy(page)):
        return Underway(), replace(page, unwanted=True)
    claimed, taken = _taken(page, record.progress(page.progress), view)
    return Recalled(claimed, page.last), taken


def published(page: Page | None, events: Collection[str], *, disposed: bool) -> Page | None:
    """Strike off what is confirmed."""
    if page is None:
        return None
    left = record.without(page.pending, events)
    if page.stage == Stage.REJECTED and not left:
        return None
    return replace(page, pending=left, told=page.told or disposed)


def resolve(page: Page | None, result: Result, reply_to: str | None) -> tuple[bool, Page | None]:
    """Close a doubt."""
    if page is None or page.stage != Stage.FINISHED or page.status != DeliveryStatus.IN_DOUBT:
        return False, page
    text = record.result_text(result)
    left = record.pending_text(page.pending, [text], reply_to)
    return True, replace(page, status=result.status, result=text, pending=left, due=Due.NOW)


def reopen(page: Page, digest: str, progress: Progress, view: Standpoint) -> tuple[bool, Page]:
    """Let it be attempted again. A mark that nobody has settled is a doubt, not an end."""
    if page.stage == Stage.DOT or (page.underway and view.busy(page)):
        return False, page
    opened = waiting(page.key, digest, progress, epoch=page.epoch + 1)
    return True, replace(opened, pending=page.pending)


def waiting(key: Key, digest: str, progress: Progress, epoch: int = 0) -> Page:
    """A page that waits for nothing but its message."""
    text = record.progress_text(progress)
    return Page(key, digest, Stage.WAITING, "", epoch, False, True, None, text, None, None, None)  # noqa: FBT003


def disowned(page: Page | None, view: Standpoint) -> tuple[None, Page | None]:
    """Give back what is ours by the book, though nobody here works on it."""
    if page is None or not page.underway or page.owner != view.me or view.busy(page):
        return None, page
    return None, replace(page, owner="")


def _ours(page: Page, epoch: int, view: Standpoint) -> bool:
    return page.underway and page.owner == view.me and page.epoch == epoch


def _finished(page: Page) -> Finished:
    last = page.last
    final = () if last is None else (last,)
    return Finished(page.open or final, record.progress(page.progress), page.told)


def _taken(page: Page, progress: Progress, view: Standpoint) -> tuple[Claimed, Page]:
    taken = replace(
        page,
        stage=Stage.CLAIMED,
        owner=view.me,
        epoch=page.epoch + 1,
        unwanted=False,
        next_at=None,
        progress=record.progress_text(progress),
    )
    return Claimed(page.key, progress, taken.epoch), taken


def _begun_anew(page: Page, digest: str, progress: Progress, view: Standpoint) -> tuple[Claimed, Page]:
    """What was rejected is forgotten, its results apart."""
    fresh = replace(first(page.key, digest, progress, view.me), epoch=page.epoch + 1, pending=page.pending)
    return Claimed(page.key, progress, fresh.epoch), fresh
