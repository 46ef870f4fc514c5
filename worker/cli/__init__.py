"""The command `postlane`. One small file per command or group; what nobody asked for is not imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from contracts import __version__
from worker.unusable import Unusable

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "run": "Run a worker until SIGTERM or Ctrl-C.",
        "send": "Publish one notification and show what came of it.",
        "cancel": "Take a notification back before it is handed over.",
        "check": "Check broker and mailboxes: name, port, TLS, token, login.",
        "explain": "Explain what a mail server, Entra or Graph has said.",
        "route": "Say which mailbox a notification would take, and why.",
        "demo": "See the main job work, with nothing of yours.",
        "emulator": "Run a double of Office 365 to test against.",
        "health": "Ask the worker of this machine whether it is ready.",
        "import": "Take over the mail settings of another product.",
        "mailbox": "Mailboxes: show, add, change, pause, test, remove.",
        "scope": "What keeps a tenant's, site's or component's mail back.",
        "tenant": "A tenant's own mail settings, by the keys of its portal.",
        "secret": "Keys of the secrets in the store.",
        "api": "The management API and its tokens.",
        "dead": "Look through dead letters, correct them, send them again.",
        "doubt": "Mails that may or may not have been accepted.",
        "template": "Show, try and check the templates.",
        "topology": "Create and show what Postlane needs on RabbitMQ.",
        "config": "Show the settings.",
        "store": "Make and show the tables of the hand-overs.",
        "token": "Sign in for a mailbox, look into its token.",
        "office365": "Set a mailbox up at Microsoft's.",
    }
)
"""Each lies in the module of its name, as a function of that name or, if it is a group, as `app`."""


class _Commands(TyperGroup):
    """Imports a command when it is called, so that `--help` need not pay for all of them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the library's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the library's signature
        if cmd_name not in COMMANDS:
            return None
        _quiet()
        name = f"{cmd_name}_" if cmd_name == "import" else cmd_name
        module = import_module(f"worker.cli.{name}")
        parent = typer.Typer(add_completion=False, rich_markup_mode=None)
        parent.callback()(_nothing)  # with one it is a group, even of a single command
        if hasattr(module, "app"):
            parent.add_typer(module.app, name=cmd_name)
        else:
            parent.command(cmd_name)(getattr(module, name))
        return cast("TyperGroup", get_command(parent)).commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the library's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _quiet() -> None:
    """Libraries log what they raise as well, and MSAL even a token; only a worker's log has a reader, and is set up."""
    import logging

    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


def _nothing() -> None:
    pass


app = typer.Typer(
    name="postlane",
    cls=_Commands,
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


def main() -> None:
    """Run a command; what went wrong is told in words, not by a traceback.

    Exit status: 0 as wished, 1 not as wished, 2 wrong settings or usage.
    """
    try:
        app()
    except Unusable as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(2)
