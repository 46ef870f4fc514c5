"""Everything that a chaos scenario happens in: broker, store, mail servers, workers, traffic, and the books."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from yarl import URL

from contracts.delivery import Result
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import NotPublished, publisher
from tests.chaos.mailserver import MailServer
from tests.chaos.points import EXPOSED, WINDOW, Point
from tests.neighbours import Proxy
from tests.postgres import Cluster
from worker.broker import apply as topologies
from worker.broker.connection import BROKEN, BrokerAddress, open_connection
from worker.broker.topology import Topology
from worker.emulator.files import mailboxes_file
from worker.emulator.run import Emulator, Plan, emulating
from worker.emulator.scenario import Limits
from worker.sandbox.rabbitmq import RunningBroker

LEASE = 2.0  # seconds after which a silent worker counts as dead; the product's default is longer
_SMALL = "8m"  # room for the store and its log, and for little else
PATIENCE = 180.0  # seconds until what has not ended counts as lost
TENANTS = ("contoso", "chaos", "chaos", "zlin")


@dataclass(slots=True)
class Books:
    """What was published, and what was said about it."""

    published: dict[str, float] = field(default_factory=dict)
    finals: defaultdict[str, dict[str, Result]] = field(default_factory=lambda: defaultdict(dict))
    resolved: set[str] = field(default_factory=set)
    moments: dict[str, float] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, result: Result) -> None:
        if not result.final or result.notification_id is None:
            return
        if result.status == "resolved":
            self.resolved.add(result.notification_id)
        else:
            self.finals[result.notification_id][result.event_id] = result
            self.moments.setdefault(result.notification_id, time.monotonic())
        self.news.set()

    def open(self) -> list[str]:
        """Published, and without a final result so far."""
        return [name for name in self.published if name not in self.finals]


@dataclass(slots=True)
class Child:
    """A worker process."""

    pid: int
    trap: dict[str, Any] | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Nursery:
    """Starts workers, and starts them again when they end."""

    def __init__(self, process: asyncio.subprocess.Process, environment: Mapping[str, str], directory: Path) -> None:
        self._process = process
        self._environment = environment
        self._directory = directory
        self._born: deque[asyncio.Future[int]] = deque()
        self._number = 0
        self.children: dict[int, Child] = {}
        self.traps: deque[dict[str, Any]] = deque()
        self.sprung: Counter[str] = Counter()
        self.wanted = 0
        self._reading = asyncio.create_task(self._read())
        self._tasks: set[asyncio.Task[None]] = set()

    async def keep(self, count: int) -> None:
        """Keep so many workers running."""
        self.wanted = count
        while len(self.children) < count:
            await self._bear()

    async def stop(self) -> None:
        """Tell all workers to finish, and wait for it; who does not is killed."""
        self.wanted = 0
        for child in tuple(self.children.values()):
            self._signal(child, signal.SIGCONT)
            self._signal(child, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                for child in tuple(self.children.values()):
                    await child.ended.wait()
        for child in tuple(self.children.values()):
            self._signal(child, signal.SIGKILL)

    async def close(self) -> None:
        await self.stop()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    def kill(self, child: Child, number: signal.Signals = signal.SIGKILL) -> None:
        self._signal(child, number)

    async def _bear(self) -> Child:
        self._number += 1
        trap = self.traps.popleft() if self.traps else None
        order = {
            "environment": {**self._environment, "POSTLANE_WORKER__NAME": f"chaos-{self._number}"},
            "log": str(self._directory / "workers.log"),
            "trap": trap,
        }
        born: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._born.append(born)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        pid = await born
        child = self.children[pid]
        child.trap = trap
        return child

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "started" in said:
                self.children[said["started"]] = Child(said["started"], None)
                self._born.popleft().set_result(said["started"])
            else:
                self._ended(said["ended"], said["status"])

    def _ended(self, pid: int, status: int) -> None:
        child = self.children.pop(pid)
        child.ended.set()
        if child.trap is not None and status == -signal.SIGKILL:
            self.sprung[child.trap["point"]] += 1
        if len(self.children) < self.wanted:
            task = asyncio.create_task(self._replaced())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _replaced(self) -> None:
        await self._bear()

    def _signal(self, child: Child, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)


@dataclass(slots=True)
class Arena:
    """One scenario's world."""

    running: RunningBroker
    address: BrokerAddress
    topology: Topology
    directory: Path
    line: Proxy
    mailserver: MailServer
    emulator: Emulator
    nursery: Nursery
    books: Books
    notes: Path
    hosts: Path | None
    disk: Path | None
    workers: int
    cluster: Cluster | None
    prefix: str
    _next: int = 0

    async def publish(self, count: int, **fields: Any) -> list[str]:
        """Publish so many notifications, confirmed; what was not confirmed is published again with the same id."""
        names = [f"{self.prefix}-{self._next + number:05}" for number in range(count)]
        self._next += count
        pending = deque(names)
        while pending:
            try:
                async with publisher(self.address.url, prefix=self.topology.prefix) as post:
                    while pending:
                        await post.publish(self._notification(pending[0], **fields))
                        self.books.published.setdefault(pending.popleft(), time.monotonic())
            except (NotPublished, TimeoutError, *BROKEN):
                await asyncio.sleep(0.2)
        return names

    async def quiet(self, patience: float = PATIENCE) -> bool:
        """Wait until everything that was published has a final result."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.books.open():
                    self.books.news.clear()
                    await self.books.news.wait()
        return not self.books.open()

    async def few_open(self, limit: int) -> None:
        """Wait until no more than so many notifications are open: traffic goes on, but does not pile up."""
        async with asyncio.timeout(PATIENCE):
            while len(self.books.open()) > limit:
                self.books.news.clear()
                await self.books.news.wait()

    def mails(self) -> Counter[str]:
        """How many mails of each notification were taken, by all servers together."""
        log = self.emulator.accepted.log
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        taken = Counter(json.loads(line)["notification_id"] for line in lines)
        files = Counter(_id_of(path) for path in (self.directory / "pickup").glob("*.eml"))
        return taken + files + self.mailserver.accepted

    def sprung(self) -> int:
        """How many traps have sprung."""
        return sum(not line.startswith(EXPOSED) for line in self._lines())

    def cut_in_the_window(self) -> set[str]:
        """Notifications whose fate a fault has hidden from us."""
        hidden = {EXPOSED, *(point.name for point in WINDOW)}
        pairs = (line.split() for line in self._lines())
        return {name for point, name in pairs if point in hidden} | self.mailserver.cut

    def _lines(self) -> list[str]:
        return self.notes.read_text(encoding="utf-8").splitlines() if self.notes.exists() else []

    def trap(self, point: Point, passings: int, number: signal.Signals = signal.SIGKILL) -> dict[str, Any]:
        return {"point": point.name, "passings": passings, "signal": int(number), "notes": str(self.notes)}

    def _notification(self, name: str, **fields: Any) -> Notification:
        tenant = TENANTS[int(name.rpartition("-")[2]) % len(TENANTS)]
        given = {
            "type": NOTIFICATION_TYPE,
            "id": name,
            "tenant": tenant,
            "to": [f"user@{tenant}.example"],
            "subject": f"Chaos {name}",
            "text": "Whatever happens, once.\n" * 10,
            **fields,
        }
        return Notification.model_validate(given, strict=False)


def _id_of(path: Path) -> str:
    line = next(line for line in path.read_bytes().split(b"\r\n") if line.lower().startswith(b"x-postlane-id:"))
    return line.partition(b":")[2].strip().decode()


async def _collect(address: BrokerAddress, topology: Topology, books: Books) -> None:
    """Read results into the books until cancelled, whatever happens to the broker."""

    async def take(message: AbstractIncomingMessage) -> None:
        books.note(Result.model_validate_json(message.body))
        await message.ack()

    while True:
        with contextlib.suppress(*BROKEN):
            async with await open_connection(address, "chaos results") as connection:
                channel = await connection.channel()
                await channel.set_qos(200)
                arguments: dict[str, Any] = {"x-queue-type": "quorum"}
                queue = await channel.declare_queue(f"{topology.prefix}-books", durable=True, arguments=arguments)
                await queue.bind(topology.results, "r.#")
                await queue.consume(take)
                await _closed(connection, channel)
        await asyncio.sleep(0.2)


async def _closed(connection: AbstractConnection, channel: AbstractChannel) -> None:
    gone = asyncio.Event()
    for side in (connection, channel):
        side.close_callbacks.add(lambda *_: gone.set())
    await gone.wait()


@asynccontextmanager
async def arena(
    running: RunningBroker,
    cluster: Cluster | None,
    directory: Path,
    name: str,
    *,
    workers: int,
    preload: Iterable[str] = (),
    hosts: bool = False,
    small_disk: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Arena]:
    """Set the stage for one scenario.

    Args:
        running: a broker that may be crashed.
        cluster: a PostgreSQL that may be crashed; None: SQLite, in a file of this arena's own.
        directory: for everything that is written.
        name: of the scenario, short; ids begin with it.
        workers: how many run at once.
        preload: libraries that the workers are started with.
        environment: more of it for the workers.
        hosts: give the workers a hosts file of their own, in which `mail.chaos.test` stands (needs root).
        small_disk: the SQLite store lies on a disk of its own with room for little (needs root).
    """
    address = BrokerAddress(str(URL(running.amqp_url).update_query(heartbeat=2)))
    directory.mkdir(parents=True)
    (directory / "pickup").mkdir()
    (directory / "disk").mkdir()
    async with AsyncExitStack() as stack:
        topology = await topologies.apply(address, Topology(f"chaos-{name}", lanes=4))
        stack.push_async_callback(_removed, address, topology)
        plan = Plan(directory / "emulator", limits=Limits(), keep_content=False)
        emulator = await stack.enter_async_context(emulating(plan))
        mailserver = MailServer()
        await mailserver.listen()
        stack.push_async_callback(mailserver.close)
        line = await stack.enter_async_context(Proxy(URL(running.amqp_url).port or 5672))
        host = "mail.chaos.test" if hosts else "127.0.0.1"
        mailboxes = directory / "mailboxes.toml"
        mailboxes.write_text(
            f"{mailboxes_file(emulator, directory / 'pickup')}\n[mailboxes.chaos]\n"
            f'tenants = ["chaos"]\naddress = "no-reply@chaos.example"\nhost = "{host}"\n'
            f'port = {mailserver.port}\ntls = "none"\nconnections = 8\n',
            encoding="utf-8",
        )
        url = cluster.url if cluster else f"sqlite:///{directory / 'disk' / 'store.sqlite3'}"
        settings = {
            **{key: value for key, value in os.environ.items() if not key.startswith("POSTLANE_")},
            "POSTLANE_BROKER__URL": str(URL(address.url).with_port(line.port)),
            "POSTLANE_BROKER__PREFIX": topology.prefix,
            "POSTLANE_MAILBOXES__FILE": str(mailboxes),
            "POSTLANE_STORE__URL": url,
            "POSTLANE_STORE__LEASE_SECONDS": str(LEASE),
            "POSTLANE_HEALTH__PORT": "0",
            "POSTLANE_LOG__FORMAT": "json",
            "POSTLANE_RETRY__FIRST_SECONDS": "1",
            "POSTLANE_RETRY__LONGEST_SECONDS": "2",
            "POSTLANE_SMTP__COMMAND_SECONDS": "3",
            "POSTLANE_SMTP__SUBMISSION_SECONDS": "3",
            "POSTLANE_WORKER__GRACE_SECONDS": "20",
            **environment,
        }
        books = Books()
        reading = asyncio.create_task(_collect(address, topology, books))
        stack.push_async_callback(_cancelled, reading)
        process = await _nursery(directory, preload, hosts=hosts, small_disk=small_disk)
        nursery = Nursery(process, settings, directory)
        stack.push_async_callback(nursery.close)
        notes, hosts_file = directory / "sprung.txt", directory / "hosts" if hosts else None
        # A mount of the nursery's own is seen through its root.
        disk = Path(f"/proc/{process.pid}/root{directory / 'disk'}") if small_disk else None
        yield Arena(
            running, address, topology, directory, line, mailserver, emulator, nursery, books, notes, hosts_file,
            disk, workers, cluster, name,
        )  # fmt: skip


async def _nursery(
    directory: Path, preload: Iterable[str], *, hosts: bool, small_disk: bool
) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "tests.chaos.nursery"]
    mounts = []
    if hosts:
        file = directory / "hosts"
        file.write_text(f"{Path('/etc/hosts').read_text(encoding='utf-8')}\n127.0.0.1 mail.chaos.test\n")
        mounts.append(f'mount --bind "{file}" /etc/hosts')
    if small_disk:
        mounts.append(f'mount -t tmpfs -o size={_SMALL} postlane "{directory / "disk"}"')
    if mounts:
        command = ["unshare", "--mount", "sh", "-c", f'{" && ".join(mounts)} && exec "$@"', "sh", *command]
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **({"LD_PRELOAD": ":".join(preload)} if preload else {})},
    )


async def _removed(address: BrokerAddress, topology: Topology) -> None:
    await topologies.remove(address, topology)
    async with await open_connection(address, "chaos") as connection, connection.channel() as channel:
        await channel.queue_delete(f"{topology.prefix}-books")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
