# SPDX-License-Identifier: GPL-3.0-or-later
"""Working in folders that others own, so that a name swapped meanwhile leads nowhere that its owner could not go.

Root may do anything anywhere, so a path through somebody else's folder must not be given to it: between two looks it
can be made a link to any file of the host. There are two ways out, and both are the kernel's:

* as that user: `worker` says who that is, `Owner.acting` gives this thread his rights (setfsuid(2)). What opens files
  by path (SQLite, git) works like this, too.
* through a descriptor: `open_folder` opens the folder once, following no link that somebody else could have put there.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import os
import pwd
import stat
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import Refused, StepFailed

_LIBC = ctypes.CDLL(None, use_errno=True)
# The C library's setgroups changes all threads (nptl(7)); the kernel's own changes the calling one.
_SETGROUPS = {
    "x86_64": 116,
    "aarch64": 159,
    "riscv64": 159,
    "ppc64le": 81,
    "s390x": 206,
    "i686": 206,
    "armv7l": 206,
}
_LINKS = 40  # path_resolution(7)
_before = threading.local()


@dataclasses.dataclass(frozen=True)
class Owner:
    """The user that commands and file operations run as. drop: this process is root, and that user is not."""

    uid: int
    gid: int
    home: str
    groups: tuple[int, ...]
    drop: bool

    @classmethod
    def of(cls, path: str) -> Owner:
        """Return the owner of path.

        :raises Refused: when this process is neither that user nor root, or would have to work as root where another
            user can change what is there.
        """
        status = os.stat(path)
        here = os.geteuid()
        if here not in {0, status.st_uid}:
            raise Refused(
                f"{path} belongs to {user_name(status.st_uid)}, and this runs as {user_name(here)}: git would mix "
                "their files. Nothing was changed.",
                f"Set ansible_user or ansible_become_user to {user_name(status.st_uid)}, or to root.",
            )
        if status.st_uid == 0:
            _refuse_others(os.path.join(path, "config"))
        return cls.named(status.st_uid, status.st_gid)

    @classmethod
    def named(cls, uid: int, gid: int) -> Owner:
        """Return the user with this number; gid: the group of one that the host does not know."""
        try:
            entry = pwd.getpwuid(uid)
            gid, home = entry.pw_gid, entry.pw_dir
            groups = tuple(os.getgrouplist(entry.pw_name, gid))
        except KeyError:
            home, groups = "/", (gid,)
        drop = os.geteuid() != uid
        return cls(uid, gid, home if drop else os.environ.get("HOME", home), groups, drop)

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Do this thread's file operations as this user; other threads go on as before.

        :raises StepFailed: the kernel does not let us.
        """
        if not self.drop:
            yield
            return
        stack = _before.__dict__.setdefault("stack", [])
        stack.append((_file_user(), os.getgroups()))
        try:
            _become(self.uid, self.gid, self.groups)
            yield
        finally:
            (uid, gid), groups = stack.pop()
            _become(uid, gid, groups)


@contextlib.contextmanager
def ourselves() -> Iterator[None]:
    """Inside `Owner.acting`: be again who this process is, for the state store and for /proc."""
    stack = _before.__dict__.setdefault("stack", [])
    if not stack:
        yield
        return
    (uid, gid), groups = stack[0]
    with Owner(uid, gid, "", tuple(groups), drop=True).acting():
        yield


def _file_user() -> tuple[int, int]:
    # An invalid number changes nothing, and the answer is the present one.
    return _LIBC.setfsuid(-1) & 0xFFFFFFFF, _LIBC.setfsgid(-1) & 0xFFFFFFFF


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    # With user 0 first: a thread that goes back may do the rest, and one that leaves has not lost the right yet.
    _LIBC.setfsuid(os.geteuid())
    number = _SETGROUPS.get(os.uname().machine)
    wanted = (ctypes.c_uint32 * len(groups))(*groups)
    failed = number is None or _LIBC.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), wanted) != 0
    _LIBC.setfsgid(gid)
    _LIBC.setfsuid(uid)
    if failed or _file_user() != (uid, gid):  # they report no error; asking again gives the present values
        raise StepFailed(f"This process may not act as {user_name(uid)}.", "Run as that user, or as root.")


def file_user() -> int:
    """Return as which user this thread works on files just now."""
    return _file_user()[0]


def user_name(uid: int) -> str:
    """Return a user's name, or "user 1234"."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def worker(path: str) -> Owner:
    """Return as whom to work on the file path and on names beside it: with no more rights than that takes.

    That is this process itself, unless it is root and somebody else can change what a name on the way means: then the
    file's owner if he may write in the folder, or else the folder's.

    :raises Refused: nobody but root could do it, but it would not be safe for root.
    """
    if os.geteuid() != 0:
        return Owner.named(os.geteuid(), os.getegid())
    unsafe, links = _way(path)
    folder = os.path.dirname(path) or "/"
    if not unsafe or not os.path.isdir(folder):
        return Owner.named(0, 0)
    place, found = os.stat(folder), None
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if status.st_uid and stat.S_ISREG(status.st_mode):
            found = Owner.named(status.st_uid, status.st_gid)
        if not status.st_uid:
            _refuse_others(path)
    if found is None or not _may_write(place, found):
        if not place.st_uid:
            _refuse_others(path)
        found = Owner.named(place.st_uid, place.st_gid)
    strange = [link for link, uid in links if uid not in {0, found.uid}]
    if strange:
        raise Refused(
            f"{path} is reached through the link {strange[0]}, which belongs neither to root nor to "
            f"{user_name(found.uid)}. Nothing was changed.",
            f"Set the path in the profile to the real place: {os.path.realpath(path)}",
        )
    return found


def _may_write(place: os.stat_result, user: Owner) -> bool:
    """By the permissions alone; with an access list the group's are the most that it grants."""
    if place.st_uid == user.uid:
        return bool(place.st_mode & stat.S_IWUSR)
    return bool(place.st_mode & (stat.S_IWGRP if place.st_gid in {user.gid, *user.groups} else stat.S_IWOTH))


def _refuse_others(path: str) -> None:
    unsafe, _ = _way(path)
    if unsafe:
        owner = os.lstat(unsafe).st_uid
        who = user_name(owner) if owner else "others than root"
        raise Refused(
            f"{path} belongs to root, but {unsafe} can be changed by {who}, who could lead root to any other file. "
            "Nothing was changed.",
            f"Give both to the service's user (chown), or {unsafe} to root alone: chown root {unsafe}; "
            f"chmod go-w {unsafe}",
        )


def _way(path: str) -> tuple[str, list[tuple[str, int]]]:
    """Return the first folder on the way to path in which others than root can change names (empty: none), and the
    links met from there on, with their owners. The order is what makes it safe to look by name."""
    parts = [part for part in path.split("/") if part not in {"", "."}][::-1]
    at, unsafe = "/", ""
    links: list[tuple[str, int]] = []
    followed = 0
    while parts:
        name = parts.pop()
        if name == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, name)
        try:
            status = os.lstat(here)
        except OSError:
            status = None
        unsafe = unsafe or (at if _open_to_others(os.stat(at), status, last=not parts) else "")
        if status is None:
            break
        if not stat.S_ISLNK(status.st_mode) or not parts:
            at = here
            continue
        followed += 1
        if followed > _LINKS:
            break
        if unsafe:
            links.append((here, status.st_uid))
        target = os.readlink(here)
        at = "/" if target.startswith("/") else at
        parts += [part for part in target.split("/") if part not in {"", "."}][::-1]
    return unsafe, links


def _open_to_others(folder: os.stat_result, entry: os.stat_result | None, *, last: bool) -> bool:
    """Say whether others than root can change what a name in folder means; last: new names are made there as well."""
    if folder.st_uid != 0:
        return True
    writable = folder.st_mode & stat.S_IWOTH or (folder.st_mode & stat.S_IWGRP and folder.st_gid != 0)
    if not writable:
        return False
    # In a folder like /tmp only the owner of a name may change it; but everybody may make a new one.
    return last or entry is None or not folder.st_mode & stat.S_ISVTX or entry.st_uid != 0


class Folder:
    """A folder that was opened once, so that names in it stay those, whatever becomes of the way to it."""

    def __init__(self, path: str) -> None:
        """Open it.

        :raises Refused, OSError: see open_folder.
        """
        self.path = path
        self.handle = open_folder(path)
        self._close = weakref.finalize(self, os.close, self.handle)

    def at(self, name: str) -> Path:
        """Return a path of a name in it that the kernel does not resolve again."""
        return Path(f"/proc/self/fd/{self.handle}", name)

    def said(self, text: object) -> str:
        """Return a text with such paths as people know them."""
        return str(text).replace(f"/proc/self/fd/{self.handle}", self.path)


def open_folder(path: str) -> int:
    """Open a directory and return its descriptor; a link on the way is followed only when root alone can change it.

    Names below are then used with dir_fd, or as `/proc/self/fd/NUMBER/name`, which the kernel does not resolve again.
    Without root's rights every link is followed: it leads nowhere that this user could not go.

    :raises Refused: a link of somebody else is on the way.
    :raises OSError: no such directory.
    """
    if os.geteuid() != 0:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    parts = [part for part in path.split("/") if part not in {"", "."}][::-1]
    at, followed = os.open("/", flags), 0
    try:
        while parts:
            name = parts.pop()
            try:
                inner = os.open(name, flags, dir_fd=at)
            except OSError as exc:
                if exc.errno not in {errno.ELOOP, errno.ENOTDIR} or followed > _LINKS:
                    raise
                link = os.stat(name, dir_fd=at, follow_symlinks=False)
                if not stat.S_ISLNK(link.st_mode):
                    raise
                if _open_to_others(os.fstat(at), link, last=False):
                    raise Refused(
                        f"{path} is reached through the link {name}, which others than root can change. "
                        "Nothing was changed.",
                        f"Set the path in the profile to the real place: {os.path.realpath(path)}",
                    ) from None
                followed += 1
                target = os.readlink(name, dir_fd=at)
                parts += [part for part in target.split("/") if part not in {"", "."}][::-1]
                inner = os.open("/", flags) if target.startswith("/") else os.dup(at)
            os.close(at)
            at = inner
    except BaseException:
        os.close(at)
        raise
    return at
