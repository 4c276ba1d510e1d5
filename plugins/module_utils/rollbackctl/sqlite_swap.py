# SPDX-License-Identifier: GPL-3.0-or-later
"""The two ways in which a SQLite database is brought to another content. Both are wholly old or wholly new at any kill.

replace: nobody has the database open. Its WAL is folded into it, so that nothing is left beside it that SQLite could
    play back into the new file; the old file gets a second name; the new one takes its place with one rename.
online: SQLite's backup API writes into the live database as one transaction, under readers and writers.
    A kill leaves an unfinished transaction, which SQLite ignores (WAL) or rolls back (journal) at the next opening.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from .durable import sync_directory
from .errors import DeadlineExceeded, StepFailed
from .failpoints import failpoint
from .safe_path import ourselves
from .sqlite_content import connect, in_wal_mode, reading
from .sqlite_file import COMPANIONS, attributes, copy_new, give_attributes, holders, lock
from .sqlite_health import damage
from .sqlite_pages import reads_as, same_pages, wal_is_empty

_PAGES = 1024  # per step of the backup API: often enough for deadlines and failpoints, rarely enough for speed


def snapshot(connection: sqlite3.Connection, target: str, seconds: float) -> None:
    """Copy the database as connection's open transaction sees it to a new private file, durably.

    The transaction keeps one state for the whole copy: without it, each write by others starts the backup API over.

    :param seconds: the limit.
    :raises DeadlineExceeded: the limit was reached; the unfinished copy is removed.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    copy = sqlite3.connect(target, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copy.execute("PRAGMA synchronous=OFF")  # synced once, below
        copy.execute("PRAGMA journal_mode=MEMORY")
        connection.backup(
            copy, pages=_PAGES, progress=_limit(time.monotonic() + seconds, "Copying the database"), sleep=0.01
        )
        copy.close()
        _sync(target)
    except BaseException:
        copy.close()
        os.unlink(target)
        raise
    sync_directory(Path(target).parent)


def _limit(deadline: float, what: str) -> Callable[[int, int, int], None]:
    def watch(_status: int, _remaining: int, _total: int) -> None:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{what} took longer than allowed.", "Raise the component's timeout.")

    return watch


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_name(wish: str) -> str:
    """Return wish, or wish with the first number that no file has."""
    name, number = wish, 1
    while os.path.lexists(name):
        number += 1
        name = f"{wish}-{number}"
    return name


# -- replace -----------------------------------------------------------------------------------------------------------


def replace(path: str, new: str, old: str, wanted: Mapping[str, Any], seconds: float) -> None:
    """Put the file new in the database's place; new lies in the same directory and is proven and durable.

    The displaced database stays as `old` (same file, second name), openable. Whoever is killed here leaves at path
    the old file or the new one, and never a WAL or journal beside a file that it does not belong to:
    they are gone before the rename. When that needs moving them aside (the old database is damaged), the old file
    stands alone for an instant; `old` and its companions keep all of it.

    :param wanted: attributes for a database that is missing (empty: its folder's owner alone may use it); otherwise
        those of the old file are taken over.
    :param seconds: how long to wait for locks.
    :raises StepFailed: somebody has the database open, or attributes cannot be kept; the old file is in place.
    """
    if not os.path.lexists(path):
        _clear_companions(path, old)
        folder = os.stat(os.path.dirname(path))
        give_attributes(new, wanted or {"uid": folder.st_uid, "gid": folder.st_gid, "mode": 0o600, "xattrs": {}})
        _rename(new, path)
        return
    refuse_open(path)
    fold_wal(path, seconds)
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Held over the rename: closes the gap between looking into /proc and renaming.
        if not lock(handle):
            raise _held(path, "its locks are held by a process that /proc does not show here")
        refuse_open(path)
        failpoint("restore_sqlite.link.before")
        kept = _second_name(path, handle, old)
        failpoint("restore_sqlite.link.after")
        _clear_companions(path, kept)
        give_attributes(new, attributes(handle))
        _rename(new, path)
        late = [holder for holder in holders(kept) if holder.pid != os.getpid()]
        if late:
            raise _held(path, "opened while it was replaced by " + ", ".join(map(str, late)))
    finally:
        os.close(handle)


def _rename(new: str, path: str) -> None:
    failpoint("restore_sqlite.replace.before")
    os.replace(new, path)
    failpoint("restore_sqlite.replace.after")
    sync_directory(Path(path).parent)
    failpoint("restore_sqlite.sync.after")


def _held(path: str, by: str) -> StepFailed:
    return StepFailed(
        f"{path} is in use: {by}. Replacing it now would lose what that process writes.",
        "Stop the service (or fence it) and run the same command again, or set the component's method to online.",
    )


def refuse_open(path: str) -> None:
    """Raise StepFailed when another process has the database or a companion open."""
    others = [holder for holder in holders(path) if holder.pid != os.getpid()]
    if others:
        raise _held(path, "open in " + ", ".join(map(str, others[:5])))


def fold_wal(path: str, seconds: float) -> bool:
    """Let SQLite finish what lies beside the database: roll back a journal, copy the WAL into the file, remove both.

    That changes where the old content is stored, not the content. False when the database is too damaged for it.

    :raises StepFailed: the WAL is in use.
    """
    if not any(os.path.lexists(path + suffix) for suffix in COMPANIONS):
        return True
    if not _readable(path, seconds):
        return False
    failpoint("restore_sqlite.checkpoint.before")
    connection = sqlite3.connect(path, timeout=seconds, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as exc:
        raise StepFailed(f"{path}: its WAL cannot be folded in: {exc}. The database was not touched.") from exc
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()
    if busy:
        raise _held(path, "its WAL is in use")
    failpoint("restore_sqlite.checkpoint.after")
    return True


def _readable(path: str, seconds: float) -> bool:
    try:
        with reading(path, seconds=seconds):
            return True
    except sqlite3.DatabaseError:
        return False


def _second_name(path: str, handle: int, old: str) -> str:
    """Give the live file the name old too; return the name (an earlier apply of this run may have used old)."""
    status = os.fstat(handle)
    name, number = old, 1
    while os.path.lexists(name):
        there = os.lstat(name)
        if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
            return name
        number += 1
        name = f"{old}-{number}"
    try:
        os.link(path, name, follow_symlinks=False)
    except OSError:  # a file system without hard links
        copy_new(handle, name)
        give_attributes(name, attributes(handle))
    return name  # made durable together with what _clear_companions does


def _clear_companions(path: str, kept: str) -> None:
    """Move what still lies beside the database to beside its second name, so that it cannot be played back.

    After fold_wal these are empty, or belong to a database that SQLite cannot read any more, or to a missing one.
    """
    failpoint("restore_sqlite.wal.before")
    for suffix in ("-shm", "-journal", "-wal"):
        if not os.path.lexists(path + suffix):
            continue
        if suffix == "-shm":
            os.unlink(path + suffix)  # rebuilt from the WAL
        else:
            os.replace(path + suffix, free_name(kept + suffix))
        failpoint("restore_sqlite.wal.middle")
    # Also when nothing was moved: the second name is new, and a power cut after the rename must not bring back the WAL
    # that SQLite itself removed.
    sync_directory(Path(path).parent)
    failpoint("restore_sqlite.wal.after")


# -- online ------------------------------------------------------------------------------------------------------------


def online(path: str, new: str, old: str, *, kept: str = "", busy_seconds: float, seconds: float) -> str:
    """Write the proven backup new into the live database, as one transaction; return the name of the kept old content.

    While SQLite's write lock is held and nothing is committed yet, the old content is copied to `old`: it is exactly
    what gets displaced, the last write before the lock included. No copy is made where one that this run took before
    (kept) has every page of it. Readers are never blocked; writers wait. That holds in WAL mode only (in journal mode
    the backup API locks everybody out), which is therefore required.

    What was committed is read back: page by page against new, or where writers or readers keep the WAL in use, with
    integrity_check.

    :param kept: a copy from this run's capture; empty when there is none.
    :param busy_seconds: how long to wait for the write lock and, afterwards, for readers to let the WAL be emptied.
    :param seconds: the limit for the copy.
    :raises StepFailed: it was not committed; the database is wholly old.
    """
    if not in_wal_mode(path):
        raise StepFailed(
            f"{path} is not in WAL mode, so readers would be locked out. It was not touched.", "Set method to replace."
        )
    start = time.monotonic()
    handles = contextlib.ExitStack()
    live = _held_open(handles, path)
    with ourselves():  # these are in the state store
        source, whole = connect(new, immutable=True), _held_open(handles, new)
        earlier = _held_open(handles, kept) if kept else -1
    target = sqlite3.connect(path, timeout=0.05, isolation_level=None)
    begun = False

    def step(status: int, _remaining: int, _total: int) -> None:
        nonlocal begun, kept
        if time.monotonic() > start + seconds:
            raise DeadlineExceeded(f"{path}: the online restore took longer than {seconds:g} s; it is wholly old.")
        if status in {5, 6}:  # SQLITE_BUSY, SQLITE_LOCKED
            if not begun and time.monotonic() > start + busy_seconds:
                raise DeadlineExceeded(
                    f"{path}: other programs held the write lock for {busy_seconds:g} s; it is wholly old.",
                    "Stop the long writer, or raise busy_timeout, and run the same command again.",
                )
            return
        if not begun:
            begun = True
            if not _has(path, live, earlier):
                kept = free_name(old)
                _keep(path, kept, start + seconds - time.monotonic())
            failpoint("restore_sqlite.online.middle")

    try:
        failpoint("restore_sqlite.online.before")
        with contextlib.suppress(sqlite3.OperationalError):  # in use: the old content is copied once more
            target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        _backup(source, target, step)
        failpoint("restore_sqlite.online.after")
        _empty_wal(target, busy_seconds)
        found = "" if reads_as(target, path, live, whole) else damage(target)
        if found:
            raise StepFailed(
                f"{path}: integrity_check of the restored content says: {found}. The old one is in {kept}."
            )
    except sqlite3.DatabaseError as exc:
        raise StepFailed(
            f"{path}: the online restore did not finish: {exc}. SQLite leaves it wholly old.",
            "Run the same command again, or set the component's method to replace.",
        ) from exc
    finally:
        target.close()
        source.close()
        handles.close()  # last: closing a descriptor of a database drops the locks of its connections (fcntl(2))
    return kept


def _has(path: str, live: int, earlier: int) -> bool:
    """Say whether an earlier copy is what the database holds now; the write lock is held and nothing is in the WAL."""
    return earlier != -1 and wal_is_empty(path) and same_pages(live, earlier)


def _held_open(handles: contextlib.ExitStack, path: str) -> int:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    handles.callback(os.close, handle)
    return handle


def _backup(source: sqlite3.Connection, target: sqlite3.Connection, step: Callable[[int, int, int], None]) -> None:
    # The first step takes the write lock and must not be the last one, because `step` then has to copy the old content.
    # What is written stays in the WAL until the last page; that of the first step in memory.
    target.execute(f"PRAGMA cache_size={2 * _PAGES}")
    several = source.execute("PRAGMA page_count").fetchone()[0] > _PAGES
    source.backup(target, pages=_PAGES if several else 1, progress=step, sleep=0.005)


def _keep(path: str, kept: str, seconds: float) -> None:
    reader = connect(path, seconds=1.0)
    try:
        reader.execute("BEGIN")
        snapshot(reader, kept, max(seconds, 0.1))
    finally:
        reader.close()


def _empty_wal(target: sqlite3.Connection, seconds: float) -> None:
    """Copy the WAL into the database and cut it to nothing; a reader that stays in may prevent the cutting only."""
    failpoint("restore_sqlite.truncate.before")
    target.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()  # the bulk, without keeping anybody waiting
    deadline = time.monotonic() + seconds
    while target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    failpoint("restore_sqlite.truncate.after")
