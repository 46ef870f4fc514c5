"""`postlane office365`: what an administrator does at Microsoft's, with the values filled in."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.domain.cloud import CloudName

if TYPE_CHECKING:
    from worker.domain.mailbox import Mailbox
    from worker.domain.office365 import Instruction, Values

app = typer.Typer(help="Set a mailbox up at Microsoft's.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Set a mailbox up at Microsoft's."""


@app.command("setup")
def setup(
    *,
    mailbox: Annotated[str, typer.Option("--mailbox", help="Name in the mailboxes file, or an address.")],
    graph: Annotated[bool, typer.Option("--graph", help="Send through Microsoft Graph instead of SMTP.")] = False,
    rbac: Annotated[
        bool, typer.Option("--rbac", help="RBAC for Applications: right for this mailbox only, no consent in Entra.")
    ] = False,
    tenant: Annotated[str | None, typer.Option(help="Directory (tenant) ID.")] = None,
    client_id: Annotated[str | None, typer.Option(help="Application (client) ID.")] = None,
    object_id: Annotated[str | None, typer.Option(help="Object ID of the ENTERPRISE APPLICATION.")] = None,
    sender: Annotated[list[str] | None, typer.Option(help="Further address in From; repeatable.")] = None,
    cloud: Annotated[CloudName | None, typer.Option(help="Microsoft's cloud.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Mailboxes file; default: the configured one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Print the clicks and PowerShell lines that a mailbox needs, in order, with its values. Changes nothing.

    Values come from the mailboxes file as far as it has them; options win. `postlane check` proves each step later.
    """
    from worker.domain.office365 import Way, instructions

    way = {(False, False): Way.MAILBOX_PERMISSION, (False, True): Way.RBAC, (True, False): Way.GRAPH}.get(
        (graph, rbac), Way.GRAPH_RBAC
    )
    given = {"tenant": tenant, "client_id": client_id, "object_id": object_id, "cloud": cloud}
    values = _values(mailbox, source, {name: value for name, value in given.items() if value is not None}, sender or [])
    steps = instructions(way, values)
    if as_json:
        typer.echo(json.dumps([asdict(step) for step in steps], ensure_ascii=False))
        return
    for number, step in enumerate(steps, 1):
        _show(number, step)


def _values(mailbox: str, source: Path | None, given: dict[str, str], senders: list[str]) -> Values:
    """What the mailboxes file knows of it, or what an address alone tells.

    Raises:
        SettingsError: it is neither a mailbox of the file nor an address.
    """
    from dataclasses import replace

    from worker.domain.office365 import Values
    from worker.settings import SettingsError

    box = _known(mailbox, source)
    if box is not None:
        found = _of_file(box)
    elif "@" in mailbox:
        found = Values(name=mailbox.partition("@")[0], address=mailbox)
    else:
        raise SettingsError(f"There is no mailbox {mailbox} in the mailboxes file; an address would do as well.")
    return replace(found, senders=(*found.senders, *senders), **given)  # type: ignore[arg-type]


def _known(mailbox: str, source: Path | None) -> Mailbox | None:
    """From the file, if there is one: an address needs none."""
    import os

    from worker import mailbox_file, settings

    path = source or settings.load().mailboxes.file
    if source is None and "@" in mailbox and not path.is_file():
        return None
    boxes = mailbox_file.load(path, os.environ).mailboxes.values()
    return next((box for box in boxes if mailbox in (box.name, str(box.address))), None)


def _of_file(box: Mailbox) -> Values:
    from dataclasses import replace

    from worker.domain.office365 import Values
    from worker.oauth.expiry import credentials_of

    values = Values(box.name, str(box.address), senders=tuple(s for s in sorted(box.senders) if not s.startswith("*")))
    client = next((found for found in credentials_of(box) if found.client_id), None)
    if client is None:
        return values
    tenant = client.authority.rpartition("/")[2]
    return replace(values, tenant=tenant, client_id=client.client_id, cloud=_cloud(client.authority))


def _cloud(authority: str) -> CloudName:
    from worker.domain.cloud import CLOUDS

    return next((name for name, cloud in CLOUDS.items() if authority.startswith(cloud.authority)), CloudName.GLOBAL)


def _show(number: int, step: Instruction) -> None:
    typer.secho(f"{number}. {step.title}", bold=True, nl=False)
    typer.echo(f"  [{step.step}]")
    typer.echo(f"   {step.place}")
    for line in step.lines:
        typer.echo(f"     {line}")
    for text in (step.why, f"Proof: {step.proof}" if step.proof else ""):
        if text:
            typer.secho(f"   {text}", dim=True)
    typer.echo()
