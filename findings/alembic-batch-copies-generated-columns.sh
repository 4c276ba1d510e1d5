#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Guess: alembic's batch mode knows the generated columns of a SQLite table (it reflects them, and writes GENERATED into the
#        new table), so it leaves them out when it copies the rows over, as "copy and move" by hand has to.
# Real:  it copies them like any other. So every batch operation that makes a table with a generated column anew fails in
#        SQLite, on an empty table as well, and when that column is no part of it. The downgrade of an older migration stops
#        working once a later one has given its table such a column.
#        Seen, alembic 1.17.1, SQLAlchemy 2.0.44, SQLite 3.40.1:
#        plain: worked    generated: cannot INSERT into generated column "d"
# So:    try a downgrade out on a copy of the database; that it is written, and worked when it was, says little.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" --quiet --disable-pip-version-check install alembic==1.17.1 SQLAlchemy==2.0.44
"$here/venv/bin/python" - "$here/t.db" <<'PYTHON' | tee "$here/said"
import sys

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

engine = sa.create_engine(f"sqlite:///{sys.argv[1]}")
for table, kind in (("plain", ""), ("generated", "GENERATED ALWAYS AS (a * 2) STORED")):
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE {table} (a INTEGER, note TEXT, d INTEGER {kind})")
            operations = Operations(MigrationContext.configure(connection))
            with operations.batch_alter_table(table) as batch:
                batch.drop_column("note")
        print(f"{table}: worked")
    except sa.exc.OperationalError as error:
        print(f"{table}: {error.orig}")
PYTHON
grep -q '^plain: worked' "$here/said"
grep -q '^generated: cannot INSERT into generated column' "$here/said"
