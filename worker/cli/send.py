"""`postlane send`: publish one notification and wait for its result."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.unusable import Unusable

if TYPE_CHECKING:
    from contracts.delivery import Result
    from contracts.notification import Notification
    from worker.settings import Settings

_WELL = ("accepted", "handed_over", "expanded")
_NO_ANSWER = 3

_To = Annotated[list[str] | None, typer.Option("--to", help="Recipient; repeatable.")]
_Cc = Annotated[list[str] | None, typer.Option("--cc", help="Copy; repeatable.")]
_Bcc = Annotated[list[str] | None, typer.Option("--bcc", help="Hidden copy; repeatable.")]
_Attach = Annotated[list[Path] | None, typer.Option("--attach", exists=True, dir_okay=False, help="File; repeatable.")]


def send(
    *,
    tenant: Annotated[str | None, typer.Option(help="Whose mail it is.")] = None,
    to: _To = None,
    cc: _Cc = None,
    bcc: _Bcc = None,
    subject: Annotated[str | None, typer.Option(help="Subject.")] = None,
    text: Annotated[str | None, typer.Option(help="Plain text; - reads standard input.")] = None,
    html: Annotated[str | None, typer.Option(help="HTML.")] = None,
    attach: _Attach = None,
    sender: Annotated[str | None, typer.Option("--from", help="Sender; default: the mailbox's address.")] = None,
    mailbox: Annotated[str | None, typer.Option(help="Send through this mailbox and no other.")] = None,
    category: Annotated[str, typer.Option(help="Purpose of the mail.")] = "notification",
    notification_id: Annotated[str | None, typer.Option("--id", help="Idempotency key; default: a new one.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Take the whole notification from a JSON file; - is standard input.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the final result.")] = 60,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON, one a line.")] = False,
) -> None:
    """Publish one notification and show what came of it.

    Exit status: 0 accepted or handed over, 1 anything else, 2 wrong usage, 3 no final result in time.
    """
    from worker import settings

    if file is not None:
        notification = _checked(_read(str(file)))
    else:
        missing = [name for name, value in (("--tenant", tenant), ("--to", to), ("--subject", subject)) if not value]
        if missing:
            raise typer.BadParameter(f"give {', '.join(missing)}, or --file")
        fields = {
            "type": "postlane.notification.v1",
            "id": notification_id or f"cli-{uuid.uuid4()}",
            "tenant": tenant,
            "category": category,
            "mailbox": mailbox,
            "from": sender,
            "to": to,
            "cc": cc or [],
            "bcc": bcc or [],
            "subject": subject,
            "text": _read("-") if text == "-" else text,
            "html": html,
            "attachments": [_attached(path) for path in attach or []],
        }
        notification = _checked({name: value for name, value in fields.items() if value is not None})
    raise typer.Exit(asyncio.run(_send(settings.load(), notification, timeout if wait else None, as_json=as_json)))


async def _send(settings: Settings, notification: Notification, timeout: float | None, *, as_json: bool) -> int:
    from contracts.publisher import NotPublished, publisher
    from worker import bootstrap
    from worker.broker.connection import BROKEN, explained

    def show(result: Result) -> None:
        typer.echo(result.model_dump_json(exclude_none=True) if as_json else line(result))

    url = settings.broker.url.get_secret_value()
    try:
        async with publisher(url, prefix=settings.broker.prefix) as post:
            if timeout is None:
                await post.publish(notification)
                if not as_json:
                    typer.echo(f"published  {notification.id}")
                return 0
            final = await post.send(notification, timeout, show)
            return 0 if final.status in _WELL else 1
    except TimeoutError:
        typer.secho(
            f"No final result within {timeout:g} s. The notification {notification.id} stays with Postlane; "
            "is a worker running?",
            fg="yellow",
            err=True,
        )
        return _NO_ANSWER
    except NotPublished as error:
        raise Unusable(f"Not published: {error}") from error
    except BROKEN as error:
        raise Unusable(explained(error, bootstrap.broker_address(settings))) from error


def line(result: Result) -> str:
    """A result for people."""
    mailbox = f"  via {result.mailbox.name} ({result.mailbox.because})" if result.mailbox else ""
    reply = f"  {result.server_reply}" if result.server_reply else ""
    lines = [f"{result.status}  {result.notification_id}{mailbox}{reply}"]
    if result.next_attempt_at is not None:
        lines.append(f"  next attempt {result.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC")
    if result.reason is not None:
        lines += [f"  {text}" for text in (result.reason.explanation, result.reason.remedy) if text]
    lines += [
        f"  {item.address}: {item.status} {item.code or ''} {item.enhanced or ''} {item.text}".rstrip()
        for item in result.recipients
        if item.status not in _WELL
    ]
    return "\n".join(lines)


def _checked(fields: str | dict[str, Any]) -> Notification:
    import json

    from contracts.cancellation import Cancellation
    from contracts.wire import Malformed, Properties, decode

    body = fields if isinstance(fields, str) else json.dumps(fields)
    decoded = decode(body.encode(), Properties(), max_octets=1 << 30)
    if isinstance(decoded, Malformed):
        problems = "; ".join(f"{item.field} {item.problem}" for item in decoded.problems)
        raise typer.BadParameter(f"not a valid notification: {problems}")
    if isinstance(decoded, Cancellation):
        raise typer.BadParameter("this is a cancellation: postlane cancel ID --tenant TENANT")
    return decoded


def _read(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")


def _attached(path: Path) -> dict[str, str]:
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    content = base64.b64encode(path.read_bytes()).decode()
    return {"filename": path.name, "content_type": guessed, "content": content}
