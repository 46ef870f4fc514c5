"""`postlane cancel`: take a notification back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from worker.unusable import Unusable

if TYPE_CHECKING:
    from worker.settings import Settings

_NO_ANSWER = 3


def cancel(
    notification_id: Annotated[str, typer.Argument(metavar="ID", help="The notification's id.")],
    *,
    tenant: Annotated[str, typer.Option(help="Whose mail it is.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take a notification back, if it has not been handed over yet; of a mass mail all parts that have not been.

    Exit status: 0 cancelled (or its parts are being), 1 too late (its result is shown), 2 wrong usage, 3 no answer.
    """
    from worker import settings

    raise typer.Exit(asyncio.run(_cancel(settings.load(), notification_id, tenant, timeout, as_json=as_json)))


async def _cancel(loaded: Settings, notification_id: str, tenant: str, timeout: float, *, as_json: bool) -> int:
    from pydantic import ValidationError

    from contracts.publisher import NotPublished, publisher
    from worker import bootstrap
    from worker.broker.connection import BROKEN, explained
    from worker.cli.send import line

    try:
        async with publisher(loaded.broker.url.get_secret_value(), prefix=loaded.broker.prefix) as post:
            result = await post.cancel(notification_id, tenant, timeout)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())) from error
    except TimeoutError:
        typer.secho(f"No answer within {timeout:g} s; is a worker running?", fg="yellow", err=True)
        return _NO_ANSWER
    except NotPublished as error:
        raise Unusable(f"Not published: {error}") from error
    except BROKEN as error:
        raise Unusable(explained(error, bootstrap.broker_address(loaded))) from error
    typer.echo(result.model_dump_json(exclude_none=True) if as_json else line(result))
    return 0 if result.status in ("cancelled", "expanded") else 1
