"""The store that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from worker.ports import Store
from worker.store.memory import MemoryLedger

MEMORY = "memory://"


@asynccontextmanager
async def opened(
    url: str, *, name: str = "postlane", lease: float = 15.0, retention: timedelta = timedelta(days=7)
) -> AsyncIterator[Store]:
    """Open a store; on leaving what is left is written, and what is still claimed is anybody's at once.

    Args:
        url: `sqlite:///FILE`, `postgresql://…` or `memory://`, which is forgotten when the block is left.
        name: of this worker, for people.
        lease: seconds after which a worker that has said nothing is taken for dead.
        retention: how long finished notifications are remembered.

    Raises:
        Unusable: the address is none of these, or its driver is not installed. Whether the store answers is seen when
            it is first asked: then StoreDown is raised, or WrongSchema if it belongs to another version.
    """
    if url == MEMORY:
        yield MemoryLedger()
        return
    # SQLAlchemy is loaded only where it is needed.
    from worker.store.database import Database  # noqa: PLC0415
    from worker.store.ledger import SqlLedger  # noqa: PLC0415

    ledger = SqlLedger(Database(url), name, lease, retention)
    try:
        yield ledger
    finally:
        await ledger.close()
