"""What ten thousand waiting mails do to an urgent one of their mailbox, and to mails of other mailboxes.

    python -m tests.benchmarks.priority [--backlog 10000] [--per-minute 60] [--urgent 10] [--others 100]

Real broker, four workers as processes, PostgreSQL, the emulated Office 365. One mailbox gets the backlog at low
priority; its urgent mails are counted in slots (a slot is a minute divided by the limit), mails of another mailbox in
seconds from publishing to the final result, before the backlog and with it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from contracts.notification import Notification, Priority
from tests.benchmarks.fleet import Fleet, Stage, emptied, notification, staged
from tests.postgres import postgres
from worker.broker.connection import BrokerAddress
from worker.sandbox.rabbitmq import broker as some_broker

_PATIENCE = 600.0  # seconds
_BUSY, _OTHER = 0, 1
_URGENT_APART = 12  # slots between two urgent mails: a tenth of the limit is kept free for them
_APART = 1.5  # slots between two of the other mailbox's mails, which must not wait for its own limit


async def _seconds(stage: Stage, mail: Notification) -> float:
    """From publishing to the final result."""
    began = time.monotonic()
    await stage.post.publish(mail)
    await stage.box.final(mail.id, _PATIENCE)
    return time.monotonic() - began


async def _spread(stage: Stage, slot: float, first: int, count: int) -> list[float]:
    """Mails of the other mailbox, one after the other, none waiting for the one before."""
    running = []
    for number in range(first, first + count):
        running.append(asyncio.create_task(_seconds(stage, notification(_OTHER, number))))
        await asyncio.sleep(_APART * slot)
    return list(await asyncio.gather(*running))


async def _measured(
    fleet: Fleet, address: BrokerAddress, store: str, urgent: int, others: int, console: Console
) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    slot = 60 / fleet.per_minute
    async with staged(fleet, address, store) as stage:
        for _ in range(fleet.workers):
            await stage.another()
        await _seconds(stage, notification(_OTHER, 0))  # workers are up, tokens are there
        before = await _spread(stage, slot, 1, others)
        console.print(f"publishing {fleet.waiting} notifications of low priority")
        for number in range(fleet.waiting):
            low = notification(_BUSY, number).model_copy(update={"priority": Priority.LOW})
            await stage.post.publish(low)
        waiting = fleet.waiting - 3 * fleet.per_minute
        await stage.box.until(
            lambda results: len({r.notification_id for r in results if r.status == "deferred"}) >= waiting, _PATIENCE
        )
        console.print("all of them wait")
        high = [
            notification(_BUSY, fleet.waiting + number).model_copy(update={"priority": Priority.HIGH})
            for number in range(urgent)
        ]
        spread = asyncio.create_task(_spread(stage, slot, 1 + others, others))
        first = []
        for mail in high:
            first.append(await _seconds(stage, mail))
            await asyncio.sleep(_URGENT_APART * slot)
        return first, before, await spread


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


def main() -> int:
    """Measure and print; 0 if urgent mails left within three slots."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backlog", type=int, default=10_000)
    options.add_argument("--per-minute", type=int, default=60)
    options.add_argument("--urgent", type=int, default=10)
    options.add_argument("--others", type=int, default=100)
    options.add_argument("--directory", type=Path, default=Path("build/priority"))
    given = options.parse_args()
    console = Console(width=120)
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
    fleet = Fleet("postgres", 4, 2, given.backlog, given.per_minute, emptied(given.directory))
    with (
        some_broker(amqp_url=None, progress=console.print, may_install=lambda _: True) as running,
        postgres() as cluster,
    ):
        address = BrokerAddress(running.amqp_url)
        first, before, beside = asyncio.run(_measured(fleet, address, cluster.url, given.urgent, given.others, console))
    slots = [seconds / (60 / given.per_minute) for seconds in first]
    table = Table("", "median", "95 of 100", "at most", title=f"{given.backlog} mails of low priority wait")
    table.add_row(
        "urgent mail of their mailbox, in slots", *(f"{f(slots):.1f}" for f in (statistics.median, _p95, max))
    )
    for name, seconds in (("another mailbox without the backlog, s", before), ("with the backlog, s", beside)):
        table.add_row(name, *(f"{f(seconds):.2f}" for f in (statistics.median, _p95, max)))
    console.print(table)
    return 0 if max(slots) <= 3 else 1


if __name__ == "__main__":
    sys.exit(main())
