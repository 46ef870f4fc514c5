"""The mailboxes file: TOML to a Directory, with every mistake named by its place in the file.

A secret may stand in the file, in a file of its own (`…_file`), in an environment variable (`…_env`) or in a key vault
(`…_keyvault`).
"""

from __future__ import annotations

import gc
import pickle
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from itertools import combinations
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from contracts.address import AddrSpec, parse
from contracts.model import HeaderText, PartName, TenantName
from worker.domain import pacing
from worker.domain.cloud import CLOUDS, Cloud, CloudName, is_high_volume
from worker.domain.mailbox import (
    Certificate,
    Credentials,
    DeviceLogin,
    Directory,
    Endpoint,
    Federated,
    GraphEndpoint,
    Limits,
    Mailbox,
    ManagedIdentity,
    NoLogin,
    OAuth,
    Organisation,
    Password,
    PickupDirectory,
    PickupFlavour,
    Producer,
    Proof,
    Rank,
    Redirect,
    Restraint,
    Secret,
    SessionLimits,
    SmtpEndpoint,
    Stop,
    Tenant,
    Tls,
    TooMany,
)
from worker.unusable import Unusable

try:
    import rtoml  # a fraction of the time, where there are mailboxes by the ten thousand
except ImportError:
    rtoml = None  # type: ignore[assignment]

_PROOFS = "certificate_file, federated_token_file, managed_identity or device_login"
_PROOF_OF = {
    "client_secret": "client_secret",
    "client_secret_file": "client_secret",
    "client_secret_env": "client_secret",
    "client_secret_keyvault": "client_secret",
    "certificate_file": "certificate_file",
    "federated_token_file": "federated_token_file",
    "federated_token_file_env": "federated_token_file",
    "managed_identity": "managed_identity",
    "device_login": "device_login",
}
_PORTS = {Tls.STARTTLS: 587, Tls.IMPLICIT: 465, Tls.NONE: 25, Tls.IF_OFFERED: 25}
_NOTHING: frozenset[str] = frozenset()
_SESSIONS = SessionLimits()
_CLEAR = frozenset({Tls.NONE, Tls.IF_OFFERED})
_MISFITS = frozenset({(Tls.STARTTLS, 465), (Tls.IF_OFFERED, 465), (Tls.IMPLICIT, 587)})
_HOSTS = {str(name): cloud.smtp for name, cloud in CLOUDS.items()}
_UNCOUNTED = frozenset({"office365-hve", "exchange-onprem", "acs", "sendgrid", "mailgun", "ses", "google-relay"})
_NOT_SMTP = {993: "IMAP", 143: "IMAP", 995: "POP3", 110: "POP3", 443: "HTTPS", 80: "HTTP"}


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """What is known of mail services, by name: keys of a mailbox."""
    return tomllib.loads(files("worker").joinpath("presets.toml").read_text(encoding="utf-8"))


def _preset(name: str) -> str:
    if name not in presets():
        raise ValueError(f"is no preset; there are {', '.join(presets())}")
    return name


def _domain(text: str) -> str:
    """`domain` or `*.domain`, in ASCII."""
    if "@" in text:
        raise ValueError("is an address; write the domain alone, or *. before it for those below it")
    below = "*." if text.startswith("*.") else ""
    return f"{below}{parse(f'x@{text.removeprefix(below)}').domain}"


def _address(text: str) -> str:
    parse(text)
    return text


def _senders(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        _sender(text)
    return texts


def _host(text: str) -> str:
    """A name or an address, without a port.

    Raises:
        ValueError: it is none.
    """
    bare = text.strip("[]")
    if not bare or re.search(r"[\s/@]", bare) or (":" in bare and bare.count(":") == 1):
        raise ValueError("must be a host name or an IP address; the port is a key of its own")
    return text


# It is parsed again where mailboxes are made: what stays must not be made between what is thrown away, or the memory of
# that is not given back, a kilobyte and a half for each of many mailboxes.
AddressText = Annotated[str, AfterValidator(_address)]
Senders = Annotated[tuple[str, ...], AfterValidator(_senders)]
DomainText = Annotated[str, AfterValidator(_domain)]
Category = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


Editable = Literal[
    "address",
    "display_name",
    "senders",
    "enabled",
    "priority",
    "purposes",
    "allowed_domains",
    "catch_all",
    "catch_all_cc",
    "redirect_to",
    "suppress",
    "limits",
    "host",
    "port",
    "tls",
]
"""Keys of its mailboxes that may be changed at run time if the file says so; none of them is or names a secret."""


class MailboxFileError(Unusable):
    """The file is wrong. The text has a line for each mistake, with its place."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OAuth(_Table):
    """OAuth 2.0, by one of the proofs."""

    managed_identity: Text | None = None
    client_id: Annotated[Text | None, Field(validate_default=True)] = None
    tenant_id: Text | None = None
    authority: str | None = None
    oidc_issuer: str | None = None
    scope: Text | None = None
    username: Text | None = None
    client_secret: SecretStr | None = None
    client_secret_file: Path | None = None
    client_secret_env: str | None = None
    client_secret_keyvault: Text | None = None
    expires: date | None = None
    certificate_file: Path | None = None
    certificate_password: SecretStr | None = None
    certificate_password_file: Path | None = None
    certificate_password_env: str | None = None
    certificate_password_keyvault: Text | None = None
    federated_token_file: Path | None = None
    federated_token_file_env: Text | None = None
    device_login: Literal[True] | None = None
    ca_file: Path | None = None

    @field_validator("client_id")
    @classmethod
    def _client_unless_managed(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("managed_identity") is None:
            raise PydanticCustomError("missing", "is missing")
        return value

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        given = self._given()
        proofs = {_PROOF_OF[key] for key in given if key in _PROOF_OF}
        if len(proofs) > 1:
            raise ValueError(f"has {' and '.join(sorted(proofs, key=list(_PROOF_OF).index))}; keep one")
        if not proofs:
            raise ValueError(
                "oauth.client_secret: give exactly one of oauth.client_secret, oauth.client_secret_file, "
                f"oauth.client_secret_env or oauth.client_secret_keyvault; or instead {_PROOFS}"
            )
        if self.expires is not None and "client_secret" not in proofs:
            raise ValueError("expires belongs to a client secret; a certificate says itself when it ends")
        if self.certificate_file is None and any(key.startswith("certificate_password") for key in given):
            raise ValueError("certificate_password needs certificate_file")
        return self

    @model_validator(mode="after")
    def _one_authority(self) -> Self:
        authorities = [item for item in (self.tenant_id, self.authority, self.oidc_issuer) if item is not None]
        if self.managed_identity is not None:
            if authorities or self.client_id is not None:
                raise ValueError("a managed identity has no client_id, tenant_id, authority or oidc_issuer of its own")
            return self
        if len(authorities) != 1:
            raise ValueError("give exactly one of tenant_id (Microsoft Entra), authority or oidc_issuer")
        for item in (self.authority, self.oidc_issuer):
            if item is not None and not item.startswith("https://"):
                raise ValueError("the token authority must be an https:// address")
        if self.authority is not None and not urlsplit(self.authority).path.strip("/"):
            raise ValueError("authority lacks the tenant, https://host/<tenant id>; for others than Entra: oidc_issuer")
        return self

    def _given(self) -> list[str]:
        return [key for key in self.model_fields_set if getattr(self, key) is not None]


class _Login(_Table):
    """Basic SMTP AUTH."""

    username: Text
    password: SecretStr | None = None
    password_file: Path | None = None
    password_env: str | None = None
    password_keyvault: Text | None = None
    mechanism: Literal["login", "plain"] | None = None


class _Pickup(_Table):
    """Pickup directory."""

    directory: Path
    staging: Path | None = None
    flavour: PickupFlavour = PickupFlavour.IIS
    mode: Annotated[str, StringConstraints(pattern=r"^0?[0-7]{3}$")] = "660"
    group: str | None = None


class _Limits(_Table):
    """What a mailbox may do, all workers together."""

    connections: Annotated[int | None, Field(ge=1)] = None
    per_minute: Annotated[int | None, Field(ge=1)] = None
    per_hour: Annotated[int | None, Field(ge=1)] = None
    recipients_per_day: Annotated[int | None, Field(ge=1)] = None
    recipients_per_message: Annotated[int | None, Field(ge=1)] = None
    max_size: Annotated[int | None, Field(ge=1)] = None


@cache
def _preset_limits(name: str) -> _Limits:
    """The same for all of its mailboxes that change none of them."""
    return _Limits.model_validate(presets()[name].get("limits", {}))


class _Graph(_Table):
    """Microsoft Graph; the app registration is that of [oauth]."""

    url: str | None = None
    user: Annotated[str | None, StringConstraints(min_length=1)] = None
    scope: str | None = None
    concurrent: Annotated[int, Field(ge=1, le=20)] = 4
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _secure(self) -> Self:
        if self.url is not None and not self.url.startswith("https://"):
            raise ValueError("url must be an https:// address")
        return self


class _Mailbox(_Table):
    """One mailbox."""

    address: AddressText
    display_name: HeaderText = ""
    enabled: bool = True
    tenants: tuple[TenantName, ...] = ()
    sites: tuple[PartName, ...] | None = None
    components: tuple[PartName, ...] | None = None
    priority: Rank = Rank.NORMAL
    purposes: tuple[Category, ...] | None = None
    fallback_for: tuple[Category, ...] = ()
    senders: Senders = ()
    allowed_domains: tuple[DomainText, ...] = ()
    catch_all: AddressText | None = None
    catch_all_cc: AddressText | None = None
    redirect_to: AddressText | None = None
    suppress: bool = False
    limits: _Limits = _Limits()
    too_many_recipients: TooMany = TooMany.SPLIT
    preset: Annotated[str | None, AfterValidator(_preset)] = None
    cloud: CloudName = CloudName.GLOBAL
    host: Annotated[str, AfterValidator(_host)] | None = None
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    tls: Tls | None = None
    helo: Annotated[
        str | None, StringConstraints(pattern=r"^(\[[0-9A-Za-z:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?)$")
    ] = None
    ca_file: Path | None = None
    connections: Annotated[int | None, Field(ge=1, le=100)] = None
    messages_per_connection: Annotated[int, Field(ge=1)] = 100
    idle_seconds: Annotated[float, Field(gt=0, le=240)] = 30
    oauth: _OAuth | None = None
    login: _Login | None = None
    pickup: _Pickup | None = None
    graph: _Graph | None = None
    channels: tuple[Literal["smtp", "graph"], ...] | None = None
    editable: tuple[Editable, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, value: Any) -> Any:
        name = value.get("preset") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in presets():
            return value
        known = presets()[name]
        limits = value["limits"] if "limits" in value else _preset_limits(name)
        if isinstance(limits, dict):
            limits = {**known.get("limits", {}), **limits}
        host = {"host": _HOSTS.get(str(value.get("cloud", known["cloud"])), "unknown")} if "cloud" in known else {}
        return {**known, **host, **value, "limits": limits}

    @model_validator(mode="after")
    def _one_way_out(self) -> Self:
        if self.oauth and self.login:
            raise ValueError("has both [oauth] and [login]; keep one")
        if self.pickup and (self.oauth or self.login or self.tls or self.port or self.graph):
            raise ValueError("a pickup directory has no host, port, tls, login, oauth or graph")
        if (self.host is None and self.graph is None) == (self.pickup is None):
            raise ValueError("needs either a host (or a preset) or [graph] or [pickup]")
        if self.graph and not self.oauth:
            raise ValueError("[graph] needs [oauth]: Microsoft Graph takes no password")
        self._ordered()
        if self.host is not None:
            self._fitting()
        return self

    @model_validator(mode="after")
    def _one_role(self) -> Self:
        bound = self.sites is not None or self.components is not None
        if bound and not self.tenants:
            raise ValueError("sites and components are a tenant's: name it in `tenants`")
        if self.priority is Rank.DEFAULT and not self.tenants:
            raise ValueError('priority = "default" is for one server of a tenant; the platform\'s is the key `default`')
        if self.fallback_for and (bound or self.purposes is not None or "priority" in self.model_fields_set):
            raise ValueError(
                "a mailbox with fallback_for is in no pool: leave out sites, components, purposes, priority"
            )
        if self.catch_all_cc and not self.catch_all:
            raise ValueError("catch_all_cc needs catch_all")
        return self

    @model_validator(mode="after")
    def _no_way_astray(self) -> Self:
        ways = [key for key in ("host", "port", "tls") if key in self.editable]
        if ways and (self.oauth or self.login):
            raise ValueError(f"{ways[0]} cannot be editable beside a login: another server would get to see it")
        return self

    def _ordered(self) -> None:
        if self.channels is None:
            return
        there = {name for name, given in (("smtp", self.host), ("graph", self.graph)) if given is not None}
        if sorted(self.channels) != sorted(there):
            raise ValueError(f"channels must name each of {', '.join(sorted(there)) or 'no channel'} once")

    def _fitting(self) -> None:
        tls, port = self.tls or Tls.STARTTLS, self.port
        if port in _NOT_SMTP:
            raise ValueError(f"port {port} is {_NOT_SMTP[port]}, not SMTP; use 587 (starttls), 465 (implicit) or 25")
        if (self.oauth or self.login) and tls in _CLEAR:
            raise ValueError(f'tls = "{tls}" would send the login in clear text; use starttls or implicit')
        if (tls, port) in _MISFITS:
            raise ValueError(f'port {port} and tls = "{tls}" do not fit: 465 is implicit, 587 is starttls')


class _Restraint(_Table):
    """What keeps mail back."""

    stop: Stop | None = None
    suppress: bool = False
    redirect_to: AddressText | None = None
    purposes_off: tuple[Category, ...] = ()


class _Tenant(_Restraint):
    """A known tenant, and what holds for all of its mail."""

    use_default: bool | None = None
    choose_mailbox: bool = True
    sites: dict[PartName, _Restraint] = Field(default_factory=dict)
    components: dict[PartName, _Restraint] = Field(default_factory=dict)


class _Organisation(_Table):
    """A customer of Exchange Online, whose mailboxes share a limit of recipients outside it."""

    domains: Annotated[tuple[DomainText, ...], Field(min_length=1)]
    licences: Annotated[int | None, Field(ge=1)] = None
    trial: bool = False
    external_recipients_per_day: Annotated[int | None, Field(ge=1)] = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.licences is not None) + self.trial + (self.external_recipients_per_day is not None) != 1:
            raise ValueError("give exactly one of licences, trial = true and external_recipients_per_day")
        return self


class _Producer(_Table):
    """A login that may publish."""

    user: str
    tenants: tuple[TenantName, ...] = ()
    categories: tuple[str, ...] = ()
    senders: Senders = ()


class _File(_Table):
    default: Name | None = None
    platform: _Restraint = _Restraint()
    mailboxes: dict[Name, _Mailbox] = Field(default_factory=dict)
    tenants: dict[TenantName, _Tenant] | None = None
    organisations: dict[Name, _Organisation] = Field(default_factory=dict)
    producers: tuple[_Producer, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default is not None and self.default not in self.mailboxes:
            raise ValueError(f"default names mailbox {self.default!r}, which is not in the file")
        if self.default is not None and self.mailboxes[self.default].tenants:
            raise ValueError(f"the default mailbox {self.default!r} must not belong to tenants")
        if self.default is not None and self.mailboxes[self.default].fallback_for:
            raise ValueError(f"the default mailbox {self.default!r} must not be a fall-back")
        _once("tenant", map(str.lower, self.tenants or ()))
        _once("producer", (item.user for item in self.producers or ()))
        _once("domain", (domain for item in self.organisations.values() for domain in item.domains))
        for name, tenant in (self.tenants or {}).items():
            _once(f"site of tenant {name!r}", map(str.lower, tenant.sites))
            _once(f"component of tenant {name!r}", map(str.lower, tenant.components))
        return self

    @model_validator(mode="after")
    def _one_default(self) -> Self:
        defaults = [(name, item) for name, item in self.mailboxes.items() if item.priority is Rank.DEFAULT]
        for (one, first), (other, second) in combinations(defaults, 2):
            shared = _lower(first.tenants) & _lower(second.tenants)
            narrow = [(item.sites is not None) + (item.components is not None) for item in (first, second)]
            meet = _overlap(first.sites, second.sites) and _overlap(first.components, second.components)
            if shared and meet and narrow[0] == narrow[1]:
                raise ValueError(
                    f"tenant {min(shared)!r} has two defaults for the same mail, {one!r} and {other!r}: "
                    "give one of them another priority, or bind them to different sites or components"
                )
        return self


def load(path: Path, environment: Mapping[str, str]) -> Directory:
    """Read the file.

    Args:
        path: the file.
        environment: for secrets named by `…_env`.

    Raises:
        MailboxFileError: it cannot be read or is wrong.
    """
    return both(path, environment)[1]


def both(path: Path, environment: Mapping[str, str]) -> tuple[dict[str, Any], Directory]:
    """Read the file: as it stands, and what it comes to; errors as above."""
    with _uncollected():
        tree = read(path)
        return tree, assembled(tree, environment, f"{path}: ")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Everything that is made here stays; the collector would look through all of it again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read(path: Path) -> dict[str, Any]:
    """The file as it stands, unchecked.

    Raises:
        MailboxFileError: it cannot be read.
    """
    try:
        packed = pickle.dumps(_shared(_parsed(path.read_text(encoding="utf-8-sig")), {}))
    except OSError as error:
        raise MailboxFileError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MailboxFileError(f"{path} is not TOML: {error}") from error
    # What the parser has left between its results would keep three times their memory from being given back.
    tree: dict[str, Any] = pickle.loads(packed)  # noqa: S301 - packed a moment ago
    return tree


def _parsed(text: str) -> dict[str, Any]:
    """What is no TOML is told in the words of Python's own parser, whichever there is."""
    if rtoml is not None:
        with suppress(rtoml.TomlParsingError):
            return rtoml.loads(text)
    return tomllib.loads(text)


def _shared(value: Any, known: dict[str, str]) -> Any:
    """The same, with one string in place of all that are equal."""
    kind = type(value)
    if kind is str:
        return known.setdefault(value, value)
    if kind is dict:
        return {known.setdefault(key, key): _shared(each, known) for key, each in value.items()}
    return [_shared(each, known) for each in value] if kind is list else value


def assembled(tree: Mapping[str, Any], environment: Mapping[str, str], origin: str = "") -> Directory:
    """Check what the file holds, or would hold, and make a directory of it.

    Args:
        tree: the keys of the file.
        environment: for secrets named by `…_env`.
        origin: put before each mistake.

    Raises:
        MailboxFileError: it is wrong.
    """
    try:
        return _directory(_File.model_validate(tree), environment)
    except ValidationError as error:
        # Without its cause, which shows the values that it refuses.
        raise MailboxFileError("\n".join(f"{origin}{line}" for line in _problems(error))) from None
    except ValueError as error:
        raise MailboxFileError(f"{origin}{error}") from None


def schema(ref_template: str) -> dict[str, Any]:
    """The JSON Schema of one mailbox; `{model}` in the template stands for the name of a part."""
    return _Mailbox.model_json_schema(ref_template=ref_template)


def _directory(file: _File, environment: Mapping[str, str]) -> Directory:
    organisations = _by_domain(file.organisations)
    return Directory(
        mailboxes={name: _mailbox(name, table, environment, organisations) for name, table in file.mailboxes.items()},
        default=file.default,
        tenants={name.lower(): _tenant(item) for name, item in file.tenants.items()}
        if file.tenants is not None
        else None,
        producers={
            item.user: Producer(
                item.user, _lower(item.tenants), frozenset(item.categories), frozenset(map(_sender, item.senders))
            )
            for item in file.producers
        }
        if file.producers is not None
        else None,
        restraint=_restraint(file.platform),
    )


def _by_domain(tables: Mapping[str, _Organisation]) -> Mapping[str, Organisation]:
    """By each of their domains; mail from `*.onmicrosoft.com` has a limit of its own."""
    found = {}
    for name, table in tables.items():
        most = table.external_recipients_per_day or pacing.external_recipients_per_day(
            table.licences or 0, trial=table.trial
        )
        known = frozenset(table.domains)
        for domain in known:
            found[domain] = _onmicrosoft(domain, known) or Organisation(name, known, most)
    return found


def _onmicrosoft(domain: str, known: frozenset[str] = frozenset()) -> Organisation | None:
    if not domain.endswith(".onmicrosoft.com"):
        return None
    return Organisation(domain, known or frozenset({domain}), pacing.ONMICROSOFT_EXTERNAL_PER_DAY)


def _tenant(table: _Tenant) -> Tenant:
    return Tenant(
        use_default=table.use_default,
        choose=table.choose_mailbox,
        restraint=_restraint(table),
        sites={name.lower(): _restraint(item) for name, item in table.sites.items()},
        components={name.lower(): _restraint(item) for name, item in table.components.items()},
    )


def _restraint(table: _Restraint) -> Restraint:
    return Restraint(table.stop, table.suppress, _redirect(table.redirect_to), frozenset(table.purposes_off))


def _redirect(to: str | None, cc: str | None = None) -> Redirect | None:
    return Redirect(parse(to), parse(cc) if cc else None) if to else None


def _mailbox(
    name: str, table: _Mailbox, environment: Mapping[str, str], organisations: Mapping[str, Organisation]
) -> Mailbox:
    try:
        address = parse(table.address)
        first, *further = _channels(table, address, environment)
        return Mailbox(
            name=name,
            address=address,
            display_name=table.display_name,
            endpoint=first,
            further=tuple(further),
            tenants=_lower(table.tenants),
            senders=_set([_sender(text) for text in table.senders]),
            sites=_lower(table.sites) if table.sites is not None else None,
            components=_lower(table.components) if table.components is not None else None,
            rank=table.priority,
            enabled=table.enabled,
            purposes=frozenset(table.purposes) if table.purposes is not None else None,
            fallback_for=_set(table.fallback_for),
            limits=_limits(table.limits),
            allowed_domains=_set(table.allowed_domains),
            catch_all=_redirect(table.catch_all, table.catch_all_cc),
            redirect=_redirect(table.redirect_to),
            suppress=table.suppress,
            organisation=_counted_with(table, first, address, organisations),
            too_many=table.too_many_recipients,
        )
    except ValueError as error:
        raise ValueError(f"mailboxes.{name}: {error}") from error


def _counted_with(
    table: _Mailbox, endpoint: Endpoint, address: AddrSpec, organisations: Mapping[str, Organisation]
) -> Organisation | None:
    """What does not leave through Exchange Online does not count against an organisation's limit, nor does HVE."""
    elsewhere = isinstance(endpoint, PickupDirectory) or table.preset in _UNCOUNTED
    if elsewhere or (isinstance(endpoint, SmtpEndpoint) and _is_uncounted(endpoint.host)):
        return None
    return organisations.get(address.domain) or _onmicrosoft(address.domain)


@cache
def _is_uncounted(host: str) -> bool:
    return is_high_volume(host) or host in {presets()[name].get("host") for name in _UNCOUNTED}


def _channels(table: _Mailbox, address: AddrSpec, environment: Mapping[str, str]) -> list[Endpoint]:
    """In the order in which they are tried: SMTP first unless the file says otherwise."""
    if table.pickup is not None:
        return [_pickup(table.pickup)]
    there: dict[str, Endpoint] = {}
    if table.host is not None:
        there["smtp"] = _smtp(table, address, environment)
    if table.graph is not None:
        there["graph"] = _graph(table, table.graph, address, environment)
    return [there[name] for name in table.channels or there]


def _graph(table: _Mailbox, graph: _Graph, address: AddrSpec, environment: Mapping[str, str]) -> GraphEndpoint:
    """Its token has an audience of its own: one for SMTP is refused."""
    url = (graph.url or CLOUDS[table.cloud].graph).rstrip("/")
    credentials = _credentials(table, address, environment)
    if not isinstance(credentials, OAuth):
        raise ValueError("[graph] needs [oauth]: Microsoft Graph takes no password")  # noqa: TRY004 - of the file
    permission = "Mail.Send" if isinstance(credentials.proof, DeviceLogin) else ".default"
    return GraphEndpoint(
        url=f"{url}/v1.0",
        user=graph.user or table.address,
        credentials=replace(credentials, scope=graph.scope or f"{url}/{permission}"),
        concurrent=graph.concurrent,
        ca_file=_existing(graph.ca_file),
    )


def _smtp(table: _Mailbox, address: AddrSpec, environment: Mapping[str, str]) -> SmtpEndpoint:
    tls = table.tls or Tls.STARTTLS
    return SmtpEndpoint(
        host=_ascii_host(table.host or ""),
        port=table.port or _PORTS[tls],
        tls=tls,
        credentials=_credentials(table, address, environment),
        limits=_session_limits(
            min(filter(None, (table.connections or _SESSIONS.connections, table.limits.connections))),
            table.messages_per_connection,
            table.idle_seconds,
        ),
        helo=table.helo,
        ca_file=_existing(table.ca_file),
    )


def _limits(table: _Limits) -> Limits:
    return _same_limits(*_every_limit(table))


_every_limit = attrgetter(*(limit.name for limit in fields(Limits)))
_same_limits = cache(Limits)


@cache
def _session_limits(connections: int, messages: int, idle_seconds: float) -> SessionLimits:
    return SessionLimits(connections=connections, messages=messages, idle=timedelta(seconds=idle_seconds))


def _pickup(table: _Pickup) -> PickupDirectory:
    directory = PurePath(table.directory)
    if not directory.is_absolute():
        raise ValueError(f"pickup.directory {directory} must be an absolute path of this machine")
    staging = PurePath(table.staging) if table.staging else directory.with_name(f"{directory.name}.staging")
    if not staging.is_absolute():
        raise ValueError(f"pickup.staging {staging} must be an absolute path of this machine")
    return PickupDirectory(directory, staging, table.flavour, int(table.mode, 8), table.group)


def _credentials(table: _Mailbox, address: AddrSpec, environment: Mapping[str, str]) -> Credentials:
    if table.login is not None:
        login = table.login
        given = (login.password, login.password_file, login.password_env, login.password_keyvault)
        secret = _secret("login.password", *given, environment)
        return Password(login.username, secret, login.mechanism)
    if table.oauth is not None:
        return _oauth(table.oauth, CLOUDS[table.cloud], str(address), environment)
    return NoLogin()


def _oauth(oauth: _OAuth, cloud: Cloud, address: str, environment: Mapping[str, str]) -> OAuth:
    proof = _proof(oauth, environment)
    tenant = f"{cloud.authority}/{oauth.tenant_id}" if oauth.tenant_id else ""
    return OAuth(
        authority=oauth.oidc_issuer or oauth.authority or tenant,
        client_id=oauth.client_id or "",
        proof=proof,
        scope=oauth.scope or _scope(oauth, cloud),
        username=oauth.username or address,
        oidc=oauth.oidc_issuer is not None,
        ca_file=_existing(oauth.ca_file),
    )


def _scope(oauth: _OAuth, cloud: Cloud) -> str:
    """Microsoft's; how others call theirs, and whether they have any, only they know."""
    if oauth.oidc_issuer is not None and not oauth.oidc_issuer.startswith(f"{cloud.authority}/"):
        return ""
    return cloud.delegated_scope if oauth.device_login else cloud.scope


def _proof(oauth: _OAuth, environment: Mapping[str, str]) -> Proof:
    if oauth.certificate_file is not None:
        given = (
            oauth.certificate_password,
            oauth.certificate_password_file,
            oauth.certificate_password_env,
            oauth.certificate_password_keyvault,
        )
        wanted = any(item is not None for item in given)
        password = _secret("oauth.certificate_password", *given, environment) if wanted else None
        return Certificate(_file("oauth.certificate_file", oauth.certificate_file), password)
    if oauth.federated_token_file is not None and oauth.federated_token_file_env is not None:
        raise ValueError("give oauth.federated_token_file or oauth.federated_token_file_env, not both")
    if oauth.federated_token_file is not None:
        return Federated(_file("oauth.federated_token_file", oauth.federated_token_file))
    if oauth.federated_token_file_env is not None:
        variable = oauth.federated_token_file_env
        if not environment.get(variable):
            raise ValueError(f"oauth.federated_token_file_env: variable {variable} is empty; is workload identity on?")
        return Federated(_file("oauth.federated_token_file_env", Path(environment[variable])))
    if (identity := oauth.managed_identity) is not None:
        if identity == "system":
            return ManagedIdentity()
        by_resource = identity.startswith("/subscriptions/")
        return ManagedIdentity(resource_id=identity) if by_resource else ManagedIdentity(client_id=identity)
    if oauth.device_login:
        return DeviceLogin()
    given = (oauth.client_secret, oauth.client_secret_file, oauth.client_secret_env, oauth.client_secret_keyvault)
    return Secret(_secret("oauth.client_secret", *given, environment), oauth.expires)


def _file(what: str, path: Path) -> PurePath:
    if not path.is_file():
        raise ValueError(f"{what}: {path} is no file")
    return PurePath(path)


def _secret(
    what: str,
    value: SecretStr | None,
    file: Path | None,
    variable: str | None,
    keyvault: str | None,
    environment: Mapping[str, str],
) -> SecretStr:
    """The secret from wherever it is; without it nothing is ever sent as if no login were needed."""
    if (value, file, variable, keyvault).count(None) != 3:  # noqa: PLR2004 - one of four
        raise ValueError(f"{what}: give exactly one of {what}, {what}_file, {what}_env or {what}_keyvault")
    if keyvault is not None:
        if not keyvault.startswith("https://"):
            raise ValueError(f"{what}_keyvault: must be the https:// address of a secret")
        try:
            value = SecretStr(environment[keyvault])
        except KeyError:
            raise ValueError(f"{what}_keyvault: {keyvault}: no key vault can be asked here") from None
        except ValueError as error:
            raise ValueError(f"{what}_keyvault: {error}") from None
    if file is not None:
        try:
            value = SecretStr(file.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ValueError(f"{what}_file: {file} cannot be read: {why}") from None
    elif variable is not None:
        value = SecretStr(environment.get(variable, ""))
    if value is None or not value.get_secret_value():
        where = f"file {file}" if file is not None else f"variable {variable}" if variable is not None else "value"
        raise ValueError(f"{what}: the {where} is empty")
    return value


def _sender(text: str) -> str:
    """`name@domain` or `*@domain`, with the domain in ASCII."""
    if text.startswith("*@"):
        return f"*@{parse('x' + text[1:]).domain}"
    return str(parse(text))


def _ascii_host(host: str) -> str:
    if host.isascii():
        return host.strip("[]")
    return parse(f"x@{host}").domain


def _existing(path: Path | None) -> str | None:
    if path is None:
        return None
    if not path.is_file():
        raise ValueError(f"ca_file {path} is no file")
    if b"-----BEGIN CERTIFICATE-----" not in path.read_bytes():
        raise ValueError(f"ca_file {path} holds no certificate in PEM form")
    return str(path)


def _set(items: Collection[str]) -> frozenset[str]:
    """Without making an empty one for each of many mailboxes."""
    return frozenset(items) if items else _NOTHING


def _lower(names: Collection[str]) -> frozenset[str]:
    return _set([name.lower() for name in names])


def _once(what: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{what} {name!r} is listed twice")


def _overlap(one: Collection[str] | None, other: Collection[str] | None) -> bool:
    """Whether two bindings have mail in common; None is everything."""
    return one is None or other is None or bool(_lower(one) & _lower(other))


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step) for step in item["loc"])
        message = {"extra_forbidden": "is not a known key", "missing": "is missing"}.get(item["type"], item["msg"])
        yield f"{place}: {message.removeprefix('Value error, ')}" if place else message.removeprefix("Value error, ")
