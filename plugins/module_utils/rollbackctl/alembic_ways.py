# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way leads from the revision that is live to the target: down, up, or by putting a recorded copy back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Callable

from .alembic_command import Command
from .alembic_history import History, NoPath, Steps
from .alembic_loss import Cost, read_cost
from .alembic_sqlite import SqliteDatabase
from .component import Version
from .errors import Refused

NONE, DOWN, UP, PUT_BACK = "none", "downgrade", "upgrade", "put_back"
_SQL_SHOWN = 4000
_NO_STEPS = Steps(forward=False, undone=(), arrivals=())


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to the target. direction: NONE, DOWN, UP or PUT_BACK. steps: empty unless migrations are run.

    waits: the project lacks migrations of this way now; they are expected to come with the code.
    why: why the copy is put back and no upgrade is made.
    """

    direction: str
    steps: Steps = _NO_STEPS
    waits: bool = False
    why: str = ""


def put_back(target: Version, why: str = "an upgrade would not bring all of it back") -> Way:
    """Return the way that puts the copy back which was recorded with the target, and why that one."""
    return Way(PUT_BACK, Steps(forward=True, undone=(), arrivals=(str(target.identity["revision"]),)), why=why)


def copy_of(version: Version) -> Path | None:
    """Return the database copy that was recorded with a version; None when there is none."""
    copy = version.artefacts.get("copy")
    return Path(version.at, copy["file"]) if copy else None


def thrown_away(name: str, here: str, target: Version) -> Cost | None:
    """Return what going down from the recorded target to `here` threw away, as far as the migrations' source tells;
    None when `here` is not below it.

    Both are read from what was recorded with the target, so the answer is the same whichever code is there now. It is
    for ways that cannot be tried out on a copy.
    """
    copy = copy_of(target)
    if copy is None:
        return None
    recorded = History.from_dicts(target.artefacts.get("history", ()), ())
    try:
        undone = recorded.line(str(target.identity["revision"]), here)
    except NoPath:
        return None
    return read_cost(SqliteDatabase(name, copy, 5, finished=True), undone, "")


def find_way(command: Command, read_history: Callable[[str], History], here: str, target: Version) -> Way:
    """Return the way from the revision `here` to the target.

    :raises Refused: there is none, or it would be an upgrade that nobody recorded.
    """
    there = str(target.identity["revision"])
    if here == there:
        return Way(NONE)
    history = read_history(there)
    if there not in history.revisions and thrown_away(command.name, here, target) is not None:
        recorded = History.from_dicts(target.artefacts.get("history", ()), ())
        return Way(UP, recorded.steps(here, there), waits=True)
    require_known(command, history, here)
    if there not in history.revisions:
        raise Refused(
            f"{command.name}: revision {there} is not among the migrations in {command.project}.",
            "Put the commit or image that contains it into the project directory.",
        )
    try:
        steps = history.steps(here, there)
    except NoPath as exc:
        raise Refused(
            f"{command.name}: no single line of migrations leads from {here} to {there}: {exc}.",
            "Restore the database instead, or name an ancestor of the present revision.",
        ) from exc
    if steps.forward and not target.taken:
        raise Refused(
            f"{command.name}: revision {there} is newer than the present {here}: going there would be an upgrade, not "
            "a rollback.",
            "Name an older revision. To take back a rollback: rollbackctl undo RUN",
        )
    return Way(UP if steps.forward else DOWN, steps)


def require_known(command: Command, history: History, here: str) -> None:
    """Stop when the project lacks the migration that the database is at.

    :raises Refused: it does.
    """
    if here not in history.revisions:
        raise Refused(
            f"{command.name}: the database is at revision {here}, which is not among the migrations in "
            f"{command.project} (heads: {', '.join(history.heads)}). A downgrade needs the migrations of the new code; "
            "if no version of the code has it, the revision was stamped by hand.",
            f"Put the commit or image that contains it into the project directory (git log --all -- '*{here}*' finds "
            "the commit), or restore the database.",
        )


def irreversible(name: str, steps: Steps, restored_by: str) -> list[str]:
    """Return a sentence for each step down that its own migration file makes impossible."""
    instead = f"Restore the database instead (component {restored_by})." if restored_by else "Restore the database."
    return [
        f"{name}: revision {revision.label} cannot be undone: {revision.obstacle}. {instead}"
        for revision in steps.undone
        if revision.obstacle and not steps.forward
    ]


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What running env.py without a change showed. sql: what alembic would send; empty when it cannot say."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    sql: str


def rehearse(command: Command, here: str, way: Way) -> Rehearsal:
    """Prove that env.py means this database, or takes the address it is given, and render the SQL where it can."""
    seen = command.look(UP if way.steps.forward else DOWN, here, way.steps.arrivals[-1])
    if seen.problem:
        return Rehearsal((seen.problem,), (), "")
    if seen.sql:
        return Rehearsal((), (), command.redacted(seen.sql)[:_SQL_SHOWN])
    return Rehearsal((), (f"the SQL cannot be shown beforehand: {seen.untold}",), "")
