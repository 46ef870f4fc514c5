"""What the use case needs from the world: protocols of one to three methods, and the values they speak in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from contracts.delivery import Result
from contracts.notification import Attachment
from worker.domain.delivery import Broken, Progress, Submission, TokenRefused
from worker.domain.envelope import Envelope
from worker.domain.mailbox import Mailbox, OAuth
from worker.domain.message import OutgoingMessage
from worker.domain.verdict import Verdict
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
class Key:
    """What makes a notification unique."""

    tenant: str
    notification_id: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """It is ours to send; progress is what earlier attempts have settled."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Finished:
    """It was finished before: the recorded result is the answer."""

    result: Result


@dataclass(frozen=True, slots=True)
class Underway:
    """It is being sent right now."""


@dataclass(frozen=True, slots=True)
class Contradicted:
    """The id was used before for other content."""


Claim = Claimed | Finished | Underway | Contradicted


class Ledger(Protocol):
    """The truth about hand-overs. Every transition is durable when the method returns."""

    async def claim(self, key: Key, digest: str, progress: Progress) -> Claim:
        """Take the notification for sending; a stored progress wins over the given one."""

    async def handing_over(self, key: Key) -> bool:
        """Write down that the next octets may make the server accept. False: it is no longer ours, do not send."""

    async def settle(self, key: Key, progress: Progress, result: Result | None) -> None:
        """Give the notification back: finished with a final result, or open with its progress."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The mailbox rests."""

    until: datetime
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to try once, to be given back with what came of it.

    Attributes:
        epoch: how many pauses the mailbox had had by then: what an attempt from before a pause brings home proves
            nothing about its end.
        probe: it is the one attempt that is let through after a pause.
    """

    mailbox: str
    epoch: int = 0
    probe: bool = False


class Gate(Protocol):
    """Whether a mailbox may be used now: pauses and their end."""

    def admit(self, mailbox: str, now: datetime) -> Admission | Hold:
        """Ask before an attempt. After a pause one attempt is let through to see whether the trouble is over."""

    def paused(self, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        """The attempt showed a fault of the mailbox: rest it, longer each time. Returns the end of the pause."""

    def cleared(self, admission: Admission, *, tried: bool) -> bool:
        """The attempt showed no fault of the mailbox, or came to nothing at all (`tried` False).

        Returns whether this ends a pause.
        """


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


class FileMissing(Exception):  # noqa: N818 - reads as the sentence it stands for
    """An attachment cannot be had. The argument says which and why, without a path of this machine."""
