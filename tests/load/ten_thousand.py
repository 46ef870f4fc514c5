"""Many notifications through two workers: once undisturbed, once with the broker crashing on the way.

    python -m tests.load.ten_thousand [--count 10000] [--directory build/load]

Real broker, real sockets, workers as processes. Counts what was published, accepted, answered and left over, and prints
it as a table; exit status 0 only if nothing was lost, and without a crash nothing doubled either.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from rich.console import Console
from rich.table import Table

from contracts.delivery import Result
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import NotPublished, publisher
from tests.neighbours import running_worker
from worker.broker import apply as topologies
from worker.broker.connection import BROKEN, BrokerAddress, open_connection
from worker.broker.topology import Topology
from worker.emulator.files import mailboxes_file
from worker.emulator.run import Plan, emulating
from worker.sandbox.rabbitmq import RunningBroker
from worker.sandbox.rabbitmq import broker as some_broker

_TENANTS = ("contoso", "fabrikam")
_PUBLISHERS = 100
_PATIENCE = 600.0  # seconds
_CRASH_AT = 0.4  # of the results


@dataclass(frozen=True, slots=True)
class Tally:
    """What a run came to."""

    published: int
    mails: Mapping[str, int]
    finals: Mapping[str, int]
    statuses: Mapping[str, int]
    left: Mapping[str, int]
    seconds: float

    @property
    def lost(self) -> list[str]:
        """Published, but without a mail."""
        return sorted(_id(number) for number in range(self.published) if _id(number) not in self.mails)

    @property
    def unanswered(self) -> list[str]:
        """Published, but without a final result."""
        return sorted(_id(number) for number in range(self.published) if _id(number) not in self.finals)

    @property
    def doubled(self) -> list[str]:
        """Mailed more than once."""
        return sorted(name for name, count in self.mails.items() if count > 1)


class Results:
    """Final results, with a queue of its own that outlives a crash of the broker."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self.finals: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.complete = asyncio.Event()
        self.some = asyncio.Event()

    async def read(self, address: BrokerAddress, topology: Topology) -> None:
        """Until cancelled, whatever happens to the broker."""
        while True:
            with contextlib.suppress(*BROKEN):
                async with await open_connection(address, "load results") as connection:
                    channel = await connection.channel()
                    await channel.set_qos(200)
                    queue = await channel.declare_queue(
                        f"{topology.prefix}-load-results", durable=True, arguments={"x-queue-type": "quorum"}
                    )
                    await queue.bind(topology.results, "r.#")
                    await queue.consume(self._take)
                    await _closed(connection, channel)
            await asyncio.sleep(0.3)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        result = Result.model_validate_json(message.body)
        if result.final and result.notification_id:
            self.finals[result.notification_id] += 1
            self.statuses[result.status] += 1
        if len(self.finals) >= self._wanted * _CRASH_AT:
            self.some.set()
        if len(self.finals) >= self._wanted:
            self.complete.set()
        await message.ack()


async def _closed(connection: AbstractConnection, channel: AbstractChannel) -> None:
    gone = asyncio.Event()
    for side in (connection, channel):
        side.close_callbacks.add(lambda *_: gone.set())
    await gone.wait()


def _id(number: int) -> str:
    return f"load-{number:06}"


def _notification(number: int) -> Notification:
    tenant = _TENANTS[number % len(_TENANTS)]
    return Notification.model_validate(
        {
            "type": NOTIFICATION_TYPE,
            "id": _id(number),
            "tenant": tenant,
            "to": [{"address": f"user{number}@{tenant}.example", "name": f"User {number}"}],
            "subject": f"Your request {number} was approved",
            "text": "Your request was approved.\n" * 20,
            "html": "<p>Your request was <b>approved</b>.</p>\n" * 20,
        }
    )


async def _publish(address: BrokerAddress, topology: Topology, numbers: Iterator[int]) -> None:
    """Publish until the numbers are used up; what was not confirmed is published again with the same id."""
    pending: int | None = None
    while True:
        try:
            async with publisher(address.url, prefix=topology.prefix) as post:
                while pending is not None or (pending := next(numbers, None)) is not None:
                    await post.publish(_notification(pending))
                    pending = None
                return
        except (NotPublished, *BROKEN):
            await asyncio.sleep(0.3)


async def _run(running: RunningBroker, count: int, directory: Path, console: Console, *, crash: bool) -> Tally:
    address = BrokerAddress(running.amqp_url)
    topology = Topology(f"load-{'crash' if crash else 'calm'}", lanes=16)
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(emulating(Plan(directory, keep_content=False)))
        await topologies.apply(address, topology)
        stack.push_async_callback(topologies.remove, address, topology)
        mailboxes = directory / "mailboxes.toml"
        mailboxes.write_text(mailboxes_file(emulator), encoding="utf-8")
        results = Results(count)
        reading = asyncio.create_task(results.read(address, topology))
        stack.callback(reading.cancel)
        quiet = {"POSTLANE_LOG__LEVEL": "warning"}
        workers = [
            await stack.enter_async_context(
                running_worker(address, topology, mailboxes, directory, settings=quiet, wait=False)
            )
            for _ in range(2)
        ]
        await _until_consuming(address, topology, len(workers))
        console.print(f"publishing {count} notifications")
        started = time.monotonic()
        numbers = iter(range(count))
        publishing = [asyncio.create_task(_publish(address, topology, numbers)) for _ in range(_PUBLISHERS)]
        if crash:
            await results.some.wait()
            console.print(f"{len(results.finals)} results are in: killing the broker (SIGKILL) and starting it again")
            await asyncio.to_thread(running.restart)
            console.print("the broker is back")
        await asyncio.gather(*publishing)
        async with asyncio.timeout(_PATIENCE):
            await results.complete.wait()
        seconds = time.monotonic() - started
        for worker in workers:
            await worker.stop()
        left = await _left(address, topology)
        log = emulator.accepted.log.read_text(encoding="utf-8")
    mails = Counter(json.loads(line)["notification_id"] for line in log.splitlines())
    return Tally(count, mails, results.finals, results.statuses, left, seconds)


async def _until_consuming(address: BrokerAddress, topology: Topology, workers: int) -> None:
    async with asyncio.timeout(30):
        while True:
            rows = [row async for row in topologies.depths(address, topology) if row[0].startswith(topology.lane_stem)]
            if all(consumers == workers for _, _, consumers in rows):
                return
            await asyncio.sleep(0.2)


async def _left(address: BrokerAddress, topology: Topology) -> Mapping[str, int]:
    """Messages in any queue once the workers are gone: what they had not acknowledged is back and counts too."""
    return {name: ready async for name, ready, _ in topologies.depths(address, topology) if ready}


def _shown(tally: Tally, title: str) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in (
        ("notifications published", tally.published),
        ("mails accepted by the servers", sum(tally.mails.values())),
        ("notifications with a final result", len(tally.finals)),
        ("final results by status", ", ".join(f"{status} {number}" for status, number in tally.statuses.items())),
        ("lost", len(tally.lost)),
        ("without a final result", len(tally.unanswered)),
        ("mailed more than once", f"{len(tally.doubled)} {', '.join(tally.doubled[:10])}"),
        ("messages left in queues", str(dict(tally.left)) if tally.left else 0),
        ("seconds", f"{tally.seconds:.1f}  ({tally.published / tally.seconds:.0f} notifications/s)"),
    ):
        table.add_row(name, str(value))
    return table


def main() -> int:
    """Run both; 0 if the promises were kept."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--directory", type=Path, default=Path("build/load"))
    given = options.parse_args()
    console = Console()
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a crash is what this is about
    kept = True
    with some_broker(amqp_url=None, progress=console.print, may_install=lambda _: True) as running:
        for crash in (False, True):
            directory = given.directory.resolve() / ("crash" if crash else "calm")
            (directory / "mails" / "accepted.jsonl").unlink(missing_ok=True)
            directory.mkdir(parents=True, exist_ok=True)
            tally = asyncio.run(_run(running, given.count, directory, console, crash=crash))
            console.print(_shown(tally, "with the broker killed on the way" if crash else "undisturbed"))
            kept = kept and not tally.lost and not tally.unanswered and (crash or not tally.doubled)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
