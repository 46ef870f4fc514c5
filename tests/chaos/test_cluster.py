"""Three RabbitMQ nodes on this machine; the one that leads every queue is killed under load."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import NotPublished, publisher
from tests.adapters.broker.stage import Desk, serving
from tests.neighbours import inbox_on
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.events import BrokerDown, BrokerUp, Crashed
from worker.sandbox.native import Member, NativeNode, installed_server
from worker.sandbox.node import HOST, free_ports

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300), pytest.mark.xdist_group("cluster")]

COUNT = 400
KILLED_AFTER = 120  # results
PATIENCE = 90.0  # seconds: a cluster notices within one that a node was killed, and elects within five


@pytest.fixture
def cluster() -> Iterator[list[NativeNode]]:
    """Nodes that know each other; queues declared at the first are led by it."""
    server = installed_server()
    if server is None:
        pytest.skip("no RabbitMQ is installed here: a cluster is made of three natively started nodes")
    (epmd,), cookie = free_ports(1), secrets.token_hex(20)
    with ExitStack() as stack:
        names = stack.enter_context(subprocess.Popen(["epmd", "-address", HOST, "-port", str(epmd)]))
        stack.callback(names.kill)
        nodes = []
        for name in ("one", "two", "three"):
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postlane-cluster-")))
            node = NativeNode(server, home, _told, Member(f"{name}@localhost", epmd, cookie))
            stack.callback(node.kill)
            nodes.append(node)
        with ThreadPoolExecutor() as starting:
            list(starting.map(NativeNode.start, nodes))
        for node in nodes[1:]:
            for command in (("stop_app",), ("join_cluster", "one@localhost"), ("start_app",)):
                node.control(*command)
        yield nodes


def _told(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - the person waits for it


def address_of(node: NativeNode) -> BrokerAddress:
    return BrokerAddress(f"amqp://guest:guest@{HOST}:{node.port}/")


@pytest.fixture
async def topology(cluster: list[NativeNode]) -> Topology:
    return await topologies.apply(address_of(cluster[0]), Topology("cluster", lanes=4))


async def test_leader_that_is_killed_under_load_loses_nothing_and_the_workers_go_on(
    cluster: list[NativeNode], topology: Topology
) -> None:
    """One worker is connected to the node that dies; another one, the producer and the reader to those that live."""
    leader, second, third = cluster
    desk, lost_desk = Desk(), Desk()
    async with (
        inbox_on(address_of(third), topology) as inbox,
        serving(address_of(second), topology, desk, look_every=5.0, worker="lives") as lives,
        serving(address_of(leader), topology, lost_desk, worker="loses-its-node") as loses,
    ):
        producing = asyncio.create_task(_publish(address_of(third), topology))
        await inbox.until(lambda results: len(results) >= KILLED_AFTER, PATIENCE)
        await asyncio.to_thread(leader.kill)
        await loses.events.until(BrokerDown)
        async with asyncio.timeout(PATIENCE):
            await producing
        wanted = {f"n-{number}" for number in range(COUNT)}
        await inbox.until(lambda results: {result.notification_id for result in results} == wanted, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while sum([ready or 0 async for name, ready, _ in _lanes(second, topology)]):
                pass
        assert lives.events.of(Crashed) == loses.events.of(Crashed) == []
        assert lives.worker.ready
        assert desk.finished, "it has worked"
        await asyncio.to_thread(leader.start)
        await loses.events.until(BrokerUp, 2, PATIENCE)
    repeated = len(inbox.results) - COUNT
    _told(f"{COUNT} published, every one has its result; {repeated} came twice (no ledger in this test)")


async def _lanes(node: NativeNode, topology: Topology) -> AsyncIterator[tuple[str, int | None, int | None]]:
    async for name, ready, consumers in topologies.depths(address_of(node), topology):
        if name.startswith(topology.lane_stem):
            yield name, ready, consumers


async def _publish(address: BrokerAddress, topology: Topology) -> None:
    """A producer does what it is told to do: what was not confirmed is published again with the same id."""
    async with publisher(address.url, prefix=topology.prefix, confirmed_within=5) as post:
        for number in range(COUNT):
            while True:
                try:
                    await post.publish(_note(number))
                    break
                except NotPublished:
                    await asyncio.sleep(0.2)


def _note(number: int) -> Notification:
    return Notification.model_validate(
        {
            "type": NOTIFICATION_TYPE,
            "id": f"n-{number}",
            "tenant": f"tenant-{number % 16}",
            "to": ["jana@contoso.example"],
            "subject": "Hello",
            "text": "Hello.",
        }
    )
