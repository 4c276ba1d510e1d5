# SPDX-License-Identifier: GPL-3.0-or-later
"""What a directory tree is, for comparing and copying: names, types, modes, contents, link targets, capabilities.

Who owns what, and the mode of the directory itself, is a digest of its own (access): root gives and compares it, others
cannot, and an archive from elsewhere does not have it. Times are copied but not compared.
"""

from __future__ import annotations

import dataclasses
import errno
import fnmatch
import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .errors import Refused
from .names import printable

DIRECTORY, FILE, LINK = "d", "f", "l"
CHUNK = 1 << 20
CAPABILITY = "security.capability"
_MAX_DEPTH = 100


@dataclasses.dataclass(frozen=True)
class Item:
    """One name in a tree. path: relative, `/` between parts. size: bytes. target: of a symbolic link.

    capability: of a program, as hexadecimal digits of security.capability (capabilities(7)).
    """

    path: str
    kind: str
    mode: int = 0
    size: int = 0
    sha256: str = ""
    target: str = ""
    uid: int = 0
    gid: int = 0
    capability: str = ""


@dataclasses.dataclass(frozen=True)
class Summary:
    """A tree in short. digest: equal for equal trees; files: regular files and links; size: bytes of content.

    access: digest of all owners and of the top's mode; empty when the top is not known. owners: how many names each
    user has. capable: the programs with capabilities.
    """

    digest: str
    entries: int
    files: int
    size: int
    access: str = ""
    owners: Mapping[int, int] = dataclasses.field(default_factory=dict)
    capable: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return e.g. "412 files, 3.1 MB"."""
        return f"{self.files} file{'' if self.files == 1 else 's'}, {bytes_text(self.size)}"


def bytes_text(size: int) -> str:
    """Return a number of bytes for people, e.g. 3.1 MB."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def summarise(items: Iterable[Item], top: os.stat_result | None = None) -> Summary:
    """Return the summary of a tree, whatever order its items come in. top: of the directory itself."""
    digest, access = hashlib.sha256(), hashlib.sha256()
    entries = files = size = 0
    owners: Counter[int] = Counter()
    capable = []
    if top is not None:
        access.update(f"{stat.S_IMODE(top.st_mode):o} {top.st_uid} {top.st_gid}\n".encode())
        owners[top.st_uid] += 1
    for item in sorted(items, key=lambda one: os.fsencode(one.path)):
        fields = (item.path, item.kind, f"{item.mode:o}", str(item.size), item.sha256, item.target)
        # NUL cannot be part of a name, so no two trees spell the same bytes.
        digest.update(b"\0".join(os.fsencode(field) for field in fields) + b"\0\n")
        if item.capability:
            digest.update(b"capability " + item.capability.encode() + b"\n")
            capable.append(item.path)
        access.update(os.fsencode(item.path) + f"\0{item.uid} {item.gid}\n".encode())
        owners[item.uid] += 1
        entries += 1
        files += item.kind != DIRECTORY
        size += item.size
    known = access.hexdigest() if top is not None else ""
    return Summary(digest.hexdigest(), entries, files, size, known, dict(owners), tuple(capable))


class Tally:
    """Counts what is read, and refuses what is too much of it: a tree or an archive is never trusted to end.

    max_bytes: of content; max_entries: names; seconds: from now on.
    """

    def __init__(self, what: str, max_bytes: int, max_entries: int, seconds: float) -> None:
        self.what = what
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.seconds = seconds
        self.ends = time.monotonic() + seconds
        self.bytes = self.entries = 0

    def add(self, size: int) -> None:
        """Count one more entry of size bytes.

        :raises Refused: over a limit.
        """
        self.entries += 1
        self.bytes += size
        if self.entries > self.max_entries:
            raise Refused(
                f"{self.what} holds more than {self.max_entries} names, the limit. Nothing was changed.",
                "If that is right, set a higher max_entries for this component.",
            )
        if self.bytes > self.max_bytes:
            raise Refused(
                f"{self.what} holds more than {bytes_text(self.max_bytes)}, the limit. Nothing was changed.",
                "If that is right, set a higher max_bytes for this component.",
            )
        self.clock()

    def clock(self) -> None:
        """Check the time.

        :raises Refused: when it is over.
        """
        if time.monotonic() > self.ends:
            raise Refused(
                f"{self.what} could not be read within {self.seconds:g} seconds. Nothing was changed.",
                "Look at the load of the host's disks; if it is only slow, set a higher timeout for this component.",
            )


@dataclasses.dataclass(frozen=True)
class Found:
    """One name met by walk. info: os.stat_result; handle: open descriptor of a regular file, closed after the turn."""

    path: str
    info: os.stat_result
    handle: int = -1
    target: str = ""


def left_out(path: str, exclude: Iterable[str]) -> bool:
    """Say whether a relative path, or a folder it is in, is excluded: by its name or by its whole path."""
    parts = path.split("/")
    return any(
        fnmatch.fnmatchcase(part, pattern) or fnmatch.fnmatchcase("/".join(parts[: depth + 1]), pattern)
        for depth, part in enumerate(parts)
        for pattern in exclude
    )


def open_tree(root: Path) -> int:
    """Open a directory that is no link.

    :raises OSError: there is none such.
    """
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def walk(root: int, exclude: Iterable[str], tally: Tally) -> Iterator[Found]:
    """Yield everything below root, an open directory, folders before their content, in a fixed order; sockets and pipes
    are left out.

    Symbolic links are never followed, not even one that is put in a folder's place meanwhile: the tree may belong to a
    less privileged user.

    :raises Refused: over a limit of tally, devices, or too deep.
    :raises OSError: unreadable, or changed while being read.
    """
    yield from _walk(root, "", tuple(exclude), tally)


def _walk(directory: int, prefix: str, exclude: tuple[str, ...], tally: Tally) -> Iterator[Found]:
    if prefix.count("/") > _MAX_DEPTH:
        raise Refused(f"{tally.what} is more than {_MAX_DEPTH} folders deep. Nothing was changed.")
    for name in sorted(os.listdir(directory)):
        path = prefix + name
        if left_out(path, exclude):
            continue
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            tally.add(0)
            yield Found(path, info, target=os.readlink(name, dir_fd=directory))
        elif stat.S_ISREG(info.st_mode):
            yield from _file(directory, name, path, tally)
        elif stat.S_ISDIR(info.st_mode):
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                tally.add(0)
                yield Found(path, os.fstat(child))
                yield from _walk(child, path + "/", exclude, tally)
            finally:
                os.close(child)
        elif not (stat.S_ISSOCK(info.st_mode) or stat.S_ISFIFO(info.st_mode)):
            raise Refused(
                f"{tally.what} holds the device {printable(path)}; only files, folders and links can be kept. "
                "Nothing was changed."
            )


def _file(directory: int, name: str, path: str, tally: Tally) -> Iterator[Found]:
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise Refused(f"{tally.what}: {printable(path)} changed while it was being read. Nothing was changed.")
        tally.add(info.st_size)
        yield Found(path, info, handle)
    finally:
        os.close(handle)


def item_of(found: Found, size: int = 0, sha256: str = "") -> Item:
    """Return what is compared of a name that walk met; size and digest of a file as they were read."""
    mode, uid, gid = stat.S_IMODE(found.info.st_mode), found.info.st_uid, found.info.st_gid
    if stat.S_ISLNK(found.info.st_mode):
        return Item(found.path, LINK, target=found.target, uid=uid, gid=gid)
    if stat.S_ISDIR(found.info.st_mode):
        return Item(found.path, DIRECTORY, mode, uid=uid, gid=gid)
    return Item(found.path, FILE, mode, size, sha256, uid=uid, gid=gid, capability=capability_of(found.handle))


def capability_of(handle: int) -> str:
    """Return an open file's security.capability as hexadecimal digits; empty when it has none."""
    try:
        return os.getxattr(handle, CAPABILITY).hex()
    except OSError as exc:
        if exc.errno not in {errno.ENODATA, errno.ENOTSUP}:
            raise
        return ""


def read_tree(root: Path | int, exclude: Iterable[str], tally: Tally) -> Summary:
    """Read a directory (its path or a descriptor of it) and return its summary.

    :raises Refused: see walk.
    :raises OSError: see walk.
    """
    top = root if isinstance(root, int) else open_tree(root)
    try:
        return summarise(_items(top, exclude, tally), os.fstat(top))
    finally:
        if top != root:
            os.close(top)


def _items(top: int, exclude: Iterable[str], tally: Tally) -> Iterator[Item]:
    for found in walk(top, exclude, tally):
        size, digest = 0, hashlib.sha256()
        while found.handle >= 0:
            chunk = os.read(found.handle, CHUNK)
            if not chunk:
                break
            tally.clock()
            size += len(chunk)
            digest.update(chunk)
        yield item_of(found, size, digest.hexdigest())
