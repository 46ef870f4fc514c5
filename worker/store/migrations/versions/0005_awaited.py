"""When urgent mail last found all connections of a mailbox in use."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.add_column("mailbox", sa.Column("awaited_at", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """Nobody goes back without a backup."""
    raise NotImplementedError
