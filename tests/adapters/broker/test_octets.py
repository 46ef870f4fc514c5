"""Content headers as producers may write them, against the library that must be able to read what comes out."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.header import ContentHeader

from tests.adapters.broker.test_poison import ODD
from worker.broker.octets import UNREADABLE, readable


def payload(flags: int, properties: bytes, size: int = 7) -> bytes:
    """A content header without its frame (AMQP 0-9-1 section 4.2.6.1)."""
    return struct.pack(">HHQH", 60, 0, size, flags) + properties


def read(octets: bytes) -> ContentHeader:
    found = ContentHeader()
    found.unmarshal(octets)
    return found


def test_readable_header_is_not_touched() -> None:
    properties = commands.Basic.Properties(
        message_id="ř" * 100, headers={"x": 1, "nested": {"a": [1.5, "b"]}}, priority=4, message_type="t"
    )
    octets = ContentHeader(body_size=3, properties=properties).marshal()
    assert readable(octets) is octets


def test_what_cannot_be_read_is_replaced_or_left_out_and_named() -> None:
    flags, bad = 1 << 10 | 1 << 7 | 1 << 6 | 1 << 5, b"\x03\xe9t\xe9"
    found = read(readable(payload(flags, bad + b"\x02id" + b"\xff" * 8 + b"\x01t")))
    assert found.body_size == 7
    assert (found.properties.correlation_id, found.properties.message_id) == ("�t�", "id")
    assert (found.properties.timestamp, found.properties.message_type) == (None, "t")
    assert found.properties.headers == {UNREADABLE: "correlation-id, timestamp"}


def test_readable_headers_are_kept_beside_what_cannot_be_read() -> None:
    table = struct.pack(">I", 4) + b"\x01kb\x07"
    found = read(readable(payload(1 << 13 | 1 << 7, table + b"\x01\xe9")))
    assert found.properties.headers == {"k": 7, UNREADABLE: "message-id"}


def test_every_odd_message_becomes_readable() -> None:
    for flags, properties in ODD.values():
        assert read(readable(payload(flags, properties))).body_size == 7


@given(st.integers(0, 0xFFFF).map(lambda flags: flags & 0xFFFC), st.binary(max_size=300))
def test_no_octets_break_the_reading_and_whole_headers_become_readable(flags: int, properties: bytes) -> None:
    """The broker checks that properties are as long as they say; what is shorter is not sent and not repaired here."""
    octets = readable(payload(flags, properties))
    if octets != payload(flags, properties):
        assert UNREADABLE in (read(octets).properties.headers or {})
