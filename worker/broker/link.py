"""One pair of connections to the broker, for as long as it lasts.

Consuming and publishing have connections of their own: a broker that is short of memory stops reading from those who
publish, and must not stop our acknowledgements with it. When anything breaks the whole link is given up and a new one
is made; a delivery of an old link is never worked on and never acknowledged, because the broker has it again.

Each lane has a channel of its own. Asking for a queue that is not there closes the channel that asks, so a lane is
looked for by consuming it: that needs no right but to read it, while RabbitMQ from 4.3 on asks for the right to
configure a queue (and so to delete it) of whoever only looks whether it exists.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity, PublishError
from pamqp import commands

from contracts.channels import result_key
from contracts.delivery import Result
from worker.broker.connection import BROKEN, BrokerAddress, LineBroken, on_the_line, open_connection
from worker.broker.parcel import published
from worker.broker.topology import Topology, preference, rung
from worker.unusable import Unusable

_MAX_LANES = 256
_GAP = 8  # so many missing lanes in a row are the end of them
_CONFIRMED_WITHIN = 30.0  # seconds
_LOOK_TIMEOUT = 5.0  # seconds
_CLOSED_WITHIN = 1.0  # seconds; a line that is silent never says that it was closed
_DIRECT_REPLY: Final = "amq.rabbitmq.reply-to."

OnMessage = Callable[["Link", AbstractIncomingMessage], None]


class TopologyMissing(Unusable):
    """The broker answers, but what we need does not exist on it."""


@dataclass(slots=True)
class _Lane:
    """A lane that we consume.

    Attributes:
        heard: when something came last, on the loop's clock.
        held: what came and may not be acknowledged yet.
    """

    queue: AbstractQueue
    tag: str = ""
    heard: float = field(default_factory=time.monotonic)
    held: list[AbstractIncomingMessage] = field(default_factory=list)

    def took(self, message: AbstractIncomingMessage) -> None:
        self.heard = time.monotonic()
        self.held = [*self._unfinished(), message]

    def expects(self, prefetch: int, quiet: float) -> bool:
        """Whether the broker could have sent something for so many seconds, and has not."""
        return time.monotonic() - self.heard >= quiet and len(self._unfinished()) < prefetch

    def _unfinished(self) -> list[AbstractIncomingMessage]:
        return [message for message in self.held if not message.processed]


class _ReplyAddress(commands.Queue.Declare):
    """RabbitMQ's reply addresses are base64; the library's rule for names of queues knows no `+` and no `=`."""

    def validate(self) -> None:
        pass


class Link:
    """Channels of a live link. Every method may raise one of `connection.BROKEN`; the link is over then."""

    def __init__(
        self,
        topology: Topology,
        login: str,
        consume: AbstractConnection,
        publishing: tuple[AbstractConnection, AbstractChannel],
    ) -> None:
        """Watch what was opened; `open_link` opens it."""
        self.topology = topology
        self.login = login
        self._consume_connection = consume
        self._publish_connection, self._publishing = publishing
        self._reply_channel: AbstractChannel | None = None
        self._may_not_reply = ""
        self._asking_channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._lanes: dict[int, _Lane] = {}
        self._prefetch = 0
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        consume.close_callbacks.add(self._watch("the consuming connection was closed"))
        self._publish_connection.close_callbacks.add(self._watch("the publishing connection was closed"))
        self._publishing.close_callbacks.add(self._watch("the publishing channel was closed"))
        for connection in (consume, self._publish_connection):
            if connection.is_closed:  # before anybody watched
                self.end("a connection was closed while the other one was opened")

    @property
    def alive(self) -> bool:
        """Whether deliveries of this link may still be worked on and acknowledged."""
        return not self._over.done()

    @property
    def lanes(self) -> int:
        """How many are consumed."""
        return len(self._lanes)

    @property
    def gaps(self) -> tuple[str, ...]:
        """Lanes that are missing though there are some behind them."""
        last = max(self._lanes, default=0)
        return tuple(self.topology.lane(number) for number in range(last) if number not in self._lanes)

    async def ended(self) -> str:
        """Wait for the end; says why it came."""
        return await asyncio.shield(self._over)

    def end(self, why: str) -> None:
        """Give the link up."""
        if self.alive:
            self._over.set_result(why)

    async def close(self) -> None:
        """Hang up, without waiting long for a broker that does not answer."""
        self.end("we closed it")
        connections = (self._consume_connection, self._publish_connection)
        closing = {asyncio.ensure_future(connection.close()) for connection in connections}
        _, left = await asyncio.wait(closing, timeout=_CLOSED_WITHIN)
        for task in left:
            task.cancel()

    # ---------------------------------------------------------------- consuming

    async def consume(self, on_message: OnMessage, worker: str, prefetch: int) -> None:
        """Consume every lane that there is, each as dear to us as the hash says.

        The operator decides how many there are. One that is missing does not keep us from those behind it.

        Raises:
            TopologyMissing: there is no lane.
        """
        self._prefetch = prefetch
        missing = 0
        for number in range(_MAX_LANES):
            missing = 0 if await self._take(number, on_message, worker) else missing + 1
            if missing and (number >= self.topology.lanes or missing == _GAP):
                break
        if not self._lanes:
            lane = self.topology.lane(0)
            raise TopologyMissing(f"there is no queue {lane!r} on the broker: run `postlane topology apply` first")

    async def take_new(self, on_message: OnMessage, worker: str, *, behind: bool) -> bool:
        """Consume lanes that are back, and with `behind` one that was added. Whether there is any."""
        numbers = [number for number in range(max(self._lanes)) if number not in self._lanes]
        wanted = [*numbers, max(self._lanes) + 1] if behind else numbers
        return any([await self._take(number, on_message, worker) for number in wanted])

    async def _take(self, number: int, on_message: OnMessage, worker: str) -> bool:
        name = self.topology.lane(number)
        with on_the_line():
            channel = await self._consume_connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=self._prefetch)
            lane = _Lane(await channel.get_queue(name, ensure=False))
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: self.end(f"the broker cancelled a consumer of {name}"))

            async def hand_on(message: AbstractIncomingMessage) -> None:
                # Runs as a child of the channel and would be cancelled with it, so no work is done here.
                lane.took(message)
                on_message(self, message)

            try:
                lane.tag = await lane.queue.consume(hand_on, arguments={"x-priority": preference(worker, name)})
            except ChannelNotFoundEntity:
                return False
        channel.close_callbacks.add(self._watch("the consuming channel was closed"))
        if channel.is_closed:
            self.end("the consuming channel was closed")
        self._lanes[number] = lane
        return True

    async def cancel(self) -> None:
        """Take no more deliveries; those that are here can still be acknowledged."""
        with on_the_line():
            for lane in self._lanes.values():
                await lane.queue.cancel(lane.tag)

    async def overlooked(self, quiet: float) -> str | None:
        """A lane from which nothing has come for so many seconds, though something lies there for us.

        Looks by taking a message (basic.get), which needs no right that a consumer has not, and finds just what
        matters: RabbitMQ gives a message out of turn only if no consumer has room for it. What is found goes back when
        the channel closes. A broker that does not answer is none of our business here: heartbeats are for that.
        """
        quiet_lanes = [lane for lane in self._lanes.values() if lane.expects(self._prefetch, quiet)]
        with on_the_line():
            for lane in quiet_lanes:
                if await self._has_more(lane.queue.name) and lane.expects(self._prefetch, quiet):
                    return lane.queue.name
        return None

    async def _has_more(self, queue: str) -> bool:
        channel = await self._consume_connection.channel(publisher_confirms=False)
        try:
            looked = await channel.get_queue(queue, ensure=False)
            return await looked.get(fail=False, timeout=_LOOK_TIMEOUT) is not None
        except (TimeoutError, ChannelClosed):
            return False
        finally:
            with suppress(*BROKEN):
                await channel.close()

    # ---------------------------------------------------------------- publishing

    async def blocked(self) -> bool:
        """Whether the broker has told us that it takes nothing: it is short of memory or of disk."""
        if not self.alive or self._publish_connection.transport is None:
            return False
        try:
            async with asyncio.timeout(0):
                await self._publish_connection.transport.ready()
        except TimeoutError:
            return True
        return False

    async def flows(self) -> None:
        """Wait until results can be confirmed, or the link is over."""
        if not await self.blocked() or self._publish_connection.transport is None:
            return
        ready = asyncio.ensure_future(self._publish_connection.transport.ready())
        try:
            await asyncio.wait((ready, self._over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()

    async def confirms(self, blocked: Callable[[], None]) -> None:
        """Return when the broker takes what we publish; `blocked` is told while it does not.

        Something is published that leads nowhere and comes back: RabbitMQ tells only those who publish that it is
        short of memory, and mails must not be sent whose results cannot be. It reads the first of a connection in any
        case and stops then, so there is a second.
        """
        try:
            for _ in range(2):
                await self._probed(blocked)
        except ChannelClosed as error:
            self._may_not_reply = (
                f"the broker refuses ({error}); the worker's user needs the write right on amq.default"
            )

    async def _probed(self, blocked: Callable[[], None]) -> None:
        probe = Message(b"", message_id=uuid.uuid4().hex, user_id=self.login)
        nowhere = f"{self.topology.prefix}.nowhere.{probe.message_id}"
        with suppress(PublishError):
            with on_the_line():
                channel = await self._replying()
            await self._confirmed(channel.default_exchange.publish(probe, nowhere, mandatory=True), blocked)

    async def publish_result(self, result: Result) -> None:
        """Publish to the results exchange, confirmed."""
        message = published(result, self.login, message_id=result.event_id)
        await self._publish(self.topology.results, message, result_key(result.tenant, result.status))

    async def park(self, message: Message, routing_key: str, seconds: float) -> None:
        """Put a message into a wait queue, confirmed; it comes back after at most so many seconds."""
        await self._publish(self.topology.wait(rung(seconds)), message, routing_key)

    async def bury(self, message: Message, routing_key: str) -> None:
        """Put a message among the dead letters, confirmed."""
        await self._publish(self.topology.dead, message, routing_key)

    async def reply(self, result: Result, reply_to: str) -> str:
        """Send a copy of a result to the queue that the producer named.

        Returns:
            Why it could not be sent; empty if it was. The result itself is published in any case.
        """
        if self.topology.owns(reply_to):
            return f"{reply_to!r} is a queue of Postlane's own"
        if self._may_not_reply:
            return self._may_not_reply
        message = published(result, self.login, message_id=uuid.uuid4().hex)
        try:
            with on_the_line():
                channel = await self._replying()
            await self._confirmed(channel.default_exchange.publish(message, reply_to, mandatory=True))
        except PublishError:
            if reply_to.startswith(_DIRECT_REPLY) and await self._still_there(reply_to):
                return ""  # RabbitMQ returns what it has delivered to a direct reply address
            return f"nobody listens on {reply_to!r} any more"
        except ChannelClosed as error:
            return f"the broker refuses ({error})"
        return ""

    async def _still_there(self, reply_to: str) -> bool:
        """Declaring a direct reply address creates nothing, needs no right and tells whether somebody is behind it."""
        async with self._asking:
            with on_the_line():
                if self._asking_channel is None or self._asking_channel.is_closed:
                    self._asking_channel = await self._consume_connection.channel(publisher_confirms=False)
                underlay = await self._asking_channel.get_underlay_channel()
                try:
                    await underlay.rpc(_ReplyAddress(queue=reply_to))  # type: ignore[attr-defined]  # not in its interface
                except ChannelNotFoundEntity:
                    return False
        return True

    async def _replying(self) -> AbstractChannel:
        """A channel apart: where a producer sends us must not be able to close the channel that results go over."""
        async with self._opening:
            if self._reply_channel is None or self._reply_channel.is_closed:
                self._reply_channel = await self._publish_connection.channel(on_return_raises=True)
            return self._reply_channel

    async def _publish(self, exchange: str, message: Message, routing_key: str) -> None:
        with on_the_line():
            target = await self._publishing.get_exchange(exchange, ensure=False)
        await self._confirmed(target.publish(message, routing_key=routing_key, mandatory=True))

    async def _confirmed(
        self, publishing: Coroutine[Any, Any, object], blocked: Callable[[], None] = lambda: None
    ) -> None:
        """Wait for the confirmation: not for ever, but as long as it takes if the broker says that it is blocked."""
        waiting = asyncio.create_task(_on_the_line(publishing))
        try:
            left = _CONFIRMED_WITHIN
            while not waiting.done() and left > 0:
                await asyncio.wait((waiting, self._over), timeout=1, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    break
                if not self.alive:
                    raise LineBroken(self._over.result())
                if await self.blocked():
                    blocked()
                else:
                    left -= 1
            if not waiting.done():
                raise TimeoutError(f"the broker has confirmed nothing for {_CONFIRMED_WITHIN:.0f} seconds")
            waiting.result()
        finally:
            waiting.cancel()

    def _watch(self, what: str) -> Callable[[object, BaseException | None], None]:
        return lambda _side, error: self.end(f"{what}: {error}" if error else what)


async def open_link(address: BrokerAddress, topology: Topology) -> Link:
    """Connect twice and open the channel for results.

    Raises:
        OSError, AMQPError: there is no broker, or it does not want us.
    """
    consume = await open_connection(address, "consume")
    opened = [consume]
    try:
        publish = await open_connection(address, "publish")
        opened.append(publish)
        with on_the_line():
            channel = await publish.channel(on_return_raises=True)
        return Link(topology, address.login, consume, (publish, channel))
    except BaseException:
        closing = {asyncio.ensure_future(connection.close()) for connection in opened}
        for task in (await asyncio.wait(closing, timeout=_CLOSED_WITHIN))[1]:
            task.cancel()
        raise


async def _on_the_line(operation: Coroutine[Any, Any, object]) -> None:
    with on_the_line():
        await operation
