"""Create the topology on a broker, and look at what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPConnectionError, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.common import Arguments

from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Queue, Topology
from worker.unusable import Unusable

_AT_ONCE = 8


class TopologyDiffers(Unusable):
    """Something of the same name exists with other arguments; RabbitMQ cannot change it in place."""


async def apply(address: BrokerAddress, topology: Topology) -> Topology:
    """Create what is missing; running it again changes nothing.

    Returns:
        The topology as created: with one lane if the broker has no hash exchange.

    Raises:
        TopologyDiffers: names what must be deleted first.
        OSError, AMQPError: the broker cannot be used.
    """
    topology = topology if await _has_hash_exchange(address, topology) else replace(topology, hashed=False, lanes=1)
    async with await open_connection(address, "topology") as connection:
        await _declare(connection, topology)
    return topology


async def remove(address: BrokerAddress, topology: Topology) -> None:
    """Delete the topology and every message in it."""
    async with await open_connection(address, "topology") as connection, connection.channel() as channel:
        await _side_by_side(connection, topology.queues(), lambda its, queue: its.queue_delete(queue.name))
        for exchange in reversed(list(topology.exchanges())):
            await channel.exchange_delete(exchange.name)


async def depths(
    address: BrokerAddress, topology: Topology
) -> AsyncIterator[tuple[str, int, int] | tuple[str, None, None]]:
    """For every queue: name, messages ready, consumers; None where it does not exist."""
    async with await open_connection(address, "topology") as connection:
        for queue in topology.queues():
            async with connection.channel(publisher_confirms=False) as channel:
                try:
                    found = (await channel.declare_queue(queue.name, passive=True)).declaration_result
                except ChannelNotFoundEntity:
                    yield queue.name, None, None
                else:
                    yield queue.name, found.message_count or 0, found.consumer_count or 0


async def _has_hash_exchange(address: BrokerAddress, topology: Topology) -> bool:
    """A broker without the plugin closes the whole connection at the unknown type."""
    if not topology.hashed:
        return False
    wanted = next(item for item in topology.exchanges() if item.name == topology.lane_exchange)
    try:
        async with await open_connection(address, "topology") as connection, connection.channel() as channel:
            await channel.declare_exchange(wanted.name, wanted.kind, durable=True, arguments={**wanted.arguments})
    except AMQPConnectionError as error:
        if "unknown exchange type" in str(error) or "invalid exchange type" in str(error):
            return False
        raise
    except ChannelPreconditionFailed as error:
        how = "but is of another type" if "inequivalent arg 'type'" in str(error) else "with other arguments"
        raise TopologyDiffers(f"exchange {wanted.name!r} exists {how}; delete it first ({error})") from error
    return True


async def _declare(connection: AbstractConnection, topology: Topology) -> None:
    async with connection.channel() as channel:
        for exchange in topology.exchanges():
            with _named(f"exchange {exchange.name!r}"):
                arguments: Arguments = {**exchange.arguments}
                await channel.declare_exchange(exchange.name, exchange.kind, durable=True, arguments=arguments)
        await _side_by_side(connection, topology.queues(), _declare_queue)
        underlay = await channel.get_underlay_channel()
        for item in topology.bindings():
            if item.to_exchange:
                await underlay.exchange_bind(item.destination, item.source, item.key)
            else:
                await underlay.queue_bind(item.destination, item.source, item.key)


async def _declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    with _named(f"queue {queue.name!r}"):
        await channel.declare_queue(queue.name, durable=True, arguments={**queue.arguments})


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except ChannelPreconditionFailed as error:
        raise TopologyDiffers(f"{what} exists with other arguments; delete it first ({error})") from error


async def _side_by_side(
    connection: AbstractConnection, queues: Iterable[Queue], deed: Callable[[AbstractChannel, Queue], Awaitable[object]]
) -> None:
    """A quorum queue is made by an election, so they are quicker together; the first failure in order is raised."""
    some = asyncio.Semaphore(_AT_ONCE)

    async def done(queue: Queue) -> None:
        async with some, connection.channel() as channel:
            await deed(channel, queue)

    for outcome in await asyncio.gather(*map(done, queues), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
