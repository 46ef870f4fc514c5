"""`postlane template`: what mails are written from."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from worker.unusable import Unusable

if TYPE_CHECKING:
    from worker.domain.wording import Wording
    from worker.templates.library import Survey
    from worker.templates.renderer import Renderer

app = typer.Typer(help="Show, try and check the templates.", no_args_is_help=True)

T = TypeVar("T")
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
_Directory = Annotated[
    Path | None, typer.Option("--directory", file_okay=False, help="Default: POSTLANE_TEMPLATES__DIRECTORY.")
]


@app.command("list")
def list_templates(*, directory: _Directory = None, as_json: _Json = False) -> None:
    """Show every template with its locales and the placeholders that it wants data for."""
    found = _survey(directory)
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("template", "locale", "parts", "placeholders")
    for item in found:
        if item.parts:
            table.add_row(item.template, item.locale, " ".join(item.parts), " ".join(item.placeholders))
    Console().print(table)


@app.command("check")
def check(*, directory: _Directory = None, as_json: _Json = False) -> None:
    """Compile all templates and read the rules, without sending anything.

    Exit status: 0 all well, 1 something is wrong.
    """
    found = _survey(directory)
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], ensure_ascii=False))
    else:
        for item in found:
            _judge(item)
    if any(item.problems for item in found):
        raise typer.Exit(1)


@app.command("preview")
def preview(
    name: Annotated[str, typer.Argument(help="The template's name.")],
    *,
    locale: Annotated[str | None, typer.Option(help="Language tag; default: the template's first.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="JSON file with the data; - is standard input.")] = None,
    to: Annotated[str, typer.Option(help="Who {{ recipient }} is.")] = "jana@example.com",
    html: Annotated[Path | None, typer.Option("--html", dir_okay=False, help="Write the html to this file.")] = None,
    directory: _Directory = None,
    as_json: _Json = False,
) -> None:
    """Show what a template comes to, exactly as a worker would send it. Sends nothing.

    Exit status: 0 shown, 1 it cannot be rendered (and why), 2 wrong usage.
    """
    from contracts.recipients import split
    from worker.domain.wording import Order, Wording

    recipient = {"name": "", **(split(to) or [{"address": to}])[0]}
    order = Order(name, locale, _data(data), recipient)
    found = _asked(directory, lambda renderer: renderer.render(order))
    if not isinstance(found, Wording):
        typer.secho(f"{found.problem}\n{found.remedy}", fg="red", err=True)
        raise typer.Exit(1)
    if html is not None and found.html is not None:
        html.write_text(found.html, encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(asdict(found), ensure_ascii=False))
    else:
        _show(found, html)


def _show(found: Wording, html: Path | None) -> None:
    typer.secho(f"locale   {found.locale}\nsubject  {found.subject}\n", fg="cyan")
    typer.echo(found.text)
    if found.html is None:
        typer.secho("no html", fg="cyan")
    else:
        where = f"written to {html}" if html else "write it to a file with --html"
        typer.secho(f"html     {len(found.html)} characters, {where}", fg="cyan")


def _judge(item: Survey) -> None:
    mark, colour = ("✗", "red") if item.problems else ("✓", "green")
    typer.secho(f"{mark} ", fg=colour, nl=False)
    typer.echo(f"{item.template} {item.locale} {' '.join(item.parts)}".rstrip())
    for problem in item.problems:
        typer.echo(f"    {problem}")


def _asked(directory: Path | None, question: Callable[[Renderer], Awaitable[T]]) -> T:
    """Ask the processes that a worker would ask, with the same limits."""
    from worker import settings
    from worker.templates.renderer import Renderer

    found = directory or settings.load().templates.directory
    if found is None:
        raise Unusable("No template directory: set POSTLANE_TEMPLATES__DIRECTORY, or give --directory.")

    async def ask() -> T:
        renderer = Renderer(found, os.environ)
        try:
            return await question(renderer)
        finally:
            await renderer.close()

    return asyncio.run(ask())


def _survey(directory: Path | None) -> tuple[Survey, ...]:
    found = _asked(directory, lambda renderer: renderer.survey())
    if not isinstance(found, tuple):
        raise Unusable(f"{found.problem}\n{found.remedy}")
    return found


def _data(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        data = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"--data: {error}") from error
    if not isinstance(data, dict):
        raise typer.BadParameter("--data: must be a JSON object")
    return data
