"""That this process lives, and that others do: one row each, renewed as long as the database hears of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from worker.ports import StoreDown
from worker.store.database import Database
from worker.store.schema import database_now, worker

_SECOND = 1_000_000  # microseconds


class Life:
    """A process's sign of life. What it holds is as good as the sign is young."""

    def __init__(self, database: Database, name: str, lease: float) -> None:
        """Say nothing yet.

        Args:
            database: where it is said.
            name: of this worker, for people.
            lease: seconds after which a worker that has said nothing is taken for dead.
        """
        self.me = uuid.uuid4().hex
        self.lease = lease
        self._database = database
        self._renewed = float("-inf")
        self._said = False
        dialect = sqlite if database.sqlite else postgresql
        row = dialect.insert(worker).values(instance=self.me, name=name[:100], seen_at=database_now())
        self._renew = row.on_conflict_do_update(index_elements=["instance"], set_={"seen_at": database_now()})

    def due(self) -> None:
        """Have the next transaction say it, whenever it was said last."""
        self._renewed = float("-inf")

    def keep(self, connection: Connection) -> None:
        """Say it, if it was not said just now: every transaction that takes something does."""
        if time.monotonic() - self._renewed > self.lease / 5:
            self.say(connection)

    def say(self, connection: Connection) -> None:
        """Say it."""
        begun = time.monotonic()
        connection.execute(self._renew)
        self._renewed, self._said = begun, True

    def deadline(self) -> Any:
        """Who was last heard of before it is dead, in the database's time."""
        return database_now() - int(self.lease * _SECOND)

    def ends(self, connection: Connection, owners: Iterable[str], now: int) -> dict[str, int]:
        """When each of them was dead, in microseconds; who lives is left out. Ask when their rows are locked."""
        others = set(owners) - {self.me}
        if not others:
            return {}
        known = select(worker.c.instance, worker.c.seen_at).where(worker.c.instance.in_(others))
        lapses = {row.instance: row.seen_at + int(self.lease * _SECOND) for row in connection.execute(known)}
        return {owner: min(lapses.get(owner, now), now) for owner in others if lapses.get(owner, now) <= now}

    async def close(self) -> None:
        """Die in an orderly way: what is still held is anybody's at once."""
        if not self._said:
            return
        gone = delete(worker).where(worker.c.instance == self.me)
        try:
            await self._database.run(lambda connection: connection.execute(gone))
        except StoreDown:
            return  # then it dies by its lease
