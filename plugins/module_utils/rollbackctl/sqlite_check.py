# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against restoring a SQLite database, and what the restore would lose. Nothing is written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping

from .component import Loss, Version
from .sqlite_content import newer_rows, plain_file
from .sqlite_file import mount_type, on_network

_MARGIN = 16 << 20  # bytes that must stay free


def problems_of(path: str, live: Version, target: Version, *, online: bool) -> list[str]:
    """Return every reason why target cannot be brought to path, each with what to do; empty when it can."""
    folder = os.path.dirname(path)
    problems = _room(path, int(target.artefacts.get("bytes", 0)), online=online)
    if not os.access(folder, os.W_OK | os.X_OK):
        problems.append(f"{folder} cannot be written by this user. Run as root or as the database's owner.")
    kind = mount_type(folder)
    if on_network(kind):
        problems.append(f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold.")
    if target.artefacts.get("kind") == "missing":
        problems.append(f"There was no database at {path} then. Move it away yourself if that is wanted.")
    if live.identity.get("schema") != "missing":
        problems += _file(path)
    if online:
        problems += _online(path, live, target)
    return problems


def _room(path: str, size: int, *, online: bool) -> list[str]:
    folder = os.path.dirname(path)
    room = os.statvfs(folder)
    # The staged copy and as much again for the WAL; online, the kept content besides.
    needed, free = 2 * size + _MARGIN, room.f_bavail * room.f_frsize
    if online:
        needed += sum(os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end))
    if free >= needed:
        return []
    return [f"{folder} has {free >> 20} MiB free and {needed >> 20} MiB are needed. Make room there."]


def _file(path: str) -> list[str]:
    problems = []
    status = plain_file(path)
    folder, base = os.path.split(path)
    ours = sum(
        os.lstat(os.path.join(folder, name)).st_ino == status.st_ino
        for name in os.listdir(folder)
        if name.startswith(f"{base}.rollbackctl-")
    )
    if status.st_nlink > 1 + ours:
        problems.append(
            f"{path} has {status.st_nlink} names (hard links); a restore would part them. Remove the others."
        )
    if os.geteuid() not in {0, status.st_uid}:
        problems.append(f"{path} belongs to another user. Run as root or as its owner.")
    return problems


def _online(path: str, live: Version, target: Version) -> list[str]:
    if "wal" not in live.artefacts or target.artefacts.get("kind") != "sqlite":
        return ["method online needs a readable database on both sides. Set method to replace."]
    if not live.artefacts["wal"]:
        return [f"{path} is not in WAL mode, so method online would lock its readers out. Set method to replace."]
    if live.artefacts["page_size"] != target.artefacts["page_size"]:
        sizes = f"{live.artefacts['page_size']} bytes live, {target.artefacts['page_size']} in the backup"
        return [f"The page sizes differ ({sizes}), which method online cannot change. Set method to replace."]
    return []


def loss_of(path: str, live: Version, target: Version) -> Loss | None:
    """Return what going from live (as read from path) to target throws away; None when the contents are equal."""
    if live.identity.get("content") == target.identity.get("content") or live.identity.get("schema") == "missing":
        return None
    if "tables" not in live.artefacts or target.artefacts.get("kind") != "sqlite":
        odd = live if "tables" not in live.artefacts else target
        return Loss(target.taken, f"what is lost cannot be counted: {odd.text}")
    ours, theirs = live.artefacts["tables"], target.artefacts["tables"]
    same = tuple(name for name, facts in ours.items() if theirs.get(name) == facts)
    try:
        tables = newer_rows(path, os.path.join(target.at, target.artefacts["file"]), same=same)
        tables.pop("alembic_version", None)  # the revision is told apart, and nobody wrote it as data
    except sqlite3.DatabaseError as exc:
        return Loss(target.taken, f"what is lost cannot be counted: {exc}")
    totals = {name: tuple(side.get(name, {}).get("rows", 0) for side in (ours, theirs)) for name in tables}
    return Loss(target.taken, loss_text(tables, target.taken, totals), tables)


def loss_text(
    tables: Mapping[str, Mapping[str, int]], since: str, totals: Mapping[str, tuple[int, ...]] | None = None
) -> str:
    """Return one line for people about what newer_rows counted.

    totals: how many rows the tables have, live and in the target; said of a table that is too big to be compared.
    """
    parts = []
    for name, counts in sorted(tables.items()):
        words = [
            f"{counts[key]:,} {text}"
            for key, text in (("only_live", "written"), ("differ", "changed"), ("only_target", "deleted"))
            if counts.get(key)
        ]
        if not words:
            here, there = (totals or {}).get(name, (0, 0))
            counted = f": {here:,} rows now, {there:,} in the target" if here or there else ""
            words = [f"too many to compare in time{counted}"]
        parts.append(f"{name}: {', '.join(words)}")
    listed = "; ".join(parts[:10]) or "no row by its key, but the content differs"
    more = f"; {len(parts) - 10} more tables" if len(parts) > 10 else ""
    return f"rows since {since}: {listed}{more}"
