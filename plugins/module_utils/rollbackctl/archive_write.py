# SPDX-License-Identifier: GPL-3.0-or-later
"""Packing a directory into a tar, and giving an unpacked tree its owners and modes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from .archive import CAPABLE, Contents
from .errors import Refused
from .files_tree import CAPABILITY, DIRECTORY, LINK, Found, Summary, Tally, capability_of, item_of, summarise, walk
from .names import printable


@dataclasses.dataclass(frozen=True)
class Packed:
    """A written archive. sha256 and size (bytes) of the file; summary of the tree in it."""

    sha256: str
    size: int
    summary: Summary


class _Output:
    """A file that knows the digest of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


class _Content:
    """The bytes of one open file, with their digest."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = os.read(self._handle, size)
        self.digest.update(data)
        return data


def pack(root: int, archive: Path, exclude: Iterable[str], tally: Tally) -> Packed:
    """Write root, an open directory, into a new tar (0600, durable but for its own folder) and return what it holds.

    The digest is of what was read while packing, so it is the archive's even when the tree changes meanwhile.

    :raises Refused: see files_tree.walk; a file shrank while it was read.
    :raises OSError: unreadable, disk full.
    """
    items = []
    seen: dict[tuple[int, int], tuple[str, str, int]] = {}
    handle = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb", buffering=1 << 18) as file:
        output = _Output(file)
        with tarfile.open(
            fileobj=output,  # type: ignore[call-overload]
            mode="w|",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            top = os.fstat(root)
            tar.addfile(_header(".", top))
            for found in walk(root, exclude, tally):
                key = (found.info.st_dev, found.info.st_ino)
                header = _header("./" + found.path, found.info, found.target)
                capability = capability_of(found.handle) if found.handle >= 0 else ""
                if capability:
                    header.pax_headers = {CAPABLE: capability}
                if found.handle >= 0 and key in seen:
                    first, sha256, size = seen[key]
                    header.type, header.linkname, header.size = tarfile.LNKTYPE, "./" + first, 0
                    tar.addfile(header)
                    items.append(item_of(found, size, sha256))
                elif found.handle >= 0:
                    content = _Content(found.handle)
                    _add_file(tar, header, content, tally, found)
                    items.append(item_of(found, header.size, content.digest.hexdigest()))
                    if found.info.st_nlink > 1:
                        seen[key] = (found.path, content.digest.hexdigest(), header.size)
                else:
                    tar.addfile(header)
                    items.append(item_of(found))
        file.flush()
        os.fsync(file.fileno())
    return Packed(output.digest.hexdigest(), output.size, summarise(items, top))


def _add_file(tar: tarfile.TarFile, header: tarfile.TarInfo, content: _Content, tally: Tally, found: Found) -> None:
    try:
        tar.addfile(header, content)  # type: ignore[arg-type]
    except OSError as exc:
        # tarfile's own complaint about too few bytes carries no errno; a full disk does.
        if exc.errno is not None:
            raise
        raise Refused(
            f"{tally.what}: {printable(found.path)} became shorter while it was read. Nothing was changed.",
            "If it is a log, exclude it; then start again.",
        ) from exc


def _header(name: str, info: os.stat_result, target: str = "") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.mode = stat.S_IMODE(info.st_mode)
    header.uid, header.gid, header.mtime = info.st_uid, info.st_gid, int(info.st_mtime)
    if stat.S_ISDIR(info.st_mode):
        header.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(info.st_mode):
        header.type, header.linkname = tarfile.SYMTYPE, target
    else:
        header.size = info.st_size
    return header


def settle(contents: Contents, into: int) -> None:
    """Give what read_archive wrote its owners (only root can), folder modes and times; into: as for read_archive.

    Deepest first: a folder that loses its write permission is finished by then.

    :raises OSError: an owner or a mode cannot be set.
    """
    for item in sorted(contents.items, key=lambda one: one.path, reverse=True):
        owner = contents.owners.get(item.path)
        if owner is not None and os.geteuid() == 0:
            os.chown(item.path, owner.uid, owner.gid, dir_fd=into, follow_symlinks=False)
        if item.kind != LINK and (item.kind == DIRECTORY or item.mode & 0o6000):
            # chown takes the setuid and setgid bits away (chown(2)), so modes come after it.
            os.chmod(item.path, item.mode, dir_fd=into)
        if item.capability and os.geteuid() == 0:
            handle = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=into)
            try:
                os.setxattr(handle, CAPABILITY, bytes.fromhex(item.capability))
            finally:
                os.close(handle)
        if owner is not None:
            os.utime(item.path, (owner.modified, owner.modified), dir_fd=into, follow_symlinks=False)
