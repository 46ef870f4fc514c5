"""How we reach the broker."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass, field

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, ProbableAuthenticationError
from yarl import URL

BROKEN = (AMQPError, ChannelInvalidStateError, ConnectionError, OSError, TimeoutError, asyncio.IncompleteReadError)
"""What the library raises when a connection or a channel is of no more use."""

_HEARTBEAT = 10  # seconds; the library notices a dead peer only after three of them
_CONNECT_TIMEOUT = 15.0  # seconds


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is and who we are there.

    Attributes:
        url: amqp:// or amqps:// with login.
        ca_file: trust only these certificates; None: the system's.
    """

    url: str = field(repr=False)
    ca_file: str | None = None

    @property
    def login(self) -> str:
        """The user that the broker knows us as."""
        return URL(self.url).user or "guest"

    def __str__(self) -> str:
        """For people: without the password."""
        url = URL(self.url)
        return f"{url.scheme}://{url.user or 'guest'}@{url.host or 'localhost'}:{url.port or 5672}{url.raw_path or '/'}"


async def open_connection(address: BrokerAddress, purpose: str) -> AbstractConnection:
    """Connect, under a name that RabbitMQ's management page shows.

    Raises:
        OSError, AMQPError: there is no broker, or it does not want us (`explained` puts it into words).
    """
    url = URL(address.url)
    context = ssl.create_default_context(cafile=address.ca_file) if url.scheme == "amqps" else None
    return await aio_pika.connect(
        url if "heartbeat" in url.query else url.update_query(heartbeat=_HEARTBEAT),
        timeout=_CONNECT_TIMEOUT,
        ssl_context=context,
        client_properties={"connection_name": f"postlane {purpose} on {socket.gethostname()}"},
    )


def explained(error: BaseException, address: BrokerAddress) -> str:
    """Why the broker cannot be used, for a person; never with the password."""
    match error:
        case ProbableAuthenticationError():
            return f"{address} refuses the login (user, password or virtual host)"
        case TimeoutError():
            return f"{address} does not answer"
        case ConnectionRefusedError():
            return f"nothing listens at {address}"
        case OSError() if not isinstance(error, AMQPError):
            return f"{address} cannot be reached ({error.strerror or error})"
        case _:
            return f"{address}: {error}"
