"""One notification's way through its attempts: what an attempt came to, and what is settled so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from contracts.address import AddrSpec
from contracts.delivery import DeliveryStatus, RecipientStatus
from worker.domain.reply import Reply


class Stage(StrEnum):
    """How far an attempt had come. After DOT or GRAPH the server may have taken the mail even if it never said so.

    At DRAFT Graph has not been asked to send anything yet.
    """

    CONNECT = "connect"
    TOKEN = "token"  # noqa: S105 - a stage, not a secret
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    FILE = "file"
    DRAFT = "draft"
    GRAPH = "graph"


class Fault(StrEnum):
    """What went wrong where no server said anything, or where we did not even ask it."""

    DNS = "dns"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    GARBLED = "garbled"
    CERTIFICATE = "certificate"
    TLS = "tls"
    NO_STARTTLS = "no-starttls"
    NO_MECHANISM = "no-mechanism"
    NO_SMTPUTF8 = "no-smtputf8"
    TOO_LARGE = "too-large"
    TOO_MANY = "too-many"
    NAMED_ALREADY = "named-already"
    SERVER_ERROR = "server-error"
    TOKEN_ENDPOINT = "token-endpoint"  # noqa: S105
    DIRECTORY = "directory"
    DISK = "disk"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Key:
    """What makes a notification unique.

    Attributes:
        tenant: in lower case.
    """

    tenant: str
    notification_id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.notification_id}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server took responsibility for the mail, for all recipients but the refused ones."""

    reply: Reply
    refused: Mapping[AddrSpec, Reply] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The file lies in the pickup directory."""

    path: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The server said no to all of it.

    Attributes:
        stage: the command that was refused; RCPT if every recipient was.
        refused: recipients that were refused one by one before.
        mechanism: of authentication, if that was the stage.
        retry_after: how long the server wants to be left alone, if it said so (RFC 9110 section 10.2.3).
    """

    stage: Stage
    reply: Reply
    refused: Mapping[AddrSpec, Reply] = field(default_factory=dict)
    mechanism: str = ""
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The token authority said no (RFC 6749 section 5.2).

    Attributes:
        error: the OAuth error code, the only part that software may rely on.
        hints: numbers such as 7000215 of AADSTS7000215.
    """

    error: str
    description: str
    hints: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """The attempt broke off without an answer. At stage DOT nobody knows what came of it."""

    stage: Stage
    fault: Fault
    detail: str
    refused: Mapping[AddrSpec, Reply] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fenced:
    """The ledger would not let us hand the mail over: another worker has taken it."""


@dataclass(frozen=True, slots=True)
class Busy:
    """All connections of the mailbox are in use. Nothing was tried."""


Submission = Accepted | HandedOver | Refused | TokenRefused | Broken | Fenced | Busy


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one recipient.

    Attributes:
        verdict: class of the verdict, empty if accepted.
    """

    status: RecipientStatus
    reply: Reply | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What travels with a notification from attempt to attempt.

    Attributes:
        first_seen: when a worker first took it; its Date header, and what the retry horizon counts from.
        kept_until: when it was kept back last by limits of its mailbox, before its first attempt: the horizon counts
            from then.
        attempts: spent so far. Waiting for a paused or busy mailbox spends none.
        settled: recipients that need no further attempt.
        doubted: open recipients who may have a copy already: the producer said that a second one does no harm, but
            when there is no second one nobody may say that there was none.
        waits: how often it found all connections of its mailbox in use since its last attempt.
        told: reason class of the last `deferred` result, so that a long pause is not reported again and again.
        slot: its place in the line for a mailbox whose limits are used up.
        replays: how often a person has sent it on its way again after its end.
        group: most recipients of the next submission, because one among them spoils it for all; 0: all of them.
        cap: most recipients of any submission, because the server never takes more; 0: as many as there are.
        handed: who had a part in the submission that is being handed over, if not all open recipients have.
    """

    first_seen: datetime
    attempts: int = 0
    settled: Mapping[AddrSpec, Outcome] = field(default_factory=dict)
    doubted: frozenset[AddrSpec] = frozenset()
    waits: int = 0
    told: str = ""
    slot: datetime | None = None
    replays: int = 0
    group: int = 0
    cap: int = 0
    handed: frozenset[AddrSpec] = frozenset()
    kept_until: datetime | None = None

    def turn(self, still_open: Sequence[AddrSpec], most: int | None = None) -> tuple[AddrSpec, ...]:
        """The recipients of the next submission. Each spent attempt begins with another one: none is starved.

        Args:
            still_open: recipients without a submission so far.
            most: that the mailbox takes at once; None: no limit.
        """
        size = min(filter(None, (self.group, self.cap, most)), default=0)
        if not size or size >= len(still_open):
            return tuple(still_open)
        first = self.attempts % len(still_open)
        return tuple(still_open[(first + index) % len(still_open)] for index in range(size))

    def advanced(
        self, outcomes: Mapping[AddrSpec, Outcome], *, spent: bool, doubted: frozenset[AddrSpec] = frozenset()
    ) -> Progress:
        """Progress after an attempt; deferred recipients stay open."""
        done = {rcpt: outcome for rcpt, outcome in outcomes.items() if outcome.status is not RecipientStatus.DEFERRED}
        return replace(
            self,
            attempts=self.attempts + spent,
            waits=0,
            slot=None,
            handed=frozenset(),
            settled={**self.settled, **with_doubt(done, self.doubted | doubted)},
            doubted=(self.doubted | doubted) - done.keys(),
        )


def merged(recorded: Progress, carried: Progress) -> Progress:
    """What either of them knows: a copy that waited in the broker may know more than the record, or less."""
    return replace(
        carried,
        first_seen=min(recorded.first_seen, carried.first_seen),
        attempts=max(recorded.attempts, carried.attempts),
        replays=max(recorded.replays, carried.replays),
        group=recorded.group or carried.group,
        cap=recorded.cap or carried.cap,
        handed=recorded.handed,
        kept_until=max(filter(None, (recorded.kept_until, carried.kept_until)), default=None),
        settled={**carried.settled, **recorded.settled},
        doubted=(recorded.doubted | carried.doubted) - recorded.settled.keys() - carried.settled.keys(),
    )


def with_doubt(outcomes: Mapping[AddrSpec, Outcome], doubted: frozenset[AddrSpec]) -> Mapping[AddrSpec, Outcome]:
    """Who may have an earlier copy has not failed: that copy's fate is still unknown."""
    return {
        rcpt: replace(outcome, status=RecipientStatus.IN_DOUBT)
        if rcpt in doubted and outcome.status is RecipientStatus.FAILED
        else outcome
        for rcpt, outcome in outcomes.items()
    }


def give_up(outcomes: Mapping[AddrSpec, Outcome]) -> Mapping[AddrSpec, Outcome]:
    """There is no next attempt: what was deferred has failed."""
    return {
        rcpt: replace(outcome, status=RecipientStatus.FAILED) if outcome.status is RecipientStatus.DEFERRED else outcome
        for rcpt, outcome in outcomes.items()
    }


def overall(outcomes: Mapping[AddrSpec, Outcome], *, expires: bool = False) -> DeliveryStatus:
    """One word for all recipients: open ones first, then the unknown, then the mixed.

    Args:
        outcomes: what is known of each.
        expires: the attempts ended because the notification is worthless from now on.
    """
    statuses = {outcome.status for outcome in outcomes.values()}
    taken = statuses & {RecipientStatus.ACCEPTED, RecipientStatus.HANDED_OVER}
    match statuses:
        case _ if RecipientStatus.DEFERRED in statuses:
            return DeliveryStatus.DEFERRED
        case _ if RecipientStatus.IN_DOUBT in statuses:
            return DeliveryStatus.IN_DOUBT
        case _ if statuses == {RecipientStatus.HANDED_OVER}:
            return DeliveryStatus.HANDED_OVER
        case _ if statuses == {RecipientStatus.ACCEPTED}:
            return DeliveryStatus.ACCEPTED
        case _ if taken:
            return DeliveryStatus.PARTIALLY_ACCEPTED
        case _:
            return DeliveryStatus.EXPIRED if expires else DeliveryStatus.FAILED
