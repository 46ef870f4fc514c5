"""The producer's ten lines: confirmed, refused in words, and answered by the final result."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.exceptions import ProbableAuthenticationError
from yarl import URL

from contracts.delivery import DeliveryStatus, Result
from contracts.notification import NOTIFICATION_TYPE, Notification, Priority
from contracts.publisher import DIRECT_REPLY, NotPublished, Publisher, publisher
from contracts.wire import encode
from tests.adapters.broker.conftest import PASSWORD, Logins
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Lines,
    Script,
    answer,
    channel_on,
    done,
    serving,
    taken,
    waiting_in,
)
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Decision, WaitUntil


def note(notification_id: str = "n-1", tenant: str = "contoso", **fields: Any) -> Notification:
    given = {"to": ["jana@contoso.example"], "subject": "Hello", "text": "Hello.", **fields}
    return Notification.model_validate({"type": NOTIFICATION_TYPE, "id": notification_id, "tenant": tenant, **given})


async def test_published_notification_lies_in_a_lane_as_the_contract_says(
    address: BrokerAddress, topology: Topology
) -> None:
    notification = note(priority=Priority.HIGH)
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(notification)
    (lane,) = await waiting_in(address, topology)
    (message,) = await taken(address, lane)
    assert message.body == encode(notification)
    assert (message.message_id, message.routing_key) == ("n-1", "t.contoso")
    assert (message.content_type, message.user_id) == ("application/json", address.login)
    assert message.delivery_mode is DeliveryMode.PERSISTENT
    assert str(message.reply_to).startswith(f"{DIRECT_REPLY}.")
    assert message.timestamp is not None
    assert abs(message.timestamp - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(("priority", "amqp"), [("high", 8), ("normal", 4), ("low", 1)])
async def test_priority_becomes_the_amqp_one(
    address: BrokerAddress, topology: Topology, priority: str, amqp: int
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        await post.publish(note(priority=Priority(priority)))
    (lane,) = await waiting_in(address, topology)
    (message,) = await taken(address, lane)
    assert message.priority == amqp


async def test_send_tells_the_deferred_results_and_gives_the_final_one(
    address: BrokerAddress, topology: Topology
) -> None:
    def later(intake: Intake) -> Decision:
        deferred = answer(intake, DeliveryStatus.DEFERRED)
        return Decision((deferred,), WaitUntil(datetime.now(UTC)), "the carry")

    told: list[Result] = []
    async with (
        serving(address, topology, Desk(Script(later, done))),
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        result = await post.send(note(), on_result=told.append)
    assert [each.status for each in told] == [DeliveryStatus.DEFERRED, DeliveryStatus.ACCEPTED]
    assert result == told[-1]


async def test_results_go_to_who_waits_for_them_whatever_their_order(
    address: BrokerAddress, topology: Topology
) -> None:
    async def slow_first(intake: Intake) -> Decision:
        if intake.properties.message_id == "n-0":
            await second.wait()
        second.set()
        return done(intake)

    second = asyncio.Event()
    async with (
        serving(address, topology, Desk(slow_first)),
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        results = await asyncio.gather(*(post.send(note(f"n-{number}"), SOON) for number in range(5)))
    assert [result.notification_id for result in results] == [f"n-{number}" for number in range(5)]


async def test_two_tenants_with_the_same_id_get_each_its_own_result(address: BrokerAddress, topology: Topology) -> None:
    """Ids are unique per tenant only; a portal publishes for many."""

    def told(intake: Intake) -> Decision:
        tenant = intake.properties.routing_key.removeprefix("t.")
        return Decision((answer(intake, tenant=tenant, event_id=tenant),), done(intake).disposition)

    async with (
        serving(address, topology, Desk(told)),
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        each = await asyncio.gather(*(_tenant_of(post.send(note("1", tenant), 2)) for tenant in ("one", "two")))
    assert each == ["one", "two"]


async def _tenant_of(sending: Any) -> str | None:
    try:
        return (await sending).tenant
    except TimeoutError:
        return "no answer"


async def test_same_notification_sent_twice_at_once_answers_both(address: BrokerAddress, topology: Topology) -> None:
    async with (
        serving(address, topology, Desk()),
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        both = await asyncio.gather(*(_tenant_of(post.send(note("1"), 2)) for _ in range(2)))
    assert both == ["contoso", "contoso"]


async def test_send_without_a_worker_ends_with_the_time_and_the_notification_stays(
    address: BrokerAddress, topology: Topology
) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await post.send(note(), timeout=0.5)
        assert time.monotonic() - started < SOON
    assert list((await waiting_in(address, topology)).values()) == [1]


async def test_answer_that_is_no_result_is_left_aside(address: BrokerAddress, topology: Topology) -> None:
    desk = Desk()
    desk.close()
    async with (
        serving(address, topology, desk),
        publisher(address.url, prefix=topology.prefix) as post,
        channel_on(address) as channel,
    ):
        sending = asyncio.create_task(post.send(note(), SOON))
        reply_to = (await desk.asked()).intake.properties.reply_to
        for body in (b"", b"{}", b'{"type": "postlane.result.v2"}', b"\xff"):
            await channel.default_exchange.publish(Message(body), str(reply_to), mandatory=False)
        desk.open()
        assert (await sending).status is DeliveryStatus.ACCEPTED


# ---------------------------------------------------------------- not published


async def test_missing_exchange_is_explained(address: BrokerAddress) -> None:
    async with publisher(address.url, prefix="nowhere") as post:
        with pytest.raises(NotPublished) as refused:
            await post.publish(note())
    assert str(refused.value) == (
        "there is no exchange 'nowhere.notifications': Postlane's topology is not on this broker or virtual host"
    )


async def test_exchange_that_leads_nowhere_is_explained(address: BrokerAddress) -> None:
    async with channel_on(address) as channel:
        await channel.declare_exchange("halfway.notifications", "topic", auto_delete=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("halfway.notifications", "t.somebody-else")
        async with publisher(address.url, prefix="halfway") as post:
            with pytest.raises(NotPublished, match=r"'halfway\.notifications' leads nowhere: run `postlane topology"):
                await post.publish(note())


async def test_full_queue_is_explained_in_words(address: BrokerAddress) -> None:
    """RabbitMQ's nack; the library's own text for it is a Python expression."""
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    async with channel_on(address) as channel:
        await channel.declare_exchange("brimful.notifications", "topic", auto_delete=True)
        queue = await channel.declare_queue("brimful.lane", durable=True, arguments=arguments)
        try:
            await queue.bind("brimful.notifications", "#")
            async with publisher(address.url, prefix="brimful") as post:
                with pytest.raises(NotPublished) as refused:
                    await _publish_many(post, 50)  # `reject-publish` is soft: the limit may be overshot
        finally:
            await channel.queue_delete("brimful.lane")
    assert "delivery_tag" not in str(refused.value)
    assert "full" in str(refused.value) or "refuse" in str(refused.value)


async def _publish_many(post: Publisher, count: int) -> None:
    for number in range(count):
        await post.publish(note(f"n-{number}"))


async def test_login_without_the_right_is_explained(topology: Topology, logins: Logins) -> None:
    own = logins.add("a-reader", write="^$")
    async with publisher(own.url, prefix=topology.prefix) as post:
        with pytest.raises(NotPublished) as refused:
            await post.publish(note())
    assert f"this login may not publish to '{topology.notifications}' for this tenant" in str(refused.value)
    assert "ACCESS_REFUSED" in str(refused.value)
    assert PASSWORD not in str(refused.value)


async def test_refusal_does_not_spoil_the_next_notification(
    address: BrokerAddress, topology: Topology, logins: Logins
) -> None:
    """The broker closes the channel on a refusal; who was refused once must be able to publish again."""
    own = logins.add("a-producer-too", write="^$")
    async with publisher(own.url, prefix=topology.prefix) as post:
        with pytest.raises(NotPublished):
            await post.publish(note("refused"))
        logins.add("a-producer-too")
        await post.publish(note("allowed"))
    (lane,) = await waiting_in(address, topology)
    (message,) = await taken(address, lane)
    assert message.message_id == "allowed"


async def test_line_that_breaks_before_the_confirmation_is_not_published(lines: Lines, topology: Topology) -> None:
    async with publisher(lines.address.url, prefix=topology.prefix) as post:
        lines.lines[0].hold(up=False)
        publishing = asyncio.create_task(post.publish(note()))
        async with asyncio.timeout(SOON):
            while not await waiting_in(lines._address, topology):
                pass
        lines.cut()
        with pytest.raises(NotPublished) as lost:
            await publishing
    assert str(lost.value)


async def test_line_that_breaks_while_waiting_ends_the_wait(lines: Lines, topology: Topology) -> None:
    """The answer can only come over the line that is gone; a minute's silence would say nothing more."""
    async with publisher(lines.address.url, prefix=topology.prefix) as post:
        sending = asyncio.create_task(post.send(note(), timeout=20))
        async with asyncio.timeout(SOON):
            while not await waiting_in(lines._address, topology):
                pass
        lines.cut()
        await asyncio.wait((sending,), timeout=2)
        assert sending.done()
        sending.cancel()


async def test_forged_login_is_refused_by_the_broker(address: BrokerAddress, topology: Topology) -> None:
    async with publisher(address.url, prefix=topology.prefix) as post:
        post._login = "somebody-else"
        with pytest.raises(NotPublished, match="user_id"):
            await post.publish(note())


async def test_wrong_password_is_the_librarys_error_without_it(address: BrokerAddress) -> None:
    wrong = str(URL(address.url).with_password(PASSWORD))
    with pytest.raises(ProbableAuthenticationError) as refused:
        async with publisher(wrong):
            pytest.fail("it cannot have been let in")
    assert PASSWORD not in f"{refused.value!r} {refused.value}"
