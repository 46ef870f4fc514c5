"""How a broker is named to people: where and as whom, never with what password."""

from __future__ import annotations

import ssl

import pytest
from aio_pika.exceptions import AMQPConnectionError, InvalidFrameError, ProbableAuthenticationError
from aiormq.exceptions import ChannelAccessRefused

from worker.broker.connection import BrokerAddress, LineBroken, explained

SECRET = "a-brokers-password"


@pytest.mark.parametrize(
    ("url", "shown", "login"),
    [
        (f"amqp://me:{SECRET}@broker.example:5673/prod", "amqp://me@broker.example:5673/prod", "me"),
        (f"amqp://me:{SECRET}@broker.example/", "amqp://me@broker.example:5672/", "me"),
        (f"amqps://me:{SECRET}@broker.example/", "amqps://me@broker.example:5671/", "me"),
        (f"amqp://me%40corp:{SECRET}@broker.example/%2Fprod", "amqp://me@corp@broker.example:5672/%2Fprod", "me@corp"),
        ("amqp://broker.example", "amqp://guest@broker.example:5672/", "guest"),
        (f"amqp://me:{SECRET}@[::1]:5672/", "amqp://me@[::1]:5672/", "me"),
        (f"amqp://me:{SECRET}@broker.example/?heartbeat=3", "amqp://me@broker.example:5672/", "me"),
    ],
    ids=["all-given", "default-port", "default-port-of-tls", "quoted", "no-login", "ipv6", "query"],
)
def test_address_is_shown_without_its_password(url: str, shown: str, login: str) -> None:
    address = BrokerAddress(url)
    assert (str(address), address.login) == (shown, login)
    assert SECRET not in f"{address!r} {address}"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ProbableAuthenticationError("ACCESS_REFUSED"), "refuses the login"),
        (TimeoutError(), "does not answer"),
        (ConnectionRefusedError(111, "Connection refused"), "nothing listens at"),
        (OSError(113, "No route to host"), "cannot be reached (No route to host)"),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), "self-signed certificate"),
        (AMQPConnectionError("Server connection unexpectedly closed"), "unexpectedly closed"),
        (
            ChannelAccessRefused("ACCESS_REFUSED - configure access to queue 'postlane.lane.00' refused for user 'me'"),
            "RabbitMQ 4.3 and later want that right for a look at a queue",
        ),
        (ChannelAccessRefused("ACCESS_REFUSED - read access to queue 'q' refused"), "read access to queue 'q' refused"),
        (InvalidFrameError("Expected one of ['Connection.OpenOk'], got <Connection.Close>"), "the virtual host '/'"),
        (LineBroken("the line broke in the middle of a request"), "the line broke in the middle"),
    ],
    ids=["login", "silence", "refused", "no-route", "certificate", "broken", "look", "read", "vhost", "line"],
)
def test_trouble_is_explained_with_the_address_and_without_the_password(error: Exception, words: str) -> None:
    text = explained(error, BrokerAddress(f"amqp://me:{SECRET}@broker.example/"))
    assert words in text
    assert "amqp://me@broker.example:5672/" in text
    assert SECRET not in text
