"""What the ledger costs: the same mails through one worker, with each store in turn.

    python -m tests.benchmarks.throughput [--count 4000] [--rounds 3] [--store memory:// --store sqlite …]

Real broker, one worker as a process, a mail server that accepts everything in another process. Messages are published
before the worker starts; the clock runs from its first result to its last. Rounds alternate between the stores, so that
a slow moment of the machine hits all of them; the medians and their ratios are printed, nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from aio_pika import DeliveryMode, Message
from rich.console import Console
from rich.table import Table

from contracts.channels import notification_key
from contracts.delivery import Result
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.wire import encode
from tests.neighbours import inbox_on, running_worker
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Topology
from worker.sandbox.rabbitmq import broker as some_broker

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """One store, one time.

    Attributes:
        cpu: seconds of the worker's processor time from the first result to the last.
    """

    store: str
    mails: int
    seconds: float
    cpu: float


def cpu_seconds(pid: int) -> float:
    """Processor seconds of a process so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@asynccontextmanager
async def sink_process() -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.sink", "0"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


def _notification(number: int) -> Notification:
    return Notification.model_validate(
        {
            "type": NOTIFICATION_TYPE,
            "id": f"bench-{number:06}",
            "tenant": f"tenant-{number % 50}",
            "to": [f"user{number}@contoso.example"],
            "subject": f"Your request {number} was approved",
            "text": "Your request was approved.\n" * 40,
            "html": "<p>Your request was <b>approved</b>.</p>\n" * 25,
        }
    )


async def _publish(address: BrokerAddress, topology: Topology, count: int) -> None:
    """Without `reply_to`: a copy of each result for somebody who has gone would be measured too."""
    async with await open_connection(address, "benchmark") as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(topology.notifications, ensure=False)
        for start in range(0, count, 200):
            numbers = range(start, min(start + 200, count))
            await asyncio.gather(*(exchange.publish(*_message(_notification(number))) for number in numbers))


def _message(notification: Notification) -> tuple[Message, str]:
    body = encode(notification)
    return Message(body, delivery_mode=DeliveryMode.PERSISTENT), notification_key(notification.tenant)


async def _round(address: BrokerAddress, port: int, store: str, count: int, directory: Path) -> Round:
    topology = await topologies.apply(address, Topology(f"bench-{uuid.uuid4().hex[:6]}", lanes=8))
    mailboxes = directory / "mailboxes.toml"
    mailboxes.write_text(
        'default = "sink"\n[mailboxes.sink]\naddress = "no-reply@contoso.example"\nhost = "127.0.0.1"\n'
        f'port = {port}\ntls = "none"\nconnections = 16\n',
        encoding="utf-8",
    )
    url = f"sqlite:///{directory / f'{uuid.uuid4().hex}.sqlite3'}" if store == "sqlite" else store
    quiet = {"POSTLANE_LOG__LEVEL": "warning", "POSTLANE_STORE__URL": url}
    try:
        await _publish(address, topology, count)
        async with (
            inbox_on(address, topology) as inbox,
            running_worker(address, topology, mailboxes, directory, settings=quiet, wait=False) as worker,
        ):
            await inbox.until(bool)
            started, before, already = time.monotonic(), cpu_seconds(worker.process.pid), len(inbox.results)
            await inbox.until(lambda results: len(results) >= count, patience=600)
            seconds, cpu = time.monotonic() - started, cpu_seconds(worker.process.pid) - before
            _check(inbox.results, count)
        return Round(store, count - already, seconds, cpu)
    finally:
        await topologies.remove(address, topology)


def _check(results: list[Result], count: int) -> None:
    accepted = {result.notification_id for result in results if result.status == "accepted"}
    if len(accepted) != count:
        raise SystemExit(f"only {len(accepted)} of {count} were accepted: this measures something else")


def _table(rounds: list[Round], stores: list[str]) -> Table:
    table = Table("store", "mails/s", "of the first", "worker CPU ms/mail", "of the first", "rounds")
    rate, cost = {}, {}
    for store in stores:
        mine = [item for item in rounds if item.store == store]
        rate[store] = statistics.median(item.mails / item.seconds for item in mine)
        cost[store] = statistics.median(item.cpu / item.mails * 1000 for item in mine)
        table.add_row(
            store.partition("@")[0].partition("?")[0],
            f"{rate[store]:.0f}",
            f"{rate[store] / rate[stores[0]]:.2f}",
            f"{cost[store]:.2f}",
            f"{cost[store] / cost[stores[0]]:.2f}",
            str(len(mine)),
        )
    return table


async def _run(address: BrokerAddress, stores: list[str], count: int, rounds: int, console: Console) -> list[Round]:
    done = []
    async with sink_process() as port:
        for number in range(rounds):
            for store in stores:
                with TemporaryDirectory() as directory:
                    done.append(await _round(address, port, store, count, Path(directory)))
                console.print(
                    f"round {number + 1}: {store.partition('@')[0]} {done[-1].mails / done[-1].seconds:.0f}/s"
                )
    return done


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=4000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--store", action="append", help="sqlite, memory:// or a postgresql+asyncpg:// address")
    given = options.parse_args()
    stores = given.store or ["memory://", "sqlite"]
    console = Console()
    with some_broker(
        amqp_url=os.environ.get("AMQP_URL"), progress=console.print, may_install=lambda _: True
    ) as running:
        rounds = asyncio.run(_run(BrokerAddress(running.amqp_url), stores, given.count, given.rounds, console))
    console.print(_table(rounds, stores))


if __name__ == "__main__":
    main()
