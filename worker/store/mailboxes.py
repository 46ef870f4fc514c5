"""Mailboxes in the store: changed at run time, their secrets sealed, every change with its line in the audit trail."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Connection, Table, Update, delete, func, select, update

from worker.domain.sharing import senders_of
from worker.domain.verdict import Verdict
from worker.sealing import Sealed
from worker.store.database import Database
from worker.store.schema import (
    audit,
    database_now,
    kept_mailbox,
    kept_part,
    kept_secret,
    mailbox,
    mailbox_change,
    mailbox_pause,
)

T = TypeVar("T")

_verdicts: TypeAdapter[Verdict] = TypeAdapter(Verdict)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class Entry:
    """A mailbox that is kept here.

    Attributes:
        document: its keys as in the mailboxes file; a secret that is kept apart is None.
        secrets: key → sealed secret.
        revision: grows with every change of it.
        changed_by: login or name of the API token.
    """

    name: str
    document: Mapping[str, Any]
    secrets: Mapping[str, Sealed] = field(repr=False)
    revision: int
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True)
class KeptPart:
    """A scope, a producer, or the editable keys of a mailbox of the file's.

    Attributes:
        name: see `worker.domain.part`.
        document: its keys as in the mailboxes file.
    """

    name: str
    document: Mapping[str, Any]
    revision: int
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause by hand.

    Attributes:
        until: None: until somebody ends it.
    """

    mailbox: str
    until: datetime | None
    because: str
    by: str


@dataclass(frozen=True, slots=True)
class Rest:
    """A mailbox, or something that it shares with others, rests because of a fault.

    Attributes:
        what: the mailbox's name, or one of `worker.domain.sharing`.
    """

    what: str
    until: datetime
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that is kept, as of one moment.

    Attributes:
        number: of the latest change.
        pauses: those that last.
        rests: likewise.
    """

    number: int
    entries: tuple[Entry, ...]
    pauses: tuple[Pause, ...]
    rests: tuple[Rest, ...] = ()
    parts: tuple[KeptPart, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the audit trail; `at` is None until it is written."""

    actor: str
    action: str
    subject: str
    detail: str = ""
    at: datetime | None = None


class Stale(Exception):  # noqa: N818 - what happened
    """Somebody else has changed, made or removed it meanwhile: nothing was done."""


class SqlMailboxes:
    """What is kept about mailboxes."""

    def __init__(self, database: Database) -> None:
        """Touch nothing yet."""
        self._database = database

    async def close(self) -> None:
        """Hang up."""
        await self._database.close()

    async def number(self) -> tuple[int, datetime]:
        """The number of the latest change, and the database's time.

        Raises:
            StoreDown: it cannot be had.
        """
        found = await self._database.run(
            lambda each: each.execute(select(mailbox_change.c.number, database_now())).one()
        )
        return int(found[0]), _moment(int(found[1]))

    async def contents(self) -> Contents:
        """Everything.

        Raises:
            StoreDown: it cannot be had.
        """
        return await self._database.run(_contents)

    async def put(
        self,
        name: str,
        document: Mapping[str, Any],
        line: Line,
        *,
        expected: int | None,
        seal: Mapping[str, Sealed],
        keep: Collection[str] = (),
        mended: bool = False,
    ) -> int:
        """Make or change a mailbox.

        Args:
            name: its name.
            document: without secrets.
            line: for the audit trail.
            expected: its revision; None: it does not exist yet, by whatever capital letters.
            seal: new secrets.
            keep: secrets that stay; all others are removed.
            mended: what its server or authority did not like may be over: if it rests, it is tried again at once.

        Returns:
            Its new revision.

        Raises:
            Stale: it is not as expected.
        """

        def work(connection: Connection) -> int:
            same = func.lower(kept_mailbox.c.name) == name.lower()
            revision = _put(connection, kept_mailbox, name, document, line.actor, expected, same)
            stay = set(keep) - seal.keys()
            secret = kept_secret.c
            connection.execute(delete(kept_secret).where(secret.mailbox == name, secret.field.not_in(stay)))
            for place, sealed in seal.items():
                connection.execute(kept_secret.insert().values(mailbox=name, field=place, **_columns(sealed)))
            if mended:
                connection.execute(_tried_again(name))
            return revision

        return await self._written(work, line)

    async def remove(self, name: str, line: Line, *, expected: int) -> None:
        """Remove a mailbox with its secrets and its pause.

        Raises:
            Stale: it is not as expected.
        """

        def work(connection: Connection) -> None:
            _taken_out(connection, kept_mailbox, name, expected)
            connection.execute(delete(kept_secret).where(kept_secret.c.mailbox == name))
            connection.execute(delete(mailbox_pause).where(mailbox_pause.c.mailbox == name))

        await self._written(work, line)

    async def put_part(
        self, name: str, document: Mapping[str, Any], line: Line, *, expected: int | None, mended: str | None = None
    ) -> int:
        """Make or change a part.

        Args:
            name: its name.
            document: its keys as in the mailboxes file.
            line: for the audit trail.
            expected: its revision; None: it does not exist yet.
            mended: the mailbox that is to be tried again at once if it rests.

        Returns:
            Its new revision.

        Raises:
            Stale: it is not as expected.
        """

        def work(connection: Connection) -> int:
            revision = _put(connection, kept_part, name, document, line.actor, expected, kept_part.c.name == name)
            if mended is not None:
                connection.execute(_tried_again(mended))
            return revision

        return await self._written(work, line)

    async def remove_part(self, name: str, line: Line, *, expected: int) -> None:
        """Remove a part; what the file says about it holds alone.

        Raises:
            Stale: it is not as expected.
        """
        await self._written(lambda connection: _taken_out(connection, kept_part, name, expected), line)

    async def pause(self, name: str, because: str, line: Line, lasting: timedelta | None = None) -> None:
        """Pause a mailbox, for a time or until somebody ends it; a pause that lasts is replaced."""
        until = None if lasting is None else database_now() + int(lasting / _MICROSECOND)

        def work(connection: Connection) -> None:
            connection.execute(delete(mailbox_pause).where(mailbox_pause.c.mailbox == name))
            values = {"mailbox": name, "because": because, "paused_by": line.actor}
            connection.execute(mailbox_pause.insert().values(until=until, **values))

        await self._written(work, line)

    async def resume(self, name: str, line: Line, shared: Collection[str] = ()) -> bool:
        """End a pause by hand, and let one attempt find out whether a fault is over, its own or a shared one.

        Args:
            name: of the mailbox.
            line: for the audit trail.
            shared: what it shares with others.

        Returns:
            Whether it was paused.
        """

        def work(connection: Connection) -> bool:
            connection.execute(_tried_again(name, shared))
            return bool(connection.execute(delete(mailbox_pause).where(mailbox_pause.c.mailbox == name)).rowcount)

        return await self._written(work, line)

    async def reseal(
        self, newest: str, anew: Callable[[str, str, Sealed], Sealed | None], actor: str
    ) -> tuple[int, int]:
        """Seal every secret anew that is not under the newest key.

        Args:
            newest: the key's id.
            anew: mailbox, key and sealed secret → sealed under the newest key; None: it cannot be opened.
            actor: for the audit trail.

        Returns:
            How many were sealed anew, and how many cannot be opened.
        """

        def work(connection: Connection) -> tuple[int, int]:
            row = kept_secret.c
            done = lost = 0
            for found in connection.execute(select(kept_secret).where(row.key_id != newest)).all():
                sealed = anew(found.mailbox, found.field, Sealed(found.key_id, found.nonce, found.ciphertext))
                if sealed is None:
                    lost += 1
                    continue
                one = update(kept_secret).where(row.mailbox == found.mailbox, row.field == found.field)
                connection.execute(one.values(**_columns(sealed)))
                done += 1
            return done, lost

        return await self._written(work, Line(actor, "secret rotate", "all mailboxes", f"to key {newest}"))

    async def audit(self, limit: int, before: int | None = None) -> Sequence[tuple[int, Line]]:
        """The latest lines of the audit trail with their numbers, the newest first; `before` goes on from there."""
        row = audit.c
        wanted = select(audit).order_by(row.number.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(row.number < before)
        found = await self._database.run(lambda connection: connection.execute(wanted).all())
        return [
            (each.number, Line(each.actor, each.action, each.subject, each.detail, _moment(each.at))) for each in found
        ]

    async def note(self, line: Line) -> None:
        """Write a line into the audit trail."""
        await self._database.run(lambda connection: _note(connection, line))

    async def _written(self, work: Callable[[Connection], T], line: Line) -> T:
        def whole(connection: Connection) -> T:
            # First: its lock keeps other writers out, so that what is checked below stays true.
            connection.execute(update(mailbox_change).values(number=mailbox_change.c.number + 1))
            answer = work(connection)
            _note(connection, line)
            return answer

        return await self._database.run(whole)


def _put(
    connection: Connection,
    table: Table,
    name: str,
    document: Mapping[str, Any],
    actor: str,
    expected: int | None,
    same: ColumnElement[bool],
) -> int:
    """Make a row, if there is none that is the same, or change the one of the expected revision. Returns the new one.

    Raises:
        Stale: it is not as expected.
    """
    values = {
        "document": json.dumps(document, ensure_ascii=False, sort_keys=True),
        "changed_at": database_now(),
        "changed_by": actor,
    }
    if expected is None:
        if connection.scalar(select(table.c.name).where(same)) is not None:
            raise Stale
        connection.execute(table.insert().values(name=name, revision=1, **values))
        return 1
    changed = update(table).where(table.c.name == name, table.c.revision == expected)
    if connection.execute(changed.values(revision=expected + 1, **values)).rowcount != 1:
        raise Stale
    return expected + 1


def _taken_out(connection: Connection, table: Table, name: str, expected: int) -> None:
    gone = delete(table).where(table.c.name == name, table.c.revision == expected)
    if connection.execute(gone).rowcount != 1:
        raise Stale


def _contents(connection: Connection) -> Contents:
    number = connection.scalar(select(mailbox_change.c.number)) or 0
    secrets: dict[str, dict[str, Sealed]] = {}
    for found in connection.execute(select(kept_secret)):
        sealed = Sealed(found.key_id, bytes(found.nonce), bytes(found.ciphertext))
        secrets.setdefault(found.mailbox, {})[found.field] = sealed
    entries = tuple(
        Entry(
            each.name,
            json.loads(each.document),
            secrets.get(each.name, {}),
            each.revision,
            _moment(each.changed_at),
            each.changed_by,
        )
        for each in connection.execute(select(kept_mailbox).order_by(kept_mailbox.c.name))
    )
    row = mailbox_pause.c
    lasting = select(mailbox_pause).where(row.until.is_(None) | (row.until > database_now())).order_by(row.mailbox)
    pauses = tuple(
        Pause(each.mailbox, None if each.until is None else _moment(each.until), each.because, each.paused_by)
        for each in connection.execute(lasting)
    )
    resting = select(mailbox.c.name, mailbox.c.paused_until, mailbox.c.verdict)
    resting = resting.where(mailbox.c.paused_until > database_now()).order_by(mailbox.c.name)
    rests = tuple(
        Rest(each.name, _moment(each.paused_until), _verdicts.validate_json(each.verdict))
        for each in connection.execute(resting)
    )
    parts = tuple(
        KeptPart(each.name, json.loads(each.document), each.revision, _moment(each.changed_at), each.changed_by)
        for each in connection.execute(select(kept_part).order_by(kept_part.c.name))
    )
    return Contents(number, entries, pauses, rests, parts)


def _tried_again(name: str, shared: Collection[str] = ()) -> Update:
    """The gate's rests are over at once: like at their end, one attempt goes ahead of the others."""
    its_own = mailbox.c.name.in_([name, *shared]) | mailbox.c.name.startswith(senders_of(name), autoescape=True)
    resting = update(mailbox).where(its_own, mailbox.c.paused_until.is_not(None))
    return resting.values(paused_until=0, probing_until=None)


def _columns(sealed: Sealed) -> dict[str, Any]:
    return {"key_id": sealed.key_id, "nonce": sealed.nonce, "ciphertext": sealed.ciphertext}


def _note(connection: Connection, line: Line) -> None:
    words = {"actor": line.actor, "action": line.action, "subject": line.subject, "detail": line.detail}
    connection.execute(audit.insert().values(at=database_now(), **words))


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / _SECOND, UTC)
