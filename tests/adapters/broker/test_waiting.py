"""Waiting in the broker: through the ladder of wait queues, with all that belongs to the message, never early."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import DeliveryMode

from contracts.publisher import DIRECT_REPLY
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Post,
    Script,
    channel_on,
    forgotten,
    raw_posting,
    serving,
    taken,
    until_ready,
    wait_until,
    waiting_in,
)
from worker.broker.connection import BrokerAddress
from worker.broker.topology import WAITS, Topology, rung
from worker.courier import Intake
from worker.domain.decision import DeadLetter, Decision, WaitUntil


def now() -> datetime:
    return datetime.now(UTC)


def in_seconds(seconds: float, carry: str = "the carry") -> Any:
    """Park it for so long, counted from the moment of deciding."""
    return lambda _intake: Decision((), WaitUntil(now() + timedelta(seconds=seconds)), carry)


async def test_message_comes_back_at_the_right_time_through_several_wait_queues(
    address: BrokerAddress, topology: Topology, foreign_post: Post, producer: BrokerAddress
) -> None:
    """Five seconds and a bit: four in one queue, one in the next, the rest in the worker's memory."""
    body = b'{"\xc5\x99\xc3\xa1dn\xc3\xbd": "JSON"}\r\n\x00'
    stamp = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
    properties: dict[str, Any] = {
        "message_id": "n-1",
        "correlation_id": "c-1",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "reply_to": "a.reply.queue",
        "type": "a-type",
        "app_id": "an-app",
        "timestamp": stamp,
        "priority": 7,
        "user_id": producer.login,
        "headers": {"traceparent": "00-1", "x-list": [1, "zwei", {"drei": 3.5}], "x-none": None, "x-true": True},
    }
    until = now() + timedelta(seconds=5.8)
    desk = Desk(Script(wait_until(until, '{"the":"carry"}'), forgotten))
    async with serving(address, topology, desk):
        await foreign_post(body, **properties)
        first = await desk.asked()
        await until_ready(address, topology.wait(4), 1)
        await until_ready(address, topology.wait(1), 1)
        second = await desk.asked(2)
    assert timedelta() <= second.when - until < timedelta(seconds=1)
    assert second.intake.body == body
    assert second.intake.carry == '{"the":"carry"}'
    assert second.intake.reserved == ()
    before, after = first.intake.properties, second.intake.properties
    assert (after.message_id, after.correlation_id, after.reply_to) == ("n-1", "c-1", "a.reply.queue")
    assert (after.user_id, after.timestamp) == (producer.login, stamp)
    assert (after.content_type, after.content_encoding) == ("application/json", "utf-8")
    assert after.routing_key == before.routing_key == "t.contoso"
    assert {name: after.headers[name] for name in properties["headers"]} == properties["headers"]
    assert await waiting_in(address, topology) == {}


async def test_progress_of_several_attempts_travels_along(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desk = Desk(Script(in_seconds(0.2, "one"), in_seconds(0.2, "two"), in_seconds(0.2, ""), forgotten))
    async with serving(address, topology, desk):
        await post("n-1")
        await desk.asked(4)
    assert [call.intake.carry for call in desk.calls] == ["", "one", "two", ""]
    assert desk.ids == ["n-1"] * 4


async def test_properties_survive_waiting_and_come_whole_into_the_dead_letter(
    address: BrokerAddress, topology: Topology, foreign_post: Post, producer: BrokerAddress
) -> None:
    body = b"\x00\xff not JSON \r\n.\r\n"
    desk = Desk(Script(in_seconds(0), lambda _: Decision((), DeadLetter("given-up", "Enough."))))
    async with serving(address, topology, desk):
        await foreign_post(
            body,
            message_id="n-1",
            correlation_id="c-1",
            reply_to="a.reply.queue",
            content_type="text/plain",
            type="a-type",
            app_id="an-app",
            priority=2,
            user_id=producer.login,
            headers={"x-kept": "yes"},
        )
        (letter,) = await taken(address, topology.dead)
    assert letter.body == body
    assert (letter.correlation_id, letter.reply_to, letter.content_type) == ("c-1", "a.reply.queue", "text/plain")
    assert (letter.type, letter.app_id, letter.priority) == ("a-type", "an-app", 2)
    assert letter.headers["x-postlane-producer"] == producer.login
    assert letter.headers["x-postlane-message-id"] == "n-1"
    assert letter.headers["x-postlane-reason"] == "given-up"
    assert letter.headers["x-kept"] == "yes"


async def test_direct_reply_address_survives_waiting(address: BrokerAddress, topology: Topology) -> None:
    desk = Desk(Script(in_seconds(0), forgotten))
    async with serving(address, topology, desk), channel_on(address) as channel:
        replies = await channel.get_queue(DIRECT_REPLY, ensure=False)
        await replies.consume(asyncio.Queue().put, no_ack=True)
        await Post(channel, topology)("n-1", reply_to=DIRECT_REPLY)
        await desk.asked(2)
    first, second = (call.intake.properties.reply_to for call in desk.calls)
    assert first is not None
    assert first.startswith(f"{DIRECT_REPLY}.")
    assert second == first


async def test_copies_ordered_by_headers_and_history_of_the_broker_are_left_behind(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    """CC and BCC would send copies to queues of the producer's choice, with the worker's rights."""
    async with channel_on(address) as channel:
        queue = await channel.declare_queue(exclusive=True)
        headers = {
            "CC": [queue.name],
            "BCC": [queue.name],
            "Cc": queue.name,
            "x-death": [{"queue": "elsewhere", "reason": "expired", "count": 3}],
            "x-first-death-queue": "elsewhere",
            "x-last-death-queue": "elsewhere",
            "x-opt-whatever": 1,
            "x-kept": "yes",
        }
        await queue.bind(topology.wait(1), "")
        desk = Desk(Script(in_seconds(0), forgotten))
        async with serving(address, topology, desk):
            await post("n-1", headers=headers)
            again = (await desk.asked(2)).intake.properties
        copy = await queue.get(timeout=SOON)
        assert copy is not None
        assert await queue.get(fail=False) is None
    ours = {"x-postlane-not-before", "x-postlane-carry", "x-postlane-producer", "x-postlane-message-id"}
    assert set(copy.headers) - ours == {"x-kept"}
    deaths = again.headers["x-death"]
    assert isinstance(deaths, list)
    assert [death["queue"] for death in deaths] == [topology.wait(1)]


async def test_message_in_a_wait_queue_is_persistent_and_has_an_id_of_its_own(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    async with serving(address, topology, Desk(in_seconds(7200))):
        await post("n-1", delivery_mode=DeliveryMode.NOT_PERSISTENT, expiration=60)
        (copy,) = await taken(address, topology.wait(3600))
    assert copy.delivery_mode is DeliveryMode.PERSISTENT
    assert copy.expiration is None
    assert copy.message_id not in {None, "n-1"}
    assert copy.headers["x-postlane-message-id"] == "n-1"
    assert copy.routing_key == "t.contoso"


async def test_message_without_an_id_stays_without_one(address: BrokerAddress, topology: Topology) -> None:
    desk = Desk(Script(in_seconds(0), forgotten))
    async with serving(address, topology, desk):
        async with raw_posting(address, topology) as raw:
            await raw(b"{}", 0, b"")
        second = await desk.asked(2)
    assert [call.intake.properties.message_id for call in desk.calls] == [None, None]
    assert second.intake.carry == "the carry"


@pytest.mark.parametrize(
    ("seconds", "queue"),
    [(-3600, 1), (0, 1), (0.4, 1), (1.9, 1), (2, 1), (2.1, 2), (63, 32), (130, 128), (3599, 2048), (86_400 * 30, 3600)],
    ids=str,
)
async def test_wait_is_the_longest_that_is_not_too_long(
    address: BrokerAddress, topology: Topology, post: Post, seconds: float, queue: int
) -> None:
    """Exactly two seconds are less than two by the time they are measured."""
    async with serving(address, topology, Desk(in_seconds(seconds))) as served:
        await post("n-1")
        await until_ready(address, topology.wait(queue), 1)
        served.worker.stop()


def test_every_wait_ends_in_few_hops() -> None:
    for wait in (5, 59, 3599, 86_400):
        left, hops = float(wait), 0
        while left > 0:
            left -= rung(left)
            hops += 1
        assert hops <= 12 + wait // max(WAITS)


async def test_nothing_is_delivered_early_not_even_by_a_fraction_of_a_millisecond(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    """A notification that comes before its `not_before` is sent round once more, and so comes a second late."""
    until = (now() + timedelta(seconds=1.6)).replace(microsecond=0) + timedelta(seconds=1, microseconds=999)

    def once(intake: Intake) -> Decision:
        return forgotten(intake) if intake.carry else Decision((), WaitUntil(until), "waited")

    desk = Desk(once)
    async with serving(address, topology, desk, concurrency=64, prefetch=100):
        await post.many([f"n-{number}" for number in range(40)])
        await desk.asked(80)
    early = [until - call.when for call in desk.calls if call.intake.carry and call.when < until]
    assert early == []


async def test_many_that_wait_together_come_back_together_and_none_is_lost(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    until = now() + timedelta(seconds=2.5)

    def once(intake: Intake) -> Decision:
        return forgotten(intake) if intake.carry else Decision((), WaitUntil(until), "waited")

    desk = Desk(once)
    async with serving(address, topology, desk, prefetch=10):
        await asyncio.gather(*(post(f"n-{number}", f"tenant-{number % 7}") for number in range(100)))
        await desk.asked(200)
    back = [call for call in desk.calls if call.intake.carry]
    assert len(back) == 100
    assert {call.intake.properties.message_id for call in back} == {f"n-{number}" for number in range(100)}
    assert max(call.when for call in back) - until < timedelta(seconds=2)
    assert await waiting_in(address, topology) == {}


async def test_tenant_keeps_its_lane_while_it_waits(address: BrokerAddress, topology: Topology, post: Post) -> None:
    """Seen by where the message lies after it has come back to a worker that is gone."""
    desk = Desk(in_seconds(0.9))
    async with serving(address, topology, desk) as served:
        await post("n-1", "fabrikam")
        await until_ready(address, topology.wait(1), 1)
        await served.stopped()
    async with asyncio.timeout(SOON):
        while not any(name.startswith(topology.lane_stem) for name in await waiting_in(address, topology)):
            pass
    (after,) = await waiting_in(address, topology)
    await taken(address, after)
    await post("n-2", "fabrikam")
    assert await waiting_in(address, topology) == {after: 1}


# ---------------------------------------------------------------- whose hops are believed


async def test_headers_that_a_producer_forged_are_reported_and_not_believed(
    address: BrokerAddress, topology: Topology, foreign_post: Post, producer: BrokerAddress
) -> None:
    tomorrow = int((now() + timedelta(days=1)).timestamp() * 1000)
    forged = {
        "x-postlane-carry": "forged",
        "X-Postlane-Producer": "somebody-else",
        "x-postlane-not-before": tomorrow,
        "x-postlane-message-id": "another",
    }
    desk = Desk(forgotten)
    async with serving(address, topology, desk):
        await foreign_post("n-1", user_id=producer.login, headers=forged)
        intake = (await desk.asked(patience=SOON)).intake
    assert intake.reserved == tuple(sorted(forged))
    assert intake.carry == ""
    assert (intake.properties.message_id, intake.properties.user_id) == ("n-1", producer.login)


async def test_headers_are_not_believed_without_a_user_id(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desk = Desk(forgotten)
    async with serving(address, topology, desk):
        await post("n-1", headers={"x-postlane-carry": "forged", "x-postlane-producer": "somebody-else"})
        intake = (await desk.asked()).intake
    assert intake.reserved == ("x-postlane-carry", "x-postlane-producer")
    assert (intake.carry, intake.properties.user_id) == ("", None)


async def test_forged_headers_are_not_handed_on_through_a_wait_queue(
    address: BrokerAddress, topology: Topology, foreign_post: Post, producer: BrokerAddress
) -> None:
    desk = Desk(Script(in_seconds(0, "ours"), forgotten))
    async with serving(address, topology, desk):
        await foreign_post("n-1", headers={"x-postlane-producer": "root", "x-postlane-extra": "1"})
        second = (await desk.asked(2)).intake
    assert second.carry == "ours"
    assert second.properties.user_id is None
    assert "x-postlane-extra" not in second.properties.headers


async def test_own_hop_of_a_producer_without_a_name_stays_without_one(
    address: BrokerAddress, topology: Topology, foreign_post: Post
) -> None:
    """Otherwise a message would come back from a wait queue with the worker's own login as its producer."""
    desk = Desk(Script(in_seconds(0), forgotten))
    async with serving(address, topology, desk):
        await foreign_post("n-1")
        second = await desk.asked(2)
    assert second.intake.properties.user_id is None
