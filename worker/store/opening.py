"""The store that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from worker.ports import Gate, Permits, Store
from worker.store.memory import MemoryGate, MemoryLedger, NoPermits

MEMORY = "memory://"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open store.

    Attributes:
        books: what was sent, what is to be told.
        gate: what mailboxes may do.
        permits: how many connections they may have.
    """

    books: Store
    gate: Gate
    permits: Permits


@asynccontextmanager
async def opened(
    url: str,
    *,
    name: str = "postlane",
    lease: float = 15.0,
    retention: timedelta = timedelta(days=7),
    window: timedelta = timedelta(minutes=1),
) -> AsyncIterator[Opened]:
    """Open a store; on leaving what is left is written, and what is still claimed is anybody's at once.

    Args:
        url: `sqlite:///FILE`, `postgresql://…` or `memory://`, which is forgotten when the block is left.
        name: of this worker, for people.
        lease: seconds after which a worker that has said nothing is taken for dead.
        retention: how long finished notifications are remembered.
        window: what a mailbox's `per_minute` means; other than a minute in tests.

    Raises:
        Unusable: the address is none of these, or its driver is not installed. Whether the store answers is seen when
            it is first asked: then StoreDown is raised, or WrongSchema if it belongs to another version.
    """
    if url == MEMORY:
        yield Opened(MemoryLedger(), MemoryGate(), NoPermits())
        return
    # SQLAlchemy is loaded only where it is needed.
    from worker.store.database import Database  # noqa: PLC0415
    from worker.store.gate import SqlGate  # noqa: PLC0415
    from worker.store.ledger import SqlLedger  # noqa: PLC0415
    from worker.store.life import Life  # noqa: PLC0415

    database = Database(url)
    life = Life(database, name, lease)
    ledger, gate = SqlLedger(database, life, retention), SqlGate(database, life, window)
    try:
        yield Opened(ledger, gate, gate)
    finally:
        await gate.close()
        await ledger.close()
        await life.close()
        await database.close()
