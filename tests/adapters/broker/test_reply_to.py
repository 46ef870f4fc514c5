"""Copies of results to whom the producer names: a courtesy that may fail, and never costs the result itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aio_pika.abc import AbstractIncomingMessage

from contracts.delivery import DeliveryStatus, Result
from contracts.publisher import DIRECT_REPLY
from tests.adapters.broker.conftest import Logins
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Post,
    Script,
    answer,
    channel_on,
    done,
    ready,
    serving,
    waiting_in,
)
from tests.neighbours import Inbox
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Decision, WaitUntil
from worker.events import BrokerDown, Concluded, ReplyFailed

Replies = asyncio.Queue[AbstractIncomingMessage]


@asynccontextmanager
async def asking(address: BrokerAddress, topology: Topology) -> AsyncIterator[tuple[Post, Replies]]:
    """A producer who listens on RabbitMQ's direct reply-to."""
    replies: Replies = asyncio.Queue()
    async with channel_on(address) as channel:
        pseudo = await channel.get_queue(DIRECT_REPLY, ensure=False)
        await pseudo.consume(replies.put, no_ack=True)
        yield Post(channel, topology), replies


async def test_direct_reply_brings_the_result_to_who_asked(
    address: BrokerAddress, topology: Topology, inbox: Inbox
) -> None:
    async with serving(address, topology, Desk()) as served, asking(address, topology) as (post, replies):
        await post("n-1", reply_to=DIRECT_REPLY, correlation_id="c-1")
        message = await asyncio.wait_for(replies.get(), SOON)
        result = await inbox.final("n-1")
        await served.events.until(Concluded)
    assert Result.model_validate_json(message.body) == result
    assert (message.correlation_id, message.content_type) == ("c-1", "application/json")


async def test_direct_reply_that_arrived_is_not_reported_as_failed(address: BrokerAddress, topology: Topology) -> None:
    """RabbitMQ returns a mandatory message to a direct reply address as unroutable even when it has delivered it."""
    async with serving(address, topology, Desk()) as served, asking(address, topology) as (post, replies):
        await post("n-1", reply_to=DIRECT_REPLY)
        await asyncio.wait_for(replies.get(), SOON)
        await served.events.until(Concluded)
    assert served.events.of(ReplyFailed) == []


async def test_every_result_is_copied_the_deferred_ones_too(address: BrokerAddress, topology: Topology) -> None:
    def later(intake: Intake) -> Decision:
        deferred = answer(intake, DeliveryStatus.DEFERRED)
        return Decision((deferred,), WaitUntil(datetime.now(UTC)), "the carry")

    async with serving(address, topology, Desk(Script(later, done))), asking(address, topology) as (post, replies):
        await post("n-1", reply_to=DIRECT_REPLY)
        statuses = [Result.model_validate_json((await asyncio.wait_for(replies.get(), SOON)).body) for _ in range(2)]
    assert [result.status for result in statuses] == [DeliveryStatus.DEFERRED, DeliveryStatus.ACCEPTED]


async def test_queue_of_the_producers_own_gets_the_copy(address: BrokerAddress, topology: Topology) -> None:
    async with serving(address, topology, Desk()) as served, channel_on(address) as channel:
        queue = await channel.declare_queue(exclusive=True)
        await Post(channel, topology)("n-1", reply_to=queue.name)
        await served.events.until(Concluded)
        message = await queue.get(timeout=SOON)
    assert message is not None
    assert Result.model_validate_json(message.body).notification_id == "n-1"
    assert served.events.of(ReplyFailed) == []


@pytest.mark.parametrize(
    "reply_to",
    ["a.queue.that.is.gone", "amq.gen-AAAAAAAAAAAAAAAAAAAAAA", f"{DIRECT_REPLY}.nonsense", "x" * 255, "ř" * 100],
    ids=["gone", "generated-name", "direct-reply-nonsense", "long", "not-ascii"],
)
async def test_reply_that_nobody_takes_is_reported_and_costs_nothing(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox, reply_to: str
) -> None:
    async with serving(address, topology, Desk()) as served:
        await post("n-1", reply_to=reply_to)
        await inbox.final("n-1")
        failed = await served.events.until(ReplyFailed, patience=SOON)
        await served.events.until(Concluded)
        assert served.events.of(BrokerDown) == []
    assert failed == ReplyFailed("n-1", f"nobody listens on {reply_to!r} any more")
    assert await waiting_in(address, topology) == {}


async def test_direct_reply_to_a_producer_that_has_left_is_reported(
    address: BrokerAddress, topology: Topology, inbox: Inbox
) -> None:
    desk = Desk()
    desk.close()
    async with serving(address, topology, desk) as served:
        async with asking(address, topology) as (post, _replies):
            await post("n-1", reply_to=DIRECT_REPLY)
            await desk.asked()
        desk.open()
        await inbox.final("n-1")
        failed = await served.events.until(ReplyFailed, patience=SOON)
    assert "nobody listens on 'amq.rabbitmq.reply-to." in failed.problem
    assert await waiting_in(address, topology) == {}


@pytest.mark.parametrize("queue", ["lane.00", "dead", "wait.1", "results.unclaimed", "made-up"])
async def test_queue_of_postlanes_own_is_refused(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox, queue: str
) -> None:
    """A result in a lane would be a notification, one in the dead letters a lie."""
    name = f"{topology.prefix}.{queue}"
    async with serving(address, topology, Desk()) as served:
        await post("n-1", reply_to=name)
        await inbox.final("n-1")
        failed = await served.events.until(ReplyFailed, patience=SOON)
    assert failed.problem == f"'{name}' is a queue of Postlane's own"
    assert await waiting_in(address, topology) == {}


@pytest.mark.parametrize("count", [1, 40], ids=["one", "forty-at-once"])
async def test_worker_without_the_right_to_reply_says_which_and_still_publishes_the_results(
    address: BrokerAddress, topology: Topology, inbox: Inbox, logins: Logins, count: int
) -> None:
    prefix = topology.prefix.replace("-", r"\-")
    own = logins.add("a-worker", write=rf"^{prefix}\..*$")
    wanted = {f"n-{number}" for number in range(count)}
    async with serving(own, topology, Desk(), concurrency=32, prefetch=100) as served, channel_on(address) as channel:
        queue = await channel.declare_queue(exclusive=True)
        post = Post(channel, topology)
        await asyncio.gather(*(post(name, reply_to=queue.name) for name in sorted(wanted)))
        await inbox.until(lambda results: {result.notification_id for result in results} == wanted)
        failed = await served.events.until(ReplyFailed, count)
        assert served.events.of(BrokerDown) == [], "one refused courtesy must not cost the link"
        assert await ready(address, topology.dead) == 0
    assert "amq.default" in failed.problem
    assert "write right" in failed.problem
    assert len(inbox.results) == count


async def test_refused_reply_does_not_keep_the_next_one_from_coming(
    address: BrokerAddress, topology: Topology, inbox: Inbox
) -> None:
    async with serving(address, topology, Desk()) as served, asking(address, topology) as (post, replies):
        await post("n-1", reply_to="a.queue.that.is.gone")
        await served.events.until(ReplyFailed)
        await post("n-2", reply_to=DIRECT_REPLY)
        message = await asyncio.wait_for(replies.get(), SOON)
    assert Result.model_validate_json(message.body).notification_id == "n-2"
