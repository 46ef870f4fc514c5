"""All settings, and the only place that reads the environment.

From the strongest source to the weakest: environment, `POSTLANE_…_FILE` (a file that holds one value), the secrets
directory, the TOML file, the defaults below. A key that nobody knows is an error: a misspelt setting that is silently
ignored is found out in production.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from worker.unusable import Unusable

PREFIX = "POSTLANE_"
CONFIG = "POSTLANE_CONFIG"
SECRETS_DIR = "POSTLANE_SECRETS_DIR"
_BROKER_NAMES = ("AMQP_URL", "RABBITMQ_URL", "CLOUDAMQP_URL")
# What Kubernetes puts into every container of a namespace that has a Service called `postlane`.
_OF_KUBERNETES = re.compile(r"POSTLANE_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_SYSTEM_CONFIG = Path("/etc/postlane/postlane.toml")


class SettingsError(Unusable):
    """The settings are wrong. The text names each setting, where it came from, and what to do."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _broker_address(url: SecretStr) -> SecretStr:
    """Refuse what is no address before anything tries it; the text must not repeat it, it holds a password."""
    try:
        parts = urlsplit(url.get_secret_value())
        usable = parts.scheme in {"amqp", "amqps"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must be amqp://user:password@host:port/vhost, or amqps://…")
    return url


class BrokerSettings(_Section):
    """RabbitMQ."""

    url: Annotated[
        SecretStr,
        AfterValidator(_broker_address),
        Field(description="amqp:// or amqps:// address with login; AMQP_URL or RABBITMQ_URL do as well"),
    ] = SecretStr("amqp://guest:guest@localhost:5672/")
    ca_file: Annotated[
        Path | None, Field(description="trust only these certificates for amqps://; else the system's")
    ] = None
    prefix: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$", description="first part of every exchange and queue name")
    ] = "postlane"
    lanes: Annotated[
        int, Field(ge=1, le=256, description="lanes that `topology apply` creates; workers use those they find")
    ] = 32
    prefetch: Annotated[int, Field(ge=1, le=1000, description="unacknowledged deliveries per lane and worker")] = 16


class WorkerSettings(_Section):
    """The worker process."""

    name: Annotated[
        str, Field(min_length=1, max_length=100, description="unique per worker; default host name and process id")
    ] = Field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    concurrency: Annotated[int, Field(ge=1, le=1000, description="notifications worked on at once")] = 64
    grace_seconds: Annotated[float, Field(ge=0, le=600, description="time that mails under way get after SIGTERM")] = 25
    max_message_octets: Annotated[
        int, Field(ge=1024, description="larger messages are rejected; RabbitMQ 4 stops at 16 MiB by itself")
    ] = 16 * 1024 * 1024


class MailboxesSettings(_Section):
    """Where mailboxes are described."""

    file: Annotated[Path, Field(description="TOML file with mailboxes, tenants and producers")] = Path(
        "/etc/postlane/mailboxes.toml"
    )


def _state_file() -> SecretStr:
    """One place per machine, or per user where that may not be written to: workers side by side must share it."""
    system = Path("/var/lib/postlane")
    if system.is_dir() and os.access(system, os.W_OK):
        return SecretStr(f"sqlite:///{system / 'postlane.sqlite3'}")
    return SecretStr(f"sqlite:///{Path.home() / '.local/state/postlane/postlane.sqlite3'}")


class StoreSettings(_Section):
    """Where hand-overs are written down, so that nothing is lost and nothing sent twice."""

    url: Annotated[
        SecretStr,
        Field(
            description="sqlite:///FILE shared by all workers of one host, postgresql://USER:PASSWORD@HOST/DATABASE "
            "for several hosts, memory:// for trials; default: a file in /var/lib/postlane, or else in ~/.local/state"
        ),
    ] = Field(default_factory=_state_file)
    retention_days: Annotated[
        float, Field(gt=0, le=3650, description="how long finished notifications are known again by their id")
    ] = 7
    lease_seconds: Annotated[
        float, Field(gt=0, le=600, description="a worker that has said nothing for so long is taken for dead")
    ] = 15


class SecretsSettings(_Section):
    """Secrets of mailboxes that are kept in the store."""

    key: Annotated[
        SecretStr | None,
        Field(
            description="32 octets in base64 (`postlane secret key` makes one); older ones may follow, with commas, "
            "until `postlane secret rotate` was run"
        ),
    ] = None


class ApiSettings(_Section):
    """The management API, over which mailboxes are changed at run time."""

    host: Annotated[str, Field(description="address to listen on; 0.0.0.0 in a container")] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=0, le=65535, description="for `postlane run` to serve it too; 0: only `postlane api serve` does")
    ] = 0
    tokens_file: Annotated[
        Path | None,
        Field(description="TOML file of those who may use it (`postlane api token` writes it); hashes only"),
    ] = None
    certificate_file: Annotated[
        Path | None, Field(description="PEM file with key and chain for https; not set: a proxy before it does TLS")
    ] = None
    references: Annotated[
        bool, Field(description="whether it may name files and variables of the workers as sources of secrets")
    ] = False


class SmtpSettings(_Section):
    """Submission."""

    connect_seconds: Annotated[float, Field(gt=0, le=300, description="wait for TCP, TLS and greeting, each")] = 20
    command_seconds: Annotated[float, Field(gt=0, le=600, description="wait for the reply to a command")] = 120
    submission_seconds: Annotated[
        float, Field(gt=0, le=1800, description="wait for the reply to the final dot (RFC 5321 asks for 600)")
    ] = 600


class PickupSettings(_Section):
    """Pickup directories."""

    collect_seconds: Annotated[
        float, Field(gt=0, description="a file that lies there longer is told of: nobody seems to collect")
    ] = 600


class OAuthSettings(_Section):
    """Sign-ins of persons (`device_login`)."""

    directory: Annotated[
        Path | None, Field(description="where sign-ins are kept, encrypted; workers of one host share it")
    ] = None
    key: Annotated[
        SecretStr | None,
        Field(description="32 octets in base64 (`postlane token key` makes one); older ones may follow, with commas"),
    ] = None
    timeout_seconds: Annotated[float, Field(gt=0, le=120, description="wait for an answer of a token authority")] = 20


class KeyvaultSettings(_Section):
    """Azure Key Vault, for secrets that mailboxes name by `…_keyvault`."""

    identity: Annotated[
        str | None,
        Field(description='who reads secrets: "system" or id of a managed identity, or client id of an app'),
    ] = None
    tenant_id: Annotated[str | None, Field(description="of the app; not set: the identity is a managed one")] = None
    client_secret: Annotated[SecretStr | None, Field(description="of the app")] = None


class GraphSettings(_Section):
    """Microsoft Graph."""

    connect_seconds: Annotated[float, Field(gt=0, le=300, description="wait for TCP and TLS")] = 20
    answer_seconds: Annotated[
        float, Field(gt=0, le=600, description="silence put up with while a request is written or answered")
    ] = 120


class RetrySettings(_Section):
    """Further attempts after a temporary failure."""

    first_seconds: Annotated[float, Field(gt=0, description="wait after the first attempt")] = 30
    factor: Annotated[float, Field(ge=1, le=10, description="by which each further wait grows")] = 2
    longest_seconds: Annotated[float, Field(gt=0, description="no wait grows beyond this")] = 3600
    horizon_hours: Annotated[
        float, Field(gt=0, le=24 * 14, description="given up when the next attempt would be later than this")
    ] = 24


class AttachmentsSettings(_Section):
    """Attachments given by reference."""

    directory: Annotated[
        Path | None, Field(description="directory shared with producers; not set: references are refused")
    ] = None
    max_octets: Annotated[int, Field(ge=0, description="all attachments of one notification together")] = (
        100 * 1024 * 1024
    )


class TemplatesSettings(_Section):
    """What mails say where their producer leaves that to us."""

    directory: Annotated[
        Path | None,
        Field(description="directory with templates and rules.toml; not set: notifications bring their own text"),
    ] = None


class HealthSettings(_Section):
    """/livez, /readyz and /metrics."""

    host: Annotated[str, Field(description="address to listen on; 0.0.0.0 in a container")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="0: do not listen")] = 8080


class LogSettings(_Section):
    """Logs go to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="least important shown")] = "info"
    format: Annotated[
        Literal["auto", "json", "console"], Field(description="auto: json unless written to a terminal")
    ] = "auto"


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    mailboxes: MailboxesSettings = Field(default_factory=MailboxesSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    secrets: SecretsSettings = Field(default_factory=SecretsSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    smtp: SmtpSettings = Field(default_factory=SmtpSettings)
    pickup: PickupSettings = Field(default_factory=PickupSettings)
    oauth: OAuthSettings = Field(default_factory=OAuthSettings)
    keyvault: KeyvaultSettings = KeyvaultSettings()
    graph: GraphSettings = Field(default_factory=GraphSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    attachments: AttachmentsSettings = Field(default_factory=AttachmentsSettings)
    templates: TemplatesSettings = Field(default_factory=TemplatesSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Strongest first."""
        del env_settings, dotenv_settings
        return (init_settings, *(source for _, source in _sources(settings_cls, file_secret_settings)))


@dataclass(frozen=True, slots=True)
class Origin:
    """One effective setting and where it came from.

    Attributes:
        path: `section.key`.
        value: for people; secrets masked.
    """

    path: str
    value: str
    source: str


def load() -> Settings:
    """Read the settings.

    Raises:
        SettingsError: something is wrong with them.
    """
    _check_environment(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        # Without its cause, which shows the values that it refuses.
        raise SettingsError("\n".join(_problems(error))) from None
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(str(error)) from None


def origins(settings: Settings) -> Iterator[Origin]:
    """Every setting with its effective value and its source."""
    given = [(name, _flat(source())) for name, source in _sources(Settings, None)]
    for path, value in _flat(settings.model_dump()).items():
        source = next((name for name, values in given if path in values), "default")
        yield Origin(path, "********" if isinstance(value, SecretStr) else str(value), source)


def documented() -> Iterator[tuple[str, str, str]]:
    """Environment name, default as text and description of every setting; `deploy/worker.env.example` is made of it."""
    defaults = _flat(Settings.model_construct().model_dump())
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        for name, inner in model.model_fields.items():
            value = defaults[f"{section}.{name}"]
            shown = value.get_secret_value() if isinstance(value, SecretStr) else value
            text = "" if shown is None or inner.default_factory else str(shown)
            yield _environment_name(f"{section}.{name}"), text, inner.description or ""


def _sources(
    settings_cls: type[BaseSettings], file_secrets: PydanticBaseSettingsSource | None
) -> Iterator[tuple[str, PydanticBaseSettingsSource]]:
    """Strongest first."""
    environment = os.environ
    yield "environment", _Environment(settings_cls)
    known = next((name for name in _BROKER_NAMES if environment.get(name)), None)
    if known is not None:
        yield known, InitSettingsSource(settings_cls, {"broker": {"url": environment[known]}})
    yield "file named by the environment", InitSettingsSource(settings_cls, _from_files(environment))
    directory = environment.get(SECRETS_DIR) or environment.get("CREDENTIALS_DIRECTORY")
    if directory:
        if not Path(directory).is_dir():
            raise SettingsError(f"{SECRETS_DIR} (or CREDENTIALS_DIRECTORY) names {directory}, which is no directory.")
        yield (
            directory,
            NestedSecretsSettingsSource(
                file_secrets or settings_cls,  # type: ignore[arg-type]
                secrets_dir=directory,
                secrets_prefix="",
            ),
        )
    config = _config_file(environment)
    if config is not None:
        try:
            yield str(config), TomlConfigSettingsSource(settings_cls, config)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{config} cannot be read as TOML: {error}") from None


class _Environment(EnvSettingsSource):
    """Without `…_FILE`: that names a file with the value, and is read apart."""

    def __call__(self) -> dict[str, Any]:
        known = set(_paths())
        found = super().__call__()
        for section, values in found.items():
            if isinstance(values, dict):
                named = [key for key in values if f"{section}.{key}" not in known and key.endswith("_file")]
                found[section] = {key: value for key, value in values.items() if key not in named}
        return found

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:  # noqa: FBT001
        try:
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        except ValueError:
            name = f"{PREFIX}{field_name.upper()}"
            raise SettingsError(
                f"{name} is a whole section and must be JSON; for one setting use {name}__KEY."
            ) from None


def _config_file(environment: Mapping[str, str]) -> Path | None:
    named = environment.get(CONFIG)
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"{CONFIG} names {named}, which is no file.")
        return Path(named)
    return _SYSTEM_CONFIG if _SYSTEM_CONFIG.is_file() else None


def _from_files(environment: Mapping[str, str]) -> dict[str, Any]:
    """`POSTLANE_BROKER__URL_FILE=/run/secrets/amqp` gives the setting `broker.url` the file's content."""
    found: dict[str, Any] = {}
    for path in _paths():
        name = f"{_environment_name(path)}_FILE"
        if not environment.get(name) or name in map(_environment_name, _paths()):
            continue
        section, key = path.split(".")
        try:
            content = Path(environment[name]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"{name} names {environment[name]}, which cannot be read: {why}.") from None
        found.setdefault(section, {})[key] = content.rstrip("\r\n")
    return found


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse what looks like a setting of ours but is none.

    Raises:
        SettingsError: with the nearest names that exist.
    """
    names = {_environment_name(path) for path in _paths()}
    sections = {f"{PREFIX}{section.upper()}" for section in Settings.model_fields}
    allowed = names | {f"{name}_FILE" for name in names} | sections | {CONFIG, SECRETS_DIR}
    unknown = sorted(
        name
        for name in environment
        if name.upper().startswith(PREFIX) and name.upper() not in allowed and not _OF_KUBERNETES.fullmatch(name)
    )
    if unknown:
        lines = []
        for name in unknown:
            short = name.upper().removeprefix(PREFIX)
            near = difflib.get_close_matches(short, [known.removeprefix(PREFIX) for known in names], n=1)
            lines.append(f"{name} is not a setting." + (f" Did you mean {PREFIX}{near[0]}?" if near else ""))
        raise SettingsError("\n".join(lines))


def _problems(error: ValidationError) -> Iterator[str]:
    given = [(name, source()) for name, source in _sources(Settings, None)]
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join(str(step) for step in item["loc"])
        message = "is not a setting" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        source = next((name for name, values in given if _has(values, item["loc"])), "environment")
        where = "" if source == "environment" else f"{source}: "
        yield f"{where}{path} ({_environment_name(path)}): {message}"


def _has(values: Any, path: tuple[int | str, ...]) -> bool:
    if not path:
        return True
    return isinstance(values, Mapping) and path[0] in values and _has(values[path[0]], path[1:])


def _paths() -> Iterator[str]:
    yield from _flat(Settings.model_construct().model_dump())


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, values in tree.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    }


def _environment_name(path: str) -> str:
    return PREFIX + path.replace(".", "__").upper()
