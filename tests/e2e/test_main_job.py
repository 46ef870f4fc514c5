"""The README's promises, one sentence a test, with a real broker, real sockets and workers as processes."""

from __future__ import annotations

import email
import email.policy
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contracts.delivery import Because, DeliveryStatus
from contracts.notification import NOTIFICATION_TYPE, Notification, OnDoubt
from contracts.publisher import publisher
from tests.neighbours import Inbox, WorkerProcess
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Topology
from worker.emulator.run import Emulator


def notification(notification_id: str, tenant: str, **fields: object) -> Notification:
    given = {"to": ["jana@contoso.example"], "subject": "Hello", "text": "Hello.", **fields}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "id": notification_id, "tenant": tenant, **given})


def accepted(emulator: Emulator) -> list[dict[str, object]]:
    log = emulator.accepted.log
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


@pytest.mark.row("ELX-S11")
async def test_tenant_without_mailbox_is_sent_through_the_default_one_over_oauth(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("n-1", "contoso"))
    assert result.status is DeliveryStatus.ACCEPTED
    assert result.mailbox is not None
    assert (result.mailbox.name, result.mailbox.because) == ("platform", Because.DEFAULT)
    (mail,) = accepted(emulator)
    assert (mail["mechanism"], mail["login"]) == ("XOAUTH2", "notifications@contoso.example")
    assert str(mail["tls"]).startswith("TLSv1")
    assert mail["message_id"] == result.message_id
    assert emulator.authority.requests == 1


@pytest.mark.row("ELX-S11")
async def test_tenant_with_a_mailbox_of_its_own_is_sent_through_that_by_password(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("n-1", "fabrikam"))
    assert result.mailbox is not None
    assert result.mailbox.because is Because.OWN
    assert [mail["mechanism"] for mail in accepted(emulator)] == ["LOGIN"]


async def test_tenant_with_a_pickup_directory_gets_its_mail_as_a_file(
    worker: WorkerProcess, pickup: Path, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("n-1", "zlin", subject="Příliš žluťoučký kůň"))
    assert result.status is DeliveryStatus.HANDED_OVER
    (file,) = pickup.glob("*.eml")
    assert email.message_from_bytes(file.read_bytes(), policy=email.policy.default)["Subject"] == "Příliš žluťoučký kůň"


async def test_every_result_reaches_the_results_exchange_too(
    worker: WorkerProcess, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(notification("n-1", "contoso", metadata={"ticket": 42}))
    result = await inbox.final("n-1")
    assert (result.status, result.metadata) == (DeliveryStatus.ACCEPTED, {"ticket": 42})


async def test_expired_token_is_replaced_and_nothing_is_lost(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.send(notification("before", "contoso"))
        emulator.expire_tokens()
        result = await post.send(notification("after", "contoso"))
    assert (result.status, result.attempt) == (DeliveryStatus.ACCEPTED, 1)
    assert [mail["notification_id"] for mail in accepted(emulator)] == ["before", "after"]
    assert emulator.authority.requests == 2


async def test_temporary_refusal_waits_in_the_broker_and_is_told_as_deferred(
    worker: WorkerProcess, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    both = notification("n-1", "fabrikam", to=["busy@fabrikam.example", "jana@fabrikam.example"])
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(both)
    await inbox.until(lambda results: sum(item.attempt == 3 for item in results) == 1)
    first, second, third = inbox.of("n-1")[:3]
    assert {item.status for item in (first, second, third)} == {DeliveryStatus.DEFERRED}
    assert first.next_attempt_at is not None
    statuses = {item.address: str(item.status) for item in third.recipients}
    assert statuses == {"busy@fabrikam.example": "deferred", "jana@fabrikam.example": "accepted"}


async def test_deferred_recipient_is_retried_alone(
    worker: WorkerProcess, emulator: Emulator, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    both = notification("n-1", "fabrikam", to=["busy@fabrikam.example", "jana@fabrikam.example"])
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(both)
    await inbox.until(lambda results: len(results) >= 3)
    assert [mail["rcpt_to"] for mail in accepted(emulator)] == [["jana@fabrikam.example"]]


async def test_lost_answer_to_the_final_dot_is_in_doubt_and_never_sent_again(
    worker: WorkerProcess, emulator: Emulator, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("n-1", "fabrikam", to=["lost-250@fabrikam.example"]))
        again = await post.send(notification("n-1", "fabrikam", to=["lost-250@fabrikam.example"]))
    assert result.status is again.status is DeliveryStatus.IN_DOUBT
    assert len(accepted(emulator)) == 1


async def test_lost_answer_is_sent_again_if_the_producer_said_that_does_no_harm(
    worker: WorkerProcess, emulator: Emulator, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    again = notification("n-1", "fabrikam", to=["lost-250@fabrikam.example"], on_doubt=OnDoubt.RESEND)
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(again)
    await inbox.until(lambda results: len(results) >= 2)
    mails = accepted(emulator)
    assert len(mails) >= 2
    assert len({mail["message_id"] for mail in mails}) == 1


async def test_refused_notification_becomes_a_dead_letter_with_its_octets(
    worker: WorkerProcess, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    body = '{"type": "postlane.notification.v1", "id": "n-1", "tenant": "contoso", "subject": "ž"}'.encode()
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish_bytes(body, "contoso", message_id="n-1")
    result = await inbox.final("n-1")
    assert result.status is DeliveryStatus.REJECTED
    assert await worker.stop() == 0  # the result comes first: what is under way is finished before the worker ends
    dead = await dead_letters(address, topology)
    assert [(letter[0], letter[1]["x-postlane-reason"]) for letter in dead] == [(body, "malformed")]


async def test_same_id_again_is_answered_with_the_recorded_result_and_no_second_mail(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        first = await post.send(notification("n-1", "contoso"))
        second = await post.send(notification("n-1", "contoso"))
    assert first == second
    assert len(accepted(emulator)) == 1


async def test_same_id_with_other_content_is_rejected(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.send(notification("n-1", "contoso"))
        second = await post.send(notification("n-1", "contoso", subject="Something else"))
    assert second.status is DeliveryStatus.REJECTED
    assert second.reason is not None
    assert second.reason.kind == "duplicate-id"
    assert len(accepted(emulator)) == 1


async def dead_letters(address: BrokerAddress, topology: Topology) -> list[tuple[bytes, dict[str, object]]]:
    letters = []
    async with await open_connection(address, "test") as connection, connection.channel() as channel:
        queue = await channel.get_queue(topology.dead, ensure=False)
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            letters.append((message.body, dict(message.headers)))
    return letters


async def test_nothing_is_left_unacknowledged(
    worker: WorkerProcess, inbox: Inbox, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        for number in range(20):
            await post.publish(notification(f"n-{number}", "contoso" if number % 2 else "fabrikam"))
    await inbox.until(lambda results: len(results) == 20)
    assert await worker.stop() == 0
    lanes = [row async for row in topologies.depths(address, topology) if row[0].startswith(topology.lane_stem)]
    assert [ready for _, ready, _ in lanes] == [0, 0]


async def test_notification_that_is_taken_back_in_time_is_not_sent(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology, inbox: Inbox
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(notification("n-1", "contoso", not_before=later))
        cancelled = await post.cancel("n-1", "contoso")
        repeated = await post.send(notification("n-1", "contoso", not_before=later))
    assert cancelled.status is DeliveryStatus.CANCELLED
    assert repeated == cancelled
    await worker.stop()
    assert accepted(emulator) == []


async def test_notification_that_is_taken_back_too_late_keeps_its_result(
    worker: WorkerProcess, emulator: Emulator, address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        result = await post.send(notification("n-1", "contoso"))
        assert await post.cancel("n-1", "contoso") == result
