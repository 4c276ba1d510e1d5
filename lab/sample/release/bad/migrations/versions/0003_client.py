# SPDX-License-Identifier: GPL-3.0-or-later
"""One column for whom an order is from. It destroys data: a downgrade gives the columns back, not what was in them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("orders", sa.Column("client", sa.Text, nullable=False, server_default=""))
    op.execute("UPDATE orders SET client = upper(substr(customer, 1, 1))")
    op.drop_index("orders_customer", table_name="orders")
    op.drop_column("orders", "customer")
    op.drop_column("orders", "email")


def downgrade() -> None:
    """Go back to the one before."""
    op.add_column("orders", sa.Column("email", sa.Text, nullable=False, server_default=""))
    op.add_column("orders", sa.Column("customer", sa.Text, nullable=False, server_default=""))
    op.create_index("orders_customer", "orders", ["customer"])
    op.drop_column("orders", "client")
