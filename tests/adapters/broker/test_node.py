"""A node that crashes, runs out of memory, or lacks a plugin. It is nobody else's, so that it may."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import Message

from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import NotPublished, publisher
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Script,
    channel_on,
    done,
    forgotten,
    posting,
    serving,
    until_ready,
    waiting_in,
)
from tests.neighbours import inbox_on
from worker.broker import apply as topologies
from worker.broker.apply import TopologyDiffers
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Decision, WaitUntil
from worker.events import BrokerBlocked, BrokerDown, BrokerUnblocked, BrokerUp, ConsumerSilent, Crashed, Event
from worker.sandbox.native import NativeNode
from worker.sandbox.node import PLUGIN
from worker.sandbox.rabbitmq import RunningBroker

pytestmark = [pytest.mark.xdist_group("own-broker"), pytest.mark.timeout(180)]


@pytest.fixture
def own_address(own_broker: RunningBroker) -> BrokerAddress:
    return BrokerAddress(own_broker.amqp_url)


@pytest.fixture
async def own_topology(own_address: BrokerAddress) -> AsyncIterator[Topology]:
    made = await topologies.apply(own_address, Topology("own", lanes=2))
    yield made
    await topologies.remove(own_address, made)


def note(notification_id: str) -> Notification:
    fields = {"to": ["jana@contoso.example"], "subject": "Hello", "text": "Hello."}
    return Notification.model_validate(
        {"type": NOTIFICATION_TYPE, "id": notification_id, "tenant": "contoso", **fields}
    )


# ---------------------------------------------------------------- without the hash exchange


@pytest.fixture
def plain_broker(own_broker: RunningBroker) -> Iterator[RunningBroker]:
    """The node without the plugin, as RabbitMQ comes out of the box."""
    plugins(own_broker, "disable", PLUGIN)
    yield own_broker
    plugins(own_broker, "enable", PLUGIN)


def plugins(broker: RunningBroker, *args: str) -> None:
    node: Any = broker._node
    if isinstance(node, NativeNode):
        node._run(node._server.with_name("rabbitmq-plugins"), "--quiet", *args)
    else:
        node._run("exec", node._name, "rabbitmq-plugins", "--quiet", *args)


async def test_broker_without_the_hash_plugin_gets_one_lane_and_works_and_is_told_apart_later(
    plain_broker: RunningBroker,
) -> None:
    address = BrokerAddress(plain_broker.amqp_url)
    wanted = Topology("plain", lanes=8)
    made = await topologies.apply(address, wanted)
    try:
        assert (made.hashed, made.lanes) == (False, 1)
        assert await topologies.apply(address, wanted) == made, "applying twice changes nothing here either"
        desk = Desk(Script(lambda _: Decision((), WaitUntil(datetime.now(UTC)), "the carry"), done))
        async with (
            inbox_on(address, made) as inbox,
            posting(address, made) as post,
            serving(address, wanted, desk) as served,
        ):
            assert served.events.seen == [BrokerUp(1)]
            await post("n-1")
            await inbox.final("n-1")
        rows = {name: ready async for name, ready, _ in topologies.depths(address, wanted)}
        assert [name for name, ready in rows.items() if ready is None] == [
            wanted.lane(number) for number in range(1, 8)
        ]
        plugins(plain_broker, "enable", PLUGIN)
        with pytest.raises(TopologyDiffers, match=r"exchange 'plain\.lanes' exists but is of another type"):
            await topologies.apply(address, wanted)
    finally:
        await topologies.remove(address, made)


# ---------------------------------------------------------------- crashed


async def test_broker_that_is_killed_and_started_again_loses_nothing(
    own_broker: RunningBroker, own_address: BrokerAddress, own_topology: Topology
) -> None:
    """One message waits in a lane, one in a wait queue, one is in the worker's hands; all three live through it."""
    desk = Desk(Script(wait(2), forgotten, wait(14), done))
    async with posting(own_address, own_topology) as post:
        async with serving(own_address, own_topology, desk):
            await post("settles")  # the topology: what is younger than a second may not live through a crash
            await desk.asked(2)
            await post("waits")
            await desk.asked(3)
            await until_ready(own_address, own_topology.wait(8), 1)
        await post.many(["in-hand", "in-lane"])
    due = datetime.now(UTC) + timedelta(seconds=14)
    desk.close()
    async with serving(own_address, own_topology, desk, concurrency=1, prefetch=1) as served:
        await desk.asked(4)
        await asyncio.to_thread(own_broker.kill)
        await served.events.until(BrokerDown)
        assert not served.worker.ready
        await asyncio.to_thread(own_broker.start)
        await served.events.until(BrokerUp, 2)
        assert served.worker.ready
        async with inbox_on(own_address, own_topology) as inbox:
            desk.open()
            wanted = {"in-hand", "in-lane", "waits"}
            await inbox.until(lambda results: {result.notification_id for result in results} >= wanted)
    back = next(
        call for call in desk.calls if call.intake.carry == "waited" and call.intake.properties.message_id == "waits"
    )
    assert back.when > due - timedelta(seconds=5)
    left = await waiting_in(own_address, own_topology)
    assert {queue for queue in left if queue != own_topology.unclaimed} == set()


def wait(seconds: float) -> Any:
    def decide(intake: Intake) -> Decision:
        del intake
        return Decision((), WaitUntil(datetime.now(UTC) + timedelta(seconds=seconds)), "waited")

    return decide


# ---------------------------------------------------------------- short of memory


@dataclass
class Starved:
    """What happened while the broker took nothing from anybody."""

    published: BaseException | None = None
    sent: BaseException | None = None
    unready: str = ""
    asked: int = 0
    downs: list[BrokerDown] = field(default_factory=list)
    newcomer: list[Event] = field(default_factory=list)
    stopped: bool = False
    finished: set[str | None] = field(default_factory=set)
    left: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def starved(own_broker: RunningBroker) -> Starved:
    """A memory alarm, played once; the tests look at what came of it."""
    return asyncio.run(_starve(own_broker))


async def _starve(broker: RunningBroker) -> Starved:
    address, seen = BrokerAddress(broker.amqp_url), Starved()
    topology = await topologies.apply(address, Topology("starved", lanes=1))
    desk, other = Desk(), Desk()
    desk.close()
    other.close()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(topologies.remove, address, topology)
        inbox = await stack.enter_async_context(inbox_on(address, topology))
        post = await stack.enter_async_context(posting(address, topology))
        waits = await stack.enter_async_context(publisher(address.url, prefix=topology.prefix, confirmed_within=2))
        hurries = await stack.enter_async_context(publisher(address.url, prefix=topology.prefix))
        stopping = await stack.enter_async_context(serving(address, topology, other, grace=1, prefetch=1))
        await post("other")
        await other.asked()
        served = await stack.enter_async_context(serving(address, topology, desk, concurrency=2))
        await post.many([f"n-{number}" for number in range(6)])
        await desk.asked(2)
        await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0.00001")
        try:
            publishing = asyncio.create_task(waits.publish(note("published")))
            sending = asyncio.create_task(hurries.send(note("sent"), timeout=2))
            desk.open()
            other.open()
            await served.events.until(BrokerBlocked)
            seen.unready = served.worker.unready
            newcomer = await stack.enter_async_context(serving(address, topology, Desk(), wait=False))
            await newcomer.events.until(BrokerBlocked)
            stopping.worker.stop()
            await asyncio.wait((stopping.running,), timeout=1 + SOON)
            seen.stopped = stopping.running.done()
            await asyncio.wait((publishing, sending))
            seen.published, seen.sent = publishing.exception(), sending.exception()
            seen.asked, seen.newcomer = len(desk.calls), list(newcomer.events.seen)
        finally:
            await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "absolute", "512MiB")
        await newcomer.events.until(BrokerUp)
        await served.events.until(BrokerUnblocked)
        wanted = {"other", *(f"n-{number}" for number in range(6))}
        await inbox.until(lambda results: wanted <= {result.notification_id for result in results})
        seen.finished = {result.notification_id for result in inbox.results}
        seen.downs = served.events.of(BrokerDown)
        assert served.worker.ready
        await served.stopped()
        await newcomer.stopped()
        seen.left = await waiting_in(address, topology)
    return seen


def test_publisher_says_that_a_blocked_broker_does_not_confirm(starved: Starved) -> None:
    assert isinstance(starved.published, NotPublished)
    assert str(starved.published) == "the broker does not confirm; it may be out of memory or disk"


def test_sender_who_is_in_a_hurry_is_told_that_it_was_not_published(starved: Starved) -> None:
    """`TimeoutError` means: it lies safely with Postlane, and no worker has come to it. Here nobody has it."""
    assert isinstance(starved.sent, NotPublished)


def test_worker_of_a_blocked_broker_begins_no_mail_whose_result_could_not_be_told(starved: Starved) -> None:
    assert starved.asked == 2, "only what was under way when the alarm came"


def test_worker_of_a_blocked_broker_is_not_ready_and_says_why(starved: Starved) -> None:
    assert "takes no results (short of memory or disk)" in starved.unready


def test_worker_that_starts_at_a_blocked_broker_takes_nothing_before_it_is_over(starved: Starved) -> None:
    assert [type(event) for event in starved.newcomer] == [BrokerBlocked]


def test_blocked_link_is_kept_because_a_new_one_would_be_blocked_as_well(starved: Starved) -> None:
    assert starved.downs == []


def test_worker_that_is_told_to_stop_while_the_broker_is_blocked_ends_within_the_grace(starved: Starved) -> None:
    assert starved.stopped


def test_nothing_is_lost_by_a_blocked_broker(starved: Starved) -> None:
    assert starved.finished >= {"other", *(f"n-{number}" for number in range(6))}
    assert {queue for queue in starved.left if ".lane." in queue or ".dead" in queue} == set()


# ---------------------------------------------------------------- forgotten, refused, too slow


async def test_consumer_that_the_broker_has_forgotten_is_noticed_and_made_anew(
    own_broker: RunningBroker, own_address: BrokerAddress, own_topology: Topology
) -> None:
    """No cancellation, no closed channel: the queue just knows nothing of us any more, as after a bug of the broker."""
    lane = own_topology.lane(0)
    async with (
        inbox_on(own_address, own_topology) as inbox,
        serving(own_address, own_topology, Desk(), look_every=0.5) as served,
        channel_on(own_address) as channel,
    ):
        await asyncio.to_thread(own_broker.control, "eval", FORGET % lane)
        assert await consumers_of(own_address, own_topology, lane) == 0
        assert served.worker.ready, "nobody can know yet"
        await channel.default_exchange.publish(Message(b"", message_id="n-1"), lane)
        assert await served.events.until(ConsumerSilent) == ConsumerSilent(lane, 0.5)
        assert lane in (await served.events.until(BrokerDown)).problem
        await served.events.until(BrokerUp, 2)
        await inbox.final("n-1")
        assert await consumers_of(own_address, own_topology, lane) == 1


# What a consumer's own channel would tell the queue's leader when it is closed (rabbit_fifo, 3.8 and later).
FORGET = """
    {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"%s">>)),
    [ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout({element(2, C), element(1, C)}, cancel, #{}))
     || C <- rabbit_amqqueue:consumers(Q)].
"""


async def consumers_of(address: BrokerAddress, topology: Topology, lane: str) -> int | None:
    counts = {name: count async for name, _, count in topologies.depths(address, topology)}
    return counts[lane]


async def test_idle_worker_is_left_in_peace_by_its_own_looking(
    own_address: BrokerAddress, own_topology: Topology
) -> None:
    """Full hands, empty lanes and other people's messages are no sign of a consumer that is gone."""
    busy, idle = Desk(forgotten), Desk(forgotten)
    busy.close()
    async with (
        serving(own_address, own_topology, busy, look_every=0.05, prefetch=1, worker="busy") as held,
        channel_on(own_address) as channel,
    ):
        for _ in range(5):
            await channel.default_exchange.publish(Message(b""), own_topology.lane(0))
        await busy.asked()
        with pytest.raises(TimeoutError):
            await held.events.until(BrokerDown, patience=1)
        async with serving(own_address, own_topology, idle, look_every=0.05, worker="idle") as resting:
            await idle.asked(4)
            with pytest.raises(TimeoutError):
                await resting.events.until(BrokerDown, patience=1)
        busy.open()


async def test_acknowledgement_that_the_broker_refuses_costs_the_link_and_no_message(
    own_address: BrokerAddress, own_topology: Topology
) -> None:
    desk = Desk()
    desk.close()
    async with (
        inbox_on(own_address, own_topology) as inbox,
        posting(own_address, own_topology) as post,
        serving(own_address, own_topology, desk) as served,
    ):
        await post("n-1")
        await desk.asked()
        assert served.worker._link is not None
        for lane in served.worker._link._lanes.values():
            underlay = await lane.queue.channel.get_underlay_channel()
            await underlay.basic_ack(4711)
        down = await served.events.until(BrokerDown)
        assert "unknown delivery tag 4711" in down.problem
        desk.open()
        await inbox.final("n-1")
        await until_empty(own_address, own_topology)
    assert served.events.of(Crashed) == []


@pytest.fixture
def impatient_broker(own_broker: RunningBroker) -> Iterator[RunningBroker]:
    """Waits a second for an acknowledgement instead of half an hour."""
    timeout = "application:get_env(rabbit, consumer_timeout)"
    before = own_broker.control("eval", f"{{ok, T}} = {timeout}, T.").strip()
    settings = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    own_broker.control("eval", settings.format(1000, 200))
    yield own_broker
    own_broker.control("eval", settings.format(before, 60_000))


async def test_mail_that_takes_longer_than_the_broker_waits_is_finished_and_told_by_who_gets_it_next(
    impatient_broker: RunningBroker, own_address: BrokerAddress, own_topology: Topology
) -> None:
    del impatient_broker
    desk = Desk()
    desk.close()
    async with (
        inbox_on(own_address, own_topology) as inbox,
        posting(own_address, own_topology) as post,
        serving(own_address, own_topology, desk) as served,
    ):
        await post("n-1")
        await desk.asked()
        down = await served.events.until(BrokerDown)
        assert "delivery acknowledgement" in down.problem
        assert "timed out" in down.problem
        await desk.asked(2)
        desk.open()
        await inbox.final("n-1")
        await until_empty(own_address, own_topology)
    assert served.events.of(Crashed) == []


async def until_empty(address: BrokerAddress, topology: Topology) -> None:
    for number in range(topology.lanes):
        await until_ready(address, topology.lane(number), 0)
