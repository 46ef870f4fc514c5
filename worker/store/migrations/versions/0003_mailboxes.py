"""Mailboxes that are changed at run time, their sealed secrets, pauses by hand, and the counter that workers watch."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "kept_mailbox",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
    )
    op.create_table(
        "kept_secret",
        sa.Column("mailbox", sa.String(64), primary_key=True),
        sa.Column("field", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "mailbox_pause",
        sa.Column("mailbox", sa.String(64), primary_key=True),
        sa.Column("until", sa.BigInteger),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("paused_by", sa.Text, nullable=False),
    )
    change = op.create_table(
        "mailbox_change",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(change, [{"id": 1, "number": 0}])


def downgrade() -> None:
    """Nobody goes back without a backup."""
    raise NotImplementedError
