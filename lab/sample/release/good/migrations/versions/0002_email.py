# SPDX-License-Identifier: GPL-3.0-or-later
"""Know where to write to."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("orders", sa.Column("email", sa.Text, nullable=False, server_default=""))
    op.create_index("orders_customer", "orders", ["customer"])


def downgrade() -> None:
    """Go back to the one before."""
    op.drop_index("orders_customer", table_name="orders")
    op.drop_column("orders", "email")
