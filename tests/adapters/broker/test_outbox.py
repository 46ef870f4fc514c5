"""Results on record: struck off once the broker has confirmed them, published by others where their worker died."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.delivery import DeliveryStatus, Result
from tests.adapters.broker.stage import Desk, Post, done, serving
from tests.factories import result
from tests.neighbours import PATIENCE, Inbox
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Acknowledge, Decision
from worker.domain.delivery import Key
from worker.events import Relayed, StoreLost
from worker.ports import StoreDown, Unpublished

KEY = Key("contoso", "reset-7f3a")
DEFERRED = result(DeliveryStatus.DEFERRED)
ACCEPTED = result()


@dataclass
class Shelf:
    """An outbox with something in it.

    Attributes:
        left: what a worker that died has left behind.
        struck: what was struck off, and whether the message was disposed of.
        down: how often it is out of reach before it answers.
    """

    left: list[Unpublished] = field(default_factory=list)
    struck: list[tuple[str, bool]] = field(default_factory=list)
    down: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def ready(self) -> None:
        if self.down:
            self.down -= 1
            raise StoreDown("the database does not answer")

    async def published(self, key: Key, results: Sequence[Result], *, disposed: bool) -> None:
        assert key == KEY
        self.struck += [(item.event_id, disposed) for item in results]
        self.news.set()

    async def unpublished(self) -> Sequence[Unpublished]:
        left, self.left = self.left, []
        return left


async def nothing(_: Intake) -> Decision:
    return Decision((), Acknowledge())


async def test_results_left_behind_are_published_in_order_and_struck_off(
    address: BrokerAddress, topology: Topology, inbox: Inbox
) -> None:
    shelf = Shelf([Unpublished(KEY, DEFERRED, None), Unpublished(KEY, ACCEPTED, None)])
    async with serving(address, topology, nothing, outbox=shelf) as served:
        await served.events.until(Relayed, count=2)
        await inbox.until(lambda results: len(results) == 2)
    assert inbox.results == [DEFERRED, ACCEPTED]
    assert shelf.struck == [(DEFERRED.event_id, False), (ACCEPTED.event_id, False)]


async def test_confirmed_result_is_struck_off_with_its_message(
    address: BrokerAddress, topology: Topology, inbox: Inbox, post: Post
) -> None:
    async def accept(_: Intake) -> Decision:
        return Decision((ACCEPTED,), Acknowledge(), key=KEY)

    shelf = Shelf()
    async with serving(address, topology, accept, outbox=shelf):
        await post("n-1")
        async with asyncio.timeout(PATIENCE):
            await shelf.news.wait()
    assert inbox.results == [ACCEPTED]
    assert shelf.struck == [(ACCEPTED.event_id, True)]


async def test_without_a_store_nothing_is_taken_and_it_is_said_until_the_store_is_back(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desk = Desk(done)
    shelf = Shelf(down=2)
    await post("n-1")
    async with serving(address, topology, desk, outbox=shelf, wait=False) as served:
        await served.events.until(StoreLost, count=2)
        assert desk.ids == []
        await desk.asked()


async def test_store_that_is_lost_in_the_middle_gives_the_message_back_to_the_broker(
    address: BrokerAddress, topology: Topology, inbox: Inbox, post: Post
) -> None:
    tries = 0

    async def once_without_a_store(_: Intake) -> Decision:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreDown("the database does not answer")
        return Decision((ACCEPTED,), Acknowledge(), key=KEY)

    async with serving(address, topology, once_without_a_store, outbox=Shelf()):
        await post("n-1")
        await inbox.until(lambda results: len(results) == 1)
    assert tries == 2
