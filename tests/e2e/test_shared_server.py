"""A server that turns everybody away is asked by one mail of all its mailboxes, on all workers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from contracts.address import parse
from contracts.delivery import DeliveryStatus
from contracts.wire import Properties
from tests.factories import directory, document
from tests.fakes import Clock, Events, FakeFiles, FakeTemplates
from worker.courier import Courier, Intake
from worker.domain.decision import Decision
from worker.domain.mailbox import Mailbox, Password, SmtpEndpoint, Tls
from worker.domain.retry import RetryPolicy
from worker.domain.verdict import catalogue
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.world import MailboxAccount
from worker.events import MailboxPaused
from worker.oauth.tokens import MsalTokens
from worker.resting import SharedGate
from worker.smtp.connect import Timeouts
from worker.smtp.transport import SmtpTransport
from worker.store.opening import opened

TENANTS = ("contoso", "fabrikam", "adatum")


def box(emulator: Emulator, tenant: str, password: str = "emulated-password") -> Mailbox:
    address = f"{tenant}@contoso.example"
    ca_file = str(emulator.certificates.ca_file)
    endpoint = SmtpEndpoint(
        "localhost", emulator.office365.port, Tls.STARTTLS, Password(address, SecretStr(password)), ca_file=ca_file
    )
    return Mailbox(tenant, parse(address), "", endpoint, tenants=frozenset({tenant}))


@asynccontextmanager
async def office(tmp_path: Path) -> AsyncIterator[Emulator]:
    """Three mailboxes of one Office 365."""
    plan = Plan(tmp_path / "emulator")
    accounts = tuple(MailboxAccount(f"{tenant}@contoso.example", "emulated-password") for tenant in TENANTS)
    async with emulating(replace(plan, office365_mailboxes=accounts)) as running:
        yield running


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[Emulator]:
    async with office(tmp_path) as running:
        yield running


class Worker:
    """A courier with a store, sockets and a clock of its own."""

    def __init__(self, courier: Courier, clock: Clock, events: Events) -> None:
        self.clock, self.events = clock, events
        self._courier = courier

    async def deliver(self, tenant: str, name: str = "n-1") -> Decision:
        body = json.dumps(document(tenant=tenant, id=name)).encode()
        return await self._courier.deliver(Intake(body, Properties()))

    async def status(self, tenant: str, name: str = "n-1") -> DeliveryStatus:
        return (await self.deliver(tenant, name)).results[-1].status


@asynccontextmanager
async def worker(store: str, *boxes: Mailbox) -> AsyncIterator[Worker]:
    clock, events = Clock(), Events()
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(opened(store))
        tokens = MsalTokens(events)
        stack.callback(tokens.close)
        smtp = SmtpTransport(tokens, Timeouts(5, 5, 5), events, found.permits)
        stack.push_async_callback(smtp.close)
        courier = Courier(
            directory=directory(*boxes),
            rows=catalogue(),
            ledger=found.books,
            register=found.books,
            gate=SharedGate(found.gate),
            transports={SmtpEndpoint: smtp},
            files=FakeFiles(),
            templates=FakeTemplates(),
            policy=RetryPolicy(),
            clock=clock,
            dice=lambda: 0.5,
            observe=events,
        )
        yield Worker(courier, clock, events)


def asked(emulator: Emulator, event: str = "open") -> int:
    """How often the server was connected to, or what it did."""
    lines = emulator.backstage.journal.path.read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["event"] == event for line in lines)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite3'}"
    cluster = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex[:12]}"
    cluster.psql(f"CREATE DATABASE {name}")
    return f"postgresql://postlane@127.0.0.1:{cluster.port}/{name}"


async def test_server_that_answers_421_is_asked_once_by_the_whole_fleet(emulator: Emulator, store: str) -> None:
    emulator.play("service-unavailable")
    boxes = [box(emulator, tenant) for tenant in TENANTS]
    async with worker(store, *boxes) as one:
        assert await one.status("contoso") is DeliveryStatus.DEFERRED
        async with worker(store, *boxes) as two:
            assert await two.status("fabrikam") is DeliveryStatus.DEFERRED
            assert await two.status("adatum") is DeliveryStatus.DEFERRED
            assert asked(emulator) == 1
            (paused,) = one.events.of(MailboxPaused)
            assert paused.mailbox == f"server localhost:{emulator.office365.port} (starttls)"
            emulator.play()
            two.clock.now = paused.until
            statuses = [await two.status(tenant, "n-2") for tenant in TENANTS]
            assert statuses == [DeliveryStatus.ACCEPTED] * 3


async def test_probe_that_is_turned_away_again_is_one_for_the_whole_fleet(emulator: Emulator, store: str) -> None:
    emulator.play("service-unavailable")
    boxes = [box(emulator, tenant) for tenant in TENANTS]
    async with worker(store, *boxes) as one, worker(store, *boxes) as two:
        await one.status("contoso")
        (paused,) = one.events.of(MailboxPaused)
        one.clock.now = two.clock.now = paused.until
        await asyncio.gather(*(each.deliver(tenant, "n-2") for each in (one, two) for tenant in TENANTS[1:]))
        assert asked(emulator) == 2


async def test_wrong_password_of_one_mailbox_keeps_no_other_from_sending(emulator: Emulator, store: str) -> None:
    boxes = [box(emulator, "contoso", "wrong"), *(box(emulator, tenant) for tenant in TENANTS[1:])]
    async with worker(store, *boxes) as one:
        assert await one.status("contoso") is DeliveryStatus.DEFERRED
        assert await one.status("contoso", "n-2") is DeliveryStatus.DEFERRED
        assert await one.status("fabrikam") is DeliveryStatus.ACCEPTED
        assert await one.status("adatum") is DeliveryStatus.ACCEPTED
        assert asked(emulator, "login refused") == 1
