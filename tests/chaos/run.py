"""The chaos suite: break everything that can break, on purpose, and count what was lost or doubled.

    python -m tests.chaos.run [--store sqlite] [--store postgres] [--short] [--only kill-marked …]

With SQLite one worker, with PostgreSQL four, all on this machine, against a real broker. Prints a row for each fault:
how often it was injected, notifications lost, doubled, in doubt, and how long the recovery took. Exit status 0 only if
nothing was lost, nothing was silently doubled, and nothing was in doubt but what a fault had hit in the one window
where nobody can know.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.arena import arena
from tests.chaos.reckoning import Reckoning
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.postgres import Cluster, postgres
from worker.sandbox.rabbitmq import RunningBroker
from worker.sandbox.rabbitmq import broker as some_broker

_SQLITE = 0.25  # of the faults that PostgreSQL gets: one worker sees less of each
_FAKETIME = tuple(map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1")))


def chosen(only: Sequence[str]) -> Mapping[str, Scenario]:
    """The scenarios of these names, or all."""
    if unknown := set(only) - SCENARIOS.keys():
        raise SystemExit(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return {name: scenario for name, scenario in SCENARIOS.items() if not only or name in only}


def impossible(scenario: Scenario) -> str:
    """Why a scenario cannot be run on this machine; empty if it can."""
    if (scenario.hosts or scenario.small_disk) and os.geteuid() != 0:
        return "needs root, for a hosts file or a disk of the workers' own"
    if scenario.faketime and not _FAKETIME:
        return "needs libfaketime (apt-get install faketime)"
    return ""


async def one(
    running: RunningBroker, cluster: Cluster | None, name: str, scenario: Scenario, count: int, directory: Path
) -> Reckoning:
    """Run one scenario in an arena of its own."""
    preload = _FAKETIME[:1] if scenario.faketime else ()
    place = directory / name
    shutil.rmtree(place, ignore_errors=True)
    environment = {}
    if scenario.faketime:
        environment = {
            "FAKETIME_TIMESTAMP_FILE": str(place / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    async with arena(
        running,
        cluster,
        place,
        name,
        workers=4 if cluster else 1,
        preload=preload,
        hosts=scenario.hosts,
        small_disk=scenario.small_disk,
        environment=environment,
    ) as stage:
        return await scenario.run(stage, count)


def table(title: str, rows: Sequence[Reckoning]) -> Table:
    """What a run came to."""
    shown = Table(
        "fault", "injected", "mails", "lost", "doubled", "in doubt", "of them taken", "recovered in s", title=title
    )
    for row in rows:
        shown.add_row(
            row.fault,
            str(row.injected),
            str(row.published),
            str(len(row.lost)),
            str(len(row.doubled) + len(row.contradicted)),
            str(len(row.in_doubt)) + (f" ({len(row.unfounded)} unfounded)" if row.unfounded else ""),
            str(row.taken),
            f"{row.recovery:.1f}",
        )
    shown.add_section()
    shown.add_row(
        "all together",
        *(
            str(sum(values))
            for values in (
                [row.injected for row in rows],
                [row.published for row in rows],
                [len(row.lost) for row in rows],
                [len(row.doubled) + len(row.contradicted) for row in rows],
                [len(row.in_doubt) for row in rows],
                [row.taken for row in rows],
            )
        ),
        f"{max((row.recovery for row in rows), default=0):.1f} at most",
    )
    return shown


def main() -> int:
    """Run what was asked for; 0 if every promise was kept."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--store", action="append", choices=("sqlite", "postgres"))
    options.add_argument("--short", action="store_true")
    options.add_argument("--only", nargs="*", default=[])
    options.add_argument("--scale", type=float, default=1.0, help="of the full form's counts")
    options.add_argument("--directory", type=Path, default=Path("build/chaos"))
    given = options.parse_args()
    console = Console(width=150)
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    kept = True
    for kind in given.store or ("postgres", "sqlite"):
        rows: list[Reckoning] = []
        # Each has a broker of its own: killed, RabbitMQ once needed 90 seconds to read what a thousand faults had left.
        with (
            some_broker(amqp_url=None, progress=console.print, may_install=lambda _: True) as running,
            nullcontext() if kind == "sqlite" else postgres() as cluster,
        ):
            for name, scenario in chosen(given.only).items():
                if reason := impossible(scenario):
                    console.print(f"{name}: not run: {reason}")
                    continue
                scale = given.scale * (1 if cluster else _SQLITE)
                count = scenario.short if given.short else max(1, round(scenario.full * scale))
                if not count or (cluster is None if scenario.cluster else scenario.small_disk and cluster):
                    continue
                begun = time.monotonic()
                try:
                    row = asyncio.run(one(running, cluster, name, scenario, count, given.directory.resolve() / kind))
                except TimeoutError:
                    kept = False
                    console.print(f"{kind} {name}: STUCK, {time.monotonic() - begun:.0f} s; see {given.directory}")
                    continue
                rows.append(row)
                kept = kept and row.kept
                took = f"{time.monotonic() - begun:.0f} s"
                told = f"{row.injected} faults, kept" if row.kept else str(row)
                console.print(f"{kind} {name}: {told}, {took}")
        workers = "one worker" if kind == "sqlite" else "four workers"
        console.print(table(f"{kind}, {workers}", rows))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
