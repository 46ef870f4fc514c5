"""The demo itself: start everything, publish, wait for every result, stop everything."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aio_pika.abc import AbstractIncomingMessage

from contracts.delivery import Result
from contracts.publisher import publisher
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Topology
from worker.demo.notifications import Scene, scenes
from worker.emulator.files import mailboxes_file
from worker.emulator.run import Emulator, Plan, emulating
from worker.unusable import Unusable

_WORKERS = 2
_LANES = 4
_READY_WITHIN = 30.0  # seconds
_RESULTS_WITHIN = 30.0
_STOPPED_WITHIN = 20.0
_MARK = ".postlane-demo"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Played:
    """One scene and what came of it.

    Attributes:
        result: the final one; None if none came.
        seconds: from publishing to the result.
    """

    scene: Scene
    result: Result | None
    seconds: float

    @property
    def well(self) -> bool:
        """Whether it ended as expected."""
        return self.result is not None and self.scene.fulfilled_by(self.result)


@dataclass(frozen=True, slots=True)
class Performance:
    """The whole demo.

    Attributes:
        mails: directory of what the emulated servers accepted.
        pickup: the pickup directory.
        token_requests: how often the token endpoint was asked.
    """

    played: tuple[Played, ...]
    mails: Path
    pickup: Path
    token_requests: int
    dead_letters: int


async def play(amqp_url: str, directory: Path, tell: Tell) -> Performance:
    """Play the demo on a broker; what it creates there is removed again.

    Raises:
        Unusable: a worker did not start.
    """
    _fresh(directory)
    topology = Topology(f"demo-{uuid.uuid4().hex[:8]}", _LANES)
    address = BrokerAddress(amqp_url)
    async with AsyncExitStack() as stack:
        tell("starting the Office 365 emulator, its token endpoint and an ordinary mail server")
        emulator = await stack.enter_async_context(emulating(Plan(directory)))
        tell("creating exchanges and queues")
        topology = await topologies.apply(address, topology)
        stack.push_async_callback(topologies.remove, address, topology)
        pickup = directory / "pickup"
        pickup.mkdir()
        mailboxes = directory / "mailboxes.toml"
        mailboxes.write_text(mailboxes_file(emulator, pickup), encoding="utf-8")
        await stack.enter_async_context(_workers(address, topology, mailboxes, directory, tell))
        tell("publishing six notifications and waiting for their results")
        played = await _publish(address, topology)
        dead = [ready async for name, ready, _ in topologies.depths(address, topology) if name == topology.dead]
        tell("stopping the workers")
        return _performance(played, emulator, pickup, dead[0] or 0)


def _performance(played: tuple[Played, ...], emulator: Emulator, pickup: Path, dead_letters: int) -> Performance:
    return Performance(played, emulator.accepted.directory, pickup, emulator.authority.requests, dead_letters)


def _fresh(directory: Path) -> None:
    """Start from nothing, but delete only what an earlier demo has made."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / _MARK).exists():
            raise Unusable(f"{directory} exists and was not made by the demo; name another one with --directory.")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _MARK).touch()


@asynccontextmanager
async def _workers(
    address: BrokerAddress, topology: Topology, mailboxes: Path, directory: Path, tell: Tell
) -> AsyncIterator[None]:
    processes: list[asyncio.subprocess.Process] = []
    try:
        while len(processes) < _WORKERS:
            processes.append(await _start_worker(len(processes) + 1, address, topology, mailboxes, directory))
        tell(f"waiting until {_WORKERS} workers consume (their logs: {directory}/worker-*.log)")
        await _until_consuming(address, topology, processes, directory)
        yield
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
        for process in processes:
            try:
                async with asyncio.timeout(_STOPPED_WITHIN):
                    await process.wait()
            except TimeoutError:
                process.kill()


async def _start_worker(
    number: int, address: BrokerAddress, topology: Topology, mailboxes: Path, directory: Path
) -> asyncio.subprocess.Process:
    """A worker as anybody would start it: a process, told by its environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("POSTLANE_")}
    environment: Mapping[str, str] = {
        **inherited,
        "POSTLANE_BROKER__URL": address.url,
        "POSTLANE_BROKER__PREFIX": topology.prefix,
        "POSTLANE_MAILBOXES__FILE": str(mailboxes),
        "POSTLANE_WORKER__NAME": f"demo-worker-{number}",
        "POSTLANE_HEALTH__PORT": "0",
        "POSTLANE_LOG__FORMAT": "json",
        "POSTLANE_STORE__URL": f"sqlite:///{directory / 'postlane.sqlite3'}",
    }
    with (directory / f"worker-{number}.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker", "run", env=environment, stdout=log, stderr=log, start_new_session=True
        )


async def _until_consuming(
    address: BrokerAddress, topology: Topology, processes: list[asyncio.subprocess.Process], directory: Path
) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline:
        for number, process in enumerate(processes, 1):
            if process.returncode is not None:
                log = (directory / f"worker-{number}.log").read_text(encoding="utf-8")
                raise Unusable(f"worker {number} ended with status {process.returncode}:\n{log[-2000:]}")
        lanes = [row async for row in topologies.depths(address, topology) if row[0].startswith(topology.lane_stem)]
        if lanes and all(consumers == len(processes) for _, _, consumers in lanes):
            return
        await asyncio.sleep(0.2)
    raise Unusable(f"the workers did not consume within {_READY_WITHIN:g} s; see {directory}/worker-*.log")


@dataclass(slots=True)
class _Inbox:
    """Results as they come in."""

    wanted: frozenset[str]
    results: dict[str, tuple[Result, float]] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, message: AbstractIncomingMessage) -> None:
        result = Result.model_validate_json(message.body)
        if result.final and result.notification_id in self.wanted:
            self.results[result.notification_id] = (result, time.monotonic())
        if self.wanted <= self.results.keys():
            self.complete.set()


async def _publish(address: BrokerAddress, topology: Topology) -> tuple[Played, ...]:
    """Publish as a producer does, and read the results as a consumer of its own queue does."""
    wanted = scenes()
    inbox = _Inbox(frozenset(scene.notification_id for scene in wanted))
    published: dict[str, float] = {}
    async with (
        await open_connection(address, "demo") as connection,
        connection.channel() as channel,
        publisher(address.url, prefix=topology.prefix) as post,
    ):
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.results, "r.#")
        await queue.consume(inbox.take, no_ack=True)
        for scene in wanted:
            published[scene.notification_id] = time.monotonic()
            await post.publish_bytes(scene.body, scene.tenant, message_id=scene.notification_id)
        try:
            async with asyncio.timeout(_RESULTS_WITHIN):
                await inbox.complete.wait()
        except TimeoutError:
            pass  # what is missing is shown as missing
    return tuple(_played(scene, inbox, published[scene.notification_id]) for scene in wanted)


def _played(scene: Scene, inbox: _Inbox, published: float) -> Played:
    result, when = inbox.results.get(scene.notification_id, (None, time.monotonic()))
    return Played(scene, result, when - published)
