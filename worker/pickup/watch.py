"""What the reader of a pickup directory leaves lying: files that nobody collects, and files that it has refused.

A file that was moved in is handed over, and we never hear of it again. But a reader collects within seconds
(Exchange polls every five), and renames what it cannot read to `*.bad` (Exchange) or moves it to `Badmail` beside the
directory (IIS).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from worker.domain.mailbox import Directory, PickupDirectory
from worker.events import PickupLeft
from worker.ports import Observe

_LONGEST_PAUSE = 60.0  # seconds between two looks


async def watch(directory: Callable[[], Directory], patience: float, observe: Observe) -> None:
    """Tell whenever what lies in a directory has changed; does not end.

    Args:
        directory: of mailboxes, as it is at the moment.
        patience: seconds after which a file counts as not collected.
        observe: who is told.
    """
    told: dict[str, PickupLeft] = {}
    while True:
        for name, place in _places(directory()):
            found = await asyncio.to_thread(left, name, place, patience)
            if found is not None and found != told.get(name, PickupLeft(name, str(place.directory), 0, 0)):
                told[name] = found
                observe(found)
        await asyncio.sleep(min(patience / 2, _LONGEST_PAUSE))


def left(mailbox: str, place: PickupDirectory, patience: float) -> PickupLeft | None:
    """Count what lies there; None: we may not look, which a writer need not be allowed to."""
    directory = Path(place.directory)
    before = time.time() - patience
    try:
        old = [name for name, written in _files(directory) if written < before]
    except OSError:
        return None
    uncollected = sum(name.lower().endswith(".eml") for name in old)
    return PickupLeft(mailbox, str(directory), uncollected, len(old) - uncollected + _badmail(directory))


def _files(directory: Path) -> Iterator[tuple[str, float]]:
    """Those that are a mail, or were one, and when they were written."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.lower().endswith((".eml", ".bad")):
                with suppress(FileNotFoundError):  # collected while we look
                    yield entry.name, entry.stat().st_mtime


def _badmail(directory: Path) -> int:
    if directory.name.lower() != "pickup":
        return 0
    try:
        return sum(entry.is_file() for entry in os.scandir(directory.with_name("Badmail")))
    except OSError:
        return 0


def _places(known: Directory) -> list[tuple[str, PickupDirectory]]:
    return [
        (each.name, each.endpoint) for each in known.mailboxes.values() if isinstance(each.endpoint, PickupDirectory)
    ]
