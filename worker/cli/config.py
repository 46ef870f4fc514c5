"""`postlane config`: what is set, and by what."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(help="Show the settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Show the settings."""


@app.command("show")
def show(*, as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    """Show every setting with its effective value and where it came from. Secrets are masked."""
    from worker import settings

    rows = list(settings.origins(settings.load()))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("setting", "value", "from")
    for row in rows:
        table.add_row(row.path, row.value, "[dim]default[/]" if row.source == "default" else row.source)
    Console().print(table)
