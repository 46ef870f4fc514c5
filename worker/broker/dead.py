"""Dead letters: look through them without taking them, take out the ones that are dealt with.

A letter that is looked at stays unacknowledged until the channel closes, and then lies where it lay; a program that
dies in the middle loses nothing. Meanwhile nobody else sees it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from contracts.wire import Properties
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.parcel import CARRY, DIED_AT, EXPLANATION, KEY, MAILBOX, REASON, received, replayed
from worker.broker.topology import Topology


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that was set aside.

    Attributes:
        name: short, to tell letters apart.
        body: as the producer sent it.
        properties: as the producer set them.
        reason: class of the verdict; `delivery-limit` if the broker itself gave up on it.
        mailbox: that it was last tried with, empty if none.
        died_at: when it was set aside, if a worker did it.
        carry: its progress by then.
    """

    name: str
    body: bytes = field(repr=False)
    properties: Properties = field(repr=False)
    reason: str
    explanation: str
    mailbox: str
    died_at: datetime | None
    carry: str = field(repr=False)


class DeadLetters:
    """The dead-letter queue, opened for one look through it."""

    def __init__(self, channel: AbstractChannel, topology: Topology, login: str) -> None:
        """Made by `dead_letters`."""
        self._channel = channel
        self._topology = topology
        self._login = login
        self._taken: dict[str, AbstractIncomingMessage] = {}

    async def __aiter__(self) -> AsyncIterator[Letter]:
        """Every letter that lies there now, oldest first."""
        queue = await self._channel.declare_queue(self._topology.dead, passive=True)
        for _ in range(queue.declaration_result.message_count or 0):
            message = await queue.get(no_ack=False, fail=False)
            if message is None:
                return
            letter = _letter(message, self._login)
            self._taken[letter.name] = message
            yield letter

    async def replay(self, letter: Letter, body: bytes, carry: str) -> None:
        """Send it on its way again, confirmed, and take it out.

        Args:
            letter: from this look.
            body: corrected, or as it was.
            carry: the progress that it starts with; empty for a notification that was never taken on.
        """
        message = self._taken[letter.name]
        copy = replayed(message, received(message, self._login), body, carry, self._login)
        exchange = await self._channel.get_exchange(self._topology.wait(1), ensure=False)
        await exchange.publish(copy, routing_key=_routing_key(message), mandatory=True, timeout=30)
        await self.discard(letter)

    async def discard(self, letter: Letter) -> None:
        """Take it out for good."""
        await self._taken.pop(letter.name).ack()


@asynccontextmanager
async def dead_letters(address: BrokerAddress, topology: Topology) -> AsyncIterator[DeadLetters]:
    """Open the queue; what was not dealt with lies there again afterwards.

    Raises:
        OSError, AMQPError: the broker cannot be used.
    """
    async with (
        await open_connection(address, "dead letters") as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        yield DeadLetters(channel, topology, address.login)


def _letter(message: AbstractIncomingMessage, login: str) -> Letter:
    headers: dict[str, Any] = dict(message.headers)
    ours = REASON in headers and message.user_id == login
    died_at = headers.get(DIED_AT) if ours else None
    return Letter(
        name=(message.message_id or f"{message.delivery_tag}")[:8],
        body=message.body,
        properties=received(message, login).intake.properties,
        reason=str(headers[REASON]) if ours else "delivery-limit",
        explanation=str(headers.get(EXPLANATION, "")) if ours else _BROKER_GAVE_UP,
        mailbox=str(headers.get(MAILBOX, "")) if ours else "",
        died_at=datetime.fromisoformat(str(died_at)) if died_at else None,
        carry=str(headers.get(CARRY, "")) if ours else "",
    )


def _routing_key(message: AbstractIncomingMessage) -> str:
    return str(message.headers.get(KEY) or message.routing_key or "")


_BROKER_GAVE_UP = "Workers were given it again and again and never finished with it; each time the connection was lost."
