# SPDX-License-Identifier: GPL-3.0-or-later
"""Tries migrations out on private copies and compares: what they destroy is read from the result, not their source.

Two questions, because what users wrote since must not be taken for a loss:

* What does the live database hold that the result lacks, and that going back again would not give? (A renamed column
  comes back; a dropped value does not.)
* What does the checkpoint hold that is not brought back? Its copy goes to the live revision and back to its own: what
  differs then was destroyed on the way, by the upgrade that is undone or by the downgrade.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .alembic_history import Steps
from .alembic_loss import Cost, destroyed_before
from .alembic_sqlite import SPARE, SqliteDatabase
from .alembic_steps import Walker
from .errors import Refused, StepFailed
from .sqlite_compare import Difference, compare
from .sqlite_schema import lacking, promises

# Above this (bytes) copying and comparing takes longer than a plan may.
LARGEST = 2 << 30
_COPIES = 4


@dataclasses.dataclass(frozen=True)
class Trial:
    """What trying a way out showed. problems: why it cannot be gone. cost: what it costs.

    seconds: how long its migrations took on a copy; 0 when they were not run.
    """

    problems: tuple[str, ...]
    cost: Cost
    seconds: float = 0


def why_not(database: SqliteDatabase) -> str:
    """Return why migrations cannot be tried out on a copy; empty when they can."""
    if database.bytes() > LARGEST:
        return f"the database is larger than {LARGEST >> 30} GiB, so its migrations were not tried out on a copy"
    if not _room(database.bytes()):
        return "there is no room for copies of the database in a temporary folder, so its migrations were not tried out"
    return ""


def _room(size: int) -> str:
    for folder in dict.fromkeys((tempfile.gettempdir(), "/var/tmp")):  # noqa: S108 - a private folder is made in it
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free > _COPIES * size + SPARE:
                return folder
    return ""


@contextlib.contextmanager
def private_folder(size: int) -> Iterator[Path]:
    """Give an empty folder for copies of a database of `size` bytes, which only this user may look into.

    :raises Refused: there is no room for them.
    """
    room = _room(size)
    if not room:
        raise Refused(f"There is no room for {_COPIES * size >> 20} MiB in {tempfile.gettempdir()}.", "Set TMPDIR.")
    with tempfile.TemporaryDirectory(prefix="rollbackctl-", dir=room) as folder:
        yield Path(folder)


def try_out(walker: Walker, here: str, steps: Steps, reference: Path | None) -> Trial:
    """Go along the steps on a copy and say what that costs. Nothing of the service is changed.

    :param here: the live revision.
    :param reference: a database of the target's revision, as a checkpoint holds it; None when there is none.
    :raises Refused: the database cannot be copied or compared.
    """
    size = max(walker.database.bytes(), reference.stat().st_size if reference else 0)
    with private_folder(size) as folder:
        try:
            return _Trial(walker, folder, here, steps).run(reference)
        except StepFailed as error:
            again = error.next_step or "Restore the database instead, or go to another revision."
            return Trial((f"{error.message} This happened on a copy. {again}",), Cost())
        except sqlite3.DatabaseError as exc:
            raise Refused(f"{walker.name}: the copies could not be compared: {exc}. Nothing was changed.") from exc


class _Trial:
    def __init__(self, walker: Walker, folder: Path, here: str, steps: Steps) -> None:
        self.walker, self.folder, self.steps = walker, folder, steps
        self.without = (walker.database.table,)
        self.forth, self.back = (steps.arrivals[-1], steps.forward), (here, not steps.forward)

    def run(self, reference: Path | None) -> Trial:
        live = self.folder / "live"
        self.walker.database.copy_to(live)
        began = time.monotonic()
        result = self._migrated(live, "result", self.forth)
        seconds = time.monotonic() - began
        differs = lost = compare(str(live), str(result), strict=False, without=self.without)
        back = None
        if differs.data or reference is None:
            try:
                back = self._migrated(result, "back", self.back)
            except StepFailed:  # a way that leads in one direction only gives nothing again
                self.walker.command.forget()
        regained = compare(str(live), str(back), without=self.without) if back else None
        if regained is not None:
            lost = differs.also_in(regained)
        # What only the newer schema promises goes with it; what the target's promises is asked of the reference.
        lost = dataclasses.replace(lost, objects=())
        if reference is not None:
            missing, unknown = self._missing(reference, result)
        else:
            missing, unknown = Difference(), []
            if regained is None:
                unknown.append("whether constraints, indexes and triggers are as before: no checkpoint holds them")
            else:
                lost = dataclasses.replace(lost, objects=regained.objects)
            if not self.steps.forward:
                gone = compare(str(result), str(back), without=self.without).rows if back else {}
                unknown += destroyed_before(self.steps.undone, gone)
        return Trial((), Cost(lost, missing, differs, lost.tables(), unknown=tuple(unknown)), seconds)

    def _missing(self, reference: Path, result: Path) -> tuple[Difference, list[str]]:
        """Return what the reference holds and is not brought back, and what of that cannot be told."""
        kept = self.folder / "kept"
        shutil.copyfile(reference, kept)
        unknown = []
        try:
            missing = compare(
                str(kept), str(self._migrated(kept, "round", self.back, self.forth)), without=self.without
            )
        except StepFailed as error:
            missing = compare(str(kept), str(result), without=self.without)
            if missing.data:
                unknown.append(
                    "whether users or the migration changed that: its way could not be gone with the checkpoint's "
                    f"copy ({error.message})"
                )
        objects = dict.fromkeys((*missing.objects, *_lacking(kept, result, self.without)))
        return dataclasses.replace(missing, objects=tuple(objects)), unknown

    def _migrated(self, source: Path, name: str, *legs: tuple[str, bool]) -> Path:
        """Return a database that came from the source along the legs; where the project runs as somebody else it is
        migrated in a folder of his, where nothing but his own is opened."""
        owner, found = self.walker.command.owner, self.folder / name
        if not owner.drop:
            shutil.copyfile(source, found)
            self._go(found, *legs)
            return found
        with (
            tempfile.TemporaryDirectory(prefix="rollbackctl-", dir=self.folder.parent) as folder,
            source.open("rb") as kept,
        ):
            os.chown(folder, owner.uid, owner.gid)
            his = Path(folder, "copy.sqlite")
            with owner.acting():
                with his.open("xb") as copy:
                    shutil.copyfileobj(kept, copy)
                self._go(his, *legs)
                handle = os.open(his, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(handle, "rb") as migrated, found.open("xb") as copy:
                shutil.copyfileobj(migrated, copy)
        return found

    def _go(self, copy: Path, *legs: tuple[str, bool]) -> None:
        self.walker.migrate_copy(self.walker.database.at(copy), *legs)
        # The file alone has to be the whole database: it is compared without its log.
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()


def _lacking(first: Path, second: Path, without: Iterable[str]) -> tuple[str, ...]:
    held = []
    for path in (first, second):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            held.append(promises(connection, without=without))
    return lacking(*held)


def differs_now(database: SqliteDatabase, kept: Path) -> Difference:
    """Return what a copy from before a change holds and the database now lacks.

    :raises Refused: it cannot be read.
    """
    with private_folder(database.bytes()) as folder:
        now = folder / "now"
        database.copy_to(now)
        return compare(str(kept), str(now), strict=False, without=[database.table])
