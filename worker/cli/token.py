"""`postlane token`: sign in for a mailbox, look into its token, forget a sign-in."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from worker.domain.mailbox import OAuth
    from worker.oauth.login import Invitation
    from worker.settings import Settings

app = typer.Typer(help="Sign in for a mailbox, look into its token.", no_args_is_help=True)

Mailbox = Annotated[str, typer.Argument(metavar="MAILBOX", help="Name in the mailboxes file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("login")
def login(mailbox: Mailbox, *, as_json: AsJson = False) -> None:
    """Sign in as the owner of a mailbox that has `device_login`: open a page, enter a code. Kept encrypted here.

    Exit status: 0 signed in, 2 not.
    """
    from worker import bootstrap
    from worker.domain.mailbox import DeviceLogin
    from worker.oauth.login import sign_in
    from worker.settings import SettingsError

    settings, credentials = _credentials(mailbox)
    if not isinstance(credentials.proof, DeviceLogin):
        raise SettingsError(f"Mailbox {mailbox} has no `device_login`: nobody needs to sign in for it.")

    def show(invitation: Invitation) -> None:
        if as_json:
            typer.echo(json.dumps(asdict(invitation)))
        else:
            typer.echo(f"Open {invitation.address}, enter the code {invitation.code},")
            typer.echo(
                f"and sign in as {credentials.username}. The code is good for {invitation.seconds // 60} minutes."
            )

    user = sign_in(credentials, bootstrap.vault(settings), settings.oauth.timeout_seconds, show)
    if as_json:
        typer.echo(json.dumps({"mailbox": mailbox, "signed_in_as": user}))
        return
    typer.echo(f"Signed in as {user or 'somebody'}; workers of this host use it from now on.")
    if user and user.lower() != credentials.username.lower():
        typer.secho(
            f"But the mailbox logs in as {credentials.username}: set `username`, or sign in again.", fg="yellow"
        )


@app.command("inspect")
def inspect(mailbox: Mailbox, *, as_json: AsJson = False) -> None:
    """Fetch a token and explain it: for whom, by whom, with which permissions, what is missing. It is not shown itself.

    Exit status: 0 nothing in it keeps the mailbox shut, 1 something does, or there is no token.
    """
    _, credentials = _credentials(mailbox)
    told = asyncio.run(_inspected(mailbox, credentials))
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        _show(told)
    if told.get("refused") or any(finding["fatal"] for finding in told.get("findings", ())):
        raise typer.Exit(1)


@app.command("forget")
def forget(mailbox: Mailbox) -> None:
    """Forget a sign-in. Workers that hold a token use it to its end; revoke sessions in Entra to end it at once."""
    from worker import bootstrap

    settings, credentials = _credentials(mailbox)
    found = bootstrap.vault(settings).forget(credentials)
    typer.echo(f"Forgotten: {credentials.username}." if found else f"Nobody had signed in for {mailbox} on this host.")


@app.command("key")
def key() -> None:
    """Make a key for POSTLANE_OAUTH__KEY. Keep it where secrets are kept: who has it and the files can send as you."""
    from worker.sealing import new_key

    typer.echo(new_key())


def _credentials(mailbox: str) -> tuple[Settings, OAuth]:
    from worker import bootstrap, settings
    from worker.oauth.expiry import credentials_of

    loaded = settings.load()
    known = asyncio.run(bootstrap.effective(loaded)).mailboxes
    if mailbox not in known:
        raise settings.SettingsError(f"There is no mailbox {mailbox} in {loaded.mailboxes.file}, nor in the store.")
    found = next(credentials_of(known[mailbox]), None)
    if found is None:
        raise settings.SettingsError(f"Mailbox {mailbox} has no [oauth]: it uses no tokens.")
    return loaded, found


async def _inspected(mailbox: str, credentials: OAuth) -> dict[str, Any]:
    from datetime import UTC, datetime

    from worker import bootstrap, settings
    from worker.domain.claims import findings, permission_for, read
    from worker.domain.delivery import TokenRefused
    from worker.domain.mailbox import SmtpEndpoint
    from worker.domain.verdict import catalogue, of_fault, of_token
    from worker.ports import Token

    loaded = settings.load()
    endpoint = (await bootstrap.effective(loaded)).mailboxes[mailbox].endpoint
    permission = permission_for(endpoint.host) if isinstance(endpoint, SmtpEndpoint) else "Mail.Send"
    tokens = bootstrap.msal_tokens(loaded, lambda _event: None)
    try:
        answer = await tokens.token(mailbox, credentials)
    finally:
        tokens.close()
    told: dict[str, Any] = {"mailbox": mailbox, "authority": credentials.authority, "scope": credentials.scope}
    if not isinstance(answer, Token):
        refused = isinstance(answer, TokenRefused)
        verdict = of_token(catalogue(), answer) if isinstance(answer, TokenRefused) else of_fault(catalogue(), answer)
        said = [answer.error, answer.description] if isinstance(answer, TokenRefused) else [answer.fault, answer.detail]
        told["refused"] = {"error": said[0], "description": said[1], "by_authority": refused}
        return told | {"explanation": verdict.explanation, "remedy": verdict.remedy}
    claims = read(answer.value)
    if claims is None:
        return told | {"opaque": True, "findings": []}
    found = [] if credentials.oidc else list(findings(claims, credentials, permission, datetime.now(UTC)))
    return told | {
        "aud": claims.audience,
        "tid": claims.tenant,
        "appid": claims.app,
        "roles": list(claims.roles),
        "scp": list(claims.scopes),
        "user": claims.user,
        "exp": claims.expires.isoformat() if claims.expires else None,
        "findings": [asdict(finding) for finding in found],
    }


def _show(told: dict[str, Any]) -> None:
    names = {
        "authority": "from",
        "scope": "asked for",
        "aud": "audience (aud)",
        "tid": "tenant (tid)",
        "appid": "application (appid)",
        "roles": "application permissions (roles)",
        "scp": "delegated permissions (scp)",
        "user": "user",
        "exp": "ends (exp)",
    }
    for key, name in names.items():
        if value := told.get(key):
            typer.echo(f"{name:32} {', '.join(value) if isinstance(value, list) else value}")
    if told.get("opaque"):
        typer.echo("The token is opaque: only the server can look into it.")
    if refused := told.get("refused"):
        typer.secho(f"✗ no token: {refused['description'] or refused['error']}", fg="red")
        typer.echo(f"    {told['explanation']}\n    {told['remedy']}")
    for finding in told.get("findings", ()):
        typer.secho("✗ " if finding["fatal"] else "! ", fg="red" if finding["fatal"] else "yellow", nl=False)
        typer.echo(f"{finding['problem']}\n    {finding['remedy']}")
        if finding["step"]:
            typer.echo(f"    Setup step: {finding['step']} (postlane office365 setup --mailbox {told['mailbox']})")
    if not told.get("findings") and not told.get("refused") and not told.get("opaque"):
        typer.secho("✓ nothing in it keeps the mailbox shut", fg="green")
