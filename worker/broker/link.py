"""One pair of connections to the broker, for as long as it lasts.

Consuming and publishing have connections of their own: a broker that is short of memory stops reading from those who
publish, and must not stop our acknowledgements with it. When anything breaks the whole link is given up and a new one
is made; a delivery of an old link is never worked on and never acknowledged, because the broker has it again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity, PublishError

from contracts.channels import result_key
from contracts.delivery import Result
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.parcel import published
from worker.broker.topology import Topology, preference, rung
from worker.unusable import Unusable

_MAX_LANES = 256
_PUBLISH_TIMEOUT = 30.0  # seconds; a blocked broker answers nothing at all

OnMessage = Callable[["Link", AbstractIncomingMessage], None]


class TopologyMissing(Unusable):
    """The broker answers, but what we need does not exist on it."""


class Link:
    """Channels of a live link. Every method may raise one of `connection.BROKEN`; the link is over then."""

    def __init__(
        self,
        topology: Topology,
        login: str,
        consuming: tuple[AbstractConnection, AbstractChannel],
        publishing: tuple[AbstractConnection, AbstractChannel],
    ) -> None:
        """Watch what was opened; `open_link` opens it."""
        self.topology = topology
        self.login = login
        self.lanes = 0
        self._consume_connection, self._consuming = consuming
        self._publish_connection, self._publishing = publishing
        self._reply_channel: AbstractChannel | None = None
        self._consumers: list[tuple[AbstractQueue, str]] = []
        self._over = asyncio.Event()
        self._why = ""
        for what, (connection, channel) in (("consuming", consuming), ("publishing", publishing)):
            connection.close_callbacks.add(self._watch(f"the {what} connection was closed"))
            channel.close_callbacks.add(self._watch(f"the {what} channel was closed"))

    @property
    def alive(self) -> bool:
        """Whether deliveries of this link may still be worked on and acknowledged."""
        return not self._over.is_set()

    async def ended(self) -> str:
        """Wait for the end; says why it came."""
        await self._over.wait()
        return self._why

    def end(self, why: str) -> None:
        """Give the link up."""
        if self.alive:
            self._why = why
            self._over.set()

    async def consume(self, on_message: OnMessage, worker: str, prefetch: int) -> None:
        """Consume every lane, each as dear to us as the hash says.

        Raises:
            TopologyMissing: there is no lane.
        """
        lanes = await self._find_lanes()
        await self._consuming.set_qos(prefetch_count=prefetch)
        underlay = await self._consuming.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _frame: self.end("the broker cancelled a consumer"))

        async def hand_on(message: AbstractIncomingMessage) -> None:
            # Runs as a child of the channel and would be cancelled with it, so no work is done here.
            on_message(self, message)

        for lane in lanes:
            queue = await self._consuming.get_queue(lane, ensure=False)
            tag = await queue.consume(hand_on, arguments={"x-priority": preference(worker, lane)})
            self._consumers.append((queue, tag))
        self.lanes = len(lanes)

    async def cancel(self) -> None:
        """Take no more deliveries; those that are here can still be acknowledged."""
        for queue, tag in self._consumers:
            await queue.cancel(tag)
        self._consumers.clear()

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
        try:
            channel = await self._replying()
            message = published(result, self.login, message_id=uuid.uuid4().hex)
            to = channel.default_exchange
            await to.publish(message, routing_key=reply_to, mandatory=True, timeout=_PUBLISH_TIMEOUT)
        except PublishError:
            return f"nobody listens on {reply_to!r} any more"
        except ChannelClosed as error:
            return f"the broker refuses ({error}); the worker's user needs the write right on amq.default"
        return ""

    async def _replying(self) -> AbstractChannel:
        """A channel apart: where a producer sends us must not be able to close the channel that results go over."""
        if self._reply_channel is None or self._reply_channel.is_closed:
            self._reply_channel = await self._publish_connection.channel(on_return_raises=True)
        return self._reply_channel

    async def _publish(self, exchange: str, message: Message, routing_key: str) -> None:
        target = await self._publishing.get_exchange(exchange, ensure=False)
        await target.publish(message, routing_key=routing_key, mandatory=True, timeout=_PUBLISH_TIMEOUT)

    async def _find_lanes(self) -> list[str]:
        """Look, do not declare: the worker needs no right to create anything, and the operator decides how many."""
        lanes: list[str] = []
        while len(lanes) < _MAX_LANES and await self._exists(self.topology.lane(len(lanes))):
            lanes.append(self.topology.lane(len(lanes)))
        if not lanes:
            missing = self.topology.lane(0)
            raise TopologyMissing(f"there is no queue {missing!r} on the broker: run `postlane topology apply` first")
        return lanes

    async def _exists(self, queue: str) -> bool:
        """Asking for a queue that is not there closes the channel, hence one of its own."""
        async with self._consume_connection.channel(publisher_confirms=False) as channel:
            try:
                await channel.declare_queue(queue, passive=True)
            except ChannelNotFoundEntity:
                return False
        return True

    def _watch(self, what: str) -> Callable[[object, BaseException | None], None]:
        return lambda _side, error: self.end(f"{what}: {error}" if error else what)


@asynccontextmanager
async def open_link(address: BrokerAddress, topology: Topology) -> AsyncIterator[Link]:
    """Connect twice and open the channels.

    Raises:
        OSError, AMQPError: there is no broker, or it does not want us.
    """
    async with AsyncExitStack() as stack:
        consume = await stack.enter_async_context(await open_connection(address, "consume"))
        publish = await stack.enter_async_context(await open_connection(address, "publish"))
        consuming = await consume.channel(publisher_confirms=False)
        publishing = await publish.channel(on_return_raises=True)
        link = Link(topology, address.login, (consume, consuming), (publish, publishing))
        stack.callback(link.end, "we closed it")
        yield link
