"""Result v1: what Postlane answers for every notification."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue

from contracts.model import Contract


class DeliveryStatus(StrEnum):
    """Where a notification stands.

    *Accepted* is what a mail server said, not what a reader saw: delivery is known only from a bounce or a receipt.
    """

    ACCEPTED = "accepted"
    PARTIALLY_ACCEPTED = "partially_accepted"
    HANDED_OVER = "handed_over"
    DEFERRED = "deferred"
    FAILED = "failed"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    REJECTED = "rejected"
    IN_DOUBT = "in_doubt"
    CANCELLED = "cancelled"
    RESOLVED = "resolved"
    EXPANDED = "expanded"

    @property
    def final(self) -> bool:
        """Whether no further result follows, a `resolved` one after `in_doubt` apart."""
        return self is not DeliveryStatus.DEFERRED


class RecipientStatus(StrEnum):
    """Where one recipient of a notification stands."""

    ACCEPTED = "accepted"
    HANDED_OVER = "handed_over"
    DEFERRED = "deferred"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    CANCELLED = "cancelled"


class Because(StrEnum):
    """Why this mailbox and no other.

    NAMED by the notification. OWN: the only one or the default of the tenant, site or component. PRIORITY: the first
    available of several. DEFAULT: the platform's, for those without one. PURPOSE: the fall-back for this category.
    """

    NAMED = "named"
    OWN = "own"
    PRIORITY = "priority"
    DEFAULT = "default"
    PURPOSE = "purpose"


class RecipientResult(Contract):
    """The server's word on one recipient."""

    address: str
    status: RecipientStatus
    code: Annotated[int | None, Field(description="SMTP reply code (RFC 5321); over graph HTTP status")] = None
    enhanced: Annotated[str | None, Field(description="enhanced status code (RFC 3463)", examples=["5.1.1"])] = None
    text: Annotated[str, Field(description="the server's own words, its diagnostic suffix included")] = ""
    kind: Annotated[str, Field(alias="class", description="verdict class; empty if accepted")] = ""


class MailboxUsed(Contract):
    """The mailbox that was chosen, and why."""

    name: str
    address: str
    transport: Annotated[Literal["smtp", "graph", "pickup"], Field(description="the way that was taken last")]
    because: Because
    why: Annotated[
        str | None, Field(description="the choice in words, with the mailboxes that were passed over and the reason")
    ] = None


class Problem(Contract):
    """One thing that is wrong with a message."""

    field: Annotated[str, Field(description="path into the message", examples=["to[0].address", "body"])]
    problem: str


class Reason(Contract):
    """Why the status is what it is, for a person."""

    kind: Annotated[str, Field(alias="class", description="verdict class", examples=["auth-config"])]
    explanation: str
    remedy: Annotated[str, Field(description="what to do next, and where")] = ""
    link: str = ""
    problems: tuple[Problem, ...] = ()


class Result(Contract):
    """One event in the life of a notification; exactly one of them is final."""

    type: Literal["postlane.result.v1"] = "postlane.result.v1"
    event_id: Annotated[str, Field(description="equal for a repeated event: drop what you have seen")]
    notification_id: Annotated[str | None, Field(description="left out only if the message named none")] = None
    correlation_id: str | None = None
    tenant: Annotated[str | None, Field(description="left out only if the message named none")] = None
    category: str | None = None
    status: DeliveryStatus
    final: bool
    recipients: tuple[RecipientResult, ...] = ()
    mailbox: MailboxUsed | None = None
    redirected_to: Annotated[
        str | None, Field(description="a sandbox redirect is on: this address got the mail, the recipients did not")
    ] = None
    message_id: Annotated[str | None, Field(description="Message-ID header of the mail")] = None
    server_reply: Annotated[str | None, Field(description="last reply of the server: quote it to its support")] = None
    attempt: Annotated[int, Field(ge=0, description="0: no attempt was made")] = 0
    received_at: AwareDatetime
    occurred_at: AwareDatetime
    next_attempt_at: AwareDatetime | None = None
    expanded_into: Annotated[
        int | None,
        Field(ge=1, description="a mass mail became so many mails, <id>/1 and on; each has results of its own"),
    ] = None
    reason: Reason | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
