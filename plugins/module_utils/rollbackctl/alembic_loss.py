# SPDX-License-Identifier: GPL-3.0-or-later
"""What undoing migrations throws away: what their source drops, counted in the database as it is now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from .alembic_history import Revision
from .alembic_sqlite import SqliteDatabase
from .component import Loss


@dataclasses.dataclass(frozen=True)
class Cost:
    """What going down a line of migrations costs.

    tables: per table, how many rows (or values of dropped columns) are lost: {"only_live": 12}.
    named: one phrase for each thing that is lost, e.g. "12 values of column orders.note".
    unknown: what only running the migration can tell.
    """

    tables: Mapping[str, Mapping[str, int]]
    named: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Nothing is lost, and that is certain."""
        return not self.named and not self.unknown

    def loss(self, since: str) -> Loss | None:
        """Return the statement that the plan makes; None when nothing is lost."""
        if self.nothing:
            return None
        parts = []
        if self.named:
            parts.append("the downgrade throws away " + ", ".join(self.named))
        if self.unknown:
            parts.append("what cannot be counted: " + "; ".join(self.unknown))
        return Loss(since=since, text="; ".join(parts), tables=self.tables)


def count_cost(database: SqliteDatabase, undone: Sequence[Revision]) -> Cost:
    """Count what undoing these migrations destroys in the database as it is now.

    A column or table that is dropped but is not there now may have been renamed on the way: unknown, not nothing.

    :raises Refused: when the database cannot be read.
    """
    lost: dict[str, int] = {}
    named: list[str] = []
    unknown: list[str] = []
    dropped = {table for revision in undone for table in revision.downgrade.tables}
    for revision in undone:
        unknown += [f"revision {revision.id}, {text}" for text in revision.downgrade.unknown]
        for table in revision.downgrade.tables:
            rows = database.count_rows(table)
            if rows is None:
                unknown.append(f"revision {revision.id} drops table {table}, which is not there now")
            elif rows:
                lost[table] = max(rows, lost.get(table, 0))
                named.append(f"table {table} with {rows} rows")
        for table, column in revision.downgrade.columns:
            if table in dropped:
                continue
            values = database.count_values(table, column)
            if values is None:
                unknown.append(f"revision {revision.id} drops column {table}.{column}, which is not there now")
            elif values:
                lost[table] = max(values, lost.get(table, 0))
                named.append(f"{values} values of column {table}.{column}")
    tables = {table: {"only_live": count} for table, count in sorted(lost.items())}
    return Cost(tables, tuple(named), tuple(unknown))
