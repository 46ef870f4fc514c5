"""What `topology apply` makes, and that messages take the ways that it promises."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity, PublishError

from contracts.channels import notification_key
from tests.adapters.broker.stage import (
    Desk,
    Post,
    channel_on,
    forgotten,
    posting,
    serving,
    taken,
    until_ready,
    waiting_in,
)
from tests.neighbours import PATIENCE
from worker.broker import apply as topologies
from worker.broker.apply import TopologyDiffers
from worker.broker.connection import BrokerAddress
from worker.broker.definitions import definitions
from worker.broker.topology import Topology, preference


@pytest.fixture
async def wide(address: BrokerAddress) -> AsyncIterator[Topology]:
    """Eight lanes."""
    made = await topologies.apply(address, Topology(f"test-{uuid.uuid4().hex[:8]}", lanes=8))
    yield made
    await topologies.remove(address, made)


@pytest.fixture
async def unused(address: BrokerAddress) -> AsyncIterator[Topology]:
    """A topology that is not there yet; whatever the test makes of it is removed."""
    planned = Topology(f"test-{uuid.uuid4().hex[:8]}", lanes=2)
    yield planned
    await topologies.remove(address, planned)


async def lanes_taken(
    address: BrokerAddress, topology: Topology, publish: Callable[[], Any], count: int
) -> list[tuple[str, str]]:
    """Tenant and lane of each of so many messages."""
    found: list[tuple[str, str]] = []
    complete = asyncio.Event()

    def into(lane: str) -> Callable[[Any], Any]:
        async def take(message: Any) -> None:
            found.append((message.routing_key.removeprefix(notification_key("")), lane))
            if len(found) == count:
                complete.set()

        return take

    async with channel_on(address) as channel:
        for number in range(topology.lanes):
            queue = await channel.get_queue(topology.lane(number), ensure=False)
            await queue.consume(into(topology.lane(number)), no_ack=True)
        await publish()
        await asyncio.wait_for(complete.wait(), PATIENCE)
    return found


async def test_applying_twice_changes_nothing(address: BrokerAddress, topology: Topology, post: Post) -> None:
    await post("n-1")
    before = await waiting_in(address, topology)
    assert await topologies.apply(address, topology) == topology
    assert await waiting_in(address, topology) == before
    assert len(before) == 1


async def test_more_lanes_are_added_to_those_that_are_there(address: BrokerAddress, topology: Topology) -> None:
    grown = await topologies.apply(address, Topology(topology.prefix, lanes=4))
    try:
        async with serving(address, topology, Desk()) as served:
            assert served.events.seen[0].lanes == 4, "workers use the lanes they find, not those in their settings"
    finally:
        await topologies.remove(address, grown)


@pytest.mark.parametrize(
    "queue",
    [
        lambda topology: topology.lane(1),
        lambda topology: topology.wait(4),
        lambda topology: topology.dead,
        lambda topology: topology.unroutable,
        lambda topology: topology.unclaimed,
    ],
    ids=["lane", "wait", "dead", "unroutable", "unclaimed"],
)
async def test_queue_with_other_arguments_is_named(
    address: BrokerAddress, unused: Topology, queue: Callable[[Topology], str]
) -> None:
    name = queue(unused)
    async with channel_on(address) as channel:
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 7})
    with pytest.raises(TopologyDiffers, match=rf"queue '{name}' exists with other arguments; delete it first"):
        await topologies.apply(address, unused)


@pytest.mark.parametrize(
    ("exchange", "kind"),
    [("notifications", "topic"), ("results", "topic"), ("dead", "direct"), ("lanes", "fanout")],
    ids=["notifications-without-alternate", "results-without-alternate", "dead-of-another-type", "lanes-unhashed"],
)
async def test_exchange_that_differs_is_named(
    address: BrokerAddress, unused: Topology, exchange: str, kind: str
) -> None:
    name = f"{unused.prefix}.{exchange}"
    async with channel_on(address) as channel:
        await channel.declare_exchange(name, kind, durable=True)
    with pytest.raises(TopologyDiffers, match=rf"exchange '{name}' exists"):
        await topologies.apply(address, unused)


async def test_tenant_always_has_the_same_lane_and_many_tenants_have_many(
    address: BrokerAddress, wide: Topology
) -> None:
    tenants = [f"tenant-{number}" for number in range(40)]
    async with posting(address, wide) as post:

        async def publish() -> None:
            for turn in range(3):
                for tenant in tenants:
                    await post(f"{turn}-{tenant}", tenant, priority=turn * 4)

        found = await lanes_taken(address, wide, publish, 120)
    assert len(set(found)) == 40, "one lane for each tenant"
    assert len({lane for _, lane in found}) >= 6


async def test_what_leads_to_no_lane_is_caught(address: BrokerAddress, topology: Topology, post: Post) -> None:
    async with channel_on(address) as channel:
        for number in range(topology.lanes):
            await channel.queue_delete(topology.lane(number))
    await post("n-1")
    (message,) = await taken(address, topology.unroutable)
    assert (message.message_id, message.routing_key) == ("n-1", "t.contoso")


async def test_result_that_nobody_asked_for_is_kept(address: BrokerAddress, topology: Topology, post: Post) -> None:
    async with serving(address, topology, Desk()):
        await post("n-1")
        await until_ready(address, topology.unclaimed, 1)
    (message,) = await taken(address, topology.unclaimed)
    assert json.loads(message.body)["notification_id"] == "n-1"


async def test_result_that_somebody_has_bound_is_not_kept_as_well(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    async with channel_on(address) as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.results, "r.contoso.#")
        async with serving(address, topology, Desk()):
            await post("n-1")
            await until_ready(address, topology.lane(0), 0)
            async with asyncio.timeout(PATIENCE):
                while await queue.get(fail=False) is None:
                    pass
    assert await waiting_in(address, topology) == {}


async def test_message_that_is_delivered_too_often_becomes_a_dead_letter(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    """The last resort against a message that brings every worker down."""
    await post("n-1", headers={"x-kept": "yes"})
    lane = next(iter(await waiting_in(address, topology)))
    async with channel_on(address) as channel:
        queue = await channel.get_queue(lane, ensure=False)
        for _ in range(51):
            message = await queue.get(timeout=PATIENCE)
            assert message is not None
            await message.nack(requeue=True)
    (letter,) = await taken(address, topology.dead)
    assert (letter.message_id, letter.headers["x-first-death-reason"]) == ("n-1", "delivery_limit")
    assert letter.headers["x-kept"] == "yes"


async def test_removing_leaves_nothing_and_nobody_else_is_touched(address: BrokerAddress, topology: Topology) -> None:
    other = await topologies.apply(address, Topology(f"{topology.prefix}-too", lanes=1))
    await topologies.remove(address, other)
    assert {row async for row in topologies.depths(address, other)} == {
        (queue.name, None, None) for queue in other.queues()
    }
    for exchange in other.exchanges():
        with pytest.raises(ChannelNotFoundEntity):
            await _look_for(address, exchange.name)
    assert all([ready == 0 async for _, ready, _ in topologies.depths(address, topology)])


async def test_removing_twice_is_no_error(address: BrokerAddress) -> None:
    planned = Topology(f"test-{uuid.uuid4().hex[:8]}", lanes=2)
    await topologies.remove(address, planned)
    await topologies.remove(address, planned)


async def test_depths_tell_messages_and_consumers_and_what_is_missing(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    await post.many(["a", "b", "c"])
    (lane,) = await waiting_in(address, topology)
    async with channel_on(address) as channel:
        await channel.queue_delete(topology.wait(8))
    rows = {name: (ready, consumers) async for name, ready, consumers in topologies.depths(address, topology)}
    assert list(rows) == [queue.name for queue in topology.queues()]
    assert rows[lane] == (3, 0)
    assert rows[topology.wait(8)] == (None, None)
    assert rows[topology.dead] == (0, 0)
    desk = Desk(forgotten)
    async with serving(address, topology, desk):
        await desk.asked(3)
        rows = {name: (ready, consumers) async for name, ready, consumers in topologies.depths(address, topology)}
    assert rows[lane] == (0, 1)


async def test_everything_survives_a_broker(address: BrokerAddress, topology: Topology) -> None:
    """What is durable can be declared again as such, and not as anything else."""
    async with channel_on(address) as channel:
        for exchange in topology.exchanges():
            arguments = {**exchange.arguments}
            await channel.declare_exchange(exchange.name, exchange.kind, durable=True, arguments=arguments)
        for queue in topology.queues():
            assert queue.arguments["x-queue-type"] == "quorum"
            await channel.declare_queue(queue.name, durable=True, arguments={**queue.arguments})


def test_every_queue_that_dead_letters_does_it_at_least_once() -> None:
    """Which RabbitMQ does only with a target exchange and `reject-publish`, and quietly not at all without."""
    dead_lettering = [queue for queue in Topology().queues() if "x-dead-letter-exchange" in queue.arguments]
    assert len(dead_lettering) == 32 + 13
    for queue in dead_lettering:
        assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert queue.arguments["x-overflow"] == "reject-publish"


def test_what_is_bound_exists() -> None:
    for topology in (Topology(), Topology("other", 1, hashed=False)):
        exchanges = [exchange.name for exchange in topology.exchanges()]
        queues = [queue.name for queue in topology.queues()]
        assert max(Counter(exchanges).values()) == max(Counter(queues).values()) == 1
        for binding in topology.bindings():
            assert binding.source in exchanges
            assert binding.destination in (exchanges if binding.to_exchange else queues)
        assert {binding.destination for binding in topology.bindings() if not binding.to_exchange} == set(queues)


def test_topology_without_a_hash_has_one_lane_whatever_was_asked_for() -> None:
    topology = Topology("p", lanes=32, hashed=False)
    assert [queue.name for queue in topology.queues() if ".lane." in queue.name] == ["p.lane.00"]
    assert next(item.kind for item in topology.exchanges() if item.name == "p.lanes") == "fanout"


def test_lanes_are_shared_fairly_and_a_new_worker_takes_only_what_it_wins() -> None:
    lanes = [Topology().lane(number) for number in range(32)]

    def favourites(*workers: str) -> dict[str, str]:
        return {lane: max(workers, key=lambda worker: preference(worker, lane)) for lane in lanes}

    three, four = favourites("a", "b", "c"), favourites("a", "b", "c", "d")
    assert set(four.values()) == {"a", "b", "c", "d"}
    assert {four[lane] for lane in lanes if three[lane] != four[lane]} == {"d"}
    assert all(0 <= preference(worker, lane) <= 255 for worker in "abcd" for lane in lanes)


@pytest.mark.parametrize(
    ("queue", "ours"),
    [("postlane.lane.00", True), ("postlane.", True), ("postlane", False), ("postlane-2.dead", False), ("app", False)],
)
def test_own_queues_are_known_by_their_first_part(queue: str, ours: bool) -> None:  # noqa: FBT001 - a table
    assert Topology().owns(queue) is ours


def test_definitions_are_the_topology_and_nothing_else() -> None:
    topology = Topology(lanes=3)
    document = definitions(topology, {}, "v")
    assert {item["name"] for item in document["queues"]} == {queue.name for queue in topology.queues()}
    assert {item["name"] for item in document["exchanges"]} == {item.name for item in topology.exchanges()}
    assert len(document["bindings"]) == len(list(topology.bindings()))
    assert {item["vhost"] for kind in ("queues", "exchanges", "bindings") for item in document[kind]} == {"v"}
    assert all(item["durable"] for kind in ("queues", "exchanges") for item in document[kind])


async def test_notifications_exchange_of_nobody_returns_the_message(address: BrokerAddress, unused: Topology) -> None:
    """What a producer sees where the topology is only half there: the broker says so, the message is not lost."""
    async with channel_on(address) as channel:
        exchange = await channel.declare_exchange(unused.notifications, "topic", durable=True)
        with pytest.raises(PublishError):
            await exchange.publish(Message(b""), notification_key("contoso"))


async def _look_for(address: BrokerAddress, exchange: str) -> None:
    async with channel_on(address) as channel:
        await _passively(channel, exchange)


async def _passively(channel: AbstractChannel, exchange: str) -> None:
    await channel.declare_exchange(exchange, passive=True)
