"""A store that is out of reach, full, or of another version: nothing is lost, and a person reads what is wrong."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from tests.adapters.store.conftest import Backend, address
from tests.adapters.store.test_ledger import ACCEPTED, DEFERRED, FIRST, FURTHER, KEY, claimed, in_state, shown
from tests.factories import NOON
from tests.postgres import Cluster, PostgresMissing
from tests.postgres import postgres as postgresql
from worker.domain.delivery import Key
from worker.ports import Claimed, Settlement, Store, StoreDown
from worker.store import migrating
from worker.store.database import Database, WrongSchema
from worker.store.inventory import inventory, migrated
from worker.store.opening import opened
from worker.store.schema import REVISION, metadata
from worker.unusable import Unusable

SECRET = "s3cr3t-w0rd"


@pytest.fixture
def mortal() -> Iterator[Cluster]:
    """A PostgreSQL that a test may kill."""
    try:
        with postgresql(syncs=False) as running:
            yield running
    except PostgresMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


async def test_settlement_waits_until_a_killed_database_is_back(mortal: Cluster) -> None:
    async with opened(mortal.url) as found:
        store = found.books
        claim = await claimed(store)
        assert await store.handing_over(claim)
        mortal.kill()
        settling = asyncio.create_task(store.settle(claim, Settlement(FURTHER, (ACCEPTED,))))
        with pytest.raises(StoreDown):
            await store.claim(Key("contoso", "other"), "d", FIRST, NOON)
        assert not settling.done()
        mortal.start()
        assert await asyncio.wait_for(settling, 30) == (ACCEPTED,)
        assert shown(await store.claim(KEY, "d", FIRST, NOON)) == "finished accepted"


async def test_old_connections_to_a_restarted_database_fail_nobody(mortal: Cluster) -> None:
    async with opened(mortal.url) as found:
        store = found.books
        claim = await claimed(store)
        mortal.kill()
        mortal.start()
        assert await store.handing_over(claim)


async def test_confirmations_wait_for_a_killed_database_too(mortal: Cluster) -> None:
    async with opened(mortal.url) as found:
        store = found.books
        await in_state(store, "finished")
        mortal.kill()
        await store.published(KEY, (DEFERRED, ACCEPTED), disposed=True)
        with pytest.raises(StoreDown):
            await store.ready()
        mortal.start()
        async with asyncio.timeout(30):
            while shown(await patiently(store)) != "finished accepted told":
                pass


async def patiently(store: Store) -> object:
    try:
        return await store.claim(KEY, "d", FIRST, NOON)
    except StoreDown:
        return None


async def test_cancelled_settlement_is_given_up(mortal: Cluster) -> None:
    async with opened(mortal.url) as found:
        store = found.books
        claim = await claimed(store)
        mortal.kill()
        settling = asyncio.create_task(store.settle(claim, Settlement(FURTHER, (ACCEPTED,))))
        with pytest.raises(StoreDown):
            await store.ready()
        settling.cancel()
        mortal.start()
        async with asyncio.timeout(30):
            while (answer := await patiently(store)) is None:
                pass
        assert shown(answer) == "claimed 0"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://postlane:{SECRET}@127.0.0.1:1/postlane", "nobody listens there"),
        (f"postgresql://postlane:{SECRET}@nowhere.invalid/postlane", "nowhere.invalid:5432/postlane"),
        ("sqlite:////proc/postlane/store.sqlite3", "cannot be made"),
        ("sqlite:////proc/store.sqlite3", "it cannot be written to"),
        (f"mysql://postlane:{SECRET}@localhost/postlane", "begins with mysql:"),
        (f"not an address {SECRET}", "is no address of a database"),
        ("sqlite://", "begins with sqlite: and is not complete"),
    ],
    ids=["refused", "no-such-host", "no-directory", "no-file", "other-kind", "nonsense", "no-name"],
)
async def test_store_that_cannot_be_used_says_why_and_no_password(url: str, said: str) -> None:
    with pytest.raises((StoreDown, Unusable)) as caught:
        async with opened(url) as found:
            await found.books.ready()
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_database_that_is_missing_is_named(postgres: Cluster) -> None:
    async with opened(address(postgres, "nothing_here")) as found:
        with pytest.raises(StoreDown, match="there is no such database; make it with createdb"):
            await found.books.ready()


async def test_full_disk_stops_claims_with_clear_words_and_settles_when_there_is_room(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        backend = Backend("sqlite", f"sqlite:///{tmp_path / 'store.sqlite3'}", stack)
        store = await backend.worker()
        claim = await claimed(store)
        assert await store.handing_over(claim)
        ((pages,),) = await backend.sql("PRAGMA page_count")
        await backend.sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreDown, match="the disk is full; nothing is sent until there is room"):
            await claim_many(store, "n")
        long = ACCEPTED.model_copy(update={"server_reply": "250 " + "x" * 100_000})
        settling = asyncio.create_task(store.settle(claim, Settlement(FURTHER, (long,))))
        with pytest.raises(StoreDown):
            await claim_many(store, "m")
        assert not settling.done()
        await backend.sql("PRAGMA max_page_count = 1000000")
        assert await asyncio.wait_for(settling, 30) == (long,)
        assert isinstance(await store.claim(Key("contoso", "another"), "d", FIRST, NOON), Claimed)


async def claim_many(store: Store, name: str) -> None:
    for number in range(1000):
        await store.claim(Key("contoso", f"{name}-{number}"), "d" * 64, FIRST, NOON)


async def test_file_locked_by_somebody_else_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    async with opened(f"sqlite:///{path}") as found:
        store = found.books
        await store.ready()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asking = asyncio.create_task(store.claim(KEY, "d", FIRST, NOON))
            await asyncio.sleep(0)
            other.execute("COMMIT")
            assert isinstance(await asking, Claimed)


async def test_what_one_asks_wrongly_fails_none_of_its_neighbours(durable: Backend) -> None:
    store = await durable.worker()
    impossible = Key("contoso", "x" + "\udcff")
    keys = [Key("contoso", f"n-{number}") for number in range(5)]
    asked = [store.claim(key, "d", FIRST, NOON) for key in (*keys[:2], impossible, *keys[2:])]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers.pop(2), Exception)
    assert [shown(answer) for answer in answers] == ["claimed 0"] * 5


# schema


async def test_tables_made_by_the_migrations_are_those_that_the_program_works_with(durable: Backend) -> None:
    store = await durable.worker()
    await store.ready()

    def columns(connection: object) -> dict[str, dict[str, tuple[str, bool]]]:
        found = inspect(connection)
        return {
            name: {each["name"]: (str(each["type"]), each["nullable"]) for each in found.get_columns(name)}
            | {index["name"]: index["column_names"] for index in found.get_indexes(name)}
            for name in metadata.tables
        }

    made = await store._database.unchecked(columns)
    await store._database.unchecked(metadata.drop_all)
    await store._database.unchecked(metadata.create_all)
    assert await store._database.unchecked(columns) == made


def test_newest_migration_is_the_one_that_the_program_knows() -> None:
    assert ScriptDirectory(str(migrating.MIGRATIONS)).get_current_head() == REVISION


async def test_workers_that_start_together_on_an_empty_database_all_find_their_tables(durable: Backend) -> None:
    stores = [await durable.worker() for _ in range(4)]
    await asyncio.gather(*(store.ready() for store in stores))


@pytest.mark.parametrize(("found", "said"), [("9999", "newer version"), ("0000", "postlane store migrate")])
async def test_tables_of_another_version_are_refused(database: str, found: str, said: str) -> None:
    async with AsyncExitStack() as stack:
        backend = Backend("postgresql", database, stack)
        await (await backend.worker()).ready()
        await backend.sql("UPDATE alembic_version SET version_num = :found", found=found)
        with pytest.raises(WrongSchema, match=said):
            await (await backend.worker()).ready()


async def test_sqlite_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        backend = Backend("sqlite", f"sqlite:///{tmp_path / 'store.sqlite3'}", stack)
        await (await backend.worker()).ready()
        await backend.sql("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(WrongSchema, match="newer version"):
            await (await backend.worker()).ready()


async def test_migrating_says_what_was_done_and_does_it_once(durable: Backend) -> None:
    assert (await migrated(durable.url)).endswith(f"the tables are at {REVISION} now.")
    assert "nothing to do" in await migrated(durable.url)


async def test_inventory_counts_what_is_there(durable: Backend) -> None:
    before = await inventory(durable.url, 15)
    assert before["tables"] == f"none (this version needs {REVISION})"
    store = await durable.worker()
    await in_state(store, "in doubt")
    await claimed(store, Key("contoso", "n"))
    found = await inventory(durable.url, 15)
    names = ("being_sent", "finished", "waiting", "open_doubts", "unpublished", "workers_alive")
    assert [found[name] for name in names] == [1, 1, 0, 1, 1, 1]


def test_file_survives_a_power_cut_as_far_as_sqlite_can_promise(tmp_path: Path) -> None:
    """WAL with synchronous=FULL: a committed transaction is on the disk."""

    async def modes() -> tuple[object, object]:
        async with AsyncExitStack() as stack:
            backend = Backend("sqlite", f"sqlite:///{tmp_path / 'store.sqlite3'}", stack)
            await (await backend.worker()).ready()
            return (await backend.sql("PRAGMA journal_mode"))[0][0], (await backend.sql("PRAGMA synchronous"))[0][0]

    assert asyncio.run(modes()) == ("wal", 2)
    with create_engine(f"sqlite:///{tmp_path / 'store.sqlite3'}").connect() as connection:
        assert inspect(connection).has_table("notification")


@pytest.mark.parametrize(("durable", "synchronous"), [(True, "FULL"), (False, "NORMAL")])
async def test_sqlite_waits_for_the_disk_unless_another_transaction_will(
    tmp_path: Path, *, durable: bool, synchronous: str
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    for waits in (not durable, durable):
        found = await database.run(lambda each: each.exec_driver_sql("PRAGMA synchronous").scalar(), durable=waits)
    await database.close()
    assert ("OFF", "NORMAL", "FULL")[found] == synchronous
