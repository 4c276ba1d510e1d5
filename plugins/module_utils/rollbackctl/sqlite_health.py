# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether SQLite finds a database whole, also one whose schema needs what only the application has."""

from __future__ import annotations

import re
import sqlite3

# SQL functions and collating sequences that applications register (Django, Rails, ICU); a query that needs one fails.
_UNKNOWN = re.compile(r"unknown function|no such function|no such module")
_COLLATION = re.compile(r"no such collation sequence: (.+)")


def damage(connection: sqlite3.Connection) -> str:
    """Return what integrity_check finds wrong, first finding only, and which SQLite says so; empty when nothing is.

    quick_check is not enough: it finds 16 of 300 flipped bits, integrity_check 296. It is asked only where an index or
    a rule needs a function or an order of the application's own, which cannot be evaluated here; what is left out then
    is whether such an index has an entry for each row. The pages are read in either case.
    """
    found, collations = _ask(connection, "integrity_check"), set()
    try:
        for check in ("integrity_check", "quick_check", "quick_check"):
            while (missing := _COLLATION.search(found)) and missing[1] not in collations:
                collations.add(missing[1])
                connection.create_collation(missing[1], _order)
                found = _ask(connection, "quick_check")
            if _UNKNOWN.search(found):
                connection.execute("PRAGMA ignore_check_constraints=ON")
                found = _ask(connection, "quick_check" if collations else check)
    finally:
        connection.execute("PRAGMA ignore_check_constraints=OFF")
        for name in collations:
            connection.create_collation(name, None)
    return f"{found} (SQLite {sqlite3.sqlite_version})" if found else ""


def _ask(connection: sqlite3.Connection, check: str) -> str:
    try:
        found = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
    except sqlite3.DatabaseError as exc:
        return str(exc)
    return "" if found == "ok" else str(found).replace("\n", " ")


def _order(one: str, other: str) -> int:
    return (one > other) - (one < other)


def trust_nobody(connection: sqlite3.Connection) -> None:
    """Let nothing in the database's schema reach beyond the database.

    PRAGMA trusted_schema=OFF is not used for it: with it SQLite 3.40 calls a database damaged whose index or generated
    column uses json_extract. What it would add is not there to be reached: this process registers no function, loads no
    extension, and no trigger fires where nothing is written; a view is never read.
    """
    connection.set_authorizer(_authorize)
    connection.execute("PRAGMA query_only=ON")


# Functions that reach memory or files, by what builds of SQLite are known to have; none of them is needed here.
_REACHING = frozenset(("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "lsmode"))


def _authorize(action: int, _one: str | None, two: str | None, _database: str | None, _inside: str | None) -> int:
    reaching = action == _FUNCTION and (two or "").lower() in _REACHING
    return sqlite3.SQLITE_DENY if reaching else sqlite3.SQLITE_OK


_FUNCTION = 31  # SQLITE_FUNCTION, which Python 3.9 does not name: https://www.sqlite.org/c3ref/c_alter_table.html
