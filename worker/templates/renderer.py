"""The port `Templates` over processes apart: whatever a template does there, the worker goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from worker.domain.mailbox import MailScope
from worker.domain.wording import Order, Rule, Unreadable, Unrenderable, Wording
from worker.templates.child import LENGTH, SECONDS
from worker.templates.library import Survey

WALL: Final = 30.0  # seconds in which a child must answer however busy the machine is; else its disk hangs
_REST = 15.0  # seconds for which a process that did not answer is not asked again
_SURVEY_PATIENCE = 30  # times the processor time of one mail
_LARGEST = 32 * 1024 * 1024  # octets of an answer
_INHERITED = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "TZ")

_WORDING, _RULE = TypeAdapter(Wording), TypeAdapter(Rule)
_UNRENDERABLE, _UNREADABLE = TypeAdapter(Unrenderable), TypeAdapter(Unreadable)
_SURVEYS = TypeAdapter(tuple[Survey, ...])


class Renderer:
    """Two processes: one for templates that behave, one for those that took too long once."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *, wall: float = WALL) -> None:
        """Nothing is started before it is needed.

        Args:
            directory: the template directory.
            environment: ours; what Python needs of it is handed on, and nothing else.
            wall: seconds after which a process that does not answer is given up.
        """
        inherited = {name: environment[name] for name in _INHERITED if name in environment}
        self._quick = _Child(directory, inherited, wall)
        self._slow = _Child(directory, inherited, wall)
        self._suspects: set[str] = set()

    async def rule(self, event: str, scope: MailScope) -> Rule | Unreadable | None:
        """The rule for an event in a scope, if there is one."""
        try:
            kind, value = await self._quick.ask({"ask": "rule", "event": event, "scope": asdict(scope)})
        except (_TooSlow, _Gone) as error:
            return _out_of_order(error)
        match kind:
            case "Rule":
                return _RULE.validate_python(value)
            case "Unreadable":
                return _UNREADABLE.validate_python(value)
            case _:
                return None

    async def render(self, order: Order) -> Wording | Unrenderable | Unreadable:
        """What the template comes to with these data.

        A template that took too long is tried apart from then on, one mail at a time, until it behaves.
        """
        suspect = order.template in self._suspects
        if suspect and self._slow.busy:
            return Unreadable(
                f"Template {order.template!r} took too long before: its mails are tried one at a time.",
                "Look for loops inside loops in it; waiting mail goes on by itself.",
            )
        try:
            kind, value = await (self._slow if suspect else self._quick).ask({"ask": "render", "order": asdict(order)})
        except _TooSlow:
            self._suspects.add(order.template)
            return _too_slow(order)
        except _Gone as error:
            return _out_of_order(error)
        self._suspects.discard(order.template)
        match kind:
            case "Wording":
                return _WORDING.validate_python(value)
            case "Unreadable":
                return _UNREADABLE.validate_python(value)
            case _:
                return _UNRENDERABLE.validate_python(value)

    async def survey(self) -> tuple[Survey, ...] | Unreadable:
        """What there is, and what is wrong with it."""
        try:
            kind, value = await self._quick.ask({"ask": "survey", "patience": _SURVEY_PATIENCE})
        except (_TooSlow, _Gone) as error:
            return _out_of_order(error)
        return _SURVEYS.validate_python(value) if kind == "Survey" else _UNREADABLE.validate_python(value)

    async def close(self) -> None:
        """End the processes."""
        await self._quick.close()
        await self._slow.close()


class _TooSlow(Exception):  # noqa: N818 - what it was
    pass


class _Gone(Exception):  # noqa: N818 - what it is
    pass


class _Child:
    """One process, started when it is needed and again when it has died."""

    def __init__(self, directory: Path, environment: Mapping[str, str], wall: float) -> None:
        self._directory = directory
        self._environment = environment
        self._wall = wall
        self._rests_until = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._one = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return self._one.locked()

    async def ask(self, request: Mapping[str, Any]) -> tuple[str, Any]:
        """One question, one answer.

        Raises:
            _TooSlow: the question took all of its processor time.
            _Gone: there was no answer for another reason.
        """
        async with self._one:
            now = asyncio.get_running_loop().time()
            if now < self._rests_until:
                raise _Gone(f"no answer within {self._wall:g} s a moment ago")
            try:
                async with asyncio.timeout(self._wall):
                    return await self._exchange(await self._running(), request)
            except TimeoutError as error:
                await self._kill()
                self._rests_until = now + self._wall + _REST
                raise _Gone(f"no answer within {self._wall:g} s") from error
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise await self._cause() from error
            except OSError as error:
                raise _Gone(f"it cannot be started: {error.strerror}") from error
            except BaseException:  # cancelled: the answer that is still to come would be taken for the next one's
                await self._kill()
                raise

    async def close(self) -> None:
        async with self._one:
            await self._kill()

    async def _exchange(self, process: asyncio.subprocess.Process, request: Mapping[str, Any]) -> tuple[str, Any]:
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        frame = json.dumps(request).encode()
        process.stdin.write(LENGTH.pack(len(frame)) + frame)
        await process.stdin.drain()
        (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        if length > _LARGEST:
            raise ConnectionError("an answer out of all proportion")
        answer = json.loads(await process.stdout.readexactly(length))
        if answer.get("last"):
            await self._kill()
        return answer["kind"], answer["value"]

    async def _running(self) -> asyncio.subprocess.Process:
        """Without our environment, which holds secrets, and in a session of its own: Ctrl-C is for us to handle."""
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "worker.templates.child", str(self._directory)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
        return self._process

    async def _cause(self) -> _TooSlow | _Gone:
        """Why it broke off. The kernel's signal says whether its processor time was used up."""
        process, self._process = self._process, None
        status = None
        if process is not None:
            async with asyncio.timeout(self._wall):
                status = await process.wait()
        if sys.platform != "win32" and status == -signal.SIGPROF:
            return _TooSlow()
        return _Gone(f"its process ended with status {status}")

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


def _too_slow(order: Order) -> Unrenderable:
    return Unrenderable(
        f"Template {order.template!r} took more than {SECONDS:g} s of processor time with these data and was stopped.",
        "Look for loops inside loops, or give it less data; then replay the dead letter.",
    )


def _out_of_order(error: Exception) -> Unreadable:
    why = str(error) or "it took too long"
    return Unreadable(
        f"Templates cannot be rendered at present: {why}.",
        "Look at the template directory's disk and at the log; waiting mail goes on by itself.",
    )
