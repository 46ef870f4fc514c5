"""Workers by the hundred: a process that has imported everything once and forks a worker for each line it reads.

    {"environment": {…}, "log": "worker.log", "trap": {"point": "MARKED", "passings": 3, "signal": 9, "notes": "notes"}}

Answers `{"started": pid}`, and later `{"ended": pid, "status": n}`. A worker is an ordinary one, `postlane run`, but
for its trap, if it has one. Ends, and its workers with it, when its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
from typing import Any

from tests.chaos.points import Point, Trap, TrappedStore
from worker import bootstrap, settings
from worker.bootstrap import Hooks
from worker.cli.run import obey_signals
from worker.telemetry import logs

try:
    import uvloop

    _LOOP: Any = uvloop.Loop
except ImportError:
    _LOOP = None


def _say(**fields: int) -> None:
    print(json.dumps(fields), flush=True)  # noqa: T201 - the other end reads it


def _hooks(trap: dict[str, Any] | None) -> Hooks:
    if trap is None:
        return Hooks()
    made = Trap(Point[trap["point"]], trap["passings"], signal.Signals(trap["signal"]), trap["notes"])
    trapped: list[TrappedStore] = []

    def around(store: Any) -> Any:
        trapped.append(TrappedStore(store, made))
        return trapped[0]

    return Hooks(store=around, observe=lambda event: trapped[0].watch(event) if trapped else None)


async def _run(hooks: Hooks) -> None:
    async with bootstrap.running(settings.load(), hooks) as app:
        obey_signals(app)
        await app.run()


def _be_a_worker(order: dict[str, Any]) -> None:
    """Never returns."""
    status = 1
    try:
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(order["environment"])
        loaded = settings.load()
        logs.configure(loaded.log.level, loaded.log.format)
        with asyncio.Runner(loop_factory=_LOOP) as runner:
            runner.run(_run(_hooks(order["trap"])))
        status = 0
    finally:
        os._exit(status)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            _say(ended=pid, status=os.waitstatus_to_exitcode(status))


def main() -> None:
    """Fork until the input ends."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: set[int] = set()
    pending = b""
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _reap()
        if 0 not in readable:
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if not pid:
                _be_a_worker(order)
            children.add(pid)
            _say(started=pid)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
