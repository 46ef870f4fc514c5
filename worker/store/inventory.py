"""What is in the database, in numbers, for people."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from worker.store import migrating
from worker.store.database import Database, migrate
from worker.store.page import Stage
from worker.store.schema import REVISION, database_now, notification, worker

_NAMES = {
    Stage.CLAIMED: "being_sent",
    Stage.DOT: "handed_over_unanswered",
    Stage.WAITING: "waiting",
    Stage.FINISHED: "finished",
    Stage.REJECTED: "rejected",
}


async def inventory(url: str, lease: float) -> dict[str, str | int]:
    """Where the store is, its tables' version, notifications by stage, unpublished results, doubts, living workers.

    Raises:
        Unusable: the address is none of ours.
        StoreDown: it is out of reach.
    """
    database = Database(url)

    def look(connection: Connection) -> dict[str, str | int]:
        revision = migrating.revision(connection)
        known = {"store": str(database), "tables": f"{revision or 'none'} (this version needs {REVISION})"}
        return {**known, **(_numbers(connection, lease) if revision == REVISION else {})}

    try:
        return await database.unchecked(look)
    finally:
        await database.close()


async def migrated(url: str) -> str:
    """Bring the tables to this version's form, and say what was done.

    Raises:
        Unusable: the address is none of ours.
        StoreDown: it is out of reach.
    """
    database = Database(url)
    try:
        before = await database.unchecked(migrating.revision)
        if before == REVISION:
            return f"{database}: nothing to do, the tables are at {REVISION}."
        await migrate(database)
    finally:
        await database.close()
    return f"{database}: the tables are at {REVISION} now" + (f", they were at {before}." if before else ".")


def _numbers(connection: Connection, lease: float) -> dict[str, str | int]:
    row = notification.c
    stages = {
        str(stage): count for stage, count in connection.execute(select(row.stage, func.count()).group_by(row.stage))
    }
    alive = worker.c.seen_at > database_now() - int(lease * 1_000_000)
    return {
        **{name: stages.get(stage, 0) for stage, name in _NAMES.items()},
        "open_doubts": _count(connection, row.status == "in_doubt"),
        "unpublished": _count(connection, row.due_at.is_not(None)),
        "workers_alive": connection.scalar(select(func.count()).select_from(worker).where(alive)) or 0,
    }


def _count(connection: Connection, condition: object) -> int:
    return connection.scalar(select(func.count()).select_from(notification).where(condition)) or 0  # type: ignore[arg-type]
