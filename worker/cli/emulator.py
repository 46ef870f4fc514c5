"""`postlane emulator`: an Office 365 of your own."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worker.emulator.run import Plan
    from worker.emulator.scenario import Catalogue


def emulator(
    *,
    directory: Annotated[Path, typer.Option(help="For certificates, accepted mails and their log.")] = Path(
        "build/emulator"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    name: Annotated[list[str] | None, typer.Option(help="Further host name for the certificate; repeatable.")] = None,
    office365_port: Annotated[int, typer.Option(min=0, max=65535, help="Office 365 submission.")] = 2587,
    ordinary_port: Annotated[int, typer.Option(min=0, max=65535, help="Ordinary mail server.")] = 2525,
    token_port: Annotated[int, typer.Option(min=0, max=65535, help="Token endpoint (https).")] = 2443,
    graph_port: Annotated[int, typer.Option(min=0, max=65535, help="Microsoft Graph (https).")] = 3443,
    scenario: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME:PATTERN, see --list-scenarios; repeatable.")
    ] = None,
    world: Annotated[Path | None, typer.Option(help="TOML file with mailboxes and apps of your own.")] = None,
    scenarios: Annotated[Path | None, typer.Option(help="TOML file with scenarios of your own.")] = None,
    list_scenarios: Annotated[bool, typer.Option("--list-scenarios", help="List all names, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
) -> None:
    """Run a double of Office 365 (SMTP, token endpoint, Microsoft Graph) and an ordinary mail server.

    Nothing leaves this machine: accepted mails lie in the directory. Prints a mailboxes file that fits.
    docs/emulator.md has the whole of it.
    """
    from worker.emulator.run import Plan
    from worker.emulator.scenario import catalogue, load
    from worker.emulator.world_file import inhabited

    known = load(scenarios) if scenarios else catalogue()
    for each in scenario or ():
        known.find(each)
    if list_scenarios:
        _list(known, as_json=as_json)
        return
    plan = Plan(
        directory=directory,
        host=host,
        names=tuple(name or ()),
        office365_port=office365_port,
        ordinary_port=ordinary_port,
        token_port=token_port,
        graph_port=graph_port,
        scenarios=tuple(scenario or ()),
        catalogue=known,
    )
    asyncio.run(_emulate(inhabited(plan, world) if world else plan))


def _list(known: Catalogue, *, as_json: bool) -> None:
    if as_json:
        rules = {
            name: {"moment": rule.moment, "reply": rule.reply, "says": rule.says} for name, rule in known.rules.items()
        }
        titles = {name: each.title for name, each in known.scenarios.items()}
        typer.echo(json.dumps({"scenarios": titles, "rules": rules}, ensure_ascii=False, indent=2))
        return
    for name, each in known.scenarios.items():
        typer.echo(f"{name:28} {each.title}")
    for name, rule in known.rules.items():
        reply = rule.reply.partition("\n")[0][:60]
        typer.echo(f"{name:28} {rule.moment:8} {rule.says}: {reply}")


async def _emulate(plan: Plan) -> None:
    from worker.emulator.files import mailboxes_file
    from worker.emulator.run import emulating

    async with emulating(plan) as running:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        mailboxes = plan.directory / "mailboxes.toml"
        mailboxes.write_text(mailboxes_file(running, graph=True), encoding="utf-8")
        typer.echo(f"Office 365 submission   {plan.host}:{running.office365.port} (STARTTLS, LOGIN and XOAUTH2)")
        typer.echo(f"Ordinary mail server    {plan.host}:{running.ordinary.port} (STARTTLS, PLAIN and LOGIN)")
        typer.echo(f"Token endpoint          {running.token_url}/<tenant>")
        typer.echo(f"Microsoft Graph         {running.graph_url}/v1.0")
        typer.echo(f"Trust this authority    {running.certificates.ca_file}")
        typer.echo(f"Accepted mails          {running.accepted.directory}")
        typer.echo(f"Journal to audit        {running.backstage.journal.path}")
        typer.echo(f"A mailboxes file        {mailboxes}")
        typer.echo(f"Expire all tokens       curl -k -X POST {running.token_url}/_emulator/expire-tokens")
        typer.echo("Running; Ctrl-C ends it.")
        await stop.wait()
