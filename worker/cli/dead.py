"""`postlane dead`: what was refused or given up, and what to do with it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.actor import actor
from worker.unusable import Unusable

if TYPE_CHECKING:
    from worker.broker.dead import DeadLetters, Letter
    from worker.domain.replay import Correction
    from worker.ports import Register
    from worker.settings import Settings

app = typer.Typer(help="Look through dead letters, correct them, send them again.", no_args_is_help=True)

_Names = Annotated[
    list[str] | None, typer.Argument(metavar="[LETTER]...", help="Letters by the name that `list` shows.")
]
_Id = Annotated[str | None, typer.Option("--id", help="Only this notification.")]
_Cause = Annotated[str | None, typer.Option(help="Only this class of reason, such as auth-config.")]
_Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]
_Mailbox = Annotated[str | None, typer.Option(help="Only what was last tried with this mailbox.")]
_Older = Annotated[str | None, typer.Option(help="Only older than this, such as 30m, 12h or 7d.")]
_Newer = Annotated[str | None, typer.Option(help="Only newer than this, such as 30m, 12h or 7d.")]
_All = Annotated[bool, typer.Option("--all", help="Every letter that the filters let through.")]
_Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@dataclass(frozen=True, slots=True)
class _Filter:
    names: frozenset[str]
    notification_id: str | None
    cause: str | None
    tenant: str | None
    mailbox: str | None
    before: datetime | None
    after: datetime | None

    def lets_through(self, letter: Letter) -> bool:
        fields = _fields(letter)
        died_at = letter.died_at or datetime.min.replace(tzinfo=UTC)
        return (
            (not self.names or letter.name in self.names)
            and self.notification_id in (None, fields["id"])
            and self.cause in (None, letter.reason)
            and (self.tenant is None or str(fields["tenant"] or "").lower() == self.tenant.lower())
            and self.mailbox in (None, letter.mailbox)
            and (self.before is None or died_at <= self.before)
            and (self.after is None or died_at >= self.after)
        )


@app.command("list")
def list_(
    *,
    notification_id: _Id = None,
    cause: _Cause = None,
    tenant: _Tenant = None,
    mailbox: _Mailbox = None,
    older: _Older = None,
    newer: _Newer = None,
    as_json: _Json = False,
) -> None:
    """Show what lies there: which notification, whose, why, since when."""
    wanted = _filter((), notification_id, cause, tenant, mailbox, older, newer)
    rows: list[dict[str, Any]] = []

    async def note(letter: Letter, _letters: DeadLetters) -> None:
        rows.append(_row(letter))

    _each(wanted, note)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("letter", "notification", "tenant", "why", "mailbox", "since")
    for row in rows:
        table.add_row(*(str(row[name] or "") for name in ("letter", "id", "tenant", "reason", "mailbox", "died_at")))
    Console().print(table if rows else "No dead letters.")


@app.command("show")
def show(name: Annotated[str, typer.Argument(metavar="LETTER", help="Its name, as `list` shows it.")]) -> None:
    """Show one letter: the reason in full, and the message as its producer sent it."""
    found: list[Letter] = []

    async def note(letter: Letter, _letters: DeadLetters) -> None:
        found.append(letter)

    _each(_filter((name,)), note)
    if not found:
        raise Unusable(f"There is no dead letter {name}.")
    letter = found[0]
    for label, value in _row(letter).items():
        typer.echo(f"{label:12} {value if value is not None else ''}")
    typer.echo(f"{'explanation':12} {letter.explanation}\n")
    typer.echo(letter.body.decode("utf-8", "replace"))


@app.command("replay")
def replay(
    names: _Names = None,
    *,
    everything: _All = False,
    notification_id: _Id = None,
    cause: _Cause = None,
    tenant: _Tenant = None,
    mailbox: _Mailbox = None,
    older: _Older = None,
    newer: _Newer = None,
    through: Annotated[str | None, typer.Option(help="Send it through this mailbox this time.")] = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW: correct a recipient's address; repeatable.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The corrected message, for a single letter.")
    ] = None,
    even_in_doubt: Annotated[
        bool, typer.Option("--even-in-doubt", help="Also to those who may have the mail already.")
    ] = False,
    per_minute: Annotated[int, typer.Option(min=1, help="No more than so many a minute.")] = 600,
) -> None:
    """Send letters on their way again, to those who have no mail yet, as if they were new.

    Who has the mail does not get it again; what has expired is left where it is, and so is what may have been accepted.
    Exit status: 0 all were replayed, 1 some were not (each is named with the reason), 2 wrong usage.
    """
    from worker.domain.replay import Correction

    if file is not None and (everything or len(names or ()) != 1):
        raise typer.BadParameter("--file corrects one letter: name it")
    pairs = [pair.partition("=") for pair in recipient or ()]
    if any(not (old and new) for old, _, new in pairs):
        raise typer.BadParameter("give --recipient as OLD=NEW")
    correction = Correction(
        through, {old.lower(): new for old, _, new in pairs}, file.read_bytes() if file is not None else None
    )
    wanted = _filter(names or (), notification_id, cause, tenant, mailbox, older, newer)
    _check_chosen(wanted, everything=everything)
    raise typer.Exit(_replay(wanted, correction, even_in_doubt=even_in_doubt, pause=60 / per_minute))


@app.command("discard")
def discard(
    names: _Names = None,
    *,
    everything: _All = False,
    notification_id: _Id = None,
    cause: _Cause = None,
    tenant: _Tenant = None,
    mailbox: _Mailbox = None,
    older: _Older = None,
    newer: _Newer = None,
) -> None:
    """Throw letters away for good. Each leaves a line in the audit trail."""
    wanted = _filter(names or (), notification_id, cause, tenant, mailbox, older, newer)
    _check_chosen(wanted, everything=everything)

    async def throw_away(letter: Letter, letters: DeadLetters, register: Register) -> bool:
        await letters.discard(letter)
        await register.note(actor(), "discard", _subject(letter), letter.reason)
        typer.echo(f"discarded  {letter.name}  {_subject(letter)}")
        return True

    raise typer.Exit(_with_register(wanted, throw_away))


def _replay(wanted: _Filter, correction: Correction, *, even_in_doubt: bool, pause: float) -> int:
    from worker.courier import digest
    from worker.domain.carry import pack
    from worker.domain.delivery import Key
    from worker.domain.replay import Unfit, prepare

    async def send_again(letter: Letter, letters: DeadLetters, register: Register) -> bool:
        fields = _fields(letter)
        key = Key(str(fields["tenant"] or "").lower(), str(fields["id"] or ""))
        prepared = prepare(
            letter.body,
            letter.properties,
            await register.find(key),
            correction,
            datetime.now(UTC),
            carry=letter.carry,
            even_in_doubt=even_in_doubt,
        )
        if isinstance(prepared, Unfit):
            typer.secho(f"left alone  {letter.name}  {key}: {prepared.why}", fg="yellow")
            return False
        notification = prepared.notification
        key = Key(notification.tenant.lower(), notification.id)
        if not await register.reopen(key, digest(notification), prepared.progress, actor()):
            typer.secho(f"left alone  {letter.name}  {key}: it is being sent right now", fg="yellow")
            return False
        await letters.replay(letter, prepared.body, pack(prepared.progress, notification))
        typer.echo(f"replayed  {letter.name}  {key}")
        await asyncio.sleep(pause)
        return True

    return _with_register(wanted, send_again)


def _with_register(wanted: _Filter, treat: Callable[[Letter, DeadLetters, Register], Awaitable[bool]]) -> int:
    """Treat every letter that was chosen; 1 if one of them was left alone or none was there."""
    from worker import bootstrap, settings

    loaded = settings.load()
    treated: list[bool] = []

    async def run() -> None:
        async with bootstrap.store(loaded) as store:

            async def one(letter: Letter, letters: DeadLetters) -> None:
                treated.append(await treat(letter, letters, store))

            await _look_through(loaded, wanted, one)

    _with_broker(run())
    if not treated:
        typer.secho("No dead letter matches.", fg="yellow", err=True)
    return 0 if treated and all(treated) else 1


def _each(wanted: _Filter, treat: Callable[[Letter, DeadLetters], Awaitable[None]]) -> None:
    from worker import settings

    _with_broker(_look_through(settings.load(), wanted, treat))


async def _look_through(
    loaded: Settings, wanted: _Filter, treat: Callable[[Letter, DeadLetters], Awaitable[None]]
) -> None:
    from worker import bootstrap
    from worker.broker.dead import dead_letters

    async with dead_letters(bootstrap.broker_address(loaded), bootstrap.topology(loaded)) as letters:
        async for letter in letters:
            if wanted.lets_through(letter):
                await treat(letter, letters)


def _with_broker(work: Awaitable[None]) -> None:
    from worker.cli.broker import with_broker

    with_broker(work)


def _check_chosen(wanted: _Filter, *, everything: bool) -> None:
    """A forgotten filter must not empty the queue."""
    given = (wanted.notification_id, wanted.cause, wanted.tenant, wanted.mailbox, wanted.before, wanted.after)
    if not wanted.names and not everything and not any(given):
        raise typer.BadParameter("name letters, give a filter, or say --all")


def _filter(
    names: list[str] | tuple[str, ...],
    notification_id: str | None = None,
    cause: str | None = None,
    tenant: str | None = None,
    mailbox: str | None = None,
    older: str | None = None,
    newer: str | None = None,
) -> _Filter:
    now = datetime.now(UTC)
    before = now - _duration(older) if older else None
    after = now - _duration(newer) if newer else None
    return _Filter(frozenset(names), notification_id, cause, tenant, mailbox, before, after)


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise typer.BadParameter("write a time as 30m, 12h or 7d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
    return timedelta(**{unit: int(found[1])})


def _row(letter: Letter) -> dict[str, Any]:
    fields = _fields(letter)
    return {
        "letter": letter.name,
        "id": fields["id"],
        "tenant": fields["tenant"],
        "reason": letter.reason,
        "mailbox": letter.mailbox,
        "died_at": letter.died_at.isoformat(timespec="seconds") if letter.died_at else None,
        "producer": letter.properties.user_id,
        "octets": len(letter.body),
    }


def _fields(letter: Letter) -> dict[str, Any]:
    """What can be read of the body, valid or not."""
    try:
        document = json.loads(letter.body)
    except (ValueError, RecursionError):
        document = {}
    wrapped = isinstance(document, dict) and "specversion" in document  # a CloudEvent
    inner = document.get("data") if wrapped else document
    found = inner if isinstance(inner, dict) else {}
    return {"id": found.get("id") or letter.properties.message_id, "tenant": found.get("tenant")}


def _subject(letter: Letter) -> str:
    fields = _fields(letter)
    return f"{fields['tenant'] or '-'}/{fields['id'] or letter.name}"
