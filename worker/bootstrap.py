"""The composition root: the only place where the parts of a worker meet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from contracts.address import AddrSpec
from worker import mailbox_file, sealing
from worker.administration import Administration, Base, Directories
from worker.attachments.directory import AttachmentDirectory
from worker.broker.connection import BrokerAddress
from worker.broker.serve import ServeOptions, Worker
from worker.broker.topology import Topology
from worker.courier import Courier, Intake
from worker.domain.decision import Decision
from worker.domain.health import Finding
from worker.domain.mailbox import (
    Directory,
    GraphEndpoint,
    Mailbox,
    ManagedIdentity,
    OAuth,
    PickupDirectory,
    Secret,
    SmtpEndpoint,
)
from worker.domain.retry import RetryPolicy
from worker.domain.verdict import catalogue
from worker.doubts import look_into
from worker.events import Event, MailboxesChanged
from worker.graph import conversation
from worker.graph.lookup import SentItems
from worker.graph.transport import GraphTransport
from worker.oauth.expiry import End, review, withdrawn
from worker.oauth.keyvault import CLOUDS as VAULTS
from worker.oauth.keyvault import KeyVault, Surroundings
from worker.oauth.registration import Registrations
from worker.oauth.tokens import MsalTokens
from worker.oauth.vault import Vault, keys
from worker.pickup import transport as pickup
from worker.pickup.watch import watch
from worker.ports import Gate, Observe, Register, Store, StoreDown, Tokens
from worker.probe import Health, look
from worker.resting import SharedGate
from worker.settings import Settings, SettingsError
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport
from worker.store.inventory import inventory as inventories
from worker.store.inventory import migrated
from worker.store.mailboxes import SqlMailboxes
from worker.store.opening import MEMORY, Opened, opened
from worker.switchboard import Switchboard
from worker.telemetry import health, http
from worker.telemetry.logs import LogEvents
from worker.telemetry.metrics import Metrics
from worker.telemetry.standing import Standings
from worker.templates.none import NoTemplates
from worker.tenant_settings import TenantSettings
from worker.tryout import Tried, tried_out
from worker.unusable import Unusable

if TYPE_CHECKING:
    from worker.api.application import Doors, TryOut
    from worker.templates.renderer import Renderer

T = TypeVar("T")

_SOON = 2.0  # seconds
_DAY = 24 * 3600.0  # seconds
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class App:
    """A composed worker."""

    worker: Worker

    async def run(self) -> None:
        """Work until `stop`."""
        await self.worker.run()

    def stop(self) -> None:
        """Finish what is under way, then `run` returns."""
        self.worker.stop()


def broker_address(settings: Settings) -> BrokerAddress:
    """Where the broker is."""
    ca_file = settings.broker.ca_file
    return BrokerAddress(settings.broker.url.get_secret_value(), str(ca_file) if ca_file else None)


def topology(settings: Settings) -> Topology:
    """What exists on the broker."""
    return Topology(settings.broker.prefix, settings.broker.lanes)


def timeouts(settings: Settings) -> Timeouts:
    """Of SMTP."""
    smtp = settings.smtp
    return Timeouts(smtp.connect_seconds, smtp.command_seconds, smtp.submission_seconds)


def graph_timeouts(settings: Settings) -> conversation.Timeouts:
    """Of Microsoft Graph."""
    return conversation.Timeouts(settings.graph.connect_seconds, settings.graph.answer_seconds)


def directory(settings: Settings) -> Directory:
    """The mailboxes file, checked.

    Raises:
        SettingsError: it is wrong.
    """
    try:
        return mailbox_file.load(settings.mailboxes.file, surroundings(settings))
    except mailbox_file.MailboxFileError as error:
        raise SettingsError(str(error)) from error


@cache
def _key_vault(identity: str, tenant_id: str | None, client_secret: str | None) -> KeyVault:
    """One for the whole process, so that its answers are kept."""
    if tenant_id is None:
        managed = ManagedIdentity() if identity == "system" else ManagedIdentity(client_id=identity)
        return KeyVault(OAuth("", "", managed, f"https://{VAULTS[0]}/.default", ""))
    authority = f"https://login.microsoftonline.com/{tenant_id}"
    secret = Secret(SecretStr(client_secret or ""))
    return KeyVault(OAuth(authority, identity, secret, f"https://{VAULTS[0]}/.default", ""))


def surroundings(settings: Settings) -> Surroundings:
    """Where mailboxes find secrets that they only name.

    Raises:
        SettingsError: an app without its secret.
    """
    given = settings.keyvault
    if given.identity is None:
        return Surroundings(os.environ, None)
    secret = given.client_secret.get_secret_value() if given.client_secret else None
    if (given.tenant_id is None) != (secret is None):
        raise SettingsError("POSTLANE_KEYVAULT__TENANT_ID and POSTLANE_KEYVAULT__CLIENT_SECRET belong together.")
    return Surroundings(os.environ, _key_vault(given.identity, given.tenant_id, secret))


def keyring(settings: Settings) -> sealing.Keyring:
    """The keys of the secrets in the store.

    Raises:
        Unusable: one is none.
    """
    return sealing.Keyring(sealing.keys(settings.secrets.key, "POSTLANE_SECRETS__KEY", "postlane secret key"))


def _base(settings: Settings) -> Base:
    """The mailboxes file, checked.

    Raises:
        SettingsError: it is wrong.
    """
    path, environment = settings.mailboxes.file, surroundings(settings)
    try:
        tree, made = mailbox_file.both(path, environment)
    except mailbox_file.MailboxFileError as error:
        raise SettingsError(str(error)) from error
    return Base(tree, environment, made)


@asynccontextmanager
async def _kept(settings: Settings) -> AsyncIterator[SqlMailboxes | None]:
    """The store's mailboxes; None: the store keeps none."""
    url = settings.store.url.get_secret_value()
    if url == MEMORY:
        yield None
        return
    from worker.store.database import Database  # noqa: PLC0415 - SQLAlchemy is loaded only where it is needed

    mailboxes = SqlMailboxes(Database(url))
    try:
        yield mailboxes
    finally:
        await mailboxes.close()


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[Administration]:
    """What people and portals do to mailboxes.

    Raises:
        Unusable: the store keeps none, or is out of reach.
    """
    async with desks(settings) as (mailboxes, _, _):
        yield mailboxes


Desks = tuple[Administration, Switchboard, TenantSettings]


@asynccontextmanager
async def desks(settings: Settings) -> AsyncIterator[Desks]:
    """What people and portals do to mailboxes, to scopes, and to a tenant's own settings; errors as above."""
    base, keys_at_hand = _base(settings), keyring(settings)
    try:
        async with _kept(settings) as kept:
            if kept is None:
                raise Unusable(f"store.url is {MEMORY}: mailboxes cannot be kept there. Name a database.")
            yield _desks(base, kept, keys_at_hand)
    except StoreDown as error:
        raise Unusable(str(error)) from error


def _desks(base: Base, kept: SqlMailboxes, keys_at_hand: sealing.Keyring) -> Desks:
    mailboxes = Administration(base, kept, keys_at_hand)
    return mailboxes, Switchboard(base, kept), TenantSettings(mailboxes)


async def effective(settings: Settings) -> Directory:
    """The mailboxes that workers go by: the file's and the store's.

    Raises:
        Unusable: the file is wrong, the store is out of reach.
    """
    if not _is_there(settings.store.url.get_secret_value()):
        return directory(settings)
    async with administration(settings) as desk:
        return await desk.directory()


def _is_there(url: str) -> bool:
    """Whether a look into the store would not be what makes it."""
    file = url.removeprefix("sqlite:///")
    return url != MEMORY and (file == url or Path(file).expanduser().exists())


def _opened(settings: Settings) -> AbstractAsyncContextManager[Opened]:
    store = settings.store
    retention = timedelta(days=store.retention_days)
    return opened(
        store.url.get_secret_value(), name=settings.worker.name, lease=store.lease_seconds, retention=retention
    )


@asynccontextmanager
async def store(settings: Settings) -> AsyncIterator[Store]:
    """The store, for commands.

    Raises:
        Unusable: it is out of reach, or another version's.
    """
    try:
        async with _opened(settings) as found:
            yield found.books
    except StoreDown as error:
        raise Unusable(str(error)) from error


async def migrate(settings: Settings) -> str:
    """Bring the store's tables to this version's form; what was done, in words.

    Raises:
        Unusable: it is out of reach, or keeps nothing.
    """
    return await _on_disk(settings, migrated)


async def inventory(settings: Settings) -> dict[str, str | int]:
    """What is in the store, in numbers.

    Raises:
        Unusable: it is out of reach, or keeps nothing.
    """
    return await _on_disk(settings, lambda url: inventories(url, settings.store.lease_seconds))


async def _on_disk(settings: Settings, treat: Callable[[str], Awaitable[T]]) -> T:
    url = settings.store.url.get_secret_value()
    if url == MEMORY:
        raise Unusable(f"store.url is {MEMORY}: each worker keeps its own, and forgets it when it ends.")
    try:
        return await treat(url)
    except StoreDown as error:
        raise Unusable(str(error)) from error


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where somebody may get between the parts: the chaos tests do, nobody else has to.

    Attributes:
        store: what the worker uses in place of its store.
        observe: told of every event, after logs and metrics.
    """

    store: Callable[[Store], Store] = lambda store: store
    observe: Observe = lambda _event: None


@asynccontextmanager
async def running(settings: Settings, hooks: Hooks | None = None) -> AsyncIterator[App]:
    """Compose a worker; on leaving everything that was opened is closed.

    Raises:
        SettingsError: settings or mailboxes are wrong, a pickup directory cannot be used.
    """
    hooks = hooks or Hooks()
    base = _base(settings)
    _check_pickups(base.directory)
    async with AsyncExitStack() as stack:
        metrics = Metrics(lambda: worker.in_flight)
        standings = Standings(_now)
        changes = _Changes()
        observe = _all(LogEvents(settings.worker.name), metrics, standings, hooks.observe, changes)
        found = await stack.enter_async_context(_opened(settings))
        kept = hooks.store(found.books)
        tokens = msal_tokens(settings, observe)
        stack.callback(tokens.close)
        stored = await stack.enter_async_context(_kept(settings))
        directories = Directories(base, stored, keyring(settings), observe, found.gate.look)
        graph = GraphTransport(tokens, graph_timeouts(settings), found.permits)
        stack.push_async_callback(graph.close)
        courier = _courier(settings, directories.current, replace(found, books=kept), tokens, graph, observe, stack)
        options = ServeOptions(
            worker=settings.worker.name,
            prefetch=settings.broker.prefetch,
            concurrency=settings.worker.concurrency,
            grace=settings.worker.grace_seconds,
        )
        worker = Worker(
            broker_address(settings),
            topology(settings),
            _delivering(courier, directories),
            kept,
            options,
            observe,
            random.random,
        )
        servers = Health(
            lambda: directories.current.mailboxes, partial(look, tokens=tokens), _now, resting=found.gate.resting
        )
        stack.push_async_callback(servers.close)
        if settings.health.port:
            standing = partial(_standing, standings, directories, found.gate)
            await stack.enter_async_context(_health(settings, worker, metrics, servers, standing))
        if settings.api.port and stored is not None:
            doors = _doors(_desks(base, stored, keyring(settings)), kept, servers, courier, directories)
            await stack.enter_async_context(_api(settings, doors))
        await stack.enter_async_context(_beside(directories.watch()))
        registrations = Registrations(tokens, settings.oauth.timeout_seconds)
        await stack.enter_async_context(_beside(_reviewing(directories, registrations, changes, observe)))
        watching = watch(lambda: directories.current, settings.pickup.collect_seconds, observe)
        await stack.enter_async_context(_beside(watching))
        await stack.enter_async_context(_beside(_looking_into_doubts(kept, graph, directories, observe)))
        yield App(worker)


def _delivering(courier: Courier, directories: Directories) -> Callable[[Intake], Awaitable[Decision]]:
    """Each delivery goes by the directory as it is when it begins, from its first step to its last."""

    async def deliver(intake: Intake) -> Decision:
        return await replace(courier, directory=await directories.loaded()).deliver(intake)

    return deliver


async def looked_at(settings: Settings, name: str) -> Finding:
    """How a mailbox's server is, with the secrets that are stored; sends nothing.

    Raises:
        Unusable: there is no such mailbox, or the store is out of reach.
    """
    mailbox = (await effective(settings)).mailboxes.get(name)
    if mailbox is None:
        raise Unusable(f"There is no mailbox {name!r} that could be used: see postlane mailbox show {name}")
    tokens = msal_tokens(settings, lambda _event: None)
    try:
        return await look(mailbox, tokens)
    finally:
        tokens.close()


@asynccontextmanager
async def api(settings: Settings) -> AsyncIterator[None]:
    """The management API without a worker.

    Raises:
        SettingsError: its settings are wrong.
        Unusable: the store cannot be used.
    """
    async with AsyncExitStack() as stack:
        observe = LogEvents(settings.worker.name)
        managed = await stack.enter_async_context(desks(settings))
        stored = await stack.enter_async_context(_kept(settings))
        directories = Directories(_base(settings), stored, keyring(settings), observe)
        courier, found = await stack.enter_async_context(_alone(settings, directories.current, observe))
        tokens = msal_tokens(settings, observe)
        stack.callback(tokens.close)
        servers = Health(lambda: directories.current.mailboxes, partial(look, tokens=tokens), _now)
        stack.push_async_callback(servers.close)
        doors = _doors(managed, found.books, servers, courier, directories)
        await stack.enter_async_context(_api(settings, doors))
        yield


@asynccontextmanager
async def _alone(settings: Settings, mailboxes: Directory, observe: Observe) -> AsyncIterator[tuple[Courier, Opened]]:
    """A courier without a broker, for test mails."""
    try:
        async with AsyncExitStack() as stack:
            found = await stack.enter_async_context(_opened(settings))
            tokens = msal_tokens(settings, observe)
            stack.callback(tokens.close)
            graph = GraphTransport(tokens, graph_timeouts(settings))
            stack.push_async_callback(graph.close)
            yield _courier(settings, mailboxes, found, tokens, graph, observe, stack), found
    except StoreDown as error:
        raise Unusable(str(error)) from error


async def tested(settings: Settings, name: str, to: AddrSpec, *, even_disabled: bool) -> Tried:
    """Send a test mail over one mailbox.

    Raises:
        Unusable: there is no such mailbox, it is switched off, or the store is out of reach.
    """
    mailboxes = await effective(settings)
    async with _alone(settings, mailboxes, lambda _event: None) as (courier, _):
        return await tried_out(courier, mailboxes, name, to, token_hex(8), even_disabled=even_disabled)


def _doors(managed: Desks, register: Register, servers: Health, courier: Courier, directories: Directories) -> Doors:
    from worker.api.application import Doors  # noqa: PLC0415 - loaded only where it is served

    return Doors(*managed, register, servers, directories.look, _trying_out(courier, directories))


def _trying_out(courier: Courier, directories: Directories) -> TryOut:
    async def send(name: str, to: AddrSpec, *, even_disabled: bool) -> Tried:
        mailboxes = await directories.loaded()
        return await tried_out(courier, mailboxes, name, to, token_hex(8), even_disabled=even_disabled)

    return send


@asynccontextmanager
async def _api(settings: Settings, doors: Doors) -> AsyncIterator[None]:
    from worker.api.application import application  # noqa: PLC0415 - loaded only where it is served
    from worker.api.tokens import TokensFile  # noqa: PLC0415

    given = settings.api
    if given.tokens_file is None:
        raise SettingsError(
            "POSTLANE_API__TOKENS_FILE is not set: nobody could use the API. `postlane api token` makes one."
        )
    try:
        listening = http.bound(given.host, given.port)
    except http.CannotListen as error:
        raise SettingsError(f"POSTLANE_API__PORT: {error}. Choose another port, or 0 for none.") from error
    served = application(doors, TokensFile(given.tokens_file), references=given.references)
    async with http.serving(served, listening, given.certificate_file):
        yield


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Something that goes on while the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


class _Changes:
    """Whether mailboxes have changed since somebody looked."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, MailboxesChanged):
            self._changed.set()

    async def come(self, patience: float) -> bool:
        """Wait for the next ones; False: there were none for so many seconds."""
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def seen(self) -> None:
        """Whoever looks now sees all that has come."""
        self._changed.clear()


async def _reviewing(
    directories: Directories, registrations: Registrations, changes: _Changes, observe: Observe
) -> None:
    """Tell at start and every day which credentials end and who still uses a password; in between what is new of it."""
    told: list[Event] = []
    registered: dict[str, End] = {}

    async def tell(mailboxes: Directory) -> None:
        found = await asyncio.to_thread(lambda: list(review(mailboxes, _now(), registered)))
        known = set(told)
        for event in (*withdrawn(told, found), *found):
            if event not in known:
                observe(event)
        told[:] = found

    while True:
        with contextlib.suppress(StoreDown):
            await directories.loaded()
        changes.seen()
        current = directories.current
        await tell(current)  # at once: whether an authority answers is another matter
        ends = await registrations.ends(filter(_asks_graph, current.mailboxes.values()))
        if ends != registered:
            registered = ends
            await tell(current)
        if await changes.come(_DAY):
            await asyncio.sleep(_SOON)  # portals change many at a time, and there may be fifty thousand
        else:
            registrations.forget()
            told.clear()


def _asks_graph(mailbox: Mailbox) -> bool:
    """Whether it has a token for Graph anyway: one only to ask when a secret ends is not worth a request."""
    over_graph = any(isinstance(way, GraphEndpoint) for way in mailbox.channels)
    return over_graph and mailbox.enabled and not (mailbox.held and mailbox.held.unusable)


async def _looking_into_doubts(
    kept: Register, graph: GraphTransport, directories: Directories, observe: Observe
) -> None:
    """End by themselves the doubts of mailboxes whose Sent Items may be read."""
    while True:
        await asyncio.sleep(_MINUTE)
        known = directories.current.mailboxes
        readable = {name: each for name, each in known.items() if GraphEndpoint in map(type, each.channels)}
        if readable:
            with suppress(StoreDown):
                await look_into(kept, SentItems(graph), readable, _now(), observe)


def _courier(
    settings: Settings,
    mailboxes: Directory,
    kept: Opened,
    tokens: Tokens,
    graph: GraphTransport,
    observe: Observe,
    stack: AsyncExitStack,
) -> Courier:
    smtp = SmtpTransport(tokens, timeouts(settings), observe, kept.permits)
    stack.push_async_callback(smtp.close)
    wordings = templates(settings)
    stack.push_async_callback(wordings.close)
    return Courier(
        directory=mailboxes,
        rows=catalogue(),
        ledger=kept.books,
        register=kept.books,
        gate=SharedGate(kept.gate),
        transports={SmtpEndpoint: smtp, GraphEndpoint: graph, PickupDirectory: pickup.PickupTransport()},
        files=AttachmentDirectory(settings.attachments.directory, settings.attachments.max_octets),
        templates=wordings,
        policy=_retry_policy(settings),
        clock=_now,
        dice=random.random,
        observe=observe,
        max_octets=settings.worker.max_message_octets,
    )


def vault(settings: Settings) -> Vault:
    """Where sign-ins of persons are kept.

    Raises:
        VaultError: the key is none.
    """
    return Vault(settings.oauth.directory, keys(settings.oauth.key))


def msal_tokens(settings: Settings, observe: Observe) -> MsalTokens:
    """Where access tokens come from."""
    return MsalTokens(observe, settings.oauth.timeout_seconds, vault(settings))


def _now() -> datetime:
    return datetime.now(UTC)


def templates(settings: Settings) -> Renderer | NoTemplates:
    """What makes mails of templates; to be closed."""
    directory = settings.templates.directory
    if directory is None:
        return NoTemplates()
    from worker.templates.renderer import Renderer  # noqa: PLC0415 - Jinja is loaded only where it is needed

    return Renderer(directory, os.environ)


def _retry_policy(settings: Settings) -> RetryPolicy:
    retry = settings.retry
    return RetryPolicy(
        first=timedelta(seconds=retry.first_seconds),
        factor=retry.factor,
        longest=timedelta(seconds=retry.longest_seconds),
        horizon=timedelta(hours=retry.horizon_hours),
    )


def _standing(standings: Standings, directories: Directories, gate: Gate) -> dict[str, dict[str, object]]:
    return standings.told(directories.current.mailboxes, gate.resting, gate.share)


@asynccontextmanager
async def _health(
    settings: Settings, worker: Worker, metrics: Metrics, servers: Health, standing: health.Standing
) -> AsyncIterator[None]:
    def checks() -> dict[str, str]:
        return {"broker": worker.unready or "ok"}

    try:
        listening = http.bound(settings.health.host, settings.health.port)
    except http.CannotListen as error:
        raise SettingsError(f"POSTLANE_HEALTH__PORT: {error}. Choose another port, or 0 for none.") from error
    async with http.serving(health.application(checks, metrics.exposition, servers.all, standing), listening):
        yield


def _check_pickups(mailboxes: Directory) -> None:
    problems = [
        f"mailboxes.{mailbox.name}: {problem}"
        for mailbox in mailboxes.mailboxes.values()
        if isinstance(mailbox.endpoint, PickupDirectory) and (problem := pickup.check(mailbox.endpoint))
    ]
    if problems:
        raise SettingsError("\n".join(problems))


def _all(*observers: Observe) -> Observe:
    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe
