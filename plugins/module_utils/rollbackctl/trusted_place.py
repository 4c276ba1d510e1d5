# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a path is ours alone: nobody but its owner can change what is there, or put something else in its place.

What the state store holds is carried out later, often as root. Whoever can write into it, or swap a folder or link on
the way to it, decides what that is.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat

from .errors import Refused

_LINKS = 40  # as the kernel's own limit, path_resolution(7)
_ROOT = 0


def check_trusted(path: str) -> None:
    """Prove that nobody but root and the present user can change what is at a path, as far as it is there.

    :param path: absolute. Each folder and link on the way counts. In a folder with the sticky bit, such as /tmp, only
        the owner of what is in it can swap that.
    :raises Refused: somebody can; the message names the folder, and the next step is the command that mends it.
    """
    left = [part for part in path.split("/") if part][::-1]
    here, links = "/", 0
    _check(here, os.lstat(here), path)
    while left:
        part = left.pop()
        if part == "..":
            here = os.path.dirname(here)
            continue
        place = os.path.join(here, part)
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return
        _check(place, status, path)
        if not stat.S_ISLNK(status.st_mode):
            here = place
            continue
        links += 1
        if links > _LINKS:
            raise Refused(f"The state folder {path} leads through too many links.")
        target = os.readlink(place)
        left += [part for part in target.split("/") if part not in ("", ".")][::-1]
        here = "/" if target.startswith("/") else here
    if stat.S_IMODE(os.lstat(here).st_mode) & 0o022:
        raise _writable(here, path)  # the sticky bit is enough on the way, not for the folder itself


def _check(place: str, status: os.stat_result, path: str) -> None:
    if status.st_uid not in (_ROOT, os.geteuid()):
        raise Refused(
            f"The state folder {path} is not safe: {place} belongs to {_name(status.st_uid)}, who can change what this "
            f"run, as {_name(os.geteuid())}, relies on. Nothing was changed.",
            f"chown {_name(os.geteuid())} {shlex.quote(place)}    or name another folder in rollback_state.path",
        )
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISLNK(status.st_mode) and mode & 0o022 and not mode & stat.S_ISVTX:
        raise _writable(place, path)


def _writable(place: str, path: str) -> Refused:
    mode = stat.S_IMODE(os.lstat(place).st_mode)
    return Refused(
        f"The state folder {path} is not safe: others can write into {place} (mode {mode:04o}), and so decide what "
        "this run relies on. Nothing was changed.",
        f"chmod {'0700' if place == path else 'go-w'} {shlex.quote(place)}",
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
