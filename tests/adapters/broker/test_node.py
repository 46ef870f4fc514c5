"""A node that crashes, runs out of memory, or lacks a plugin. It is nobody else's, so that it may."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import NotPublished, publisher
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Script,
    done,
    forgotten,
    posting,
    serving,
    until_ready,
    waiting_in,
)
from tests.neighbours import PATIENCE, inbox_on
from worker.broker import apply as topologies
from worker.broker.apply import TopologyDiffers
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Decision, WaitUntil
from worker.events import BrokerDown, BrokerUp
from worker.sandbox.native import NativeNode
from worker.sandbox.node import PLUGIN
from worker.sandbox.rabbitmq import RunningBroker

pytestmark = [pytest.mark.xdist_group("own-broker"), pytest.mark.timeout(180)]

BLOCKED_FOR = 31.0  # seconds: one more than the worker and the publisher wait for a confirmation


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
    """What happened while the broker took nothing from anybody.

    Attributes:
        downs: why the worker gave its link up.
        finished: notifications with a final result after the alarm was over.
    """

    published: BaseException | None = None
    published_after: float = 0
    sent: BaseException | None = None
    downs: list[str] = field(default_factory=list)
    consumed_meanwhile: int = 0
    stopped_after: float = 0
    finished: set[str | None] = field(default_factory=set)
    left: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def starved(own_broker: RunningBroker) -> Starved:
    """A memory alarm of half a minute, played once; the tests look at what came of it."""
    return asyncio.run(_starve(own_broker))


async def _starve(broker: RunningBroker) -> Starved:
    address, seen = BrokerAddress(broker.amqp_url), Starved()
    topology = await topologies.apply(address, Topology("starved", lanes=2))
    desk, other = Desk(), Desk()
    desk.close()
    other.close()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(topologies.remove, address, topology)
        inbox = await stack.enter_async_context(inbox_on(address, topology))
        post = await stack.enter_async_context(posting(address, topology))
        waits = await stack.enter_async_context(publisher(address.url, prefix=topology.prefix))
        hurries = await stack.enter_async_context(publisher(address.url, prefix=topology.prefix))
        served = await stack.enter_async_context(serving(address, topology, desk, worker="a", concurrency=4))
        await post.many(["n-1", "n-2"])
        await desk.asked(2)
        stopping = await stack.enter_async_context(serving(address, topology, other, worker="b", grace=1))
        await _until_asked(other, post)
        await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0")
        try:
            began = time.monotonic()
            publishing = asyncio.create_task(waits.publish(note("published")))
            sending = asyncio.create_task(hurries.send(note("sent"), timeout=2))
            desk.open()
            other.open()
            await asyncio.wait((sending,))
            seen.sent = sending.exception()
            before = time.monotonic()
            stopping.worker.stop()
            await asyncio.wait((stopping.running,), timeout=PATIENCE)
            seen.stopped_after = time.monotonic() - before
            await asyncio.wait((publishing,))
            seen.published, seen.published_after = publishing.exception(), time.monotonic() - began
            await served.events.until(BrokerDown, patience=BLOCKED_FOR)
            seen.downs = [event.problem for event in served.events.of(BrokerDown)]
        finally:
            await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "absolute", "512MiB")
        await inbox.until(lambda results: {"n-1", "n-2"} <= {result.notification_id for result in results})
        seen.finished = {result.notification_id for result in inbox.results}
        await served.stopped()
        seen.left = await waiting_in(address, topology)
    return seen


async def _until_asked(desk: Desk, post: Any) -> None:
    """Tenants by the dozen, until one of them is on a lane that the second worker prefers."""
    for number in range(50):
        await post(f"other-{number}", f"tenant-{number}")
        with contextlib.suppress(TimeoutError):
            await desk.asked(1, patience=0.2)
            return


def test_publisher_says_that_a_blocked_broker_does_not_confirm(starved: Starved) -> None:
    assert isinstance(starved.published, NotPublished)
    assert str(starved.published) == "the broker does not confirm; it may be out of memory or disk"
    assert starved.published_after < BLOCKED_FOR + SOON


def test_sender_who_is_in_a_hurry_is_told_that_it_was_not_published(starved: Starved) -> None:
    """`TimeoutError` means: it lies safely with Postlane, and no worker has come to it. Here nobody has it."""
    assert isinstance(starved.sent, NotPublished)


def test_worker_gives_a_blocked_link_up_and_says_why(starved: Starved) -> None:
    assert starved.downs
    assert starved.downs[0].removeprefix("publishing or acknowledging failed: "), "a reason must be there"


def test_worker_that_is_told_to_stop_while_the_broker_is_blocked_ends_within_the_grace(starved: Starved) -> None:
    assert starved.stopped_after < 1 + SOON


def test_nothing_is_lost_by_a_blocked_broker(starved: Starved) -> None:
    assert starved.finished >= {"n-1", "n-2"}
    assert {queue for queue in starved.left if ".lane." in queue or ".dead" in queue} == set()
