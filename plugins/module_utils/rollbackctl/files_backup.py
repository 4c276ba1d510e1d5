# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening a named backup: a file's name in one known directory, never a path, a link or something that waits.

The file is opened once; its digest is taken from the descriptor that is then read, so it cannot be swapped in between.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from typing import IO

from .component import unknown_target
from .errors import Refused
from .files_tree import CHUNK
from .names import printable

# A name that no tool takes for an option or a path; a leading dot is allowed (.env.backup).
_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._+-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHECKSUM = ".sha256"


@dataclasses.dataclass(frozen=True)
class Backup:
    """An open backup. sha256: of its bytes as read now; proven: a checksum was given or lies beside it, and agrees.

    modified: seconds since 1970; size: bytes. Close `file` after use.
    """

    name: str
    file: IO[bytes]
    sha256: str
    proven: bool
    size: int
    modified: float


def open_backup(component: str, directory: str, want: str) -> Backup:
    """Open the backup that the operator named, and compare it with its checksum.

    component: name of the component, for messages. directory: where its backups are; empty when the profile names
    none. want: `file name` or `file name@sha256:digest`; without digest, `<file name>.sha256` beside it counts.

    :raises Refused: no such file, not a plain file, writable by others, or not what its checksum says.
    """
    if not directory:
        raise Refused(
            f"{component}: a backup is named, but the profile does not say where backups are. Nothing was changed.",
            "Add `backups: /directory` to this component, or name a checkpoint.",
        )
    name, mark, given = want.partition("@sha256:")
    if not _NAME.fullmatch(name) or name in {".", ".."} or (mark and not _DIGEST.fullmatch(given.lower())):
        raise Refused(
            f"{component}: {printable(want)!r} cannot name a backup. Nothing was changed.",
            f"Give the name of a file in {directory}, without a path, optionally followed by @sha256: and 64 digits.",
        )
    try:
        folder = os.open(os.path.realpath(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise Refused(
            f"{component}: the backups directory {directory} cannot be read: {exc.strerror}. Nothing was changed."
        ) from exc
    try:
        file = _open(component, folder, directory, name)
        expected = given.lower() or _checksum(component, folder, directory, name)
    finally:
        os.close(folder)
    try:
        return _compare(component, name, file, expected)
    except BaseException:
        file.close()
        raise


def candidates(directory: str) -> list[str]:
    """Return the names of the backups in a directory, newest first; none when it cannot be read."""
    try:
        found = [entry for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False)]
        found.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime, reverse=True)
    except OSError:
        return []
    return [entry.name for entry in found if _NAME.fullmatch(entry.name) and not entry.name.endswith(_CHECKSUM)]


def _open(component: str, folder: int, directory: str, name: str) -> IO[bytes]:
    try:
        # O_NONBLOCK: opening a named pipe must not wait for somebody to write into it.
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise unknown_target(component, name, candidates(directory), "backup") from None
    except OSError as exc:
        raise Refused(
            f"{component}: the backup {name} in {directory} cannot be opened: {exc.strerror}. Nothing was changed.",
            "A backup must be a plain, readable file, not a link.",
        ) from exc
    info = os.fstat(handle)
    problem = ""
    if not stat.S_ISREG(info.st_mode):
        problem = "is not a plain file"
    elif info.st_nlink != 1:
        problem = f"has {info.st_nlink} names (hard links), so somebody may change it elsewhere"
    elif info.st_uid not in {0, os.geteuid()}:
        problem = f"belongs to user {info.st_uid}, neither to root nor to the user who runs this"
    elif info.st_mode & 0o002:
        problem = "can be written by everybody"
    if problem:
        os.close(handle)
        raise Refused(
            f"{component}: the backup {name} in {directory} {problem}. Nothing was changed.",
            "Copy it to a new file that only root can write, after you have made sure that it is the right one.",
        )
    return os.fdopen(handle, "rb")


def _checksum(component: str, folder: int, directory: str, name: str) -> str:
    """Return the digest in the file beside a backup, as sha256sum writes it; empty when there is no such file."""
    beside = name + _CHECKSUM
    try:
        os.stat(beside, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return ""
    with _open(component, folder, directory, beside) as file:
        lines = file.read(1 << 16).decode("ascii", "replace").split("\n")
    for line in lines:
        digest, _, of = line.strip().partition(" ")
        if _DIGEST.fullmatch(digest.lower()) and of.strip().lstrip("*").split("/")[-1] in {"", name}:
            return digest.lower()
    raise Refused(
        f"{component}: {beside} in {directory} holds no sha256 of {name}. Nothing was changed.",
        f"Expected one line as `sha256sum {name}` prints it.",
    )


def _compare(component: str, name: str, file: IO[bytes], expected: str) -> Backup:
    digest = hashlib.sha256()
    while True:
        chunk = file.read(CHUNK)
        if not chunk:
            break
        digest.update(chunk)
    file.seek(0)
    if expected and digest.hexdigest() != expected:
        raise Refused(
            f"{component}: the backup {name} is damaged or another one: its sha256 does not match its checksum. "
            "Nothing was changed.",
            "Use another backup.",
        )
    info = os.fstat(file.fileno())
    return Backup(name, file, digest.hexdigest(), bool(expected), info.st_size, info.st_mtime)
