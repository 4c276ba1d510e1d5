# SPDX-License-Identifier: GPL-3.0-or-later
"""What a process manager says about one program, and how processes are told apart.

A process id alone names nothing for long: it is used again. With the start time from /proc/<pid>/stat (field 22, clock
ticks since boot: proc_pid_stat(5)) it names one process until the next boot.
"""

from __future__ import annotations

import dataclasses
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

# States, in supervisor's words (http://supervisord.org/subprocess.html#process-states); other managers are translated.
RUNNING, STARTING, STOPPING, STOPPED, FAILED = "RUNNING", "STARTING", "STOPPING", "STOPPED", "FAILED"
# No process runs and the manager will not start one by itself.
DOWN = (STOPPED, FAILED)


@dataclasses.dataclass(frozen=True)
class Reading:
    """One look at a program.

    state: RUNNING, STARTING (also: waiting to be started again), STOPPING, STOPPED (on purpose), FAILED (gave up).
    pids: its main processes; empty when there are none.
    started: names this start of it: equal for two readings only when it was not restarted in between; "" when down.
    log: where its last words are; "" when the manager does not say.
    """

    state: str
    pids: tuple[int, ...] = ()
    started: str = ""
    log: str = ""


class Manager(Protocol):
    """What starts and stops a program: supervisor, systemd, pm2 or commands of the profile."""

    def read(self) -> Reading:
        """Read the program's state.

        :raises Refused: when the manager cannot be asked or does not know the program.
        """
        ...  # pragma: no cover - a protocol has no body

    def stop(self) -> None:
        """Ask for a stop; returns before or after it is done. Asking for what is already so is no error.

        :raises StepFailed: when the manager says no.
        """
        ...  # pragma: no cover

    def start(self) -> None:
        """Ask for a start; as stop."""
        ...  # pragma: no cover


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is none (a zombie is none)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the name in parentheses, which may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def process_key(pid: int) -> str:
    """Return the name of a living process, "<ticks>:<pid>"; "" when it is gone."""
    ticks = start_ticks(pid)
    return "" if ticks is None else f"{ticks}:{pid}"


def alive(key: str) -> bool:
    """Say whether the process that process_key named still lives."""
    return bool(key) and process_key(int(key.partition(":")[2])) == key


def started_at(pid: int) -> str:
    """Return when a process started, UTC, to the second; "" when it is gone."""
    ticks = start_ticks(pid)
    if ticks is None:
        return ""
    seconds_ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(time.time() - seconds_ago, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def family(pids: tuple[int, ...]) -> tuple[str, ...]:
    """Return process_key of the processes and of everything that descends from them: they may hold files open after
    their parent has gone. One walk over /proc; what is born meanwhile may be missing."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parent = _parent(int(entry))
            if parent is not None:
                children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    todo = list(pids)
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.append(pid)
            todo.extend(children.get(pid, []))
    return tuple(key for key in map(process_key, found) if key)


def _parent(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text[text.rindex(")") + 2 :].split()[1])
