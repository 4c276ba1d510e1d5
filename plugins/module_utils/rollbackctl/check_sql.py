# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `sql`: the one value that a SELECT returns. Nothing is written: the database is opened read-only.

Counts of rows, orphans (`SELECT count(*) ... WHERE NOT EXISTS ...`, expected 0), the newest row's age. SQLite is the
engine known today; another one is another function in ENGINES.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from .check_model import Context, Sample, bad, difference, expect_problem, good, shown, unverified

KEYS = frozenset({"engine", "database", "query", "expect"})
REQUIRED: tuple[str, ...] = ("database", "query", "expect")
_STEPS = 1000  # virtual machine instructions between two looks at the clock


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence."""
    found = []
    if not os.path.isabs(options["database"]):
        found.append("`database` must be an absolute path")
    if options["query"].lstrip().lower().split(None, 1)[:1] not in (["select"], ["with"]):
        found.append("`query` must be one SELECT")
    if re.match(r"\s*select\b(?!.*\bfrom\b)", options["query"], re.IGNORECASE | re.DOTALL):
        found.append("`query` reads from no table, so it would succeed on any file")
    if problem := expect_problem(options["expect"]):
        found.append(problem)
    return found


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Ask once, within timeout seconds, and compare."""
    del context
    try:
        rows = ENGINES[options.get("engine", "sqlite")](options["database"], options["query"], timeout)
    except ImportError:
        return unverified("this host's Python comes without SQLite")
    except OSError as exc:
        return bad(f"{options['database']}: {exc.strerror or exc}")
    if len(rows) != 1 or len(rows[0]) != 1:
        return bad(f"the query must give one row with one value; it gave {'several' if rows else 'no'} rows or columns")
    wanted = options["expect"]
    unlike = difference(rows[0][0], wanted.get("value", wanted))
    return bad(f"the result {unlike}") if unlike else good(f"the result is {shown(rows[0][0])}")


def _sqlite(database: str, query: str, timeout: float) -> list[tuple[Any, ...]]:
    """Return at most two rows.

    Run by root, SQLite gives a missing -wal or -shm file the database's own owner, so reading does no harm:
    https://www.sqlite.org/src/file?name=src/os_unix.c (robustFchown).

    :raises OSError: the database cannot be opened or the query fails; the words are SQLite's.
    """
    import sqlite3  # noqa: PLC0415 - a target's Python may be built without it, and most checks do not need it

    if not os.path.isfile(database):
        raise OSError(f"there is no such file on this host: {database}")
    deadline = time.monotonic() + timeout
    try:
        connection = sqlite3.connect(f"{Path(database).as_uri()}?mode=ro", uri=True, timeout=timeout)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                raise OSError("there is nothing in this database, not even a table; is it the service's?")
            return connection.execute(query).fetchmany(2)
        finally:
            connection.close()
    except (sqlite3.Error, sqlite3.Warning) as exc:
        late = f"no answer within {timeout:g} s" if str(exc) == "interrupted" else str(exc)
        raise OSError(late) from None


ENGINES: Mapping[str, Callable[[str, str, float], list[tuple[Any, ...]]]] = {"sqlite": _sqlite}
