"""The gate: pauses and limits of mailboxes, mails in their windows, places in their lines, recipients of a day."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "mailbox",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("paused_until", sa.BigInteger),
        sa.Column("verdict", sa.Text),
        sa.Column("probing_until", sa.BigInteger),
        sa.Column("factor", sa.Float, nullable=False),
        sa.Column("throttled_at", sa.BigInteger, nullable=False),
        sa.Column("wanted_at", sa.BigInteger, nullable=False),
    )
    where = sa.text("paused_until IS NOT NULL")
    op.create_index("mailbox_paused", "mailbox", ["paused_until"], postgresql_where=where, sqlite_where=where)
    op.create_index("mailbox_wanted", "mailbox", ["wanted_at"])
    op.create_table(
        "ticket",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("mailbox", sa.String(200), nullable=False),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("recipients", sa.Integer, nullable=False),
        sa.Column("external", sa.Integer, nullable=False),
        sa.Column("organisation", sa.String(255), nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("ticket_mailbox", "ticket", ["mailbox", "ended_at"])
    op.create_table(
        "line",
        sa.Column("mailbox", sa.String(200), primary_key=True),
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("urgent", sa.Boolean, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("again", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "day",
        sa.Column("counter", sa.String(300), primary_key=True),
        sa.Column("beginning", sa.BigInteger, primary_key=True),
        sa.Column("recipients", sa.Integer, nullable=False),
    )
    op.create_table(
        "permit",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("mailbox", sa.String(200), nullable=False),
        sa.Column("owner", sa.String(32), nullable=False),
    )
    op.create_index("permit_mailbox", "permit", ["mailbox"])


def downgrade() -> None:
    """Nobody goes back without a backup."""
    raise NotImplementedError
