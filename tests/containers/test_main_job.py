"""The main job with everything in containers: RabbitMQ 4, two of our images, volumes, a network."""

from __future__ import annotations

import asyncio
import email
import email.policy

from testcontainers.core.network import Network

from contracts.delivery import Because, DeliveryStatus
from contracts.notification import Priority
from contracts.publisher import publisher
from tests.containers.stage import Docked, EmulatorContainer, worker_container
from tests.e2e.test_main_job import notification
from tests.neighbours import Inbox
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology

MANY = 200
LANES = 2  # those of the fixture `topology`
PREFETCH = 8


async def test_password_reset_goes_out_through_office_365_over_xoauth2(
    contained: Docked, emulator_container: EmulatorContainer, address: BrokerAddress, topology: Topology
) -> None:
    reset = notification("reset-1", "contoso", category="password-reset", priority=Priority.HIGH)
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(reset)
    assert result.status is DeliveryStatus.ACCEPTED
    assert result.mailbox is not None
    assert (result.mailbox.name, result.mailbox.because) == ("platform", Because.DEFAULT)
    (mail,) = emulator_container.mails("reset-1")
    assert (mail["mechanism"], mail["login"]) == ("XOAUTH2", "notifications@contoso.example")
    assert mail["tls"].startswith("TLSv1")
    assert mail["message_id"] == result.message_id


async def test_tenant_with_a_server_of_its_own_is_sent_through_that_by_password(
    contained: Docked, emulator_container: EmulatorContainer, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("own-1", "fabrikam"))
    assert result.status is DeliveryStatus.ACCEPTED
    assert result.mailbox is not None
    assert (result.mailbox.name, result.mailbox.because) == ("fabrikam", Because.OWN)
    assert [mail["mechanism"] for mail in emulator_container.mails("own-1")] == ["LOGIN"]


async def test_tenant_with_a_pickup_directory_finds_its_mail_on_the_volume(
    contained: Docked, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("pickup-1", "zlin", subject="Příliš žluťoučký kůň"))
    assert result.status is DeliveryStatus.HANDED_OVER
    (name,) = contained.output("ls", "pickup").split()
    mail = email.message_from_string(contained.output("cat", f"pickup/{name}"), policy=email.policy.default)
    assert mail["Subject"] == "Příliš žluťoučký kůň"
    assert contained.output("ls", "pickup.staging").split() == []


async def test_tenant_without_any_mailbox_is_rejected_with_the_reason(
    contained: Docked, emulator_container: EmulatorContainer, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("nobody-1", "tailspin"))
    assert result.status is DeliveryStatus.REJECTED
    assert result.reason is not None
    assert "tailspin" in result.reason.explanation
    assert emulator_container.mails("nobody-1") == []


async def test_worker_killed_in_the_middle_loses_nothing(
    image: str,
    network: Network,
    emulator_container: EmulatorContainer,
    volumes: dict[str, str],
    inbox: Inbox,
    address: BrokerAddress,
    topology: Topology,
) -> None:
    settings = {"POSTLANE_BROKER__PREFETCH": str(PREFETCH)}
    wanted = {f"many-{number}": "contoso" if number % 2 else "fabrikam" for number in range(MANY)}
    async with (
        worker_container(image, network, topology, volumes, settings=settings) as doomed,
        worker_container(image, network, topology, volumes, settings=settings),
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        # Slow, so that it holds unfinished notifications at whatever moment it is killed.
        doomed.wrapped.update(cpu_period=100_000, cpu_quota=10_000)
        await asyncio.gather(*(post.publish(notification(name, tenant)) for name, tenant in wanted.items()))
        await doomed.log.until("result", times=2)
        await asyncio.to_thread(doomed.kill)
        assert len(inbox.results) < MANY
        await inbox.until(lambda results: {it.notification_id for it in results if it.final} >= wanted.keys())
    finals = list({result.event_id: result for result in inbox.results if result.final}.values())
    assert sorted(str(result.notification_id) for result in finals) == sorted(wanted)
    told = {status: {it.notification_id for it in finals if it.status is status} for status in DeliveryStatus}
    accepted, in_doubt = told[DeliveryStatus.ACCEPTED], told[DeliveryStatus.IN_DOUBT]
    assert accepted | in_doubt == wanted.keys()
    mails = [mail["notification_id"] for mail in emulator_container.accepted() if mail["notification_id"] in wanted]
    assert len(mails) == len(set(mails)), "both workers have one store: nothing goes twice"
    assert accepted <= set(mails)
