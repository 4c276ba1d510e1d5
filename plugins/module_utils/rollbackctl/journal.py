# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's journal: what was begun and what ended, durable before it is true.

In a file: one JSON line an event, each with its own checksum, so that a torn last line (power cut) is recognised and
ignored. The file is filled with zeros in advance: a disk that fills up during the run cannot stop the journal.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from .durable import digest, now, sync_directory

PREALLOCATED_BYTES = 256 * 1024


class Journal(ABC):
    """The events of one run, oldest first. Writers hold the store's lock."""

    @abstractmethod
    def events(self) -> list[dict[str, Any]]:
        """Return the events that are whole."""

    @abstractmethod
    def append(self, event: str, **facts: Any) -> dict[str, Any]:
        """Write one event durably and return it. Facts are JSON values and hold no secret."""

    def together(self) -> AbstractContextManager[None]:
        """Write what the body appends as one, where each write takes long; it is durable at the body's end."""
        return nullcontext()


class FileJournal(Journal):
    """A journal in a file of the directory store."""

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
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
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
        for line in raw.split(b"\n")[:-1]:  # what follows the last newline was never written to its end
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


# -- what events say ---------------------------------------------------------------------------------------------------

OPENING = ("fence-opening", "fence-opened")


def fence_is_closed(events: list[dict[str, Any]]) -> bool:
    """Say whether the last word of the journal about the fence is that it is closed, or about to be."""
    words = [event["event"] for event in events if event["event"] in ("fence-closing", "fence-opened")]
    return bool(words) and words[-1] == "fence-closing"


def written_since_applied(events: list[dict[str, Any]], component: str) -> bool:
    """Say whether this run brought a component to its target, and traffic may have written to it there. Never so for
    what was not brought there: what reads as the target but for some rows is then the state before.

    A run that is killed before it writes "applied" is read back by the next one, or by the watchdog: a fence that was
    opened because everything was at its target (`reached`) says it as well.
    """
    since = None
    for index, event in enumerate(events):
        if event.get("component") == component and event["event"] in ("applied", "reversed"):
            since = index if event["event"] == "applied" else None
        elif event["event"] in OPENING and event.get("reached") and since is None:
            since = index
    return since is not None and _traffic_since(events, since)


def written_since_kept(events: list[dict[str, Any]], component: str) -> bool:
    """Say whether traffic may have written to a component since this run last kept a copy of it."""
    kept = [i for i, e in enumerate(events) if e["event"] == "captured" and e["component"] == component]
    return not kept or _traffic_since(events, kept[-1])


def _traffic_since(events: list[dict[str, Any]], index: int) -> bool:
    return not fence_is_closed(events) or any(event["event"] in OPENING for event in events[index:])
