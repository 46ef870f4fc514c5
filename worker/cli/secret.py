"""`postlane secret`: the keys under which secrets of mailboxes are kept in the store."""

from __future__ import annotations

import asyncio

import typer

app = typer.Typer(help="Keys of the secrets in the store.", no_args_is_help=True)


@app.command("key")
def key() -> None:
    """Make a key for POSTLANE_SECRETS__KEY. Keep it where secrets are kept, and apart from the database's backups."""
    from worker.sealing import new_key

    typer.echo(new_key())


@app.command("rotate")
def rotate() -> None:
    """Seal every secret in the store under the newest key: the first one of POSTLANE_SECRETS__KEY.

    Put the new key before the old one, with a comma, restart all workers, run this, then take the old key out.
    Exit status: 0 all are under the newest key, 1 some could not be opened by any key.
    """
    from worker import bootstrap, settings
    from worker.cli.actor import actor

    async def turn() -> tuple[int, int]:
        async with bootstrap.administration(settings.load()) as desk:
            return await desk.rotate(actor())

    done, lost = asyncio.run(turn())
    typer.echo(f"{done} secrets were sealed anew.")
    if lost:
        typer.secho(f"{lost} cannot be opened: add the key they were sealed with, or give them again.", fg="red")
        raise typer.Exit(1)
