"""Ports with a memory instead of a world behind them. They keep state that tests look at, and a common journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contracts.delivery import Result
from contracts.notification import Attachment
from tests.factories import NOON
from worker.domain.delivery import Accepted, Fenced, Progress, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox
from worker.domain.message import OutgoingMessage
from worker.domain.reply import Reply
from worker.domain.verdict import Verdict
from worker.events import Event
from worker.ports import Admission, Claim, Claimed, Contradicted, Finished, HandingOver, Hold, Key, Underway

Journal = list[str]
"""What happened, in order, across all fakes that share it."""


class Bug(Exception):  # noqa: N818 - what it stands for
    """Our own mistake, somewhere."""


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, by: timedelta) -> None:
        self.now += by


@dataclass
class _Page:
    digest: str
    progress: Progress
    underway: bool = True
    result: Result | None = None


@dataclass
class FakeLedger:
    """One page for each notification.

    Attributes:
        stolen: another worker has taken over whatever is being sent.
    """

    journal: Journal = field(default_factory=list)
    pages: dict[Key, _Page] = field(default_factory=dict)
    stolen: bool = False

    async def claim(self, key: Key, digest: str, progress: Progress) -> Claim:
        self.journal.append("claim")
        page = self.pages.setdefault(key, _Page(digest, progress, underway=False))
        if page.digest != digest:
            return Contradicted()
        if page.result is not None:
            return Finished(page.result)
        if page.underway:
            return Underway()
        page.underway = True
        return Claimed(page.progress)

    async def handing_over(self, key: Key) -> bool:
        self.journal.append("handing over")
        return self.pages[key].underway and not self.stolen

    async def settle(self, key: Key, progress: Progress, result: Result | None) -> None:
        self.journal.append("settle")
        page = self.pages[key]
        page.underway, page.progress, page.result = False, progress, result

    @property
    def page(self) -> _Page:
        """The only page."""
        (page,) = self.pages.values()
        return page


@dataclass
class FakeGate:
    """Lets through whoever is not held.

    Attributes:
        holds: mailboxes that rest.
        out: mailboxes of attempts that were let through and have not come back yet.
        bug: raised when an attempt comes back.
    """

    holds: dict[str, Hold] = field(default_factory=dict)
    out: list[str] = field(default_factory=list)
    tried: list[bool] = field(default_factory=list)
    bug: Exception | None = None

    def admit(self, mailbox: str, now: datetime) -> Admission | Hold:
        hold = self.holds.get(mailbox)
        if hold is not None and now < hold.until:
            return hold
        self.out.append(mailbox)
        return Admission(mailbox)

    def paused(self, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        self.out.remove(admission.mailbox)
        self.holds[admission.mailbox] = Hold(now + verdict.pause, verdict)
        return now + verdict.pause

    def cleared(self, admission: Admission, *, tried: bool) -> bool:
        if self.bug is not None:
            raise self.bug
        self.out.remove(admission.mailbox)
        self.tried.append(tried)
        return tried and self.holds.pop(admission.mailbox, None) is not None


def takes_all(envelope: Envelope) -> Submission:
    """A server that accepts everything."""
    return Accepted(Reply.parse("250 2.0.0 OK"))


@dataclass
class FakeTransport:
    """A mail server that answers as it is told.

    Attributes:
        answer: what it says to an envelope.
        bug_before: raised before the ledger is asked.
        bug_after: raised after the ledger was asked and has agreed.
        never_asks: it comes to its answer without having got as far as handing over.
        sent: all envelopes and mails that it was given, whatever it made of them.
    """

    journal: Journal = field(default_factory=list)
    answer: Callable[[Envelope], Submission] = takes_all
    bug_before: BaseException | None = None
    bug_after: BaseException | None = None
    never_asks: bool = False
    sent: list[tuple[Mailbox, Envelope, OutgoingMessage]] = field(default_factory=list)

    async def submit(
        self, mailbox: Mailbox, envelope: Envelope, message: OutgoingMessage, handing_over: HandingOver
    ) -> Submission:
        self.journal.append("submit")
        self.sent.append((mailbox, envelope, message))
        if self.bug_before is not None:
            raise self.bug_before
        if self.never_asks:
            return self.answer(envelope)
        if not await handing_over():
            return Fenced()
        self.journal.append("dot")
        if self.bug_after is not None:
            raise self.bug_after
        return self.answer(envelope)


@dataclass
class FakeFiles:
    """Attachments by reference; inline ones bring their own bytes."""

    contents: dict[str, bytes] = field(default_factory=dict)
    bug: Exception | None = None

    async def fetch(self, attachments: Sequence[Attachment]) -> Sequence[bytes]:
        if self.bug is not None:
            raise self.bug
        return [
            each.inline_bytes() if each.reference is None else self.contents[each.reference] for each in attachments
        ]


@dataclass
class Events:
    """An observer that remembers."""

    seen: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.seen.append(event)

    def of(self, *kinds: type[Event]) -> Iterable[Event]:
        return [event for event in self.seen if isinstance(event, kinds)]
