# SPDX-License-Identifier: GPL-3.0-or-later
"""Connects alembic to the database whose address is in DATABASE_URL; where none is given, nothing is guessed."""

import os

from alembic import context
from sqlalchemy import create_engine, event, pool

url = os.environ["DATABASE_URL"]

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(url, poolclass=pool.NullPool)
    event.listen(engine, "connect", lambda opened, _record: opened.execute("PRAGMA foreign_keys = ON"))
    with engine.connect() as connection:
        context.configure(connection=connection, transactional_ddl=True)
        with context.begin_transaction():
            context.run_migrations()
