"""What becomes of a delivery: results first and confirmed, then the message's fate, the acknowledgement last."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aio_pika import DeliveryMode

from contracts.delivery import DeliveryStatus
from contracts.wire import encode
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Lines,
    Post,
    Script,
    answer,
    buried,
    channel_on,
    done,
    forgotten,
    killed,
    ready,
    serving,
    taken,
    until_ready,
    wait_until,
    waiting_in,
)
from tests.factories import document, notification
from tests.neighbours import Inbox
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.carry import unpack
from worker.domain.decision import Acknowledge, DeadLetter, Decision
from worker.events import BrokerDown, BrokerUp, Concluded, Crashed


async def test_acknowledged_message_brings_its_result_and_leaves_nothing_behind(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    desk = Desk()
    async with serving(address, topology, desk) as served:
        await post("n-1", correlation_id="c-1")
        result = await inbox.final("n-1")
        concluded = await served.events.until(Concluded)
    assert (result.status, result.correlation_id) == (DeliveryStatus.ACCEPTED, "c-1")
    assert concluded.result == result
    assert await waiting_in(address, topology) == {}
    assert len(desk.calls) == 1


async def test_intake_is_what_the_producer_wrote(
    address: BrokerAddress, topology: Topology, foreign_post: Post, producer: BrokerAddress
) -> None:
    desk = Desk(forgotten)
    when = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
    async with serving(address, topology, desk):
        await foreign_post(
            b"\xef\xbb\xbf{}",
            "Contoso-2",
            message_id="n-1",
            correlation_id="c-1",
            content_type="application/cloudevents+json",
            content_encoding="identity",
            timestamp=when,
            user_id=producer.login,
            headers={"traceparent": "00-1"},
        )
        intake = (await desk.asked()).intake
    properties = intake.properties
    assert intake.body == b"\xef\xbb\xbf{}"
    assert (properties.message_id, properties.correlation_id, properties.user_id) == ("n-1", "c-1", "a-producer")
    assert (properties.content_type, properties.content_encoding) == ("application/cloudevents+json", "identity")
    assert (properties.timestamp, properties.routing_key) == (when, "t.Contoso-2")
    assert properties.headers["traceparent"] == "00-1"
    assert (intake.carry, intake.reserved) == ("", ())


async def test_decision_without_a_result_is_acknowledged_without_a_word(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    desk = Desk(forgotten)
    async with serving(address, topology, desk):
        await post("n-1")
        await desk.asked()
    assert await waiting_in(address, topology) == {}
    assert inbox.results == []


async def test_several_results_of_one_decision_come_in_their_order(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def twice(intake: Intake) -> Decision:
        return Decision((answer(intake, DeliveryStatus.DEFERRED), answer(intake)), Acknowledge())

    async with serving(address, topology, Desk(twice)):
        await post("n-1")
        await inbox.final("n-1")
    assert [result.status for result in inbox.of("n-1")] == [DeliveryStatus.DEFERRED, DeliveryStatus.ACCEPTED]


async def test_result_is_an_amqp_message_as_the_contract_says(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    async with channel_on(address) as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.results, "r.contoso.accepted")
        found: asyncio.Queue[object] = asyncio.Queue()
        await queue.consume(found.put, no_ack=True)
        desk = Desk()
        async with serving(address, topology, desk):
            await post("n-1", correlation_id="c-1")
            message = await asyncio.wait_for(found.get(), SOON)
        intake = (await desk.asked()).intake
    result = answer(intake)
    assert message.body == encode(result)
    assert (message.message_id, message.correlation_id) == (result.event_id, "c-1")
    assert (message.content_type, message.type) == ("application/json", "postlane.result.v1")
    assert (message.user_id, message.app_id) == (address.login, "postlane")
    assert message.delivery_mode is DeliveryMode.PERSISTENT
    assert message.timestamp == result.occurred_at


# ---------------------------------------------------------------- publish, confirm, ack


async def test_result_that_could_not_be_published_brings_the_message_back(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def cut(intake: Intake) -> Decision:
        lines.publishing.cut()
        return done(intake)

    desk = Desk(Script(cut, done))
    async with serving(lines.address, topology, desk) as served:
        await post("n-1")
        await inbox.final("n-1")
        assert isinstance(await served.events.until(BrokerDown), BrokerDown)
    assert desk.ids == ["n-1", "n-1"]
    assert await waiting_in(address, topology) == {}


async def test_result_without_a_confirmation_brings_the_message_back(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def unconfirmed(intake: Intake) -> Decision:
        lines.publishing.hold(up=False)
        return done(intake)

    desk = Desk(Script(unconfirmed, done))
    async with serving(lines.address, topology, desk):
        await post("n-1")
        await inbox.final("n-1")  # the broker has the result, the worker does not know
        lines.publishing.cut()
        await desk.asked(2)
        await inbox.until(lambda results: len(results) == 2)
    first, again = inbox.of("n-1")
    assert first.event_id == again.event_id
    assert await waiting_in(address, topology) == {}


async def test_acknowledgement_that_got_lost_brings_the_message_back(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def deaf(intake: Intake) -> Decision:
        lines.consuming.hold(down=False)
        return done(intake)

    desk = Desk(Script(deaf, done))
    async with serving(lines.address, topology, desk) as served:
        await post("n-1")
        await inbox.final("n-1")
        await served.events.until(Concluded)
        lines.consuming.cut()
        await desk.asked(2)
        await served.events.until(Concluded, 2)
    assert await waiting_in(address, topology) == {}


async def test_message_is_not_acknowledged_while_its_result_is_unconfirmed(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def unconfirmed(intake: Intake) -> Decision:
        lines.publishing.hold(up=False)
        return done(intake)

    desk = Desk(Script(unconfirmed, done))
    async with serving(lines.address, topology, desk) as served:
        await post("n-1")
        await inbox.final("n-1")
        await killed(served)
        lines.cut()
        lane = topology.lane(0), topology.lane(1)
        async with asyncio.timeout(SOON):
            while sum([await ready(address, queue) for queue in lane]) == 0:
                pass


@pytest.mark.parametrize(
    ("decide", "where"),
    [(wait_until(datetime.now(UTC) + timedelta(hours=2)), "wait"), (buried, "dead")],
    ids=["parked", "dead-letter"],
)
async def test_copy_that_was_not_confirmed_brings_the_original_back(
    address: BrokerAddress, lines: Lines, topology: Topology, post: Post, decide: object, where: str
) -> None:
    def unconfirmed(intake: Intake) -> Decision:
        lines.publishing.hold(up=False)
        return decide(intake)

    queue = topology.wait(3600) if where == "wait" else topology.dead
    desk = Desk(Script(unconfirmed, forgotten))
    async with serving(lines.address, topology, desk):
        await post("n-1")
        await until_ready(address, queue, 1)
        lines.publishing.cut()
        await desk.asked(2)
    assert await waiting_in(address, topology) == {queue: 1}


# ---------------------------------------------------------------- dead letters


async def test_dead_letter_has_the_octets_and_the_reason(
    address: BrokerAddress, topology: Topology, foreign_post: Post, producer: BrokerAddress
) -> None:
    body = json.dumps(document(subject="Nové heslo")).encode()
    async with serving(address, topology, Desk(buried)):
        await foreign_post(
            body, message_id="n-1", correlation_id="c-1", user_id=producer.login, headers={"x-trace": "42"}
        )
        (letter,) = await taken(address, topology.dead)
    assert letter.body == body
    assert letter.headers["x-postlane-reason"] == "some-class"
    assert letter.headers["x-postlane-explanation"] == "It is so."
    assert letter.headers["x-postlane-carry"] == "the carry"
    assert letter.headers["x-postlane-producer"] == producer.login
    assert letter.headers["x-postlane-message-id"] == "n-1"
    assert letter.headers["x-postlane-routing-key"] == "t.contoso"
    assert letter.headers["x-trace"] == "42"
    assert abs(datetime.fromisoformat(letter.headers["x-postlane-died-at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert (letter.correlation_id, letter.user_id) == ("c-1", address.login)
    assert letter.delivery_mode is DeliveryMode.PERSISTENT


async def test_long_explanation_of_a_dead_letter_is_cut(address: BrokerAddress, topology: Topology, post: Post) -> None:
    async with serving(address, topology, Desk(lambda _: Decision((), DeadLetter("k", "ž" * 200_000)))):
        await post("n-1")
        (letter,) = await taken(address, topology.dead)
    assert letter.headers["x-postlane-explanation"] == "ž" * 1000


async def test_bug_in_deliver_makes_a_dead_letter_and_the_worker_goes_on(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def bug(intake: Intake) -> Decision:
        if intake.properties.message_id == "bad":
            raise ZeroDivisionError("our own mistake")
        return done(intake)

    desk = Desk(bug)
    async with serving(address, topology, desk) as served:
        await post.many(["bad", "good"])
        (letter,) = await taken(address, topology.dead)
        await inbox.final("good")
        assert served.events.of(BrokerDown) == []
        crashed = served.events.of(Crashed)
    assert desk.ids.count("bad") == 1
    assert letter.headers["x-postlane-reason"] == "internal-error"
    assert [(event.where, event.notification_id) for event in crashed] == [("deliver", "bad")]


async def test_bug_in_deliver_is_told_to_the_producer_by_a_final_result(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    def bug(_intake: Intake) -> Decision:
        raise ZeroDivisionError("our own mistake")

    body = json.dumps(document(id="n-1")).encode()
    async with serving(address, topology, Desk(bug)):
        await post(body, message_id="n-1")
        await taken(address, topology.dead)
        result = await inbox.final("n-1", patience=SOON)
    assert result.status is DeliveryStatus.IN_DOUBT, "the bug may have come after the mail had left"
    assert result.reason is not None
    assert result.reason.kind == "internal-error"


async def test_carry_that_cannot_be_read_makes_a_dead_letter(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    def reads(intake: Intake) -> Decision:
        unpack(intake.carry, notification())
        return forgotten(intake)

    desk = Desk(reads)
    async with serving(address, topology, desk) as served:
        await post("n-1", user_id=address.login, headers={"x-postlane-carry": '{"first": "never"}'})
        (letter,) = await taken(address, topology.dead)
        assert len(served.events.of(Crashed)) == 1
    assert letter.headers["x-postlane-reason"] == "internal-error"
    assert letter.headers["x-postlane-carry"] == '{"first": "never"}'
    assert len(desk.calls) == 1


# ---------------------------------------------------------------- who goes first, and how many at once


async def test_no_more_than_concurrency_are_worked_on_at_once(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desk = Desk(forgotten)
    desk.close()
    await post.many([f"n-{number}" for number in range(10)])
    async with serving(address, topology, desk, concurrency=3) as served:
        await desk.asked(3)
        assert (served.worker.in_flight, len(desk.calls)) == (3, 3)
        desk.open()
        await desk.asked(10)
    assert await waiting_in(address, topology) == {}
    assert served.worker.in_flight == 0


async def test_urgent_message_overtakes_those_that_wait_in_the_worker(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desk = Desk(forgotten)
    desk.close()
    async with serving(address, topology, desk, concurrency=1) as served:
        await post("first")
        await desk.asked()
        await post("low", priority=1)
        await post("plain")
        await post("normal", priority=4)
        await post("high", priority=8)
        for queue in (topology.lane(0), topology.lane(1)):
            await until_ready(address, queue, 0)
        async with asyncio.timeout(SOON):
            while served.worker._line.qsize() < 4:  # the broker has handed them out, the loop has yet to read them
                await ready(address, topology.dead)
        desk.open()
        await desk.asked(5)
    assert desk.ids == ["first", "high", "plain", "normal", "low"]


async def test_prefetch_leaves_the_rest_to_other_workers(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    desk = Desk(forgotten)
    desk.close()
    async with serving(address, topology, desk, prefetch=2, concurrency=1):
        await post.many([f"n-{number}" for number in range(5)])
        async with asyncio.timeout(SOON):
            while list((await waiting_in(address, topology)).values()) != [3]:
                pass
        desk.open()
        await desk.asked(5)


async def test_worker_that_is_up_says_so_and_knows_its_lanes(address: BrokerAddress, topology: Topology) -> None:
    async with serving(address, topology, Desk(), wait=False) as served:
        assert not served.worker.ready
        up = await served.events.until(BrokerUp)
        assert up == BrokerUp(2)
        assert served.worker.ready
        served.worker.stop()
        assert not served.worker.ready
