"""What the gate counts: mails in flight and in their window, lines, recipients of a day, connections.

Every statement here is made once: putting one together takes SQLAlchemy longer than running it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain import pacing
from worker.domain.pacing import Line, Used
from worker.store.life import Life
from worker.store.schema import day, line, mailbox, now_of, permit, ticket

_MAILBOX = select(mailbox).where(mailbox.c.name == bindparam("of_name")).with_for_update()
_TICKETS = select(ticket).where(ticket.c.mailbox == bindparam("of_name"))
_LEFT = delete(ticket).where(ticket.c.mailbox == bindparam("of_name"), ticket.c.ended_at <= bindparam("until"))
_TICKET = select(ticket).where(ticket.c.number == bindparam("of_number"))
_NEW_TICKET = insert(ticket).returning(ticket.c.number)
_END = update(ticket).where(ticket.c.number == bindparam("of_number")).values(ended_at=bindparam("at"))
_FORGET = delete(ticket).where(ticket.c.number == bindparam("of_number"))
_OUTSIDE = select(func.sum(ticket.c.external)).where(
    ticket.c.organisation == bindparam("of_name"), ticket.c.ended_at.is_(None)
)
_LINES = select(line).where(line.c.mailbox == bindparam("of_name"))
_DAY = select(day.c.beginning, day.c.recipients).where(day.c.counter == bindparam("of_name")).order_by(day.c.beginning)
_OLD = delete(day).where(day.c.counter == bindparam("of_name"), day.c.beginning < bindparam("oldest"))
_OWNERS = select(permit.c.owner).where(permit.c.mailbox == bindparam("of_name"))
_NEW_PERMIT = insert(permit).returning(permit.c.number)
_RETURN = delete(permit).where(permit.c.number == bindparam("of_number"))

_UNCOUNTED = {"epoch": 0, "factor": 1.0, "throttled_at": 0, "wanted_at": 0, "awaited_at": 0, "paused_for": ""}


class Counts:
    """Rows of mailboxes, which are locked by whoever changes what belongs to them."""

    def __init__(self, life: Life, *, of_sqlite: bool) -> None:
        """Ask nothing yet.

        Args:
            life: of this worker, whose mails and connections are counted.
            of_sqlite: rather than PostgreSQL.
        """
        self._life = life
        dialect = sqlite if of_sqlite else postgresql
        self._make = dialect.insert(mailbox).on_conflict_do_nothing()
        queue = dialect.insert(line)
        self._queue = queue.on_conflict_do_update(
            index_elements=["mailbox", "tenant", "urgent"],
            set_={"last": queue.excluded.last, "again": queue.excluded.again},
        )
        add = dialect.insert(day)
        self._add = add.on_conflict_do_update(
            index_elements=["counter", "beginning"], set_={"recipients": day.c.recipients + add.excluded.recipients}
        )

    def locked(self, connection: Connection, name: str, *, make: bool) -> Row[Any] | None:
        """The row of a mailbox, or of what else has limits; None if there is none and none is made."""
        found = connection.execute(_MAILBOX, {"of_name": name}).one_or_none()
        if found is None and make:
            connection.execute(self._make, {"name": name, **_UNCOUNTED})
            found = connection.execute(_MAILBOX, {"of_name": name}).one_or_none()
        return found

    def change(self, connection: Connection, name: str, changes: Mapping[str, Any]) -> None:
        """Write into the row of a mailbox."""
        if changes:
            connection.execute(update(mailbox).where(mailbox.c.name == name).values(changes))

    # mails

    def used(self, connection: Connection, name: str, window: int, now: int) -> tuple[Used, int]:
        """What counts in a window, and recipients in flight. The dead's mails end with them."""
        found = connection.execute(_TICKETS, {"of_name": name}).all()
        flying = [each for each in found if each.ended_at is None]
        all_ended = [each.ended_at for each in found if each.ended_at is not None]
        ended = [at for at in all_ended if at > now - window]
        if len(ended) < len(all_ended):
            connection.execute(_LEFT, {"of_name": name, "until": now - window})
        ends = self._life.ends(connection, (each.owner for each in flying), now)
        for each in flying:
            if each.owner in ends:
                self._end(connection, each, ends[each.owner], each.recipients, each.external)
                ended.append(ends[each.owner])
        flying = [each for each in flying if each.owner not in ends]
        return Used(tuple(ended), len(flying)), sum(each.recipients for each in flying)

    def outside(self, connection: Connection, organisation: str) -> int:
        """Recipients in flight to the outside, of all mailboxes of an organisation; it is locked, after its mailbox."""
        self.locked(connection, f"organisation {organisation}", make=True)
        return int(connection.scalar(_OUTSIDE, {"of_name": organisation}) or 0)

    def begun(self, connection: Connection, name: str, recipients: int, external: int, organisation: str) -> int:
        """A mail is in flight: its ticket."""
        new = {"mailbox": name, "owner": self._life.me, "recipients": recipients, "external": external}
        return int(connection.execute(_NEW_TICKET, {**new, "organisation": organisation}).scalar_one())

    def ended(self, connection: Connection, number: int, accepted: int, *, tried: bool) -> None:
        """It is no longer; what was never tried has never been."""
        found = connection.execute(_TICKET, {"of_number": number}).one_or_none()
        if found is None or found.ended_at is not None:
            return
        if tried:
            self._end(connection, found, now_of(connection), accepted, min(accepted, found.external))
        else:
            connection.execute(_FORGET, {"of_number": number})

    def _end(self, connection: Connection, of: Row[Any], at: int, recipients: int, external: int) -> None:
        connection.execute(_END, {"of_number": of.number, "at": at})
        self._count(connection, f"mailbox {of.mailbox}", at, recipients)
        if of.organisation:
            self._count(connection, f"outside {of.organisation}", at, external)

    # recipients of a day

    def day(self, connection: Connection, counter: str, now: int) -> list[tuple[int, int]]:
        """Beginning and recipients of each bucket that counts, in order."""
        connection.execute(_OLD, {"of_name": counter, "oldest": pacing.oldest_bucket(now)})
        return [(each.beginning, each.recipients) for each in connection.execute(_DAY, {"of_name": counter})]

    def _count(self, connection: Connection, counter: str, at: int, recipients: int) -> None:
        if recipients:
            new = {"counter": counter, "beginning": pacing.bucket(at), "recipients": recipients}
            connection.execute(self._add, new)

    # lines

    def lines(self, connection: Connection, name: str) -> Mapping[tuple[str, bool], Line]:
        """Those of a mailbox, by tenant and urgency."""
        found = connection.execute(_LINES, {"of_name": name})
        return {(each.tenant, bool(each.urgent)): Line(each.last, each.again) for each in found}

    def queued(self, connection: Connection, name: str, tenant: str, new: Line, *, urgent: bool) -> None:
        """A line has become longer."""
        key = {"mailbox": name, "tenant": tenant, "urgent": urgent}
        connection.execute(self._queue, {**key, "last": new.last, "again": new.again})

    # connections

    def connections(self, connection: Connection, counted: str, now: int) -> int:
        """How many permits the living have. The dead's end with them."""
        owners = list(connection.scalars(_OWNERS, {"of_name": counted}))
        dead = self._life.ends(connection, owners, now)
        if dead:
            connection.execute(delete(permit).where(permit.c.mailbox == counted, permit.c.owner.in_(dead)))
        return sum(owner not in dead for owner in owners)

    def permit(self, connection: Connection, counted: str) -> int:
        """One more."""
        return int(connection.execute(_NEW_PERMIT, {"mailbox": counted, "owner": self._life.me}).scalar_one())

    def returned(self, connection: Connection, number: int) -> None:
        """One less."""
        connection.execute(_RETURN, {"of_number": number})
