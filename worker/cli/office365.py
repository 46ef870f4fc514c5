"""`postlane office365`: what an administrator does at Microsoft's, with the values filled in."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.domain.cloud import CloudName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.domain.mailbox import Mailbox
    from worker.domain.office365 import Instruction, Values, Way

app = typer.Typer(help="Set a mailbox up at Microsoft's.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Set a mailbox up at Microsoft's."""


@app.command("setup")
def setup(
    *,
    mailbox: Annotated[str, typer.Option("--mailbox", help="Name of a mailbox, or an address.")],
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

    The way and the values are the mailbox's as far as it has them; options win. `postlane check` proves each step.
    """
    from worker.domain.office365 import instructions

    known, stored = _known(mailbox, source)
    given = {"tenant": tenant, "client_id": client_id, "object_id": object_id, "cloud": cloud}
    told = {name: value for name, value in given.items() if value is not None}
    values = _values(mailbox, known, told, sender or [], stored=stored)
    steps = instructions(_way(known, graph=graph, rbac=rbac), values)
    if as_json:
        typer.echo(json.dumps([asdict(step) for step in steps], ensure_ascii=False))
        return
    for number, step in enumerate(steps, 1):
        _show(number, step)


def _way(box: Mailbox | None, *, graph: bool, rbac: bool) -> Way:
    """The mailbox's own way, of its first channel; another one if the options say so.

    Raises:
        typer.BadParameter: there is no such way.
    """
    from worker.domain.mailbox import GraphEndpoint
    from worker.domain.office365 import Way, way_of

    found = way_of(box.endpoint) if box is not None else Way.MAILBOX_PERMISSION
    if graph:
        channels = box.channels if box is not None else ()
        found = next((way_of(channel) for channel in channels if isinstance(channel, GraphEndpoint)), Way.GRAPH)
    if not rbac:
        return found
    by_role = {Way.MAILBOX_PERMISSION: Way.RBAC, Way.GRAPH: Way.GRAPH_RBAC}
    if found not in by_role:
        raise typer.BadParameter("--rbac: a person's rights, and those on High Volume Email, are given otherwise")
    return by_role[found]


def _values(mailbox: str, box: Mailbox | None, given: dict[str, str], senders: list[str], *, stored: bool) -> Values:
    """What is known of the mailbox, or what an address alone tells.

    Raises:
        SettingsError: it is neither a mailbox nor an address.
    """
    from dataclasses import replace

    from worker.domain.office365 import Values
    from worker.settings import SettingsError

    if box is not None:
        found = replace(_of_mailbox(box), stored=stored)
    elif "@" in mailbox:
        found = Values(name=mailbox.partition("@")[0], address=mailbox)
    else:
        raise SettingsError(
            f"There is no mailbox {mailbox} in the mailboxes file, nor in the store; an address would do as well."
        )
    return replace(found, senders=(*found.senders, *senders), **given)  # type: ignore[arg-type]


def _known(mailbox: str, source: Path | None) -> tuple[Mailbox | None, bool]:
    """The mailbox if there is one, and whether it is the store's. An address needs no file."""
    import asyncio
    import os

    from worker import bootstrap, mailbox_file, settings

    if source is not None:
        return _named(mailbox, mailbox_file.load(source, os.environ).mailboxes), False
    loaded = settings.load()
    if "@" in mailbox and not loaded.mailboxes.file.is_file():
        return None, False
    found = _named(mailbox, asyncio.run(bootstrap.effective(loaded)).mailboxes)
    if found is None:
        return None, False
    return found, found.name not in mailbox_file.read(loaded.mailboxes.file).get("mailboxes", {})


def _named(mailbox: str, boxes: Mapping[str, Mailbox]) -> Mailbox | None:
    return next((box for box in boxes.values() if mailbox in (box.name, str(box.address))), None)


def _of_mailbox(box: Mailbox) -> Values:
    from dataclasses import replace

    from worker.domain.mailbox import ManagedIdentity, OAuth
    from worker.domain.office365 import Values, cloud_of_mailbox
    from worker.oauth.expiry import credentials_of

    values = Values(
        box.name,
        str(box.address),
        senders=tuple(sender for sender in sorted(box.senders) if not sender.startswith("*")),
        cloud=cloud_of_mailbox(box) or CloudName.GLOBAL,
    )
    match next(credentials_of(box), None):
        case OAuth(proof=ManagedIdentity(client_id=client_id) as identity, username=username):
            whose = "<object id of the managed identity>"
            named = replace(values, proof=identity, username=username, object_id=whose)
            return replace(named, client_id=client_id) if client_id else named
        case OAuth(authority=authority, client_id=client_id, username=username, proof=proof):
            tenant = authority.rpartition("/")[2]
            return replace(values, tenant=tenant, client_id=client_id, username=username, proof=proof)
        case None:
            return values


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
