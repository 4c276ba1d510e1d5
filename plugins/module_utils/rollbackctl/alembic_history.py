# SPDX-License-Identifier: GPL-3.0-or-later
"""A project's migrations as a graph: which steps lead from one revision to another, and what a name means."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .component import unknown_target
from .errors import Refused
from .names import name_a_version

_STEPS_BACK = re.compile(r"-([0-9]{1,4})")
PREFIX_LENGTH = 4


class NoPath(Exception):
    """There is no single line of migrations between two revisions; the message says why."""


@dataclasses.dataclass(frozen=True)
class Change:
    """What one direction of a migration does, as far as its source tells (see alembic_reader.read_change)."""

    kind: str
    columns: tuple[tuple[str, str], ...] = ()
    tables: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Change:
        """Return the change that the reader described."""
        columns = tuple((str(table), str(column)) for table, column in document["columns"])
        return cls(document["kind"], columns, tuple(document["tables"]), tuple(document["unknown"]))


@dataclasses.dataclass(frozen=True)
class Revision:
    """One migration file.

    down: the revisions it builds upon: none for the first, several for a merge. created: UTC time.
    """

    id: str
    down: tuple[str, ...]
    depends: tuple[str, ...]
    path: str
    text: str
    created: str
    upgrade: Change
    downgrade: Change

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Revision:
        """Return the revision that the reader, or to_dict, described."""
        return cls(
            id=document["id"],
            down=tuple(document["down"]),
            depends=tuple(document["depends"]),
            path=document["path"],
            text=document["text"],
            created=_utc(document["created"], document.get("changed", 0.0)),
            upgrade=Change.from_dict(document["upgrade"]),
            downgrade=Change.from_dict(document["downgrade"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the revision as JSON values."""
        return dataclasses.asdict(self)

    @property
    def label(self) -> str:
        """The revision as people know it: id and first line."""
        return f"{self.id} ({self.text})" if self.text else self.id

    @property
    def obstacle(self) -> str:
        """Why it cannot be undone by a downgrade; empty when it can."""
        if self.downgrade.kind == "raises":
            return "its downgrade() raises an error: it was written as irreversible"
        if self.downgrade.kind == "missing":
            return "it has no downgrade()"
        # A revision that only marks or merges does nothing in both directions: that is undone by doing nothing.
        if self.downgrade.kind == "empty" and self.upgrade.kind != "empty":
            return "its downgrade() is empty: the revision would change and the tables would not"
        return ""


@dataclasses.dataclass(frozen=True)
class Steps:
    """The way from one revision to another.

    forward: upgrade instead of downgrade. undone: the migrations that are undone or done, in order of execution.
    arrivals: the revision after each step; the last one is the target.
    """

    forward: bool
    undone: tuple[Revision, ...]
    arrivals: tuple[str, ...]


def _utc(written: str, changed: float) -> str:
    """Return a migration's "Create Date" (written without a zone: taken as UTC), or when its file was changed."""
    try:
        moment = datetime.fromisoformat(written.replace("Z", "+00:00"))
    except ValueError:
        moment = datetime.fromtimestamp(changed, timezone.utc)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclasses.dataclass(frozen=True)
class History:
    """All migrations that are in the project now."""

    revisions: Mapping[str, Revision]
    heads: tuple[str, ...]

    @classmethod
    def from_dicts(cls, revisions: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> History:
        """Return the history that the reader, or to_dicts, described."""
        return cls({entry["id"]: Revision.from_dict(entry) for entry in revisions}, tuple(heads))

    def line(self, newest: str, oldest: str) -> tuple[Revision, ...]:
        """Return the migrations from newest down to, but without, oldest.

        :raises NoPath: when oldest is not an ancestor, a file is missing, or the line is not single.
        """
        found: list[Revision] = []
        at = newest
        while at != oldest:
            revision = self.revisions.get(at)
            if revision is None:
                raise NoPath(f"the project has no migration file for revision {at}")
            if len(revision.down) > 1 or revision.depends:
                raise NoPath(f"revision {revision.label} merges several lines of migrations")
            if not revision.down:
                raise NoPath(f"revision {oldest} is not an ancestor of {newest}")
            found.append(revision)
            at = revision.down[0]
        return tuple(found)

    def steps(self, current: str, target: str) -> Steps:
        """Return the way from current to target, whichever direction it is.

        :raises NoPath: when there is none, saying why.
        """
        try:
            undone = self.line(current, target)
        except NoPath as no_way_down:
            try:
                done = self.line(target, current)[::-1]
            except NoPath:
                raise no_way_down from None
            return Steps(forward=True, undone=done, arrivals=tuple(revision.id for revision in done))
        return Steps(forward=False, undone=undone, arrivals=tuple(revision.down[0] for revision in undone))

    def resolve(self, name: str, want: str, current: str) -> Revision:
        """Return what the operator's word means: a revision, a unique beginning of one, or -N steps from current.

        :raises Refused: for base, for words that move (head), for unknown and ambiguous ones.
        """
        if want == "base":
            raise Refused(
                f"{name}: 'base' undoes every migration and so drops every table. Nothing was changed.",
                "To empty or rebuild the database restore a backup; to go back name a revision: "
                + self._example(name, self._near(current)),
            )
        if want in self.revisions:
            return self.revisions[want]
        if _STEPS_BACK.fullmatch(want):
            return self._back(name, int(want[1:]), current)
        matching = sorted(key for key in self.revisions if key.startswith(want)) if len(want) >= PREFIX_LENGTH else []
        if len(matching) == 1:
            return self.revisions[matching[0]]
        if matching:
            raise Refused(
                f"{name}: {want!r} is the beginning of {len(matching)} revisions: {', '.join(matching)}. "
                "Nothing was changed.",
                "Write more of it: " + self._example(name, matching[0]),
            )
        labels = [revision.label for revision in self.revisions.values()]
        raise unknown_target(name, want, labels, "revision", self._near(current))

    def _back(self, name: str, count: int, current: str) -> Revision:
        if len(self.heads) > 1:
            raise Refused(
                f"{name}: the project has {len(self.heads)} heads ({', '.join(self.heads)}), so '-{count}' does not "
                "say on which branch to go back. Nothing was changed.",
                "Name the revision: " + self._example(name, self._near(current)),
            )
        at = self.revisions.get(current)
        if at is None:
            raise Refused(
                f"{name}: the database is at revision {current}, which is not among the project's migrations, so "
                f"'-{count}' cannot be counted from it. Nothing was changed.",
                "Put the code that contains it into the project directory, then run this again.",
            )
        for done in range(count):
            if not at.down:
                raise Refused(
                    f"{name}: '-{count}' goes back beyond the first migration: from {current} there are {done} steps "
                    f"down to {at.label}. Nothing was changed.",
                    "Name the revision: " + self._example(name, at.id),
                )
            if len(at.down) > 1 or at.depends:
                raise Refused(
                    f"{name}: '-{count}' would pass {at.label}, which merges several lines of migrations. "
                    "Nothing was changed.",
                    "Restore the database instead, or name the revision of one line.",
                )
            parent = self.revisions.get(at.down[0])
            if parent is None:
                raise Refused(f"{name}: the project has no migration file for revision {at.down[0]}.")
            at = parent
        if count == 0:
            raise Refused(f"{name}: '-0' is no step back. Nothing was changed.", "Write -1, or a revision.")
        return at

    def _near(self, current: str) -> str:
        at = self.revisions.get(current)
        return at.down[0] if at and at.down else next(iter(self.revisions), "REVISION")

    @staticmethod
    def _example(name: str, revision: str) -> str:
        return name_a_version(name, revision)

    def ancestry(self, revision: str) -> list[dict[str, Any]]:
        """Return revision and what it builds upon as JSON values, newest first, as far as the line is single."""
        found: list[dict[str, Any]] = []
        at: str | None = revision
        while at is not None and at in self.revisions:
            entry = self.revisions[at]
            found.append(entry.to_dict())
            at = entry.down[0] if len(entry.down) == 1 and not entry.depends else None
        return found
