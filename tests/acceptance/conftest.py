"""Three mail servers, a pickup directory and a Postlane: what the acceptance rows of the five products are told by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from contracts.publisher import publisher
from tests.acceptance.installation import Installation
from tests.acceptance.server import MailServer, serving
from tests.neighbours import Inbox
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.authority import Certificates


@pytest.fixture
def ca(certificates: Certificates) -> str:
    """The line of the mailboxes file by which the servers' certificates are trusted."""
    return f'ca_file = "{certificates.ca_file.resolve()}"'


@pytest.fixture
async def a() -> AsyncIterator[MailServer]:
    async with serving(MailServer("a")) as server:
        yield server


@pytest.fixture
async def b() -> AsyncIterator[MailServer]:
    async with serving(MailServer("b")) as server:
        yield server


@pytest.fixture
async def c() -> AsyncIterator[MailServer]:
    async with serving(MailServer("c")) as server:
        yield server


@pytest.fixture
async def lane(address: BrokerAddress, topology: Topology, tmp_path: Path, inbox: Inbox) -> AsyncIterator[Installation]:
    """A Postlane without workers and without mailboxes; a test configures it and starts what it needs."""
    async with AsyncExitStack() as stack:
        post = await stack.enter_async_context(publisher(address.url, prefix=topology.prefix))
        yield Installation(address, topology, tmp_path, post, inbox, stack)
