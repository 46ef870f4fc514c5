"""A mail server that accepts everything and keeps nothing, as fast as Python can: what is measured is not it.

    python -m tests.benchmarks.sink PORT

Prints the port once it listens.
"""

from __future__ import annotations

import asyncio
import sys

_HELLO = b"250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 104857600\r\n"


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._in_body = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._say(b"220 sink.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._body() if self._in_body else self._command():
            pass

    def _body(self) -> bool:
        end = self._buffer.find(b"\r\n.\r\n")
        if end < 0:
            return False
        del self._buffer[: end + 5]
        self._in_body = False
        self._say(b"250 2.0.0 Ok: queued as SINK\r\n")
        return True

    def _command(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        verb = bytes(self._buffer[:4]).upper()
        del self._buffer[: end + 2]
        match verb:
            case b"EHLO":
                self._say(_HELLO)
            case b"DATA":
                self._in_body = True
                self._say(b"354 Go ahead\r\n")
            case b"QUIT":
                self._say(b"221 2.0.0 Bye\r\n")
                self._close()
            case _:
                self._say(b"250 2.0.0 Ok\r\n")
        return True

    def _say(self, reply: bytes) -> None:
        assert self._transport is not None
        self._transport.write(reply)

    def _close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - whoever started us waits for it
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(_serve(int(sys.argv[1])))
    except ImportError:
        asyncio.run(_serve(int(sys.argv[1])))
