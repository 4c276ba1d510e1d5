# SPDX-License-Identifier: GPL-3.0-or-later
"""What going along migrations costs: what the live database holds and the result lacks, what a checkpoint holds and is
not brought back, and what cannot be known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from .alembic_history import Change, Revision
from .alembic_sqlite import SqliteDatabase
from .component import Loss
from .sqlite_compare import Difference


@dataclasses.dataclass(frozen=True)
class Cost:
    """What going along a line of migrations costs.

    lost: what the live database holds, the result lacks, and the way back would not give again.
    missing: what a checkpoint of the target's revision holds and is not brought back.
    differs: all that the result lacks of the live database, also what only the newer schema has; None: not tried out.
    tables: rows and values per table, as a Loss has them.
    named: phrases of what is lost where the migrations were only read, not tried out.
    unknown: what cannot be known before it runs, or at all.
    """

    lost: Difference = dataclasses.field(default_factory=Difference)
    missing: Difference = dataclasses.field(default_factory=Difference)
    differs: Difference | None = None
    tables: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    named: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def lost_phrases(self) -> list[str]:
        """What is lost, in words."""
        return [*self.named, *self.lost.phrases()]

    @property
    def nothing(self) -> bool:
        """Nothing is lost or missing, and that is certain."""
        return not (self.lost_phrases or self.missing.phrases() or self.unknown)

    def loss(self, since: str, verb: str, held_by: str) -> Loss | None:
        """Return the statement that the plan makes; None when nothing is lost.

        :param verb: what is done: "downgrade" or "upgrade".
        :param held_by: who holds what is missing, e.g. "the checkpoint of 2026-11-21T09:30:15Z".
        """
        if self.nothing:
            return None
        text = loss_text(verb, self.lost_phrases, held_by, self.missing.phrases(), self.unknown)
        return Loss(since=since, text=text, tables={**self.missing.tables(), **self.tables})


def loss_text(verb: str, lost: Sequence[str], held_by: str, missing: Sequence[str], unknown: Sequence[str]) -> str:
    """Return one line about what going along migrations costs."""
    parts = []
    if lost:
        parts.append(f"the {verb} throws away {', '.join(lost)}")
    if missing:
        parts.append(f"it does not bring back what {held_by} holds: {', '.join(missing)}")
    if unknown:
        parts.append(f"what cannot be known: {'; '.join(unknown)}")
    return "; ".join(parts)


def read_cost(database: SqliteDatabase, undone: Sequence[Revision], why: str) -> Cost:
    """Read from the source of migrations what undoing them destroys, where they cannot be tried out: never certain.

    A column or table that is dropped but is not there now may have been renamed on the way.

    :param why: why they cannot be tried out; empty where that goes without saying.
    :raises Refused: when the database cannot be read.
    """
    lost: dict[str, int] = {}
    named: list[str] = []
    unknown = [why] if why else []
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
    return Cost(tables=tables, named=tuple(named), unknown=tuple(unknown))


def destroyed_before(undone: Sequence[Revision], rows: Mapping[str, int] | None = None) -> list[str]:
    """Return what the upgrade() of migrations may have destroyed when it ran: what was there is in no checkpoint.

    :param rows: per table, how many rows were lost when it was run now, on a copy.
    """
    found = [
        f"what revision {revision.id} destroyed when it was upgraded to is in no checkpoint: {', '.join(risks)}"
        for revision in undone
        if (risks := _risks(revision.upgrade))
    ]
    for table, count in (rows or {}).items():
        found.append(f"the upgrade that is undone throws rows of {table} away ({count:,} of those that are there now)")
    return found


def _risks(change: Change) -> list[str]:
    return [
        *(f"it drops table {table}" for table in change.tables),
        *(f"it drops column {table}.{column}" for table, column in change.columns),
        *change.unknown,
    ]
