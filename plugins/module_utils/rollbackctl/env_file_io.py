# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a small secret file, telling two apart without giving a secret away, and replacing one in one step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path

from .errors import Refused, StateOther
from .failpoints import failpoint
from .safe_path import open_folder

SIZE_LIMIT = 1 << 20
_ROUNDS = 100_000  # some 25 ms


def fingerprint(path: Path, content: bytes) -> str:
    """Return a digest that says whether two contents of one file are equal, and that may be shown.

    A plain digest of a short secret is found by trying (one variable may be a four-digit number). So this one is slow
    (PBKDF2: in every Python, also in FIPS mode) and mixed with the host's machine id, which never leaves the host;
    machine-id(5) asks for it to be kept confidential and hashed. Who knows the machine id and may run programs there,
    and has the digest, can still try, forty times a second and core.
    """
    machine = b""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_bytes().strip()
    salt = hashlib.sha256(b"\0".join([b"rollbackctl.env", machine, os.fsencode(path)])).digest()
    return hashlib.pbkdf2_hmac("sha256", content, salt, _ROUNDS).hex()


def read_secret(name: str, path: Path) -> tuple[bytes, os.stat_result]:
    """Return the content and status of a plain file that is no link.

    :raises Refused: missing, unreadable, not a plain file, or bigger than any .env file.
    """
    try:
        folder = open_folder(str(path.parent))
        try:
            handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
    except FileNotFoundError as exc:
        raise Refused(
            f"{name}: {path} does not exist. Nothing was changed.",
            f"If it was removed, make an empty one with the right owner first: install -m 600 -o USER /dev/null {path}",
        ) from exc
    except OSError as exc:
        reason = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
        raise Refused(
            f"{name}: {path} cannot be read: {reason}. Nothing was changed.",
            "Set `path` of this component to the file itself, and run as a user who may read and replace it.",
        ) from exc
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)
        raise Refused(f"{name}: {path} is no plain file. Nothing was changed.")
    with os.fdopen(handle, "rb") as file:
        content = file.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise Refused(f"{name}: {path} is bigger than 1 MB, so it is no .env file. Nothing was changed.")
    return content, info


def replace_secret(name: str, path: Path, temporary: str, content: bytes, seen: os.stat_result) -> None:
    """Replace a file by content, keeping owner, mode and extended attributes; old or new at every instant, and durable.

    temporary: name beside it, this run's own (left over after a kill, it is removed by the next try).
    seen: the file's status when the content was decided on.

    :raises StateOther: the file is not the one that was seen.
    :raises OSError: any refusal of the file system; path is then unchanged.
    """
    folder = open_folder(str(path.parent))
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        try:
            _write_like(path.name, temporary, content, folder)
            failpoint("restore_env.replace.before")
            _still(name, path, folder, seen)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        failpoint("restore_env.replace.after")
        os.fsync(folder)
    finally:
        os.close(folder)


def _still(name: str, path: Path, folder: int, seen: os.stat_result) -> None:
    now = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    if (now.st_ino, now.st_size, now.st_mtime_ns) != (seen.st_ino, seen.st_size, seen.st_mtime_ns):
        raise StateOther(
            f"{name}: somebody else wrote {path} just now. It was left as it is.",
            "Find out who did, then start again.",
        )


def _write_like(model: str, temporary: str, content: bytes, folder: int) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    source = os.open(model, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        info = os.fstat(source)
        handle = os.open(temporary, os.O_WRONLY | flags, 0o600, dir_fd=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            mine = os.fstat(handle)
            if (mine.st_uid, mine.st_gid) != (info.st_uid, info.st_gid):
                os.fchown(handle, info.st_uid, info.st_gid)
            os.fchmod(handle, stat.S_IMODE(info.st_mode))
            _copy_attributes(source, handle)
            os.fsync(handle)
    finally:
        os.close(source)


def _copy_attributes(source: int, handle: int) -> None:
    """Copy extended attributes, access control lists among them; labels of the kernel's own (security.*) if allowed."""
    try:
        names = os.listxattr(source)
    except OSError:
        return  # this file system has none
    for name in names:
        forgiven = (PermissionError,) if name.startswith(("security.", "trusted.")) else ()
        with contextlib.suppress(*forgiven):
            os.setxattr(handle, name, os.getxattr(source, name))
