# SPDX-License-Identifier: GPL-3.0-or-later
"""Connects alembic to the database named by `-x database=PATH` or by sqlalchemy.url."""

from pathlib import Path

from alembic import context
from sqlalchemy import create_engine, pool

config = context.config
path = context.get_x_argument(as_dictionary=True).get("database")
url = f"sqlite:///{Path(path).resolve()}" if path else config.get_main_option("sqlalchemy.url")

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, transactional_ddl=True)
        with context.begin_transaction():
            context.run_migrations()
