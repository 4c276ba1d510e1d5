# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of a database, as alembic counts it: one revision, gone down from (or up to) step by step.

Going down keeps what was written since, except what the migrations destroy. What that is, in either direction, is found
out on copies (alembic_trial.py). Where an upgrade would not bring back what a rollback threw away, undoing it puts the
copy back that was kept before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .alembic_command import Command
from .alembic_history import History
from .alembic_loss import Cost, destroyed_before, loss_text, read_cost
from .alembic_sqlite import SqliteDatabase, file_digest
from .alembic_steps import Walker, seconds_needed
from .alembic_trial import Trial, differs_now, try_out, why_not
from .alembic_ways import (
    DOWN,
    NONE,
    PUT_BACK,
    UP,
    Way,
    copy_of,
    find_way,
    irreversible,
    put_back,
    rehearse,
    require_known,
    thrown_away,
)
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
            way = self._way(here, target)
        except Refused as refusal:
            problems.append(" ".join(part for part in (refusal.message, refusal.next_step) if part))
            return Finding(problems=tuple(problems), needs_fence=True, facts={**facts, "reversible": False})
        facts.update(direction=way.direction, steps=list(way.steps.arrivals))
        if way.direction == NONE:
            return Finding(problems=tuple(problems), facts=facts)
        if way.direction == PUT_BACK:
            return self._check_put_back(target, way.why, problems, facts)
        notes = [f"{way.direction}: {here} -> " + " -> ".join(way.steps.arrivals)]
        obstacles = irreversible(self.name, way.steps, str(facts["restored_by"]))
        problems += obstacles
        if way.waits:
            notes.append("the migrations of this way are not in the project now: the code has to be put forward first")
        elif not problems:
            rehearsal = rehearse(self.command, here, way)
            problems += rehearsal.problems
            notes += rehearsal.notes
            facts["sql"] = rehearsal.sql
        way, trial = self._tried_out(here, target, way, sound=not problems)
        if way.direction == PUT_BACK:
            return self._check_put_back(target, way.why, problems, facts)
        problems += trial.problems
        cost, reference = trial.cost, self._reference(target)
        since = target.taken or (way.steps.undone[-1].created if way.steps.undone else "")
        held_by = f"the checkpoint of {reference.taken}" if reference else "a checkpoint"
        facts.update(reversible=not obstacles, lossless=cost.nothing and not problems, lost=sorted(cost.lost.kinds()))
        facts["differs"] = sorted(cost.differs.kinds()) if cost.differs else None
        facts.update(held_by=held_by, missing=cost.missing.phrases(), unknown=list(cost.unknown))
        notes += [f"lost by the {way.direction}: {phrase}" for phrase in cost.lost_phrases]
        notes += [f"not brought back: {phrase}" for phrase in cost.missing.phrases()]
        notes += [f"cannot be known: {phrase}" for phrase in cost.unknown]
        loss = cost.loss(since, way.direction, held_by)
        return self._finding(problems, loss, notes, facts, len(way.steps.arrivals), trial.seconds)

    def _way(self, here: str, target: Version) -> Way:
        """Return the way to the target; where the migrations cannot be read, that of the copy which a run kept.

        :raises Refused: there is none.
        """
        try:
            return find_way(self.command, self.history, here, target)
        except Refused:
            if thrown_away(self.name, here, target) is None:
                raise
            return put_back(target, f"no upgrade to {target.text} can be read in {self.command.project} now")

    def _planned_way(self, here: str, target: Version) -> Way:
        """Return the way that the plan chose; for a target that is not the plan's (it is taken back) choose it now."""
        way = self._way(here, target)
        if way.direction != UP or copy_of(target) is None:
            return way
        if self.entry is not None and self.entry.target.identity == target.identity:
            return put_back(target) if self.entry.finding.facts.get("direction") == PUT_BACK else way
        return self._tried_out(here, target, way, sound=True)[0]

    def _reference(self, target: Version) -> Version | None:
        """Return what holds the database at the target's revision: the target, or the newest checkpoint that does."""
        for version in (target, *self.known):
            copy = copy_of(version)
            if copy is not None and copy.is_file() and version.identity == target.identity:
                with contextlib.suppress(Refused):
                    self._require_whole(version)
                    return version
        return None

    def _tried_out(self, here: str, target: Version, way: Way, *, sound: bool) -> tuple[Way, Trial]:
        """Say what a way costs: by going it on copies, or where that cannot be by reading its migrations. An upgrade
        that would not bring back what the target's copy holds becomes the way that puts that copy back.

        :param sound: env.py takes the address of a copy, and nothing else stands against going this way.
        """
        recorded = way.direction == UP and copy_of(target) is not None
        why = why_not(self.database)
        if sound and not why and not way.waits:
            reference = self._reference(target)
            trial = try_out(self.walker, here, way.steps, copy_of(reference) if reference else None)
            if recorded and (trial.problems or trial.cost.missing.phrases()):
                return put_back(target), Trial((), Cost())
            return way, trial
        cost = thrown_away(self.name, here, target) if recorded else None
        if cost is not None and cost.lost_phrases:
            return put_back(target), Trial((), Cost())
        if cost is not None and not cost.nothing:
            return put_back(target, self._untried(way, why)), Trial((), Cost())
        if way.direction == UP:
            return way, Trial((), Cost(unknown=tuple(destroyed_before(way.steps.undone))))
        return way, Trial((), read_cost(self.database, way.steps.undone, why))

    def _untried(self, way: Way, why: str) -> str:
        """Return why it is not known whether an upgrade would bring back what the target's copy holds."""
        if not way.waits:
            return why or "what an upgrade would bring back was not tried out"
        return (
            f"the migrations up to {way.steps.arrivals[-1]} are not in {self.command.project} now, so an upgrade, "
            "which would keep what was written, could not be tried out (it can where 'project' and 'python' lead to "
            "the newest release, or once the code was put forward)"
        )

    def _finding(
        self,
        problems: list[str],
        loss: Loss | None,
        notes: list[str],
        facts: Mapping[str, Any],
        steps: int,
        measured: float = 0,
    ) -> Finding:
        size = self.database.bytes()
        per_step = float(self.options.get("timeout") or 120)
        starts = steps if self.options.get("staged") else 1  # of the application, which takes most of the time
        if self.options.get("staged"):
            per_step += float(self.options.get("health_timeout") or 30)
        return Finding(
            problems=tuple(problems),
            loss=loss,
            seconds=round(measured * starts + seconds_needed(size, 0), 1) if measured else seconds_needed(size, steps),
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

    def _check_put_back(self, target: Version, why: str, problems: list[str], facts: dict[str, Any]) -> Finding:
        loss = _loss_of_copy(self.database, self.database.path, target)
        facts.update(direction=PUT_BACK, steps=[target.identity["revision"]], lossless=loss is None)
        notes = [f"{why}: the copy of {target.taken} is put back"]
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
        if self.entry is not None and self.entry.finding.facts.get("differs") is not None:
            return  # the plan has tried it out
        way = self._planned_way(here, target)
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
        way = self._planned_way(here, target)
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

    def lost(self, entry: Entry, kept: Version) -> Loss | None:
        """Compare what was kept with the database as it is now; see Driver.lost."""
        copy, facts = copy_of(kept), entry.finding.facts
        if copy is None or facts.get("direction") in {None, NONE}:
            return None
        if facts["direction"] == PUT_BACK:
            return self._lost_by_putting_back(entry, copy)
        now_lacks = differs_now(self.database, copy)
        planned = facts.get("differs")
        more = now_lacks.kinds() - set(planned if planned is not None else now_lacks.kinds())
        if more:
            raise StepFailed(
                f"{self.name}: the {facts['direction']} lost more than the plan says: "
                f"{', '.join(now_lacks.only(more).phrases())}.",
                "It is taken back where the policy says so. Then look at a new plan.",
            )
        lost = now_lacks.only({kind for kind in now_lacks.kinds() if planned is None or kind in facts["lost"]})
        text = loss_text(facts["direction"], lost.phrases(), facts["held_by"], facts["missing"], facts["unknown"])
        planned_loss = entry.finding.loss
        if not text or planned_loss is None:
            return None
        return Loss(planned_loss.since, text, {**planned_loss.tables, **lost.tables()})

    def _lost_by_putting_back(self, entry: Entry, kept: Path) -> Loss | None:
        target = copy_of(entry.target)
        if target is None:
            return None
        lacks = differs_now(self.database, target)
        if lacks.kinds():
            raise StepFailed(
                f"{self.name}: the copy {target} was put back, but the database lacks {', '.join(lacks.phrases())}."
            )
        return _loss_of_copy(self.database, kept, entry.target)

    def finalize(self) -> list[str]:
        """Remove what a killed run may have left beside the database."""
        return self.walker.clean_up()


def _loss_of_copy(database: SqliteDatabase, live: Path, target: Version) -> Loss | None:
    """Return what putting a recorded copy in place of the database at a path throws away; None when nothing."""
    tables = newer_rows(str(live), str(copy_of(target)))
    tables.pop(database.table, None)
    newer = {table: counts for table, counts in tables.items() if counts.get("only_live") or counts.get("unknown")}
    differ = {table: counts for table, counts in tables.items() if counts.get("differ")}
    if not newer and not differ:
        return None
    phrases = [f"{counts.get('only_live', '?')} rows of {table}" for table, counts in newer.items()]
    phrases += [f"changes to {counts['differ']} rows of {table}" for table, counts in differ.items()]
    return Loss(target.taken, f"{', '.join(phrases)} that the copy of {target.taken} does not hold", tables)
