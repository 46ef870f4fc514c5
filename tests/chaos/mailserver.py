"""A mail server that keeps count of what it accepted, and hangs up where it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from enum import StrEnum

from worker.emulator.accepted import field_of

_HELLO = b"250-chaos.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 10485760\r\n"


class Cut(StrEnum):
    """Where the server leaves; in the order of a session."""

    GREETING = "at the greeting"
    EHLO = "at EHLO"
    MAIL = "at MAIL"
    RCPT = "at RCPT"
    DATA = "at DATA"
    BODY = "in the body"
    DOT = "at the dot, mail not taken"
    LOST = "at the dot, mail taken, 250 lost"
    SILENT = "mail taken, no answer ever"
    STALL = "half-open: no answer to MAIL ever"


WINDOW = frozenset({Cut.DOT, Cut.LOST, Cut.SILENT})
"""After these nobody who stands outside can know whether the mail was taken."""


class MailServer:
    """Listens on loopback, without TLS and login.

    Attributes:
        accepted: notification id → how many mails of it were taken.
        orders: cuts to come, each for the next session that gets so far.
        cut: id of the notification that met a cut in the window.
        done: cuts that were made.
    """

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.orders: deque[Cut] = deque()
        self.cut: set[str] = set()
        self.done: Counter[Cut] = Counter()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Session(self, self._open), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for transport in tuple(self._open):
                transport.abort()
            await self._server.wait_closed()
            self._server = None

    def due(self, cut: Cut) -> bool:
        """Whether this cut is the next one ordered; it is then done."""
        if self.orders and self.orders[0] is cut:
            self.orders.popleft()
            self.done[cut] += 1
            return True
        return False


_VERBS = {b"EHLO": Cut.EHLO, b"MAIL": Cut.MAIL, b"RCPT": Cut.RCPT, b"DATA": Cut.DATA}


class _Session(asyncio.Protocol):
    def __init__(self, server: MailServer, everybody: set[asyncio.Transport]) -> None:
        self._server = server
        self._everybody = everybody
        self._buffer = bytearray()
        self._in_body = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._everybody.add(self._transport)
        if self._server.due(Cut.GREETING):
            self._transport.abort()
        else:
            self._transport.write(b"220 chaos.example ESMTP\r\n")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the event loop's signature
        self._everybody.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._transport.is_closing() and (self._body() if self._in_body else self._command()):
            pass

    def _command(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        verb = bytes(self._buffer[:4]).upper()
        del self._buffer[: end + 2]
        if verb in _VERBS and self._server.due(_VERBS[verb]):
            self._transport.abort()
            return False
        if verb == b"MAIL" and self._server.due(Cut.STALL):
            return False  # and whatever comes later is not read either
        self._in_body = verb == b"DATA"
        replies = {b"EHLO": _HELLO, b"DATA": b"354 Go ahead\r\n", b"QUIT": b"221 2.0.0 Bye\r\n"}
        self._transport.write(replies.get(verb, b"250 2.0.0 Ok\r\n"))
        return True

    def _body(self) -> bool:
        end = self._buffer.find(b"\r\n.\r\n")
        content = bytes(self._buffer if end < 0 else self._buffer[:end])
        notification_id = field_of(content + b"\r\n\r\n", b"X-Postlane-Id")
        if self._server.due(Cut.BODY):
            # The client may have written the dot before it hears of this, and then it cannot know either.
            self._server.cut.add(notification_id)
            self._transport.abort()
            return False
        if end < 0:
            return False
        del self._buffer[: end + 5]
        self._in_body = False
        return self._taken(notification_id)

    def _taken(self, notification_id: str) -> bool:
        """Count before answering: the log must never know less than the client."""
        for cut in (Cut.DOT, Cut.LOST, Cut.SILENT):
            if self._server.due(cut):
                self._server.cut.add(notification_id)
                self._server.accepted[notification_id] += cut is not Cut.DOT
                if cut is not Cut.SILENT:
                    self._transport.abort()
                return False
        self._server.accepted[notification_id] += 1
        self._transport.write(b"250 2.0.0 Ok: queued\r\n")
        return True
