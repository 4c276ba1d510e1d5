# SPDX-License-Identifier: GPL-3.0-or-later
"""Goes from one revision to another, so that being killed at any moment does no harm.

SQLite commits each DDL statement by itself under most drivers, so a killed migration can leave half of itself behind
(https://alembic.sqlalchemy.org/en/latest/batch.html, "transactional DDL"). So a copy is migrated and proven, and then
put in place in one transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .alembic_command import Command
from .alembic_history import Steps
from .alembic_owner import cannot_write
from .alembic_sqlite import SqliteDatabase, remove_database
from .errors import RollbackError, StepFailed
from .failpoints import failpoint


class Walker:
    """Walks steps on one database. aside: where the copy is made; by default beside the database, under a name that
    does not depend on the run, so that the next run finds it."""

    def __init__(
        self, options: Mapping[str, Any], command: Command, database: SqliteDatabase, aside: Path | None = None
    ) -> None:
        self.options = options
        self.name: str = options["name"]
        self.command = command
        self.database = database
        self.aside = aside or database.path.parent / f".{database.path.name}.rollbackctl-aside"

    def walk(self, steps: Steps) -> None:
        """Take all steps, in one process; in staged mode one at a time, with the service's health checked after each.

        :raises StepFailed: a step or a health check failed; the message says at which revision the database is.
        """
        with self.command.owner.acting():
            self._walk(steps)

    def _walk(self, steps: Steps) -> None:
        staged = bool(self.options.get("staged"))
        groups = [(arrival,) for arrival in steps.arrivals] if staged else [steps.arrivals]
        for group in groups:
            with self.database.watch() as unchanged:
                self.migrate_aside(group, forward=steps.forward)
                unchanged()
                failpoint("rollback_alembic.swap.before")
                self.database.take_over(self.aside, lambda: failpoint("rollback_alembic.swap.within"))
            failpoint("rollback_alembic.swap.after")
            self.clean_up()
            if staged:
                self._health(group[-1])

    def migrate_aside(self, arrivals: tuple[str, ...], *, forward: bool) -> float:
        """Make a copy beside the database that is at the last of the arrivals, and prove that it is sound.

        :returns: how long it took, in seconds.
        :raises StepFailed: a migration failed; the database itself was not touched.
        """
        began = time.monotonic()
        with self.command.owner.acting():
            self._migrate_aside(arrivals, forward=forward)
        return time.monotonic() - began

    def _migrate_aside(self, arrivals: tuple[str, ...], *, forward: bool) -> None:
        problem = cannot_write(self.command.owner, str(self.database.path))
        if problem:
            raise StepFailed(f"{self.name}: {problem}")
        failpoint("rollback_alembic.copy.before")
        self.database.copy_to(self.aside)
        failpoint("rollback_alembic.copy.after")
        copy = self.database.at(self.aside)
        try:
            failpoint("rollback_alembic.step.before")
            # All steps at once: the copy is thrown away unless it ends where it should.
            self.migrate_copy(copy, (arrivals[-1], forward))
            failpoint("rollback_alembic.step.after")
        except RollbackError as error:
            remove_database(self.aside)
            raise StepFailed(
                f"{error.message} This happened on a copy: the database itself was not touched.",
                error.next_step or "Restore the database instead, or go to another revision.",
            ) from error

    def migrate_copy(self, copy: SqliteDatabase, *legs: tuple[str, bool]) -> None:
        """Migrate a copy where it is, and prove that it is sound afterwards.

        :param legs: where to go, one after the other, and whether that is forward.
        :raises StepFailed: it is at the arrival only in part, or damaged.
        """
        orphans = copy.orphans()
        for arrival, forward in legs:
            self._alembic(arrival, copy, forward=forward)
        problem = copy.damage()
        if not problem and copy.orphans() > orphans:
            problem = f"{copy.orphans() - orphans} rows would point to rows that no longer exist"
        if problem:
            raise StepFailed(f"{self.name}: after the migration {problem}.")

    def clean_up(self) -> list[str]:
        """Remove the copy beside the database; return what was there."""
        with self.command.owner.acting():
            there = [str(self.aside)] if self.aside.exists() else []
            remove_database(self.aside)
        return there

    # -- one command -------------------------------------------------------------------------------------------------

    def _alembic(self, arrival: str, copy: SqliteDatabase, *, forward: bool) -> None:
        verb = "upgrade" if forward else "downgrade"
        self.command.go(verb, arrival, copy.path)
        reading = copy.revisions()
        if reading != (arrival,):
            raise StepFailed(
                f"{self.name}: the {verb} to {arrival} reported success, but the copy reads "
                f"{', '.join(reading) or 'no revision'}. Does it use another database?",
                "Compare the component's 'database' with the address in env.py or alembic.ini.",
            )

    def _health(self, arrival: str) -> None:
        """Run the service's own check.

        :raises StepFailed: it failed; the step before it holds.
        """
        argv = [str(word) for word in self.options.get("health") or []]
        failpoint("rollback_alembic.health.before")
        seconds = float(self.options.get("health_timeout") or 30)
        ended = self.command.run(argv, merge=True, seconds=seconds)
        if ended.code != 0:
            raise StepFailed(
                f"{self.name}: after the step to revision {arrival} the health check {json.dumps(argv)} failed "
                f"(exit {ended.code}): {self.command.last_words(ended)}. "
                f"The database is whole and at revision {arrival}; no further step was taken.",
                "Find out what the check wants; resume this run to go on, or undo it to go back.",
            )


def seconds_needed(size: int, steps: int) -> float:
    """Estimate the duration of so many steps on a database of `size` bytes: interpreter starts and copies.

    For what was not tried out; where it was, its own measure takes the place of the steps.
    """
    return round(0.8 * steps + 3 * size / (200 * 1024 * 1024), 1)
