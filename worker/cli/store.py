"""`postlane store`: the ledger's database."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

app = typer.Typer(help="Make and show the tables in which hand-overs are written down.", no_args_is_help=True)


@app.command("migrate")
def migrate() -> None:
    """Bring the tables to this version's form. Running it again changes nothing.

    Workers make the tables of an empty database by themselves, and bring a SQLite file up to date. PostgreSQL is
    migrated by nobody but this command: stop the workers and make a backup first.
    """
    from worker import bootstrap, settings

    typer.echo(asyncio.run(bootstrap.migrate(settings.load())))


@app.command("show")
def show(*, as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    """Show where the store is, which version's tables it has, and what is written there."""
    from worker import bootstrap, settings

    found = asyncio.run(bootstrap.inventory(settings.load()))
    if as_json:
        typer.echo(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "found", show_header=False)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)
