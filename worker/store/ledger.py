"""Ledger, outbox and register in SQL: what pages become is decided in `page.py`, here they are read and written.

One transaction serves many operations (`batch.py`): it locks their pages in the order of their keys, lets each
operation decide in turn, and writes what has changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Text, and_, bindparam, case, delete, func, null, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from contracts.delivery import DeliveryStatus, Result
from worker.domain.delivery import Key, Progress
from worker.ports import (
    Claim,
    Claimed,
    Doubt,
    Doubtful,
    Finished,
    Recalled,
    Settlement,
    StoreDown,
    Underway,
    Unpublished,
)
from worker.store import page as pages
from worker.store import record
from worker.store.batch import Batches
from worker.store.database import Conflict, ConnectionLost, Database
from worker.store.life import Life
from worker.store.page import Due, Page, Stage, Standpoint
from worker.store.schema import audit, database_now, notification, worker

_SECOND = 1_000_000  # microseconds
_PUBLISHER_HAS = 10 * _SECOND  # for publishing what it has settled
_LEASE = 30 * _SECOND  # of a result that was left behind, for whoever publishes it in its place
_TOGETHER = 0.05  # seconds that a confirmed result may wait for company
_AT_ONCE = 200  # results that one worker takes from the outbox
_SWEEP_EVERY = 600.0  # seconds
_BETWEEN_SWEEPS = 0.1
_SWEPT = 500  # rows in one transaction
_TRIES = 4
_UNSURE = 60.0  # seconds that a claim of which nothing was heard may yet turn up in the database
_DEAD_WORKERS_KEPT = 24 * 3600 * _SECOND

T = TypeVar("T")
Decide = Callable[[Page | None, Standpoint], tuple[Any, Page | None]]


@dataclass(slots=True, eq=False)
class _Operation:
    """One thing to be done.

    Attributes:
        key: whose page it is about; None if it is about none.
        decide: from a page to an answer and a new page.
        unseen: the answer and the page for a notification that nobody has seen before.
        line: for the audit trail, if the answer is true.
    """

    key: Key | None
    decide: Decide
    answer: asyncio.Future[Any]
    unseen: tuple[Any, Page] | None = None
    line: Mapping[str, str] | None = None
    patient: bool = False
    repeated: bool = False


class SqlLedger:
    """The ports `Ledger`, `Outbox` and `Register`."""

    def __init__(self, database: Database, life: Life, retention: timedelta) -> None:
        """Touch nothing yet.

        Args:
            database: where.
            life: of this worker.
            retention: how long finished notifications are remembered.
        """
        self._database = database
        self._life = life
        self._me = life.me
        self._retention = retention
        self._batches = Batches(self._carry_out)
        self._held: dict[Key, int] = {}
        self._unsure: dict[Key, float] = {}  # claims that may have been written though nobody was told; until when
        self._chores: list[asyncio.Task[None]] = []
        dialect = sqlite if database.sqlite else postgresql
        self._insert = dialect.insert(notification).on_conflict_do_nothing().returning(
            notification.c.tenant, notification.c.id
        )  # fmt: skip
        self._select = _by_keys(sqlite=database.sqlite)

    async def close(self) -> None:
        """Write what is left to be written."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._batches.close()

    # Ledger

    async def claim(self, key: Key, digest: str, progress: Progress, now: datetime) -> Claim:
        """Take it, unless it was finished, is being sent, or is another notification under the same id."""
        self._live()

        def decide(page: Page | None, view: Standpoint) -> tuple[Claim, Page | None]:
            if page is None:
                raise _Vanished
            return pages.claim(page, digest, progress, now, view)

        unseen = Claimed(key, progress, 1), pages.first(key, digest, progress, self._me)
        answer: Claim = await self._taken(key, self._asked(key, decide, unseen=unseen))
        return answer

    async def handing_over(self, claimed: Claimed) -> bool:
        """Mark it, if it is still ours."""
        return await self._do(claimed.key, lambda page, view: pages.mark(page, claimed, view))

    async def settle(self, claimed: Claimed, settlement: Settlement) -> tuple[Result, ...] | None:
        """Give it back. Waits until the store is there."""
        operation = self._asked(claimed.key, lambda page, view: pages.settle(
            page, claimed.epoch, settlement, view, repeated=operation.repeated
        ), patient=True)  # fmt: skip
        try:
            results: tuple[Result, ...] | None = await operation.answer
        finally:
            if self._held.get(claimed.key) == claimed.epoch:
                del self._held[claimed.key]
        return results

    async def recall(self, key: Key, now: datetime) -> Recalled | Finished | Underway:
        """Take it in order to cancel it; an id that was never seen is taken as well, so that it cannot come later."""
        self._live()

        def decide(page: Page | None, view: Standpoint) -> tuple[Recalled | Finished | Underway, Page | None]:
            if page is None:
                raise _Vanished
            return pages.recall(page, now, view)

        progress = Progress(first_seen=now)
        unseen = Recalled(Claimed(key, progress, 1), None), pages.first(key, "", progress, self._me)
        answer: Recalled | Finished | Underway = await self._taken(key, self._asked(key, decide, unseen=unseen))
        return answer

    # Outbox

    async def ready(self) -> None:
        """Return if the store answers and lets us write."""
        self._live()
        self._life.due()
        await self._do(None, lambda _page, _view: (True, None))
        await self._disown()

    async def published(self, key: Key, results: Sequence[Result], *, disposed: bool) -> None:
        """Strike them off, with the next group or a moment later."""
        events = {result.event_id for result in results}

        def decide(page: Page | None, _view: Standpoint) -> tuple[None, Page | None]:
            return None, pages.published(page, events, disposed=disposed)

        operation = _Operation(key, decide, asyncio.get_running_loop().create_future(), patient=True)
        operation.answer.add_done_callback(
            lambda answer: answer.cancelled() or answer.exception()
        )  # nobody waits for it
        self._batches.put_later(operation, _TOGETHER)

    async def unpublished(self) -> Sequence[Unpublished]:
        """Take what its publisher has left behind."""
        row = notification.c
        dead = row.publisher.not_in(select(worker.c.instance).where(worker.c.seen_at > self._life.deadline()))
        left = (
            select(row.tenant, row.id, row.pending)
            .where(row.due_at.is_not(None), or_(row.due_at <= database_now(), dead))
            .order_by(row.due_at)
            .limit(_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        lease = (
            update(notification)
            .where(row.tenant == bindparam("of_tenant"), row.id == bindparam("of_id"))
            .values(publisher=self._me, due_at=database_now() + _LEASE)
        )

        def take(connection: Connection) -> Sequence[Any]:
            found = connection.execute(left).all()
            if found:
                self._life.say(connection)
                connection.execute(lease, [{"of_tenant": item.tenant, "of_id": item.id} for item in found])
            return found

        found = await self._database.run(take)
        return [
            Unpublished(Key(item.tenant, item.id), pending.result, pending.reply_to)
            for item in found
            for pending in record.pending(item.pending)
        ]

    # Register

    async def doubts(self) -> Sequence[Doubt]:
        """Open doubts, oldest first."""
        row = notification.c
        wanted = (
            select(row.tenant, row.id, row.result)
            .where(row.status == text("'in_doubt'"), row.stage == Stage.FINISHED)
            .order_by(row.finished_at, row.tenant, row.id)
        )
        found = await self._database.run(lambda connection: connection.execute(wanted).all())
        return [Doubt(Key(item.tenant, item.id), record.result(item.result)) for item in found]

    async def find(self, key: Key) -> Result | None:
        """The latest result."""
        row = notification.c
        wanted = select(row.result).where(row.tenant == key.tenant, row.id == key.notification_id)
        found = await self._database.run(lambda connection: connection.scalar(wanted))
        return record.result(found) if found else None

    async def resolve(self, key: Key, result: Result, reply_to: str | None, actor: str) -> bool:
        """Close a doubt."""
        line = _line(actor, "resolve", str(key), str(result.status))
        return await self._do(key, lambda page, _view: pages.resolve(page, result, reply_to), line=line)

    async def reopen(self, key: Key, digest: str, progress: Progress, actor: str) -> bool:
        """Let it be attempted again."""

        def decide(page: Page | None, view: Standpoint) -> tuple[bool, Page | None]:
            if page is None:
                raise _Vanished
            return pages.reopen(page, digest, progress, view)

        unseen = True, pages.waiting(key, digest, progress)
        return await self._do(key, decide, unseen=unseen, line=_line(actor, "replay", str(key), ""))

    async def note(self, actor: str, action: str, subject: str, detail: str) -> None:
        """Write a line into the audit trail."""
        await self._do(None, lambda _page, _view: (True, None), line=_line(actor, action, subject, detail))

    # the transaction

    async def _do(
        self, key: Key | None, decide: Callable[[Page | None, Standpoint], tuple[T, Page | None]], **fields: Any
    ) -> T:
        answer: T = await self._asked(key, decide, **fields).answer
        return answer

    def _asked(self, key: Key | None, decide: Decide, **fields: Any) -> _Operation:
        operation = _Operation(key, decide, asyncio.get_running_loop().create_future(), **fields)
        self._batches.put(operation)
        return operation

    async def _taken(self, key: Key, operation: _Operation) -> Any:
        """What was asked for is held from the moment in which it was written; not if nobody is there to take it."""
        try:
            return await operation.answer
        except StoreDown:
            self._unsure[key] = time.monotonic() + _UNSURE
            raise
        except asyncio.CancelledError:
            self._unsure[key] = time.monotonic() + _UNSURE
            if operation.answer.done() and not operation.answer.cancelled() and not operation.answer.exception():
                epoch = _epoch(operation.answer.result())
                if epoch is not None and self._held.get(key) == epoch:
                    del self._held[key]
            raise

    async def _disown(self) -> None:
        """Give back what may have been taken without our knowledge: to others it is under way as long as we live.

        Again and again for a while: a server that was slow may commit after we have given it up.
        """
        now = time.monotonic()
        self._unsure = {key: until for key, until in self._unsure.items() if until > now}
        await asyncio.gather(*(self._do(key, pages.disowned) for key in self._unsure))

    async def _carry_out(self, group: Sequence[_Operation]) -> None:
        try:
            done = await self._transacted_in_the_end(group)
        except StoreDown:
            raise
        except Exception as error:  # noqa: BLE001 - whoever asks the impossible must not keep the others from theirs
            if len(group) == 1:
                if not group[0].answer.done():
                    group[0].answer.set_exception(error)
                return
            for operation in group:
                await self._carry_out([operation])
            return
        for operation, answer in done:
            self._tell(operation, answer)

    async def _transacted_in_the_end(self, group: Sequence[_Operation]) -> list[tuple[_Operation, Any]]:
        """Once more where another transaction came in between, or where the connection was only an old one."""
        for _ in range(_TRIES - 1):
            try:
                return await self._database.run(lambda connection: self._transacted(group, connection))
            except (Conflict, ConnectionLost, _Vanished):
                for operation in group:
                    operation.repeated = True
        return await self._database.run(lambda connection: self._transacted(group, connection))

    def _tell(self, operation: _Operation, answer: Any) -> None:
        if operation.answer.done():
            return
        if isinstance(answer, Exception):
            operation.answer.set_exception(answer)
            return
        epoch = _epoch(answer)
        if epoch is not None and operation.key is not None:
            self._held[operation.key] = epoch
        operation.answer.set_result(answer)

    def _transacted(self, group: Sequence[_Operation], connection: Connection) -> list[tuple[_Operation, Any]]:
        self._life.keep(connection)
        new = _perhaps_unseen(group)
        seen = self._insert_unseen(connection, new)
        before = self._lock(connection, group, seen)
        view = self._standpoint(connection, before)
        fresh = {id(new[key]) for key in seen}
        now: dict[Key, Page | None] = {**before, **seen}
        done: list[tuple[_Operation, Any]] = []
        for operation in group:
            if operation.unseen and id(operation) in fresh:
                done.append((operation, operation.unseen[0]))
            else:
                done.append((operation, self._decided(operation, now, view)))
        self._write(connection, {**before, **seen}, now)
        lines = [dict(operation.line) for operation, answer in done if operation.line and answer is True]
        if lines:
            connection.execute(_AUDIT, lines)
        return done

    def _decided(self, operation: _Operation, now: dict[Key, Page | None], view: Standpoint) -> Any:
        if operation.key is None:
            return operation.decide(None, view)[0]
        try:
            answer, now[operation.key] = operation.decide(now.get(operation.key), view)
        except _Vanished:
            raise
        except Exception as error:  # noqa: BLE001 - its own affair, not its neighbours'
            return error
        return answer

    def _insert_unseen(self, connection: Connection, new: Mapping[Key, _Operation]) -> dict[Key, Page | None]:
        """Most notifications are new: a row that can be inserted needs no reading."""
        if not new:
            return {}
        unseen = {key: operation.unseen[1] for key, operation in new.items() if operation.unseen}
        inserted = connection.execute(self._insert, [_row(unseen[key]) for key in sorted(unseen, key=_order)])
        return {(key := Key(row.tenant, row.id)): unseen[key] for row in inserted}

    def _lock(
        self, connection: Connection, group: Sequence[_Operation], seen: Mapping[Key, Page | None]
    ) -> dict[Key, Page | None]:
        keys = sorted({op.key for op in group if op.key is not None and op.key not in seen}, key=_order)
        if not keys:
            return {}
        found = connection.execute(self._select, _keys(keys, sqlite=self._database.sqlite))
        return dict.fromkeys(keys) | {(page := _page(row)).key: page for row in found}

    def _standpoint(self, connection: Connection, found: Mapping[Key, Page | None]) -> Standpoint:
        """Whether others are alive is asked only when it matters, and after their pages are locked."""
        others = {page.owner for page in found.values() if page and page.underway and page.owner != self._me}
        alive: set[str] = set()
        if others:
            wanted = select(worker.c.instance).where(
                worker.c.instance.in_(others), worker.c.seen_at > self._life.deadline()
            )  # fmt: skip
            alive = set(connection.scalars(wanted))

        def busy(page: Page) -> bool:
            if page.owner == self._me:
                return self._held.get(page.key) == page.epoch or found.get(page.key) is not page  # taken just now
            return page.owner in alive

        return Standpoint(self._me, busy)

    def _write(self, connection: Connection, before: Mapping[Key, Page | None], now: Mapping[Key, Page | None]) -> None:
        marked, changed, gone = [], [], []
        touched = [(key, page) for key, page in now.items() if page is not before[key]]
        for key, new in sorted(touched, key=lambda item: _order(item[0])):
            old = before[key]
            if new is None:
                gone.append({"of_tenant": key.tenant, "of_id": key.notification_id})
            elif old is not None and new.only_marked_since(old):
                marked.append({
                    "of_tenant": key.tenant, "of_id": key.notification_id,
                    "new_stage": new.stage, "new_unwanted": new.unwanted,
                })  # fmt: skip
            else:
                changed.append(_change(new, self._me))
        if marked:
            connection.execute(_MARK, marked)
        if changed:
            connection.execute(_UPDATE, changed)
        if gone:
            connection.execute(_DELETE, gone)

    # chores

    def _live(self) -> None:
        if not self._chores:
            self._chores = [asyncio.create_task(self._beat()), asyncio.create_task(self._sweep())]

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._life.lease / 4)
            try:
                await self._do(None, lambda _page, _view: (True, None))
                await self._disown()
            except StoreDown:
                continue  # whoever needs it will be told

    async def _sweep(self) -> None:
        while True:
            try:
                swept = await self.swept()
            except (StoreDown, Conflict):
                swept = 0  # later, then
            await asyncio.sleep(_BETWEEN_SWEEPS if swept else _SWEEP_EVERY)

    async def swept(self) -> int:
        """Forget some of what is finished, told and older than the retention; open doubts are kept.

        Returns:
            How many were forgotten.
        """
        row = notification.c
        oldest = database_now() - int(self._retention / timedelta(microseconds=1))
        old = (
            select(row.tenant, row.id)
            .where(row.finished_at < oldest, row.pending.is_(null()), row.status != DeliveryStatus.IN_DOUBT)
            .limit(_SWEPT)
            .with_for_update(skip_locked=True)
        )

        def forget(connection: Connection) -> int:
            found = connection.execute(old).all()
            if found:
                connection.execute(_DELETE, [{"of_tenant": item.tenant, "of_id": item.id} for item in found])
            connection.execute(delete(worker).where(worker.c.seen_at < database_now() - _DEAD_WORKERS_KEPT))
            return len(found)

        return await self._database.run(forget)


def _perhaps_unseen(group: Sequence[_Operation]) -> dict[Key, _Operation]:
    """The first operation of each key, if it could be about something that nobody has seen before."""
    first: dict[Key, _Operation] = {}
    for operation in group:
        if operation.key is not None:
            first.setdefault(operation.key, operation)
    return {key: operation for key, operation in first.items() if operation.unseen}


class _Vanished(Exception):  # noqa: N818 - what happened
    """Its page was there when it could not be inserted, and gone when it was read: once more."""


def _by_keys(*, sqlite: bool) -> Select[Any]:
    """The rows of many keys, locked in the order of their keys."""
    row = notification.c
    if sqlite:
        keys = func.json_each(bindparam("keys", type_=Text)).table_valued("value")
        of_key: Any = and_(
            row.tenant == func.json_extract(keys.c.value, "$[0]"), row.id == func.json_extract(keys.c.value, "$[1]")
        )
    else:
        listed = (bindparam(name, type_=postgresql.ARRAY(Text)) for name in ("tenants", "ids"))
        keys = func.unnest(*listed).table_valued("tenant", "id").render_derived()
        of_key = and_(row.tenant == keys.c.tenant, row.id == keys.c.id)
    return (
        select(*(notification.c[name] for name in ("tenant", "id", *_CHANGED)))
        .join_from(keys, notification, of_key)
        .order_by(row.tenant, row.id)
        .with_for_update(of=notification)
    )


_THIS = (notification.c.tenant == bindparam("of_tenant"), notification.c.id == bindparam("of_id"))
_DELETE = delete(notification).where(*_THIS)
_MARK = update(notification).where(*_THIS).values(stage=bindparam("new_stage"), unwanted=bindparam("new_unwanted"))
_CHANGED = (
    "digest",
    "stage",
    "owner",
    "epoch",
    "unwanted",
    "told",
    "next_at",
    "progress",
    "status",
    "result",
    "pending",
)
_UPDATE = update(notification).where(*_THIS).values(
    **{name: bindparam(f"new_{name}") for name in _CHANGED},
    publisher=func.coalesce(bindparam("new_publisher"), notification.c.publisher),
    due_at=case(
        (bindparam("new_pending", type_=notification.c.pending.type).is_(null()), null()),
        else_=func.coalesce(
            database_now() + bindparam("in_time", type_=notification.c.due_at.type), notification.c.due_at
        ),
    ),
    finished_at=case(
        (bindparam("new_stage", type_=notification.c.stage.type) == Stage.FINISHED,
         func.coalesce(notification.c.finished_at, database_now())),
        else_=null(),
    ),
)  # fmt: skip
_AUDIT = audit.insert().values(at=database_now())


def _line(actor: str, action: str, subject: str, detail: str) -> dict[str, str]:
    return {"actor": actor, "action": action, "subject": subject, "detail": detail}


def _order(key: Key) -> tuple[str, str]:
    return key.tenant, key.notification_id


def _keys(keys: Sequence[Key], *, sqlite: bool) -> dict[str, Any]:
    if sqlite:
        return {"keys": record.keys_text((key.tenant, key.notification_id) for key in keys)}
    return {"tenants": [key.tenant for key in keys], "ids": [key.notification_id for key in keys]}


def _page(row: Sequence[Any]) -> Page:
    tenant, identifier, *rest = row
    digest, stage, owner, epoch, unwanted, told, *others = rest
    return Page(Key(tenant, identifier), digest, stage, owner, epoch, bool(unwanted), bool(told), *others)


def _row(page: Page) -> dict[str, Any]:
    names = ("digest", "stage", "owner", "epoch", "unwanted", "told", "progress")
    return {"tenant": page.key.tenant, "id": page.key.notification_id, **{name: getattr(page, name) for name in names}}


_IN_TIME = {Due.SAME: None, Due.LATER: _PUBLISHER_HAS, Due.NOW: 0}


def _change(page: Page, me: str) -> dict[str, Any]:
    return {
        "of_tenant": page.key.tenant,
        "of_id": page.key.notification_id,
        "in_time": _IN_TIME[page.due],
        "new_publisher": me if page.due is Due.LATER else None,
        **{f"new_{name}": getattr(page, name) for name in _CHANGED},
    }


def _epoch(answer: object) -> int | None:
    """Of the claim that the answer gives, if it gives one."""
    match answer:
        case Claimed(epoch=epoch) | Doubtful(Claimed(epoch=epoch)) | Recalled(Claimed(epoch=epoch)):
            return epoch
        case _:
            return None
