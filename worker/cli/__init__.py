"""The command `postlane`. One small file per command group; what a command needs is imported when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from contracts import __version__
from worker.cli import (
    api,
    cancel,
    check,
    config,
    dead,
    demo,
    doubt,
    emulator,
    explain,
    health,
    import_,
    mailbox,
    office365,
    route,
    run,
    scope,
    secret,
    send,
    store,
    template,
    tenant,
    token,
    topology,
)
from worker.unusable import Unusable

app = typer.Typer(
    name="postlane",
    help="Postlane sends notification mails: RabbitMQ in, Office 365 (or any mail server) out, results back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback signature
    if wanted:
        typer.echo(f"postlane {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: FBT002 - a flag is what it is
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


app.command("run")(run.run)
app.command("send")(send.send)
app.command("cancel")(cancel.cancel)
app.command("check")(check.check)
app.command("explain")(explain.explain)
app.command("route")(route.route)
app.command("demo")(demo.demo)
app.command("emulator")(emulator.emulator)
app.command("health")(health.health)
app.command("import")(import_.import_)
app.add_typer(mailbox.app, name="mailbox")
app.add_typer(scope.app, name="scope")
app.add_typer(tenant.app, name="tenant")
app.add_typer(secret.app, name="secret")
app.add_typer(api.app, name="api")
app.add_typer(dead.app, name="dead")
app.add_typer(doubt.app, name="doubt")
app.add_typer(template.app, name="template")
app.add_typer(topology.app, name="topology")
app.add_typer(config.app, name="config")
app.add_typer(store.app, name="store")
app.add_typer(token.app, name="token")
app.add_typer(office365.app, name="office365")


def main() -> None:
    """Run a command; what went wrong is told in words, not by a traceback.

    Exit status: 0 as wished, 1 not as wished, 2 wrong settings or usage.
    """
    try:
        app()
    except Unusable as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(2)
