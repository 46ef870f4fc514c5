"""Everything that happens at the emulated servers, a line of JSON each: what an auditor holds against the limits."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path


class Journal:
    """Writes `events.jsonl`. Times are seconds since the epoch; each line is written before the client is answered."""

    def __init__(self, path: Path) -> None:
        """Append to what is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._numbers = itertools.count(time.time_ns())
        self.write("start")

    def number(self) -> int:
        """For a new connection: different from every other, also of earlier runs."""
        return next(self._numbers)

    def write(self, event: str, **facts: object) -> None:
        """Write one event down; facts that are empty are left out. What ends after the journal is not told of."""
        if self._file.closed:
            return
        line = {"time": time.time(), "event": event, **{name: fact for name, fact in facts.items() if fact != ""}}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
