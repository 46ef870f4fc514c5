"""`postlane check`: the doctor."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worker.doctor import Step

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


def check(
    *,
    mailbox: Annotated[list[str] | None, typer.Option("--mailbox", help="Only this mailbox; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Check broker and mailboxes: name, port, TLS, token, login, sender. Sends nothing.

    Exit status: 0 all well (warnings allowed), 1 something failed.
    """
    from worker import settings
    from worker.doctor import examine

    async def steps() -> list[Step]:
        found = []
        async for step in examine(settings.load(), frozenset(mailbox or ())):
            found.append(step)
            if not as_json:
                _show(step)
        return found

    found = asyncio.run(steps())
    if as_json:
        typer.echo(json.dumps([asdict(step) for step in found], ensure_ascii=False))
    if any(step.state == "failed" for step in found):
        raise typer.Exit(1)


def _show(step: Step) -> None:
    mark, colour = _MARKS[step.state]
    took = f"  {step.seconds * 1000:.0f} ms" if step.seconds is not None else ""
    typer.secho(f"{mark} ", fg=colour, nl=False)
    typer.echo(f"{step.subject}: {step.what}{took}")
    name = step.subject.removeprefix("mailbox ")
    where = f"Setup step: {', '.join(step.setup)} (postlane office365 setup --mailbox {name})" if step.setup else ""
    for text in (step.detail, step.remedy, where):
        if text:
            typer.echo(f"    {text}")
