# SPDX-License-Identifier: GPL-3.0-or-later
"""Goes from one revision to another, so that being killed at any moment does no harm.

SQLite commits each DDL statement by itself under most drivers, so a killed migration can leave half of itself behind
(https://alembic.sqlalchemy.org/en/latest/batch.html, "transactional DDL"). Two ways around that:

* Aside: a copy is migrated and proven, then put in place in one transaction. Needs an env.py that takes the database's
  address from an environment variable (`url_environment`).
* InPlace: before each step a copy is taken and a mark is written; whoever finds the mark puts the copy back first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .alembic_command import Command
from .alembic_history import Steps
from .alembic_sqlite import SqliteDatabase, remove_database
from .durable import read_document, sync_directory, write_document
from .errors import RollbackError, StepFailed
from .failpoints import failpoint


class Walker:
    """Walks steps on one database. Names beside the database do not depend on the run: the next run finds them."""

    def __init__(self, options: Mapping[str, Any], run: str, command: Command, database: SqliteDatabase) -> None:
        self.options = options
        self.run = run
        self.name: str = options["name"]
        self.command = command
        self.database = database
        folder, file = database.path.parent, database.path.name
        self.aside = folder / f".{file}.rollbackctl-aside"
        self.before = folder / f".{file}.rollbackctl-before"
        self.mark = folder / f".{file}.rollbackctl-step.json"

    # -- reading -----------------------------------------------------------------------------------------------------

    def unfinished(self) -> dict[str, Any]:
        """Return the in-place step that was begun and not ended: from, to, run; empty when there is none."""
        return read_document(self.mark) or {}

    # -- walking -----------------------------------------------------------------------------------------------------

    def walk(self, steps: Steps) -> None:
        """Take all steps; in staged mode the service's health is checked after each.

        :raises StepFailed: a step or a health check failed; the message says at which revision the database is.
        """
        staged = bool(self.options.get("staged"))
        if not self.options.get("url_environment"):
            for arrival in steps.arrivals:
                self._step_in_place(arrival, forward=steps.forward)
                if staged:
                    self._health(arrival)
            return
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

    def migrate_aside(self, arrivals: tuple[str, ...], *, forward: bool) -> None:
        """Make a copy beside the database that is at the last of the arrivals, and prove that it is sound.

        :raises StepFailed: a migration failed; the database itself was not touched.
        """
        failpoint("rollback_alembic.copy.before")
        self.database.copy_to(self.aside)
        failpoint("rollback_alembic.copy.after")
        copy = SqliteDatabase(self.name, self.aside, self.database.wait)
        orphans = copy.orphans()
        more = {str(self.options["url_environment"]): copy.url()}
        try:
            failpoint("rollback_alembic.step.before")
            # All steps at once: the copy is thrown away unless it ends where it should.
            self._alembic(arrivals[-1], copy, more, forward=forward)
            failpoint("rollback_alembic.step.after")
            problem = copy.damage()
            if not problem and copy.orphans() > orphans:
                problem = f"{copy.orphans() - orphans} rows would point to rows that no longer exist"
            if problem:
                raise StepFailed(f"{self.name}: after the migration {problem}.")
        except RollbackError as error:
            remove_database(self.aside)
            raise StepFailed(
                f"{error.message} This happened on a copy: the database itself was not touched.",
                error.next_step or "Restore the database instead, or go to another revision.",
            ) from error

    def _step_in_place(self, arrival: str, *, forward: bool) -> None:
        start = ", ".join(self.database.revisions())
        failpoint("rollback_alembic.copy.before")
        self.database.copy_to(self.before)
        failpoint("rollback_alembic.copy.after")
        write_document(self.mark, {"run": self.run, "from": start, "to": arrival})
        failpoint("rollback_alembic.step.before")
        try:
            self._alembic(arrival, self.database, {}, forward=forward)
        except RollbackError as error:
            self.mend()
            raise StepFailed(
                f"{error.message} The database is whole and at revision {start}: the copy from before this step was "
                "put back.",
                error.next_step or "Restore the database instead, or go to another revision.",
            ) from error
        failpoint("rollback_alembic.step.after")
        self.clean_up()

    def mend(self) -> None:
        """Put back the copy from before a step that was begun and not ended; nothing when there is no such step."""
        if not self.unfinished():
            return
        failpoint("rollback_alembic.mend.before")
        self.database.take_over(self.before, lambda: failpoint("rollback_alembic.mend.within"))
        failpoint("rollback_alembic.mend.after")
        self.clean_up()

    def clean_up(self) -> list[str]:
        """Remove mark and copies beside the database, the mark first; return what was there."""
        there = [str(path) for path in (self.mark, self.before, self.aside) if path.exists()]
        if self.mark.exists():
            os.unlink(self.mark)
            sync_directory(self.mark.parent)
        remove_database(self.before)
        remove_database(self.aside)
        return there

    # -- one command -------------------------------------------------------------------------------------------------

    def _alembic(self, arrival: str, database: SqliteDatabase, more: Mapping[str, str], *, forward: bool) -> None:
        verb = "upgrade" if forward else "downgrade"
        ended, _ = self.command.alembic([verb, arrival], more=more)
        if ended.code != 0:
            raise StepFailed(f"{self.name}: 'alembic {verb} {arrival}' failed (exit {ended.code}): {ended.tail}.")
        reading = database.revisions()
        if reading != (arrival,):
            raise StepFailed(
                f"{self.name}: 'alembic {verb} {arrival}' reported success, but {database.path} reads "
                f"{', '.join(reading) or 'no revision'}. Does env.py use another database?",
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
                f"(exit {ended.code}): {ended.tail}. The database is whole and at revision {arrival}; "
                "no further step was taken.",
                "Find out what the check wants; resume this run to go on, or undo it to go back.",
            )


def seconds_needed(size: int, steps: int) -> float:
    """Estimate the duration of so many steps on a database of `size` bytes: interpreter starts and copies."""
    return round(0.8 * steps + 3 * size / (200 * 1024 * 1024), 1)
