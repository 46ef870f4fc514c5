"""`postlane mailbox`: mailboxes that are kept in the store and changed while workers run."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.actor import actor
from worker.domain.document import REFERENCES, merged
from worker.unusable import Unusable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from worker.administration import Administration, Shown
    from worker.tryout import Tried

app = typer.Typer(
    help="Mailboxes: those of the file are shown, those of the store can be changed; workers follow within seconds.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The mailbox.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Keys of the mailboxes file: host=smtp.contoso.com port=465 'tenants=[\"contoso\"]' login.username=u. "
        "A blank value takes the key away.",
    ),
]
From = Annotated[
    Path | None,
    typer.Option("--from", help="TOML or JSON file with a mailbox's keys; - is standard input, JSON."),
]
PasswordFile = Annotated[Path | None, typer.Option(help="File with the password, or client secret: it is stored.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input.")]
PasswordPrompt = Annotated[bool, typer.Option("--password-prompt", help="Ask for it.")]
Revision = Annotated[int | None, typer.Option(help="Only if its revision is this one still.")]

Draft = Annotated[bool, typer.Option("--draft", help="It may be incomplete; it is not used before nothing is missing.")]

_COLOURS = {
    "ok": "green",
    "disabled": "yellow",
    "paused": "yellow",
    "resting": "yellow",
    "incomplete": "yellow",
    "unusable": "red",
    "shadowed": "red",
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """Show all mailboxes, whose they are and how they are."""
    found = _asked(lambda desk: desk.everything())
    if as_json:
        typer.echo(json.dumps([_told(each) for each in found], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("mailbox", "from", "state", "address", "tenants", "explanation")
    for each in found:
        tenants = ", ".join(each.settings.get("tenants", ()))
        state = f"[{_COLOURS[each.state]}]{each.state}"
        table.add_row(each.name, each.source, state, str(each.settings.get("address", "")), tenants, each.explanation)
    Console().print(table)


@app.command("show")
def show(name: Name, *, as_json: AsJson = False) -> None:
    """Show one mailbox; of its secrets only whether they are set."""
    _show(_asked(lambda desk: desk.one(name)), as_json=as_json)


@app.command("add")
def add(
    name: Name,
    pairs: Pairs = None,
    *,
    source: From = None,
    password_file: PasswordFile = None,
    password_stdin: PasswordStdin = False,
    password_prompt: PasswordPrompt = False,
    draft: Draft = False,
    as_json: AsJson = False,
) -> None:
    """Add a mailbox to the store. It is checked as the mailboxes file is.

    Secrets are given by --password-file, --password-stdin or --password-prompt, or as a reference that the workers
    follow: login.password=file:PATH or env:NAME. `default=true` makes it the platform's default mailbox.
    """
    document = _document(source, pairs)
    secret = secret_of(password_file, stdin=password_stdin, prompt=password_prompt)
    document = _with_secret(document, secret, document)
    if draft:
        document.setdefault("required", [])
    _show(_asked(lambda desk: desk.add(name, document, actor())), as_json=as_json)


@app.command("set")
def set_(
    name: Name,
    pairs: Pairs = None,
    *,
    source: From = None,
    password_file: PasswordFile = None,
    password_stdin: PasswordStdin = False,
    password_prompt: PasswordPrompt = False,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Change some keys of a mailbox; everything else stays, the password too. Of one in the file: its editable keys.

    When the server or the token authority changes, the password has to be given again: another one never sees it.
    """
    patch = _document(source, pairs)
    secret = secret_of(password_file, stdin=password_stdin, prompt=password_prompt)

    async def change(desk: Administration) -> Shown:
        after = merged((await desk.one(name)).settings, patch)
        emptied = {table: None for table in _LOGINS if table in patch and not after.get(table)}
        given = _with_secret({**patch, **emptied}, secret, after)
        return await desk.change(name, given, actor(), revision)

    _show(_asked(change), as_json=as_json)


@app.command("enable")
def enable(name: Name) -> None:
    """Switch a mailbox on."""
    _asked(lambda desk: desk.switch(name, actor(), on=True))
    typer.echo(f"{name} is on; workers use it within seconds.")


@app.command("disable")
def disable(name: Name) -> None:
    """Switch a mailbox off: mails under way are finished, no new ones are begun."""
    _asked(lambda desk: desk.switch(name, actor(), on=False))
    typer.echo(f"{name} is off within seconds; mail that has no other server waits.")


@app.command("pause")
def pause(
    name: Name,
    *,
    lasting: Annotated[str | None, typer.Option("--for", help="30s, 10m, 2h or 1d; left out: until resumed.")] = None,
    because: Annotated[str, typer.Option(help="Why, for those who wonder.")] = "",
) -> None:
    """Let a mailbox rest on all workers, whether it is the file's or the store's."""
    seconds = _seconds(lasting) if lasting is not None else None
    shown = _asked(lambda desk: desk.pause(name, because, actor(), seconds))
    until = shown.paused.until if shown.paused else None
    typer.echo(f"{name} rests " + (f"until {until:%Y-%m-%d %H:%M:%S %Z}." if until else "until it is resumed."))


@app.command("resume")
def resume(name: Name) -> None:
    """End a pause by hand."""
    _asked(lambda desk: desk.resume(name, actor()))
    typer.echo(f"{name} is used again within seconds; what waits looks again within minutes.")


@app.command("forget-secret")
def forget_secret(
    name: Name, key: Annotated[str, typer.Argument(metavar="KEY", help="login.password, for example.")]
) -> None:
    """Remove a secret. Until there is a new one the mailbox's mail waits."""
    _asked(lambda desk: desk.forget(name, key, actor()))
    typer.echo(f"{name} has no {key} any more.")


@app.command("test")
def look(
    name: Name,
    *,
    send_to: Annotated[
        str | None,
        typer.Option("--send-to", metavar="ADDRESS", help="Send a test mail there, once, over this mailbox."),
    ] = None,
    even_if_disabled: Annotated[
        bool, typer.Option("--even-if-disabled", help="With --send-to: switched off or not.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the mailbox's server up to the login, with the stored secret. Sends nothing unless --send-to is given.

    Exit status: 0 all is well, 1 it is not, 2 there is no such mailbox.
    """
    from worker import bootstrap, settings

    if send_to is not None:
        _send(name, send_to, even_disabled=even_if_disabled, as_json=as_json)
        return
    finding = asyncio.run(bootstrap.looked_at(settings.load(), name))
    if as_json:
        told = {"well": finding.well, "state": finding.state}
        told |= {"explanation": finding.explanation, "remedy": finding.remedy, "warning": finding.warning}
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        typer.secho(f"{finding.state}  {finding.explanation}", fg="green" if finding.well else "red")
        for line in filter(None, (finding.remedy, finding.warning)):
            typer.echo(f"  {line}")
    if not finding.well:
        raise typer.Exit(1)


def _send(name: str, address: str, *, even_disabled: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from contracts.address import parse
    from worker import bootstrap, settings

    try:
        to = parse(address)
    except ValueError as error:
        raise typer.BadParameter(f"the address {error}", param_hint="--send-to") from error
    given = settings.load()

    async def send() -> Tried:
        tried = await bootstrap.tested(given, name, to, even_disabled=even_disabled)
        async with bootstrap.administration(given) as desk:
            await desk.note(actor(), "mailbox test mail", name, f"to {to}: {tried.status}")
        return tried

    tried = asyncio.run(send())
    if as_json:
        typer.echo(json.dumps(asdict(tried), ensure_ascii=False))
    else:
        typer.secho(f"{tried.status}  {tried.server_reply or ''}".rstrip(), fg="green" if tried.well else "red")
        redirected = f"Redirected to {tried.redirected_to}." if tried.redirected_to else ""
        for line in filter(None, (redirected, tried.explanation, tried.remedy)):
            typer.echo(f"  {line}")
        if tried.status == "deferred":
            typer.echo("  A test mail is tried once: it is not sent later.")
    if not tried.well:
        raise typer.Exit(1)


@app.command("remove")
def remove(name: Name, *, revision: Revision = None) -> None:
    """Remove a mailbox and its secrets from the store. Its tenants are from then on tenants without this server."""
    _asked(lambda desk: desk.remove(name, actor(), revision))
    typer.echo(f"{name} is removed.")


def _asked(question: Callable[[Administration], Awaitable[Any]]) -> Any:
    from worker import bootstrap, settings

    async def ask() -> Any:
        async with bootstrap.administration(settings.load()) as desk:
            return await question(desk)

    return asyncio.run(ask())


def _told(shown: Shown) -> dict[str, Any]:
    from worker.api.application import told

    return told(shown)


def _show(shown: Shown, *, as_json: bool) -> None:
    told = _told(shown)
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    typer.secho(f"{shown.name}  {shown.state}", fg=_COLOURS[shown.state])
    for line in filter(None, (shown.explanation, shown.remedy)):
        typer.echo(f"  {line}")
    if shown.managed:
        typer.echo("  managed in the mailboxes file")
    if shown.revision is not None:
        typer.echo(f"  revision {shown.revision}, {told['changed_at']}, by {shown.changed_by}")
    for key, value in _flat(told["settings"]):
        typer.echo(f"  {key} = {value}")


def _flat(table: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, dict) and value.keys() == {"set"}:
            rows.append((f"{before}{key}", "set" if value["set"] else "not set"))
        elif isinstance(value, dict):
            rows += _flat(value, f"{before}{key}.")
        else:
            rows.append((f"{before}{key}", json.dumps(value, ensure_ascii=False)))
    return rows


def _document(source: Path | None, pairs: list[str] | None) -> dict[str, Any]:
    """What a file and the command line say; the command line wins."""
    return document_of(pairs or (), _from_file(source) if source is not None else {})


def document_of(pairs: Iterable[str], document: dict[str, Any] | None = None) -> dict[str, Any]:
    """What KEY=VALUE pairs say, over a document if there is one; a blank value is None.

    Raises:
        typer.BadParameter: one is no pair, or would show a secret to everybody on this machine.
    """
    document = {} if document is None else document
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not re.fullmatch(r"[a-z][a-z_0-9]*(\.[a-z][a-z_0-9]*)?", key):
            raise typer.BadParameter(f"{key!r}: write KEY=VALUE, such as login.username=jana")
        if key in _SECRETS and value and not value.startswith(REFERENCES):
            raise typer.BadParameter(
                f"{key}: everybody on this machine can read the command line. Use --password-file, --password-stdin or "
                "--password-prompt, or a reference: file:PATH, env:NAME or keyvault:ADDRESS"
            )
        table, last = document, key
        if "." in key:
            first, _, last = key.partition(".")
            table = document.setdefault(first, {})
        table[last] = _value(value)
    return document


_LOGINS = {"oauth": "client_secret", "login": "password"}
"""The tables that say how a mailbox logs in, and the secret of each."""

_SECRETS = ("login.password", "oauth.client_secret", "oauth.certificate_password")


def _value(text: str) -> Any:
    """TOML where it is: numbers, true, lists; else the text itself."""
    import tomllib

    if not text:
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | list | dict | str) else text


def _from_file(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise Unusable(f"{path} is neither TOML (name it .toml) nor JSON: {error}") from None
    if not isinstance(found, dict):
        raise Unusable(f"{path} must be an object with the keys of one mailbox.")
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _with_secret(patch: dict[str, Any], secret: str | None, after: dict[str, Any]) -> dict[str, Any]:
    """Put the secret where the mailbox, as it will be, has its place for one."""
    if secret is None:
        return patch
    table = next((name for name in _LOGINS if patch.get(name)), "oauth" if after.get("oauth") else "login")
    match after:
        case {"oauth": {"certificate_file": str()}} if table == "oauth":
            key = "certificate_password"
        case _:
            key = _LOGINS[table]
    return {**patch, table: {**(patch.get(table) or {}), key: secret}}


def secret_of(file: Path | None, *, stdin: bool, prompt: bool) -> str | None:
    """The secret from where it is to come from; None: from nowhere.

    Raises:
        Unusable: it cannot be read, or is empty.
    """
    if [file is not None, stdin, prompt].count(True) > 1:
        raise typer.BadParameter("give one of --password-file, --password-stdin and --password-prompt")
    if file is not None:
        try:
            secret = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"{file} cannot be read: {error}") from None
    elif stdin:
        secret = sys.stdin.read().rstrip("\r\n")
    elif prompt:
        secret = typer.prompt("Password or client secret", hide_input=True)
    else:
        return None
    if not secret:
        raise Unusable("The secret is empty.")
    return secret


def _seconds(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None or not int(found[1]):
        raise typer.BadParameter("--for: write 30s, 10m, 2h or 1d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])
