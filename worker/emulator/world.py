"""What the emulated tenants consist of: mailboxes, app registrations, and what servers say to whom. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class MailboxAccount:
    """A mailbox that can submit.

    Attributes:
        password: None: no basic authentication.
        apps: client ids that have been given rights on it.
        send_as: other addresses it may use in From.
        smtp_auth: the switch "Authenticated SMTP"; it must be on for OAuth too.
    """

    address: str
    password: str | None = field(default=None, repr=False)
    apps: frozenset[str] = frozenset()
    send_as: frozenset[str] = frozenset()
    smtp_auth: bool = True


@dataclass(frozen=True, slots=True)
class FederatedCredential:
    """Whose assertions an app accepts in place of a secret.

    Attributes:
        public_key: PEM, of the issuer; the real one is fetched from it.
    """

    issuer: str
    subject: str
    public_key: str


@dataclass(frozen=True, slots=True)
class TokenTrouble:
    """What the token endpoint does instead of its work. Any of them may be left out.

    Attributes:
        aadsts: number of an error that it knows the status and words of (`aadsts.ERRORS`).
        status: 4xx or 5xx, with no body that OAuth knows.
        retry_after: seconds, in the header.
        delay: seconds before it answers.
        times: how often; then all is well again.
    """

    aadsts: int | None = None
    status: int | None = None
    retry_after: int | None = None
    delay: float = 0
    times: int = 1_000_000


@dataclass(frozen=True, slots=True)
class AppRegistration:
    """An application in Entra ID with admin consent.

    Attributes:
        certificates: PEM, that assertions may be signed with.
        roles: application permissions that were consented to.
        by_role_assignment: Exchange's own RBAC gives it what it needs; the token then need show no role for it.
        secret_ends: of the client secret, told by Graph to an app with Application.Read.All.
        public: device codes are allowed ("Allow public client flows").
    """

    tenant_id: str
    client_id: str
    client_secret: str = field(repr=False)
    certificates: tuple[str, ...] = ()
    federated: tuple[FederatedCredential, ...] = ()
    roles: tuple[str, ...] = ("SMTP.SendAsApp", "Mail.Send", "Mail.ReadWrite")
    by_role_assignment: bool = False
    secret_ends: datetime | None = None
    public: bool = True
    trouble: TokenTrouble | None = None


@dataclass(frozen=True, slots=True)
class ManagedIdentityAccount:
    """An identity of the machine: the system's if it is the first, else asked for by its client or resource id."""

    tenant_id: str
    client_id: str
    resource_id: str = ""
    roles: tuple[str, ...] = ("SMTP.SendAsApp",)


@dataclass(frozen=True, slots=True)
class Profile:
    """How a server behaves.

    Attributes:
        host: what it calls itself.
        greeting: after the 220.
        keywords: of EHLO, without STARTTLS and AUTH.
        mechanisms: of AUTH, offered only under TLS.
        tls_first: whether it refuses mail without TLS.
        accepted: reply text to the final dot; may use {message_id}, {host} and {queue_id}.
        checks_sender: whether From, Sender and MAIL FROM must be the login's.
        recipients: local part → reply to RCPT.
        contents: local part of a recipient → reply to the final dot; `drop` hangs up instead, `lost` accepts first.
    """

    host: str
    greeting: str
    keywords: tuple[str, ...]
    mechanisms: tuple[str, ...]
    tls_first: bool = True
    accepted: str = "2.0.0 OK"
    checks_sender: bool = False
    recipients: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)


SCRIPTED_CONTENTS = {
    "drop-at-dot": "drop",
    "lost-250": "lost",
    "busy-at-dot": "451 4.3.0 Try again later",
    "spam-at-dot": "554 5.7.1 Message refused by policy",
}

OFFICE365 = Profile(
    host="emulator.outlook.office365.example",
    greeting="Microsoft ESMTP MAIL Service ready (this is Postlane's emulator)",
    keywords=(
        "SIZE 157286400",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "SMTPUTF8",
    ),
    mechanisms=("LOGIN", "XOAUTH2"),
    accepted="2.0.0 OK {message_id} [Hostname={host}]",
    checks_sender=True,
    contents=SCRIPTED_CONTENTS,
)

ORDINARY = Profile(
    host="mail.emulator.example",
    greeting="ESMTP (this is Postlane's emulator of an ordinary mail server)",
    keywords=("PIPELINING", "SIZE 52428800", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8"),
    mechanisms=("PLAIN", "LOGIN"),
    accepted="2.0.0 Ok: queued as {queue_id}",
    recipients={
        "unknown": "550 5.1.1 <unknown>: Recipient address rejected: User unknown",
        "busy": "451 4.3.2 Please try again later",
        "full": "452 4.2.2 Mailbox full",
    },
    contents=SCRIPTED_CONTENTS,
)
