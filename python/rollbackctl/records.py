# SPDX-License-Identifier: GPL-3.0-or-later
"""The run records of this controller: where they are, which there are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ._project import names, outcome
from .errors import RecordMissingError

Record = Mapping[str, Any]
# Where the callback plugin writes a record for which its folder has no room.
SPARE_VARIABLE = "ROLLBACKCTL_SPARE_RECORDS"
# A record is some ten kilobytes; what is a thousand times that is none.
_LIMIT = 16 * 1024 * 1024


def directory() -> Path:
    """Return the folder in which this controller keeps its records; the callback plugin decides by the same rule."""
    named = os.environ.get("ROLLBACKCTL_RECORDS", "")
    state = os.environ.get("XDG_STATE_HOME", "") or str(Path.home() / ".local" / "state")
    return Path(named) if named else Path(state) / "rollbackctl" / "records"


def read(path: Path) -> Record | None:
    """Return the record in a file, or None when it holds none."""
    try:
        if path.stat().st_size > _LIMIT:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "outcome" in found else None


def every(folder: Path | None = None) -> list[Record]:
    """Return the newest attempt of each run, the latest run first."""
    found = [record for path in _files(folder or directory()) if (record := read(path)) is not None]
    return sorted(found, key=lambda record: str(record.get("started", "")), reverse=True)


def load(run: str) -> Record:
    """Return the record of one run; raises RecordMissingError with the runs there are."""
    record = read(directory() / f"{run}.json") if names.is_run_id(run) else None
    if record is None:
        known = ", ".join(str(each.get("run")) for each in every()[:10]) or "none"
        raise RecordMissingError(
            f"There is no record of run {names.printable(run)!r} in {directory()}. The latest runs there: {known}. "
            "The service's own store knows all its runs: rollbackctl status SERVICE --inventory INVENTORY.",
        )
    return record


def of_process(pid: int, folder: Path | None = None) -> Record | None:
    """Return the record that the ansible-playbook with this process id writes; None before it has begun one."""
    recent = sorted(_files(folder or directory()), key=_changed, reverse=True)[:20]
    return next((record for path in recent if (record := read(path)) is not None and record.get("pid") == pid), None)


def newer(kept: Record | None, spare: Record | None) -> Record | None:
    """Return the one of two records of a run that knows how it ended; the spare one has what had no room elsewhere."""
    return kept if spare is None or (kept and kept.get("ended")) else spare


def is_running(record: Record) -> bool:
    """Say whether the run is still going on, here: its ansible-playbook lives."""
    if record.get("outcome") != outcome.INTERRUPTED or record.get("ended"):
        return False
    if record.get("controller") != os.uname().nodename:
        return False
    try:
        command = Path(f"/proc/{int(record.get('pid', 0))}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
    return b"ansible-playbook" in command


def write_beside(record: Record, suffix: str, content: str) -> Path:
    """Write a report beside its record, readable by this user only; raises OSError."""
    path = directory() / f"{record['run']}{suffix}"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - the mode must be right from the start
            file.write(content)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    return path


def _files(folder: Path) -> Iterator[Path]:
    # RUN.1.json is an earlier attempt of RUN.json, and a run id holds no dot.
    return (path for path in folder.glob("*.json") if names.is_run_id(path.stem))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
