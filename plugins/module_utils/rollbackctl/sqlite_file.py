# SPDX-License-Identifier: GPL-3.0-or-later
"""A SQLite database as files: its header, who has it open, where it lies, what belongs to it besides its bytes.

The file format is https://www.sqlite.org/fileformat2.html; how such files get corrupted by well-meant copying is
https://www.sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from .errors import Refused, StepFailed
from .safe_path import file_user, ourselves

MAGIC = b"SQLite format 3\x00"
# Files that SQLite keeps beside a database and plays back into it when it is opened next.
COMPANIONS = ("-wal", "-shm", "-journal")
# Locks on these do not reach other machines, or WAL's shared memory does not work: https://www.sqlite.org/wal.html
NETWORK_TYPES = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gfs2", "ocfs2")
)
NETWORK_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone")
_FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks of another file of the same file system
_CHUNK = 1 << 20
# The bytes that SQLite locks instead of data: https://www.sqlite.org/lockingv3.html (PENDING, RESERVED, SHARED)
_LOCK_START, _LOCK_LENGTH = 0x40000000, 512


@dataclasses.dataclass(frozen=True)
class Header:
    """What the first 100 bytes of a database say. page_size in bytes; wal: opened in write-ahead-log mode."""

    page_size: int
    wal: bool


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that has a database or one of its companions open."""

    pid: int
    command: str
    file: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, {os.path.basename(self.file)})"


def read_header(handle: int, what: str) -> Header:
    """Return the header of an open database.

    :param what: how the file is called in messages.
    :raises Refused: it is no database, is encrypted, has a newer format, or is shorter than it says itself.
    """
    size, head = os.fstat(handle).st_size, os.pread(handle, 100, 0)
    if not size:
        raise Refused(f"{what} is empty (0 bytes).", "Name a backup that holds data.")
    if len(head) < 100 or not head.startswith(MAGIC):
        raise Refused(
            f"{what} is not a SQLite 3 database, or it is encrypted: it does not begin with 'SQLite format 3'.",
            "Name an unencrypted backup that was made by `sqlite3 DB '.backup FILE'` or by a checkpoint.",
        )
    page_size = int.from_bytes(head[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    if page_size < 512 or page_size & (page_size - 1):
        raise Refused(f"{what} has a damaged header: a page size of {page_size} bytes does not exist.")
    if max(head[18], head[19]) > 2 or int.from_bytes(head[44:48], "big") > 4:
        raise Refused(f"{what} was written in a newer file format than is known here.", "Update SQLite on this host.")
    pages, counted = int.from_bytes(head[28:32], "big"), head[24:28] == head[92:96]
    if counted and pages * page_size != size:
        raise Refused(
            f"{what} is cut off or was written to by something else: {size} bytes, and its header says "
            f"{pages * page_size}.",
            "Name another backup.",
        )
    return Header(page_size, 2 in {head[18], head[19]})


def open_backup(path: str) -> int:
    """Open a backup once, for all that is checked on it; return the file descriptor (read only).

    :raises Refused: missing, a symbolic link, no regular file, or writable by people who do not own it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise Refused(
                f"The backup {path} is a symbolic link. Nothing was changed.", "Name the file itself."
            ) from exc
        raise Refused(f"The backup {path} cannot be opened: {exc.strerror}. Nothing was changed.") from exc
    status = os.fstat(handle)
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file"
    elif status.st_mode & stat.S_IWOTH:
        problem = "may be written by everybody on this host, so it proves nothing"
    elif os.geteuid() == 0 and status.st_uid not in {0, _owner(os.path.dirname(path) or ".")}:
        problem = "belongs neither to root nor to the owner of its directory"
    if problem:
        os.close(handle)
        raise Refused(
            f"The backup {path} {problem}. Nothing was changed.", "Name a backup that only its owner can write."
        )
    return handle


def _owner(path: str) -> int:
    return os.stat(path).st_uid


def sha256_of(handle: int) -> str:
    """Return the sha256 of an open file from its beginning, as hexadecimal digits."""
    digest, offset = hashlib.sha256(), 0
    while True:
        chunk = os.pread(handle, _CHUNK, offset)
        if not chunk:
            return digest.hexdigest()
        digest.update(chunk)
        offset += len(chunk)


def copy_new(source: int, target: str, each: Callable[[], None] | None = None) -> bool:
    """Copy an open file to a new private file (0600) and make it durable; blocks are shared where the file system can.

    :param each: called after every MiB.
    :returns: whether blocks are shared.
    :raises OSError: target exists, disk full; an unfinished target is removed.
    """
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.ioctl(handle, _FICLONE, source)
            shared = True
            if each is not None:
                each()
        except OSError:
            shared, offset = False, 0
            while True:
                chunk = os.pread(source, _CHUNK, offset)
                if not chunk:
                    break
                view = memoryview(chunk)
                while view:
                    view = view[os.write(handle, view) :]
                offset += len(chunk)
                if each is not None:
                    each()
        os.fsync(handle)
    except BaseException:
        os.unlink(target)
        raise
    finally:
        os.close(handle)
    return shared


def holders(path: str) -> list[Holder]:
    """Return the processes that have the database, its WAL, shared memory or journal open, found by /proc/PID/fd.

    Processes of other users are seen only by root; those of an outer PID namespace never (see `lock`).
    """
    wanted: dict[tuple[int, int], str] = {}
    for name in (path, *(path + suffix for suffix in COMPANIONS)):
        try:
            status = os.lstat(name)
        except OSError:
            continue
        wanted[status.st_dev, status.st_ino] = name
    with ourselves():
        return _holders(wanted)


def _holders(wanted: Mapping[tuple[int, int], str]) -> list[Holder]:
    found: dict[tuple[int, str], Holder] = {}
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        try:
            handles = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for handle in handles:
            try:
                status = os.stat(f"/proc/{pid}/fd/{handle}")
            except OSError:
                continue
            name = wanted.get((status.st_dev, status.st_ino), "")
            if name:
                found[pid, name] = Holder(pid, _command(pid), name)
    return sorted(found.values(), key=lambda holder: (holder.pid, holder.file))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process"


def lock(handle: int) -> bool:
    """Take all of SQLite's locks on an open (for writing) database at once; False when somebody holds one.

    A process in WAL mode holds a lock as long as it has the database open, one in journal mode while it reads or
    writes. Released when any descriptor of the file is closed in this process (fcntl(2)).
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_LENGTH, _LOCK_START)
    except (BlockingIOError, PermissionError):
        return False
    return True


def mount_type(path: str) -> str:
    """Return the type of the file system that holds path, from /proc/self/mounts; empty when it is not listed."""
    real, best, kind = os.path.realpath(path), "", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split()
            # Blanks are written as \040: getmntent(3).
            point = fields[1].encode("utf-8", "surrogateescape").decode("unicode_escape")
            point = point.encode("latin-1").decode("utf-8", "surrogateescape")
            if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, fields[2]
    return kind


def on_network(kind: str) -> bool:
    """Say whether a file system type is one on which SQLite's locks cannot be trusted."""
    return kind in NETWORK_TYPES or kind.startswith(NETWORK_FUSE)


def attributes(handle: int) -> dict[str, Any]:
    """Return owner, group, permissions and extended attributes (access lists and SELinux labels are such) of an open
    file: what a database has. It is no program, so the bits and the capabilities of programs are not among them."""
    status = os.fstat(handle)
    extended: dict[str, str] = {}
    try:
        for name in os.listxattr(handle):
            if name != "security.capability":
                extended[name] = os.getxattr(handle, name).hex()
    except OSError as exc:
        if exc.errno != errno.ENOTSUP:
            raise
    return {"uid": status.st_uid, "gid": status.st_gid, "mode": status.st_mode & 0o777, "xattrs": extended}


def give_attributes(path: str, wanted: Mapping[str, Any]) -> None:
    """Give a file that this run made the attributes that `attributes` returned, make it durable, and read that back.

    It is opened as the present user, who must own it alone (one name): nobody else's file can be put in its place.

    :raises StepFailed: when they cannot be given; the file then must not take the place of the other.
    """
    wanted = {**wanted, "mode": wanted["mode"] & 0o777}
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise StepFailed(f"{path} cannot be opened: {exc.strerror}. The database was not touched.") from exc
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != file_user():
            raise StepFailed(f"{path} is not the file that was made there. The database was not touched.")
        with ourselves():  # only root gives a file away
            _give(handle, wanted)
        os.fsync(handle)
        now = attributes(handle)
    except OSError as exc:
        raise StepFailed(
            f"{path} could not be given the owner, permissions and labels of the database: {exc.strerror}. "
            "The database was not touched.",
            "Run as root or as the database's owner.",
        ) from exc
    finally:
        os.close(handle)
    if now != wanted:
        raise StepFailed(f"{path} reads back with other attributes than the database's: {now}, expected {wanted}.")


def _give(handle: int, wanted: Mapping[str, Any]) -> None:
    os.fchown(handle, wanted["uid"], wanted["gid"])
    for name in attributes(handle)["xattrs"]:
        if name not in wanted["xattrs"]:
            os.removexattr(handle, name)
    for name, value in wanted["xattrs"].items():
        os.setxattr(handle, name, bytes.fromhex(value))
    os.fchmod(handle, wanted["mode"])
