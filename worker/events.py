"""What observers are told: one frozen record per thing that happened. Logs and metrics are made of these alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from contracts.delivery import Result


@dataclass(frozen=True, slots=True)
class Concluded:
    """A result was decided.

    Attributes:
        seconds: from taking the message to the decision.
    """

    result: Result
    seconds: float


@dataclass(frozen=True, slots=True)
class Submitting:
    """A mail is about to go out by a mailbox."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """That has come to an end.

    Attributes:
        sent: it was accepted for at least one recipient, or handed over.
    """

    mailbox: str
    sent: bool


@dataclass(frozen=True, slots=True)
class MailboxPaused:
    """A mailbox, or something that it shares with others, rests because of a fault.

    Attributes:
        mailbox: what rests: its name, or in words what is shared.
        found_by: the mailbox that met the fault.
    """

    mailbox: str
    kind: str
    explanation: str
    remedy: str
    until: datetime
    found_by: str = ""


@dataclass(frozen=True, slots=True)
class MailboxResumed:
    """A mailbox works again."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class MailboxesChanged:
    """The directory was changed at run time; from the next notification on it holds.

    Attributes:
        number: of the change.
        changed: names of mailboxes, scopes and producers that were added, changed or removed.
    """

    number: int
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MailboxUnusable:
    """A mailbox of the directory cannot be used: its mail waits until somebody mends it."""

    mailbox: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ChannelRested:
    """One way out of a mailbox does not work; the mail went on to the next one."""

    mailbox: str
    transport: str
    kind: str
    explanation: str
    until: datetime


@dataclass(frozen=True, slots=True)
class PickupLeft:
    """How many files lie in a pickup directory too long; told when that changes, and with 0 when all is well again.

    Attributes:
        uncollected: nobody has taken them.
        refused: its reader could not make anything of them.
    """

    mailbox: str
    directory: str
    uncollected: int
    refused: int


@dataclass(frozen=True, slots=True)
class UnknownReply:
    """A server said something that no row of the catalogue knows."""

    mailbox: str
    stage: str
    reply: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A connection to a mail server was opened and logged in."""

    mailbox: str
    tls: str
    mechanism: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TokenFetched:
    """An access token was fetched, or was not."""

    mailbox: str
    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class CredentialEnds:
    """When a mailbox's client secret or certificate ends, told at start, every day and when it changes.

    Attributes:
        what: `client secret` or `certificate`.
        days: left; negative once it is over.
        urgent: somebody should make a new one.
    """

    mailbox: str
    what: str
    at: datetime
    days: int
    urgent: bool


@dataclass(frozen=True, slots=True)
class CredentialEndForgotten:
    """Nothing is known any more of an end that was told before: the mailbox has another proof, or is gone."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class BasicAuthRetiring:
    """All mailboxes that log in at Microsoft's with a password, told at start, every day and when they change."""

    mailboxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BrokerUp:
    """Connected, and our consumers exist on the broker.

    Attributes:
        lanes: how many are consumed.
        missing: lanes that do not exist though there are some behind them.
    """

    lanes: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokerDown:
    """The connection to the broker is gone; we come back by ourselves."""

    problem: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class BrokerBlocked:
    """The broker takes nothing from publishers: no mail is begun until it does."""

    problem: str


@dataclass(frozen=True, slots=True)
class BrokerUnblocked:
    """The broker takes results again."""


@dataclass(frozen=True, slots=True)
class ConsumerSilent:
    """A lane holds messages that the broker did not send us; the link is given up and made anew.

    Attributes:
        seconds: how long nothing had come.
    """

    lane: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """A copy of a result could not be sent to `reply_to`; the results exchange has it all the same."""

    notification_id: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class Overtaken:
    """This worker was taken for dead while it was sending; what it found out comes after the doubt.

    Attributes:
        status: what it found out, empty if nothing final.
    """

    notification_id: str
    status: str


@dataclass(frozen=True, slots=True)
class DoubtEnded:
    """A copy in Sent Items has shown that a mail in doubt was accepted."""

    notification_id: str


@dataclass(frozen=True, slots=True)
class StoreLost:
    """The store is out of reach; nothing is taken until it is back."""

    problem: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class Relayed:
    """A result that an earlier publisher had left behind was published."""

    notification_id: str | None
    status: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """A bug of ours, caught at the boundary."""

    where: str
    notification_id: str | None
    error: BaseException


@dataclass(frozen=True, slots=True)
class Draining:
    """Told to stop: nothing new is taken."""

    in_flight: int


Event = (
    Concluded
    | Submitting
    | Submitted
    | MailboxPaused
    | MailboxResumed
    | MailboxesChanged
    | MailboxUnusable
    | ChannelRested
    | PickupLeft
    | UnknownReply
    | SessionOpened
    | TokenFetched
    | CredentialEnds
    | CredentialEndForgotten
    | BasicAuthRetiring
    | BrokerUp
    | BrokerDown
    | BrokerBlocked
    | BrokerUnblocked
    | ConsumerSilent
    | ReplyFailed
    | Overtaken
    | DoubtEnded
    | StoreLost
    | Relayed
    | Crashed
    | Draining
)
