"""By which logins and ways out a mailbox has failed since its pause began."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column."""
    op.add_column("mailbox", sa.Column("paused_for", sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    """Nobody goes back without a backup."""
    raise NotImplementedError
