# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory (a release, a module's folder) brought back from an archive, by one swap of names.

The good tree is unpacked beside the directory and compared, then both names are swapped in one step: whoever looks sees
the whole bad tree or the whole good one, and never nothing. What was displaced stays beside it, as
`.<directory>.rollbackctl-<run>-<number>`, until finalize; going back to it is one more swap.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from .archive import Contents, check_harmless, read_archive, summary_of
from .archive_write import pack, settle
from .component import Driver, Finding, Place, Version
from .durable import now, sync_directory, write_document
from .errors import Refused, RollbackError, StepFailed
from .exchange import exchange, mounts, move, sync_filesystem
from .failpoints import failpoint
from .files_backup import open_backup
from .files_tree import CHUNK, Summary, Tally, open_tree, read_tree
from .files_use import remove_tree, room_problem, use_note
from .names import printable
from .safe_path import Folder, user_name

ABSENT = "absent"
_NAME_LIMIT = 150  # what is kept beside the directory has a longer name, and Linux allows 255


class FilesDriver(Driver):
    """Options: name, path, backups, exclude, max_bytes, max_entries, timeout (seconds), accept_unverified."""

    layer = "application"
    failpoints = (
        "restore_files.record.before",
        "restore_files.record.after",
        "restore_files.unpack.before",
        "restore_files.unpack.after",
        "restore_files.settle.before",
        "restore_files.ready.before",
        "restore_files.ready.after",
        "restore_files.exchange.before",
        "restore_files.exchange.after",
        "restore_files.remove.before",
        "restore_files.remove.after",
    )

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        super().__init__(options, place)
        self.path = Path(options["path"])
        self.backups: str = options.get("backups") or ""
        self.exclude = tuple(options.get("exclude") or ())
        self.timeout = float(options.get("timeout") or 120)

    # -- reading -----------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _beside(self) -> Folder:
        """The folder that holds the directory: opened once, because its owner may be somebody else."""
        return Folder(str(self.path.parent))

    @property
    def _here(self) -> Path:
        return self._beside.at(self.path.name)

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:
        """Compare owners where both sides know them: root does, others do not, nor does an archive from elsewhere."""
        if "access" in reading.identity and "access" in version.identity:
            return super().matches(reading, version, exact=exact)
        return bool(reading.identity["tree"] == version.identity["tree"])

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a tree has no part that means less under traffic
        """Read the directory; one that is missing is a version, too."""
        self._check_place()
        if not os.path.lexists(self._here):
            return Version({"tree": ABSENT}, "no directory")
        return _version(self._read(self._here))

    def resolve(self, want: Version | str) -> Version:
        """Check that a recorded archive is whole, or read through a named one."""
        if isinstance(want, Version):
            if want.identity["tree"] != ABSENT:
                self._open_target(want).close()
            return want
        backup = open_backup(self.name, self.backups, want)
        with backup.file:
            if not backup.proven and not self.options.get("accept_unverified"):
                raise Refused(
                    f"{self.name}: nothing proves that the backup {backup.name} is whole: there is no checksum. "
                    "Nothing was changed.",
                    f"Compare its sha256 ({backup.sha256}) with what its maker says and name it as "
                    f"{backup.name}@sha256:<that>, or accept unverified backups for this run.",
                )
            tally = self._tally(f"{self.name}: the backup {backup.name}")
            contents = read_archive(backup.file, tally)
        folder = self._folder(contents)
        inner = contents.inside(folder) if folder else contents
        check_harmless(inner, tally)
        summary = summary_of(inner, self.exclude)
        if not summary.files:
            raise Refused(f"{tally.what} holds no files. Nothing was changed.", "Use another backup.")
        return Version(
            {"tree": summary.digest},
            f"backup {backup.name}: {summary.text}",
            datetime.fromtimestamp(backup.modified, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            {
                "file": backup.name,
                "sha256": backup.sha256,
                "folder": folder,
                "recorded": False,
                "entries": summary.entries,
                "bytes": summary.size,
            },
            os.path.realpath(self.backups),
        )

    def check(self, live: Version, target: Version) -> Finding:
        """Look for what would stop the unpacking or the swap."""
        if self.matches(live, target, exact=True):
            return Finding(seconds=0.1, worst_seconds=self.timeout)
        parent = self.path.parent
        problems = []
        capable = list(target.artefacts.get("capable", []))
        if capable and os.geteuid() != 0:
            problems.append(
                f"{printable(', '.join(capable[:5]))} had capabilities (getcap), which only root can give back. "
                "Run as root."
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            problems.append(f"{parent} cannot be written by this user; the swap happens there.")
        mounted = mounts(self.path)
        if mounted:
            problems.append(f"{mounted[0]} is a mount point; what is mounted there cannot be swapped.")
        size, entries = int(target.artefacts.get("bytes", 0)), int(target.artefacts.get("entries", 0))
        room = room_problem(parent, size, entries)
        if room:
            problems.append(room)
        seconds = 0.5 + (int(live.artefacts.get("bytes", 0)) + 3 * size) / 100e6 + entries / 2000
        notes = tuple(self._notes(live, target))
        return Finding(tuple(problems), seconds=round(seconds, 1), worst_seconds=3 * self.timeout, notes=notes)

    # -- changing ----------------------------------------------------------------------------------------------------

    def stage(self, target: Version) -> None:
        """Unpack the target beside the directory and compare it."""
        with self._changing("could not be unpacked"):
            if target.identity["tree"] != ABSENT and not self.matches(self.live(exact=True), target, exact=True):
                self._ready(target)

    def record(self, into: Path) -> Version:
        """Pack the directory into a tar of `into`, with a manifest beside it."""
        live = self.live(exact=True)
        if live.identity["tree"] == ABSENT:
            return Version(live.identity, live.text, now(), {"recorded": True})
        room = room_problem(into, int(live.artefacts["bytes"]), int(live.artefacts["entries"]))
        if room:
            raise Refused(f"{self.name}: no room to keep a copy. {room} Nothing was changed.")
        name = f"{self.name}.tar"
        failpoint("restore_files.record.before")
        with self._reading(self.path), _opened(self._here) as top:
            packed = pack(top, into / name, self.exclude, self._tally(self._what()))
        artefacts = {
            "file": name,
            "sha256": packed.sha256,
            "size": packed.size,
            "folder": "",
            "recorded": True,
            **_facts(packed.summary),
        }
        write_document(into / f"{self.name}.manifest.json", {"path": str(self.path), **artefacts})
        sync_directory(into)
        failpoint("restore_files.record.after")
        return Version(_version(packed.summary).identity, packed.summary.text, now(), artefacts, str(into))

    def apply(self, target: Version) -> None:
        """Swap the directory with the tree that is the target; a tree that is missing is unpacked first."""
        with self._changing("was not swapped"):
            self._check_place()
            live = self.live(exact=True)
            if self.matches(live, target, exact=True):
                return
            if target.identity["tree"] == ABSENT:
                failpoint("restore_files.exchange.before")
                move(self._here, self._next())
                failpoint("restore_files.exchange.after")
                return
            ready = self._ready(target)
            failpoint("restore_files.exchange.before")
            if live.identity["tree"] == ABSENT:
                move(ready, self._here)
            else:
                exchange(ready, self._here)
            failpoint("restore_files.exchange.after")

    def finalize(self) -> list[str]:
        """Remove the trees that this run kept beside the directory."""
        removed = []
        with self._changing("could not be tidied up"):
            for kept in [*self._kept(), self._part]:
                failpoint("restore_files.remove.before")
                if remove_tree(kept):
                    removed.append(self._beside.said(kept))
                failpoint("restore_files.remove.after")
            if removed:
                os.fsync(self._beside.handle)
        return removed

    # -- within ------------------------------------------------------------------------------------------------------

    def _notes(self, live: Version, target: Version) -> Iterator[str]:
        used = use_note(self.path)
        if used:
            yield used
        if live.identity["tree"] == ABSENT:
            yield f"{self.path} does not exist now and will be made."
        elif live.identity["tree"] == target.identity["tree"]:
            yield "only owners differ, or the mode of the directory itself."
        if os.geteuid() != 0:
            yield from self._owners_note(target)
        if target.identity["tree"] == ABSENT:
            yield f"{self.path} did not exist in the target and will be moved away."
        elif 2 * int(target.artefacts.get("entries", 0)) < int(live.artefacts.get("entries", 0)):
            yield "the target holds less than half as many files as the directory does now."
        dropped = [pattern for pattern in self.exclude if pattern != "__pycache__"]  # nobody misses that
        if dropped:
            yield (
                f"{', '.join(dropped)} is not compared and not carried over; "
                "what is there now stays in the displaced directory until finalize."
            )

    def _owners_note(self, target: Version) -> Iterator[str]:
        owners = target.artefacts.get("owners", {})
        others = {user: count for user, count in owners.items() if int(user) != os.geteuid()}
        if others:
            named = ", ".join(f"{user_name(int(user))} ({count})" for user, count in sorted(others.items())[:5])
            yield (
                "this user is not root, so owners are not compared, and what is put back will belong to this user; "
                f"in the target, names belong to {named}."
            )

    def _ready(self, target: Version) -> Path:
        """Return a tree beside the directory that is the target: a kept one, or a new one from the archive."""
        for kept in self._kept():
            if self.matches(_version(self._read(kept)), target, exact=True):
                return kept
        remove_tree(self._part)
        os.mkdir(self._part, 0o700)
        with _opened(self._part) as handle:
            made = os.fstat(handle)
            if made.st_uid != os.geteuid() or os.listdir(handle):
                raise StepFailed(f"{self.name}: somebody else put {self._beside.said(self._part)} there just now.")
            self._try_exchange(Path(f"/proc/self/fd/{handle}"))
            failpoint("restore_files.unpack.before")
            contents = self._unpack(target, handle)
            failpoint("restore_files.unpack.after")
            # Up to here only root can enter the folder, so no name in it can be swapped; the tree itself comes last.
            folder = target.artefacts["folder"]
            with _opened(Path(f"/proc/self/fd/{handle}", folder)) if folder else contextlib.nullcontext(handle) as tree:
                failpoint("restore_files.settle.before")
                self._settle_root(tree, contents)
                with self._reading(self.path):
                    summary = read_tree(tree, self.exclude, self._tally(self._what()))
            if not self.matches(_version(summary), target, exact=True):
                raise StepFailed(f"{self.name}: the unpacked tree is not what the plan named.", "Look at the disk.")
            sync_filesystem(handle)
            ready = self._next()
            failpoint("restore_files.ready.before")
            move(Path(f"/proc/self/fd/{handle}", folder) if folder else self._part, ready)
            failpoint("restore_files.ready.after")
        if folder:
            remove_tree(self._part)
        return ready

    def _try_exchange(self, part: Path) -> None:
        """Find out on two empty folders whether this file system can swap names, before anything is unpacked."""
        one, other = part / "one", part / "other"
        one.mkdir()
        other.mkdir()
        exchange(one, other)
        one.rmdir()
        other.rmdir()

    def _unpack(self, target: Version, into: int) -> Contents:
        tally = self._tally(f"{self.name}: the archive {target.artefacts['file']}")
        folder = target.artefacts["folder"]
        with self._open_target(target) as file:
            contents = read_archive(file, tally, into)
        inner = contents.inside(folder) if folder else contents
        if not target.artefacts["recorded"]:
            check_harmless(inner, tally)
        settle(contents, into)
        return inner

    def _settle_root(self, tree: int, contents: Contents) -> None:
        """Give the new directory the mode and owner that the archive, or else the present directory, has."""
        mode, uid, gid = 0o755, os.geteuid(), os.getegid()
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(self._here, follow_symlinks=False)
            mode, uid, gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
        if contents.root is not None:
            mode, uid, gid = contents.root[0], contents.root[1].uid, contents.root[1].gid
        if os.geteuid() == 0:
            os.fchown(tree, uid, gid)
        os.fchmod(tree, mode)

    def _folder(self, contents: Contents) -> str:
        """Archives are made from inside (`tar -C app .`) or from above (`tar app`); then app is the directory."""
        only = contents.only_folder()
        return only if only == self.path.name and not contents.dotted else ""

    def _open_target(self, target: Version) -> IO[bytes]:
        if target.artefacts["recorded"]:
            return self._open_recorded(target)
        named = f"{target.artefacts['file']}@sha256:{target.artefacts['sha256']}"
        return open_backup(self.name, target.at, named).file

    def _open_recorded(self, version: Version) -> IO[bytes]:
        """Open an archive of this project's own; its digest is taken from the descriptor that is returned."""
        path = Path(version.at, str(version.artefacts.get("file", "")))
        digest = hashlib.sha256()
        try:
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
            while True:
                chunk = file.read(CHUNK)
                if not chunk:
                    break
                digest.update(chunk)
        except OSError as exc:
            raise Refused(
                f"{self.name}: the recorded archive {path} cannot be read: {exc.strerror}. Nothing was changed.",
                "Choose another checkpoint.",
            ) from exc
        if digest.hexdigest() != version.artefacts.get("sha256"):
            file.close()
            raise Refused(
                f"{self.name}: the recorded archive {path} is damaged: its sha256 is not the recorded one. "
                "Nothing was changed.",
                "Choose another checkpoint.",
            )
        file.seek(0)
        return file

    @property
    def _part(self) -> Path:
        return self._beside.at(f".{self.path.name}.rollbackctl-{self.place.run}-part")

    def _kept(self) -> list[Path]:
        prefix = f".{self.path.name}.rollbackctl-{self.place.run}-"
        numbers = [
            int(name[len(prefix) :])
            for name in os.listdir(self._beside.handle)
            if name.startswith(prefix) and name[len(prefix) :].isdigit()
        ]
        return [self._beside.at(f"{prefix}{number}") for number in sorted(numbers)]

    def _next(self) -> Path:
        kept = self._kept()
        number = int(kept[-1].name.rpartition("-")[2]) + 1 if kept else 1
        return self._beside.at(f".{self.path.name}.rollbackctl-{self.place.run}-{number}")

    def _read(self, path: Path) -> Summary:
        with self._reading(path):
            return read_tree(path, self.exclude, self._tally(self._what()))

    def _tally(self, what: str) -> Tally:
        max_bytes = int(self.options.get("max_bytes") or 2 << 30)
        return Tally(what, max_bytes, int(self.options.get("max_entries") or 200_000), self.timeout)

    def _what(self) -> str:
        return f"{self.name}: the directory {self.path}"

    def _check_place(self) -> None:
        """Refuse a path that is no plain directory: relative, a link, a file, or with nothing to stand in."""
        problem = ""
        if not self.path.is_absolute() or ".." in self.path.parts or len(self.path.parts) < 3:
            problem = "is not the full path of a directory below another one"
        elif len(os.fsencode(self.path.name)) > _NAME_LIMIT:
            problem = f"has a name longer than {_NAME_LIMIT} bytes"
        elif not self.path.parent.is_dir():
            problem = "cannot be there: the directory above it does not exist"
        elif self._here.is_symlink():
            problem = "is a symbolic link"
        elif os.path.lexists(self._here) and not self._here.is_dir():
            problem = "is no directory"
        if problem:
            raise Refused(
                f"{self.name}: {self.path} {problem}. Nothing was changed.",
                "Set `path` of this component to the real directory (see `realpath`).",
            )

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Refused(
                f"{self.name}: {self._beside.said(path)} cannot be read: {exc.strerror or exc}"
                f"{self._beside.said(f' ({exc.filename})' if exc.filename else '')}. Nothing was changed."
            ) from exc

    @contextlib.contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        try:
            yield
        except StepFailed:
            raise
        except (OSError, RollbackError) as exc:
            reason = exc.message if isinstance(exc, RollbackError) else f"{exc.strerror or exc}."
            raise StepFailed(
                f"{self.name}: {self.path} {what}: {reason} The directory is whole, as it was or as it should be.",
                getattr(exc, "next_step", "") or "Repair the cause, then resume this run; it reads the state first.",
            ) from exc


def _version(summary: Summary) -> Version:
    identity = {"tree": summary.digest}
    if os.geteuid() == 0 and summary.access:
        identity["access"] = summary.access
    return Version(identity, summary.text, artefacts=_facts(summary))


def _facts(summary: Summary) -> dict[str, Any]:
    owners = {str(user): count for user, count in summary.owners.items()}
    return {
        "entries": summary.entries,
        "bytes": summary.size,
        "owners": owners,
        "capable": list(summary.capable[:20]),
    }


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = open_tree(directory)
    try:
        yield handle
    finally:
        os.close(handle)
