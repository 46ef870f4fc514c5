"""The faults, one function each: inject so many, under traffic, and come back when all of it has been told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.arena import LEASE, Arena
from tests.chaos.mailserver import Cut
from tests.chaos.points import Point
from tests.chaos.reckoning import Reckoning, reckon

_TRAFFIC = 40  # notifications open at once while faults are injected
_PER_FAULT = 4  # notifications published for each fault


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault and how it is injected.

    Attributes:
        run: injects so many and reckons.
        short: how many in the short form; full: in `make chaos`.
        hosts: the workers need a hosts file of their own.
        faketime: the workers need a clock that can be set.
        cluster: needs PostgreSQL.
        small_disk: needs SQLite, on a disk that can be filled.
    """

    fault: str
    run: Callable[[Arena, int], Awaitable[Reckoning]]
    short: int
    full: int
    hosts: bool = False
    faketime: bool = False
    cluster: bool = False
    small_disk: bool = False


def killed_at(point: Point) -> Callable[[Arena, int], Awaitable[Reckoning]]:
    """SIGKILL at a named point of the hand-over."""

    async def run(arena: Arena, count: int) -> Reckoning:
        dice = random.Random(point)
        arena.nursery.traps.extend(arena.trap(point, dice.randint(1, 6)) for _ in range(count))
        await arena.nursery.keep(arena.workers)
        while sum(arena.nursery.sprung.values()) < count:
            await arena.publish(_PER_FAULT)
            await arena.few_open(_TRAFFIC)
        last = time.monotonic()
        await arena.quiet()
        return reckon(arena, f"kill -9 {point}", sum(arena.nursery.sprung.values()), last)

    return run


async def killed_at_random(arena: Arena, count: int) -> Reckoning:
    """SIGKILL at any instant."""
    dice = random.Random(1)
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        await arena.publish(_PER_FAULT * 4)
        await asyncio.sleep(dice.uniform(0.0, 0.1))
        await arena.nursery.keep(1)
        arena.nursery.kill(dice.choice(tuple(arena.nursery.children.values())))
        last = time.monotonic()
        await arena.few_open(_TRAFFIC)
    await arena.quiet()
    return reckon(arena, "kill -9 at a random instant", count, last, known=False)


def frozen_at(point: Point) -> Callable[[Arena, int], Awaitable[Reckoning]]:
    """SIGSTOP at a point for longer than the lease, then SIGCONT: a zombie, which must not send."""

    async def run(arena: Arena, count: int) -> Reckoning:
        dice = random.Random(point)
        traps = [arena.trap(point, dice.randint(1, 6), signal.SIGSTOP) for _ in range(count)]
        await arena.nursery.keep(1)  # one without a trap, to take over
        arena.nursery.traps.extend(traps)
        frozen = 0
        last = time.monotonic()
        for _ in range(count):
            await arena.nursery.keep(2)
            (trapped,) = (child for child in arena.nursery.children.values() if child.trap is not None)
            while arena.sprung() <= frozen:
                await arena.publish(_PER_FAULT)
                await asyncio.sleep(0.05)
            frozen += 1
            last = time.monotonic()
            await asyncio.sleep(LEASE * 2)
            arena.nursery.kill(trapped, signal.SIGCONT)
            await asyncio.sleep(0.5)
            arena.nursery.wanted = 1
            arena.nursery.kill(trapped, signal.SIGTERM)
            await trapped.ended.wait()
        await arena.quiet()
        return reckon(arena, f"frozen {point}, longer than the lease", frozen, last)

    return run


async def broker_killed(arena: Arena, count: int) -> Reckoning:
    """The broker is killed and started again."""
    await arena.nursery.keep(arena.workers)
    await arena.publish(_TRAFFIC)
    await asyncio.sleep(1.5)  # a queue that was declared a moment ago is not safe yet, on any broker
    last = time.monotonic()
    for _ in range(count):
        publishing = asyncio.create_task(arena.publish(_TRAFFIC * 2))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(arena.running.restart)
        last = time.monotonic()
        await publishing
        await arena.quiet()
    return reckon(arena, "broker killed and restarted", count, last, known=False)


async def line_cut(arena: Arena, count: int) -> Reckoning:
    """All connections between workers and broker are cut."""
    dice = random.Random(2)
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        await arena.publish(_PER_FAULT * 2)
        await asyncio.sleep(dice.uniform(0.0, 0.15))
        arena.line.cut()
        last = time.monotonic()
        await arena.few_open(_TRAFFIC)
    await arena.quiet()
    return reckon(arena, "workers cut off from the broker", count, last, known=False)


async def line_silent(arena: Arena, count: int) -> Reckoning:
    """The line to the broker goes dead without a word: half-open TCP."""
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        publishing = asyncio.create_task(arena.publish(_TRAFFIC))
        arena.line.hold()
        await publishing
        await asyncio.sleep(10)  # three heartbeats of two seconds, and a little
        arena.line.release()
        last = time.monotonic()
        await arena.quiet()
    return reckon(arena, "line to the broker half-open", count, last, known=False)


def server_leaves(cut: Cut) -> Callable[[Arena, int], Awaitable[Reckoning]]:
    """The mail server hangs up, or falls silent, at a point of the session."""

    async def run(arena: Arena, count: int) -> Reckoning:
        await arena.nursery.keep(arena.workers)
        last = time.monotonic()
        for number in range(count):
            arena.mailserver.orders.append(cut)
            await arena.publish(_PER_FAULT)
            await arena.few_open(_TRAFFIC if number + 1 < count else 0)
            last = time.monotonic()
        while arena.mailserver.orders:
            await arena.publish(_PER_FAULT)
            await arena.few_open(0)
        await arena.quiet()
        return reckon(arena, f"mail server gone {cut}", arena.mailserver.done[cut], last)

    return run


async def server_down(arena: Arena, count: int) -> Reckoning:
    """The mail server is down for a while: nothing listens."""
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        await arena.mailserver.close()
        await arena.publish(_PER_FAULT)
        await asyncio.sleep(2)
        await arena.mailserver.listen()
        last = time.monotonic()
        await arena.quiet()
    return reckon(arena, "mail server down", count, last)


async def name_gone(arena: Arena, count: int) -> Reckoning:
    """The mail server's name cannot be resolved for a while."""
    assert arena.hosts is not None
    known = arena.hosts.read_text(encoding="utf-8")
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        await arena.mailserver.close()
        arena.hosts.write_text(known.replace("mail.chaos.test", "elsewhere.chaos.test"), encoding="utf-8")
        await arena.mailserver.listen()
        await arena.publish(_PER_FAULT)
        await asyncio.sleep(2)
        arena.hosts.write_text(known, encoding="utf-8")
        last = time.monotonic()
        await arena.quiet()
    return reckon(arena, "name of the mail server gone", count, last)


async def clock_jumps(arena: Arena, count: int) -> Reckoning:
    """The clock of the workers' machine jumps forward by an hour, and back."""
    clock = arena.directory / "clock"
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for number in range(count):
        await arena.publish(_PER_FAULT * 2)
        clock.write_text("+0" if number % 2 else "+3600s", encoding="utf-8")
        last = time.monotonic()
        await arena.publish(_PER_FAULT * 2)
        await arena.quiet()
    return reckon(arena, "clock jumps by an hour", count, last, known=False)


async def stopped_under_load(arena: Arena, count: int) -> Reckoning:
    """SIGTERM to one worker after the other, under load: a rolling restart."""
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        await arena.publish(_TRAFFIC // 2)
        child = next(iter(arena.nursery.children.values()))
        arena.nursery.kill(child, signal.SIGTERM)
        await child.ended.wait()
        last = time.monotonic()
    await arena.quiet()
    return reckon(arena, "SIGTERM, one worker after the other", count, last)


async def stopped_twice(arena: Arena, count: int) -> Reckoning:
    """A second signal right after the first: the worker ends at once, and the ledger tells the truth."""
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        await arena.publish(_TRAFFIC // 2)
        child = next(iter(arena.nursery.children.values()))
        arena.nursery.kill(child, signal.SIGTERM)
        arena.nursery.kill(child, signal.SIGTERM)
        await child.ended.wait()
        last = time.monotonic()
    await arena.quiet()
    return reckon(arena, "stopped without grace", count, last, known=False)


async def store_killed(arena: Arena, count: int) -> Reckoning:
    """PostgreSQL is killed and started again."""
    assert arena.cluster is not None
    await arena.nursery.keep(arena.workers)
    last = time.monotonic()
    for _ in range(count):
        await arena.publish(_TRAFFIC)
        await asyncio.to_thread(arena.cluster.kill)
        await arena.publish(_PER_FAULT)
        await asyncio.to_thread(arena.cluster.start)
        last = time.monotonic()
        await arena.quiet()
    return reckon(arena, "PostgreSQL killed and restarted", count, last, known=False)


async def disk_full(arena: Arena, count: int) -> Reckoning:
    """The disk of the store is full for a while."""
    assert arena.disk is not None
    ballast = arena.disk / "ballast"
    await arena.nursery.keep(arena.workers)
    await arena.publish(_PER_FAULT)
    await arena.quiet()
    last = time.monotonic()
    for _ in range(count):
        await arena.publish(_PER_FAULT * 4)
        _fill(ballast)
        await arena.publish(_PER_FAULT * 4)
        await asyncio.sleep(2)
        ballast.unlink()
        last = time.monotonic()
        await arena.quiet()
    return reckon(arena, "disk of the SQLite store full", count, last, known=False)


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


SCENARIOS: Mapping[str, Scenario] = {
    **{
        f"kill-{point.name.lower()}": Scenario(f"kill -9 {point}", killed_at(point), short=4, full=70)
        for point in Point
    },
    "kill-random": Scenario("kill -9 at a random instant", killed_at_random, short=8, full=150),
    **{
        f"freeze-{point.name.lower()}": Scenario(f"frozen {point}", frozen_at(point), short=1, full=6)
        for point in (Point.CLAIMED, Point.MARKING, Point.MARKED, Point.ANSWERED)
    },
    "broker-kill": Scenario("broker killed", broker_killed, short=0, full=6),
    "broker-cut": Scenario("cut off from the broker", line_cut, short=5, full=120),
    "broker-silent": Scenario("line to the broker half-open", line_silent, short=0, full=3),
    **{
        f"server-{cut.name.lower()}": Scenario(f"mail server gone {cut}", server_leaves(cut), short=2, full=30)
        for cut in (Cut.MAIL, Cut.RCPT, Cut.DATA, Cut.BODY, Cut.DOT, Cut.LOST)
    },
    "server-silent": Scenario("no answer to the dot", server_leaves(Cut.SILENT), short=1, full=6),
    "server-stall": Scenario("half-open at MAIL", server_leaves(Cut.STALL), short=1, full=6),
    "server-ehlo": Scenario("mail server gone at EHLO", server_leaves(Cut.EHLO), short=0, full=2),
    "server-down": Scenario("mail server down", server_down, short=0, full=2),
    "store-kill": Scenario("PostgreSQL killed", store_killed, short=1, full=12, cluster=True),
    "disk-full": Scenario("disk full", disk_full, short=0, full=20, small_disk=True),
    "dns": Scenario("name gone", name_gone, short=0, full=2, hosts=True),
    "clock": Scenario("clock jumps", clock_jumps, short=0, full=6, faketime=True),
    "sigterm": Scenario("rolling restart", stopped_under_load, short=4, full=30),
    "sigterm-twice": Scenario("stopped without grace", stopped_twice, short=2, full=20),
}
