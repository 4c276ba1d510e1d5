# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing so that a power cut leaves the old content or the new one, never a mixture.

A rename is atomic but not durable until its directory is synced: https://lwn.net/Articles/457667/
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import RollbackError

SET_ASIDE = "Do not edit what the state store holds. Restore it from a backup, or move it away"


def now(*, fraction: bool = False) -> str:
    """Return the present time, UTC, as 2026-11-21T09:30:15Z, or with milliseconds as 2026-11-21T09:30:15.042Z."""
    moment = datetime.now(timezone.utc)
    milliseconds = f".{moment.microsecond // 1000:03d}" if fraction else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{milliseconds}Z"


def parse_time(text: str) -> datetime:
    """Return the time written as 2026-11-21T09:30:15Z (or with another offset) in UTC.

    :raises ValueError: when text is not such a time.
    """
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write it as 2026-11-21T09:30:15Z")
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"{text!r} is outside of the calendar") from error


def sync_directory(path: Path) -> None:
    """Make renames and new names in the directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> Path:
    """Make a directory for its owner alone, durably, if it is not there; return it. Its parent must be there.

    :raises OSError: the file system refuses.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        sync_directory(path.parent)
    return path


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace path by content; after a crash at any moment path holds the old bytes or all of the new ones.

    :raises OSError: when the file system refuses; path is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # a killed process with the same number may have left one
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def canonical(document: Any) -> bytes:
    """Return the one spelling of a JSON document that digests are made from."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(document: Any) -> str:
    """Return the sha256 of a JSON document's canonical spelling, as hexadecimal digits."""
    return hashlib.sha256(canonical(document)).hexdigest()


def seal(document: dict[str, Any]) -> bytes:
    """Return a JSON document with its own digest beside it."""
    sealed = {"sha256": digest(document), "document": document}
    return json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def unseal(raw: bytes, what: str, aside: str = "") -> dict[str, Any]:
    """Return the document that seal wrote.

    :param what: where it was read, for the message. aside: the command that moves it away.
    :raises RollbackError: when it is damaged: its digest does not match or it is no JSON.
    """
    try:
        sealed = json.loads(raw)
        document = sealed["document"]
        whole = isinstance(document, dict) and sealed["sha256"] == digest(document)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise RollbackError(
            f"{what} is damaged: its content does not match its own checksum.",
            f"{SET_ASIDE}:  {aside}" if aside else f"{SET_ASIDE}.",
        )
    return dict(document)


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document with its own digest beside it, atomically and durably."""
    write_atomic(path, seal(document))


def read_document(path: Path) -> dict[str, Any] | None:
    """Return a document that write_document wrote; None when there is none.

    :raises RollbackError: when the file is damaged: its digest does not match or it is no JSON.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    return unseal(raw, str(path), move_away(path))


def move_away(path: Path) -> str:
    """Return the command that moves a damaged file away and leaves it beside, for whoever looks into it."""
    return f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
