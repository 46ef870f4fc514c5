"""`postlane health`: for container health checks, so that the image needs no curl."""

from __future__ import annotations

from urllib.error import URLError
from urllib.request import urlopen

import typer


def health() -> None:
    """Ask the worker of this machine whether it is ready. Exit status 0 if it is, 1 if not."""
    from worker import settings

    where = settings.load().health
    host = "127.0.0.1" if where.host in ("0.0.0.0", "::") else where.host  # noqa: S104 - compared, not bound
    try:
        with urlopen(f"http://{host}:{where.port}/readyz?verbose", timeout=5) as answer:
            typer.echo(answer.read().decode())
    except (URLError, OSError) as error:
        typer.echo(f"not ready: {error}", err=True)
        raise typer.Exit(1) from error
