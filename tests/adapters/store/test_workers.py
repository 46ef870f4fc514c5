"""Several workers on one store: one of them at a time, and what follows when one dies, or comes back as a zombie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest
from sqlalchemy import Connection

from contracts.delivery import DeliveryStatus
from tests.adapters.store.conftest import Backend
from tests.adapters.store.test_ledger import (
    ACCEPTED,
    DEFERRED,
    FIRST,
    FURTHER,
    IN_DOUBT,
    KEY,
    REJECTED,
    RESOLVED,
    claimed,
    in_state,
    shown,
)
from tests.factories import JANA, NOON, OMAR, result
from worker.domain.delivery import Key
from worker.ports import Claimed, Doubtful, Settlement, StoreDown, Unpublished
from worker.store.database import Database
from worker.store.ledger import SqlLedger
from worker.store.life import Life

T = TypeVar("T")


async def test_one_of_two_workers_gets_the_claim_however_often_both_ask(durable: Backend) -> None:
    one, two = await durable.worker(), await durable.worker()
    answers = await asyncio.gather(*(store.claim(KEY, "d", FIRST, NOON) for _ in range(50) for store in (one, two)))
    assert sorted(map(shown, answers)) == ["claimed 0", *["underway"] * 99]


async def test_two_workers_that_work_on_the_same_keys_never_stand_in_each_others_way(durable: Backend) -> None:
    stores = [await durable.worker() for _ in range(3)]

    async def one(number: int) -> int:
        done = 0
        for store in stores[number % 3 :] + stores[: number % 3]:
            answer = await store.claim(Key("contoso", f"n-{number % 40}"), "d", FIRST, NOON)
            if isinstance(answer, Claimed) and await store.handing_over(answer):
                assert await store.settle(answer, Settlement(FURTHER, (ACCEPTED,))) is not None
                done += 1
        return done

    assert sum(await asyncio.gather(*(one(number) for number in range(240)))) == 40


# state that a dead worker has left behind → claim, recall, reopen by another
LEFT_BEHIND = {
    "claimed": ("claimed 0", "recalled -", "True"),
    "unwanted": ("claimed 0", "recalled -", "True"),
    "claimed again": ("claimed 2", "recalled -", "True"),
    "marked": ("doubtful", "underway", "False"),
    "waiting": ("waiting 1:00:00", "recalled deferred", "True"),
    "due": ("claimed 2", "recalled deferred", "True"),
    "finished": ("finished deferred+accepted", "finished deferred+accepted", "True"),
    "rejected": ("claimed 0", "recalled -", "True"),
    "cancelled unseen": ("claimed 0", "recalled -", "True"),
}


@pytest.mark.parametrize("operation", ["claim", "recall", "reopen"])
@pytest.mark.parametrize("state", LEFT_BEHIND, ids=[state.replace(" ", "-") for state in LEFT_BEHIND])
async def test_what_a_dead_worker_left_behind_is_taken_over_or_doubted(
    durable: Backend, state: str, operation: str
) -> None:
    dead, heir = await durable.worker(), await durable.worker()
    await in_state(dead, state)
    await durable.fall_silent(dead)
    answer: object = None
    match operation:
        case "claim":
            answer = await heir.claim(KEY, "d", FIRST, NOON)
        case "recall":
            answer = await heir.recall(KEY, NOON)
        case "reopen":
            answer = await heir.reopen(KEY, "d", FURTHER, "somebody")
    assert shown(answer) == LEFT_BEHIND[state][("claim", "recall", "reopen").index(operation)]


async def test_what_a_living_worker_is_at_work_on_is_left_alone(durable: Backend) -> None:
    one, two = await durable.worker(), await durable.worker()
    claim = await claimed(one)
    assert shown(await two.claim(KEY, "d", FIRST, NOON)) == "underway"
    assert await one.handing_over(claim)
    assert shown(await two.claim(KEY, "d", FIRST, NOON)) == "underway"
    assert shown(await two.recall(KEY, NOON)) == "underway"


async def test_worker_that_ends_in_an_orderly_way_is_dead_at_once(durable: Backend) -> None:
    two = await durable.worker()
    async with durable.stack.__class__() as stack:
        short = Backend(durable.kind, durable.url, stack)
        await claimed(await short.worker())
    assert shown(await two.claim(KEY, "d", FIRST, NOON)) == "claimed 0"


async def test_zombie_can_neither_hand_over_nor_settle_what_was_taken_over(durable: Backend) -> None:
    zombie, heir = await durable.worker(), await durable.worker()
    claim = await claimed(zombie)
    await durable.fall_silent(zombie)
    mine = await claimed(heir)
    await durable.wake_up(zombie)
    assert not await zombie.handing_over(claim)
    assert await zombie.settle(claim, Settlement(FURTHER, (REJECTED,))) is None
    assert await heir.handing_over(mine)
    assert shown(await heir.settle(mine, Settlement(FURTHER, (ACCEPTED,)))) == "accepted"


async def test_zombie_that_nobody_has_replaced_says_that_it_lives_and_goes_on(durable: Backend) -> None:
    zombie, other = await durable.worker(), await durable.worker()
    claim = await claimed(zombie)
    await durable.fall_silent(zombie)
    await durable.wake_up(zombie)
    assert await zombie.handing_over(claim)
    assert shown(await other.claim(KEY, "d", FIRST, NOON)) == "underway"


async def test_zombie_that_was_handing_over_learns_that_a_doubt_was_told_in_its_place(durable: Backend) -> None:
    zombie, heir = await durable.worker(), await durable.worker()
    claim = await claimed(zombie)
    assert await zombie.handing_over(claim)
    await durable.fall_silent(zombie)
    doubtful = await heir.claim(KEY, "d", FIRST, NOON)
    assert isinstance(doubtful, Doubtful)
    await heir.settle(doubtful.claimed, Settlement(FURTHER, (IN_DOUBT,)))
    await durable.wake_up(zombie)
    assert await zombie.settle(claim, Settlement(FURTHER, (ACCEPTED,))) is None
    assert await zombie.resolve(KEY, RESOLVED, None, "worker")
    assert await heir.find(KEY) == RESOLVED


async def test_doubt_stays_a_doubt_when_its_heir_dies_too(durable: Backend) -> None:
    dead, heir, last = await durable.worker(), await durable.worker(), await durable.worker()
    assert await dead.handing_over(await claimed(dead))
    await durable.fall_silent(dead)
    assert shown(await heir.claim(KEY, "d", FIRST, NOON)) == "doubtful"
    await durable.fall_silent(heir)
    assert shown(await last.claim(KEY, "d", FIRST, NOON)) == "doubtful"


async def test_doubtful_claim_may_be_handed_over_if_the_producer_does_not_mind(durable: Backend) -> None:
    dead, heir = await durable.worker(), await durable.worker()
    assert await dead.handing_over(await claimed(dead))
    await durable.fall_silent(dead)
    doubtful = await heir.claim(KEY, "d", FIRST, NOON)
    assert isinstance(doubtful, Doubtful)
    assert await heir.handing_over(doubtful.claimed)
    assert shown(await heir.settle(doubtful.claimed, Settlement(FURTHER, (ACCEPTED,)))) == "accepted"


async def test_claim_that_nobody_was_there_to_receive_can_be_taken_again(durable: Backend) -> None:
    """A caller that was cancelled will never settle; its own process must not block the notification until it ends."""
    store = await durable.worker()
    asking = asyncio.create_task(store.claim(KEY, "d", FIRST, NOON))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert shown(await store.claim(KEY, "d", FIRST, NOON)) == "claimed 0"


# outbox


async def test_results_of_a_living_publisher_are_left_to_it(durable: Backend) -> None:
    one, two = await durable.worker(), await durable.worker()
    await in_state(one, "finished")
    assert await two.unpublished() == []


async def test_results_of_a_dead_publisher_are_taken_by_one_in_order(durable: Backend) -> None:
    one, two, three = await durable.worker(), await durable.worker(), await durable.worker()
    await one.settle(await claimed(one), Settlement(FURTHER, (DEFERRED,), NOON, "replies"))
    await one.settle(await claimed(one), Settlement(FURTHER, (ACCEPTED,)))
    await durable.fall_silent(one)
    assert await two.unpublished() == [Unpublished(KEY, DEFERRED, "replies"), Unpublished(KEY, ACCEPTED, None)]
    assert await three.unpublished() == []
    await two.published(KEY, (DEFERRED, ACCEPTED), disposed=False)
    assert await two.unpublished() == []


async def test_result_whose_second_publisher_died_as_well_is_taken_by_a_third(durable: Backend) -> None:
    one, two, three = await durable.worker(), await durable.worker(), await durable.worker()
    await in_state(one, "finished")
    await durable.fall_silent(one)
    assert await two.unpublished()
    await durable.fall_silent(two)
    assert [each.result for each in await three.unpublished()] == [DEFERRED, ACCEPTED]


async def test_result_that_its_publisher_has_not_got_rid_of_in_time_is_anybodys(durable: Backend) -> None:
    one, two = await durable.worker(), await durable.worker()
    await in_state(one, "finished")
    await durable.sql("UPDATE notification SET due_at = due_at - 10000001")
    assert len(await two.unpublished()) == 2


async def test_result_of_a_person_is_published_by_anybody_at_once(durable: Backend) -> None:
    one, two = await durable.worker(), await durable.worker()
    await in_state(one, "in doubt")
    await one.published(KEY, (IN_DOUBT,), disposed=True)
    assert await one.resolve(KEY, RESOLVED, "replies", "somebody")
    assert await two.unpublished() == [Unpublished(KEY, RESOLVED, "replies")]


async def test_result_of_a_rejected_notification_outlives_it_until_it_is_published(durable: Backend) -> None:
    one, two = await durable.worker(), await durable.worker()
    await in_state(one, "rejected")
    await durable.fall_silent(one)
    assert [each.result for each in await two.unpublished()] == [REJECTED]
    assert await durable.sql("SELECT count(*) FROM notification") == [(1,)]
    await two.published(KEY, (REJECTED,), disposed=True)
    await two.ready()
    assert await durable.sql("SELECT count(*) FROM notification") == [(0,)]


async def test_result_that_is_still_to_be_told_survives_a_replay(durable: Backend) -> None:
    one, two = await durable.worker(), await durable.worker()
    await in_state(one, "finished")
    assert await one.reopen(KEY, "d", FURTHER, "somebody")
    await durable.fall_silent(one)
    assert [each.result for each in await two.unpublished()] == [DEFERRED, ACCEPTED]


async def test_confirmations_are_written_before_a_store_is_closed(durable: Backend) -> None:
    two = await durable.worker()
    async with durable.stack.__class__() as stack:
        one = await Backend(durable.kind, durable.url, stack).worker()
        await in_state(one, "told")
    assert shown(await two.claim(KEY, "d", FIRST, NOON)) == "finished accepted told"
    assert await two.unpublished() == []


# audit trail and retention


async def test_every_change_by_a_person_leaves_a_line(durable: Backend) -> None:
    store = await durable.worker()
    await in_state(store, "in doubt")
    assert await store.resolve(KEY, RESOLVED, None, "anna@desk")
    assert not await store.resolve(KEY, RESOLVED, None, "anna@desk")
    assert await store.reopen(KEY, "d", FURTHER, "otto@desk")
    await store.note("otto@desk", "discard", "contoso/x", "expired")
    lines = await durable.sql("SELECT actor, action, subject, detail FROM audit ORDER BY number")
    assert [tuple(line) for line in lines] == [
        ("anna@desk", "resolve", str(KEY), "resolved"),
        ("otto@desk", "replay", str(KEY), ""),
        ("otto@desk", "discard", "contoso/x", "expired"),
    ]


async def test_what_is_finished_told_and_old_is_forgotten_and_nothing_else(durable: Backend) -> None:
    store = await durable.worker(retention=timedelta(days=7))
    for number, status in enumerate((DeliveryStatus.ACCEPTED, DeliveryStatus.ACCEPTED, DeliveryStatus.IN_DOUBT)):
        key, final = Key("contoso", f"n-{number}"), result(status, event_id=f"e-{number}")
        await store.settle(await claimed(store, key), Settlement(FURTHER, (final,)))
        if number != 1:
            await store.published(key, (final,), disposed=True)
    await claimed(store, Key("contoso", "n-3"))
    await store.settle(await claimed(store, Key("contoso", "n-4")), Settlement(FURTHER))
    await store.ready()
    assert await store.swept() == 0
    await durable.sql("UPDATE notification SET finished_at = finished_at - 604800000001")
    assert await store.swept() == 1
    rows = await durable.sql("SELECT id FROM notification ORDER BY id")
    assert [row[0] for row in rows] == ["n-1", "n-2", "n-3", "n-4"]


async def test_mark_of_a_part_says_whose_it_was(durable: Backend) -> None:
    dead, heir = await durable.worker(), await durable.worker()
    claim = await claimed(dead)
    part = replace(claim.progress, handed=frozenset({JANA}))
    assert await dead.handing_over(replace(claim, progress=part))
    await durable.fall_silent(dead)
    doubtful = await heir.claim(KEY, "d", FIRST, NOON)
    assert isinstance(doubtful, Doubtful)
    assert doubtful.claimed.progress.handed == {JANA}


async def test_mark_of_the_next_part_replaces_the_one_before_it(durable: Backend) -> None:
    dead, heir, last = await durable.worker(), await durable.worker(), await durable.worker()
    claim = await claimed(dead)
    assert await dead.handing_over(replace(claim, progress=replace(claim.progress, handed=frozenset({JANA}))))
    await durable.fall_silent(dead)
    doubtful = await heir.claim(KEY, "d", FIRST, NOON)
    assert isinstance(doubtful, Doubtful)
    further = replace(doubtful.claimed.progress, handed=frozenset({OMAR}))
    assert await heir.handing_over(replace(doubtful.claimed, progress=further))
    await durable.fall_silent(heir)
    found = await last.claim(KEY, "d", FIRST, NOON)
    assert isinstance(found, Doubtful)
    assert found.claimed.progress.handed == {OMAR}


# answers that are lost


class Forgetful(Database):
    """What it does is done, and nobody hears of it: the server died after the commit, or was too slow for us."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lost = True
        self.written = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()

    async def run(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        answer = await super().run(work, durable=durable)
        self.written.set()
        await self.answering.wait()
        if self.lost:
            raise StoreDown("the line is cut")
        return answer


@asynccontextmanager
async def forgetting(url: str) -> AsyncIterator[tuple[SqlLedger, Forgetful]]:
    database = Forgetful(url)
    life = Life(database, "forgetful", 15)
    store = SqlLedger(database, life, timedelta(days=1))
    try:
        yield store, database
    finally:
        database.lost = False
        await store.close()
        await life.close()
        await database.close()


async def test_claim_whose_answer_was_lost_is_anybodys_when_the_store_is_back(durable: Backend) -> None:
    other = await durable.worker()
    async with forgetting(durable.url) as (store, database):
        with pytest.raises(StoreDown):
            await store.claim(KEY, "d", FIRST, NOON)
        assert shown(await other.claim(KEY, "d", FIRST, NOON)) == "underway"
        database.lost = False
        await store.ready()
        assert shown(await other.claim(KEY, "d", FIRST, NOON)) == "claimed 0"
        await store.ready()
        assert shown(await store.claim(KEY, "d", FIRST, NOON)) == "underway", "the other one works on it"


async def test_claim_that_was_given_up_while_it_was_written_is_anybodys(durable: Backend) -> None:
    other = await durable.worker()
    async with forgetting(durable.url) as (store, database):
        database.lost = False
        database.answering.clear()
        claiming = asyncio.create_task(store.claim(KEY, "d", FIRST, NOON))
        await database.written.wait()
        assert shown(await other.claim(KEY, "d", FIRST, NOON)) == "underway"
        claiming.cancel()
        await asyncio.wait((claiming,))
        database.answering.set()
        await store.ready()
        assert shown(await other.claim(KEY, "d", FIRST, NOON)) == "claimed 0"


async def test_mark_whose_claim_was_lost_is_a_doubt_for_whoever_comes_next(durable: Backend) -> None:
    one, other = await durable.worker(), await durable.worker()
    assert await one.handing_over(await claimed(one))
    await durable.fall_silent(one)
    async with forgetting(durable.url) as (store, database):
        with pytest.raises(StoreDown):
            await store.claim(KEY, "d", FIRST, NOON)
        database.lost = False
        await store.ready()
        assert isinstance(await other.claim(KEY, "d", FIRST, NOON), Doubtful)
