"""Real neighbours for every test that wants them: a broker, an emulated Office 365, workers as processes."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.acceptance.table import Table, proved
from tests.neighbours import Inbox, WorkerProcess, inbox_on, running_worker
from tests.postgres import Cluster, PostgresMissing
from tests.postgres import postgres as postgresql
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.authority import Certificates, make_certificates
from worker.emulator.files import mailboxes_file
from worker.emulator.run import Emulator, Plan, emulating
from worker.sandbox import rabbitmq
from worker.sandbox.rabbitmq import RunningBroker

settings.register_profile("postlane", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("postlane")

_OTHER_FILE_SYSTEM = Path("/dev/shm")


@pytest.fixture(scope="session")
def broker() -> Iterator[RunningBroker]:
    """A RabbitMQ: AMQP_URL if that is set, else Docker's, else one of our own on private ports."""
    with rabbitmq.broker(
        amqp_url=os.environ.get("AMQP_URL"),
        image=os.environ.get("POSTLANE_TEST_RABBITMQ_IMAGE", "rabbitmq:4"),
        progress=lambda text: print(text, file=sys.stderr),  # noqa: T201 - the person waits for it
        may_install=lambda _question: os.geteuid() == 0 or bool(os.environ.get("CI")),
    ) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL of our own."""
    try:
        with postgresql(syncs=False) as running:
            yield running
    except PostgresMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a throw-away authority, for localhost and its addresses."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server_tls(certificates: Certificates) -> ssl.SSLContext:
    """What a good server shows."""
    return certificates.server_context()


@pytest.fixture
def ca_file(certificates: Certificates) -> str:
    """What the mailbox trusts."""
    return str(certificates.ca_file)


@pytest.fixture
def address(broker: RunningBroker) -> BrokerAddress:
    """Where the broker is."""
    return BrokerAddress(broker.amqp_url)


@pytest.fixture
async def topology(address: BrokerAddress) -> AsyncIterator[Topology]:
    """Exchanges and queues of this test alone."""
    made = await topologies.apply(address, Topology(f"test-{uuid.uuid4().hex[:8]}", lanes=2))
    yield made
    await topologies.remove(address, made)


@pytest.fixture
async def emulator(tmp_path: Path) -> AsyncIterator[Emulator]:
    """Office 365, its token endpoint and an ordinary mail server, all emulated."""
    async with emulating(Plan(tmp_path / "emulator")) as running:
        yield running


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system."""
    if not _OTHER_FILE_SYSTEM.is_dir() or _OTHER_FILE_SYSTEM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    made = _OTHER_FILE_SYSTEM / f"postlane-{os.getpid()}-{tmp_path.name}"
    made.mkdir()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def pickup(tmp_path: Path) -> Path:
    """An empty pickup directory."""
    directory = tmp_path / "pickup"
    directory.mkdir()
    return directory


@pytest.fixture
def mailboxes(emulator: Emulator, pickup: Path, tmp_path: Path) -> Path:
    """A mailboxes file: `platform` (default, OAuth), `fabrikam` (own, password), `zlin` (own, pickup)."""
    path = tmp_path / "mailboxes.toml"
    path.write_text(mailboxes_file(emulator, pickup), encoding="utf-8")
    return path


@pytest.fixture
async def worker(
    address: BrokerAddress, topology: Topology, mailboxes: Path, tmp_path: Path
) -> AsyncIterator[WorkerProcess]:
    """A worker as an operator runs it, consuming."""
    async with running_worker(address, topology, mailboxes, tmp_path) as process:
        yield process


@pytest.fixture
async def inbox(address: BrokerAddress, topology: Topology) -> AsyncIterator[Inbox]:
    """All results of this test's topology, as a consumer with a queue of its own reads them."""
    async with inbox_on(address, topology) as box:
        yield box


# ---------------------------------------------------------------- the acceptance table

_TABLE = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--acceptance-table", type=Path, help="write the acceptance table here")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()
    config.pluginmanager.register(_Listener(config.stash[_TABLE]))


def pytest_itemcollected(item: pytest.Item) -> None:
    if rows := proved(item):
        item.add_marker(pytest.mark.row(*rows))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.user_properties.extend(("row", row) for row in proved(item))  # they travel to whoever writes the table
    return report


class _Listener:
    def __init__(self, table: Table) -> None:
        self._table = table

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            rows = [str(value) for name, value in report.user_properties if name == "row"]
            self._table.note(report.nodeid, dict.fromkeys(rows), report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--acceptance-table")
    if path is not None and not hasattr(session.config, "workerinput"):
        path.write_text(session.config.stash[_TABLE].text(), encoding="utf-8")
