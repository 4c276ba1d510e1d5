# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving that a file is a whole backup of this very database, and describing it."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .component import Version
from .durable import sync_directory, write_document
from .errors import Refused
from .sqlite_content import Content, connect, quoted, read_content, reading, table_names
from .sqlite_file import copy_new, open_backup, read_header, sha256_of
from .sqlite_health import damage

MANIFEST = "manifest.json"


def describe(what: str, taken: str, content: Content, damaged: str = "") -> str:
    """Return a line such as "backup of 2026-11-21T09:30:15Z, 12 tables, 3,214 rows, revision 4f2a"."""
    parts = [f"{what} of {taken}" if taken else what]
    if content.tables:
        rows = sum(facts["rows"] for facts in content.tables.values())
        parts += [f"{len(content.tables)} tables", f"{rows:,} rows"]
    parts.append(f"revision {content.revision}" if content.revision else f"schema {content.schema[:8]}")
    if damaged:
        parts.append(f"DAMAGED: {damaged}")
    return ", ".join(parts)


def version_of(content: Content, text: str, facts: Mapping[str, Any], taken: str = "", at: str = "") -> Version:
    """Return a version whose identity is what the content is."""
    identity = {"revision": content.revision, "schema": content.schema}
    if content.content:
        identity["content"] = content.content
    return Version(identity, text, taken, dict(facts), at)


def content_of(version: Version) -> Content:
    """Return what version_of was given to describe a backup."""
    identity, tables = version.identity, version.artefacts["tables"]
    return Content(identity["revision"], identity["schema"], identity["content"], tables)


def prove_backup(
    path: str, manifest: Version | None, options: Mapping[str, Any], live_path: str, *, ours: bool = False
) -> Version:
    """Return the version that the file at path is, after proving that it is whole and of this database.

    :param manifest: what record wrote; None for a file that comes without (the operator has accepted that).
    :param ours: the manifest is from the state store; a file with its checksum was found whole then. Its rows are read.
    :raises Refused: truncated, changed, damaged, of another database, empty, or not safe to open.
    """
    what = f"The backup {path}"
    handle = open_backup(path)
    try:
        status = os.fstat(handle)
        facts = dict(manifest.artefacts) if manifest is not None else {}
        if manifest is not None and (status.st_size, sha256_of(handle)) != (facts.get("bytes"), facts.get("sha256")):
            raise Refused(
                f"{what} is not the one that was recorded: {status.st_size} bytes, recorded {facts.get('bytes')}, or "
                "its checksum differs. It is cut off or was changed. Nothing was changed.",
                "Name another checkpoint or backup.",
            )
        header = read_header(handle, what)
        if manifest is None and os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
            raise Refused(
                f"{what} has a -wal file beside it: it was copied with cp, and is only half of a database. "
                "Nothing was changed.",
                f"Make one file of it: sqlite3 {path} '.backup NEWFILE', and name NEWFILE.",
            )
        content = _content(path, what, judged=bool(facts.get("damaged")) or (ours and "sqlite" in facts))
        now = os.stat(path, follow_symlinks=False)
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (status.st_ino, status.st_size, status.st_mtime_ns):
            raise Refused(f"{what} was changed while it was checked. Nothing was changed.", "Try again.")
        if manifest is None:
            facts = {
                "kind": "sqlite",
                "file": os.path.basename(path),
                "bytes": status.st_size,
                "sha256": sha256_of(handle),
            }
            facts |= {"tables": dict(content.tables), "revision": content.revision, "schema": content.schema}
            facts |= {"page_size": header.page_size, "wal": header.wal, "unverified": True}
    finally:
        os.close(handle)
    if manifest is not None:
        _compare(what, manifest, content)
    _prove_identity(path, what, facts, options, live_path, content)
    _prove_rows(what, options, content)
    if manifest is not None:
        return dataclasses.replace(manifest, at=os.path.dirname(path))
    taken = datetime.fromtimestamp(status.st_mtime, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return version_of(content, describe("unverified backup", taken, content), facts, taken, os.path.dirname(path))


def _content(path: str, what: str, *, judged: bool) -> Content:
    connection = connect(path, immutable=True)
    try:
        found = "" if judged else damage(connection)
        if not found:
            return read_content(connection, exact=True)
    except sqlite3.DatabaseError as exc:
        found = str(exc)
    finally:
        connection.close()
    raise Refused(f"{what} is damaged: {found}. Nothing was changed.", "Name another checkpoint or backup.")


def _compare(what: str, manifest: Version, content: Content) -> None:
    recorded = manifest.artefacts.get("tables", {})
    for name in sorted({*recorded, *content.tables}):
        if recorded.get(name) != content.tables.get(name):
            raise Refused(
                f"{what}: table {name} does not hold what its manifest says: {_rows(content.tables.get(name))}, "
                f"recorded {_rows(recorded.get(name))}. Nothing was changed.",
                "Name another checkpoint or backup.",
            )
    found = {"revision": content.revision, "schema": content.schema, "content": content.content}
    if found != dict(manifest.identity):
        raise Refused(
            f"{what} does not have the revision, schema or content that its manifest says. Nothing was changed."
        )


def _rows(facts: Mapping[str, Any] | None) -> str:
    return f"{facts['rows']:,} rows" if facts else "no such table"


def _prove_identity(
    path: str, what: str, facts: Mapping[str, Any], options: Mapping[str, Any], live_path: str, content: Content
) -> None:
    """Refuse a backup of another database.

    The proof is the application's own mark (option identity: application_id, a marker row). Without one, a manifest
    must name this path, and a file without manifest must have half of its tables in common with the live database.
    """
    identity = {key: value for key, value in (options.get("identity") or {}).items() if value not in {None, ""}}
    if identity:
        problem = _identity_problem(path, identity)
    elif not facts.get("unverified"):
        recorded = facts.get("database")
        problem = "" if recorded == live_path else f"it was made from {recorded}"
    else:
        problem = _stranger(content, live_path)
    if problem:
        raise Refused(
            f"{what} is of another database than {live_path}: {problem}. Nothing was changed.",
            "Name a backup of this database. If it is one, say how to know: option identity (application_id, or table, "
            "column and value of a row that only this database has).",
        )


def _identity_problem(path: str, identity: Mapping[str, Any]) -> str:
    connection = connect(path, immutable=True)
    try:
        wanted = identity.get("application_id")
        found = connection.execute("PRAGMA application_id").fetchone()[0]
        if wanted is not None and int(wanted) != found:
            return f"its application_id is {found}, expected {wanted}"
        if "table" in identity:
            table, column = str(identity["table"]), str(identity.get("column", ""))
            query = f"SELECT count(*) FROM {quoted(table)} AS t WHERE CAST(t.{quoted(column)} AS TEXT) = ?"  # noqa: S608
            if not connection.execute(query, (str(identity.get("value", "")),)).fetchone()[0]:
                return f"the marker row ({table}.{column}) is not in it"
    except sqlite3.OperationalError:
        return f"the marker row ({identity.get('table')}.{identity.get('column')}) cannot be looked for in it"
    finally:
        connection.close()
    return ""


def _stranger(content: Content, live_path: str) -> str:
    try:
        with reading(live_path, seconds=5.0) as connection:
            ours = set(table_names(connection))
    except (Refused, sqlite3.DatabaseError):
        return "the live database cannot be read, so they cannot be compared"
    theirs = set(content.tables)
    if 2 * len(ours & theirs) < len(theirs):
        return f"only {len(ours & theirs)} of its {len(theirs)} tables exist here"
    return ""


def _prove_rows(what: str, options: Mapping[str, Any], content: Content) -> None:
    empty = [name for name in options.get("critical_tables") or [] if not content.tables.get(name, {}).get("rows")]
    if empty or not content.tables:
        listed = ", ".join(empty) or "it has no tables at all"
        raise Refused(
            f"{what} holds no rows where there must be some: {listed}. Nothing was changed.", "Name another backup."
        )


# -- a database that SQLite cannot read any more -----------------------------------------------------------------------


def record_raw(
    opened: Callable[[str], int], file: Path, live: Version, facts: Mapping[str, Any], taken: str
) -> Version:
    """Keep a damaged database byte by byte, with its WAL and journal, so that nothing of it is lost.

    opened: opens the database ("") or what has this ending, for reading.
    """
    digests: dict[str, str] = {}
    for suffix in ("", "-wal", "-journal"):
        try:
            source = opened(suffix)
        except FileNotFoundError:
            continue
        target = f"{file}{suffix}"
        Path(target).unlink(missing_ok=True)
        try:
            copy_new(source, target)
            digests[suffix] = sha256_of(source)
        finally:
            os.close(source)
    sync_directory(file.parent)
    kept = {
        **facts,
        **live.artefacts,
        "kind": "raw",
        "file": file.name,
        "sha256": digests.pop(""),
        "companions": digests,
    }
    kept["bytes"] = os.path.getsize(file)
    version = Version(live.identity, f"bytes of a {live.text}", taken, kept, str(file.parent))
    write_document(file.parent / MANIFEST, version.to_dict())
    return version


def prove_raw(version: Version) -> Version:
    """Return a version that record_raw made, after checking that its files are what was recorded.

    :raises Refused: a file is missing or was changed.
    """
    for suffix, sha256 in {"": version.artefacts["sha256"], **version.artefacts["companions"]}.items():
        path = os.path.join(version.at, version.artefacts["file"] + suffix)
        handle = open_backup(path)
        try:
            if sha256_of(handle) != sha256:
                raise Refused(f"The copy {path} was changed since it was taken. Nothing was changed.")
        finally:
            os.close(handle)
    return version
