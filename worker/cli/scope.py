"""`postlane scope`: what keeps mail back, and who may publish for whom, changed while workers run."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.actor import actor
from worker.cli.mailbox import AsJson, Revision, document_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.switchboard import ShownScope, Switchboard

app = typer.Typer(
    help="Scopes (platform, tenants, their sites and components) and producers; workers follow within seconds.",
    no_args_is_help=True,
)

Scope = Annotated[
    str,
    typer.Argument(
        metavar="SCOPE",
        help="platform, tenants/NAME, tenants/NAME/sites/SITE, tenants/NAME/components/COMPONENT or producers/LOGIN.",
    ),
]
Pairs = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY=VALUE...",
        help="Keys of the mailboxes file: suppress=true redirect_to=test@contoso.com "
        "'purposes_off=[\"password-reset\"]' use_default=false. A blank value takes the key away.",
    ),
]

_COLOURS = {"flowing": "green", "listed": "green", "refused": "red", "unusable": "red"}


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """Show every scope and producer that something is set for, and whether its mail flows."""
    found = _asked(lambda board: board.everything())
    if as_json:
        typer.echo(json.dumps([_told(each) for each in found], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("scope", "from", "state", "settings")
    for each in found:
        told = ", ".join(f"{key}={json.dumps(value, default=str)}" for key, value in each.settings.items())
        table.add_row(each.name, each.source, f"[{_COLOURS.get(each.state, 'yellow')}]{each.state}", told)
    Console().print(table)


@app.command("show")
def show(scope: Scope, *, as_json: AsJson = False) -> None:
    """Show what is set for one of them."""
    _show(_asked(lambda board: board.one(scope)), as_json=as_json)


@app.command("set")
def set_(scope: Scope, pairs: Pairs, *, revision: Revision = None, as_json: AsJson = False) -> None:
    """Set some keys of a scope that the mailboxes file does not mention; everything else stays."""
    patch = document_of(pairs)
    _show(_asked(lambda board: board.change(scope, patch, actor(), revision)), as_json=as_json)


@app.command("stop")
def stop(
    scope: Scope,
    *,
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse its mail at once; left out: it waits.")] = False,
) -> None:
    """Throw the stop switch, also of a scope that the mailboxes file has."""
    from worker.domain.mailbox import Stop

    shown = _asked(lambda board: board.stop(scope, actor(), Stop.REFUSE if refuse else Stop.HOLD))
    typer.echo(f"{shown.name}: mail {'is refused' if shown.state == 'refused' else 'waits'} within seconds.")


@app.command("start")
def start(scope: Scope) -> None:
    """Lift the stop switch."""
    shown = _asked(lambda board: board.start(scope, actor()))
    typer.echo(f"{shown.name}: {shown.state}; what waits looks again within minutes.")


@app.command("remove")
def remove(scope: Scope, *, revision: Revision = None) -> None:
    """Forget what is set for it here; wider scopes and the mailboxes file hold."""
    _asked(lambda board: board.remove(scope, actor(), revision))
    typer.echo(f"{scope}: nothing is set here any more.")


def _asked(question: Callable[[Switchboard], Awaitable[Any]]) -> Any:
    from worker import bootstrap, settings

    async def ask() -> Any:
        async with bootstrap.desks(settings.load()) as (_, board, _):
            return await question(board)

    return asyncio.run(ask())


def _told(shown: ShownScope) -> dict[str, Any]:
    from worker.api.application import told_scope

    return told_scope(shown)


def _show(shown: ShownScope, *, as_json: bool) -> None:
    told = _told(shown)
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    typer.secho(f"{shown.name}  {shown.state}", fg=_COLOURS.get(shown.state, "yellow"))
    if shown.explanation:
        typer.echo(f"  {shown.explanation}")
    if shown.managed:
        typer.echo("  managed in the mailboxes file; it can be stopped and started here")
    if shown.revision is not None:
        typer.echo(f"  revision {shown.revision}, {told['changed_at']}, by {shown.changed_by}")
    for key, value in told["settings"].items():
        typer.echo(f"  {key} = {json.dumps(value, ensure_ascii=False)}")
