"""A sender mailbox: where it submits, how it proves who it is, whose mail it may carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import PurePath
from typing import Literal

from pydantic import SecretStr

from contracts.address import AddrSpec


class Tls(StrEnum):
    """How the connection is secured. There is no "if the server offers it": that is how passwords leak."""

    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class NoLogin:
    """The server knows us by address or certificate, or does not ask."""


@dataclass(frozen=True, slots=True)
class Password:
    """Basic SMTP AUTH.

    Attributes:
        mechanism: `login` or `plain`, exactly as configured; None: the first of these that the server offers.
    """

    username: str
    password: SecretStr
    mechanism: str | None = None


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """OAuth 2.0 client credentials of an app registration, presented by XOAUTH2.

    Attributes:
        authority: token authority with its tenant, `https://login.microsoftonline.com/<tenant id>`.
        oidc: the authority is a plain OpenID Connect issuer, not Microsoft Entra.
        username: mailbox named in `user=`.
        ca_file: trust only these certificates for the authority; None: the system's.
    """

    authority: str
    client_id: str
    client_secret: SecretStr
    scope: str
    username: str
    oidc: bool = False
    ca_file: str | None = None


Credentials = NoLogin | Password | ClientSecret


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How sessions to one mailbox are used by one worker.

    Attributes:
        connections: at most so many at once.
        messages: sent over one connection before it is replaced.
        idle: kept open without work for so long.
        age: replaced when older.
    """

    connections: int = 4
    messages: int = 100
    idle: timedelta = timedelta(seconds=30)
    age: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class SmtpEndpoint:
    """A submission server (RFC 6409) or relay.

    Attributes:
        helo: name given in EHLO; None: this host's.
        ca_file: trust only these certificates; None: the system's.
    """

    host: str
    port: int
    tls: Tls
    credentials: Credentials = NoLogin()
    limits: SessionLimits = SessionLimits()
    helo: str | None = None
    ca_file: str | None = None


class PickupFlavour(StrEnum):
    """Whose convention the files follow: they differ in how hidden recipients are named."""

    IIS = "iis"
    EXCHANGE = "exchange"


@dataclass(frozen=True, slots=True)
class PickupDirectory:
    """A directory that another mail server empties.

    Attributes:
        staging: same file system, outside `directory`; files are written here and moved in one step.
        mode: permission bits of the files.
        group: name of the group that owns the files; None: the process's.
    """

    directory: PurePath
    staging: PurePath
    flavour: PickupFlavour = PickupFlavour.IIS
    mode: int = 0o660
    group: str | None = None


@dataclass(frozen=True, slots=True)
class GraphEndpoint:
    """Microsoft Graph's sendMail, on behalf of one mailbox.

    Attributes:
        url: of the service with its version, `https://graph.microsoft.com/v1.0`; national clouds have their own.
        user: object id or principal name of the mailbox.
        concurrent: requests at once; Exchange Online allows 4 per app and mailbox.
        ca_file: trust only these certificates; None: the system's.
    """

    url: str
    user: str
    credentials: ClientSecret
    concurrent: int = 4
    ca_file: str | None = None


Endpoint = SmtpEndpoint | GraphEndpoint | PickupDirectory


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One configured sender.

    Attributes:
        address: default From, and what the login may send as.
        endpoint: the way out, or the first of several.
        further: ways out that are tried in turn while the ones before them fail before anything of the mail has left.
        senders: other addresses, or `*@domain`, that it may put in From.
        tenants: whose own mailbox it is, lower case; empty for the default mailbox.
    """

    name: str
    address: AddrSpec
    display_name: str
    endpoint: Endpoint
    tenants: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()
    further: tuple[Endpoint, ...] = ()

    @property
    def channels(self) -> tuple[Endpoint, ...]:
        """All ways out, in the order in which they are tried."""
        return (self.endpoint, *self.further)

    def via(self, channel: Endpoint) -> Mailbox:
        """The same mailbox with this way out only."""
        return replace(self, endpoint=channel, further=())

    def may_send_as(self, sender: AddrSpec) -> bool:
        """Whether `sender` may stand in From."""
        allowed = self.senders | {str(self.address)}
        return str(sender) in allowed or f"*@{sender.domain}" in allowed

    @property
    def transport(self) -> Literal["smtp", "graph", "pickup"]:
        """The kind of its first channel, for results and metrics."""
        match self.endpoint:
            case SmtpEndpoint():
                return "smtp"
            case GraphEndpoint():
                return "graph"
            case PickupDirectory():
                return "pickup"


@dataclass(frozen=True, slots=True)
class Producer:
    """A login that may publish, and for whom.

    Attributes:
        tenants: lower case; empty: every tenant.
        categories: empty: every category.
    """

    user: str
    tenants: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Directory:
    """All mailboxes, tenants and producers that this installation knows.

    Attributes:
        default: name of the platform's mailbox, for tenants without one of their own.
        tenants: listed tenants (lower case) → may use the default mailbox. None: every tenant is known and may.
        producers: by login. None: whoever may publish to the exchange is trusted.
    """

    mailboxes: Mapping[str, Mailbox] = field(default_factory=dict)
    default: str | None = None
    tenants: Mapping[str, bool] | None = None
    producers: Mapping[str, Producer] | None = None
