# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a SQLite database has the pages of a file, byte for byte: proves its content without reading each row.

https://www.sqlite.org/fileformat2.html says what the bytes left out are for.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

from .durable import read_document, write_document
from .safe_path import worker
from .sqlite_content import reading, steadily

_CHUNK = 1 << 18
# Of the header: read and write version (WAL or not), change counter, schema cookie, version-valid-for and the version
# of SQLite that wrote last. The backup API and every commit set them; they are no content.
_COUNTERS = ((18, 20), (24, 28), (40, 44), (92, 100))
_LOCKED = 1 << 30  # the page here holds the bytes that SQLite locks; it is never read or written


def same_pages(one: int, other: int) -> bool:
    """Say whether two open database files hold the same pages. The caller sees to it that nobody writes them."""
    size = os.fstat(one).st_size
    if size != os.fstat(other).st_size:
        return False
    chunks = (bytearray(_CHUNK), bytearray(_CHUNK))  # filled again and again: 1 GB read into new ones costs much more
    for offset in range(0, size, _CHUNK):
        wanted = min(_CHUNK, size - offset)
        if not wanted == os.preadv(one, chunks[:1], offset) == os.preadv(other, chunks[1:], offset):
            return False
        if chunks[0] == chunks[1]:
            continue
        left_out = _COUNTERS if offset == 0 else ((0, _page_size(one)),) if offset == _LOCKED else ()
        if not left_out or _without(chunks[0], left_out) != _without(chunks[1], left_out):
            return False
    return True


def _page_size(handle: int) -> int:
    size = int.from_bytes(os.pread(handle, 2, 16), "big")
    return 65536 if size == 1 else size


def _without(chunk: bytearray, left_out: tuple[tuple[int, int], ...]) -> bytearray:
    kept = chunk[:]
    for begin, end in left_out:
        kept[begin:end] = bytes(end - begin)
    return kept


def wal_is_empty(path: str) -> bool:
    """Say whether nothing lies in the database's WAL, so that its file alone is the database.

    Inside a read transaction that stays so for its reader: nobody copies a WAL into a file that is read without one.
    While the write lock is held, nobody else fills the WAL at all.
    """
    try:
        return os.path.getsize(path + "-wal") == 0
    except FileNotFoundError:
        return True


def reads_as(connection: sqlite3.Connection, path: str, live: int, other: int) -> bool:
    """Say whether the database that connection has open reads as the file other, byte for byte.

    live: a descriptor of the database, opened before the connection and closed after it: closing it in between drops
    the connection's locks (fcntl(2)).
    """
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return wal_is_empty(path) and same_pages(live, other)
    finally:
        connection.execute("COMMIT")


def holds(path: str, other: int, seconds: float) -> bool:
    """Say whether the live database reads as the open file other, byte for byte; False also where its file alone does
    not tell, because something lies in its WAL or journal, or it is damaged.

    :param seconds: how long to wait for locks.
    :raises Refused: it cannot be read.
    """

    def read(quiet: bool) -> bool:  # noqa: FBT001 - what steadily calls
        # Opened last, because `reading` asks who has the database open, and closed last: as above.
        with contextlib.ExitStack() as handles, reading(path, seconds=seconds, quiet=quiet):
            with worker(path).acting():
                live = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            handles.callback(os.close, live)
            return wal_is_empty(path) and not os.path.exists(path + "-journal") and same_pages(live, other)

    try:
        return steadily(read)
    except sqlite3.DatabaseError:
        return False


# -- the copy that a run takes before it changes the database ----------------------------------------------------------


def note_captured(work: Path, path: str) -> None:
    """Write down in the run's own directory which file its copy of the database is."""
    write_document(work / "captured.json", _facts(path))


def captured_in(work: Path | None) -> str:
    """Return the path of the copy that note_captured was told of; empty when there is none that was left as it was."""
    document = read_document(work / "captured.json") if work is not None else None
    if document is None or not os.path.isfile(document["path"]) or document != _facts(document["path"]):
        return ""
    return str(document["path"])


def _facts(path: str) -> dict[str, Any]:
    status = os.lstat(path)
    return {"path": path, "ino": status.st_ino, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
