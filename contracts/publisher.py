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
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError, PublishError
from aiormq.exceptions import ChannelAccessRefused
from pamqp.commands import Basic
from pydantic import ValidationError
from yarl import URL

from contracts.cancellation import Cancellation
from contracts.channels import DEFAULT_PREFIX, notification_key, notifications_exchange
from contracts.delivery import Result
from contracts.notification import Notification, Priority
from contracts.wire import JSON, encode

DIRECT_REPLY = "amq.rabbitmq.reply-to"
_PRIORITIES = {Priority.HIGH: 8, Priority.NORMAL: 4, Priority.LOW: 1}

_CONFIRMED_WITHIN = 30.0  # seconds
_UNCONFIRMED = "the broker does not confirm; it may be out of memory or disk"

OnResult = Callable[[Result], None]


class NotPublished(Exception):  # noqa: N818 - the sentence a producer reads
    """The broker did not confirm the notification. Publish it again with the same id: that never sends it twice."""


class NoResult(ConnectionError):  # noqa: N818 - as above
    """The notification is published, but the line on which its result would come broke.

    Send it again with the same id to get the result; no second mail is sent.
    """


class Publisher:
    """Publishes over one channel. Results come back over the same, by RabbitMQ's direct reply-to: it needs no right."""

    def __init__(self, connection: AbstractConnection, login: str, prefix: str, confirmed_within: float) -> None:
        """Made by `publisher`."""
        self._connection = connection
        self._login = login
        self._exchange = notifications_exchange(prefix)
        self._confirmed_within = confirmed_within
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._waiting: dict[tuple[str, str], list[tuple[asyncio.Future[Result], OnResult | None]]] = {}

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
            NotPublished: the broker did not confirm it.
            TimeoutError: it lies safely with Postlane, but there was no final result within the time.
            NoResult: it lies safely with Postlane, but the line broke.
        """
        published = self.publish(notification)
        return await self._answered(notification.tenant, notification.id, published, timeout, on_result)

    async def cancel(self, notification_id: str, tenant: str, timeout: float = 60) -> Result:
        """Take a notification back, and wait for its final result: `cancelled` if it was not too late.

        Args:
            notification_id: of the notification.
            tenant: whose mail it was.
            timeout: seconds.

        Raises:
            NotPublished: the broker did not confirm the cancellation.
            TimeoutError: it lies safely with Postlane, but there was no answer within the time.
            NoResult: it lies safely with Postlane, but the line broke.
        """
        wish = Cancellation(type="postlane.cancel.v1", id=notification_id, tenant=tenant)
        published = self.publish_bytes(
            encode(wish),
            tenant,
            message_id=notification_id,
            correlation_id=notification_id,
            priority=Priority.HIGH,
        )
        return await self._answered(tenant, notification_id, published, timeout, None)

    async def _answered(
        self, tenant: str, notification_id: str, published: Awaitable[None], timeout: float, on_result: OnResult | None
    ) -> Result:
        final: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        key, waiter = (tenant, notification_id), (final, on_result)
        self._waiting.setdefault(key, []).append(waiter)
        confirmed = False
        try:
            async with asyncio.timeout(timeout):
                await published
                confirmed = True
                return await final
        except TimeoutError:
            if confirmed:
                raise
            raise NotPublished(_UNCONFIRMED) from None
        finally:
            self._waiting[key].remove(waiter)
            if not self._waiting[key]:
                del self._waiting[key]

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
            exchange = await (await self._open()).get_exchange(self._exchange, ensure=False)
            key = notification_key(tenant)
            await exchange.publish(message, key, mandatory=True, timeout=self._confirmed_within)
        except (AMQPError, OSError, RuntimeError) as error:
            raise NotPublished(_words(error, self._exchange)) from error

    async def _open(self) -> AbstractChannel:
        """The broker closes a channel on which it refuses something; results come over the one that published."""
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                channel = await self._connection.channel(on_return_raises=True)
                channel.close_callbacks.add(self._on_close)
                replies = await channel.get_queue(DIRECT_REPLY, ensure=False)
                await replies.consume(self._on_reply, no_ack=True)
                self._channel = channel
            return self._channel

    def _on_close(self, _channel: object, error: BaseException | None) -> None:
        for waiter in self._waiting.values():
            for final, _ in waiter:
                if not final.done():
                    final.set_exception(NoResult(f"the line broke before the result came ({error})"))
                    final.exception()  # nobody may be waiting for it yet

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        try:
            result = Result.model_validate_json(message.body)
        except ValidationError:
            return  # a newer Postlane's message; not what anybody here waits for
        asked = result.notification_id or message.correlation_id or ""
        for final, on_result in self._waiting.get((result.tenant or "", asked), ()):
            if on_result is not None:
                on_result(result)
            if result.final and not final.done():
                final.set_result(result)


@asynccontextmanager
async def publisher(
    url: str, *, prefix: str = DEFAULT_PREFIX, confirmed_within: float = _CONFIRMED_WITHIN
) -> AsyncIterator[Publisher]:
    """Connect to the broker.

    Args:
        url: amqp:// or amqps:// address with login.
        prefix: of the installation's exchange names.
        confirmed_within: seconds that the broker gets to confirm a notification.

    Raises:
        OSError, aio_pika.exceptions.AMQPError: the broker cannot be used.
    """
    async with await aio_pika.connect(url, timeout=15) as connection:
        post = Publisher(connection, URL(url).user or "guest", prefix, confirmed_within)
        await post._open()  # noqa: SLF001 - the other half of the same object
        yield post


def _words(error: Exception, exchange: str) -> str:
    match error:
        case ChannelNotFoundEntity():
            return f"there is no exchange {exchange!r}: Postlane's topology is not on this broker or virtual host"
        case ChannelAccessRefused():
            return f"this login may not publish to {exchange!r} for this tenant: {error}"
        case DeliveryError(frame=Basic.Nack()):
            return "the broker refuses it: a queue of Postlane's is full, or cannot be reached"
        case PublishError():
            return f"exchange {exchange!r} leads nowhere: run `postlane topology apply`"
        case TimeoutError():
            return _UNCONFIRMED
        case _:
            return str(error) or type(error).__name__
