"""What tests do with real neighbours: read results, run workers, cut lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from aio_pika.abc import AbstractIncomingMessage

from contracts.delivery import Result
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Topology

PATIENCE = 30.0  # seconds until a test gives up waiting for what must come


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Inbox:
    """Results in the order in which they came."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._news = asyncio.Condition()

    async def take(self, message: AbstractIncomingMessage) -> None:
        async with self._news:
            self.results.append(Result.model_validate_json(message.body))
            self._news.notify_all()

    def of(self, notification_id: str) -> list[Result]:
        return [result for result in self.results if result.notification_id == notification_id]

    async def until(self, enough: Callable[[list[Result]], bool], patience: float = PATIENCE) -> list[Result]:
        """Wait until the results are enough."""
        async with asyncio.timeout(patience), self._news:
            await self._news.wait_for(lambda: enough(self.results))
        return self.results

    async def first(self, notification_id: str, patience: float = PATIENCE) -> Result:
        """The first result of a notification."""
        await self.until(lambda _: bool(self.of(notification_id)), patience)
        return self.of(notification_id)[0]

    async def final(self, notification_id: str, patience: float = PATIENCE) -> Result:
        """The final result of a notification."""
        await self.until(lambda _: any(result.final for result in self.of(notification_id)), patience)
        return next(result for result in self.of(notification_id) if result.final)


@asynccontextmanager
async def inbox_on(address: BrokerAddress, topology: Topology) -> AsyncIterator[Inbox]:
    """Bind a queue to the results exchange and read it."""
    box = Inbox()
    async with await open_connection(address, "test inbox") as connection, connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.results, "r.#")
        await queue.consume(box.take, no_ack=True)
        yield box


class WorkerProcess:
    """`postlane run` in a process of its own; its log lines are events to wait for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def logged(self, event: str, patience: float = PATIENCE, **fields: object) -> dict[str, Any]:
        """Wait for a log line of this event with these fields."""

        def found() -> dict[str, Any] | None:
            return next(
                (
                    line
                    for line in self.lines
                    if line.get("event") == event and all(line.get(name) == value for name, value in fields.items())
                ),
                None,
            )

        async with asyncio.timeout(patience), self._news:
            await self._news.wait_for(lambda: found() is not None or self._reading.done())
        line = found()
        assert line is not None, "the worker ended before:\n" + "".join(self.raw[-20:])
        return line

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal, wait for the end, give the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
            await self._reading
        return status

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode()
            async with self._news:
                self.raw.append(text)
                with contextlib.suppress(ValueError):
                    self.lines.append(json.loads(text))
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()


def environment_of(
    address: BrokerAddress, topology: Topology, mailboxes: Path, directory: Path, settings: Mapping[str, str]
) -> dict[str, str]:
    """For a worker or a command in this test's world."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")},
        "POSTLANE_BROKER__URL": address.url,
        "POSTLANE_BROKER__PREFIX": topology.prefix,
        "POSTLANE_MAILBOXES__FILE": str(mailboxes),
        "POSTLANE_WORKER__NAME": f"worker-{uuid.uuid4().hex[:6]}",
        "POSTLANE_HEALTH__PORT": "0",
        "POSTLANE_LOG__FORMAT": "json",
        "POSTLANE_RETRY__FIRST_SECONDS": "1",
        "POSTLANE_STORE__URL": f"sqlite:///{directory / 'postlane.sqlite3'}",
        **settings,
    }


@asynccontextmanager
async def running_worker(
    address: BrokerAddress,
    topology: Topology,
    mailboxes: Path,
    directory: Path,
    *,
    settings: Mapping[str, str] | None = None,
    wait: bool = True,
    through: Sequence[str] = (),
) -> AsyncIterator[WorkerProcess]:
    """Run a worker, perhaps through another command; it is killed at the end if the test has not stopped it."""
    environment = environment_of(address, topology, mailboxes, directory, settings or {})
    process = await asyncio.create_subprocess_exec(
        *(*through, sys.executable, "-m", "worker", "run"),
        env=environment,
        cwd=directory,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    running = WorkerProcess(process)
    try:
        if wait:
            await running.logged("broker connected")
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await running._reading


class Proxy:
    """A line that can be cut: TCP through us to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._through = asyncio.Event()
        self._through.set()
        self.open = True

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Hang up on everybody."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """Let nothing through any more, without either side noticing."""
        self._through.clear()

    def release(self) -> None:
        """Go on with what was held."""
        self._through.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._through.wait()
                sink.write(data)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)
