"""Commands out, replies in, over a connection that somebody else has opened and secured.

One rule keeps mails from going astray: after a time-out, a cancellation or anything unexpected the connection is
closed and never used again, because from then on replies and commands may be off by one.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import cast

from worker.domain.delivery import Fault
from worker.domain.reply import Reply

_MAX_LINE = 64 * 1024  # octets of one reply line; RFC 5321 allows 512, Exchange sends 2,000
_MAX_REPLY = 256 * 1024  # octets of one reply
_CHUNK = 64 * 1024  # octets of body written before waiting for the network
_REPLY_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)


class Lost(Exception):  # noqa: N818 - what happened, not whose error it is
    """The connection is of no more use.

    Attributes:
        fault: TIMEOUT, DISCONNECTED or GARBLED.
        replies: what had been answered of a group of commands before.
    """

    def __init__(self, fault: Fault, detail: str, replies: Sequence[Reply] = ()) -> None:
        super().__init__(detail)
        self.fault = fault
        self.replies = tuple(replies)


class ReplyReader:
    """Octets to replies (RFC 5321 section 4.2.1), without I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines: list[str] = []
        self._size = 0

    @property
    def between_replies(self) -> bool:
        """Whether nothing of a further reply has come."""
        return not self._buffer and not self._lines

    def feed(self, data: bytes) -> list[Reply]:
        """Take octets, return the replies that they complete.

        Raises:
            Lost: what the server says is not SMTP; replies that were complete before are in it.
        """
        self._buffer += data
        replies: list[Reply] = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            found = _REPLY_LINE.fullmatch(line)
            self._size += len(line)
            if found is None or self._size > _MAX_REPLY:
                raise Lost(Fault.GARBLED, "the server sent what is no SMTP reply", replies)
            code, mark, text = found.groups(b"")
            self._lines.append(text.decode("utf-8", "replace"))
            if mark != b"-":
                replies.append(Reply.of(int(code), self._lines))
                self._lines, self._size = [], 0
        if len(self._buffer) > _MAX_LINE:
            raise Lost(Fault.GARBLED, "the server sent an endless line", replies)
        return replies


class Dialogue(asyncio.Protocol):
    """The client's side of an SMTP session, one group of commands at a time."""

    def __init__(self) -> None:
        self._reader = ReplyReader()
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost: Lost | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None

    @classmethod
    def over(cls, transport: asyncio.BaseTransport) -> Dialogue:
        """Take over a connection whose greeting, TLS and EHLO are done."""
        dialogue = cls()
        dialogue._transport = cast("asyncio.Transport", transport)
        dialogue._transport.set_protocol(dialogue)
        if dialogue._transport.is_closing():
            dialogue._fail(Lost(Fault.DISCONNECTED, "the server closed the connection"))
        return dialogue

    @property
    def usable(self) -> bool:
        """Whether nothing has happened since the last reply; a server that has spoken unasked has said goodbye."""
        quiet = not self._replies and self._reader.between_replies
        return self._lost is None and quiet and self._waiter is None

    def spoken(self) -> Reply | None:
        """A reply that came although nothing was asked."""
        return self._replies[0] if self._replies else None

    async def ask(self, *commands: bytes, timeout: float) -> list[Reply]:
        """Send commands in one go and await a reply to each (one command, or a group by RFC 2920).

        Args:
            commands: without CRLF; must not contain one.
            timeout: seconds to wait for each reply.

        Raises:
            Lost: not all of them were answered; those that were are in the exception.
        """
        if not self.usable:
            raise self._lost or self._close(Lost(Fault.DISCONNECTED, "the server had ended the session"))
        if any(b"\r" in command or b"\n" in command for command in commands):
            raise ValueError("a command must be one line")
        self._write(b"".join(command + b"\r\n" for command in commands))
        return await self._answers(len(commands), timeout)

    async def send(self, content: bytes, timeout: float) -> None:
        """Write a message's octets, dots doubled where a line begins with one (RFC 5321 section 4.5.2).

        Args:
            content: ends with CRLF.
            timeout: seconds that the network may take for each chunk.

        Raises:
            Lost: the connection broke; the final dot was not sent.
        """
        if content.startswith(b".") or b"\n." in content:
            content = re.sub(rb"(?m)^\.", b"..", content)
        for start in range(0, len(content), _CHUNK):
            self._write(content[start : start + _CHUNK])
            await self._drained(timeout)

    def dot(self) -> None:
        """Send the final dot: the moment in which responsibility may change hands.

        Raises:
            Lost: it was not sent.
        """
        if not self.usable:
            raise self._lost or self._close(
                Lost(Fault.GARBLED, "the server answered before it was asked"), at_once=True
            )
        self._write(b".\r\n")

    async def answer(self, timeout: float) -> Reply:
        """Await the reply to what was sent last.

        Raises:
            Lost: there is none.
        """
        return (await self._answers(1, timeout))[0]

    def abort(self) -> None:
        """Drop the connection at once."""
        self._close(Lost(Fault.DISCONNECTED, "we closed the connection"), at_once=True)

    def hang_up(self) -> None:
        """Say QUIT and close, without waiting for the goodbye."""
        if self.usable and self._transport is not None:
            self._transport.write(b"QUIT\r\n")
        self._close(Lost(Fault.DISCONNECTED, "we closed the connection"))

    async def quit(self, timeout: float) -> None:
        """Say QUIT and wait for the goodbye (RFC 5321 section 4.1.1.10): the server counts us until then."""
        if self.usable:
            try:
                await self.ask(b"QUIT", timeout=timeout)
            except Lost:
                return
        self._close(Lost(Fault.DISCONNECTED, "we closed the connection"))

    async def _answers(self, count: int, timeout: float) -> list[Reply]:
        replies: list[Reply] = []
        try:
            while len(replies) < count:
                if not self._replies:
                    await self._more(timeout)
                replies.append(self._replies.popleft())
        except TimeoutError:
            raise self._close(Lost(Fault.TIMEOUT, f"no answer within {timeout:g} s", replies), at_once=True) from None
        except Lost as lost:
            raise Lost(lost.fault, str(lost), replies) from lost
        except asyncio.CancelledError:
            self.abort()
            raise
        return replies

    async def _more(self, timeout: float) -> None:
        if self._lost is not None:
            raise self._lost
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._waiter
        finally:
            self._waiter = None

    async def _drained(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._writable.wait()
        except TimeoutError:
            detail = f"the network took nothing for {timeout:g} s"
            raise self._close(Lost(Fault.TIMEOUT, detail), at_once=True) from None
        except asyncio.CancelledError:
            self.abort()
            raise
        if self._lost is not None:
            raise self._lost

    def _write(self, data: bytes) -> None:
        if self._lost is not None or self._transport is None:
            raise self._lost or Lost(Fault.DISCONNECTED, "the connection is closed")
        self._transport.write(data)

    def _close(self, lost: Lost, *, at_once: bool = False) -> Lost:
        transport, self._transport = self._transport, None
        if transport is not None:
            if at_once:
                transport.abort()
            else:
                transport.close()
        self._fail(lost)
        return lost

    def _fail(self, lost: Lost) -> None:
        """Remember why, and wake whoever waits; replies that came before stay readable."""
        self._lost = self._lost or lost
        self._writable.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._lost)

    # what the event loop calls

    def data_received(self, data: bytes) -> None:
        garbled = None
        try:
            self._replies.extend(self._reader.feed(data))
        except Lost as lost:
            self._replies.extend(lost.replies)
            garbled = lost
        if self._replies and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if garbled is not None:
            self._close(Lost(garbled.fault, str(garbled)), at_once=True)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        detail = f"the connection broke ({exc})" if exc else "the server closed the connection"
        self._fail(Lost(Fault.DISCONNECTED, detail))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
