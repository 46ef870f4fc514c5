"""RabbitMQ 4: the main sentences of the end-to-end tests once more, and what is different there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelClosed, ProbableAuthenticationError
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from contracts.delivery import DeliveryStatus, Result
from contracts.publisher import NotPublished, publisher
from tests.containers.stage import (
    DEPLOY,
    PATIENCE,
    Docked,
    EmulatorContainer,
    amqp_url,
    docked,
    rabbitmq_container,
    volume,
    worker_container,
)

# Run here with this directory's `address`: workers as processes, RabbitMQ 4 in its container.
from tests.e2e.test_main_job import (
    notification,
    test_deferred_recipient_is_retried_alone,
    test_every_result_reaches_the_results_exchange_too,
    test_nothing_is_left_unacknowledged,
    test_same_id_again_is_answered_with_the_recorded_result_and_no_second_mail,
    test_temporary_refusal_waits_in_the_broker_and_is_told_as_deferred,
    test_tenant_without_mailbox_is_sent_through_the_default_one_over_oauth,
)
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Topology

__all__ = [
    "test_deferred_recipient_is_retried_alone",
    "test_every_result_reaches_the_results_exchange_too",
    "test_nothing_is_left_unacknowledged",
    "test_same_id_again_is_answered_with_the_recorded_result_and_no_second_mail",
    "test_temporary_refusal_waits_in_the_broker_and_is_told_as_deferred",
    "test_tenant_without_mailbox_is_sent_through_the_default_one_over_oauth",
]

LARGEST = 16 * 1024 * 1024  # octets; the limit of RabbitMQ 4
WORKER, PRODUCER = "postlane-worker:work3r", "postlane-producer:pr0duce"


def test_broker_is_a_rabbitmq_4_with_the_hash_exchange(rabbitmq: Docked) -> None:
    assert rabbitmq.output("rabbitmqctl", "--quiet", "version").startswith("4.")
    assert "rabbitmq_consistent_hash_exchange" in rabbitmq.output("rabbitmqctl", "--quiet", "status")


async def test_topology_can_be_applied_again(address: BrokerAddress, topology: Topology) -> None:
    assert topology.hashed
    assert await topologies.apply(address, topology) == topology
    assert all([ready == 0 async for _, ready, _ in topologies.depths(address, topology)])


async def test_message_above_16_mib_is_refused_to_the_producer_and_hurts_nobody_else(
    contained: Docked, address: BrokerAddress, topology: Topology
) -> None:
    async with (
        publisher(address.url, prefix=topology.prefix) as post,
        publisher(address.url, prefix=topology.prefix) as other,
    ):
        with pytest.raises(NotPublished, match="size"):
            await post.publish_bytes(b"x" * (LARGEST + 1), "contoso", message_id="too-large")
        result = await other.send(notification("after-1", "contoso"))
    assert result.status is DeliveryStatus.ACCEPTED


async def test_refused_notification_becomes_a_dead_letter_with_its_octets(
    contained: Docked, address: BrokerAddress, topology: Topology
) -> None:
    body = '{"type": "postlane.notification.v1", "id": "dead-1", "tenant": "contoso", "subject": "ž"}'.encode()
    dead: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    async with (
        await open_connection(address, "test") as connection,
        connection.channel() as channel,
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        queue = await channel.get_queue(topology.dead, ensure=False)
        await queue.consume(dead.put, no_ack=True)
        await post.publish_bytes(body, "contoso", message_id="dead-1")
        async with asyncio.timeout(PATIENCE):
            letter = await dead.get()
    assert (letter.body, letter.headers["x-postlane-reason"]) == (body, "malformed")


async def test_committed_definitions_can_be_imported_and_let_nobody_in_without_a_password(rabbitmq: Docked) -> None:
    rabbitmq.output("rabbitmqctl", "--quiet", "import_definitions", "/postlane/definitions.json")
    queues = rabbitmq.output("rabbitmqctl", "--quiet", "list_queues", "name").split()
    assert {"postlane.lane.00", "postlane.lane.31", "postlane.wait.3600", "postlane.dead"} <= set(queues)
    for password in ("", "guest"):
        with pytest.raises(ProbableAuthenticationError):
            await open_connection(BrokerAddress(amqp_url(rabbitmq, f"postlane-worker:{password}")), "test")
    rabbitmq.output("rabbitmqctl", "--quiet", "change_password", *WORKER.split(":"))
    async with await open_connection(BrokerAddress(amqp_url(rabbitmq, WORKER)), "test") as connection:
        assert connection.connected.is_set()


@pytest.fixture(scope="module")
def defined(image: str, network: Network) -> Iterator[Docked]:
    """A broker as compose.yaml sets it up: our image writes definitions with passwords, RabbitMQ loads them."""
    with volume() as definitions:
        writer = (
            DockerContainer(image, entrypoint=["sh", "-euc"])
            .with_command(["postlane topology definitions --passwords-from-environment > definitions.json"])
            .with_volume_mapping(definitions, "/var/lib/postlane", "rw")
            .with_envs(PASSWORD_POSTLANE_WORKER="work3r", PASSWORD_POSTLANE_PRODUCER="pr0duce")
        )
        with docked(writer) as written:
            assert written.wrapped.wait(timeout=60)["StatusCode"] == 0
        broker = (
            rabbitmq_container(network, "defined")
            .with_volume_mapping(definitions, "/etc/rabbitmq/definitions")
            .with_volume_mapping(DEPLOY / "rabbitmq/postlane.conf", "/etc/rabbitmq/conf.d/50-postlane.conf")
        )
        with docked(broker) as running:
            yield running


@pytest.fixture
async def least(image: str, network: Network, defined: Docked, volumes: dict[str, str]) -> AsyncIterator[Docked]:
    """A worker that logs in as the user that the definitions made for it."""
    async with worker_container(image, network, Topology(), volumes, url=f"amqp://{WORKER}@defined/") as worker:
        yield worker


async def test_worker_and_producer_with_the_least_rights_do_the_main_job(
    least: Docked, defined: Docked, emulator_container: EmulatorContainer
) -> None:
    async with publisher(amqp_url(defined, PRODUCER)) as post:
        sent = await post.send(notification("least-1", "contoso"))
        refused = await post.send(notification("least-2", "tailspin"))
    assert sent.status is DeliveryStatus.ACCEPTED
    assert len(emulator_container.mails("least-1")) == 1
    assert refused.status is DeliveryStatus.REJECTED
    assert len(least.log.events("broker connected")) == 1


async def test_worker_with_the_least_rights_lets_a_notification_wait_and_come_back(
    least: Docked, defined: Docked
) -> None:
    seen: asyncio.Queue[Result] = asyncio.Queue()
    async with publisher(amqp_url(defined, PRODUCER)) as post, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        busy = notification("busy-1", "fabrikam", to=["busy@fabrikam.example"])
        sending = group.create_task(post.send(busy, on_result=seen.put_nowait))
        first, second = await seen.get(), await seen.get()
        sending.cancel()
    assert first.status is second.status is DeliveryStatus.DEFERRED
    assert (first.attempt, second.attempt) == (1, 2)


async def test_definitions_leave_no_guest(defined: Docked) -> None:
    with pytest.raises(ProbableAuthenticationError):
        await open_connection(BrokerAddress(amqp_url(defined)), "test")


@pytest.mark.parametrize(
    ("login", "exchange", "key"),
    [
        pytest.param(PRODUCER, "postlane.results", "r.contoso.accepted", id="producer-forges-a-result"),
        pytest.param(PRODUCER, "", "postlane.lane.00", id="producer-goes-round-the-front-door"),
        pytest.param(PRODUCER, "postlane.notifications", "x.contoso", id="producer-invents-a-routing-key"),
        pytest.param(WORKER, "postlane.notifications", "t.contoso", id="worker-sends-of-its-own-accord"),
    ],
)
async def test_user_may_not_publish_elsewhere(defined: Docked, login: str, exchange: str, key: str) -> None:
    async with await open_connection(BrokerAddress(amqp_url(defined, login)), "test") as connection:
        channel = await connection.channel(on_return_raises=True)
        target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        with pytest.raises(AMQPError, match="ACCESS_REFUSED"):
            await target.publish(Message(b"{}"), key)


@pytest.mark.parametrize("login", [PRODUCER, WORKER], ids=["producer", "worker"])
async def test_user_may_not_create_or_read_what_is_not_its_own(defined: Docked, login: str) -> None:
    async with await open_connection(BrokerAddress(amqp_url(defined, login)), "test") as connection:
        with pytest.raises(ChannelClosed, match="ACCESS_REFUSED"):
            await (await connection.channel()).declare_queue("postlane.mine")
        unclaimed = await (await connection.channel()).get_queue("postlane.results.unclaimed", ensure=False)
        with pytest.raises(ChannelClosed, match="ACCESS_REFUSED"):
            await unclaimed.get(fail=False)
