# SPDX-License-Identifier: GPL-3.0-or-later
"""What the alembic role needs of a database, for SQLite: read revisions, count, copy aside, put a copy in place.

Copies in both directions use SQLite's online backup: readers keep reading, and after SIGKILL or power loss the
destination is wholly old or wholly new, because the writing is one transaction (https://sqlite.org/backup.html).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote

from .durable import sync_directory
from .errors import Refused, StateOther, StepFailed
from .safe_path import worker
from .sqlite_content import connect, reading
from .sqlite_health import damage

CHUNK = 256  # pages per backup step when there is something to do between steps
SPARE = 16 * 1024 * 1024


def quoted(identifier: str) -> str:
    """Return a table or column name as SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def remove_database(path: Path) -> None:
    """Remove a copy and what SQLite may have left beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")


class SqliteDatabase:
    """One SQLite file.

    finished: nobody writes it any more (a copy in the store): it is read without locks and nothing appears beside it.
    wait: seconds to wait for a lock. table: where alembic keeps the revision.
    """

    def __init__(
        self, name: str, path: Path, wait: float, *, finished: bool = False, table: str = "alembic_version"
    ) -> None:
        self.name = name
        self.path = path
        self.wait = wait
        self.finished = finished
        self.table = table

    def at(self, path: Path) -> SqliteDatabase:
        """Return a copy of this database that is at path."""
        return SqliteDatabase(self.name, path, self.wait, table=self.table)

    # -- reading -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self, *, quiet: bool = True) -> Iterator[sqlite3.Connection]:
        """Open read-only, leaving no file behind; what SQLite cannot do becomes a refusal. quiet: see steadily().

        :raises Refused: the file is missing, damaged, locked or no database.
        """
        if not self.path.is_file():
            raise Refused(
                f"{self.name}: the database {self.path} does not exist or is not readable.",
                "Correct the component's 'database', or give the connecting user access to it.",
            )
        path = str(self.path)
        opened = (
            contextlib.closing(connect(path, immutable=True))
            if self.finished
            else reading(path, seconds=self.wait, quiet=quiet)
        )
        try:
            with opened as connection:
                yield connection
        except sqlite3.Error as exc:
            raise Refused(
                f"{self.name}: {self.path} cannot be read as a SQLite database: {exc}.",
                "Check the path and its permissions; if it is damaged, restore the database instead of downgrading.",
            ) from exc

    def revisions(self) -> tuple[str, ...]:
        """Return the rows of the version table; none when it is missing or empty."""
        with self.reading() as connection:
            if "version_num" not in self._columns(connection, self.table):
                return ()
            rows = connection.execute(f"SELECT version_num FROM {quoted(self.table)}")  # noqa: S608 - quoted
            return tuple(str(row[0]) for row in rows)

    def version_tables(self) -> list[str]:
        """Return the tables that look like alembic's: one column, version_num."""
        with self.reading() as connection:
            tables = [str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return [table for table in tables if self._columns(connection, table) == {"version_num"}]

    def count_rows(self, table: str) -> int | None:
        """Return how many rows the table has; None when there is no such table."""
        with self.reading() as connection:
            if not self._columns(connection, table):
                return None
            return int(connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()[0])  # noqa: S608 - quoted

    def count_values(self, table: str, column: str) -> int | None:
        """Return how many rows have a value in the column; None when there is no such column."""
        with self.reading() as connection:
            if column not in self._columns(connection, table):
                return None
            sql = f"SELECT count({quoted(column)}) FROM {quoted(table)}"  # noqa: S608 - quoted
            return int(connection.execute(sql).fetchone()[0])

    @staticmethod
    def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
        return {str(row[1]) for row in connection.execute(f"PRAGMA table_info({quoted(table)})")}

    def damage(self) -> str:
        """Return what integrity_check finds; empty when the database is sound."""
        with self.reading() as connection:
            return damage(connection)

    def orphans(self) -> int:
        """Return how many rows point to rows that do not exist."""
        with self.reading() as connection:
            return len(connection.execute("PRAGMA foreign_key_check").fetchall())

    def bytes(self) -> int:
        """Return the size of the database file with its write-ahead log."""
        return sum(os.path.getsize(part) for part in (self.path, f"{self.path}-wal") if os.path.exists(part))

    def obstacles(self) -> list[str]:
        """Return why the database could not be changed with a copy beside it: permissions, space."""
        found = []
        folder = self.path.parent
        if not os.access(self.path, os.R_OK | os.W_OK) or not os.access(folder, os.W_OK | os.X_OK):
            found.append(f"{self.name}: this user may not write {self.path} and its directory; both are needed.")
        # One copy aside and, while it is put in place, a journal of the pages that it replaces.
        needed = 2 * self.bytes() + SPARE
        free = shutil.disk_usage(folder).free
        if free < needed:
            found.append(f"{self.name}: {folder} has {free >> 20} MiB free; {needed >> 20} MiB are needed for a copy.")
        return found

    # -- changing ----------------------------------------------------------------------------------------------------

    def copy_to(self, path: Path) -> None:
        """Make path a whole and durable copy of what is committed now; what was at path is replaced at the end."""
        temporary = path.with_name(f".{path.name}.tmp")
        remove_database(temporary)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        try:
            with self.reading() as source, contextlib.closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy, pages=-1, progress=_until(self.wait), sleep=0.05)
        except TimeoutError as exc:
            remove_database(temporary)
            raise Refused(
                f"{self.name}: {self.path} could not be copied: {exc}.", "Find out who holds it, then run this again."
            ) from exc
        except BaseException:
            remove_database(temporary)
            raise
        remove_database(path)
        os.replace(temporary, path)
        sync_directory(path.parent)

    def take_over(self, copy: Path, between: Callable[[], None]) -> None:
        """Make this database's content that of copy, in one transaction; the file stays the same file.

        between is called after each part of the writing (a failpoint).

        :raises StepFailed: when somebody holds the database longer than `wait`; it is then unchanged.
        """
        try:
            with contextlib.closing(sqlite3.connect(copy, timeout=self.wait)) as source:
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens what is beside it, as ourselves
                self._write(source, between)
        except (sqlite3.Error, TimeoutError) as exc:
            raise StepFailed(
                f"{self.name}: the copy could not be put in place of {self.path}: {exc}. The database is unchanged.",
                "Keep writers away from it (stop the application or raise 'statement_timeout') and run this again.",
            ) from exc

    def _write(self, source: sqlite3.Connection, between: Callable[[], None]) -> None:
        address = f"file:{quote(str(self.path))}?mode=rw"
        with (
            worker(str(self.path)).acting(),
            contextlib.closing(sqlite3.connect(address, uri=True, timeout=self.wait)) as live,
        ):
            source.backup(live, pages=CHUNK, progress=_until(self.wait, between), sleep=0.05)
            # Only tidies up: the write-ahead log has grown by the size of the whole database.
            with contextlib.suppress(sqlite3.Error):
                live.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextlib.contextmanager
    def watch(self) -> Iterator[Callable[[], None]]:
        """Give a function that fails when anybody has committed to the database since.

        PRAGMA data_version: https://sqlite.org/pragma.html#pragma_data_version
        """
        # Outside a transaction: inside one the answer would never change.
        with contextlib.closing(connect(str(self.path), seconds=self.wait)) as connection:
            before = connection.execute("PRAGMA data_version").fetchone()

            def unchanged() -> None:
                if connection.execute("PRAGMA data_version").fetchone() != before:
                    raise StateOther(
                        f"{self.name}: somebody wrote to {self.path} while a copy of it was migrated. Those writes are "
                        "still there: the copy was not put in place, and the schema is unchanged.",
                        "Stop what writes to the database (a worker, a cron job), then run this again.",
                    )

            yield unchanged


def _until(seconds: float, then: Callable[[], None] | None = None) -> Callable[[int, int, int], Any]:
    """Return a progress function that ends a backup which does not get on: by itself it would wait for ever."""
    state = {"left": -1, "since": time.monotonic()}

    def progress(_status: int, remaining: int, _total: int) -> None:
        if remaining != state["left"]:
            state["left"], state["since"] = remaining, time.monotonic()
        elif time.monotonic() - state["since"] > seconds:
            raise TimeoutError(f"it stayed locked for {seconds:g} seconds")
        if then is not None:
            then()

    return progress
