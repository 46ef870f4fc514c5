"""`postlane api`: the management API by itself, and who may use it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worker.settings import Settings

app = typer.Typer(help="The management API: mailboxes, doubts, audit trail over HTTP.", no_args_is_help=True)


@app.command("serve")
def serve() -> None:
    """Serve the API until SIGTERM or Ctrl-C, without a worker. Workers serve it too where POSTLANE_API__PORT is set."""
    from worker import settings
    from worker.telemetry import logs

    loaded = settings.load()
    logs.configure(loaded.log.level, loaded.log.format)
    asyncio.run(_serve(loaded))


@app.command("token")
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is; the audit trail calls them that.")],
    *,
    role: Annotated[
        list[str],
        typer.Option(
            help="mail.settings.read, mail.settings.manage, mail.doubts.resolve, mail.audit.read; repeatable."
        ),
    ],
    file: Annotated[Path | None, typer.Option(help="Tokens file; left out: POSTLANE_API__TOKENS_FILE.")] = None,
) -> None:
    """Make a bearer token. It is shown once; the file holds only its hash. To revoke it, take it out of the file."""
    from worker import settings
    from worker.api.tokens import Role, added

    if unknown := [each for each in role if each not in set(Role)]:
        raise typer.BadParameter(f"--role: there is no {', '.join(unknown)}; choose from {', '.join(Role)}")
    path = file or settings.load().api.tokens_file
    if path is None:
        raise typer.BadParameter("set POSTLANE_API__TOKENS_FILE, or give --file")
    typer.echo(added(path, name, frozenset(map(Role, role))))


async def _serve(settings: Settings) -> None:
    from worker import bootstrap

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with bootstrap.api(settings):
        scheme = "https" if settings.api.certificate_file else "http"
        typer.echo(f"{scheme}://{settings.api.host}:{settings.api.port or '…'}/openapi.json", err=True)
        await ended.wait()
