"""Graph's limits are a mailbox's, so all workers keep them together."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from contracts.notification import Priority
from tests.adapters.graph.conftest import Sender, graph_mailbox
from tests.factories import NOON, verdict
from tests.fakes import Events
from tests.postgres import Cluster
from worker.domain.delivery import Accepted, Busy
from worker.domain.mailbox import Limits, SmtpEndpoint, Tls
from worker.domain.verdict import Action
from worker.emulator.run import Emulator
from worker.graph.conversation import Timeouts
from worker.graph.transport import GraphTransport
from worker.oauth.tokens import MsalTokens
from worker.ports import Admission, Demand, Paced
from worker.store.opening import opened


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where workers meet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite3'}"
    cluster: Cluster = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex[:12]}"
    cluster.psql(f"CREATE DATABASE {name}")
    return f"postgresql://postlane@127.0.0.1:{cluster.port}/{name}"


@asynccontextmanager
async def worker(emulator: Emulator, store: str, **fields: object) -> AsyncIterator[Sender]:
    """A worker of a fleet."""
    async with AsyncExitStack() as stack:
        permits = (await stack.enter_async_context(opened(store))).permits
        tokens = MsalTokens(Events())
        stack.callback(tokens.close)
        transport = GraphTransport(tokens, Timeouts(connect=5, answer=5, whole=20), permits)
        stack.push_async_callback(transport.close)
        yield Sender(transport, tokens, graph_mailbox(emulator, **fields))


def requests(emulator: Emulator) -> tuple[int, int]:
    """Most at once, and how many were turned away."""
    now = most = refused = 0
    under_way: set[object] = set()
    for line in emulator.backstage.journal.path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        match event["event"]:
            case "submitting":
                under_way.add(event["connection"])
            case "close":
                under_way.discard(event["connection"])
            case "refused":
                refused += 1
        now = len(under_way)
        most = max(most, now)
    return most, refused


async def test_two_workers_never_make_more_requests_at_once_than_a_mailbox_may(emulator: Emulator, store: str) -> None:
    async with worker(emulator, store) as one, worker(emulator, store) as two:
        each = [sender.mail(id=f"{name}-{n}") for name, sender in (("one", one), ("two", two)) for n in range(8)]
        outcomes = await asyncio.gather(
            *(sender.send(mail) for sender, mail in zip([one] * 8 + [two] * 8, each, strict=True))
        )
    assert {type(outcome) for outcome in outcomes} <= {Accepted, Busy}
    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) >= 8
    most, refused = requests(emulator)
    assert 1 <= most <= 4
    assert refused == 0


async def test_worker_that_finds_all_places_taken_says_so_and_sends_when_one_is_free(
    emulator: Emulator, store: str
) -> None:
    async with worker(emulator, store, concurrent=1) as sender, opened(store) as other:
        permit = await other.permits.acquire(sender.mailbox)
        assert permit is not None
        assert await sender.send() == Busy()
        assert sender.marks == 0
        await other.permits.release(permit)
        assert isinstance(await sender.send(), Accepted)
        assert await other.permits.acquire(sender.mailbox) is not None, "it has given its place back"


async def test_mail_that_stood_in_line_when_the_mailbox_began_to_rest_does_not_go_out(
    emulator: Emulator, store: str
) -> None:
    async with opened(store) as mine, opened(store) as other, AsyncExitStack() as stack:
        tokens = MsalTokens(Events())
        stack.callback(tokens.close)
        transport = GraphTransport(tokens, Timeouts(connect=5, answer=5, whole=20), mine.permits)
        stack.push_async_callback(transport.close)
        sender = Sender(transport, tokens, graph_mailbox(emulator, concurrent=1))
        permit = await other.permits.acquire(sender.mailbox)
        assert permit is not None
        waiting = asyncio.create_task(sender.send())
        pause = verdict(Action.PAUSE, "throttled-mailbox", pause=timedelta(minutes=5))
        await mine.gate.paused(Admission(sender.mailbox.name), pause, NOON)
        await other.permits.release(permit)
        assert await waiting == Busy()
        assert sender.marks == 0


async def test_requests_to_graph_take_no_place_of_an_smtp_session(emulator: Emulator, store: str) -> None:
    graph = graph_mailbox(emulator, concurrent=1)
    smtp = graph.via(SmtpEndpoint("localhost", 587, Tls.STARTTLS))
    limits = Limits(connections=1)
    async with opened(store) as found:
        for way in (graph, smtp):
            limited = type(way)(way.name, way.address, "", way.endpoint, limits=limits)
            assert await found.permits.acquire(limited) is not None
            assert await found.permits.acquire(limited) is None


async def test_mails_over_graph_and_smtp_count_against_one_limit(emulator: Emulator, store: str) -> None:
    graph = graph_mailbox(emulator)
    smtp = graph.via(SmtpEndpoint("localhost", 587, Tls.STARTTLS))
    limits, demand = Limits(recipients_per_day=2), Demand("contoso", Priority.NORMAL, 1, 1)
    async with opened(store) as found:
        for way in (graph, smtp):
            limited = type(way)(way.name, way.address, "", way.endpoint, limits=limits)
            admission = await found.gate.admit(limited, demand, NOON)
            assert isinstance(admission, Admission)
            await found.gate.cleared(admission, tried=True, accepted=1)
        assert isinstance(await found.gate.admit(limited, demand, NOON), Paced)
