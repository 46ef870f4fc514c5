"""The tables. One row per notification holds where it stands and what its producer has still to be told.

Mails are never stored. Moments are whole microseconds since 1970 by the database's clock, so that SQLite and PostgreSQL
compare them alike; only `next_at` is the worker's word. The migrations beside this file create what is described here.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

REVISION = "0006"
"""The newest migration: what this program works with."""

metadata = MetaData()

notification = Table(
    "notification",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("stage", String(1), nullable=False),
    Column("owner", String(32), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("unwanted", Boolean, nullable=False),
    Column("told", Boolean, nullable=False),
    Column("next_at", BigInteger),
    Column("progress", Text, nullable=False),
    Column("status", String(24)),
    Column("result", Text),
    Column("pending", Text),
    Column("publisher", String(32)),
    Column("due_at", BigInteger),
    Column("finished_at", BigInteger),
)
"""`pending` are results that nobody has confirmed yet; from `due_at` on, or once `publisher` is dead, they are
anybody's to publish."""

Index("notification_due", notification.c.due_at, postgresql_where=notification.c.due_at.is_not(None),
      sqlite_where=notification.c.due_at.is_not(None))  # fmt: skip
Index("notification_finished", notification.c.finished_at, postgresql_where=notification.c.finished_at.is_not(None),
      sqlite_where=notification.c.finished_at.is_not(None))  # fmt: skip
Index("notification_doubt", notification.c.finished_at, postgresql_where=notification.c.status == "in_doubt",
      sqlite_where=notification.c.status == "in_doubt")  # fmt: skip

worker = Table(
    "worker",
    metadata,
    Column("instance", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)
"""A process that lives, as long as it says so. A claim is as good as its owner is alive."""

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

kept_mailbox = Table(
    "kept_mailbox",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("document", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
)
"""A mailbox that can be changed at run time; `document` holds no secret."""

kept_secret = Table(
    "kept_secret",
    metadata,
    Column("mailbox", String(64), primary_key=True),
    Column("field", String(64), primary_key=True),
    Column("key_id", String(16), nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
)

kept_part = Table(
    "kept_part",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("document", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
)
"""A scope, a producer, or the editable keys of a mailbox of the file's: what is kept beside the mailboxes file."""

mailbox_pause = Table(
    "mailbox_pause",
    metadata,
    Column("mailbox", String(64), primary_key=True),
    Column("until", BigInteger),
    Column("because", Text, nullable=False),
    Column("paused_by", Text, nullable=False),
)
"""A pause by hand, of any mailbox; without `until` it lasts until somebody ends it."""

mailbox_change = Table(
    "mailbox_change",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
)
"""One row: its number grows with every change of the tables above, which is all that workers look at."""


_number = BigInteger().with_variant(Integer, "sqlite")

mailbox = Table(
    "mailbox",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("paused_until", BigInteger),
    Column("verdict", Text),
    Column("probing_until", BigInteger),
    Column("factor", Float, nullable=False),
    Column("throttled_at", BigInteger, nullable=False),
    Column("wanted_at", BigInteger, nullable=False),
    Column("awaited_at", BigInteger, nullable=False, server_default="0"),
    Column("paused_for", String(64), nullable=False, server_default=""),
    Index("mailbox_wanted", "wanted_at"),
    Index("mailbox_throttled", "throttled_at"),
)
"""A mailbox that has rested, or whose limits are counted; it has no row before that. `wanted_at` is when somebody last
found all its connections in use, `awaited_at` when urgent mail did that still waits; `paused_for` has the fingerprints
of the configurations that have failed since the pause began."""

Index("mailbox_paused", mailbox.c.paused_until, postgresql_where=mailbox.c.paused_until.is_not(None),
      sqlite_where=mailbox.c.paused_until.is_not(None))  # fmt: skip

ticket = Table(
    "ticket",
    metadata,
    Column("number", _number, primary_key=True),
    Column("mailbox", String(200), nullable=False),
    Column("owner", String(32), nullable=False),
    Column("recipients", Integer, nullable=False),
    Column("external", Integer, nullable=False),
    Column("organisation", String(255), nullable=False),
    Column("ended_at", BigInteger),
    Index("ticket_mailbox", "mailbox", "ended_at"),
)
"""A mail in the window of a mailbox whose limits are counted: in flight, or ended not long ago."""

line = Table(
    "line",
    metadata,
    Column("mailbox", String(200), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("urgent", Boolean, primary_key=True),
    Column("last", BigInteger, nullable=False),
    Column("again", BigInteger, nullable=False),
)

day = Table(
    "day",
    metadata,
    Column("counter", String(300), primary_key=True),
    Column("beginning", BigInteger, primary_key=True),
    Column("recipients", Integer, nullable=False),
)
"""Recipients of the last 24 hours, in buckets of some minutes: of a mailbox, or outside a whole organisation."""

permit = Table(
    "permit",
    metadata,
    Column("number", _number, primary_key=True),
    Column("mailbox", String(200), nullable=False),
    Column("owner", String(32), nullable=False),
    Index("permit_mailbox", "mailbox"),
)
"""A connection that somebody has open, or is opening or closing. It is worth what its owner's life is worth."""


class database_now(GenericFunction[int]):  # noqa: N801 - it is written like an SQL function
    """This very moment by the database's clock, in microseconds."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _postgresql_now(_element: object, _compiler: object, **_: Any) -> str:
    # Not now(): that is when the transaction began, which may have waited for a lock since.
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"


@compiles(database_now, "sqlite")
def _sqlite_now(_element: object, _compiler: object, **_: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS integer)"


def now_of(connection: Connection) -> int:
    """The same moment in a value. SQLite's clock is this machine's, so it need not be asked."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000
    return int(connection.scalar(select(database_now())) or 0)
