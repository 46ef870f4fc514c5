"""What the use case needs from the world: protocols of one to three methods, and the values they speak in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from contracts.address import AddrSpec
from contracts.delivery import Result
from contracts.notification import Attachment, Priority
from worker.domain.delivery import Broken, Key, Progress, Submission, TokenRefused
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, MailScope, OAuth
from worker.domain.message import OutgoingMessage
from worker.domain.verdict import Verdict
from worker.domain.wording import Order, Rule, Unreadable, Unrenderable, Wording
from worker.events import Event

Clock = Callable[[], datetime]
"""The present moment, aware of its zone."""

Dice = Callable[[], float]
"""A number from 0 up to but not including 1."""

HandingOver = Callable[[], Awaitable[bool]]
"""Called in the last moment before a mail leaves our hands for good; False forbids it."""

Observe = Callable[[Event], None]
"""Told what happened. Must return at once and never raise."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """It is ours to send, until we settle it or another worker takes us for dead.

    Attributes:
        progress: what earlier attempts have settled.
        epoch: tells this claim from all others of the notification; a claim from before is no longer ours.
    """

    key: Key
    progress: Progress
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Doubtful:
    """It is ours, but a worker has died over it after the ledger was marked: it may have been sent, or not."""

    claimed: Claimed


@dataclass(frozen=True, slots=True)
class Finished:
    """It was finished before: what is on record is the answer.

    Attributes:
        results: in order; those that may never have reached anybody, else the final one.
        progress: what was settled.
        told: whether every result was published and the message disposed of.
    """

    results: tuple[Result, ...]
    progress: Progress
    told: bool = True


@dataclass(frozen=True, slots=True)
class Underway:
    """It is being sent right now."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Its next attempt is not due; a copy of the message has come by too early."""

    until: datetime
    progress: Progress


@dataclass(frozen=True, slots=True)
class Contradicted:
    """The id was used before for other content."""


Claim = Claimed | Doubtful | Finished | Underway | Waiting | Contradicted


@dataclass(frozen=True, slots=True)
class Recalled:
    """Nothing of it has been handed over since the last result, and nothing will be: the claim is ours to settle.

    Attributes:
        last: the latest result so far; None if the notification has not been seen.
    """

    claimed: Claimed
    last: Result | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claim.

    Attributes:
        results: what the producer is to be told, in order; one that is final ends the notification.
        next_at: when the next attempt is due, if there is one.
        reply_to: where copies of the results go.
    """

    progress: Progress
    results: tuple[Result, ...] = ()
    next_at: datetime | None = None
    reply_to: str | None = None

    @property
    def final(self) -> Result | None:
        """The final result, if this is the end."""
        return next((result for result in self.results if result.final), None)


class StoreDown(Exception):  # noqa: N818 - what happened
    """The store is out of reach; without it nothing is sent. The argument says why, without a secret."""


class Ledger(Protocol):
    """The truth about hand-overs. Every transition is durable when the method returns.

    Raises:
        StoreDown: from every method but `settle`, which waits until the store is back: only it knows what happened.
    """

    async def claim(self, key: Key, digest: str, progress: Progress, now: datetime) -> Claim:
        """Take the notification for sending; what the ledger knows is added to the given progress."""

    async def handing_over(self, claimed: Claimed) -> bool:
        """Write down that the next octets may make the server accept. False: it is no longer ours, do not send."""

    async def settle(self, claimed: Claimed, settlement: Settlement) -> tuple[Result, ...] | None:
        """Give the notification back, finished or waiting, its results on record before anybody is told.

        A rejected notification is forgotten: once its cause is mended it may come again.

        Returns:
            What is to be published now, earlier results that may not have been first. None: it is no longer ours, and
            somebody else has told the producer, or will.
        """

    async def recall(self, key: Key, now: datetime) -> Recalled | Finished | Underway:
        """Take it in order to cancel it. What is under way is kept from being handed over, if it is not too late."""


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A result on record that may not have reached anybody."""

    key: Key
    result: Result
    reply_to: str | None


class Outbox(Protocol):
    """The results on record, until the broker has confirmed them."""

    async def ready(self) -> None:
        """Return if the store answers.

        Raises:
            StoreDown: it does not.
        """

    async def published(self, key: Key, results: Sequence[Result], *, disposed: bool) -> None:
        """Strike them off. Loss of this is harmless: they would be published once more, with the same event ids.

        Args:
            key: whose results they are.
            results: the broker has confirmed them.
            disposed: the broker holds the message where it belongs: nowhere, in a wait queue, or as a dead letter.
        """

    async def unpublished(self) -> Sequence[Unpublished]:
        """Results whose publisher has had time enough, in order per notification; leased to the caller for a while."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A notification of which nobody knows whether it was accepted."""

    key: Key
    result: Result


class Register(Protocol):
    """What operators see and change. Every change leaves a line in the audit trail."""

    async def doubts(self) -> Sequence[Doubt]:
        """Open doubts, oldest first."""

    async def find(self, key: Key) -> Result | None:
        """The latest result on record."""

    async def resolve(self, key: Key, result: Result, reply_to: str | None, actor: str) -> bool:
        """Close a doubt by a `resolved` result, which goes to the outbox. False: there is no open doubt."""

    async def reopen(self, key: Key, digest: str, progress: Progress, actor: str) -> bool:
        """Let a finished notification be attempted again for the recipients that progress leaves open.

        False: it is being sent right now.
        """

    async def note(self, actor: str, action: str, subject: str, detail: str) -> None:
        """Write a line into the audit trail."""


class Store(Ledger, Outbox, Register, Protocol):
    """All that is kept of notifications."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The mailbox rests."""

    until: datetime
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Paced:
    """The mailbox's limits are used up until then, when this notification has a place of its own.

    Attributes:
        slot: the place, to be brought along next time.
        verdict: which limit, for the result that tells of a long wait.
    """

    slot: datetime
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Full(Paced):
    """The same of limits of an hour or a day; there may be room before, if somebody raises them."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one attempt asks of a mailbox.

    Attributes:
        recipients: in the envelope.
        external: those among them outside the mailbox's organisation, or outside its domain if that is not known.
        slot: the place that an earlier question was given.
        sender: in MAIL FROM.
    """

    tenant: str
    priority: Priority
    recipients: int
    external: int
    slot: datetime | None = None
    sender: AddrSpec | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to try once, to be given back with what came of it.

    Attributes:
        epoch: how many pauses the mailbox had had by then: what an attempt from before a pause brings home proves
            nothing about its end.
        probe: it is the one attempt that is let through after a pause.
        ticket: the place in the mailbox's window, if its limits are counted.
        configured: the mailbox as it is configured for this attempt; None: it is no mailbox.
    """

    mailbox: str
    epoch: int = 0
    probe: bool = False
    ticket: int | None = None
    configured: Mailbox | None = field(default=None, repr=False)


class Gate(Protocol):
    """Whether a mailbox may be used now, whatever it shares with others: limits, pauses and their end."""

    async def admit(self, mailbox: Mailbox, demand: Demand, now: datetime) -> Admission | Hold | Paced:
        """Ask before an attempt. After a pause one attempt is let through to see whether the trouble is over."""

    async def look(self) -> None:
        """Take up at once what was changed by hand or by other workers."""

    def resting(self, mailbox: Mailbox, now: datetime) -> Hold | None:
        """Why a mailbox rests, as far as it is known here; None: it does not."""

    def share(self, mailbox: str) -> float:
        """How much of its limits a mailbox has since its server asked for less, as far as it is known here."""

    async def paused(self, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        """The attempt showed a fault of the mailbox: rest it, longer each time. Returns the end of the pause."""

    async def cleared(
        self, admission: Admission, *, tried: bool, accepted: int = 0, said: Verdict | None = None
    ) -> bool:
        """The attempt showed no fault of the mailbox, or came to nothing at all (`tried` False).

        Args:
            admission: what `admit` gave.
            tried: the server was asked to take the mail.
            accepted: recipients that it took the mail for.
            said: what the server's answer means, if it was no plain yes; one that asks for less lowers the limits.

        Returns:
            Whether this ends a pause.
        """


class Entrance(Protocol):
    """Whether a mailbox and all that it shares with others may be used now."""

    async def admit(self, mailbox: Mailbox, demand: Demand, now: datetime) -> Admission | Hold | Paced:
        """Ask before an attempt, as at the gate."""

    async def paused(
        self,
        admission: Admission,
        verdict: Verdict,
        now: datetime,
        *,
        shared: str = "",
        others: Verdict | None = None,
        tried: bool = False,
    ) -> datetime:
        """The attempt showed a fault: rest what is at fault, longer each time. Returns the end of the rest.

        Args:
            admission: what `admit` gave.
            verdict: what is wrong.
            now: this moment.
            shared: what is at fault, a name of `worker.domain.sharing`; empty: the mailbox alone.
            others: what is told of it to the other mailboxes' producers, who must not read this one's reply.
            tried: the mailbox itself has been asked to take the mail, and did not complain of anything but that.
        """

    async def cleared(
        self,
        admission: Admission,
        *,
        tried: bool,
        accepted: int = 0,
        said: Verdict | None = None,
        by: Mailbox | None = None,
    ) -> tuple[str, ...]:
        """The attempt showed no such fault, as at the gate; `by` is the channel that was used.

        Returns:
            Whose rests this ends, for people.
        """


class Permits(Protocol):
    """How many connections to a mailbox's server, or requests to Graph, all workers together may have open."""

    async def acquire(self, mailbox: Mailbox, *, urgent: bool = False) -> int | None:
        """Ask before connecting. The next permit that is given back is urgent mail's that has asked.

        Returns:
            The permit, to be given back when the connection is closed. None: all are in use, or kept for others.
        """

    async def release(self, number: int) -> None:
        """The connection is closed."""

    def rested_since(self, mailbox: str, moment: float) -> bool:
        """Whether a mailbox has begun to rest after a moment of the monotonic clock, as far as it is known here."""

    def wanted(self) -> frozenset[str]:
        """Mailboxes of which somebody has lately been refused one: idle connections to them should be closed."""


class Lookup(Protocol):
    """Whether a mail went out, asked afterwards."""

    async def was_sent(self, mailbox: Mailbox, message_id: str) -> bool | None:
        """Whether the mailbox holds a sent copy: True is proof, False is none. None: it cannot be told."""


class Transport(Protocol):
    """One way of getting rid of a mail."""

    async def submit(
        self, mailbox: Mailbox, envelope: Envelope, message: OutgoingMessage, handing_over: HandingOver
    ) -> Submission:
        """Hand the mail over.

        Whatever goes wrong is a returned value that says how far it came; only a bug raises.
        """


@dataclass(frozen=True, slots=True)
class Token:
    """An access token.

    Attributes:
        fresh: fetched for this call; a server that refuses it will refuse another one too.
    """

    value: str = field(repr=False)
    fresh: bool


class Tokens(Protocol):
    """Where access tokens come from."""

    async def token(
        self, mailbox: str, credentials: OAuth, *, rejected: Token | None = None
    ) -> Token | TokenRefused | Broken:
        """A token with enough time left, from the cache if there is one and it is not the rejected one."""


class Files(Protocol):
    """Where attachments given by reference are found."""

    async def fetch(self, attachments: Sequence[Attachment]) -> Sequence[bytes]:
        """The content of each attachment, in order.

        Raises:
            FileMissing: a reference leads nowhere, or not to what was announced.
        """


class Templates(Protocol):
    """What mails say where their producer left that to us."""

    async def rule(self, event: str, scope: MailScope) -> Rule | Unreadable | None:
        """The rule for an event in a scope, as it stands now; None if there is none."""

    async def render(self, order: Order) -> Wording | Unrenderable | Unreadable:
        """What a template comes to with these data, within a bounded time whatever the template does."""


class FileMissing(Exception):  # noqa: N818 - reads as the sentence it stands for
    """An attachment cannot be had. The argument says which and why, without a path of this machine."""
