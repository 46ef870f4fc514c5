"""Content headers that the library cannot read, made readable before it sees them.

A producer may write any octets into AMQP's properties; the broker hands them on. The library ends the whole connection
at the first that it does not understand, and the broker delivers the message again at once: one careless producer would
stop everybody. So the properties are looked at on their way in, and what cannot be read is replaced or left out.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Any, Final

import aio_pika
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp import decode, encode
from yarl import URL

UNREADABLE: Final = "x-unreadable"
"""The header that names the properties that could not be read."""

_PROPERTIES = (  # AMQP 0-9-1 section 4.2.6.1 and its XML: the highest bit is the first property
    ("content-type", "text"),
    ("content-encoding", "text"),
    ("headers", "table"),
    ("delivery-mode", "octet"),
    ("priority", "octet"),
    ("correlation-id", "text"),
    ("reply-to", "text"),
    ("expiration", "text"),
    ("message-id", "text"),
    ("timestamp", "time"),
    ("type", "text"),
    ("user-id", "text"),
    ("app-id", "text"),
    ("cluster-id", "text"),
)
_HEADERS = 1 << 13
_FIRST = 14  # octets before the properties: class, weight, size of the body, flags
_LAST_MOMENT = 253_402_300_799_000  # the end of the year 9999; the library takes large numbers for milliseconds
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8


def readable(payload: bytes) -> bytes:
    """A content header's payload that the library can read; the same one if it can read this."""
    try:
        parts = list(_parts(payload))
    except (IndexError, struct.error):
        return payload  # cut short: no property, but the frame is wrong, and so is the broker
    bad = {name for name, kind, raw in parts if not _good(kind, raw)}
    if not bad:
        return payload
    flags = int.from_bytes(payload[_FIRST - 2 : _FIRST]) | _HEADERS
    known: dict[str, bytes] = {"headers": _told(bad, next((raw for name, _, raw in parts if name == "headers"), b""))}
    for name, kind, raw in parts:
        if name not in bad:
            known.setdefault(name, raw)
        elif kind == "text":
            known[name] = _replaced(raw)
    kept = b""
    for bit, (name, _) in enumerate(_PROPERTIES):
        if name in known:
            kept += known[name]
        else:
            flags &= ~(1 << (15 - bit))
    return payload[: _FIRST - 2] + flags.to_bytes(2) + kept


def _parts(payload: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Name, kind and octets of each property that is there."""
    flags = int.from_bytes(payload[_FIRST - 2 : _FIRST])
    at = _FIRST
    for bit, (name, kind) in enumerate(_PROPERTIES):
        if not flags & (1 << (15 - bit)):
            continue
        match kind:
            case "text":
                size = 1 + payload[at]
            case "table":
                size = 4 + struct.unpack_from(">I", payload, at)[0]
            case "time":
                size = 8
            case _:
                size = 1
        if at + size > len(payload):
            raise IndexError(name)
        yield name, kind, payload[at : at + size]
        at += size


def _good(kind: str, raw: bytes) -> bool:
    match kind:
        case "text":
            return raw[1:].isascii() or _utf8(raw[1:])
        case "time":
            return int.from_bytes(raw) <= _LAST_MOMENT
        case "table":
            return len(raw) == 4 or _table(raw) is not None  # noqa: PLR2004 - its length, and nothing behind it
        case _:
            return True


def _utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def _table(raw: bytes) -> dict[str, Any] | None:
    """None: the library cannot read it, or could not write it again."""
    try:
        found: dict[str, Any] = decode.field_table(raw)[1]
        encode.field_table(found)
    except (ValueError, TypeError, OverflowError, OSError, RecursionError, struct.error):
        return None
    return found


def _told(bad: set[str], headers: bytes) -> bytes:
    kept = _table(headers) or {} if headers and "headers" not in bad else {}
    return encode.field_table({**kept, UNREADABLE: ", ".join(sorted(bad))})


def _replaced(raw: bytes) -> bytes:
    text = raw[1:].decode("utf-8", "replace").encode()[:255].decode("utf-8", "ignore").encode()
    return bytes([len(text)]) + text


class _Frames:
    """A stream reader that hands on whole frames, content headers readable."""

    def __init__(self, source: asyncio.StreamReader) -> None:
        self._source = source
        self._buffer = b""
        self._at = 0

    def at_eof(self) -> bool:
        return self._at >= len(self._buffer) and self._source.at_eof()

    async def read(self, size: int = -1) -> bytes:
        rest, self._buffer, self._at = self._buffer[self._at :], b"", 0
        return rest + await self._source.read(size)

    async def readexactly(self, size: int) -> bytes:
        if self._at >= len(self._buffer):
            self._buffer, self._at = await self._frame(), 0
        found = self._buffer[self._at : self._at + size]
        self._at += size
        if len(found) < size:  # no frame of AMQP, let the library say so
            found += await self._source.readexactly(size - len(found))
        return found

    async def _frame(self) -> bytes:
        head = await self._source.readexactly(7)
        kind, channel, size = struct.unpack(">BHI", head)
        if kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
            return head
        rest = await self._source.readexactly(size + 1)
        if kind != _HEADER:
            return head + rest
        payload = readable(rest[:-1])
        return struct.pack(">BHI", kind, channel, len(payload)) + payload + rest[-1:]


class _Transport(TransportFactory):
    """The library's own way of connecting, with our reader in front of its own."""

    def __init__(self, below: TransportFactory) -> None:
        self._below = below

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._below.create(url, **kwargs)
        return _Frames(reader), writer  # type: ignore[return-value]  # all of a reader that the library uses


class ReadableConnection(aio_pika.Connection):
    """A connection that no message can break."""

    def __init__(self, url: URL, **kwargs: Any) -> None:
        """As the library makes it, but for where its octets come from."""
        super().__init__(url, **kwargs)
        tls = self.url.scheme == "amqps"
        self.kwargs["transport_factory"] = _Transport(TLSTransportFactory() if tls else TCPTransportFactory())
