"""`postlane route`: which mailbox would carry a notification, and why."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.unusable import Unusable

if TYPE_CHECKING:
    from contracts.notification import Notification
    from worker.domain.explain import Explanation
    from worker.domain.routing import Unavailable

_GOES = ("sent", "suppressed")
_COLOURS = {"sent": "green", "suppressed": "yellow", "waits": "yellow", "refused": "red"}


def route(
    notification: Annotated[Path, typer.Argument(help="Notification as a JSON file; - is standard input.")],
    *,
    explain: Annotated[bool, typer.Option("--explain", help="Show every mailbox that was considered.")] = False,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Suppose that this mailbox is unavailable; repeatable.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="Look at this producer's rights, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output, always explained.")] = False,
) -> None:
    """Say through which mailbox a notification would leave, and why. Sends nothing, asks no server.

    What rests at the moment only the workers know: all mailboxes are taken for available unless --without names them.

    Exit status: 0 it would be sent (or suppressed), 1 it would wait or be refused, 2 wrong settings or usage.
    """
    from worker import bootstrap, settings
    from worker.domain import explain as domain

    directory = asyncio.run(bootstrap.effective(settings.load()))
    if unknown := [name for name in without or () if name not in directory.mailboxes]:
        raise typer.BadParameter(f"there is no mailbox {', '.join(unknown)}")
    found = domain.explain(_read(notification), directory, _supposed(without or ()).get, user)
    if as_json:
        typer.echo(json.dumps(asdict(found), ensure_ascii=False))
    else:
        _show(found, explained=explain)
    if found.decided.fate not in _GOES:
        raise typer.Exit(1)


def _supposed(names: list[str] | tuple[()]) -> dict[str, Unavailable]:
    from worker.domain.routing import Unavailable
    from worker.domain.verdict import Action, Scope, Verdict

    verdict = Verdict("supposed", Scope.MAILBOX, Action.PAUSE, "Supposed to be unavailable.")
    return dict.fromkeys(names, Unavailable(verdict))


def _show(found: Explanation, *, explained: bool) -> None:
    decided = found.decided
    if explained:
        typer.echo(f"{found.scope}; category {found.category!r}")
        for item in found.considered:
            typer.echo(f"  {item.place or '-'}  {item.mailbox}: {item.words}")
    through = f"  {decided.mailbox} ({decided.because})" if decided.mailbox else ""
    typer.secho(f"{decided.fate}{through}", fg=_COLOURS[decided.fate])
    lines = [decided.words, decided.remedy]
    if decided.redirected_to:
        lines.append(f"Redirected to {', '.join(decided.redirected_to)}; the recipients get nothing.")
    if decided.barred:
        lines.append(f"Not allowed for this mailbox: {', '.join(decided.barred)}.")
    for line in filter(None, lines):
        typer.echo(f"  {line}")


def _read(path: Path) -> Notification:
    from contracts.notification import Notification
    from contracts.wire import Malformed, Properties, decode

    try:
        body = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}.") from error
    match decode(body, Properties(), max_octets=1 << 30):
        case Notification() as notification:
            return notification
        case Malformed(problems=problems):
            raise Unusable("\n".join(f"{path}: {item.field} {item.problem}" for item in problems))
        case _:
            raise Unusable(f"{path} is no notification.")
