"""What the demo shows on the terminal."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts.delivery import DeliveryStatus, Result
from worker.demo.stage import Performance, Played

_HEADERS = ("From", "To", "Reply-To", "Subject", "Date", "Message-ID")

_NEXT = """\
Next, with a real mailbox:
  1. Write a mailboxes file; for Office 365 it needs a mailbox, a tenant id, a client id and a client secret
     (README, section "Connect an Office 365 mailbox", has the clicks and the PowerShell lines).
  2. export AMQP_URL=amqp://…  POSTLANE_MAILBOXES__FILE=./mailboxes.toml
     postlane topology apply      creates exchanges and queues
     postlane check               goes the whole way to the mailbox and sends nothing
     postlane run                 works
     postlane send --tenant contoso --to you@contoso.com --subject Hello --text Hello
"""


def show(performance: Performance, console: Console) -> None:
    """The table, where the mails lie, one mail, and what to do next."""
    console.print(_table(performance.played))
    console.print(
        f"{performance.dead_letters} messages lie in the dead-letter queue with their reason; "
        f"the token endpoint was asked {performance.token_requests} time(s).\n"
    )
    console.print(f"Mails that the servers accepted:  {performance.mails}", highlight=False, soft_wrap=True)
    console.print(f"Mails in the pickup directory:    {performance.pickup}\n", highlight=False, soft_wrap=True)
    for path in sorted(performance.pickup.glob("*.eml"))[:1]:
        console.print("One of them, as a mail program shows it:", style="bold")
        for line in rendered(path):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(_NEXT, highlight=False, markup=False, soft_wrap=True)


def rendered(path: Path) -> Iterator[str]:
    """A mail, read by the standard library: what we wrote must be what others read."""
    mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    for name in _HEADERS:
        if mail[name]:
            yield f"{name}: {mail[name]}"
    body = mail.get_body(("plain", "html"))
    yield ""
    yield from (body.get_content().splitlines() if body else ())


def _table(played: tuple[Played, ...]) -> Table:
    table = Table("", "notification", "mailbox, and why", "status", "reply or reason", "ms", title="What came of it")
    for item in played:
        mark = "[green]✓[/]" if item.well else "[red]✗[/]"
        result = item.result
        if result is None:
            table.add_row(mark, item.scene.title, "", "[red]no result[/]", "", "")
            continue
        mailbox = f"{result.mailbox.name} ({result.mailbox.because})" if result.mailbox else "none"
        said = escape(_said(result))
        table.add_row(mark, item.scene.title, mailbox, str(result.status), said, f"{item.seconds * 1000:.0f}")
    return table


def _said(result: Result) -> str:
    if result.status is DeliveryStatus.HANDED_OVER:
        return "lies in the pickup directory"
    if result.server_reply:
        return result.server_reply
    return result.reason.explanation if result.reason else ""
