"""A small HTTP server inside a process that has better things to do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from worker.unusable import Unusable


class CannotListen(Unusable):
    """The port is taken or not ours to take."""


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: when to stop is for whoever runs it to decide."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        CannotListen: says where and why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # from here on clients wait instead of being refused
    except OSError as error:
        listening.close()
        raise CannotListen(f"cannot listen on {host}:{port} ({error.strerror or error})") from error
    return listening


@asynccontextmanager
async def serving(
    application: Starlette, listening: socket.socket, certificate: Path | None = None, *, grace: int | None = None
) -> AsyncIterator[None]:
    """Serve an application on a bound socket while the context lasts.

    Args:
        application: what to serve.
        listening: from `bound`.
        certificate: file with key and chain, for https.
        grace: seconds that requests under way have at the end; None: until they are answered.
    """
    pem = str(certificate) if certificate else None
    config = uvicorn.Config(
        application,
        ssl_certfile=pem,
        ssl_keyfile=pem,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=grace,
    )
    server = _Server(config)
    # No task group: what goes wrong in the caller's block must come out of it as it is.
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        for connection in tuple(server.server_state.connections):  # of clients that have outstayed the grace
            connection.transport.abort()
