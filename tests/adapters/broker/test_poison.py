"""Messages that no reasonable producer writes, and some that a careless one does: none of them may stop the others."""

from __future__ import annotations

import asyncio
import struct
from datetime import UTC, datetime

import pytest

from contracts.delivery import DeliveryStatus
from tests.adapters.broker.stage import (
    SOON,
    Desk,
    Post,
    Script,
    buried,
    done,
    forgotten,
    raw_posting,
    ready,
    serving,
    taken,
    until_ready,
)
from tests.neighbours import Inbox
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Decision, WaitUntil
from worker.events import BrokerDown, Crashed

# Property flags of a content header, AMQP 0-9-1 section 4.2.6.1.
HEADERS, CORRELATION_ID, MESSAGE_ID, TIMESTAMP, TYPE = 1 << 13, 1 << 10, 1 << 7, 1 << 6, 1 << 5
EMOJI = "😀".encode()


def soon() -> datetime:
    return datetime.now(UTC)


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def header(name: bytes, value: bytes) -> bytes:
    """A table of one header; the value begins with its type's letter."""
    return long(short(name) + value)


def nested(depth: int) -> bytes:
    """Arrays in arrays."""
    value = b""
    for _ in range(depth):
        value = b"A" + long(value)
    return header(b"x-deep", value)


ODD = {
    "timestamp-in-milliseconds": (TIMESTAMP, struct.pack(">Q", 1_795_187_781_970)),
    "timestamp-in-microseconds": (TIMESTAMP, struct.pack(">Q", 1_795_187_781_970_000)),
    "timestamp-of-all-ones": (TIMESTAMP, b"\xff" * 8),
    "correlation-id-in-windows-1250": (CORRELATION_ID, short("žádost".encode("cp1250"))),
    "message-id-in-latin-1": (MESSAGE_ID, short(b"\xe9t\xe9")),
    "header-name-in-latin-1": (HEADERS, header(b"x-\xe9t\xe9", b"t\x01")),
    "header-value-in-latin-1": (HEADERS, header(b"x-note", b"S" + long(b"\xe9t\xe9"))),
    "header-with-a-timestamp-in-microseconds": (
        HEADERS,
        header(b"x-at", b"T" + struct.pack(">Q", 1_795_187_781_970_000)),
    ),
    "header-with-a-large-double": (HEADERS, header(b"x-ratio", b"d" + struct.pack(">d", 1e300))),
    "header-with-a-decimal": (HEADERS, header(b"x-price", b"D\x02" + struct.pack(">i", 314))),
    "header-with-octets": (HEADERS, header(b"x-octets", b"x" + long(b"\x00\xff"))),
    "header-with-a-name-of-255-octets": (HEADERS, header(b"k" * 255, b"t\x01")),
    "header-without-a-name": (HEADERS, header(b"", b"t\x01")),
    "headers-nested-200-deep": (HEADERS, nested(200)),
    "headers-nested-20000-deep": (HEADERS, nested(20_000)),
    "headers-of-100-kB": (HEADERS, header(b"x-big", b"S" + long(b"a" * 100_000))),
    "headers-of-100-kB-in-four-octet-letters": (HEADERS, header(b"x-big", b"S" + long(EMOJI * 25_000))),
    "headers-by-the-thousand": (HEADERS, long(b"".join(short(b"x%d" % number) + b"t\x01" for number in range(12_000)))),
}


@pytest.mark.parametrize(("flags", "properties"), ODD.values(), ids=ODD.keys())
async def test_odd_message_ends_as_dead_letter_and_the_others_go_on(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox, flags: int, properties: bytes
) -> None:
    desk = Desk(lambda intake: buried(intake) if intake.body == b"odd" else done(intake))
    async with serving(address, topology, desk) as served, raw_posting(address, topology) as raw:
        await raw(b"odd", flags, properties)
        await post("good")  # the same tenant, so the same lane, right behind it
        assert (await inbox.final("good")).status is DeliveryStatus.ACCEPTED
        (letter,) = await taken(address, topology.dead)
        assert letter.body == b"odd"
        assert served.events.of(BrokerDown) == []
        assert served.events.of(Crashed) == []


@pytest.mark.parametrize(
    ("flags", "properties"),
    [ODD["header-with-a-large-double"], ODD["header-value-in-latin-1"], ODD["headers-of-100-kB"]],
    ids=["large-double", "latin-1", "100-kB"],
)
async def test_odd_message_can_wait_like_any_other(
    address: BrokerAddress, topology: Topology, flags: int, properties: bytes
) -> None:
    desk = Desk(lambda intake: forgotten(intake) if intake.carry else Decision((), WaitUntil(soon()), "waited"))
    async with serving(address, topology, desk) as served, raw_posting(address, topology) as raw:
        await raw(b"odd", flags, properties)
        again = await desk.asked(2, patience=SOON)
        assert served.events.of(BrokerDown) == []
    assert (again.intake.body, again.intake.carry) == (b"odd", "waited")


async def test_headers_and_progress_that_do_not_fit_into_a_frame_together_stop_nobody(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox
) -> None:
    """128 KiB hold 100 kB of headers or a long carry, not both."""
    carry = '{"replies": "' + "x" * 48_000 + '"}'

    def fate(intake: Intake) -> Decision:
        if intake.body != b"odd":
            return done(intake)
        return buried(intake) if intake.carry else Decision((), WaitUntil(soon()), carry)

    async with serving(address, topology, Desk(fate)) as served, raw_posting(address, topology) as raw:
        await raw(b"odd", *ODD["headers-of-100-kB-in-four-octet-letters"])
        await post("good")
        await inbox.final("good")
        (letter,) = await taken(address, topology.dead)
        assert served.events.of(BrokerDown) == []
    assert letter.body == b"odd"
    assert "x-headers-dropped" in letter.headers


async def test_headers_that_are_too_large_to_keep_are_named_in_the_dead_letter(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    async with serving(address, topology, Desk(buried)):
        await post("n-1", headers={"x-big": "a" * 100_000, "x-other": 1})
        (letter,) = await taken(address, topology.dead)
    assert letter.headers["x-headers-dropped"] == "2 headers were too large to keep"
    assert "x-big" not in letter.headers
    assert letter.headers["x-postlane-message-id"] == "n-1"


@pytest.mark.parametrize("size", [0, 20 * 1024 * 1024], ids=["0-octets", "20-MB"])
async def test_body_of_any_size_comes_through_waiting_and_into_the_dead_letter_octet_for_octet(
    address: BrokerAddress, topology: Topology, post: Post, inbox: Inbox, size: int
) -> None:
    body = bytes(range(256)) * (size // 256)
    desk = Desk(Script(lambda _: Decision((), WaitUntil(soon()), "waited"), buried, done))
    async with serving(address, topology, desk) as served:
        await post(body, message_id="odd")
        second = await desk.asked(2)
        await until_ready(address, topology.dead, 1)
        await post("good")
        await inbox.final("good")
        assert served.events.of(BrokerDown) == []
    assert second.intake.body == body
    (letter,) = await taken(address, topology.dead)
    assert letter.body == body


async def test_own_hop_with_absurd_headers_is_worked_on_once_and_then_set_aside(
    address: BrokerAddress, topology: Topology, post: Post
) -> None:
    """Our login, so our headers: a message that an operator has put back by hand may carry anything."""
    absurd = {"x-postlane-carry": 17, "x-postlane-not-before": "yesterday", "x-postlane-producer": ["a"]}
    desk = Desk(buried)
    async with serving(address, topology, desk) as served:
        await post("n-1", user_id=address.login, headers=absurd)
        await taken(address, topology.dead)
        assert served.events.of(BrokerDown) == []
    assert len(desk.calls) == 1


@pytest.mark.parametrize("moment", [2**62, -(2**62)], ids=["far-future", "far-past"])
async def test_own_hop_due_at_an_impossible_time_is_not_kept_for_ever(
    address: BrokerAddress, topology: Topology, post: Post, moment: int
) -> None:
    headers = {"x-postlane-carry": "", "x-postlane-not-before": moment, "x-postlane-message-id": "odd"}
    desk = Desk(forgotten)
    async with serving(address, topology, desk):
        await post("odd", user_id=address.login, headers=headers)
        await post("good")
        await desk.asked(1)
        async with asyncio.timeout(2):
            while "odd" not in desk.ids and not await ready(address, topology.dead):
                pass
