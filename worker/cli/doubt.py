"""`postlane doubt`: mails of which nobody knows whether they were accepted."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from worker.unusable import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.ports import Doubt
    from worker.settings import Settings

app = typer.Typer(help="Mails that may or may not have been accepted.", no_args_is_help=True)

_Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]


@app.command("list")
def list_(
    *,
    tenant: _Tenant = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Show every open doubt with the Message-ID to look for.

    `worker-crash`: a worker died after it had sent the whole mail; it was very probably accepted.
    `in-doubt`: the connection was lost before the server answered; look for it.
    """
    from worker import settings

    doubts = [doubt for doubt in asyncio.run(_doubts(settings.load())) if _of(doubt, tenant)]
    if as_json:
        typer.echo(json.dumps([_row(doubt) for doubt in doubts], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("notification", "tenant", "why", "mailbox", "Message-ID", "since")
    for doubt in doubts:
        table.add_row(*(value or "" for value in _row(doubt).values()))
    Console().print(table if doubts else "No open doubts.")


@app.command("resolve")
def resolve(
    notification_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The notification's id.")] = None,
    *,
    tenant: _Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="Every open doubt (of the tenant, of the reason).")] = False,
    why: Annotated[str | None, typer.Option(help="Only doubts of this reason, such as worker-crash.")] = None,
    accepted: Annotated[
        bool | None, typer.Option("--accepted/--not-sent", help="What you have found.", show_default=False)
    ] = None,
) -> None:
    """End a doubt: say what you have found. The producer gets a `resolved` result.

    What was not sent stays among the dead letters; `postlane dead replay --id ID` sends it.
    Exit status: 0 ended, 1 there is no such doubt, 2 wrong usage.
    """
    from worker import settings

    if accepted is None:
        raise typer.BadParameter("say --accepted or --not-sent")
    if (notification_id is None) != everything:
        raise typer.BadParameter("give an ID or --all")

    def chosen(doubt: Doubt) -> bool:
        reason = doubt.result.reason.kind if doubt.result.reason else ""
        return _of(doubt, tenant) and notification_id in (None, doubt.key.notification_id) and why in (None, reason)

    raise typer.Exit(asyncio.run(_resolve(settings.load(), chosen, accepted=accepted)))


async def _doubts(loaded: Settings) -> Sequence[Doubt]:
    from worker import bootstrap

    async with bootstrap.store(loaded) as store:
        return await store.doubts()


async def _resolve(loaded: Settings, chosen: Callable[[Doubt], bool], *, accepted: bool) -> int:
    from worker import bootstrap
    from worker.cli.actor import actor
    from worker.domain.report import looked_up

    async with bootstrap.store(loaded) as store:
        doubts = [doubt for doubt in await store.doubts() if chosen(doubt)]
        if not doubts:
            raise Unusable("There is no such doubt: postlane doubt list shows the open ones.")
        if (
            len({doubt.key.tenant for doubt in doubts}) > 1
            and len({doubt.key.notification_id for doubt in doubts}) == 1
        ):
            raise Unusable("Several tenants use this id: say which one with --tenant.")
        for doubt in doubts:
            result = looked_up(doubt.result, accepted=accepted, finder=actor(), now=datetime.now(UTC))
            if await store.resolve(doubt.key, result, None, actor()):
                typer.echo(f"{'accepted' if accepted else 'not sent'}  {doubt.key}")
    if not accepted:
        typer.echo("Send what was not sent: postlane dead replay --id ID")
    return 0


def _of(doubt: Doubt, tenant: str | None) -> bool:
    return tenant is None or doubt.key.tenant == tenant.lower()


def _row(doubt: Doubt) -> dict[str, str | None]:
    result = doubt.result
    return {
        "id": doubt.key.notification_id,
        "tenant": doubt.key.tenant,
        "why": result.reason.kind if result.reason else None,
        "mailbox": result.mailbox.name if result.mailbox else None,
        "message_id": result.message_id,
        "since": result.occurred_at.isoformat(timespec="seconds"),
    }
