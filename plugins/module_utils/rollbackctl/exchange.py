# SPDX-License-Identifier: GPL-3.0-or-later
"""What Linux can do to names in one step, and Python cannot say: swap two of them; and where it cannot: mount points.

renameat2(2) with RENAME_EXCHANGE swaps two names so that neither is ever absent; RENAME_NOREPLACE never overwrites.
https://man7.org/linux/man-pages/man2/rename.2.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path

from .errors import StepFailed

_NOREPLACE, _EXCHANGE = 1, 2
_AT_FDCWD = -100
# Without the C library's own function (glibc before 2.28, musl) the kernel is asked by number.
_NUMBERS = {"x86_64": 316, "aarch64": 276, "ppc64le": 357, "s390x": 347, "riscv64": 276}
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def exchange(one: Path, other: Path) -> None:
    """Swap what two names of one file system mean, atomically, and make that durable.

    :raises StepFailed: when the file system or the kernel cannot; nothing was changed.
    :raises OSError: any other refusal of the kernel; nothing was changed.
    """
    _rename(one, other, _EXCHANGE)


def move(old: Path, new: Path) -> None:
    """Rename old to new and make that durable; never overwrites.

    :raises FileExistsError: new is there already.
    :raises StepFailed: when the file system or the kernel cannot; nothing was changed.
    :raises OSError: any other refusal of the kernel; nothing was changed.
    """
    _rename(old, new, _NOREPLACE)


def _rename(one: Path, other: Path, flag: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    arguments = (
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(one)),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(other)),
        ctypes.c_uint(flag),
    )
    if hasattr(library, "renameat2"):
        result = library.renameat2(*arguments)
    elif os.uname().machine in _NUMBERS:
        result = library.syscall(ctypes.c_long(_NUMBERS[os.uname().machine]), *arguments)
    else:
        ctypes.set_errno(errno.ENOSYS)
        result = -1
    if result != 0:
        code = ctypes.get_errno()
        if code in _CANNOT:
            place = os.path.realpath(one.parent)
            raise StepFailed(
                f"The file system of {place} cannot swap two names in one step (renameat2: {os.strerror(code)}). "
                "Nothing was changed.",
                "Keep the directory on ext4, xfs, btrfs or tmpfs, with Linux 3.15 or newer.",
            )
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    for parent in {one.parent, other.parent}:
        handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_filesystem(directory: int) -> None:
    """Make everything on the file system of an open directory durable: one call for a whole tree.

    directory: file descriptor. One fsync per file costs seconds for a few thousand small files.

    :raises OSError: a write that was thought done has failed (reported since Linux 5.8).
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
    elif library.syncfs(ctypes.c_int(directory)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mounts(path: Path) -> list[str]:
    """Return the mount points at path or below it: no rename can move what is mounted there.

    Bind mounts within one file system count too; os.path.ismount does not see them. See proc_pid_mountinfo(5).
    """
    inside = str(path).rstrip("/") + "/"
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), line.split(" ")[4])
            if point == str(path) or point.startswith(inside):
                found.append(point)
    return sorted(found)
