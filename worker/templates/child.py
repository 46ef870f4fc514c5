"""The process in which templates are rendered: `python -m worker.templates.child DIRECTORY`.

A template can loop for hours or ask for all memory, and no library can stop it from inside. Here the kernel does: every
request has its processor time, the process its memory, and neither files can be written nor is there a secret to read.
Requests and answers are JSON, each after its length in four octets.
"""

from __future__ import annotations

import contextlib
import json
import signal
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from worker.domain.mailbox import MailScope
from worker.domain.wording import Order, Unrenderable
from worker.templates.library import Library

SECONDS = 2.0  # of processor time for one request
MEMORY = 512 * 1024 * 1024  # octets of address space
LENGTH = struct.Struct(">I")
_OPEN_FILES = 64
_ORDER = TypeAdapter(Order)


def main() -> None:
    """Answer until nobody asks any more."""
    _confine()
    library = Library(Path(sys.argv[1]))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while (request := _next(requests)) is not None:
        _give(SECONDS * request.get("patience", 1))
        try:
            answer = _answer(library, request)
        except MemoryError:
            answer = _TOO_MUCH
        _give(0)
        frame = json.dumps(answer).encode()
        answers.write(LENGTH.pack(len(frame)) + frame)
        answers.flush()
        if answer is _TOO_MUCH:
            return  # what is left of the memory is not worth keeping


def _answer(library: Library, request: dict[str, Any]) -> dict[str, Any]:
    match request:
        case {"ask": "rule", "event": str(event), "scope": scope}:
            found: Any = library.rule(event, MailScope(**scope))
        case {"ask": "render", "order": order}:
            found = library.render(_ORDER.validate_python(order))
        case _:
            surveyed = library.survey()
            if isinstance(surveyed, tuple):
                return {"kind": "Survey", "value": [asdict(item) for item in surveyed]}
            found = surveyed
    value = TypeAdapter(type(found)).dump_python(found, mode="json") if found is not None else None
    return {"kind": type(found).__name__, "value": value}


def _next(requests: BinaryIO) -> dict[str, Any] | None:
    head = requests.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    request: dict[str, Any] = json.loads(requests.read(LENGTH.unpack(head)[0]))
    return request


def _give(seconds: float) -> None:
    """So much processor time from now on; SIGPROF, which nobody handles, ends the process."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _confine() -> None:
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not on Windows

    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        with contextlib.suppress(ValueError, OSError):  # not every system knows every limit
            resource.setrlimit(what, (most, most))


_TOO_MUCH = {
    "last": True,
    "kind": "Unrenderable",
    "value": asdict(
        Unrenderable(
            f"The template needs more than {MEMORY // 1024 // 1024} MiB of memory with these data.",
            "Shorten what it repeats, then replay the dead letter.",
        )
    ),
}

if __name__ == "__main__":
    main()
