"""Stores to be tested: in memory, SQLite, PostgreSQL; workers on them that live, die and come back as zombies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.postgres import Cluster
from worker.ports import Gate, Store
from worker.store.ledger import SqlLedger
from worker.store.opening import Opened, opened


@dataclass
class Backend:
    """One store, and as many workers on it as a test wants."""

    kind: str
    url: str
    stack: AsyncExitStack
    opened: list[Store] = field(default_factory=list)
    all: list[Opened] = field(default_factory=list)

    async def worker(self, **options: Any) -> Store:
        """A worker with a store of its own on the same data; in memory there is only one."""
        if self.kind == "memory" and self.opened:
            return self.opened[0]
        self.all.append(await self.stack.enter_async_context(opened(self.url, **options)))
        self.opened.append(self.all[-1].books)
        return self.opened[-1]

    async def gate(self, **options: Any) -> Gate:
        """The gate of a worker with a store of its own."""
        await self.worker(**options)
        return self.all[-1].gate

    async def sql(self, statement: str, **values: object) -> list[Any]:
        """Have a statement carried out behind the workers' backs."""
        ledger = next(store for store in self.opened if isinstance(store, SqlLedger))

        def work(connection: Any) -> list[Any]:
            done = connection.execute(text(statement), values)
            return list(done.all()) if done.returns_rows else []

        return await ledger._database.unchecked(work)

    async def fall_silent(self, store: Store) -> None:
        """It says nothing for longer than its lease: stopped, or dead."""
        assert isinstance(store, SqlLedger)
        for chore in store._chores:
            chore.cancel()
        await asyncio.gather(*store._chores, return_exceptions=True)
        await self.sql("UPDATE worker SET seen_at = 0 WHERE instance = :me", me=store._life.me)

    async def wake_up(self, store: Store) -> None:
        """It goes on where it was, and does not know how long it was away; its clock tells it to say that it lives."""
        assert isinstance(store, SqlLedger)
        store._life.due()


def address(cluster: Cluster, name: str) -> str:
    """Of one of its databases, as `store.url` wants it."""
    return f"postgresql://postlane@127.0.0.1:{cluster.port}/{name}"


@pytest.fixture
def database(postgres: Cluster) -> str:
    """An empty database's address."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgres.psql(f"CREATE DATABASE {name}")
    return address(postgres, name)


@pytest.fixture(params=["sqlite", "postgresql"])
async def durable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """A store that outlives its workers."""
    async with AsyncExitStack() as stack:
        yield Backend(request.param, _url(request, request.param, tmp_path), stack)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Any store."""
    async with AsyncExitStack() as stack:
        yield Backend(request.param, _url(request, request.param, tmp_path), stack)


def _url(request: pytest.FixtureRequest, kind: str, directory: Path) -> str:
    match kind:
        case "memory":
            return "memory://"
        case "sqlite":
            return f"sqlite:///{directory / 'store.sqlite3'}"
        case _:
            return str(request.getfixturevalue("database"))
