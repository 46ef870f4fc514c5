"""How we reach the broker, and what the library raises when that ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, InvalidFrameError, ProbableAuthenticationError
from aiormq.exceptions import ChannelAccessRefused
from pamqp.exceptions import PAMQPException
from yarl import URL

from worker.broker.octets import ReadableConnection

BROKEN = (AMQPError, ChannelInvalidStateError, ConnectionError, OSError, TimeoutError, asyncio.IncompleteReadError)
"""What is raised when a connection or a channel is of no more use."""

_HEARTBEAT = 10  # seconds; the library notices a dead peer only after three of them
_CONNECT_TIMEOUT = 15.0  # seconds
_PORTS = {"amqp": 5672, "amqps": 5671}


class LineBroken(ConnectionError):  # noqa: N818 - reads as the sentence it stands for
    """The line broke in the middle of something."""


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

    @property
    def vhost(self) -> str:
        """The virtual host, as RabbitMQ names it."""
        return URL(self.url).path.removeprefix("/") or "/"

    def __str__(self) -> str:
        """For people: without the password."""
        url = URL(self.url)
        host = url.host or "localhost"
        place = f"[{host}]" if ":" in host else host
        port = url.explicit_port or _PORTS.get(url.scheme, _PORTS["amqp"])
        return f"{url.scheme}://{url.user or 'guest'}@{place}:{port}{url.raw_path or '/'}"


async def open_connection(address: BrokerAddress, purpose: str) -> AbstractConnection:
    """Connect, under a name that RabbitMQ's management page shows.

    Raises:
        OSError, AMQPError: there is no broker, or it does not want us (`explained` puts it into words).
    """
    url = URL(address.url)
    context = ssl.create_default_context(cafile=address.ca_file) if url.scheme == "amqps" else None
    with on_the_line():
        return await aio_pika.connect(
            url if "heartbeat" in url.query else url.update_query(heartbeat=_HEARTBEAT),
            timeout=_CONNECT_TIMEOUT,
            ssl_context=context,
            client_properties={"connection_name": f"postlane {purpose} on {socket.gethostname()}"},
            connection_class=ReadableConnection,
        )


@contextmanager
def on_the_line() -> Iterator[None]:
    """Around calls of the library: whatever a breaking line makes of them is one of `BROKEN`.

    A line that breaks cancels everybody who waits for an answer on it, so that a task finds itself cancelled by nobody;
    and if somebody does cancel it in that moment, the library may lose that. Both are put right here.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        if cancelled():
            raise
        raise LineBroken("the line broke while we waited for an answer") from error
    except BROKEN as error:
        if cancelled():
            raise asyncio.CancelledError from error
        raise
    except (RuntimeError, PAMQPException) as error:  # "<Connection …> closed", "Connection was not opened"
        if cancelled():
            raise asyncio.CancelledError from error
        raise LineBroken("the line broke in the middle of a request") from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        if cancelled():  # a bare one: the library closed the channel for no reason that it knows
            raise asyncio.CancelledError from error
        raise LineBroken("the line was closed while we waited for an answer") from error
    if cancelled():
        raise asyncio.CancelledError


def cancelled() -> bool:
    """Whether somebody has cancelled the task that asks."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def explained(error: BaseException, address: BrokerAddress) -> str:
    """Why the broker cannot be used, for a person; never with the password."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) and isinstance(error, AMQPError) else error
    match cause:
        case ProbableAuthenticationError():
            return f"{address} refuses the login (user, password or virtual host)"
        case InvalidFrameError() if "Connection.OpenOk" in str(cause) and "Connection.Close" in str(cause):
            return (
                f"{address}: the broker does not let us into the virtual host {address.vhost!r}: it does not exist, "
                "this user has no permissions there, or its limit of connections is reached"
            )
        case ChannelAccessRefused() if "configure access to queue" in str(cause):
            return (
                f"{address}: {cause}. RabbitMQ 4.3 and later want that right for a look at a queue: take another login"
            )
        case TimeoutError():
            return f"{address} does not answer" + (f" ({cause})" if str(cause) else "")
        case ConnectionRefusedError():
            return f"nothing listens at {address}"
        case OSError() if not isinstance(cause, (AMQPError, LineBroken)):
            return f"{address} cannot be reached ({cause.strerror or cause})"
        case _:
            return f"{address}: {str(cause) or type(cause).__name__}"
