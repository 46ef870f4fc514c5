"""The composition root: the only place where the parts of a worker meet."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from worker import mailbox_file
from worker.attachments.directory import AttachmentDirectory
from worker.broker.connection import BrokerAddress
from worker.broker.serve import ServeOptions, Worker
from worker.broker.topology import Topology
from worker.courier import Courier
from worker.domain.mailbox import Directory, GraphEndpoint, PickupDirectory, SmtpEndpoint
from worker.domain.retry import RetryPolicy
from worker.domain.verdict import catalogue
from worker.doubts import look_into
from worker.events import Event
from worker.graph import conversation
from worker.graph.lookup import SentItems
from worker.graph.transport import GraphTransport
from worker.oauth.expiry import review
from worker.oauth.tokens import MsalTokens
from worker.oauth.vault import Vault, keys
from worker.pickup import transport as pickup
from worker.ports import Observe, Register, Store, StoreDown, Tokens
from worker.probe import Health, look
from worker.settings import Settings, SettingsError
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport
from worker.store.inventory import inventory as inventories
from worker.store.inventory import migrated
from worker.store.opening import MEMORY, Opened, opened
from worker.telemetry import health, http
from worker.telemetry.logs import LogEvents
from worker.telemetry.metrics import Metrics
from worker.templates.renderer import NoTemplates, Renderer
from worker.unusable import Unusable

T = TypeVar("T")

_DAY = 24 * 3600.0  # seconds
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class App:
    """A composed worker."""

    worker: Worker
    directory: Directory

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
        return mailbox_file.load(settings.mailboxes.file, os.environ)
    except mailbox_file.MailboxFileError as error:
        raise SettingsError(str(error)) from error


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
    mailboxes = directory(settings)
    _check_pickups(mailboxes)
    async with AsyncExitStack() as stack:
        metrics = Metrics(lambda: worker.in_flight)
        observe = _all(LogEvents(settings.worker.name), metrics, hooks.observe)
        found = await stack.enter_async_context(_opened(settings))
        kept = hooks.store(found.books)
        tokens = msal_tokens(settings, observe)
        stack.callback(tokens.close)
        graph = GraphTransport(tokens, graph_timeouts(settings))
        stack.push_async_callback(graph.close)
        courier = _courier(settings, mailboxes, replace(found, books=kept), tokens, graph, observe, stack)
        options = ServeOptions(
            worker=settings.worker.name,
            prefetch=settings.broker.prefetch,
            concurrency=settings.worker.concurrency,
            grace=settings.worker.grace_seconds,
        )
        worker = Worker(
            broker_address(settings), topology(settings), courier.deliver, kept, options, observe, random.random
        )
        if settings.health.port:
            servers = Health(lambda: mailboxes.mailboxes, partial(look, tokens=tokens), _now)
            stack.push_async_callback(servers.close)
            await stack.enter_async_context(_health(settings, worker, metrics, servers))
        await stack.enter_async_context(_reviewing(mailboxes, observe))
        await stack.enter_async_context(_looking_into_doubts(kept, graph, mailboxes, observe))
        yield App(worker, mailboxes)


@asynccontextmanager
async def _reviewing(mailboxes: Directory, observe: Observe) -> AsyncIterator[None]:
    """Tell at start and every day which credentials end and who still uses a password."""

    async def daily() -> None:
        while True:
            for event in await asyncio.to_thread(lambda: list(review(mailboxes, datetime.now(UTC)))):
                observe(event)
            await asyncio.sleep(_DAY)

    task = asyncio.create_task(daily())
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def _looking_into_doubts(
    kept: Register, graph: GraphTransport, mailboxes: Directory, observe: Observe
) -> AsyncIterator[None]:
    """End by themselves the doubts of mailboxes whose Sent Items may be read."""
    readable = {name: each for name, each in mailboxes.mailboxes.items() if GraphEndpoint in map(type, each.channels)}

    async def again_and_again() -> None:
        while True:
            await asyncio.sleep(_MINUTE)
            with suppress(StoreDown):
                await look_into(kept, SentItems(graph), readable, _now(), observe)

    task = asyncio.create_task(again_and_again()) if readable else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


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
        gate=kept.gate,
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
    return Renderer(directory, os.environ) if directory is not None else NoTemplates()


def _retry_policy(settings: Settings) -> RetryPolicy:
    retry = settings.retry
    return RetryPolicy(
        first=timedelta(seconds=retry.first_seconds),
        factor=retry.factor,
        longest=timedelta(seconds=retry.longest_seconds),
        horizon=timedelta(hours=retry.horizon_hours),
    )


@asynccontextmanager
async def _health(settings: Settings, worker: Worker, metrics: Metrics, servers: Health) -> AsyncIterator[None]:
    def checks() -> dict[str, str]:
        return {"broker": worker.unready or "ok"}

    try:
        listening = http.bound(settings.health.host, settings.health.port)
    except http.CannotListen as error:
        raise SettingsError(f"POSTLANE_HEALTH__PORT: {error}. Choose another port, or 0 for none.") from error
    async with http.serving(health.application(checks, metrics.exposition, servers.all), listening):
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
