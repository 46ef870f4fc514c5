"""A sender mailbox: where it submits, how it proves who it is, whose mail it may carry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import PurePath
from typing import Literal

from pydantic import SecretStr

from contracts.address import AddrSpec


class Tls(StrEnum):
    """How the connection is secured. "If the server offers it" is for relays without login: it leaks passwords."""

    STARTTLS = "starttls"
    IF_OFFERED = "starttls-if-offered"
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

    @property
    def recipients(self) -> int | None:
        """Most recipients of one file; None: no limit. PickupDirectoryMaxRecipientsPerMessage is 100 by default."""
        return 100 if self is PickupFlavour.EXCHANGE else None


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
    credentials: OAuth
    concurrent: int = 4
    ca_file: str | None = None


Endpoint = SmtpEndpoint | GraphEndpoint | PickupDirectory


def reads_headers(endpoint: Endpoint) -> bool:
    """Whether its recipients are those whom the headers name, whatever the envelope is."""
    match endpoint:
        case GraphEndpoint():
            return True
        case PickupDirectory(flavour=flavour):
            return flavour is PickupFlavour.EXCHANGE
        case SmtpEndpoint():
            return False


class Rank(StrEnum):
    """Which server of a pool is taken first: the scope's default, then high, normal and low."""

    DEFAULT = "default"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a mailbox may do, all workers together. None: no limit.

    Attributes:
        connections: at once.
        per_minute: messages in any minute.
        per_hour: messages in any hour.
        recipients_per_day: in any 24 hours.
        recipients_per_message: of one mail.
        max_size: octets of one mail.
    """

    connections: int | None = None
    per_minute: int | None = None
    per_hour: int | None = None
    recipients_per_day: int | None = None
    recipients_per_message: int | None = None
    max_size: int | None = None


class TooMany(StrEnum):
    """What becomes of a mail with more recipients than one submission takes: several submissions, or a refusal."""

    SPLIT = "split"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Organisation:
    """A customer of Exchange Online, whose mailboxes share a limit of recipients outside it (TERRL).

    Attributes:
        domains: its accepted domains, A-labels in lower case.
        external_per_day: recipients outside of them, in any 24 hours.
    """

    name: str
    domains: frozenset[str]
    external_per_day: int


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where all mail goes in place of its recipients.

    Attributes:
        cc: a second address that gets it too.
    """

    to: AddrSpec
    cc: AddrSpec | None = None

    @property
    def addresses(self) -> tuple[AddrSpec, ...]:
        """Who gets the mail."""
        return (self.to,) if self.cc is None else (self.to, self.cc)


@dataclass(frozen=True, slots=True)
class MailScope:
    """Whose mail it is, all in lower case: a tenant's, perhaps of one of its sites or of one component."""

    tenant: str
    site: str | None = None
    component: str | None = None

    def __str__(self) -> str:
        parts = [f"tenant {self.tenant!r}"]
        if self.site is not None:
            parts.append(f"site {self.site!r}")
        if self.component is not None:
            parts.append(f"component {self.component!r}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Held:
    """Why a mailbox takes no mail although it is switched on: its mail waits.

    Attributes:
        until: None: until somebody acts.
        unusable: there is something to be mended; else somebody has paused it.
    """

    why: str
    remedy: str
    until: datetime | None = None
    unusable: bool = False

    @property
    def kind(self) -> str:
        """Reason class of results."""
        return "mailbox-unusable" if self.unusable else "mailbox-paused"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """One configured sender.

    Attributes:
        address: default From, and what the login may send as.
        endpoint: the way out, or the first of several.
        further: ways out that are tried in turn while the ones before them fail before anything of the mail has left.
        senders: other addresses, or `*@domain`, that it may put in From.
        tenants: whose own mailbox it is, lower case; empty: the platform's.
        sites: of those tenants, lower case; None: all of them, and mail that belongs to no site.
        components: likewise.
        rank: place in the pool of its scope.
        enabled: a mailbox that is switched off is never taken.
        purposes: categories that it serves; None: all.
        fallback_for: categories that it takes from scopes without a server; such a mailbox is in no pool, and `tenants`
            says who may fall back on it (empty: all).
        allowed_domains: of recipients, `*.domain` for those below it; empty: all.
        catch_all: gets all mail of this mailbox in place of the recipients.
        redirect: likewise, and it wins: the sandbox of a test installation.
        suppress: decide everything, send nothing.
        held: why it takes no mail at the moment; None: it does.
        organisation: whose limit its mail to the outside counts against, if that is known.
        too_many: what becomes of a mail with more recipients than it takes at once.
    """

    name: str
    address: AddrSpec
    display_name: str
    endpoint: Endpoint
    tenants: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()
    sites: frozenset[str] | None = None
    components: frozenset[str] | None = None
    rank: Rank = Rank.NORMAL
    enabled: bool = True
    purposes: frozenset[str] | None = None
    fallback_for: frozenset[str] = frozenset()
    limits: Limits = Limits()
    allowed_domains: frozenset[str] = frozenset()
    catch_all: Redirect | None = None
    redirect: Redirect | None = None
    suppress: bool = False
    further: tuple[Endpoint, ...] = ()
    held: Held | None = None
    organisation: Organisation | None = None
    too_many: TooMany = TooMany.SPLIT

    @property
    def channels(self) -> tuple[Endpoint, ...]:
        """All ways out, in the order in which they are tried."""
        return (self.endpoint, *self.further)

    def via(self, channel: Endpoint) -> Mailbox:
        """The same mailbox with this way out only."""
        return replace(self, endpoint=channel, further=())

    def outside(self, recipient: AddrSpec) -> bool:
        """Whether a recipient is outside its organisation, or where that is not known outside its own domain."""
        own = self.organisation.domains if self.organisation else {self.address.domain}
        return recipient.domain not in own

    def may_send_as(self, sender: AddrSpec) -> bool:
        """Whether `sender` may stand in From."""
        return listed(sender, self.senders | {str(self.address)})

    def belongs_to(self, scope: MailScope) -> bool:
        """Whether it is one of the scope's own servers, switched on or not."""
        return (
            scope.tenant in self.tenants
            and not self.fallback_for
            and (self.sites is None or scope.site in self.sites)
            and (self.components is None or scope.component in self.components)
        )

    def serves(self, purpose: str) -> bool:
        """Whether it takes mail of this category."""
        return self.purposes is None or purpose in self.purposes

    def may_reach(self, recipient: AddrSpec) -> bool:
        """Whether the recipient's domain is one that it may send to."""
        parents = recipient.domain.split(".")
        above = {f"*.{'.'.join(parents[n:])}" for n in range(1, len(parents))}
        return not self.allowed_domains or bool(self.allowed_domains & {recipient.domain, *above})

    @property
    def bound_to(self) -> int:
        """How narrow its scope is within its tenants: of two defaults the narrower one holds."""
        return (self.sites is not None) + (self.components is not None)

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
        senders: addresses, or `*@domain`, that it may put in From; empty: those that the mailbox may send as.
    """

    user: str
    tenants: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    senders: frozenset[str] = frozenset()


class Stop(StrEnum):
    """What becomes of mail while a stop switch is on: it waits, or it is refused at once."""

    HOLD = "hold"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Restraint:
    """What keeps a scope's mail back, whatever mailbox would carry it.

    Attributes:
        stop: the stop switch; None: mail flows.
        suppress: decide everything, send nothing.
        redirect: all mail goes there in place of its recipients.
        purposes_off: categories that are refused.
    """

    stop: Stop | None = None
    suppress: bool = False
    redirect: Redirect | None = None
    purposes_off: frozenset[str] = frozenset()

    def within(self, wider: Restraint) -> Restraint:
        """Both of them: switches add up, of two redirects the narrower one holds."""
        return Restraint(
            stop=Stop.REFUSE if Stop.REFUSE in (self.stop, wider.stop) else self.stop or wider.stop,
            suppress=self.suppress or wider.suppress,
            redirect=self.redirect or wider.redirect,
            purposes_off=self.purposes_off | wider.purposes_off,
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """A listed tenant.

    Attributes:
        use_default: whether it may use the platform's mailboxes. None: as long as it has no server of its own at all;
            True also lets its sites and components without one use the default.
        choose: whether its notifications may name a mailbox.
        sites: restraints of single sites, lower case.
        components: likewise.
    """

    use_default: bool | None = None
    choose: bool = True
    restraint: Restraint = Restraint()
    sites: Mapping[str, Restraint] = field(default_factory=dict)
    components: Mapping[str, Restraint] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Directory:
    """All mailboxes, tenants and producers that this installation knows.

    Attributes:
        default: name of the platform's mailbox, for tenants without one of their own.
        tenants: listed tenants, lower case. None: every tenant is known.
        producers: by login. None: whoever may publish to the exchange is trusted.
        restraint: of all mail.
        open: tenants that are not listed are known all the same.
    """

    mailboxes: Mapping[str, Mailbox] = field(default_factory=dict)
    default: str | None = None
    tenants: Mapping[str, Tenant] | None = None
    producers: Mapping[str, Producer] | None = None
    restraint: Restraint = Restraint()
    open: bool = False
    _bound: Mapping[str, tuple[Mailbox, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Sort the mailboxes by tenant once, for a platform may have thousands of them."""
        bound: dict[str, list[Mailbox]] = {}
        for mailbox in self.mailboxes.values():
            for name in mailbox.tenants:
                bound.setdefault(name, []).append(mailbox)
        object.__setattr__(self, "_bound", {name: tuple(mailboxes) for name, mailboxes in bound.items()})

    def bound(self, tenant: str) -> tuple[Mailbox, ...]:
        """The mailboxes that list a tenant, fall-backs included."""
        return self._bound.get(tenant, ())

    def lists(self, tenant: str) -> bool:
        """Whether a tenant is known by the list, if there is one that counts."""
        return self.tenants is None or self.open or tenant in self.tenants

    def knows(self, tenant: str) -> bool:
        """Whether mail of this tenant is taken at all: it is listed, or has a mailbox."""
        return self.lists(tenant) or bool(self.bound(tenant))

    def tenant(self, name: str) -> Tenant:
        """What is said about a tenant; of one that is not listed nothing is."""
        return (self.tenants or {}).get(name, Tenant())

    def restraint_of(self, scope: MailScope) -> Restraint:
        """What keeps this scope's mail back, from the whole platform down to the component."""
        tenant = self.tenant(scope.tenant)
        found = tenant.restraint.within(self.restraint)
        for parts, name in ((tenant.sites, scope.site), (tenant.components, scope.component)):
            if name is not None and name in parts:
                found = parts[name].within(found)
        return found


def fingerprint(mailbox: Mailbox) -> str:
    """By which a change of its servers and logins is noticed: so little that no secret can be guessed from it."""
    ways = repr(_told((mailbox.endpoint, mailbox.further)))
    return hashlib.sha256(ways.encode()).hexdigest()[:4]


def _told(value: object) -> object:
    """With the secrets, which show themselves to nobody."""
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return tuple(map(_told, value))
        case _ if is_dataclass(value):
            return (type(value).__name__, *(_told(getattr(value, each.name)) for each in fields(value)))
        case _:
            return value


def listed(sender: AddrSpec, senders: frozenset[str]) -> bool:
    """Whether an address is in a list of addresses and `*@domain`."""
    return str(sender) in senders or f"*@{sender.domain}" in senders
