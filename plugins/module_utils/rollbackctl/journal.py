# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's journal: what was begun and what ended, on disk before it is true.

One JSON line an event, each with its own checksum, so that a torn last line (power cut) is recognised and ignored. The
file is filled with zeros in advance: a disk that fills up during the run cannot stop the journal.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .durable import digest, now, sync_directory

PREALLOCATED_BYTES = 256 * 1024


class Journal:
    """The events of one run, oldest first. Writers hold the store's kernel lock."""

    def __init__(self, path: Path) -> None:
        """Name the journal's file; nothing is opened yet."""
        self.path = path

    def create(self) -> None:
        """Make the file and reserve its space, once.

        :raises OSError: the disk is full or read-only.
        """
        if self.path.exists():
            return
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(handle, 0, PREALLOCATED_BYTES)
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_directory(self.path.parent)

    def events(self) -> list[dict[str, Any]]:
        """Return the whole events; reading stops at the first damaged line, which only a crash can have torn."""
        return self._read()[0]

    def append(self, event: str, **facts: Any) -> dict[str, Any]:
        """Write one event durably and return it. Facts are JSON values and hold no secret."""
        entry = {"event": event, "at": now(), **facts}
        line = json.dumps({"sha256": digest(entry), "entry": entry}, ensure_ascii=False).encode() + b"\n"
        handle = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            os.pwrite(handle, line, self._read()[1])
            os.fsync(handle)
        finally:
            os.close(handle)
        return entry

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """Return the whole events and the offset (bytes) behind the last of them."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        found: list[dict[str, Any]] = []
        offset = 0
        for line in raw.split(b"\n"):
            try:
                sealed = json.loads(line)
                whole = sealed["sha256"] == digest(sealed["entry"])
            except (ValueError, KeyError, TypeError):
                break
            if not whole:
                break
            found.append(sealed["entry"])
            offset += len(line) + 1
        return found, offset
