"""`postlane run`: the worker."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.bootstrap import App
    from worker.settings import Settings


def run() -> None:
    """Run a worker until SIGTERM or Ctrl-C. Start as many as you like, on as many machines as you like.

    The first signal lets mails under way finish (POSTLANE_WORKER__GRACE_SECONDS); the second ends the worker at once.
    """
    gc.disable()  # what is made until the worker runs stays
    from worker import settings
    from worker.telemetry import logs

    loaded = settings.load()
    logs.configure(loaded.log.level, loaded.log.format)
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(_run(loaded))


async def _run(settings: Settings) -> None:
    from worker.bootstrap import running

    async with running(settings) as app:
        _settle()
        obey_signals(app)
        await app.run()


def _settle() -> None:
    """Modules and mailboxes stay: the collector need not look through them again and again."""
    gc.freeze()
    gc.enable()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than GNU's
            ctypes.CDLL(None).malloc_trim(0)  # what checking them has left would stay with the process


def obey_signals(app: App) -> None:
    """Drain at the first SIGTERM or Ctrl-C, end at once at the second."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, app, number)


def _stop(app: App, number: int) -> None:
    """Drain at the first signal; at the second let the signal do what it does by itself."""
    app.stop()
    asyncio.get_running_loop().remove_signal_handler(number)
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _fast_loop() -> type[asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed."""
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
