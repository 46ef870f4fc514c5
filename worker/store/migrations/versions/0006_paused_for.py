"""By which logins and ways out a mailbox has failed since its pause began; finding those that were throttled."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column and the index."""
    op.add_column("mailbox", sa.Column("paused_for", sa.String(64), nullable=False, server_default=""))
    op.create_index("mailbox_throttled", "mailbox", ["throttled_at"])


def downgrade() -> None:
    """Nobody goes back without a backup."""
    raise NotImplementedError
