"""How exactly a fleet keeps many mailboxes' limits, and how much of them it uses, while workers die and come.

    python -m tests.benchmarks.fleet [--store sqlite] [--workers 4] [--mailboxes 20] [--waiting 200] [--per-minute 50]

Real broker, real workers as processes, the emulated Office 365, which refuses what goes over its limits and keeps a
journal. The mails wait on the broker when the workers start. A quarter of the way one worker is killed (SIGKILL), half
of the way one is added. What is printed is the audit of the journal: windows over the rate, connections, refusals
provoked, and the share of the allowed rate that was used: from the first to the last mail, and without the first
minute, in which a mailbox that had rested may burst.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from contracts.notification import NOTIFICATION_TYPE, Notification
from contracts.publisher import Publisher, publisher
from tests.neighbours import Inbox, WorkerProcess, inbox_on, running_worker
from tests.postgres import postgres
from worker.broker import apply as topologies
from worker.broker.connection import BrokerAddress
from worker.broker.topology import Topology
from worker.emulator.audit import Allowed, Finding, audit, read
from worker.emulator.run import CLIENT_ID, Emulator, Plan, emulating
from worker.emulator.scenario import Limits
from worker.emulator.world import MailboxAccount
from worker.sandbox.rabbitmq import broker as some_broker

_PATIENCE = 1800.0  # seconds
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is asked for."""

    store: str
    workers: int
    mailboxes: int
    waiting: int
    per_minute: int
    directory: Path

    @property
    def notifications(self) -> int:
        """Of all mailboxes."""
        return self.mailboxes * self.waiting


def tables(emulator: Emulator, fleet: Fleet) -> str:
    """The mailboxes file: a tenant and a mailbox over OAuth for each account of the emulator."""
    app, ca_file = emulator.plan.apps[0], emulator.certificates.ca_file
    return "".join(
        f"""
[mailboxes.box-{number}]
tenants = ["tenant-{number}"]
address = "{account.address}"
host = "localhost"
port = {emulator.office365.port}
ca_file = "{ca_file}"
connections = 1
limits = {{ connections = 3, per_minute = {fleet.per_minute} }}
[mailboxes.box-{number}.oauth]
authority = "{emulator.token_url}/{app.tenant_id}"
client_id = "{app.client_id}"
client_secret = "{app.client_secret}"
ca_file = "{ca_file}"
"""
        for number, account in enumerate(emulator.plan.office365_mailboxes)
    )


def notification(tenant: int, number: int) -> Notification:
    """A small one."""
    given = {
        "type": NOTIFICATION_TYPE,
        "id": f"fleet-{tenant:02}-{number:04}",
        "tenant": f"tenant-{tenant}",
        "to": [f"user{number}@people.example"],
        "subject": "Your request was approved",
        "text": "Your request was approved.\n" * 20,
    }
    return Notification.model_validate(given, strict=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """The emulator and the broker, and no worker yet.

    Attributes:
        another: starts one more worker.
    """

    post: Publisher
    box: Inbox
    another: Callable[[], Awaitable[WorkerProcess]]


@asynccontextmanager
async def staged(fleet: Fleet, address: BrokerAddress, store: str) -> AsyncIterator[Stage]:
    """The emulator with a mailbox for each tenant."""
    topology = Topology("fleet", lanes=16)
    accounts = tuple(
        MailboxAccount(f"box-{number}@contoso.example", None, frozenset({CLIENT_ID}))
        for number in range(fleet.mailboxes)
    )
    limits = Limits(connections=3, per_minute=fleet.per_minute)
    plan = Plan(fleet.directory, office365_mailboxes=accounts, keep_content=False, limits=limits)
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(emulating(plan))
        await topologies.apply(address, topology)
        stack.push_async_callback(topologies.remove, address, topology)
        box = await stack.enter_async_context(inbox_on(address, topology))
        mailboxes = fleet.directory / "mailboxes.toml"
        mailboxes.write_text(tables(emulator, fleet), encoding="utf-8")
        settings = {"POSTLANE_LOG__LEVEL": "warning", "POSTLANE_STORE__URL": store}

        async def worker() -> WorkerProcess:
            given = running_worker(address, topology, mailboxes, fleet.directory, settings=settings, wait=False)
            return await stack.enter_async_context(given)

        post = await stack.enter_async_context(publisher(address.url, prefix=topology.prefix))
        yield Stage(post, box, worker)


async def _measured(fleet: Fleet, amqp_url: str, store: str, console: Console) -> Path:
    """Run it; the path of the journal."""
    async with staged(fleet, BrokerAddress(amqp_url), store) as stage:
        box = stage.box
        await _published(stage.post, fleet)
        began = time.monotonic()
        workers = [await stage.another() for _ in range(fleet.workers)]
        await _until(box, fleet.notifications // 4)
        workers[0].process.kill()
        console.print(f"{time.monotonic() - began:.0f} s: a quarter is through, one worker killed")
        await _until(box, fleet.notifications // 2)
        await stage.another()
        console.print(f"{time.monotonic() - began:.0f} s: half is through, one worker added")
        await _until(box, fleet.notifications)
        statuses = Counter(result.status for result in _finals(box).values())
        console.print(f"{time.monotonic() - began:.0f} s: all is told: {dict(statuses)}")
    return fleet.directory / "events.jsonl"


async def _published(post: Publisher, fleet: Fleet) -> None:
    for number in range(fleet.waiting):
        await asyncio.gather(*(post.publish(notification(tenant, number)) for tenant in range(fleet.mailboxes)))


def _finals(box: Inbox) -> Mapping[str | None, Any]:
    return {result.notification_id: result for result in box.results if result.final}


async def _until(box: Inbox, count: int) -> None:
    await box.until(lambda _: len(_finals(box)) >= count, _PATIENCE)


def steady(events: Iterable[Mapping[str, Any]], per_minute: int) -> dict[str, float]:
    """Share of the allowed rate after the first minute, by login; none of those who needed no second one."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["event"] == "accepted" and event.get("login"):
            times[str(event["login"]).lower()].append(float(event["time"]))
    shares = {}
    for login, moments in times.items():
        later = [moment for moment in moments if moment > moments[0] + _MINUTE]
        if later and later[-1] > later[0]:
            shares[login] = (len(later) - 1) / (later[-1] - later[0]) * _MINUTE / per_minute
    return shares


def table(findings: tuple[Finding, ...], shares: Mapping[str, float], title: str) -> Table:
    """The audit, all mailboxes together."""
    shown = Table(title=title, show_header=False)
    used = [each.used for each in findings]
    for name, value in (
        ("mails accepted", str(sum(each.accepted for each in findings))),
        ("windows over the rate", str(sum(each.windows_over for each in findings))),
        ("fullest minute", str(max(each.fullest_window for each in findings))),
        ("connections of a mailbox at once, at most", str(max(each.most_submitting for each in findings))),
        ("replies 432, 421, 429", str(sum(sum(each.throttled.values()) for each in findings))),
        ("share of the rate used, first to last mail", f"{mean(used):.1%} ({min(used):.1%} at least)"),
        (
            "share of the rate used after the first minute",
            f"{mean(shares.values()):.1%} ({min(shares.values()):.1%} at least)" if shares else "-",
        ),
    ):
        shown.add_row(name, value)
    return shown


def emptied(directory: Path) -> Path:
    """A place for what a run writes; workers have it as their own directory, so the path is a whole one."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory.resolve()


def main() -> int:
    """0 if every limit was kept."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    options.add_argument("--workers", type=int, default=4)
    options.add_argument("--mailboxes", type=int, default=20)
    options.add_argument("--waiting", type=int, default=200)
    options.add_argument("--per-minute", type=int, default=50)
    options.add_argument("--directory", type=Path, default=Path("build/fleet"))
    fleet = Fleet(**vars(options.parse_args()))
    fleet = replace(fleet, directory=emptied(fleet.directory))
    console = Console()
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
    with (
        some_broker(amqp_url=None, progress=console.print, may_install=lambda _: True) as running,
        postgres() if fleet.store == "postgres" else nullcontext() as cluster,
    ):
        store = cluster.url if cluster else f"sqlite:///{fleet.directory / 'store.sqlite3'}"
        journal = asyncio.run(_measured(fleet, running.amqp_url, store, console))
    allowed = Allowed(per_minute=fleet.per_minute)
    findings = audit(read(journal), allowed)
    shares = steady(read(journal), fleet.per_minute)
    console.print(table(findings, shares, f"{fleet.store}, {fleet.workers} workers, {fleet.mailboxes} mailboxes"))
    return 0 if all(each.keeps(allowed) for each in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
