"""A worker in this process with a deliver function of the test's, and a line to the broker that can be cut or held."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pamqp.frame
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from pamqp import commands
from yarl import URL

from contracts.channels import notification_key
from contracts.delivery import DeliveryStatus, Result
from tests.factories import result as some_result
from tests.neighbours import PATIENCE
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.serve import ServeOptions, Worker
from worker.broker.topology import Topology
from worker.courier import Intake
from worker.domain.decision import Acknowledge, DeadLetter, Decision, WaitUntil
from worker.events import BrokerUp, Event
from worker.ports import Outbox
from worker.store.memory import MemoryLedger

SOON = 5.0  # seconds in which something that only takes a round trip must have happened


class Watch:
    """An observer whose events can be waited for."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.seen.append(event)
        self._news.set()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def until(self, kind: type[Event], count: int = 1, patience: float = PATIENCE) -> Any:
        """Wait until so many events of a kind were seen; gives the last of them."""
        async with asyncio.timeout(patience):
            while len(self.of(kind)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(kind)[count - 1]


@dataclass(frozen=True, slots=True)
class Call:
    """One delivery that the worker asked about."""

    when: datetime
    intake: Intake


Decide = Callable[[Intake], Decision | Awaitable[Decision]]


def done(intake: Intake) -> Decision:
    """Accepted, with a result."""
    return Decision((answer(intake),), Acknowledge())


def forgotten(_intake: Intake) -> Decision:
    """Acknowledged without a word."""
    return Decision((), Acknowledge())


def buried(_intake: Intake) -> Decision:
    """Set aside for a person."""
    return Decision((), DeadLetter("some-class", "It is so."), "the carry")


def answer(intake: Intake, status: DeliveryStatus = DeliveryStatus.ACCEPTED, **fields: Any) -> Result:
    """A result for a delivery whose AMQP message_id is the notification's id."""
    properties = intake.properties
    given = {
        "notification_id": properties.message_id,
        "correlation_id": properties.correlation_id,
        "event_id": f"event-{properties.message_id}-{status}",
        **fields,
    }
    return some_result(status, **given)


@dataclass
class Desk:
    """The deliver function: remembers what it is asked, decides as the test says, and waits while it is closed."""

    decide: Decide = done
    calls: list[Call] = field(default_factory=list)
    finished: int = 0

    def __post_init__(self) -> None:
        self._news = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    async def __call__(self, intake: Intake) -> Decision:
        self.calls.append(Call(datetime.now(UTC), intake))
        self._news.set()
        await self._open.wait()
        decided = self.decide(intake)
        decision = decided if isinstance(decided, Decision) else await decided
        self.finished += 1
        return decision

    def close(self) -> None:
        """From now on nothing that is asked is answered."""
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def asked(self, count: int = 1, patience: float = PATIENCE) -> Call:
        """Wait for the so-manieth call and give it."""
        async with asyncio.timeout(patience):
            while len(self.calls) < count:
                self._news.clear()
                await self._news.wait()
        return self.calls[count - 1]

    @property
    def ids(self) -> list[str | None]:
        return [call.intake.properties.message_id for call in self.calls]


class Script:
    """Decisions for the first calls, one after the other; the last one stands for all further calls."""

    def __init__(self, *decisions: Decide) -> None:
        self._decisions = list(decisions)

    def __call__(self, intake: Intake) -> Decision | Awaitable[Decision]:
        decide = self._decisions.pop(0) if len(self._decisions) > 1 else self._decisions[0]
        return decide(intake)


def wait_until(when: datetime, carry: str = "the carry") -> Decide:
    """Park it until then."""
    return lambda _intake: Decision((), WaitUntil(when), carry)


@dataclass
class Served:
    """A running worker.

    Attributes:
        running: the task of `Worker.run`.
    """

    worker: Worker
    events: Watch
    running: asyncio.Task[None]

    async def stopped(self, patience: float = PATIENCE) -> None:
        """Stop it and wait for its end; whatever it raises is raised here."""
        self.worker.stop()
        async with asyncio.timeout(patience):
            await self.running


@asynccontextmanager
async def serving(
    address: BrokerAddress,
    topology: Topology,
    deliver: Callable[[Intake], Awaitable[Decision]],
    *,
    wait: bool = True,
    outbox: Outbox | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """Run a worker that reconnects a quarter of a second after it has lost its broker."""
    events = Watch()
    chosen = ServeOptions(**{"worker": "under-test", "prefetch": 16, "concurrency": 8, "grace": 5.0, **options})
    worker = Worker(address, topology, deliver, outbox or MemoryLedger(), chosen, events, lambda: 0.0)
    served = Served(worker, events, asyncio.create_task(worker.run()))
    try:
        if wait:
            up = asyncio.create_task(events.until(BrokerUp))
            await asyncio.wait((up, served.running), return_when=asyncio.FIRST_COMPLETED)
            up.cancel()
            assert not served.running.done(), served.running.result()
        yield served
        if not served.running.done():
            await served.stopped()
    finally:
        await killed(served)


async def killed(served: Served) -> None:
    """End a worker as a crash would. One cancellation may get lost while a line breaks, so it is asked again."""
    async with asyncio.timeout(PATIENCE):
        while not served.running.done():
            served.running.cancel()
            await asyncio.wait((served.running,), timeout=1)


class Post:
    """A producer who writes AMQP as it likes."""

    def __init__(self, channel: AbstractChannel, topology: Topology) -> None:
        self._channel = channel
        self._topology = topology

    async def __call__(self, body: bytes | str, tenant: str = "contoso", **properties: Any) -> None:
        """Publish, confirmed. A string is body and message id alike."""
        if isinstance(body, str):
            properties.setdefault("message_id", body)
            body = body.encode()
        exchange = await self._channel.get_exchange(self._topology.notifications, ensure=False)
        await exchange.publish(aio_pika.Message(body, **properties), notification_key(tenant), timeout=PATIENCE)

    async def many(self, bodies: Sequence[str], tenant: str = "contoso", **properties: Any) -> None:
        for body in bodies:
            await self(body, tenant, **properties)


@asynccontextmanager
async def posting(address: BrokerAddress, topology: Topology) -> AsyncIterator[Post]:
    """A producer's channel."""
    async with (
        await open_connection(address, "test producer") as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        yield Post(channel, topology)


@asynccontextmanager
async def channel_on(address: BrokerAddress) -> AsyncIterator[AbstractChannel]:
    """A channel, whatever becomes of it."""
    async with await open_connection(address, "test") as connection:
        yield await connection.channel(on_return_raises=True)


async def taken(address: BrokerAddress, queue: str, count: int = 1) -> list[AbstractIncomingMessage]:
    """Take so many messages out of a queue, waiting for them."""
    found: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    async with channel_on(address) as channel:
        source = await channel.get_queue(queue, ensure=False)
        await source.consume(found.put, no_ack=True)
        async with asyncio.timeout(PATIENCE):
            return [await found.get() for _ in range(count)]


async def ready(address: BrokerAddress, queue: str) -> int:
    """Messages that nobody has."""
    async with channel_on(address) as channel:
        return await _ready(channel, queue)


async def until_ready(address: BrokerAddress, queue: str, count: int) -> None:
    """Wait until exactly so many messages are there that nobody has; the broker is asked again and again."""
    async with asyncio.timeout(PATIENCE), channel_on(address) as channel:
        while await _ready(channel, queue) != count:
            pass


async def _ready(channel: AbstractChannel, queue: str) -> int:
    declared = await channel.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count or 0


async def waiting_in(address: BrokerAddress, topology: Topology) -> dict[str, int]:
    """Queues of this topology that hold something, with how much."""
    async with channel_on(address) as channel:
        counted = {queue.name: await _ready(channel, queue.name) for queue in topology.queues()}
    return {name: count for name, count in counted.items() if count}


@dataclass
class Line:
    """One connection through the `Lines`; each direction can be held without the other side noticing."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    up: asyncio.Event = field(default_factory=asyncio.Event)
    down: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.release()

    def hold(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing more through: `up` to the broker, `down` from it."""
        for wanted, way in ((up, self.up), (down, self.down)):
            if wanted:
                way.clear()

    def release(self) -> None:
        self.up.set()
        self.down.set()

    def cut(self) -> None:
        """Hang up on both sides."""
        for writer in (self.near, self.far):
            writer.transport.abort()


class Lines:
    """Connections to a broker in the order in which they were opened. A worker opens: consume, publish.

    Attributes:
        refuses: hang up on whoever comes.
        interfere: called with the number of a line (from 0) and of an answer on it (from 1) before that is passed on.
    """

    def __init__(self, address: BrokerAddress) -> None:
        url = URL(address.url)
        self._to = (url.host or "127.0.0.1", url.port or 5672)
        self._address = address
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.lines: list[Line] = []
        self.refuses = False
        self.interfere: Callable[[int, int], None] = lambda _line, _answer: None

    @property
    def address(self) -> BrokerAddress:
        """The broker, as it is reached through here."""
        assert self._server is not None
        port = int(self._server.sockets[0].getsockname()[1])
        return replace(self._address, url=str(URL(self._address.url).with_host("127.0.0.1").with_port(port)))

    @property
    def consuming(self) -> Line:
        """The latest worker's first connection."""
        return self.lines[-2]

    @property
    def publishing(self) -> Line:
        """The latest worker's second connection."""
        return self.lines[-1]

    def cut(self) -> None:
        """Hang up on everybody."""
        for line in self.lines:
            line.cut()

    def hold(self) -> None:
        """Fall silent, as a network does that has lost its way."""
        for line in self.lines:
            line.hold()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        if self.refuses:
            near.transport.abort()
            return
        source, far = await asyncio.open_connection(*self._to)
        line = Line(near, far)
        number = len(self.lines)
        self.lines.append(line)
        asked = _pump(reader, far, line.up, lambda _: None)
        answered = _pump(source, near, line.down, lambda answer: self.interfere(number, answer))
        for pumping in (asked, answered):
            pump = asyncio.create_task(pumping)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: asyncio.Event, told: Callable[[int], None]
) -> None:
    count = 0
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            await way.wait()
            told(count := count + 1)
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def lines_to(address: BrokerAddress) -> AsyncIterator[Lines]:
    """A proxy in front of the broker."""
    lines = Lines(address)
    server = lines._server = await asyncio.start_server(lines._serve, "127.0.0.1", 0)
    try:
        yield lines
    finally:
        server.close()
        lines.cut()
        for pump in tuple(lines._pumps):
            pump.cancel()
        await asyncio.gather(*lines._pumps, return_exceptions=True)


class RawPost:
    """A producer whose client library checks nothing: properties go out octet for octet (AMQP 0-9-1, section 4.2.6)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: str) -> None:
        self._reader = reader
        self._writer = writer
        self._exchange = exchange

    async def __call__(self, body: bytes, flags: int, properties: bytes, tenant: str = "contoso") -> None:
        """Publish, confirmed; `flags` says which properties follow, the highest bit the first of them."""
        self._send(commands.Basic.Publish(exchange=self._exchange, routing_key=notification_key(tenant)))
        head = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
        self._writer.write(struct.pack(">BHI", 2, 1, len(head)) + head + b"\xce")
        if body:
            self._writer.write(struct.pack(">BHI", 3, 1, len(body)) + body + b"\xce")
        assert isinstance(await self._answer(), commands.Basic.Ack)

    async def _open(self, url: URL) -> None:
        self._writer.write(b"AMQP\x00\x00\x09\x01")
        await self._answer()
        response = f"\0{url.user}\0{url.password}"
        self._send(commands.Connection.StartOk({}, "PLAIN", response, "en_US"), channel=0)
        await self._answer()
        self._send(commands.Connection.TuneOk(2047, 131_072, 0), channel=0)
        self._send(commands.Connection.Open(url.path), channel=0)
        await self._answer()
        for request in (commands.Channel.Open(), commands.Confirm.Select()):
            self._send(request)
            await self._answer()

    def _send(self, method: Any, channel: int = 1) -> None:
        self._writer.write(pamqp.frame.marshal(method, channel))

    async def _answer(self) -> Any:
        async with asyncio.timeout(SOON):
            head = await self._reader.readexactly(7)
            rest = await self._reader.readexactly(struct.unpack(">BHI", head)[2] + 1)
        return pamqp.frame.unmarshal(head + rest)[2]


@asynccontextmanager
async def raw_posting(address: BrokerAddress, topology: Topology) -> AsyncIterator[RawPost]:
    """A producer's connection without a library in between."""
    url = URL(address.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        raw = RawPost(reader, writer, topology.notifications)
        await raw._open(url)
        yield raw
    finally:
        writer.transport.abort()
