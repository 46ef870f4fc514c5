"""`postlane demo`: see it work, on this machine, with nothing of yours."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer


def demo(
    *,
    directory: Annotated[Path, typer.Option(help="For mails, logs and certificates; made anew.")] = Path("build/demo"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Install RabbitMQ's Debian package without asking.")] = False,
    image: Annotated[str, typer.Option(help="RabbitMQ image, where Docker is used.")] = "rabbitmq:4",
) -> None:
    """Play the main job: two workers, an emulated Office 365, an ordinary mail server, six notifications.

    The broker is AMQP_URL if that is set, else one of its own (Docker, else an installed rabbitmq-server, else Debian's
    package is installed). Everything started is stopped again; the mails stay in the directory.

    Exit status: 0 only if every notification ended as expected.
    """
    from rich.console import Console

    from worker.demo.show import show
    from worker.demo.stage import play
    from worker.sandbox.rabbitmq import broker

    console = Console()
    started = time.monotonic()

    def tell(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    def may_install(question: str) -> bool:
        if yes or os.environ.get("CI") or os.geteuid() == 0:
            return True
        return sys.stdin.isatty() and typer.confirm(question)

    with broker(amqp_url=os.environ.get("AMQP_URL"), image=image, progress=tell, may_install=may_install) as running:
        tell(running.description)
        performance = asyncio.run(play(running.amqp_url, directory, tell))
        tell("stopping the broker" if running.origin != "given" else "leaving the given broker as it was")
    console.print()
    show(performance, console)
    if not all(item.well for item in performance.played):
        console.print("[red]Not every notification ended as expected.[/]")
        raise typer.Exit(1)
