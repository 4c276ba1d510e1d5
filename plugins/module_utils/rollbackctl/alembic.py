# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of a database, as alembic counts it: one revision, gone down from (or up to) step by step.

Going down keeps what was written since, except in the columns and tables that the migrations drop. Undoing such a
rollback would upgrade to empty columns; so where rows were thrown away, the copy that was kept before it is put back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .alembic_command import Command
from .alembic_history import History
from .alembic_loss import count_cost
from .alembic_sqlite import SqliteDatabase, file_digest
from .alembic_steps import Walker, seconds_needed
from .alembic_ways import DOWN, NONE, PUT_BACK, UP, copy_of, find_way, irreversible, rehearse, require_known
from .component import BETWEEN, LIVE, OTHER, TARGET, Driver, Entry, Finding, Loss, Place, Version
from .durable import now
from .errors import Refused, StepFailed
from .failpoints import failpoint
from .sqlite_content import newer_rows

COPY = "database.sqlite"


class AlembicDriver(Driver):
    """One database whose schema alembic manages."""

    layer = "schema"
    failpoints = (
        "rollback_alembic.copy.before",
        "rollback_alembic.copy.after",
        "rollback_alembic.step.before",
        "rollback_alembic.step.after",
        "rollback_alembic.swap.before",
        "rollback_alembic.swap.within",
        "rollback_alembic.swap.after",
        "rollback_alembic.health.before",
    )

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        """Keep the options; nothing is read yet."""
        super().__init__(options, place)
        self.command = Command(options)
        self._history: History | None = None  # migration files do not change within one phase

    @property
    def database(self) -> SqliteDatabase:
        """The database.

        :raises Refused: it is not one that this role knows.
        """
        if not self.options.get("database"):
            raise Refused(
                f"{self.name}: 'database' is missing: the path of the SQLite file. Nothing was changed.",
                "Name it in the component; other databases are not supported by this role yet.",
            )
        wait = float(self.options.get("statement_timeout") or 30)
        path = Path(str(self.options["database"])).resolve()
        return SqliteDatabase(self.name, path, wait, table=self.command.version_table)

    @property
    def walker(self) -> Walker:
        """What goes from one revision to another on the database."""
        return Walker(self.options, self.command, self.database)

    def history(self, *needed: str) -> History:
        """Return the project's migrations, read once. needed: revisions that are looked for in env.py, too.

        :raises Refused: when they cannot be read.
        """
        if self._history is None or not self._history.revisions.keys() >= set(needed):
            self._history = self.command.history([*self.database.revisions(), *needed])
        return self._history

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a revision is exact
        """Read the revision from the database itself; the project's code is not run."""
        revisions = self.database.revisions()
        if not revisions:
            found = self.database.version_tables()
            hint = f"If its revision stands in {found[0]}, set version_table: {found[0]}. " if found else ""
            raise Refused(
                f"{self.name}: {self.database.path} has no revision: {self.database.table} is missing or empty. Either "
                "this is another database, or alembic never made its schema, or a 'downgrade base' or a broken "
                "migration emptied it. Nothing was changed.",
                f"{hint}Check the path. If it is the right one, find out which revision its tables have and write it "
                "down with 'alembic stamp REVISION', or restore the database.",
            )
        if len(revisions) > 1:
            raise Refused(
                f"{self.name}: {self.database.path} has {len(revisions)} revisions ({', '.join(revisions)}); one was "
                "expected. Several branches were applied, or a row was left behind. Nothing was changed.",
                "Merge the branches, or, if one row is wrong, remove it by 'alembic stamp --purge REVISION'; or "
                "restore the database.",
            )
        return Version({"revision": revisions[0]}, f"revision {revisions[0]}", taken=now())

    def resolve(self, want: Version | str) -> Version:
        """Return the revision to go to: a recorded one whose copy is whole, or what the operator's word means now."""
        if isinstance(want, Version):
            self._require_whole(want)
            return want
        current = ", ".join(self.database.revisions())
        revision = self.history().resolve(self.name, want, current)
        return Version({"revision": revision.id}, f"revision {revision.label}")

    def _require_whole(self, version: Version) -> None:
        copy, path = version.artefacts.get("copy"), copy_of(version)
        if copy is None or path is None:
            return
        if not path.is_file() or path.stat().st_size != copy["size"] or file_digest(path) != copy["sha256"]:
            raise Refused(
                f"{self.name}: the copy {path} that belongs to {version.text} is missing or damaged. "
                "Nothing was changed.",
                "Choose another checkpoint, or name the revision with rollback_to.",
            )

    # -- proving -----------------------------------------------------------------------------------------------------

    def check(self, live: Version, target: Version) -> Finding:
        """Prove that the migrations of every step are here and can be undone; count what they throw away."""
        facts: dict[str, Any] = {
            "strategy": self.options.get("strategy") or "propose",
            "restored_by": self.options.get("restored_by") or "",
            "reversible": True,
            "lossless": True,
        }
        here = str(live.identity["revision"])
        problems = self._obstacles()
        try:
            way = find_way(self.command, self.history, here, target)
        except Refused as refusal:
            problems.append(" ".join(part for part in (refusal.message, refusal.next_step) if part))
            return Finding(problems=tuple(problems), needs_fence=True, facts={**facts, "reversible": False})
        facts.update(direction=way.direction, steps=list(way.steps.arrivals))
        if way.direction == NONE:
            return Finding(problems=tuple(problems), facts=facts)
        if way.direction == PUT_BACK:
            return self._check_put_back(target, problems, facts)
        notes = [f"{way.direction}: {here} -> " + " -> ".join(way.steps.arrivals)]
        loss: Loss | None = None
        if way.direction == DOWN:
            obstacles = irreversible(self.name, way.steps, str(facts["restored_by"]))
            problems += obstacles
            cost = count_cost(self.database, way.steps.undone)
            loss = cost.loss(target.taken or way.steps.undone[-1].created)
            facts.update(reversible=not obstacles, lossless=cost.nothing)
            notes += [f"lost by the downgrade: {phrase}" for phrase in cost.named]
            notes += [f"not known before it runs: {phrase}" for phrase in cost.unknown]
        if way.waits:
            notes.append("the migrations of this way are not in the project now: the code has to be put forward first")
        elif not problems:
            rehearsal = rehearse(self.command, here, way)
            problems += rehearsal.problems
            notes += rehearsal.notes
            facts["sql"] = rehearsal.sql
        return self._finding(problems, loss, notes, facts, len(way.steps.arrivals))

    def _finding(
        self, problems: list[str], loss: Loss | None, notes: list[str], facts: Mapping[str, Any], steps: int
    ) -> Finding:
        size = self.database.bytes()
        per_step = float(self.options.get("timeout") or 120)
        if self.options.get("staged"):
            per_step += float(self.options.get("health_timeout") or 30)
        return Finding(
            problems=tuple(problems),
            loss=loss,
            seconds=seconds_needed(size, steps),
            # Each copy and each swap may wait for a lock as long as the statement timeout says.
            worst_seconds=60 + steps * (per_step + 2 * self.database.wait) + 20 * seconds_needed(size, 0),
            needs_fence=True,
            notes=tuple(notes),
            facts=facts,
        )

    def _obstacles(self) -> list[str]:
        """Return what stands against changing this database at all."""
        problems = self.database.obstacles() + self.command.obstacles()
        damage = self.database.damage()
        if damage:
            problems.append(f"{self.name}: {self.database.path} is damaged: {damage}. Restore it instead.")
        if self.options.get("staged") and not self.options.get("health"):
            problems.append(f"{self.name}: 'staged' needs 'health', the command to run after each step.")
        if self.options.get("strategy") == "restore" and not self.options.get("restored_by"):
            problems.append(f"{self.name}: strategy 'restore' needs 'restored_by', the component that restores it.")
        return problems

    def _check_put_back(self, target: Version, problems: list[str], facts: dict[str, Any]) -> Finding:
        tables = newer_rows(str(self.database.path), str(copy_of(target)))
        tables.pop(self.database.table, None)
        newer = {table: counts for table, counts in tables.items() if counts.get("only_live") or counts.get("unknown")}
        differ = {table: counts for table, counts in tables.items() if counts.get("differ")}
        facts.update(direction="put_back", steps=[target.identity["revision"]], lossless=not (newer or differ))
        notes = [f"an upgrade would leave dropped columns empty, so the copy of {target.taken} is put back"]
        loss = None
        if newer or differ:
            phrases = [f"{counts.get('only_live', '?')} rows of {table}" for table, counts in newer.items()]
            phrases += [f"changes to {counts['differ']} rows of {table}" for table, counts in differ.items()]
            loss = Loss(since=target.taken, text=f"{', '.join(phrases)} written since {target.taken}", tables=tables)
        return self._finding(problems, loss, notes, facts, 1)

    def ready(self) -> list[str]:
        """Try the project's alembic, without a step, unless the profile leaves the schema to a restore."""
        if self.options.get("strategy") == "restore":
            return []
        try:
            here = str(self.live(exact=True).identity["revision"])
            require_known(self.command, self.history(), here)
            problem = "" if self.command.obstacles() else self.command.try_out(here)
        except Refused as refusal:
            problem = " ".join(part for part in (refusal.message, refusal.next_step) if part)
        return [*self._obstacles(), *([problem] if problem else [])]

    # -- changing ----------------------------------------------------------------------------------------------------

    def stage(self, target: Version) -> None:
        """Migrate a copy while traffic still flows: a step that fails is found out here."""
        here = str(self.live(exact=True).identity["revision"])
        way = find_way(self.command, self.history, here, target)
        if way.waits or way.direction not in {DOWN, UP}:
            return
        try:
            self.walker.migrate_aside(way.steps.arrivals, forward=way.steps.forward)
        except StepFailed as error:
            raise Refused(f"{error.message} Nothing was changed.", error.next_step) from error
        finally:
            self.walker.clean_up()

    def record(self, into: Path) -> Version:
        """Keep the revision, a copy of the database, and which migrations it is made of."""
        reading = self.live(exact=True)
        path = into / COPY
        taken = now()
        self.database.copy_to(path)
        revision = str(reading.identity["revision"])
        history: list[dict[str, Any]] = []
        with contextlib.suppress(Refused):  # without the migrations the copy alone is still worth keeping
            history = self.history().ancestry(revision)
        copy = {"file": COPY, "size": path.stat().st_size, "sha256": file_digest(path)}
        return Version(
            {"revision": revision}, f"revision {revision}", taken, {"copy": copy, "history": history}, str(into)
        )

    def apply(self, target: Version) -> None:
        """Go to the target step by step, or put the recorded copy back where an upgrade could not bring rows back."""
        walker = self.walker
        here = str(self.live(exact=True).identity["revision"])
        way = find_way(self.command, self.history, here, target)
        copy = copy_of(target)
        if way.direction == NONE:
            walker.clean_up()
        elif way.direction == PUT_BACK and copy is not None:
            self._require_whole(target)
            failpoint("rollback_alembic.swap.before")
            self.database.take_over(copy, lambda: failpoint("rollback_alembic.swap.within"))
            failpoint("rollback_alembic.swap.after")
        else:
            problems = irreversible(self.name, way.steps, str(self.options.get("restored_by") or ""))
            if way.waits:
                problems.append(f"{self.name}: the migrations up to {target.text} are not in {self.command.project}.")
            if problems:
                raise Refused(" ".join(problems) + " Nothing was changed by this step.")
            walker.walk(way.steps)

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        """Read the component against the plan; a revision on the way between live and target can go on."""
        reading = self.live(exact=True)
        if self.matches(reading, entry.target, exact=not opened):
            return TARGET, reading
        if self.matches(reading, entry.live, exact=False):
            return LIVE, reading
        here = reading.identity["revision"]
        # From the plan, not from the project: the application's code may have been put back already.
        return (BETWEEN if here in entry.finding.facts.get("steps", ()) else OTHER), reading

    def finalize(self) -> list[str]:
        """Remove what a killed run may have left beside the database."""
        return self.walker.clean_up()
