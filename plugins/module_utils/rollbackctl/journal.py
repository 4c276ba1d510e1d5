# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's journal: what was begun and what ended, durable before it is true.

In a file: one JSON line an event, each with its own checksum, so that a torn last line (power cut) is recognised and
ignored. The file is filled with zeros in advance: a disk that fills up during the run cannot stop the journal.

Damage before the last event is not what a crash leaves. Nobody knows what the lost event said, so whoever needs the
events is refused, and nothing more is written over what follows.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from . import outcome
from .durable import digest, now, sync_directory
from .errors import JournalDamaged

PREALLOCATED_BYTES = 256 * 1024
_PIECE_BYTES = 64 * 1024


class Journal(ABC):
    """The events of one run, oldest first. Writers hold the store's lock."""

    def events(self) -> list[dict[str, Any]]:
        """Return the events.

        :raises JournalDamaged: one before the last cannot be read.
        """
        found, damage = self.readable()
        if damage is not None:
            raise damage
        return found

    @abstractmethod
    def readable(self) -> tuple[list[dict[str, Any]], JournalDamaged | None]:
        """Return all events that can be read, also behind damage, and that damage. For people, not to decide by."""

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

    def readable(self) -> tuple[list[dict[str, Any]], JournalDamaged | None]:
        """Return all events that can be read, also behind damage, and that damage."""
        found, _offset, damage = self._read()
        return found, damage

    @property
    def number(self) -> float:
        """The token with which the run was opened first: the place of the run among the others. A run whose first event
        cannot be read comes last."""
        try:
            with self.path.open("rb") as file:
                entry = _entry(file.readline(_PIECE_BYTES)) or {}
        except OSError:
            entry = {}
        return float(entry.get("token") or 0) if entry else math.inf

    def append(self, event: str, **facts: Any) -> dict[str, Any]:
        """Write one event durably and return it. Facts are JSON values and hold no secret.

        :raises JournalDamaged: what follows the damage would be written over.
        """
        entry = {"event": event, "at": now(), **facts}
        line = json.dumps({"sha256": digest(entry), "entry": entry}, ensure_ascii=False).encode() + b"\n"
        handle = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            _found, offset, damage = self._read()
            if damage is not None:
                raise damage
            os.pwrite(handle, line, offset)
            os.fsync(handle)
        finally:
            os.close(handle)
        return entry

    def _read(self) -> tuple[list[dict[str, Any]], int, JournalDamaged | None]:
        """Return the events, the offset (bytes) at which the next one goes, and what is damaged before the last."""
        found: list[dict[str, Any]] = []
        offset = end = 0
        torn: int | None = None
        damage: JournalDamaged | None = None
        for number, line in enumerate(self._used().split(b"\n")[:-1]):  # what follows the last newline is torn
            offset += len(line) + 1
            entry = _entry(line)
            if entry is None:
                torn = number if torn is None else torn
                continue
            if torn is not None and damage is None:
                damage = JournalDamaged(f"{self.path}, line {torn + 1},", self._aside())
            found.append(entry)
            end = offset
        return found, end, damage

    def _aside(self) -> str:
        run = self.path.parent
        return f"mv {run} {run.parent.parent}/{run.name}.damaged"

    def _used(self) -> bytes:
        """Return the file without the zeros that wait to be written over."""
        try:
            with self.path.open("rb") as file:
                pieces = []
                while piece := file.read(_PIECE_BYTES):
                    pieces.append(piece)
                    if not piece.strip(b"\0"):
                        break
        except FileNotFoundError:
            return b""
        return b"".join(pieces)


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line; None when it is not whole."""
    try:
        sealed = json.loads(line)
        entry: dict[str, Any] = sealed["entry"]
        return entry if sealed["sha256"] == digest(entry) else None
    except (ValueError, KeyError, TypeError):
        return None


# -- what events say ---------------------------------------------------------------------------------------------------

OPENING = ("fence-opening", "fence-opened")


def fence_is_closed(events: list[dict[str, Any]]) -> bool:
    """Say whether the last word of the journal about the fence is that it is closed, or about to be."""
    words = [event["event"] for event in events if event["event"] in ("fence-closing", "fence-opened", "fence-passed")]
    return bool(words) and words[-1] == "fence-closing"


def is_stranded(events: list[dict[str, Any]]) -> bool:
    """Say whether a run stands behind its closed fence and cannot go on: somebody else changed a component there."""
    said = [event for event in events if event["event"] in ("opened", "finished", "fence-kept")]
    return fence_is_closed(events) and bool(said) and bool(said[-1].get("strange"))


def passed_to(events: list[dict[str, Any]]) -> str:
    """Return the run that took this one's closed fence over; empty when none did."""
    taken = [str(event["to"]) for event in events if event["event"] == "fence-passed"]
    return taken[-1] if taken else ""


def ended_well(events: list[dict[str, Any]]) -> bool:
    """Say whether the last word of the journal is that the run ended with traffic back: whatever else it says."""
    last = events[-1] if events else {}
    return last.get("event") == "finalized" or last.get("outcome") in (outcome.DONE, outcome.ALREADY, outcome.RESTORED)


def opened_with(events: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the tokens with which a run was opened first, and last (by a resume): the store's own order of runs."""
    tokens = [int(event.get("token") or 0) for event in events if event["event"] == "opened"]
    return (tokens[0], tokens[-1]) if tokens else (0, 0)


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
