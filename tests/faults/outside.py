# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the shop with other tools than the engine's: git, SQLite on a copy, digests of files. Changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from lab.sample.build import Sample, git

OLD, NEW, NEITHER = "old", "new", "neither"


@dataclasses.dataclass(frozen=True)
class Seen:
    """Everything a rollback may change, as it is now."""

    database: str
    static: str
    settings: str
    branch: str
    head: str
    files: dict[str, str]
    differs: str


def read(shop: Sample) -> Seen:
    """Read it; what is damaged or absent raises AssertionError."""
    assert shop.databases[0].exists(), "the database's path is absent"
    assert shop.static.is_dir(), "the directory is absent"
    assert shop.env_file.is_file(), "the .env file is absent"
    return Seen(
        database=database_digest(shop.databases[0]),
        static=json.dumps(tree(shop.static)),
        settings=shop.env_file.read_text(encoding="utf-8"),
        branch=git(shop.origin, "rev-parse", "refs/heads/main^{tree}"),
        head=git(shop.app, "rev-parse", "HEAD^{tree}"),
        files=tree(shop.app, modes=0o111),  # git knows of no others
        differs=git(shop.app, "status", "--porcelain"),
    )


def judge(now: Seen, old: Seen, new: Seen) -> dict[str, str]:
    """Say of each part whether it is old, new or neither. A part that is the same in both is not listed."""
    found = {}
    for part in ("database", "static", "settings"):
        sides = (getattr(old, part), getattr(new, part))
        if sides[0] != sides[1]:
            found[part] = {sides[0]: OLD, sides[1]: NEW}.get(getattr(now, part), NEITHER)
    if old.branch != new.branch:
        found["code"] = _code(now, old, new)
    return found


def word(parts: dict[str, str]) -> str:
    """Return one word for the whole service."""
    words = set(parts.values())
    return words.pop() if len(words) == 1 else NEITHER


def broken(now: Seen, old: Seen, new: Seen) -> list[str]:
    """Return what must never be seen: a target that is neither old nor new. Of a checkout that is each of its files."""
    wrong = [
        f"{part} is neither old nor new"
        for part, one in judge(now, old, new).items()
        if one == NEITHER and part != "code"
    ]
    wrong += [
        f"{name}: another tree" for name in ("branch", "head") if getattr(now, name) not in {old.branch, new.branch}
    ]
    for name in sorted({*now.files, *old.files, *new.files}):
        if now.files.get(name) not in {old.files.get(name), new.files.get(name)}:
            wrong.append(f"{name} in the checkout is neither old nor new")
    return wrong


def _code(now: Seen, old: Seen, new: Seen) -> str:
    for side, name in ((old, OLD), (new, NEW)):
        if (now.branch, now.head, now.files, now.differs) == (side.branch, side.branch, side.files, ""):
            return name
    return NEITHER


def tree(folder: Path, *, modes: int = 0o7777) -> dict[str, str]:
    """Return the bits of the mode that count and the digest of each file below a folder; not of git's own, nor of
    bytecode."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if {".git", "__pycache__"} & set(path.parts) or not (path.is_file() or path.is_symlink()):
            continue
        found[str(path.relative_to(folder))] = hashed_file(path, modes)
    return found


def hashed_file(path: Path, modes: int) -> str:
    """Return the bits of the mode that count and the digest of a file or link."""
    content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
    return f"{path.lstat().st_mode & modes:o} {hashlib.sha256(content).hexdigest()}"


@contextlib.contextmanager
def copied(database: Path) -> Any:
    """Give a connection to a copy: opening the original would fold its WAL in, which may be what is to be proven."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{database}{suffix}", f"{folder}/copy{suffix}")
        with contextlib.closing(sqlite3.connect(f"{folder}/copy")) as connection:
            yield connection


def database_digest(path: Path) -> str:
    """Return a digest of schema and rows, apart from the visits, which the service writes all the time.

    A damaged database has the digest of its first page: a test damages it there.
    """
    with copied(path) as connection:
        try:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], f"{path} is damaged"
            names = [
                row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
            ]
            found = {
                name: [
                    connection.execute(f'PRAGMA table_info("{name}")').fetchall(),
                    [] if name == "visits" else rows(connection, name),
                ]
                for name in names
            }
        except sqlite3.DatabaseError as error:
            return f"{error} {hashlib.sha256(path.read_bytes()[:512]).hexdigest()}"
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def rows(connection: sqlite3.Connection, table: str) -> list[Any]:
    """Return all rows of a table, whose name comes from the database itself."""
    return connection.execute(f'SELECT * FROM "{table}" ORDER BY 1').fetchall()  # noqa: S608


def tokens(path: Path) -> set[str]:
    """Return the tokens of the visits in a database; none when it cannot be read."""
    with copied(path) as connection, contextlib.suppress(sqlite3.DatabaseError):
        return {row[0] for row in connection.execute("SELECT token FROM visits")}
    return set()


def lost_writes(shop: Sample) -> set[str]:
    """Return the acknowledged writes that are neither in the live database nor in anything that was kept of it."""
    log = shop.root / "acked.log"
    acked = set(log.read_text(encoding="ascii").split()) if log.exists() else set()
    places = [*shop.databases[0].parent.iterdir(), *(shop.state / "runs").glob("*/kept/**/*")]
    for path in (place for place in places if acked and place.is_file()):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if file.read(16).startswith(b"SQLite format 3"):
                acked -= tokens(path)
    return acked


def running(shop: Sample) -> dict[str, Any]:
    """Return what the running service was started with; nothing when it does not run."""
    try:
        started: dict[str, Any] = json.loads((shop.root / "running.json").read_text(encoding="utf-8"))
        stat = Path(f"/proc/{started['pid']}/stat").read_text(encoding="ascii", errors="replace")
        line = Path(f"/proc/{started['pid']}/cmdline").read_bytes()
    except (OSError, ValueError):
        return {}
    return started if b"service.py" in line and stat.rpartition(")")[2].split()[0] not in {"Z", "X"} else {}
