# SPDX-License-Identifier: GPL-3.0-or-later
"""A .env file, or some variables of one, brought back from a checkpoint or a named backup.

No value ever leaves this file's functions: versions, findings and messages hold the names of variables, counts and a
slow digest (see env_file_io.fingerprint).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .component import Driver, Finding, Place, Version
from .durable import canonical, now, sync_directory, write_atomic
from .env_file_io import fingerprint, read_secret, replace_secret
from .env_file_text import EnvText, differences, is_variable, parse, with_variables
from .errors import Refused, RollbackError, StepFailed
from .exchange import mounts
from .failpoints import failpoint
from .files_backup import open_backup
from .names import printable
from .safe_path import Folder

_SHOWN = 12


class EnvFileDriver(Driver):
    """Options: name, path, variables (all of the file when empty), backups, timeout (seconds), accept_unverified."""

    layer = "configuration"
    failpoints = (
        "restore_env.record.before",
        "restore_env.record.after",
        "restore_env.keep.before",
        "restore_env.keep.after",
        "restore_env.replace.before",
        "restore_env.replace.after",
    )

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        super().__init__(options, place)
        self.path = Path(options["path"])
        self.variables = tuple(dict.fromkeys(options.get("variables") or ()))
        self.backups: str = options.get("backups") or ""

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a file has no part that means less under traffic
        """Read the file."""
        content, info = self._read()
        return self._version(content, "", info.st_mtime)

    def resolve(self, want: Version | str) -> Version:
        """Check that a recorded copy is whole, or read a named one. The identity is made anew, for the variables that
        the profile names today."""
        if isinstance(want, Version):
            content = self._load(want)
            identity = self._identity(content)
            text = want.text if identity == want.identity else self._describe(parse(content))
            return Version(identity, text, want.taken, want.artefacts, want.at)
        with open_backup(self.name, self.backups, want).file as file:
            content = file.read(1 << 21)
            name, modified = want.partition("@")[0], os.fstat(file.fileno()).st_mtime
        version = self._version(content, f"backup {name}: ", modified)
        artefacts = {"file": name, "recorded": False, "whole": fingerprint(self.path, content)}
        return Version(version.identity, version.text, _utc(modified), artefacts, os.path.realpath(self.backups))

    def check(self, live: Version, target: Version) -> Finding:
        """Compare the names, and look for what would stop the replacement."""
        if live.identity == target.identity:
            return Finding(seconds=0.1, worst_seconds=self._timeout)
        content, info = self._read()
        present, wanted = parse(content), parse(self._load(target))
        problems = [*self._place_problems(info), *self._content_problems(present, wanted)]
        if not target.artefacts["recorded"] and not self.options.get("accept_unverified"):
            problems += self._doubts(present, wanted)
        return Finding(
            tuple(problems),
            seconds=0.3,
            worst_seconds=self._timeout,
            notes=tuple(self._notes(present, wanted, info)),
        )

    # -- changing ----------------------------------------------------------------------------------------------------

    def record(self, into: Path) -> Version:
        """Copy the file (0600), whole, also when only some variables are this component's."""
        content, info = self._read()
        name = f"{self.name}.env"
        failpoint("restore_env.record.before")
        write_atomic(into / name, content, 0o600)
        sync_directory(into)
        failpoint("restore_env.record.after")
        version = self._version(content, "", info.st_mtime)
        artefacts = {"file": name, "recorded": True, "whole": fingerprint(self.path, content)}
        return Version(version.identity, version.text, now(), artefacts, str(into))

    def apply(self, target: Version) -> None:
        """Replace the file by the target's bytes, or by its own with the target's variables in them."""
        with self._changing():
            content, info = self._read()
            wanted = self._load(target)
            if self._chosen(content) == self._chosen(wanted):
                return
            new = with_variables(parse(content), parse(wanted), self.variables) if self.variables else wanted
            self._keep(content)
            replace_secret(self.name, self.path, self._temporary, new, info)

    def finalize(self) -> list[str]:
        """Remove a half-written file of a killed run."""
        folder = Folder(str(self.path.parent))
        try:
            os.unlink(self._temporary, dir_fd=folder.handle)
        except FileNotFoundError:
            return []
        os.fsync(folder.handle)
        return [str(self.path.with_name(self._temporary))]

    # -- within ------------------------------------------------------------------------------------------------------

    @property
    def _timeout(self) -> float:
        return float(self.options.get("timeout") or 30)

    @property
    def _temporary(self) -> str:
        return f".{self.path.name.lstrip('.')}.rollbackctl-{self.place.run}"

    def _read(self) -> tuple[bytes, os.stat_result]:
        wrong = [name for name in self.variables if not is_variable(name)]
        if wrong or not self.path.is_absolute() or ".." in self.path.parts:
            what = f"{printable(wrong[0])!r} is no variable's name" if wrong else f"{self.path} is no full path"
            raise Refused(f"{self.name}: {what}. Nothing was changed.", "Correct this component in the profile.")
        return read_secret(self.name, self.path)

    def _chosen(self, content: bytes) -> bytes:
        """Return the bytes that make two versions the same or not."""
        if not self.variables:
            return content
        text = parse(content)
        return canonical(
            [
                [
                    name,
                    *([one.decode("latin-1") for one in found] for found in (text.bodies(name), text.disputed(name))),
                ]
                for name in self.variables
            ]
        )

    def _identity(self, content: bytes) -> dict[str, str]:
        return {"content": fingerprint(self.path, self._chosen(content))}

    def _describe(self, text: EnvText) -> str:
        count = len(text.names())
        if self.variables:
            return f"{_listed(self.variables)} (of {count} variables)"
        return f"{count} variable{'' if count == 1 else 's'}"

    def _version(self, content: bytes, before: str, modified: float) -> Version:
        text = f"{before}{self._describe(parse(content))}, written {_utc(modified)}"
        return Version(self._identity(content), text)

    def _load(self, version: Version) -> bytes:
        """Return a version's bytes, when they still are those it was made from."""
        file = str(version.artefacts["file"])
        if version.artefacts["recorded"]:
            content, _ = read_secret(self.name, Path(version.at, file))
        else:
            with open_backup(self.name, version.at, file).file as backup:
                content = backup.read(1 << 21)
        unproven = fingerprint(self.path, content) != version.artefacts["whole"]
        if unproven and not (version.artefacts["recorded"] and self.options.get("accept_unverified")):
            raise Refused(
                f"{self.name}: the copy {version.at}/{file} is not what it was when it was chosen: it is damaged, or "
                "was changed, or since then the profile has got another path or this host another /etc/machine-id. "
                "Nothing was changed.",
                "Choose another checkpoint or backup. To use this copy anyway: "
                "-e rollback_accept_unverified_backup=true",
            )
        return content

    def _place_problems(self, info: os.stat_result) -> list[str]:
        problems = []
        if not os.access(self.path.parent, os.W_OK | os.X_OK):
            problems.append(f"{self.path.parent} cannot be written by this user; a file is replaced there.")
        if os.geteuid() not in {0, info.st_uid}:
            problems.append(f"{self.path} belongs to another user (uid {info.st_uid}), and only root could keep that.")
        if mounts(self.path):
            problems.append(f"{self.path} is mounted (a container's bind mount?) and cannot be replaced here.")
        return problems

    def _content_problems(self, present: EnvText, wanted: EnvText) -> list[str]:
        problems = []
        if not wanted.names():
            problems.append("the target sets no variable at all.")
        if self.variables:
            missing = [name for name in self.variables if not present.bodies(name) and not wanted.bodies(name)]
            if missing:
                problems.append(f"{_listed(missing)} is set neither now nor in the target. Misspelt?")
            problems += [
                f"another line may set {name} too: readers of such files disagree about it. Remove that line, or "
                "restore the whole file."
                for name in self.variables
                if present.disputed(name) != wanted.disputed(name)
            ]
            problems += [
                f"{which}: {fault}; single variables cannot be told apart in it. Restore the whole file."
                for which, text in (("the file", present), ("the target", wanted))
                for fault in text.faults[:3]
                if "quote" in fault or "NUL" in fault
            ]
        return problems

    def _doubts(self, present: EnvText, wanted: EnvText) -> list[str]:
        """What makes a named backup look like the wrong file; the operator may say that it is right."""
        anyway = "If that is right: -e rollback_accept_unverified_backup=true"
        doubts = [f"the backup does not read as a .env file: {fault}. {anyway}" for fault in wanted.faults[:3]]
        considered = self.variables or tuple(present.names())
        here = [name for name in considered if present.bodies(name)]
        gone = differences(present, wanted, considered).removed
        if 2 * len(gone) > len(here):
            doubts.append(
                f"{len(gone)} of {len(here)} variables would disappear ({_listed(gone)}); is it the right backup? "
                f"{anyway}"
            )
        return doubts

    def _notes(self, present: EnvText, wanted: EnvText, info: os.stat_result) -> Iterator[str]:
        found = differences(present, wanted, self.variables or None)
        for what, names in (("changes", found.changed), ("adds", found.added), ("removes", found.removed)):
            if names:
                yield f"{what} {_listed(names)}."
        if not (found.changed or found.added or found.removed):
            yield "no variable changes; only comments, order or spacing do."
        if info.st_nlink > 1:
            yield f"{self.path} has {info.st_nlink} names (hard links); the others keep the present content."
        yield (
            "running programs keep the values they started with until they are restarted; "
            "containers until they are made anew (docker compose up -d; a restart is not enough)."
        )

    def _keep(self, content: bytes) -> None:
        """Keep the displaced bytes in the run's own directory, each once."""
        if self.place.work is None:
            return
        number = 1
        while True:
            kept = self.place.work / f"displaced-{number}.env"
            try:
                if kept.read_bytes() == content:
                    return
            except FileNotFoundError:
                break
            number += 1
        failpoint("restore_env.keep.before")
        write_atomic(kept, content, 0o600)
        failpoint("restore_env.keep.after")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            yield
        except StepFailed:
            raise
        except (OSError, RollbackError) as exc:
            reason = exc.message if isinstance(exc, RollbackError) else f"{exc.strerror or 'failed'}."
            raise StepFailed(
                f"{self.name}: {self.path} was not put back: {reason} It is whole, as it was or as it should be.",
                getattr(exc, "next_step", "") or "Repair the cause, then resume this run; it reads the state first.",
            ) from exc


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
