# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a SQLite database: digests that do not depend on where rows lie, and what differs between two."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import marshal
import os
import re
import shutil
import sqlite3
import stat
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from .durable import digest
from .errors import Refused
from .safe_path import worker
from .sqlite_file import MAGIC, holders
from .sqlite_health import trust_nobody
from .sqlite_schema import found_by_number

T = TypeVar("T")
QUIET_TRIES = 5

# A default that always gives the same value: what a row has only because of it, nobody wrote.
_CONSTANT = re.compile(r"\(*\s*(?:[-+]?[\d.]+|'(?:[^']|'')*'|TRUE|FALSE)\s*\)*", re.IGNORECASE)
# Statistics that ANALYZE and PRAGMA optimize renew at any time; they are no content.
_STATISTICS = "sqlite_stat"


@dataclasses.dataclass(frozen=True)
class Content:
    """Digests of a database. tables: name -> {"rows": number, "digest": sha256}; empty digests when not exact."""

    revision: str
    schema: str
    content: str
    tables: Mapping[str, Mapping[str, Any]]


def address(path: str, *, immutable: bool = False) -> str:
    """Return the URI that opens a database read only; immutable: without locks, for files that nobody writes."""
    return f"file:{urllib.parse.quote(path)}?mode=ro{'&immutable=1' if immutable else ''}"


def connect(path: str, *, immutable: bool = False, seconds: float = 5.0) -> sqlite3.Connection:
    """Open a database read only, with nothing in its schema trusted. seconds: how long to wait for locks."""
    connection = sqlite3.connect(address(path, immutable=immutable), uri=True, timeout=seconds, isolation_level=None)
    trust_nobody(connection)
    return connection


class Disturbed(Refused):
    """A database that nobody had open was written to while it was read as if nobody would."""


def steadily(read: Callable[[bool], T]) -> T:
    """Return what read(quiet) returns: quiet while nobody disturbs it, and where a service opens the database for each
    request again and again, as one of its users. read may be called several times."""
    for _ in range(QUIET_TRIES):
        try:
            return read(True)  # noqa: FBT003 - the parameter is the function's only one
        except Disturbed:  # noqa: PERF203 - that is what is waited for
            time.sleep(0.01)
    return read(False)  # noqa: FBT003 - as above


@contextlib.contextmanager
def reading(path: str, *, seconds: float, quiet: bool = True) -> Iterator[sqlite3.Connection]:
    """Open the live database for reading inside one transaction, and leave no new file beside it.

    Opening a WAL database that nobody has open creates -wal and -shm, also with mode=ro; such a database is therefore
    read as immutable, and afterwards proven to have been left alone. Without quiet it is opened like any other.

    :raises Refused: it cannot be read, or was written to while it was read as immutable.
    :raises sqlite3.DatabaseError: it is damaged.
    """
    who = worker(path)
    status = plain_file(path)
    with who.acting():
        wal = in_wal_mode(path)
    alone = quiet and wal and not os.path.exists(path + "-wal") and not holders(path)
    if wal and not alone and who.uid not in {0, status.st_uid}:
        # SQLite would create -wal and -shm that the application cannot write; root's are given to the owner.
        raise Refused(
            f"{path} belongs to another user. Nothing was changed.", "Run as root or as the database's owner."
        )
    try:
        with who.acting():  # all files are open with the first read; what is beside is the caller's own
            opened = _opened(path, immutable=alone, seconds=seconds)
        with contextlib.closing(opened) as connection:
            yield connection
    except sqlite3.OperationalError as exc:
        raise Refused(
            f"{path} cannot be read: {exc}. Nothing was changed.",
            "Is another program holding it locked, or are permissions missing? Try: sqlite3 -readonly DB .tables",
        ) from exc
    now = os.stat(path)
    if alone and (now.st_mtime_ns, now.st_size, now.st_ino) != (status.st_mtime_ns, status.st_size, status.st_ino):
        raise Disturbed(f"{path} was written to while it was read. Nothing was changed.", "Try again.")


def _opened(path: str, *, immutable: bool, seconds: float) -> sqlite3.Connection:
    """Return a connection with a read transaction. One that is closed without COMMIT has changed nothing."""
    connection = connect(path, immutable=immutable, seconds=seconds)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as exc:
        connection.close()
        if "readonly" not in str(exc) or not os.path.exists(path + "-journal"):
            raise
    except sqlite3.DatabaseError:
        connection.close()
        raise
    else:
        return connection
    # A service was killed inside a transaction. SQLite would roll back its journal first, which is a change: so that is
    # done with a copy, which is gone when this returns (the connection keeps the unlinked file open).
    with tempfile.TemporaryDirectory(prefix="rollbackctl-") as folder:
        copy = os.path.join(folder, "copy")
        for suffix in ("", "-journal"):
            shutil.copyfile(path + suffix, copy + suffix)
        connection = sqlite3.connect(copy, isolation_level=None)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.execute("PRAGMA query_only=ON")
            connection.execute("BEGIN")
        except sqlite3.DatabaseError:
            connection.close()
            raise
    return connection


def in_wal_mode(path: str) -> bool:
    """Say whether a database is in WAL mode, by its header (an immutable connection says "delete").

    Not to be called while this process has the database open: closing the file drops its locks (fcntl(2)).
    """
    with open(path, "rb") as file:
        head = file.read(20)
    return head.startswith(MAGIC) and 2 in set(head[18:20])


def plain_file(path: str) -> os.stat_result:
    """Return the status of a database file.

    :raises Refused: missing, a symbolic link, no regular file.
    """
    try:
        status = os.lstat(path)
    except OSError as exc:
        raise Refused(f"The database {path} cannot be read: {exc.strerror}. Nothing was changed.") from exc
    if stat.S_ISLNK(status.st_mode):
        raise Refused(
            f"The database {path} is a symbolic link. Nothing was changed.",
            f"Set path to the file itself: {os.path.realpath(path)}",
        )
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"The database {path} is not a regular file. Nothing was changed.")
    return status


def quoted(name: str) -> str:
    """Return a table's or column's name quoted for SQL."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def table_names(connection: sqlite3.Connection, schema: str = "main") -> list[str]:
    """Return the tables that hold rows, sorted: not virtual tables (their shadow tables count), not statistics."""
    rows = connection.execute(f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND rootpage > 0")  # noqa: S608
    return sorted(name for (name,) in rows if not name.startswith(_STATISTICS))


def columns(connection: sqlite3.Connection, table: str, schema: str = "main") -> tuple[list[str], list[str]]:
    """Return a table's columns (generated ones left out) and those of its primary key, in key order."""
    rows = connection.execute(f"PRAGMA {schema}.table_info({quoted(table)})").fetchall()
    keyed = sorted((row[5], row[1]) for row in rows if row[5])
    return [row[1] for row in rows], [name for _, name in keyed]


def somebody_wrote(connection: sqlite3.Connection, table: str, column: str, alias: str = "") -> str:
    """Return the condition that somebody wrote a value into a column: one that is not just its constant default.

    :param alias: the table's in the query, with a dot.
    """
    rows = connection.execute(f"PRAGMA main.table_info({quoted(table)})")
    default = next(row[4] for row in rows if row[1] == column)
    written = f"{alias}{quoted(column)} IS NOT NULL"
    if default is not None and _CONSTANT.fullmatch(default):
        written += f" AND {alias}{quoted(column)} IS NOT ({default})"
    return written


def row_key(connection: sqlite3.Connection, table: str, names: list[str], schema: str = "main") -> str:
    """Return the name under which the table's rowid can be reached, or an empty string for WITHOUT ROWID tables."""
    taken = {name.lower() for name in names}
    for alias in ("rowid", "_rowid_", "oid"):
        if alias in taken:
            continue
        try:
            connection.execute(f"SELECT {alias} FROM {schema}.{quoted(table)} LIMIT 0")  # noqa: S608
        except sqlite3.OperationalError:
            return ""
        return alias
    return ""


def read_content(connection: sqlite3.Connection, *, exact: bool) -> Content:
    """Return the digests of a database; the caller holds the transaction that makes them belong together.

    exact: read every row. Without, tables and content stay empty.
    """
    names = table_names(connection)
    numbered = found_by_number(connection)
    tables = (
        {name: table_digest(connection, name, numbered=name.lower() in numbered) for name in names} if exact else {}
    )
    revision = ""
    if "alembic_version" in names:
        revision = ",".join(
            sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))
        )
    schema = schema_digest(connection)
    return Content(revision, schema, digest({"schema": schema, "tables": tables}) if exact else "", tables)


def schema_digest(connection: sqlite3.Connection) -> str:
    """Return the sha256 of all definitions and of the application's own numbers."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    kept = [list(row) for row in rows if not row[1].startswith(_STATISTICS)]
    marks = [connection.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("user_version", "application_id")]
    return digest([kept, *marks])


def table_digest(connection: sqlite3.Connection, table: str, *, numbered: bool = False) -> dict[str, Any]:
    """Return {"rows": number, "digest": sha256 over all rows in key order}. numbered: row numbers count too.

    Rows are hashed as Python values in marshal's format 2, which is fixed, exact for every SQLite type and three
    times as fast as SQL's quote(), which also stops at NUL characters.
    """
    names, key = columns(connection, table)
    order = row_key(connection, table, names) or ", ".join(quoted(name) for name in key)
    number = row_key(connection, table, names) if numbered else ""
    listed = ", ".join([*([number] if number else []), *(quoted(name) for name in names)])
    query = f"SELECT {listed} FROM {quoted(table)}{' ORDER BY ' + order if order else ''}"  # noqa: S608 - quoted
    try:
        return _hash_rows(connection.execute(query))
    except sqlite3.OperationalError as exc:
        if "UTF-8" not in str(exc):
            raise
    # Text that is not UTF-8: SQLite stores what it is given.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        return _hash_rows(connection.execute(query))
    finally:
        connection.text_factory = str


def _hash_rows(cursor: sqlite3.Cursor) -> dict[str, Any]:
    total, sha256 = 0, hashlib.sha256()
    for row in cursor:
        sha256.update(marshal.dumps(row, 2))
        total += 1
    return {"rows": total, "digest": sha256.hexdigest()}


def orphans(connection: sqlite3.Connection) -> int:
    """Return how many rows refer to rows that do not exist (foreign_key_check), counted up to 1000."""
    try:
        return len(connection.execute("PRAGMA foreign_key_check").fetchmany(1000))
    except sqlite3.OperationalError:  # a reference to a table that does not exist
        return 1


def newer_rows(
    live_path: str, target_path: str, *, seconds: float = 20.0, same: tuple[str, ...] = ()
) -> dict[str, dict[str, int]]:
    """Return per table what going from live to target loses, by primary key (by rowid where there is none).

    only_live, only_target: rows that the other side does not have; differ: rows on both sides whose values differ in
    the columns that both sides have. Tables that are equal are left out. A table that one side lacks counts whole.

    :param seconds: the limit for all tables together; a table that does not finish is counted as {"unknown": 1}.
    :param same: tables known to be equal (by their digests).
    :raises Refused: the live database cannot be read.
    """
    return steadily(lambda quiet: _newer_rows(live_path, target_path, seconds, same, quiet=quiet))


def _newer_rows(
    live_path: str, target_path: str, seconds: float, same: tuple[str, ...], *, quiet: bool
) -> dict[str, dict[str, int]]:
    result: dict[str, dict[str, int]] = {}
    with reading(live_path, seconds=5.0, quiet=quiet) as connection:
        connection.execute("COMMIT")
        connection.execute("ATTACH ? AS target", (address(target_path, immutable=True),))
        connection.execute("BEGIN")
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 10000)
        try:
            left, right = table_names(connection), table_names(connection, "target")
            for table in sorted({*left, *right} - {*same, "sqlite_sequence"}):
                try:
                    counts = _compare(connection, table, live=table in left, target=table in right)
                except sqlite3.OperationalError as exc:
                    if "interrupt" not in str(exc):
                        raise
                    counts = {"unknown": 1}
                if any(counts.values()):
                    result[table] = counts
        finally:
            connection.set_progress_handler(None, 0)
    return result


def _compare(connection: sqlite3.Connection, table: str, *, live: bool, target: bool) -> dict[str, int]:
    def count(query: str) -> int:
        return int(connection.execute(f"SELECT count(*) FROM {query}").fetchone()[0])  # noqa: S608 - quoted names

    name = quoted(table)
    if not (live and target):
        return {
            "only_live": count(f"main.{name}") if live else 0,
            "only_target": count(f"target.{name}") if target else 0,
            "differ": 0,
        }
    ours, our_key = columns(connection, table)
    theirs, their_key = columns(connection, table, "target")
    key = [quoted(column) for column in our_key]
    if not key or our_key != their_key or _key_is_null(connection, name, key):
        alias = row_key(connection, table, ours + theirs)
        if not alias:
            return {"only_live": count(f"main.{name}"), "only_target": count(f"target.{name}"), "differ": 0}
        key = [alias]
    joined = " AND ".join(f"a.{column} IS b.{column}" for column in key)
    shared = [quoted(column) for column in ours if column in theirs]
    parts = [
        f"a.{column} COLLATE BINARY IS NOT b.{column} OR typeof(a.{column}) != typeof(b.{column})" for column in shared
    ]
    # What is there under another name, in a column that live lacks, is not lost.
    others = [f"b.{quoted(column)}" for column in theirs if column not in ours]
    parts += [
        " AND ".join(
            [somebody_wrote(connection, table, column, "a."), *(f"a.{quoted(column)} IS NOT {o}" for o in others)]
        )
        for column in ours
        if column not in theirs
    ]
    unequal = " OR ".join(f"({part})" for part in parts)
    if _numbered(connection, table, key):
        # One pass instead of three. Where each row has met one other at most, what is left over follows from the sums.
        alike = f"sum(b.{key[0]} IS NOT NULL AND ({unequal}))"
        rows, met, differ = connection.execute(
            f"SELECT count(*), count(b.{key[0]}), {alike} FROM main.{name} a LEFT JOIN target.{name} b ON {joined}"  # noqa: S608 - quoted
        ).fetchone()
        if rows == count(f"main.{name}"):
            return {"only_live": rows - met, "only_target": count(f"target.{name}") - met, "differ": differ or 0}
    return {
        "only_live": count(f"main.{name} a WHERE NOT EXISTS (SELECT 1 FROM target.{name} b WHERE {joined})"),  # noqa: S608 - quoted
        "only_target": count(f"target.{name} b WHERE NOT EXISTS (SELECT 1 FROM main.{name} a WHERE {joined})"),  # noqa: S608 - quoted
        "differ": count(f"main.{name} a JOIN target.{name} b ON {joined} WHERE {unequal}"),
    }


def _key_is_null(connection: sqlite3.Connection, name: str, key: list[str]) -> bool:
    """Say whether a row has NULL in its key, which SQLite allows, and as often as one likes."""
    null = " OR ".join(f"{column} IS NULL" for column in key)
    query = " UNION ALL ".join(f"SELECT 1 FROM {schema}.{name} WHERE {null}" for schema in ("main", "target"))  # noqa: S608
    return connection.execute(f"{query} LIMIT 1").fetchone() is not None


def _numbered(connection: sqlite3.Connection, table: str, key: list[str]) -> bool:
    """Say whether a key is the rowid on both sides: whole numbers, each once, with no order or type of their own."""
    for schema in ("main", "target"):
        described = connection.execute(f"PRAGMA {schema}.table_info({quoted(table)})").fetchall()
        if any(quoted(row[1]) == key[0] and row[2].upper() != "INTEGER" for row in described):
            return False
    null = f"SELECT EXISTS (SELECT 1 FROM main.{quoted(table)} a WHERE a.{key[0]} IS NULL)"  # noqa: S608 - quoted
    return len(key) == 1 and not connection.execute(null).fetchone()[0]
