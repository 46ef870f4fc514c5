"""Lines, producers with logins of their own, and a node that may be crashed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from yarl import URL

from tests.adapters.broker.stage import Lines, Post, lines_to, posting
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.sandbox import rabbitmq
from worker.sandbox.rabbitmq import Origin, RunningBroker

PASSWORD = "a-producers-password"  # a word to look for in places where it must not be


class Logins:
    """Users of a broker of ours; one call of rabbitmqctl for each, because starting it takes most of a second."""

    def __init__(self, broker: RunningBroker) -> None:
        self._broker = broker
        self._made: list[str] = []

    def add(self, name: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> BrokerAddress:
        """A user of the default virtual host with these rights, made or changed."""
        new = f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{PASSWORD}">>, <<"test">>)'
        rights = ", ".join(f'<<"{_quoted(right)}">>' for right in (configure, write, read))
        allow = f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"/">>, {rights}, <<"test">>)'
        self._broker.control("eval", f"{allow}." if name in self._made else f"{new}, {allow}.")
        self._made.append(name)
        return BrokerAddress(str(URL(self._broker.amqp_url).with_user(name).with_password(PASSWORD)))

    def remove(self) -> None:
        for name in dict.fromkeys(self._made):
            self._broker.control("eval", f'rabbit_auth_backend_internal:delete_user(<<"{name}">>, <<"test">>).')
        self._made.clear()


def _quoted(pattern: str) -> str:
    return pattern.replace("\\", "\\\\")


@pytest.fixture(scope="session")
def our_broker(broker: RunningBroker) -> RunningBroker:
    """The broker, if it is ours to make users on."""
    if broker.origin is Origin.GIVEN:
        pytest.skip("AMQP_URL names somebody else's broker: no users are made on it")
    return broker


@pytest.fixture
def logins(our_broker: RunningBroker) -> Iterator[Logins]:
    """Users that are gone after the test."""
    made = Logins(our_broker)
    yield made
    made.remove()


@pytest.fixture(scope="session")
def producer(our_broker: RunningBroker) -> Iterator[BrokerAddress]:
    """The broker as a producer reaches it, whose login is not the workers'."""
    made = Logins(our_broker)
    yield made.add("a-producer")
    made.remove()


@pytest.fixture
async def lines(address: BrokerAddress) -> AsyncIterator[Lines]:
    """A line to the broker that can be cut or held."""
    async with lines_to(address) as between:
        yield between


@pytest.fixture
async def post(address: BrokerAddress, topology: Topology) -> AsyncIterator[Post]:
    """A producer's channel, with the workers' login."""
    async with posting(address, topology) as channel:
        yield channel


@pytest.fixture
async def foreign_post(producer: BrokerAddress, topology: Topology) -> AsyncIterator[Post]:
    """A producer's channel, with a login of its own."""
    async with posting(producer, topology) as channel:
        yield channel


@pytest.fixture(scope="session")
def own_broker() -> Iterator[RunningBroker]:
    """A node that nobody else uses, to be crashed and starved."""
    with rabbitmq.broker(
        amqp_url=None,
        progress=lambda text: print(text, file=sys.stderr),  # noqa: T201 - the person waits for it
        may_install=lambda _question: False,
    ) as running:
        yield running
