# SPDX-License-Identifier: GPL-3.0-or-later
"""A SQLite database as a component: the driver of the role restore_sqlite."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .component import BETWEEN, TARGET, Driver, Entry, Finding, Loss, Version
from .durable import now, read_document, sync_directory, write_document
from .errors import Refused, StepFailed
from .failpoints import failpoint
from .names import name_a_version
from .safe_path import ourselves, worker
from .sqlite_backup import MANIFEST, content_of, describe, prove_backup, prove_raw, record_raw, version_of
from .sqlite_check import loss_of, loss_text, problems_of
from .sqlite_content import Content, connect, in_wal_mode, orphans, read_content, reading, steadily
from .sqlite_file import (
    attributes,
    copy_new,
    give_attributes,
    holders,
    open_backup,
    read_header,
    sha256_of,
)
from .sqlite_health import damage
from .sqlite_pages import captured_in, holds, note_captured
from .sqlite_swap import online, replace, snapshot

_BYTES_PER_SECOND = 100e6  # a slow disk's copy speed, for the estimate


class SqliteDriver(Driver):
    """Options: name, path, method (replace or online), identity, critical_tables, busy_timeout, timeout (seconds)."""

    layer = "data"
    exact_keys = ("content",)
    failpoints = tuple(
        f"restore_sqlite.{step}"
        for step in (
            "stage.before",
            "stage.middle",
            "stage.after",
            "checkpoint.before",
            "checkpoint.after",
            "link.before",
            "link.after",
            "wal.before",
            "wal.middle",
            "wal.after",
            "replace.before",
            "replace.after",
            "sync.after",
            "online.before",
            "online.middle",
            "online.after",
            "truncate.before",
            "truncate.after",
        )
    )

    @functools.cached_property
    def path(self) -> str:
        """The database's path; links in its directories are resolved, the file itself must not be one.

        :raises Refused: somebody else could lead root to another place: see safe_path.worker.
        """
        wanted = os.path.abspath(str(self.options["path"]))
        who = worker(wanted)
        real = os.path.join(os.path.realpath(os.path.dirname(wanted)), os.path.basename(wanted))
        if worker(real).uid != who.uid:
            raise Refused(f"The place of {wanted} was changed just now. Nothing was changed.", "Find out who did.")
        return real

    @property
    def _online(self) -> bool:
        return bool(self.options.get("method", "replace") == "online")

    def _seconds(self, option: str, default: float) -> float:
        return float(self.options.get(option) or default)

    def _kept(self, ending: str) -> str:
        folder, base = os.path.split(self.path)
        dot = "." if ending == "new" else ""
        return os.path.join(folder, f"{dot}{base}.rollbackctl-{self.place.run}.{ending}")

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:
        """Read the database. One that is damaged or missing is a state too: restoring it is what this role is for."""
        if not os.path.lexists(self.path):
            return Version({"revision": "", "schema": "missing", "content": "missing"}, f"{self.path} is missing")

        def read(quiet: bool) -> tuple[Content, int]:  # noqa: FBT001 - what steadily calls
            with reading(self.path, seconds=self._seconds("busy_timeout", 5), quiet=quiet) as connection:
                pages = connection.execute("PRAGMA page_size").fetchone()[0]
                return read_content(connection, exact=exact), pages

        try:
            content, page_size = steadily(read)
        except sqlite3.DatabaseError as exc:
            return self._damaged(str(exc))
        with worker(self.path).acting():
            wal = in_wal_mode(self.path)
        facts = {"tables": dict(content.tables), "page_size": page_size, "wal": wal}
        return version_of(content, describe("database", "", content), facts)

    def _damaged(self, why: str) -> Version:
        digests = []
        for suffix in ("", "-wal", "-journal"):
            if os.path.exists(self.path + suffix):
                handle = self._opened(suffix)
                try:
                    digests.append(suffix + ":" + sha256_of(handle))
                finally:
                    os.close(handle)
        identity = {"revision": "", "schema": "damaged", "content": " ".join(digests)}
        return Version(identity, f"damaged database ({why})", artefacts={"damaged": why})

    def _opened(self, suffix: str = "") -> int:
        """Open the database or what lies beside it for reading, with the rights of who may work there."""
        with worker(self.path).acting():
            return os.open(self.path + suffix, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

    def resolve(self, want: Version | str) -> Version:
        """Return the proven backup: a checkpoint's, or the file at an absolute path with manifest.json beside it.

        A file without manifest needs the option accept_unverified (rollback_accept_unverified_backup).
        """
        if isinstance(want, Version):
            kind = want.artefacts.get("kind")
            if kind == "missing":
                return want
            if kind == "raw":
                return prove_raw(want)
            return prove_backup(self._source(want), want, self.options, self.path, ours=True)
        if not os.path.isabs(want) or "\x00" in want:
            raise Refused(
                f"{self.name}: {want!r} is not the absolute path of a backup. Nothing was changed.",
                f"Name a file: {name_a_version(self.name, f'/backups/{self.name}.sqlite')}",
            )
        folder, file = os.path.split(want)
        document = read_document(Path(folder, MANIFEST))
        manifest = Version.from_dict(document) if document is not None else None
        if manifest is not None and manifest.artefacts.get("file") != file:
            manifest = None
        if manifest is None and not self.options.get("accept_unverified"):
            os.close(open_backup(want))
            raise Refused(
                f"{self.name}: {want} has no {MANIFEST} beside it that describes it, so nothing proves that it is "
                "whole. Nothing was changed.",
                "Take checkpoints from now on. To use this file anyway: -e rollback_accept_unverified_backup=true",
            )
        return prove_backup(want, manifest, self.options, self.path)

    def check(self, live: Version, target: Version) -> Finding:
        """Prove that the restore can work; all problems at once."""
        if not os.path.isdir(os.path.dirname(self.path)):
            return Finding(
                problems=(f"The directory of {self.path} does not exist. Make it, with the service's owner.",)
            )
        notes = [f"open now: {holder}" for holder in holders(self.path)[:10] if holder.pid != os.getpid()]
        if live.artefacts.get("damaged"):
            notes.append(f"The live database is damaged ({live.artefacts['damaged']}); its bytes are kept as they are.")
        return Finding(
            problems=tuple(problems_of(self.path, live, target, online=self._online)),
            loss=loss_of(self.path, live, target),
            seconds=1.0 + 3 * int(target.artefacts.get("bytes", 0)) / _BYTES_PER_SECOND,
            worst_seconds=2 * self._seconds("timeout", 300) + 2 * self._seconds("busy_timeout", 5),
            needs_fence=not self._online,
            notes=tuple(notes),
        )

    def lost_since(self, live: Version, reached: Version, loss: Loss) -> Loss | None:
        """Return what was written since the database was restored from the backup `reached`, as far as it is lost."""
        path = os.path.join(reached.at, str(reached.artefacts.get("file") or ""))
        if reached.artefacts.get("kind") != "sqlite" or not os.path.isfile(path):
            return loss
        written = loss_of(self.path, live, reached)
        if written is None:
            return None
        tables = {name: counts for name, counts in written.tables.items() if name in loss.tables}
        if written.tables and loss.tables and not tables:
            return None
        return Loss(loss.since, loss_text(tables, loss.since) if tables else written.text, tables)

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        """Read against the plan, with two additions to the engine's rule.

        replace: when the live file already has its second name, this run was killed half-way: BETWEEN.
        online: writers go on while this is read, so the content may differ although the restore was committed. It
        counts as TARGET when this run's restore of that target was committed (SQLite said so and it was written down in
        place.work, after integrity_check) and the schema and the revision are still the target's. The reading returned
        with it shows the difference in "content", so a caller can tell this from an exact match.
        """
        proven = self._page_by_page(entry.target)
        if proven is not None:
            return TARGET, proven
        word, reading_now = super().state(entry, opened=opened)
        if word == TARGET:
            return word, reading_now
        if self._online and self._committed(entry.target) and self.matches(reading_now, entry.target, exact=False):
            return TARGET, reading_now
        if self._linked():
            return BETWEEN, reading_now
        return word, reading_now

    def _page_by_page(self, target: Version) -> Version | None:
        """Return the target as read from the database when it has every page of the backup, whose rows and checksum
        this run has read; None when it has not, or when only its rows can tell."""
        if not self._online or target.artefacts.get("kind") != "sqlite" or not os.path.lexists(self.path):
            return None
        with ourselves():
            try:
                backup = open_backup(self._source(target))
            except Refused:
                return None
        try:
            busy = self._seconds("busy_timeout", 5)
            if not self._noted(self._source(target), target) or not holds(self.path, backup, busy):
                return None
        finally:
            os.close(backup)
        content = content_of(target)
        with worker(self.path).acting():
            facts = {"page_size": target.artefacts["page_size"], "wal": in_wal_mode(self.path)}
        return version_of(content, describe("database", "", content), {"tables": dict(content.tables), **facts})

    def _linked(self) -> bool:
        try:
            return bool(self.place.run) and os.path.samefile(self.path, self._kept("old"))
        except OSError:
            return False

    @property
    def _mark(self) -> Path | None:
        return self.place.work / "online.json" if self.place.work is not None else None

    def _committed(self, target: Version) -> bool:
        document = read_document(self._mark) if self._mark is not None else None
        return document is not None and bool(document["content"] == target.identity.get("content"))

    # -- changing ----------------------------------------------------------------------------------------------------

    def record(self, into: Path) -> Version:
        """Copy the live database with SQLite's backup API (its WAL included), prove the copy, write manifest.json."""
        if not os.path.lexists(self.path):
            self._refuse_checkpoint("it is missing")
            missing = self.live(exact=True)
            return Version(missing.identity, missing.text, now(), {"kind": "missing"}, str(into))
        started, file = time.monotonic(), into / f"{self.name}.sqlite"
        part, taken = f"{file}.part", now()
        handle = self._opened()
        facts: dict[str, Any] = {"component": self.name, "database": self.path, "attributes": attributes(handle)}
        os.close(handle)  # before SQLite opens it: closing drops the locks of this process (fcntl(2))

        def copy_out(quiet: bool) -> None:  # noqa: FBT001 - what steadily calls
            Path(part).unlink(missing_ok=True)
            with reading(self.path, seconds=self._seconds("busy_timeout", 5), quiet=quiet) as connection:
                snapshot(connection, part, self._seconds("timeout", 300))

        try:
            steadily(copy_out)
            with ThreadPoolExecutor(1) as beside:  # reading rows and judging the file take about as long
                judged = beside.submit(_judged, part)
                with contextlib.closing(connect(part, immutable=True)) as copy:
                    content = read_content(copy, exact=True)
                facts |= judged.result()
        except sqlite3.DatabaseError as exc:
            Path(part).unlink(missing_ok=True)
            self._refuse_checkpoint(str(exc))
            return record_raw(self._opened, file, self.live(exact=True), facts, taken)
        if facts["damaged"]:
            self._refuse_checkpoint(facts["damaged"])
        os.replace(part, file)
        sync_directory(into)
        facts |= {"kind": "sqlite", "file": file.name, "tables": dict(content.tables), "revision": content.revision}
        facts["schema"] = content.schema
        facts["seconds"] = round(time.monotonic() - started, 3)
        version = version_of(content, describe("backup", taken, content, facts["damaged"]), facts, taken, str(into))
        write_document(into / MANIFEST, version.to_dict())
        if self._online and self.place.work is not None:
            note_captured(self.place.work, str(file))
        return version

    def _refuse_checkpoint(self, why: str) -> None:
        """Stop unless a run is keeping the bad state (it has place.work): nobody wants to go back to damage."""
        if self.place.work is None:
            raise Refused(f"{self.name}: {self.path} is not taken as a checkpoint: {why}.", "Restore it first.")

    def stage(self, target: Version) -> None:
        """Copy the backup beside the database and prove the copy, while the service still works."""
        if target.artefacts.get("kind") == "missing":
            return
        with worker(self.path).acting():
            self._stage(target)

    def _source(self, target: Version) -> str:
        return os.path.join(target.at, str(target.artefacts["file"]))

    def _stage(self, target: Version) -> None:
        if self._online:  # it is written from where it is
            failpoint("restore_sqlite.stage.before")
            with ourselves():
                os.close(open_backup(self._source(target)))
                if self._noted(self._source(target), target):
                    return
                whole = self._staged(self._source(target), target)
            failpoint("restore_sqlite.stage.middle")
            if not whole:
                raise StepFailed(
                    f"{self.name}: the backup does not have the checksum that was planned: it changed since, or the "
                    "disk is failing. The database was not touched.",
                    "Run the same command again; it refuses when the backup itself is damaged.",
                )
            with ourselves():
                self._note_staged(self._source(target), target)
            failpoint("restore_sqlite.stage.after")
            return
        new = self._kept("new")
        failpoint("restore_sqlite.stage.before")
        if os.path.lexists(new):
            if self._staged(new, target):
                return
            os.unlink(new)
        with ourselves():
            source = open_backup(os.path.join(target.at, target.artefacts["file"]))
        try:
            copy_new(source, new, lambda: failpoint("restore_sqlite.stage.middle"))
        except OSError as exc:
            raise StepFailed(
                f"{self.name}: the backup could not be copied to {os.path.dirname(new)}: {exc.strerror}. "
                "The database was not touched."
            ) from exc
        finally:
            os.close(source)
        if not self._staged(new, target):
            os.unlink(new)
            raise StepFailed(
                f"{self.name}: the copy of the backup does not have the checksum that was planned: it changed since, "
                "or the disk is failing. The database was not touched.",
                "Run the same command again; it refuses when the backup itself is damaged.",
            )
        sync_directory(Path(new).parent)
        self._note_staged(new, target)
        failpoint("restore_sqlite.stage.after")

    def _note_staged(self, new: str, target: Version) -> None:
        """Write down which proven file this is, so that it is not read again while traffic is stopped."""
        if self.place.work is not None:
            status = os.lstat(new)
            facts = {"sha256": target.artefacts["sha256"], "ino": status.st_ino, "mtime_ns": status.st_mtime_ns}
            with ourselves():
                if read_document(self.place.work / "staged.json") != facts:
                    write_document(self.place.work / "staged.json", facts)

    def _noted(self, new: str, target: Version) -> bool:
        status = os.lstat(new)
        with ourselves():
            noted = read_document(self.place.work / "staged.json") if self.place.work is not None else None
        return noted == {
            "sha256": target.artefacts["sha256"],
            "ino": status.st_ino,
            "mtime_ns": status.st_mtime_ns,
        }

    def _staged(self, new: str, target: Version) -> bool:
        if os.lstat(new).st_size != target.artefacts["bytes"]:
            return False
        if self._noted(new, target):
            return True
        handle = os.open(new, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return bool(sha256_of(handle) == target.artefacts["sha256"])
        finally:
            os.close(handle)

    def apply(self, target: Version) -> None:
        """Bring the database to target. Does nothing when its content is the target's already."""
        with worker(self.path).acting():
            self._apply(target)

    def _apply(self, target: Version) -> None:
        if self._there(target):
            self._drop_staged()
            return
        if target.artefacts.get("kind") == "missing":
            raise StepFailed(
                f"{self.name}: before this run there was no database at {self.path}; it is left where it is.",
                f"Move it away yourself if that is wanted: {self.path}",
            )
        self._stage(target)
        busy, limit = self._seconds("busy_timeout", 5), self._seconds("timeout", 300)
        try:
            if self._online:
                self._apply_online(target, busy, limit)
            else:
                replace(self.path, self._kept("new"), self._kept("old"), target.artefacts.get("attributes", {}), busy)
                self._put_back_companions(target)
        except OSError as exc:
            raise StepFailed(
                f"{self.name}: {exc.strerror} ({exc.filename or self.path}). The database is wholly old or wholly new.",
                "Run the same command again; it reads back which of the two.",
            ) from exc
        self._drop_staged()

    def _there(self, target: Version) -> bool:
        """Say whether the database is at target; cheap for replace, because traffic is stopped meanwhile."""
        if self._online and self._mark is not None:
            with ourselves():
                if read_document(self._mark) is None:  # this run has not restored it; to read all of it takes long
                    return False
        if self._online or "sha256" not in target.artefacts:
            return bool(self.live(exact=True).identity.get("content") == target.identity.get("content"))
        beside = {suffix for suffix in ("-wal", "-journal") if os.path.lexists(self.path + suffix)}
        if not os.path.lexists(self.path) or beside != set(target.artefacts.get("companions", {})):
            return False
        return self._staged(self.path, target)

    def _apply_online(self, target: Version, busy: float, limit: float) -> None:
        if self._mark is not None:
            with ourselves():
                mark = read_document(self._mark)
            if mark is not None and self.live(exact=True).identity["content"] != mark["content"]:
                raise StepFailed(
                    f"{self.name}: {self.path} was written to after this run restored it, and nothing automatic throws "
                    "such writes away. It was left as it is.",
                    f"To throw them away knowingly: rollbackctl undo {self.place.run}",
                )
            with ourselves():
                self._mark.unlink(missing_ok=True)
        with ourselves():
            captured = captured_in(self.place.work)
        old = self._kept("old")
        kept = online(self.path, self._source(target), old, kept=captured, busy_seconds=busy, seconds=limit)
        if self._mark is not None:
            with ourselves():
                write_document(self._mark, {"content": target.identity["content"], "displaced": kept, "at": now()})

    def _put_back_companions(self, target: Version) -> None:
        """A damaged database goes back with the WAL or journal that it had."""
        for suffix, sha256 in target.artefacts.get("companions", {}).items():
            with ourselves():
                source = open_backup(os.path.join(target.at, target.artefacts["file"] + suffix))
            try:
                if sha256_of(source) == sha256 and not os.path.lexists(self.path + suffix):
                    copy_new(source, self.path + suffix)
                    give_attributes(self.path + suffix, target.artefacts["attributes"])
            finally:
                os.close(source)
        sync_directory(Path(self.path).parent)

    def _drop_staged(self) -> None:
        if os.path.lexists(self._kept("new")):
            os.unlink(self._kept("new"))

    def lost(self, entry: Entry, kept: Version) -> Loss | None:
        """Compare the displaced database, which nobody writes any more, with the backup."""
        displaced = self._kept("old") if self._online else ""  # it holds also what was written after it was kept
        path = displaced if os.path.exists(displaced) else os.path.join(kept.at, str(kept.artefacts.get("file", "")))
        return loss_of(path, kept, entry.target)

    def finalize(self) -> list[str]:
        """Remove the displaced databases and staged copies of this run."""
        folder, base = os.path.split(self.path)
        prefixes = (f"{base}.rollbackctl-{self.place.run}.old", f".{base}.rollbackctl-{self.place.run}.new")
        removed = []
        with worker(self.path).acting():
            for name in sorted(os.listdir(folder)):
                if self.place.run and name.startswith(prefixes):
                    os.unlink(os.path.join(folder, name))
                    removed.append(os.path.join(folder, name))
            if removed:
                sync_directory(Path(folder))
        return removed


def _judged(path: str) -> dict[str, Any]:
    """Return what a copy that nobody else has shows of itself, but for its rows."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        header = read_header(handle, path)
        facts = {"sha256": sha256_of(handle), "bytes": os.fstat(handle).st_size}
    finally:
        os.close(handle)
    with contextlib.closing(connect(path, immutable=True)) as copy:
        facts |= {"damaged": damage(copy), "orphans": orphans(copy)}
    facts["sqlite"] = sqlite3.sqlite_version  # which judged it
    return {**facts, "page_size": header.page_size, "wal": header.wal}
