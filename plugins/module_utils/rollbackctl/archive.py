# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading tar archives that may be damaged or hostile. Writing them is archive_write.py.

Every member is checked here and written by this code: nothing is left to TarFile.extract. What is refused is what
tarfile's "data" filter refuses (https://docs.python.org/3/library/tarfile.html#tarfile.data_filter), and also what tar
itself lets pass: a missing end mark (an archive cut at a block boundary), a name that comes twice, links that climb
out step by step. Reading without writing gives the same summary that the unpacked tree will have.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable
from typing import IO, Any

from .errors import Refused
from .files_tree import CHUNK, DIRECTORY, FILE, LINK, Item, Summary, Tally, left_out, summarise
from .names import printable

CAPABLE = "ROLLBACKCTL.capability"  # a program's capabilities in an archive of ours, as hexadecimal digits
# What others write for them: GNU tar --xattrs, bsdtar.
_CAPABLE_ELSEWHERE = ("SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.security.capability")
_KINDS = {
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_LONG_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_LONG_HEADER_LIMIT = 1 << 20
_OVERHEAD = 4096  # bytes of headers and padding that one member may need
_IMPLIED_MODE = 0o755  # of a folder that an archive only implies


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who owns a name and when it was changed. modified: seconds since 1970."""

    uid: int
    gid: int
    modified: int


@dataclasses.dataclass(frozen=True)
class Contents:
    """What an archive holds. owners: by path; root: mode and owner of the top folder, when the archive has it;
    dotted: its names begin with "./", so the top folder itself was archived from inside."""

    items: tuple[Item, ...]
    owners: dict[str, Owner]
    root: tuple[int, Owner] | None
    dotted: bool

    def inside(self, folder: str) -> Contents:
        """Return what is below one folder of the archive, as if that were the top."""
        prefix = folder + "/"
        root = next(
            ((item.mode, self.owners[folder]) for item in self.items if item.path == folder and folder in self.owners),
            None,
        )
        return Contents(
            tuple(
                dataclasses.replace(item, path=item.path[len(prefix) :])
                for item in self.items
                if item.path.startswith(prefix)
            ),
            {path[len(prefix) :]: owner for path, owner in self.owners.items() if path.startswith(prefix)},
            root,
            dotted=True,
        )

    def only_folder(self) -> str:
        """Return the one top folder that everything is in; empty when there is none such."""
        tops = {item.path.split("/")[0] for item in self.items}
        only = next(iter(tops)) if len(tops) == 1 else ""
        return only if any(item.path == only and item.kind == DIRECTORY for item in self.items) else ""


class _Metered:
    """The unpacked bytes of an archive; stops when there are more than its members can account for."""

    def __init__(self, file: IO[bytes], tally: Tally) -> None:
        self._file = file
        self._tally = tally
        self._given = 0
        self._last = -1

    def ends_at(self, offset: int) -> bool:
        """Say whether all that was read from offset (bytes) on is the end of a tar: two or more blocks of zeros.

        tarfile stops without a word at a damaged header as well.
        """
        return self._last < offset and self._given - offset >= 2 * tarfile.BLOCKSIZE

    def read(self, size: int = CHUNK) -> bytes:
        try:
            data = self._file.read(size)
        except (EOFError, zlib.error, OSError) as exc:
            raise _damaged(self._tally, "it is cut off or its bytes were changed") from exc
        content = len(data.rstrip(b"\0"))
        if content:
            self._last = self._given + content - 1
        self._given += len(data)
        if self._given > self._tally.max_bytes + _OVERHEAD * (self._tally.entries + 64):
            self._tally.add(self._tally.max_bytes + 1)
        self._tally.clock()
        return data


def read_archive(file: IO[bytes], tally: Tally, into: int | None = None) -> Contents:
    """Read a tar or tar.gz from its beginning to its end, check every member, and write them when asked to.

    file: open archive, position 0. into: descriptor of an empty private directory that gets the members, without
    owners and folder modes (see archive_write.settle), or None to change nothing.

    :raises Refused: damaged, cut off, too big, or holding what no backup should (see the module's text).
    :raises OSError: writing failed (disk full).
    """
    magic = file.read(6)
    file.seek(0)
    if magic.startswith((b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK")):
        raise Refused(
            f"{tally.what} is neither a tar nor a tar.gz. Nothing was changed.",
            "Pack it again with tar -czf; other kinds are not read.",
        )
    plain: IO[bytes] = gzip.GzipFile(fileobj=file, mode="rb") if magic.startswith(b"\x1f\x8b") else file  # type: ignore[assignment]
    metered = _Metered(plain, tally)

    class Header(tarfile.TarInfo):
        """A tar header that does not let a name fill the memory."""

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
            return cls._short(super().frombuf(buf, encoding, errors))

        @classmethod
        def _frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str, **more: Any) -> Any:
            # What tarfile calls instead since the corrections of 2025 and 2026; it does not exist before.
            return cls._short(super()._frombuf(buf, encoding, errors, **more))  # type: ignore[misc]

        @staticmethod
        def _short(header: Any) -> Any:
            if header.type in _LONG_HEADERS and not 0 <= header.size <= _LONG_HEADER_LIMIT:
                raise _damaged(tally, "it holds a name longer than 1 MB")
            return header

    reader = _Reader(tally, into)
    try:
        with tarfile.open(
            fileobj=metered,  # type: ignore[call-overload]
            mode="r|",
            tarinfo=Header,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            for member in archive:
                reader.take(archive, member)
            end = int(archive.offset)  # of the header that is none
        while metered.read():
            pass
    except (tarfile.TarError, EOFError, ValueError, KeyError, IndexError, OverflowError) as exc:
        raise _damaged(tally, "it is cut off or its bytes were changed") from exc
    if not metered.ends_at(end):
        raise _damaged(tally, "its end is missing")
    return reader.contents()


class _Reader:
    """Takes the members one by one, in the order in which they come."""

    def __init__(self, tally: Tally, into: int | None) -> None:
        self._tally = tally
        self._into = into
        self._items: dict[str, Item] = {}
        self._implied: set[str] = set()
        self._owners: dict[str, Owner] = {}
        self._root: tuple[int, Owner] | None = None
        self._dotted = False

    def contents(self) -> Contents:
        return Contents(tuple(self._items.values()), self._owners, self._root, self._dotted)

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Check one member and write it when there is a place for it."""
        self._tally.add(member.size if member.isreg() else 0)
        path = self._path(member.name)
        self._dotted = self._dotted or member.name == "." or member.name.startswith("./")
        owner = self._owner(member)
        mode = member.mode & 0o7777
        if not path:
            if not member.isdir():
                raise self._bad(member.name, "is the top of the archive but no folder")
            self._root = (mode, owner)
            return
        self._parents(path)
        if path in self._items and not (member.isdir() and path in self._implied):
            raise self._bad(path, "comes twice")
        if member.issparse() or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            raise self._bad(path, f"is {_KINDS.get(member.type, 'a sparse file or of an unknown kind')}")
        if member.isdir():
            self._directory(path, mode)
        elif member.issym():
            self._link(path, member.linkname)
        elif member.islnk():
            self._hard_link(path, member.linkname)
        else:
            self._file(archive, member, path, mode)
        self._owners[path] = owner

    def _path(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise self._bad(name, "would be written outside the directory")
        if len(os.fsencode(name)) > 3000 or any(len(os.fsencode(part)) > 255 for part in parts):
            raise self._bad(name[:60], "is a longer name than Linux allows")
        return "/".join(parts)

    def _owner(self, member: tarfile.TarInfo) -> Owner:
        if not (0 <= member.uid < 2**32 - 1 and 0 <= member.gid < 2**32 - 1):
            raise self._bad(member.name, "has an owner that Linux does not know")
        modified = int(member.mtime) if 0 <= member.mtime < 2**33 else 0
        return Owner(member.uid, member.gid, modified)

    def _parents(self, path: str) -> None:
        """Every part before the last must be a folder of this archive; a folder that is only implied is made."""
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            parent = "/".join(parts[:depth])
            known = self._items.get(parent)
            if known is None:
                self._tally.add(0)
                self._implied.add(parent)
                self._directory(parent, _IMPLIED_MODE)
                self._implied.add(parent)
            elif known.kind != DIRECTORY:
                raise self._bad(path, f"would be written through {printable(parent)}, which is no folder")

    def _directory(self, path: str, mode: int) -> None:
        if self._into is not None and path not in self._implied.intersection(self._items):
            os.mkdir(path, 0o700, dir_fd=self._into)
        self._implied.discard(path)
        self._items[path] = Item(path, DIRECTORY, mode)

    def _link(self, path: str, target: str) -> None:
        if not target or "\0" in target:
            raise self._bad(path, "is a link to nothing")
        if self._into is not None:
            os.symlink(target, path, dir_fd=self._into)
        self._items[path] = Item(path, LINK, target=target)

    def _hard_link(self, path: str, name: str) -> None:
        original = self._items.get(self._path(name))
        if original is None or original.kind != FILE:
            raise self._bad(path, "is a hard link to something that is no file before it in this archive")
        # Many names of one big file are a bomb too: they are read as often as they are named.
        self._tally.add(original.size)
        if self._into is not None:
            os.link(original.path, path, src_dir_fd=self._into, dst_dir_fd=self._into, follow_symlinks=False)
        self._items[path] = dataclasses.replace(original, path=path)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, mode: int) -> None:
        source = archive.extractfile(member)
        if source is None:
            raise self._bad(path, "has no content")
        digest, size = hashlib.sha256(), 0
        handle = -1
        if self._into is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(path, flags, 0o600, dir_fd=self._into)
        try:
            while True:
                chunk = source.read(CHUNK)
                if not chunk:
                    break
                digest.update(chunk)
                size += len(chunk)
                if handle >= 0:
                    _write_all(handle, chunk)
            if size != member.size:
                raise _damaged(self._tally, "it is cut off")
            if handle >= 0:
                os.fchmod(handle, mode)
        finally:
            if handle >= 0:
                os.close(handle)
        named = member.pax_headers
        foreign = "".join(os.fsencode(named[key]).hex() for key in _CAPABLE_ELSEWHERE if key in named)
        capability = named.get(CAPABLE) or foreign
        self._items[path] = Item(path, FILE, mode, size, digest.hexdigest(), capability=capability)

    def _bad(self, name: str, what: str) -> Refused:
        return Refused(
            f"{self._tally.what} is not used: {printable(name)} {what}. Nothing was changed.",
            "Use another backup, and find out who made this one.",
        )


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def check_harmless(contents: Contents, tally: Tally) -> None:
    """Refuse what an archive from elsewhere must not bring along: links out of the tree, programs with rights.

    An archive that rollbackctl recorded itself, and whose digest is right, brings back what was there.

    :raises Refused: naming the first such member.
    """
    for item in contents.items:
        problem = ""
        if item.kind == FILE and item.mode & 0o6000:
            problem = "is a program that would run with its owner's rights (setuid or setgid)"
        elif item.capability:
            problem = "is a program that would run with more rights than its user has (capabilities)"
        elif item.kind == DIRECTORY and item.mode & 0o4000:
            problem = "is a folder with the setuid bit"
        elif item.kind == LINK and _leaves(item):
            problem = "is a link that leaves the directory"
        if problem:
            raise Refused(
                f"{tally.what} is not used: {printable(item.path)} {problem}. Nothing was changed.",
                "Use another backup, or take this thing out of it. "
                "A checkpoint taken on this host may hold such things; an archive from elsewhere may not.",
            )


def _leaves(link: Item) -> bool:
    """A link stays inside when it first climbs no higher than the top, then only descends. By induction this also holds
    through other such links; `..` after a descent would climb from wherever a link led to (compare CVE-2025-4517)."""
    if link.target.startswith("/"):
        return True
    parts = [part for part in link.target.split("/") if part not in {"", "."}]
    climbs = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return climbs > link.path.count("/") or ".." in parts[climbs:]


def summary_of(contents: Contents, exclude: Iterable[str]) -> Summary:
    """Return the summary that read_tree will give of the unpacked archive."""
    patterns = tuple(exclude)
    return summarise(item for item in contents.items if not left_out(item.path, patterns))


def _damaged(tally: Tally, why: str) -> Refused:
    return Refused(f"{tally.what} is damaged: {why}. Nothing was changed.", "Use another backup.")
