"""What fifty thousand mailboxes cost: start-up, memory, and mails a second against a worker that has ten.

    python -m tests.benchmarks.many [--mailboxes 50000] [--count 5000]

Real broker, one worker as a process, SQLite, a mail server that accepts everything in another process. Every mailbox
has limits that all workers keep. Traffic goes over as many mailboxes as it can: with fifty thousand every mail is the
first of its mailbox and opens a connection, which ten mailboxes need not; so ten are measured with a connection a mail
too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from aio_pika import DeliveryMode, Message
from rich.console import Console
from rich.table import Table

from contracts.channels import notification_key
from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.wire import encode
from tests.benchmarks.throughput import cpu_seconds, sink_process
from tests.neighbours import inbox_on, running_worker
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress, open_connection
from worker.broker.topology import Topology
from worker.sandbox.rabbitmq import broker as some_broker


@dataclass(frozen=True, slots=True)
class Case:
    """A worker with so many mailboxes.

    Attributes:
        messages: over one connection before it is replaced.
    """

    name: str
    mailboxes: int
    messages: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What it came to.

    Attributes:
        started: seconds from the start of the process until it consumes.
        resident: octets of memory by then.
        rate: mails a second.
        cpu: seconds of the worker's processor time for a mail.
    """

    started: float
    resident: int
    rate: float
    cpu: float


def tables(case: Case, port: int) -> str:
    """The mailboxes file: one for each tenant."""
    return "".join(
        f"""
[mailboxes.box-{number}]
tenants = ["tenant-{number}"]
address = "box-{number}@contoso.example"
host = "127.0.0.1"
port = {port}
tls = "none"
messages_per_connection = {case.messages}
limits = {{ connections = 3, per_minute = 6000 }}
"""
        for number in range(case.mailboxes)
    )


def _message(number: int, mailboxes: int) -> tuple[Message, str]:
    given = {
        "type": NOTIFICATION_TYPE,
        "id": f"many-{number:06}",
        "tenant": f"tenant-{number % mailboxes}",
        "to": [f"user{number}@people.example"],
        "subject": f"Your request {number} was approved",
        "text": "Your request was approved.\n" * 40,
    }
    notification = Notification.model_validate(given, strict=False)
    return Message(encode(notification), delivery_mode=DeliveryMode.PERSISTENT), notification_key(notification.tenant)


async def _measured(address: BrokerAddress, port: int, case: Case, count: int, directory: Path) -> Measured:
    topology = await topologies.apply(address, Topology(f"many-{uuid.uuid4().hex[:6]}", lanes=8))
    mailboxes = directory / "mailboxes.toml"
    mailboxes.write_text(tables(case, port), encoding="utf-8")
    settings = {"POSTLANE_LOG__LEVEL": "info"}
    try:
        async with inbox_on(address, topology) as inbox:
            began = time.monotonic()
            async with running_worker(address, topology, mailboxes, directory, settings=settings, wait=False) as worker:
                await worker.logged("broker connected", patience=120)
                started, resident = time.monotonic() - began, _resident(worker.process.pid)
                async with await open_connection(address, "benchmark") as connection, connection.channel() as channel:
                    exchange = await channel.get_exchange(topology.notifications, ensure=False)
                    began, before = time.monotonic(), cpu_seconds(worker.process.pid)
                    for start in range(0, count, 200):
                        numbers = range(start, min(start + 200, count))
                        messages = [_message(number, case.mailboxes) for number in numbers]
                        await asyncio.gather(*(exchange.publish(*each) for each in messages))
                await inbox.until(lambda results: len({r.notification_id for r in results if r.final}) >= count, 600)
                seconds, cpu = time.monotonic() - began, cpu_seconds(worker.process.pid) - before
        if any(result.status != "accepted" for result in inbox.results if result.final):
            raise SystemExit("not everything was accepted: this measures something else")
        return Measured(started, resident, count / seconds, cpu / count)
    finally:
        await topologies.remove(address, topology)


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def _table(measured: Mapping[Case, Measured], first: Case) -> Table:
    table = Table("mailboxes", "start-up s", "memory each", "mails/s", "of the first", "CPU ms/mail", "of the first")
    base = measured[first]
    for case, each in measured.items():
        more = case.mailboxes - first.mailboxes
        table.add_row(
            case.name,
            f"{each.started:.1f}",
            f"{(each.resident - base.resident) / more:.0f} octets" if more else "-",
            f"{each.rate:.0f}",
            f"{each.rate / base.rate:.2f}",
            f"{each.cpu * 1000:.2f}",
            f"{each.cpu / base.cpu:.2f}",
        )
    return table


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mailboxes", type=int, default=50_000)
    options.add_argument("--count", type=int, default=5_000)
    given = options.parse_args()
    console = Console(width=120)
    few, alone = Case("10", 10, 100), Case("10, a connection a mail", 10, 1)
    cases = [alone, few, Case(str(given.mailboxes), given.mailboxes, 100)]

    async def all_of_them(address: BrokerAddress) -> dict[Case, Measured]:
        measured = {}
        async with sink_process() as port:
            for case in cases:
                with TemporaryDirectory() as directory:
                    measured[case] = await _measured(address, port, case, given.count, Path(directory))
                console.print(f"{case.name}: {measured[case]}")
        return measured

    with some_broker(
        amqp_url=os.environ.get("AMQP_URL"), progress=console.print, may_install=lambda _: True
    ) as running:
        console.print(_table(asyncio.run(all_of_them(BrokerAddress(running.amqp_url))), alone))


if __name__ == "__main__":
    main()
