"""`postlane tenant`: a tenant's own mail server by known keys, as portals offer them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.actor import actor
from worker.cli.mailbox import AsJson, PasswordFile, PasswordPrompt, PasswordStdin, secret_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.tenant_settings import TenantServer, TenantSettings

app = typer.Typer(
    help="A tenant's own mail server by known keys; it is used when all required keys are set, and not before.",
    no_args_is_help=True,
)

Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant.")]


@app.command("keys")
def keys(*, as_json: AsJson = False) -> None:
    """Show the keys, what they are, and which are required."""
    from worker.tenant_settings import KEYS

    if as_json:
        fields = ("key", "kind", "required", "meaning")
        typer.echo(json.dumps([{name: getattr(known, name) for name in fields} for known in KEYS.values()]))
        return
    for known in KEYS.values():
        typer.echo(f"{known.key:20} {known.kind:9} {'required' if known.required else '        '}  {known.meaning}")


@app.command("show")
def show(tenant: Tenant, *, as_json: AsJson = False) -> None:
    """Show what a tenant has set; of the password only whether it is."""
    _show(_asked(lambda desk: desk.of(tenant)), as_json=as_json)


@app.command("set")
def set_(
    tenant: Tenant,
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="SMTP.Server=smtp.contoso.com SMTP.Port=587")
    ] = None,
    *,
    password_file: PasswordFile = None,
    password_stdin: PasswordStdin = False,
    password_prompt: PasswordPrompt = False,
    as_json: AsJson = False,
) -> None:
    """Set some keys; the others stay, the password too."""
    values = dict(map(_pair, pairs or ()))
    secret = secret_of(password_file, stdin=password_stdin, prompt=password_prompt)
    if secret is not None:
        values["SMTP.Password"] = secret
    _show(_asked(lambda desk: desk.change(tenant, values, actor())), as_json=as_json)


@app.command("forget")
def forget(tenant: Tenant, key: Annotated[str, typer.Argument(metavar="KEY")], *, as_json: AsJson = False) -> None:
    """Delete the value of a key. Without a required one the tenant's mail goes as if it had no server."""
    _show(_asked(lambda desk: desk.forget(tenant, key, actor())), as_json=as_json)


def _asked(question: Callable[[TenantSettings], Awaitable[Any]]) -> Any:
    from worker import bootstrap, settings

    async def ask() -> Any:
        async with bootstrap.desks(settings.load()) as (_, _, desk):
            return await question(desk)

    return asyncio.run(ask())


def _pair(text: str) -> tuple[str, Any]:
    from worker.tenant_settings import KEYS, Kind

    key, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"{key!r}: write KEY=VALUE, such as SMTP.Port=587")
    known = KEYS.get(key)
    if known is not None and known.kind is Kind.PASSWORD and value:
        raise typer.BadParameter(
            f"{key}: everybody on this machine can read the command line. Use --password-file, --password-stdin or "
            "--password-prompt"
        )
    number = known is not None and known.kind is Kind.NUMBER and value.isascii() and value.isdigit()
    return key, int(value) if number else value


def _show(server: TenantServer, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(server), ensure_ascii=False))
        return
    typer.secho(f"{server.tenant}  {server.state}", fg="green" if server.state == "ok" else "yellow")
    if server.explanation:
        typer.echo(f"  {server.explanation}")
    for key, value in server.values.items():
        typer.echo(f"  {key} = {'set' if value == {'set': True} else value}")
