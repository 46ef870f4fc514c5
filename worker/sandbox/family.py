"""A process and all that it has started, ended for certain; as Linux tells of them in /proc."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_BY_THEMSELVES = 5.0  # seconds
# A killed process lives on for as long as its disk makes it wait.
_KILLED_WITHIN = 60.0  # seconds

Process = tuple[int, str]  # its number and its time of birth: a number alone is soon another's


def descendants(ancestor: int) -> set[Process]:
    """All that a process has started, and what they have: some lead sessions out of reach of a signal to its group."""
    parents = _living()
    family: set[Process] = set()
    elders = {ancestor}
    while elders:
        children = {process for process, parent in parents.items() if parent in elders}
        family |= children
        elders = {number for number, _ in children}
    return family


def kill(family: set[Process]) -> None:
    """SIGKILL to all that live."""
    for number, _ in family & _living().keys():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def end(family: set[Process]) -> None:
    """Wait until all have ended, as they do when their elder has; whoever has not in time is made to.

    Raises:
        TimeoutError: some live in spite of SIGKILL.
    """
    if _gone(family, _BY_THEMSELVES):
        return
    kill(family)
    if not _gone(family, _KILLED_WITHIN):
        raise TimeoutError(f"still running {_KILLED_WITHIN:.0f} s after SIGKILL: {family & _living().keys()}")


def _gone(family: set[Process], within: float) -> bool:
    deadline = time.monotonic() + within
    while family & _living().keys():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _living() -> dict[Process, int]:
    """The parent of every process but the zombies."""
    living = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()  # the name before it may be anything
            if fields[0] not in "ZX":
                living[int(stat.parent.name), fields[19]] = int(fields[1])
    return living
