# SPDX-License-Identifier: GPL-3.0-or-later
"""A note for each order. It only adds: older code works with it, and a downgrade loses notes alone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("orders", sa.Column("note", sa.Text, nullable=True))


def downgrade() -> None:
    """Go back to the one before."""
    op.drop_column("orders", "note")
