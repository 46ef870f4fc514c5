"""A producer in Python: publish confirmed, and wait for the result if you like.

    async with publisher("amqp://portal:secret@broker/") as post:
        result = await post.send(Notification(type=NOTIFICATION_TYPE, id="reset-1", tenant="contoso", …))

Needs the extra `postlane[publisher]`. Producers in other languages do the same with the ordinary AMQP 0-9-1 client:
see docs/producers.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, PublishError
from aiormq.exceptions import ChannelAccessRefused
from pydantic import ValidationError
from yarl import URL

from contracts.cancellation import Cancellation
from contracts.channels import DEFAULT_PREFIX, notification_key, notifications_exchange
from contracts.delivery import Result
from contracts.notification import Notification, Priority
from contracts.wire import JSON, encode

DIRECT_REPLY = "amq.rabbitmq.reply-to"
_PRIORITIES = {Priority.HIGH: 8, Priority.NORMAL: 4, Priority.LOW: 1}

OnResult = Callable[[Result], None]


class NotPublished(Exception):  # noqa: N818 - the sentence a producer reads
    """The broker did not take the notification. It was not sent and will not be; publish it again with the same id."""


class Publisher:
    """Publishes over one channel. Results come back over the same, by RabbitMQ's direct reply-to: it needs no right."""

    def __init__(self, channel: AbstractChannel, login: str, prefix: str) -> None:
        """Made by `publisher`."""
        self._channel = channel
        self._login = login
        self._exchange = notifications_exchange(prefix)
        self._waiting: dict[str, list[tuple[asyncio.Future[Result], OnResult | None]]] = {}

    async def publish(self, notification: Notification) -> None:
        """Publish, and return when the broker has it safely.

        Raises:
            NotPublished: says why.
        """
        await self.publish_bytes(
            encode(notification), notification.tenant, message_id=notification.id, priority=notification.priority
        )

    async def send(self, notification: Notification, timeout: float = 60, on_result: OnResult | None = None) -> Result:
        """Publish and wait for the final result.

        Args:
            notification: what to send.
            timeout: seconds; the notification stays with Postlane when it runs out.
            on_result: told of every result, the deferred ones before the final one too.

        Raises:
            NotPublished: the broker did not take it.
            TimeoutError: no final result within the time.
        """
        return await self._answered(notification.id, self.publish(notification), timeout, on_result)

    async def cancel(self, notification_id: str, tenant: str, timeout: float = 60) -> Result:
        """Take a notification back, and wait for its final result: `cancelled` if it was not too late.

        Args:
            notification_id: of the notification.
            tenant: whose mail it was.
            timeout: seconds.

        Raises:
            NotPublished: the broker did not take the cancellation.
            TimeoutError: no final result within the time.
        """
        wish = Cancellation(type="postlane.cancel.v1", id=notification_id, tenant=tenant)
        published = self.publish_bytes(
            encode(wish),
            tenant,
            message_id=notification_id,
            correlation_id=notification_id,
            priority=Priority.HIGH,
        )
        return await self._answered(notification_id, published, timeout, None)

    async def _answered(
        self, notification_id: str, published: Awaitable[None], timeout: float, on_result: OnResult | None
    ) -> Result:
        final: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(notification_id, [])
        waiting.append((final, on_result))
        try:
            async with asyncio.timeout(timeout):
                await published
                return await final
        finally:
            waiting.remove((final, on_result))
            if not waiting:
                self._waiting.pop(notification_id, None)

    async def publish_bytes(
        self,
        body: bytes,
        tenant: str,
        *,
        message_id: str | None = None,
        correlation_id: str | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Publish what is already encoded.

        Raises:
            NotPublished: says why.
        """
        message = aio_pika.Message(
            body,
            content_type=JSON,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=message_id,
            correlation_id=correlation_id,
            timestamp=datetime.now(UTC),
            priority=_PRIORITIES[priority],
            user_id=self._login,
            reply_to=DIRECT_REPLY,
        )
        try:
            exchange = await self._channel.get_exchange(self._exchange, ensure=False)
            await exchange.publish(message, notification_key(tenant), mandatory=True, timeout=30)
        except (AMQPError, OSError, RuntimeError) as error:
            raise NotPublished(_words(error, self._exchange)) from error

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        try:
            result = Result.model_validate_json(message.body)
        except ValidationError:
            return  # a newer Postlane's message; not what anybody here waits for
        asked = result.notification_id or message.correlation_id or ""
        for final, on_result in tuple(self._waiting.get(asked, ())):
            if on_result is not None:
                on_result(result)
            if result.final and not final.done():
                final.set_result(result)


@asynccontextmanager
async def publisher(url: str, *, prefix: str = DEFAULT_PREFIX) -> AsyncIterator[Publisher]:
    """Connect to the broker.

    Args:
        url: amqp:// or amqps:// address with login.
        prefix: of the installation's exchange names.

    Raises:
        OSError, aio_pika.exceptions.AMQPError: the broker cannot be used.
    """
    async with await aio_pika.connect(url, timeout=15) as connection:
        channel = await connection.channel(on_return_raises=True)
        post = Publisher(channel, URL(url).user or "guest", prefix)
        replies = await channel.get_queue(DIRECT_REPLY, ensure=False)
        await replies.consume(post._on_reply, no_ack=True)  # noqa: SLF001 - the other half of the same object
        yield post


def _words(error: Exception, exchange: str) -> str:
    match error:
        case ChannelNotFoundEntity():
            return f"there is no exchange {exchange!r}: Postlane's topology is not on this broker or virtual host"
        case ChannelAccessRefused():
            return f"this login may not publish to {exchange!r} for this tenant: {error}"
        case PublishError():
            return f"exchange {exchange!r} leads nowhere: run `postlane topology apply`"
        case TimeoutError():
            return "the broker does not confirm; it may be out of memory or disk"
        case _:
            return str(error) or type(error).__name__
