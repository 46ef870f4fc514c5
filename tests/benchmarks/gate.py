"""How much of its limits a mailbox uses, shared by several workers, one of which dies and one of which comes.

python -m tests.benchmarks.gate [--workers 4] [--mailboxes 5] [--waiting 300] [--per-minute 60] [--window 15] [--url …]

A minute of the mailboxes lasts `--window` seconds. Every worker asks the gate as the courier does and waits for its
places as the broker's wait queues make it wait: a little longer than it must.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts.notification import Priority
from tests.factories import mailbox
from worker.domain.mailbox import Limits, Mailbox
from worker.ports import Admission, Demand, Gate, Paced
from worker.store.opening import opened

_LATE = 0.3  # seconds at most that a waiting mail comes back late
_LASTS = 0.05  # seconds at most that a submission lasts


async def _send(gates: list[Gate], box: Mailbox, dead: set[int], number: int, sent: list[float]) -> None:
    """What waits, waits in the broker: when its worker dies it comes back to another, with its place."""
    slot: datetime | None = None
    while True:
        gate = gates[-1] if number in dead else gates[number]
        answer = await gate.admit(box, Demand("contoso", Priority.NORMAL, 1, 1, slot), datetime.now(UTC))
        match answer:
            case Paced():
                slot = answer.slot
                await asyncio.sleep(max(0.0, (slot - datetime.now(UTC)).total_seconds()) + random.uniform(0, _LATE))
            case Admission():
                await asyncio.sleep(random.uniform(0, _LASTS))
                sent.append(time.monotonic())
                if number not in dead or gate is gates[-1]:
                    await gate.cleared(answer, tried=True, accepted=1)
                return


async def _measured(options: argparse.Namespace, url: str) -> None:
    window = timedelta(seconds=options.window)
    boxes = [
        replace(mailbox(f"box-{number}"), limits=Limits(per_minute=options.per_minute))
        for number in range(options.mailboxes)
    ]
    sent: dict[str, list[float]] = {box.name: [] for box in boxes}
    dead: set[int] = set()
    async with AsyncExitStack() as stack:
        gates = [
            (await stack.enter_async_context(opened(url, window=window, lease=3.0))).gate
            for _ in range(options.workers + 1)
        ]
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for box in boxes:
                for number in range(options.waiting):
                    who = number % options.workers
                    tasks.create_task(_send(gates, box, dead, who, sent[box.name]))
            await asyncio.sleep(options.window * 1.5)
            dead.add(0)
        seconds = time.monotonic() - begun
    for name, moments in sent.items():
        fullest = max(sum(begin <= each < begin + options.window for each in moments) for begin in moments)
        last = max(moments) - begun
        allowed = options.per_minute * (last / options.window)
        print(  # noqa: T201 - it is what the program is for
            f"{name}: {len(moments)} mails in {last:.1f} s, {len(moments) / allowed:.1%} of the allowed rate, "
            f"fullest window {fullest} of {options.per_minute}"
        )
    print(f"all: {seconds:.1f} s")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--mailboxes", type=int, default=5)
    parser.add_argument("--waiting", type=int, default=300)
    parser.add_argument("--per-minute", type=int, default=60)
    parser.add_argument("--window", type=float, default=15.0)
    parser.add_argument("--url", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_measured(options, options.url or f"sqlite:///{Path(directory) / 'gate.sqlite3'}"))


if __name__ == "__main__":
    main()
