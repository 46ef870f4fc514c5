"""A sender mailbox: where it submits, how it proves who it is, whose mail it may carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
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
class Secret:
    """A client secret.

    Attributes:
        expires: as it was told when it was made; nothing in it says so.
    """

    value: SecretStr
    expires: date | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of the app registration, with its private key.

    Attributes:
        file: PEM with both, or PFX (PKCS #12). It may be replaced while we run.
        password: of the private key.
    """

    file: PurePath
    password: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class Federated:
    """A federated credential: another authority vouches for us, Kubernetes' workload identity for one.

    Attributes:
        file: where the platform puts its assertion (RFC 7523), again and again; read at each use.
    """

    file: PurePath


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """An identity that Azure gives to the machine; none of both: the one that the system assigned."""

    client_id: str | None = None
    resource_id: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """A person has signed in, by `postlane token login` (RFC 8628), and we have been given a refresh token."""


Proof = Secret | Certificate | Federated | ManagedIdentity | DeviceLogin


@dataclass(frozen=True, slots=True)
class OAuth:
    """OAuth 2.0: tokens for the app itself, or for a person with a device login; presented by XOAUTH2.

    Attributes:
        authority: token authority with its tenant, `https://login.microsoftonline.com/<tenant id>`; empty for a managed
            identity.
        client_id: of the app registration; empty for a managed identity.
        username: mailbox named in `user=`. For a person's token that is the person's, even if the mail is another
            mailbox's.
        oidc: the authority is a plain OpenID Connect issuer, not Microsoft Entra.
        ca_file: trust only these certificates for the authority; None: the system's.
    """

    authority: str
    client_id: str
    proof: Proof
    scope: str
    username: str
    oidc: bool = False
    ca_file: str | None = None


Credentials = NoLogin | Password | OAuth


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


Endpoint = SmtpEndpoint | PickupDirectory


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One configured sender.

    Attributes:
        address: default From, and what the login may send as.
        senders: other addresses, or `*@domain`, that it may put in From.
        tenants: whose own mailbox it is, lower case; empty for the default mailbox.
    """

    name: str
    address: AddrSpec
    display_name: str
    endpoint: Endpoint
    tenants: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()

    def may_send_as(self, sender: AddrSpec) -> bool:
        """Whether `sender` may stand in From."""
        allowed = self.senders | {str(self.address)}
        return str(sender) in allowed or f"*@{sender.domain}" in allowed

    @property
    def transport(self) -> Literal["smtp", "pickup"]:
        """`smtp` or `pickup`, for results and metrics."""
        return "pickup" if isinstance(self.endpoint, PickupDirectory) else "smtp"


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
