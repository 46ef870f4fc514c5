"""SQLite or PostgreSQL behind SQLAlchemy: connections, transactions, and what their errors mean."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from worker.ports import StoreDown
from worker.store import migrating
from worker.store.schema import REVISION
from worker.unusable import Unusable

T = TypeVar("T")

_PATIENCE = 10.0  # seconds for one transaction; a server that is silent for longer is down
_BUSY = 8.0  # seconds that a SQLite process waits for another one's transaction
_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock
_ASKED_WRONGLY = ("22", "23", "42")  # data, integrity, syntax: the database is well, what it was asked is not
_ASTRAY = ("42501", "42P01")  # no privilege, no such table: somebody has to mend the database, not us
_FORMS = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or memory://"


class Database:
    """One database, its schema checked before its first use."""

    def __init__(self, url: str) -> None:
        """Connect to nothing yet.

        Raises:
            Unusable: the address is none of ours, or its driver is not installed.
        """
        parsed = _parsed(url)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        self.where = str(parsed.database) if self.sqlite else f"{parsed.host}:{parsed.port or 5432}/{parsed.database}"
        self._engine: _Sqlite | _Postgresql = _Sqlite(parsed) if self.sqlite else _Postgresql(parsed)
        self._checked = False

    def __str__(self) -> str:
        return f"{'SQLite' if self.sqlite else 'PostgreSQL'} {self.where}"

    async def run(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Have something done in a transaction.

        Args:
            work: what.
            durable: it survives a crash of the machine once this returns. If not, SQLite does not wait for the disk: it
                survives that with the next one that does, and a crash of this process anyway.

        Raises:
            StoreDown: the database is out of reach, or was lost on the way: then nobody knows whether it was committed.
            Conflict: another transaction was in the way.
            WrongSchema: it is another version's.
        """
        if not self._checked:
            await self.unchecked(self._check)
            self._checked = True
        return await self.unchecked(work, durable=durable)

    async def unchecked(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """The same, whatever the schema."""
        try:
            return await self._engine.run(work, durable=durable)
        except (SQLAlchemyError, OSError) as error:
            state = str(getattr(getattr(error, "orig", None), "sqlstate", ""))
            if state in _CONFLICTS:
                raise Conflict(_reason(error)) from error
            wrongly = isinstance(error, DataError | IntegrityError | ProgrammingError) or state[:2] in _ASKED_WRONGLY
            if wrongly and state not in _ASTRAY:
                raise
            kind = ConnectionLost if isinstance(error, DBAPIError) and error.connection_invalidated else StoreDown
            raise kind(f"The store ({self}) cannot be used: {_reason(error)}") from error
        except Exception as error:
            # Drivers raise errors of their own while connecting, which SQLAlchemy passes on as they are.
            if type(error).__module__.split(".")[0] not in {"asyncpg", "sqlite3"}:
                raise
            raise StoreDown(f"The store ({self}) cannot be used: {_reason(error)}") from error

    async def close(self) -> None:
        """Hang up."""
        await self._engine.close()

    def _check(self, connection: Connection) -> None:
        """See that the tables are this version's; make them where there are none, and bring SQLite's up to date."""
        found = migrating.revision(connection)
        if found == REVISION:
            return
        if found is None or (self.sqlite and found < REVISION):
            migrating.upgrade(connection)
        elif found < REVISION:
            raise WrongSchema(
                f"The store ({self}) has the tables of an older version ({found}; this one needs {REVISION}). "
                "Stop all workers, make a backup, then run: postlane store migrate"
            )
        else:
            raise WrongSchema(
                f"The store ({self}) has the tables of a newer version ({found}; this one knows {REVISION}). "
                "Run the newer version, or go back to the backup made before its migration."
            )


class _Sqlite:
    """One connection in a thread of its own: a transaction is one trip there and back."""

    def __init__(self, url: URL) -> None:
        directory = Path(str(url.database)).parent
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise Unusable(
                f"store.url: the directory {directory} cannot be made: {error.strerror}. Make it for the user that "
                "runs the worker, or set POSTLANE_STORE__URL to a file in another one."
            ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        # Without an isolation level the driver leaves transactions to us.
        arguments = {"isolation_level": None, "timeout": _BUSY, "check_same_thread": False}
        self._engine = create_engine(url, connect_args=arguments, poolclass=StaticPool)
        event.listen(self._engine, "connect", _write_ahead)
        event.listen(self._engine, "begin", self._begin)
        self._durable = True

    async def run(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work, durable)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()

    def _run(self, work: Callable[[Connection], T], durable: bool) -> T:  # noqa: FBT001 - an executor passes no names
        self._durable = durable
        with self._engine.begin() as connection:
            return work(connection)

    def _begin(self, connection: Connection) -> None:
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        # In this order: within a transaction the pragma would do nothing.
        driver.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        # A transaction that reads first and then writes could be refused half-way.
        driver.execute("BEGIN IMMEDIATE")


def _write_ahead(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


class _Postgresql:
    def __init__(self, url: URL) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - brings the ORM, which SQLite need not

        arguments = {
            "timeout": _PATIENCE / 2,
            "command_timeout": _PATIENCE,
            "server_settings": {"application_name": "postlane", "jit": "off"},
        }
        try:
            self._engine = create_async_engine(url, pool_size=2, max_overflow=2, connect_args=arguments)
        except ModuleNotFoundError:
            raise Unusable("store.url names PostgreSQL, which needs: pip install 'postlane[postgres]'") from None

    async def run(self, work: Callable[[Connection], T], *, durable: bool) -> T:
        del durable  # all of its transactions wait for the disk, several of them at once
        async with asyncio.timeout(_PATIENCE), self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


class ConnectionLost(StoreDown):
    """It was there a moment ago; perhaps it is still there, and only this connection is gone."""


class Conflict(Exception):  # noqa: N818 - what happened
    """Another transaction stood in the way of this one; nothing of it was done."""


class WrongSchema(Unusable):
    """The database belongs to another version of this program."""


async def migrate(database: Database) -> None:
    """Bring the tables to the newest form; does nothing if they are."""
    await database.unchecked(migrating.upgrade)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise Unusable(f"store.url is no address of a database. Write {_FORMS}") from None
    match parsed.drivername:
        case "sqlite" if parsed.database:
            path = Path(parsed.database).expanduser().absolute()
            return parsed.set(database=str(path))
        case "postgresql" | "postgres" | "postgresql+asyncpg" if parsed.database:
            return parsed.set(drivername="postgresql+asyncpg")
        case other:
            raise Unusable(f"store.url begins with {other}: and is not complete, or unknown. Write {_FORMS}")


_HINTS = (
    ("disk is full|No space left", "the disk is full; nothing is sent until there is room"),
    ("database is locked", "another process has kept it locked for too long"),
    ("unable to open|readonly|read-only", "it cannot be written to; see whose it is, and its directory"),
    ("Connect call failed|Connection refused", "nobody listens there"),
    ("password authentication failed|no password supplied", "it refuses this login; see store.url"),
    ('database ".*" does not exist', "there is no such database; make it with createdb"),
)


def _reason(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(cause, TimeoutError):
        return f"it has not answered for {_PATIENCE:g} s."
    said = re.sub(r"^<class '.*?'>: ", "", str(cause)).strip().split("\n")[0] or type(cause).__name__
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, said, re.IGNORECASE)), None)
    return f"{hint} ({said})." if hint else f"{said}."
