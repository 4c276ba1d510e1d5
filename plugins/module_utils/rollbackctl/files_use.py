# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses a directory now, whether there is room beside it, and removing trees that this project made."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from .files_tree import bytes_text
from .names import printable

_MARGIN = 32 << 20  # bytes that stay free, so that logs can still be written
_SHOWN = 5


def users_of(path: Path) -> list[str]:
    """Return the processes that work in path or have a file below it open, e.g. "gunicorn (812)", as far as this user
    may see them (proc_pid_fd(5))."""
    inside = str(path) + "/"
    found = []
    for pid in sorted((entry for entry in os.listdir("/proc") if entry.isdigit()), key=int):
        if int(pid) == os.getpid() or not _uses(pid, str(path), inside):
            continue
        with contextlib.suppress(OSError):
            found.append(f"{printable(Path('/proc', pid, 'comm').read_text(errors='replace').strip())} ({pid})")
    return found


def _uses(pid: str, path: str, inside: str) -> bool:
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/exe"]
    with contextlib.suppress(OSError):
        links += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            used = os.readlink(link)
            if used == path or used.startswith(inside):
                return True
    return False


def use_note(path: Path) -> str:
    """Return the sentence about who must be restarted; empty when nobody is seen using path."""
    users = users_of(path)
    if not users:
        return ""
    more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
    return (
        f"{', '.join(users[:_SHOWN])}{more} use{'s' if len(users) == 1 else ''} {path} now "
        "and must be restarted afterwards to see the other version."
    )


def room_problem(place: Path, size: int, entries: int) -> str:
    """Return why size bytes in so many names do not fit on the file system of place; empty when they do."""
    system = os.statvfs(place)
    free = system.f_bavail * system.f_frsize
    needed = size + entries * system.f_frsize + _MARGIN
    if free < needed:
        return f"{place} has {bytes_text(free)} free, and {bytes_text(needed)} are needed. Make room first."
    # A file system without a fixed number of inodes (btrfs) says 0.
    if system.f_files and system.f_favail < entries + 16:
        return f"{place} has room for {system.f_favail} more files, and {entries} are needed. Make room first."
    return ""


def remove_tree(path: Path) -> bool:
    """Remove a tree that this project made, also one with read-only folders; say whether there was one.

    :raises OSError: it cannot be removed.
    """
    if not os.path.lexists(path):
        return False
    # Root may remove them as they are, and must not be led through a link that somebody puts there to change modes.
    for folder, _, _ in os.walk(path) if os.geteuid() != 0 else ():
        if not os.stat(folder, follow_symlinks=False).st_mode & stat.S_IWUSR:
            os.chmod(folder, 0o700)
    shutil.rmtree(path)
    return True
