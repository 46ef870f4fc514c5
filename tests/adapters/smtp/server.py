"""Mail servers for tests: a socket each, and a coroutine that decides what is said on every connection."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

PATIENCE = 5.0  # seconds until a test gives up waiting for what must come
_MANY = 10_000  # octets that are not sent one by one


class Deviation(AssertionError):  # noqa: N818 - what happened
    """The client did what it must not do, or left before its time."""


class Left(Deviation):
    """The client is gone."""


async def turns(count: int = 20) -> None:
    """Let the event loop go round, so that what lies in a socket is read by whoever reads from it."""
    for _ in range(count):
        await asyncio.sleep(0)


class Peer(asyncio.Protocol):
    """The server's end of one connection.

    Attributes:
        heard: everything the client has said, decrypted.
    """

    def __init__(self, listener: Listener, *, by_octets: bool) -> None:
        self._listener = listener
        self._by_octets = by_octets
        self._transport: asyncio.Transport | None = None
        self._pending = bytearray()
        self._news = asyncio.Event()
        self._ended: str | None = None
        self.heard = b""

    @property
    def pending(self) -> bytes:
        """What has come and was not taken yet."""
        return bytes(self._pending)

    @property
    def transport(self) -> asyncio.Transport:
        """What it is said through."""
        assert self._transport is not None
        return self._transport

    async def line(self) -> bytes:
        """The next line, without its CRLF."""
        while (end := self._pending.find(b"\r\n")) < 0:
            await self._more(f"in the middle of a line: {self.pending!r}" if self._pending else "without a word")
        return self._take(end + 2)[:-2]

    async def octets(self, count: int) -> bytes:
        """So many octets."""
        while len(self._pending) < count:
            await self._more(f"with {len(self._pending)} of {count} octets sent")
        return self._take(count)

    async def rest(self) -> bytes:
        """What the client still says until it leaves."""
        with contextlib.suppress(Left):
            while True:
                await self._more("")
        return self._take(len(self._pending))

    async def leaves(self) -> None:
        """Wait until the client leaves without another word."""
        with contextlib.suppress(Left):
            while not self._pending:
                await self._more("")
        if self._pending:
            raise Deviation(f"said {self.pending!r}")

    async def say(self, text: bytes | str) -> None:
        """Send, in one packet or octet by octet."""
        data = text.encode() if isinstance(text, str) else text
        if not self._by_octets or len(data) > _MANY:
            self.transport.write(data)
            return
        for n in range(len(data)):
            self.transport.write(data[n : n + 1])
            await turns(2)

    async def reply(self, *lines: str) -> None:
        """Send lines."""
        await self.say("".join(f"{line}\r\n" for line in lines))

    async def handshake(self, context: ssl.SSLContext) -> None:
        """The server's side of TLS.

        Raises:
            Left: it came to nothing.
        """
        try:
            secured = await asyncio.get_running_loop().start_tls(self.transport, self, context, server_side=True)
        except OSError as error:
            raise Left(f"the client left in the handshake ({error})") from error
        if secured is None:
            raise Left("the client left in the handshake")
        self._transport = secured

    def cut(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close what is still open."""
        if self._transport is not None:
            self._transport.close()

    async def hang_up(self) -> bytes:
        """Say that nothing more will come, and hear what the client still has to say."""
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        return await self.rest()

    async def closed(self) -> None:
        """Wait until nothing is left of the connection."""
        while self._ended is None:
            self._news.clear()
            await self._news.wait()

    async def _more(self, when: str) -> None:
        before = len(self.heard)
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.heard) == before:
                    if self._ended is not None:
                        raise Left(f"the client left {when}{self._ended}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Deviation(f"the client says nothing and stays; {self.pending!r}") from None

    def _take(self, count: int) -> bytes:
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        return taken

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._listener.connected(self)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self._pending += data
        self._news.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = f" ({error})" if error else ""
        self._news.set()


Serve = Callable[[Peer], Awaitable[None]]


class Listener:
    """A port, and what happens on it.

    Attributes:
        peers: one for each connection that was ever made.
        open: connections that neither side has closed.
        most_open: of them at the same time.
        deviation: the first.
    """

    def __init__(self, serve: Serve, *, by_octets: bool = False) -> None:
        self._serve = serve
        self._by_octets = by_octets
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.server: asyncio.Server | None = None
        self.peers: list[Peer] = []
        self.open = 0
        self.most_open = 0
        self.deviation: Deviation | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])

    @property
    def heard(self) -> bytes:
        """What all clients said."""
        return b"".join(peer.heard for peer in self.peers)

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait until something is so; looked at whenever a connection comes or goes."""
        async with asyncio.timeout(PATIENCE):
            while not enough():
                self._changed.clear()
                await self._changed.wait()

    def new_peer(self) -> Peer:
        """For the next connection."""
        return Peer(self, by_octets=self._by_octets)

    def connected(self, peer: Peer) -> None:
        """Run its conversation."""
        self.peers.append(peer)
        self._count(+1)
        task = asyncio.get_running_loop().create_task(self._run(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop, and hang up on everybody."""
        assert self.server is not None
        self.server.close()
        for peer in self.peers:
            peer.cut()
        if self._tasks:
            _, waiting = await asyncio.wait(tuple(self._tasks), timeout=1)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await self.server.wait_closed()

    async def _run(self, peer: Peer) -> None:
        try:
            await self._serve(peer)
        except Deviation as deviation:
            self.deviation = self.deviation or deviation
            peer.cut()
        finally:
            peer.close()
            await peer.closed()
            self._count(-1)

    def _count(self, change: int) -> None:
        self.open += change
        self.most_open = max(self.most_open, self.open)
        self._changed.set()


class Obedient:
    """A server that takes everything.

    Attributes:
        offers: its EHLO keywords.
        tls: for STARTTLS, which it offers if it has this.
        stall_at: a command, in capital letters, that it never answers; `GREETING` and `BODY` are also understood.
        stalled: it has come to that.
        go_on: makes a server that has stalled at `BODY` read again.
        left_over: what it was told after it had stalled.
        at_dot: awaited before the reply to the final dot, which it returns.
        commands: all that were said, on all connections.
        mails: the contents that were taken.
    """

    def __init__(
        self, *offers: str, tls: ssl.SSLContext | None = None, at_dot: Callable[[], Awaitable[str]] | None = None
    ) -> None:
        self.offers = offers
        self.tls = tls
        self.stall_at = ""
        self.stalled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left_over = b""
        self.at_dot = at_dot
        self.commands: list[bytes] = []
        self.mails: list[bytes] = []

    def count(self, verb: bytes) -> int:
        """How often a command was said."""
        return sum(command.upper().startswith(verb) for command in self.commands)

    async def serve(self, peer: Peer) -> None:
        """Run one connection; the client may leave whenever it likes."""
        with contextlib.suppress(Left):
            await self._converse(peer)

    async def _converse(self, peer: Peer) -> None:
        await self._reach("GREETING", peer)
        await peer.reply("220 mail.example ESMTP")
        secure = False
        while True:
            command = await peer.line()
            self.commands.append(command)
            verb = command[:4].decode("latin-1").upper()
            await self._reach(verb, peer)
            match verb:
                case "QUIT":
                    await peer.reply("221 2.0.0 Bye")
                    return
                case "EHLO":
                    keywords = [*self.offers, *(["STARTTLS"] if self.tls and not secure else [])]
                    await peer.reply(*(f"250-{line}" for line in ["mail.example", *keywords]), "250 HELP")
                case "STAR" if self.tls:
                    await peer.reply("220 2.0.0 Go")
                    await peer.handshake(self.tls)
                    secure = True
                case "AUTH":
                    await peer.reply("235 2.7.0 Ok")
                case "DATA":
                    await self._take(peer)
                case _:
                    await peer.reply(self.answer(command))

    def answer(self, command: bytes) -> str:  # noqa: ARG002 - for those who are less obedient
        """What is said to MAIL, RCPT, RSET and everything unknown."""
        return "250 2.0.0 Ok"

    async def _take(self, peer: Peer) -> None:
        await peer.reply("354 Go")
        await self._reach("BODY", peer)
        lines = []
        while (line := await peer.line()) != b".":
            lines.append(line.removeprefix(b"."))
        self.commands.append(b".")
        await self._reach(".", peer)
        reply = await self.at_dot() if self.at_dot else "250 2.0.0 Ok"
        self.mails.append(b"".join(line + b"\r\n" for line in lines))
        await peer.reply(reply)

    async def _reach(self, place: str, peer: Peer) -> None:
        if place and place == self.stall_at:
            self.stalled.set()
            if place == "BODY":
                peer.transport.pause_reading()
                await self.go_on.wait()
                peer.transport.resume_reading()
            self.left_over += await peer.rest()
            raise Left("after it was kept waiting")


@asynccontextmanager
async def listening(
    serve: Serve, *, tls: ssl.SSLContext | None = None, by_octets: bool = False, host: str = "127.0.0.1"
) -> AsyncIterator[Listener]:
    """Serve on a free port of this machine; a deviation of the client fails the test."""
    listener = Listener(serve, by_octets=by_octets)
    listener.server = await asyncio.get_running_loop().create_server(listener.new_peer, host, 0, ssl=tls)
    try:
        yield listener
    except BaseException as error:
        await listener.close()
        raise (listener.deviation or error) from error
    await listener.close()
    if listener.deviation is not None:
        raise listener.deviation
