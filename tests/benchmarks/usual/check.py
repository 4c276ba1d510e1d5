# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask SQLite whether a database is whole, as a runbook does."""

from __future__ import annotations

import contextlib
import sqlite3
import sys

with contextlib.closing(sqlite3.connect(sys.argv[1])) as connection:
    said = connection.execute("PRAGMA integrity_check").fetchone()[0]
sys.exit(0 if said == "ok" else said)
