"""The gate in SQL: pauses and limits of mailboxes, as all workers together keep them.

What a mailbox without limits needs, whether it rests, is looked at twice a second for all of them. A mailbox with
limits has a row that is locked for each decision (`worker.domain.pacing` makes it), so that they hold whoever sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, select

from contracts.notification import Priority
from worker.domain import pacing
from worker.domain.mailbox import GraphEndpoint, Limits, Mailbox, fingerprint
from worker.domain.pacing import Go, Line, Pace, Request, Used
from worker.domain.verdict import Action, Scope, Verdict
from worker.ports import Admission, Demand, Full, Hold, Paced, StoreDown
from worker.store import record
from worker.store.counts import Counts
from worker.store.database import Conflict, Database
from worker.store.life import Life
from worker.store.schema import database_now, mailbox, now_of

_SECOND = 1_000_000  # microseconds
_LONGEST_PAUSE = timedelta(hours=1)
_PROBE = timedelta(seconds=60)  # a probe that has not come back by then is given up
_LOOK_AGAIN = timedelta(seconds=5)
_STORE_BACK = timedelta(seconds=5)
_LOOK_EVERY = 0.5  # seconds until a pause that another worker began, or its want of a connection, is known here
_IN_PLACE = 1.5  # seconds that a mail waits here rather than in the broker
_WANTED = 3 * _SECOND
_AWAITED = _SECOND // 2  # since urgent mail last asked for a connection; it asks four times a second
_TRIES = 5
_CONFIGURATIONS = 8
_RETRY_EVERY = 2.0  # seconds

T = TypeVar("T")
_verdicts: TypeAdapter[Verdict] = TypeAdapter(Verdict)


@dataclass(frozen=True, slots=True)
class _Rest:
    """A pause.

    Attributes:
        tried: fingerprints of the configurations that have failed since it began; one that is new is tried at once.
        known: moment of the monotonic clock, since when this worker knows of it.
    """

    until: datetime
    verdict: Verdict
    tried: frozenset[str] = frozenset()
    known: float = field(default_factory=time.monotonic, compare=False)

    def holds(self, of: Mailbox, now: datetime) -> bool:
        """Whether it holds for the mailbox as it is configured now."""
        return now < self.until and (not self.tried or fingerprint(of) in self.tried)


class SqlGate:
    """The ports `Gate` and `Permits`."""

    def __init__(
        self,
        database: Database,
        life: Life,
        window: timedelta = timedelta(minutes=1),
    ) -> None:
        """Look at nothing yet.

        Args:
            database: where.
            life: of this worker; what it has in flight ends with it.
            window: what `per_minute` means; other than a minute in tests.
        """
        self._database = database
        self._life = life
        self._window = int(window / timedelta(microseconds=1))
        self._resting: dict[str, _Rest] = {}
        self._wanted: frozenset[str] = frozenset()
        self._shares: Mapping[str, float] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self._looks_begun = False
        self._changes = 0
        self._closed = False
        self._counts = Counts(life, of_sqlite=database.sqlite)

    async def admit(self, mailbox: Mailbox, demand: Demand, now: datetime) -> Admission | Hold | Paced:
        """Let through, unless the mailbox rests, somebody tries whether it must, or its limits are used up."""
        try:
            await self._looking()
        except (StoreDown, Conflict) as error:
            return Hold(now + _STORE_BACK, _store_down(str(error)))
        rest = self._resting.get(mailbox.name)
        if rest is not None and rest.holds(mailbox, now):
            return Hold(rest.until, rest.verdict)
        if rest is None and not _counted(mailbox.limits) and mailbox.organisation is None:
            return Admission(mailbox.name, configured=mailbox)
        slot = None if demand.slot is None else demand.slot - now
        try:
            answer = await self._run(lambda connection: self._asked(connection, mailbox, demand, slot, now))
            if isinstance(answer, _Place) and answer.in_microseconds < _IN_PLACE * _SECOND:
                await asyncio.sleep(answer.in_microseconds / _SECOND)
                slot = timedelta()
                answer = await self._run(lambda connection: self._asked(connection, mailbox, demand, slot, now))
        except (StoreDown, Conflict) as error:
            return Hold(now + _STORE_BACK, _store_down(str(error)))
        if isinstance(answer, _Place):
            kind = Full if answer.long else Paced
            return kind(now + timedelta(microseconds=answer.in_microseconds), answer.verdict)
        return answer

    def resting(self, mailbox: Mailbox, now: datetime) -> Hold | None:
        """As far as it is known here."""
        rest = self._resting.get(mailbox.name)
        return Hold(rest.until, rest.verdict) if rest is not None and rest.holds(mailbox, now) else None

    def share(self, mailbox: str) -> float:
        """As far as it is known here."""
        return self._shares.get(mailbox, 1.0)

    async def paused(self, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        """Rest it; each pause without a success between is twice as long, up to an hour."""
        until = now + verdict.pause
        try:
            until = await self._run(lambda connection: self._rested(connection, admission, verdict, now))
        except (StoreDown, Conflict):
            self._later(lambda connection: self._rested(connection, admission, verdict, now))
        self._changes += 1
        before = self._resting.get(admission.mailbox)
        self._resting[admission.mailbox] = _Rest(until, verdict, _tried(before, admission))
        return until

    async def cleared(
        self, admission: Admission, *, tried: bool, accepted: int = 0, said: Verdict | None = None
    ) -> bool:
        """End the pause if this was its probe; end the mail in the window, or forget it if nothing was tried."""
        throttled = said is not None and (said.throttle or said.punished)
        if admission.ticket is None and not admission.probe and not throttled:
            return False

        def work(connection: Connection) -> bool:
            return self._ended(connection, admission, accepted, tried=tried, throttled=throttled)

        try:
            ends = await self._run(work)
        except (StoreDown, Conflict):
            self._later(work)
            return False
        if ends:
            self._changes += 1
            self._resting.pop(admission.mailbox, None)
        return ends

    async def look(self) -> None:
        """Take up what others have changed."""
        await self._look_once()

    async def effective(self, mailbox_: Mailbox) -> Limits:
        """The limits that are kept now: less than the mailbox's own for a while after its server has asked for less."""

        def factor(connection: Connection) -> float:
            found = self._counts.locked(connection, mailbox_.name, make=False)
            return 1.0 if found is None else pacing.eased(found.factor, found.throttled_at, now_of(connection))

        limits, share = mailbox_.limits, await self._run(factor)
        return replace(
            limits,
            connections=pacing.of_limit(limits.connections, share),
            per_minute=pacing.of_limit(limits.per_minute, share),
        )

    # connections

    async def acquire(self, mailbox_: Mailbox, *, urgent: bool = False) -> int | None:
        """A permit for one connection; 0 if they are not counted, None if all are in use or urgent mail's."""
        counted, most = _at_once(mailbox_)
        if most is None:
            return 0
        try:
            await self._looking()
            return await self._run(
                lambda connection: self._permitted(connection, mailbox_.name, counted, most, urgent=urgent)
            )
        except (StoreDown, Conflict):
            return None

    async def release(self, number: int) -> None:
        """The connection is closed."""
        if not number:
            return

        work = partial(self._counts.returned, number=number)
        try:
            await self._run(work)
        except (StoreDown, Conflict):
            self._later(work)

    def rested_since(self, mailbox: str, moment: float) -> bool:
        """Whether a mailbox has begun to rest since then."""
        rest = self._resting.get(mailbox)
        return rest is not None and rest.known > moment

    def wanted(self) -> frozenset[str]:
        """Mailboxes of which somebody has lately found all connections in use."""
        return self._wanted

    async def close(self) -> None:
        """Stop looking."""
        self._closed = True
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    # transactions

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """What is written here need not wait for the disk: the ledger's mark, before a mail leaves, does for both."""
        for _ in range(_TRIES - 1):
            try:
                return await self._database.run(work, durable=False)
            except Conflict:
                continue
        return await self._database.run(work, durable=False)

    def _later(self, work: Callable[[Connection], Any]) -> None:
        """Once the store is back; if we die before, our tickets and permits end with us."""

        async def patiently() -> None:
            while True:
                await asyncio.sleep(_RETRY_EVERY)
                try:
                    await self._run(work)
                except (StoreDown, Conflict):
                    continue
                return

        self._chore(patiently())

    def _chore(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _asked(
        self, connection: Connection, of: Mailbox, demand: Demand, slot: timedelta | None, now: datetime
    ) -> Admission | Hold | _Place:
        counted = _counted(of.limits) or of.organisation is not None
        row = self._counts.locked(connection, of.name, make=counted)
        if row is None:
            return Admission(of.name, configured=of)
        probe = row.paused_until is not None
        if probe:
            rest = _rest(row)
            if rest.holds(of, now):
                return Hold(rest.until, rest.verdict)
            if row.probing_until is not None and now < record.moment(row.probing_until):
                return Hold(now + _LOOK_AGAIN, rest.verdict)
        number: int | _Place | None = None
        if counted:
            self._life.keep(connection)
            number = self._paced(connection, row, of, demand, slot)
        if isinstance(number, _Place):
            return number
        if probe:
            over = record.microseconds(now + _PROBE)
            self._counts.change(connection, of.name, {"probing_until": over})
        return Admission(of.name, row.epoch, probe=probe, ticket=number, configured=of)

    def _paced(
        self,
        connection: Connection,
        row: Row[Any],
        of: Mailbox,
        demand: Demand,
        slot: timedelta | None,
    ) -> int | _Place:
        now, organisation = now_of(connection), of.organisation
        window = self._window if of.limits.per_hour is None else max(self._window, pacing.HOUR)
        used, recipients = self._counts.used(connection, of.name, window, now)
        urgent = demand.priority is Priority.HIGH
        lines = self._counts.lines(connection, of.name)
        own = lines.get((demand.tenant, urgent), Line())
        pace = None
        if of.limits.per_minute is not None:
            share = pacing.eased(row.factor, row.throttled_at, now)
            pace = Pace(pacing.of_limit(of.limits.per_minute, share) or 1, self._window)
        place = None if slot is None else now + slot // timedelta(microseconds=1)
        for opens, full in self._long_spans(connection, of, demand, used, recipients, now):
            if opens > now:
                apart = pace.interval if pace else _SECOND
                at = self._in_the_long_line(connection, of, demand, place, opens, apart, now)
                return _Place(at - now, full, long=True)
        if pace is not None:
            if place is not None and place > max(own.last, own.again):
                place = now  # it waited for the hour or the day, and they have room before its time
            tenants = {tenant for (tenant, kind), each in lines.items() if kind == urgent and each.waiting(now)}
            expected = any(
                kind and max(each.last, each.again) > now - pace.interval for (_, kind), each in lines.items()
            )
            request = Request(urgent, place, len(tenants | {demand.tenant}), expected)
            answer = pacing.decide(pace, used, own, request, now)
            if not isinstance(answer, Go):
                if answer.line != own:
                    self._counts.queued(connection, of.name, demand.tenant, answer.line, urgent=urgent)
                return _Place(answer.at - now, _minute_full(of, pace.most))
        name = organisation.name if organisation else ""
        return self._counts.begun(connection, of.name, demand.recipients, demand.external, name)

    def _in_the_long_line(
        self, connection: Connection, of: Mailbox, demand: Demand, place: int | None, opens: int, apart: int, now: int
    ) -> int:
        """A place in a line of its own: whom the hour and the day have room for must not wait behind it."""
        if place is not None and place > now:
            return place
        name, urgent = f"{of.name} for long", demand.priority is Priority.HIGH
        line = self._counts.lines(connection, name).get((demand.tenant, urgent), Line())
        if place is None:
            at = max(opens, line.last + apart)
            line = replace(line, last=at)
        else:
            at = max(opens, line.again + apart)
            line = replace(line, again=at)
        self._counts.queued(connection, name, demand.tenant, line, urgent=urgent)
        return at

    def _long_spans(
        self, connection: Connection, of: Mailbox, demand: Demand, used: Used, recipients: int, now: int
    ) -> Iterator[tuple[int, Verdict]]:
        """When an hour and a day have room for the mail, and what to say until then."""
        if (mails := of.limits.per_hour) is not None:
            yield pacing.hour_has_room_at(used, mails, now), _hour_full(of, mails)
        if (most := of.limits.recipients_per_day) is not None and demand.recipients:
            day_ = self._counts.day(connection, f"mailbox {of.name}", now)
            yield pacing.day_has_room_at(day_, recipients, demand.recipients, most, now), _day_full(of, most)
        if (organisation := of.organisation) is not None and demand.external:
            external = self._counts.outside(connection, organisation.name)
            day_ = self._counts.day(connection, f"outside {organisation.name}", now)
            most = organisation.external_per_day
            yield pacing.day_has_room_at(day_, external, demand.external, most, now), _outside_full(of, most)

    def _rested(self, connection: Connection, admission: Admission, verdict: Verdict, now: datetime) -> datetime:
        row = self._counts.locked(connection, admission.mailbox, make=True)
        assert row is not None, "it was made"  # noqa: S101 - for the type checker
        if admission.ticket is not None:
            self._counts.ended(connection, admission.ticket, 0, tried=True)
        changes: dict[str, Any] = {}
        if row.paused_until is not None and not _current(row, admission):
            until = record.moment(row.paused_until)  # let through before the pause began: no news
        else:
            epoch = row.epoch + 1 if row.paused_until is not None else 1
            longest = max(_LONGEST_PAUSE, verdict.pause)
            until = now + min(verdict.pause * float(2 ** min(epoch - 1, 16)), longest)
            changes |= {
                "epoch": epoch,
                "paused_until": record.microseconds(until),
                "verdict": _verdicts.dump_json(verdict).decode(),
                "probing_until": None,
                "paused_for": " ".join(sorted(_tried(_rest(row) if row.paused_until is not None else None, admission))),
            }
        if verdict.throttle or verdict.punished:
            rest = max(until - now, timedelta()) // timedelta(microseconds=1)
            changes |= _throttled(row, now_of(connection), rest)
        self._counts.change(connection, admission.mailbox, changes)
        return until

    def _ended(
        self, connection: Connection, admission: Admission, accepted: int, *, tried: bool, throttled: bool
    ) -> bool:
        row = self._counts.locked(connection, admission.mailbox, make=throttled)
        if admission.ticket is not None:
            self._counts.ended(connection, admission.ticket, accepted, tried=tried)
        if row is None:
            return False
        changes: dict[str, Any] = {}
        if throttled:
            changes |= _throttled(row, now_of(connection))
        current = _current(row, admission)
        if current:
            changes["probing_until"] = None
        if current and tried:
            changes |= {"paused_until": None, "verdict": None, "epoch": 0, "paused_for": ""}
        self._counts.change(connection, admission.mailbox, changes)
        return current and tried

    def _permitted(self, connection: Connection, name: str, counted: str, most: int, *, urgent: bool) -> int | None:
        row = self._counts.locked(connection, name, make=True)
        assert row is not None, "it was made"  # noqa: S101 - for the type checker
        self._life.keep(connection)
        now = now_of(connection)
        living = self._counts.connections(connection, counted, now)
        share = pacing.eased(row.factor, row.throttled_at, now)
        kept = not urgent and row.awaited_at > now - _AWAITED
        if kept or living >= (pacing.of_limit(most, share) or 1):
            asked = {"wanted_at": now, "awaited_at": now} if urgent else {"wanted_at": now}
            self._counts.change(connection, name, asked)
            return None
        if urgent and row.awaited_at:
            self._counts.change(connection, name, {"awaited_at": 0})
        return self._counts.permit(connection, counted)

    # what others have done

    async def _looking(self) -> None:
        """Begin to look; nobody goes on before the first look, or each new worker would try what rests."""
        if self._looks_begun or self._closed:
            return
        await self._look_once()
        if not self._looks_begun:
            self._looks_begun = True
            self._chore(self._looks())

    async def _looks(self) -> None:
        while True:
            with contextlib.suppress(StoreDown, Conflict):  # what was known stays known
                await self._look_once()
            await asyncio.sleep(_LOOK_EVERY)

    async def _look_once(self) -> None:
        changes = self._changes
        resting, self._wanted, self._shares = await self._run(_seen)
        if changes == self._changes:  # else it may be from before what we have changed since
            self._resting = {name: _as_known(self._resting.get(name), rest) for name, rest in resting.items()}


@dataclass(frozen=True, slots=True)
class _Place:
    in_microseconds: int
    verdict: Verdict
    long: bool = False


def _seen(connection: Connection) -> tuple[dict[str, _Rest], frozenset[str], Mapping[str, float]]:
    resting = connection.execute(select(mailbox).where(mailbox.c.paused_until.is_not(None)))
    rests = {each.name: _rest(each) for each in resting}
    wanted = select(mailbox.c.name).where(mailbox.c.wanted_at > database_now() - _WANTED)
    now = now_of(connection)
    lately = select(mailbox.c.name, mailbox.c.factor, mailbox.c.throttled_at)
    lately = lately.where(mailbox.c.throttled_at > now - pacing.LONGEST_RECOVERY)
    shares = {each.name: pacing.eased(each.factor, each.throttled_at, now) for each in connection.execute(lately)}
    return rests, frozenset(connection.scalars(wanted)), shares


def _as_known(before: _Rest | None, rest: _Rest) -> _Rest:
    return before if before == rest and before is not None else rest


def _rest(row: Row[Any]) -> _Rest:
    verdict = _verdicts.validate_json(row.verdict)
    return _Rest(record.moment(row.paused_until), verdict, frozenset(row.paused_for.split()))


def _tried(before: _Rest | None, admission: Admission) -> frozenset[str]:
    """What has failed since the pause began. Beyond some it holds for whatever comes."""
    known = before.tried if before is not None else frozenset()
    if admission.configured is None or len(known) >= _CONFIGURATIONS:
        return frozenset()
    return known | {fingerprint(admission.configured)}


def _at_once(of: Mailbox) -> tuple[str, int | None]:
    """What connections are counted under, and how many there may be: requests to Graph are no SMTP sessions."""
    if isinstance(of.endpoint, GraphEndpoint):
        return f"{of.name} over graph", of.endpoint.concurrent
    return of.name, of.limits.connections


def _counted(limits: Limits) -> bool:
    return (limits.per_minute, limits.per_hour, limits.recipients_per_day) != (None, None, None)


def _current(row: Row[Any], admission: Admission) -> bool:
    """Whether it is the probe of the pause that lasts."""
    return row.paused_until is not None and admission.probe and admission.epoch == row.epoch


def _throttled(row: Row[Any], now: int, rest: int = 0) -> dict[str, Any]:
    """Less from now on; what comes back comes back after the rest, for a rest alone proves nothing."""
    return {"factor": pacing.throttled(row.factor, row.throttled_at, now), "throttled_at": now + rest}


def _minute_full(of: Mailbox, most: int) -> Verdict:
    less = (
        "" if most == of.limits.per_minute else f", less than its {of.limits.per_minute} since its server asked for it"
    )
    return Verdict(
        "throttled-mailbox/paced",
        Scope.MAILBOX,
        Action.PAUSE,
        f"The mailbox {of.name} sends at most {most} mails a minute{less}; this one has its place in the line.",
        "Nothing is wrong. If it takes too long: further mailboxes for this scope, or priority high.",
    )


def _hour_full(of: Mailbox, most: int) -> Verdict:
    said = f"The mailbox {of.name} has sent {most} mails in the last hour, which is its limit."
    return _full("throttled-mailbox/hour", said, "Further mailboxes for this scope, or a higher limit of the provider.")


def _day_full(of: Mailbox, most: int) -> Verdict:
    said = f"The mailbox {of.name} has sent to {most} recipients in the last 24 hours, which is its limit."
    return _full("throttled-mailbox/day", said, "Use further mailboxes for this scope, or a service for bulk mail.")


def _outside_full(of: Mailbox, most: int) -> Verdict:
    said = f"The organisation of {of.name} has sent to {most} outside recipients in 24 hours, which is its limit."
    remedy = "Send from a domain of your own (not onmicrosoft.com), or buy licences; mail to the inside goes on."
    return _full("throttled-mailbox/day", said, remedy)


def _full(kind: str, said: str, remedy: str) -> Verdict:
    return Verdict(kind, Scope.MAILBOX, Action.PAUSE, said, remedy)


def _store_down(said: str) -> Verdict:
    return Verdict("transient", Scope.SERVER, Action.PAUSE, f"{said} Without it nothing is sent.")
