# SPDX-License-Identifier: GPL-3.0-or-later
"""What one SQLite database holds that another one lacks: rows, values, and what the schema promises.

Both are files that nobody writes (private copies), so nothing is locked and nothing appears beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import marshal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .sqlite_content import address, columns, connect, quoted, row_key, somebody_wrote, table_names
from .sqlite_schema import found_by_number, lacking, promises

SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Difference:
    """What the first of two databases holds and the second lacks; the other direction is not looked at.

    rows, changed: per table, how many rows are gone, and how many have other values in the columns that both have.
    values: per (table, column) that the second lacks, how many rows have a value in it that is no constant default.
    numbers: per table with AUTOINCREMENT, how many numbers it gave and would not give again, and the second would.
    objects: what the schema of the first promises and that of the second does not; for tables and columns as well.
    unknown: tables that could not be compared, or not in time.
    """

    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    changed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    values: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    objects: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def data(self) -> bool:
        """Whether rows or values differ, or may."""
        return bool(self.rows or self.changed or self.values or self.numbers or self.unknown)

    def also_in(self, other: Difference) -> Difference:
        """Return what this and another difference have in common, in rows and values: what is neither there nor got
        again."""
        return dataclasses.replace(
            self,
            rows={name: min(n, other.rows[name]) for name, n in self.rows.items() if name in other.rows},
            changed={name: min(n, other.changed[name]) for name, n in self.changed.items() if name in other.changed},
            values={key: min(n, _of_column(other, *key)) for key, n in self.values.items() if _of_column(other, *key)},
            numbers={name: min(n, other.numbers[name]) for name, n in self.numbers.items() if name in other.numbers},
        )

    def phrases(self) -> list[str]:
        """Return one phrase for each thing, rows and values first."""
        found = [f"{count:,} rows of {table}" for table, count in sorted(self.rows.items())]
        found += [f"the values of {count:,} rows of {table}" for table, count in sorted(self.changed.items())]
        found += [f"{n:,} values of column {table}.{column}" for (table, column), n in sorted(self.values.items())]
        found += [
            f"{count:,} numbers of {table}, which would be given to new rows again"
            for table, count in sorted(self.numbers.items())
        ]
        found += self.objects
        return found + [f"{table} (it could not be compared, or not in time)" for table in self.unknown]

    def kinds(self) -> set[str]:
        """Return what it is about, without amounts: so that more of the same is told from something else."""
        return {
            *(f"rows {table}" for table in self.rows),
            *(f"changed {table}" for table in self.changed),
            *(f"values {table}.{column}" for table, column in self.values),
            *(f"object {name}" for name in self.objects),
            *(f"unknown {table}" for table in self.unknown),
            *(f"numbers {table}" for table in self.numbers),
        }

    def only(self, kinds: set[str]) -> Difference:
        """Return the part of it that is of these kinds."""
        return Difference(
            {name: count for name, count in self.rows.items() if f"rows {name}" in kinds},
            {name: count for name, count in self.changed.items() if f"changed {name}" in kinds},
            {key: count for key, count in self.values.items() if f"values {key[0]}.{key[1]}" in kinds},
            tuple(name for name in self.objects if f"object {name}" in kinds),
            tuple(name for name in self.unknown if f"unknown {name}" in kinds),
            {name: count for name, count in self.numbers.items() if f"numbers {name}" in kinds},
        )

    def tables(self) -> dict[str, dict[str, int]]:
        """Return the amounts by table as a Loss has them."""
        found: dict[str, dict[str, int]] = {}
        for table in sorted({*self.rows, *self.changed, *(table for table, _ in self.values), *self.unknown}):
            values = max((n for (name, _), n in self.values.items() if name == table), default=0)
            counts = {
                "only_live": max(self.rows.get(table, 0), values),
                "differ": self.changed.get(table, 0),
                "unknown": int(table in self.unknown),
            }
            found[table] = {key: count for key, count in counts.items() if count}
        return found


def _of_column(other: Difference, table: str, column: str) -> int:
    """Return how many values of a column another difference may have lost: of the column, or of its rows as a whole."""
    return max(other.values.get((table, column), 0), other.changed.get(table, 0), other.rows.get(table, 0))


def compare(
    first: str, second: str, *, seconds: float = SECONDS, strict: bool = True, without: Iterable[str] = ()
) -> Difference:
    """Return what the database at the path first holds that the one at second lacks.

    :param seconds: the limit for all tables together.
    :param strict: 1 and '1' differ; without, they do not: a column that changes its type keeps what was in it.
    :param without: tables that do not count, e.g. alembic's own.
    :raises sqlite3.DatabaseError: one of them cannot be read.
    """
    skipped = {name.lower() for name in without} | {"sqlite_sequence"}
    rows: dict[str, int] = {}
    changed: dict[str, int] = {}
    values: dict[tuple[str, str], int] = {}
    unknown = []
    with contextlib.closing(connect(second, immutable=True)) as other:
        kept = promises(other, without=skipped)
    with contextlib.closing(connect(first, immutable=True)) as connection:
        objects = lacking(promises(connection, without=skipped), kept)
        connection.execute("ATTACH ? AS target", (address(second, immutable=True),))
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 10000)
        names = {name.lower(): name for name in table_names(connection, "target")}
        numbers = _numbers(connection, {name: other for name, other in names.items() if name not in skipped})
        numbered = found_by_number(connection)
        for table in table_names(connection):
            if table.lower() in skipped:
                continue
            try:
                both = _Table(connection, table, names.get(table.lower(), ""), deadline)
                if table.lower() in numbered:
                    both.by_number()
                counts = both.compare(strict=strict)
            except (sqlite3.OperationalError, TimeoutError):  # or it needs a collation that only the application has
                unknown.append(table)
                continue
            rows[table], changed[table] = counts[:2]
            values.update({(table, column): count for column, count in counts[2].items()})
    return Difference(_some(rows), _some(changed), _some(values), objects, tuple(unknown), _some(numbers))


def _numbers(connection: sqlite3.Connection, others: Mapping[str, str]) -> dict[str, int]:
    """Return per table how many numbers AUTOINCREMENT gave and the target would give again; others: its tables."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        return {}
    counters: dict[str, int] = {}
    if connection.execute("SELECT 1 FROM target.sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        counters = dict(connection.execute("SELECT lower(name), seq FROM target.sqlite_sequence"))
    found = {}
    for table, given in connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall():
        other = others.get(table.lower())
        alias = row_key(connection, other, columns(connection, other, "target")[0], "target") if other else ""
        if other and alias:
            query = f"SELECT max({alias}) FROM target.{quoted(other)}"  # noqa: S608 - quoted
            highest = connection.execute(query).fetchone()[0] or 0
            found[table] = max(0, given - max(highest, counters.get(table.lower(), 0)))
    return found


def _some(counts: Mapping[Any, int]) -> dict[Any, int]:
    return {key: count for key, count in counts.items() if count}


class _Table:
    """One table of the first database, and that of the same name in the second ("" where it has none)."""

    def __init__(self, connection: sqlite3.Connection, table: str, other: str, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.ours, self.theirs = f"main.{quoted(table)}", f"target.{quoted(other)}"
        self.names, self.key = columns(connection, table)
        theirs, key = columns(connection, other, "target") if other else ([], [])
        there = {name.lower() for name in theirs}
        self.table, self.other = table, other
        self.shared = [name for name in self.names if name.lower() in there]
        self.same_key = bool(self.key) and [one.lower() for one in self.key] == [one.lower() for one in key]
        self.gone = [name for name in self.names if name.lower() not in there]

    def by_number(self) -> None:
        """Tell rows apart by their numbers, because something else finds them by these."""
        ours = row_key(self.connection, self.table, self.names)
        theirs = row_key(self.connection, self.other, self.shared, "target") if self.other else ""
        if ours and ours == theirs:
            self.key, self.same_key = [ours], True

    def count(self, query: str) -> int:
        return int(self.connection.execute(f"SELECT count(*) FROM {query}").fetchone()[0])  # noqa: S608 - quoted names

    def compare(self, *, strict: bool) -> tuple[int, int, dict[str, int]]:
        """Return rows that are gone, rows that changed, and values by column that is gone."""
        if not self.other or not self.shared:
            return self.count(self.ours), 0, {}
        values = {column: self._values(column) for column in self.gone}
        if not self.same_key or self._key_is_null():
            return self._as_a_bag(), 0, values
        joined = " AND ".join(f"a.{quoted(column)} IS b.{quoted(column)}" for column in self.key)
        gone = self.count(f"{self.ours} a WHERE NOT EXISTS (SELECT 1 FROM {self.theirs} b WHERE {joined})")  # noqa: S608 - quoted
        unequal = " OR ".join(_unequal(quoted(name), strict=strict) for name in self.shared)
        return gone, self.count(f"{self.ours} a JOIN {self.theirs} b ON {joined} WHERE {unequal}"), values

    def _key_is_null(self) -> bool:
        """Say whether a row has NULL in its key, which SQLite allows, and as often as one likes."""
        null = " OR ".join(f"{quoted(name)} IS NULL" for name in self.key)
        return any(self.count(f"{table} WHERE {null} LIMIT 1") for table in (self.ours, self.theirs))

    def _values(self, column: str) -> int:
        return self.count(f"{self.ours} WHERE {somebody_wrote(self.connection, self.table, column)}")

    def _as_a_bag(self) -> int:
        """Count rows without a key of their own by all that both sides have of them: row numbers are given anew when a
        table is written anew."""
        listed = ", ".join(quoted(name) for name in self.shared)
        ours = self._bag(f"SELECT {listed} FROM {self.ours}")  # noqa: S608 - quoted
        ours.subtract(self._bag(f"SELECT {listed} FROM {self.theirs}"))  # noqa: S608 - quoted
        return sum(count for count in ours.values() if count > 0)

    def _bag(self, query: str) -> Counter[bytes]:
        bag: Counter[bytes] = Counter()
        self.connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        try:
            for row in self.connection.execute(query):
                bag[hashlib.blake2b(marshal.dumps(row, 2), digest_size=16).digest()] += 1
                if time.monotonic() > self.deadline:
                    raise TimeoutError
        finally:
            self.connection.text_factory = str
        return bag


def _unequal(column: str, *, strict: bool) -> str:
    differ = f"a.{column} COLLATE BINARY IS NOT b.{column}"
    if strict:
        return f"({differ} OR typeof(a.{column}) != typeof(b.{column}))"
    # As a text a number has 15 digits, of the 17 that it may take.
    text = f"CAST(a.{column} AS TEXT) COLLATE BINARY IS NOT CAST(b.{column} AS TEXT)"
    # No type of a column makes bytes of a text, or a text of bytes.
    bytes_ = f"(typeof(a.{column}) = 'blob') != (typeof(b.{column}) = 'blob')"
    return f"({differ} AND ({text} OR {bytes_} OR CAST(a.{column} AS REAL) IS NOT CAST(b.{column} AS REAL)))"
