"""The ledger: notifications, the workers that hold them, the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "notification",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(1), nullable=False),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("unwanted", sa.Boolean, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("status", sa.String(24)),
        sa.Column("result", sa.Text),
        sa.Column("pending", sa.Text),
        sa.Column("publisher", sa.String(32)),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
    )
    for name, column, condition in (
        ("notification_due", "due_at", "due_at IS NOT NULL"),
        ("notification_finished", "finished_at", "finished_at IS NOT NULL"),
        ("notification_doubt", "finished_at", "status = 'in_doubt'"),
    ):
        where = sa.text(condition)
        op.create_index(name, "notification", [column], postgresql_where=where, sqlite_where=where)
    op.create_table(
        "worker",
        sa.Column("instance", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Nobody goes back without a backup."""
    raise NotImplementedError
