"""Dead letters on a real broker: looked at and left, replayed, thrown away."""

from __future__ import annotations

import json

from contracts.wire import Properties
from tests.adapters.broker.stage import Desk, Post, Script, buried, done, ready, serving, until_ready
from worker.broker.connection import BrokerAddress
from worker.broker.dead import Letter, dead_letters
from worker.broker.topology import Topology


async def letters_in(address: BrokerAddress, topology: Topology) -> list[Letter]:
    async with dead_letters(address, topology) as letters:
        return [letter async for letter in letters]


async def died(address: BrokerAddress, topology: Topology, post: Post, *bodies: str) -> None:
    async with serving(address, topology, Desk(buried)):
        await post.many(bodies)
        await until_ready(address, topology.dead, len(bodies))


async def test_letter_tells_what_and_why_and_still_lies_there(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    await died(address, topology, post, "n-1")
    for _ in range(2):
        (letter,) = await letters_in(address, topology)
        assert (letter.body, letter.reason, letter.explanation) == (b"n-1", "some-class", "It is so.")
        assert letter.carry == "the carry"
        assert letter.died_at is not None
        assert letter.properties.message_id == "n-1"
        await until_ready(address, topology.dead, 1)


async def test_letter_that_is_thrown_away_is_gone_and_the_others_are_not(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    await died(address, topology, post, "n-1", "n-2", "n-3")
    async with dead_letters(address, topology) as letters:
        async for letter in letters:
            if letter.body == b"n-2":
                await letters.discard(letter)
    await until_ready(address, topology.dead, 2)
    assert [letter.body for letter in await letters_in(address, topology)] == [b"n-1", b"n-3"]


async def test_letter_that_is_replayed_comes_to_a_worker_with_its_producer_and_new_octets(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    await died(address, topology, post, "n-1")
    async with dead_letters(address, topology) as letters:
        async for letter in letters:
            await letters.replay(letter, b"corrected", "a new carry")
    assert await ready(address, topology.dead) == 0
    desk = Desk(Script(done))
    async with serving(address, topology, desk):
        intake = (await desk.asked()).intake
    assert (intake.body, intake.carry, intake.reserved) == (b"corrected", "a new carry", ())
    assert intake.properties.message_id == "n-1"
    assert intake.properties.routing_key == "t.contoso"


async def test_message_that_the_broker_gave_up_on_is_a_letter_too(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    await post(json.dumps({"id": "n-1"}), message_id="n-1")
    async with dead_letters(address, topology) as letters:
        channel = letters._channel
        queues = [await channel.get_queue(topology.lane(number), ensure=False) for number in range(topology.lanes)]
        for _ in range(51):
            for queue in queues:
                message = await queue.get(no_ack=False, fail=False)
                if message is not None:
                    await message.nack(requeue=True)
    await until_ready(address, topology.dead, 1)
    (letter,) = await letters_in(address, topology)
    assert (letter.reason, letter.died_at, letter.carry) == ("delivery-limit", None, "")
    assert isinstance(letter.properties, Properties)
