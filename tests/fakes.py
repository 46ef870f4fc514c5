"""Ports with a memory instead of a world behind them. They keep state that tests look at, and a common journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contracts.delivery import Result
from contracts.notification import Attachment
from tests.factories import NOON
from worker.domain.delivery import Accepted, Fenced, Key, Progress, Submission
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, MailScope
from worker.domain.message import OutgoingMessage
from worker.domain.reply import Reply
from worker.domain.verdict import Verdict
from worker.domain.wording import Order, Rule, Unreadable, Unrenderable, Wording, rule_for
from worker.events import Event
from worker.ports import (
    Admission,
    Claim,
    Claimed,
    Contradicted,
    Demand,
    Doubt,
    Doubtful,
    Finished,
    HandingOver,
    Hold,
    Paced,
    Recalled,
    Settlement,
    Underway,
    Waiting,
)

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
    doubtful: bool = False
    unwanted: bool = False
    told: bool = True
    last: Result | None = None
    next_at: datetime | None = None


@dataclass
class FakeLedger:
    """One page for each notification; ledger and register in one.

    Attributes:
        stolen: another worker has taken over whatever is being sent.
        resolutions: doubts that were ended, with the result that ended them.
    """

    journal: Journal = field(default_factory=list)
    pages: dict[Key, _Page] = field(default_factory=dict)
    stolen: bool = False
    resolutions: list[tuple[Key, Result, str]] = field(default_factory=list)

    async def claim(self, key: Key, digest: str, progress: Progress, now: datetime) -> Claim:
        self.journal.append("claim")
        page = self.pages.setdefault(key, _Page(digest, progress, underway=False))
        if page.digest not in ("", digest):
            return Contradicted()
        if page.result is not None:
            return Finished((page.result,), page.progress, page.told)
        if page.doubtful:
            page.underway = True
            return Doubtful(Claimed(key, page.progress))
        if page.underway:
            return Underway()
        if page.next_at is not None and page.next_at > now:
            return Waiting(page.next_at, page.progress)
        page.underway = True
        return Claimed(key, page.progress)

    async def handing_over(self, claimed: Claimed) -> bool:
        self.journal.append("handing over")
        page = self.pages[claimed.key]
        if claimed.progress.handed:
            page.progress = claimed.progress
        return page.underway and not page.unwanted and not self.stolen

    async def settle(self, claimed: Claimed, settlement: Settlement) -> tuple[Result, ...] | None:
        self.journal.append("settle")
        if self.stolen:
            return None
        page = self.pages[claimed.key]
        page.underway, page.progress, page.next_at = False, settlement.progress, settlement.next_at
        page.result = settlement.final
        page.last = settlement.results[-1] if settlement.results else page.last
        return settlement.results

    async def recall(self, key: Key, now: datetime) -> Recalled | Finished | Underway:
        self.journal.append("recall")
        page = self.pages.setdefault(key, _Page("", Progress(first_seen=now), underway=False))
        if page.result is not None:
            return Finished((page.result,), page.progress)
        if page.underway:
            page.unwanted = True
            return Underway()
        page.underway = True
        return Recalled(Claimed(key, page.progress), page.last)

    async def doubts(self) -> Sequence[Doubt]:
        return ()

    async def find(self, key: Key) -> Result | None:
        return self.pages[key].last if key in self.pages else None

    async def resolve(self, key: Key, result: Result, reply_to: str | None, actor: str) -> bool:
        self.journal.append(f"{actor} resolve {reply_to}")
        self.resolutions.append((key, result, actor))
        return True

    async def reopen(self, key: Key, digest: str, progress: Progress, actor: str) -> bool:
        self.pages[key] = _Page(digest, progress, underway=False)
        self.journal.append(f"{actor} reopen")
        return True

    async def note(self, actor: str, action: str, subject: str, detail: str) -> None:
        self.journal.append(f"{actor} {action} {subject} {detail}")

    @property
    def page(self) -> _Page:
        """The only page."""
        (page,) = self.pages.values()
        return page


@dataclass
class FakeGate:
    """Lets through whoever is not held.

    Attributes:
        holds: mailboxes that rest, or whose limits are used up.
        out: mailboxes of attempts that were let through and have not come back yet.
        bug: raised when an attempt comes back.
    """

    holds: dict[str, Hold | Paced] = field(default_factory=dict)
    out: list[str] = field(default_factory=list)
    tried: list[bool] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    said: list[Verdict | None] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    bug: Exception | None = None

    async def admit(self, mailbox: Mailbox, demand: Demand, now: datetime) -> Admission | Hold | Paced:
        self.demands.append(demand)
        match self.holds.get(mailbox.name):
            case Hold(until) as hold if now < until:
                return hold
            case Paced(slot) as paced if now < slot:
                return paced
        self.out.append(mailbox.name)
        return Admission(mailbox.name)

    async def paused(self, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        self.out.remove(admission.mailbox)
        self.holds[admission.mailbox] = Hold(now + verdict.pause, verdict)
        return now + verdict.pause

    async def cleared(
        self, admission: Admission, *, tried: bool, accepted: int = 0, said: Verdict | None = None
    ) -> bool:
        if self.bug is not None:
            raise self.bug
        self.out.remove(admission.mailbox)
        self.tried.append(tried)
        self.accepted.append(accepted)
        self.said.append(said)
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
    """Attachments by reference; inline ones bring their own bytes.

    Attributes:
        meanwhile: what happens while they are fetched.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    bug: Exception | None = None
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def fetch(self, attachments: Sequence[Attachment]) -> Sequence[bytes]:
        if self.bug is not None:
            raise self.bug
        if self.meanwhile is not None:
            await self.meanwhile()
        return [
            each.inline_bytes() if each.reference is None else self.contents[each.reference] for each in attachments
        ]


@dataclass
class FakeTemplates:
    """Answers as it is told.

    Attributes:
        orders: all that was to be written.
    """

    rules: list[Rule] = field(default_factory=list)
    away: Unreadable | None = None
    answer: Wording | Unrenderable | Unreadable = field(
        default_factory=lambda: Wording("en", "A subject", "A text.", "<p>A text.</p>")
    )
    orders: list[Order] = field(default_factory=list)

    async def rule(self, event: str, scope: MailScope) -> Rule | Unreadable | None:
        return self.away or rule_for(event, scope, self.rules)

    async def render(self, order: Order) -> Wording | Unrenderable | Unreadable:
        self.orders.append(order)
        return self.answer


@dataclass
class Events:
    """An observer that remembers."""

    seen: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.seen.append(event)

    def of(self, *kinds: type[Event]) -> Iterable[Event]:
        return [event for event in self.seen if isinstance(event, kinds)]
