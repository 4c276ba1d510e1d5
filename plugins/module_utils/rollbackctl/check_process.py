# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `process`: enough processes run, and they were started after the change.

A process that survived the rollback still runs the bad code, whatever lies on disk; `started_after: run` finds it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .check_model import Context, Sample, bad, good, shown, unverified
from .durable import parse_time

KEYS = frozenset({"process", "argument", "pid_file", "min_count", "started_after"})
REQUIRED: tuple[str, ...] = ()
PROC = Path("/proc")
RUN = "run"
_COMM_LENGTH = 15  # TASK_COMM_LEN - 1: https://man7.org/linux/man-pages/man5/proc_pid_comm.5.html
_CLOCK_STEP = 0.05  # start times are counted in ticks of 10 ms


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence."""
    found = []
    if ("process" in options) == ("pid_file" in options):
        found.append("either `process` or `pid_file` says which process is meant")
    if "pid_file" in options and not os.path.isabs(options["pid_file"]):
        found.append("`pid_file` must be an absolute path")
    if options.get("min_count", 1) < 1:
        found.append("`min_count` must be at least 1")
    after = options.get("started_after", RUN)
    if after != RUN:
        try:
            parse_time(after)
        except ValueError:
            found.append(f"`started_after` must be `{RUN}` or a time like 2026-11-21T09:30:15Z")
    return found


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Count once. When nothing was changed (a checkpoint), `started_after: run` asks for nothing.

    Unverified where there is no /proc.
    """
    del timeout  # Reading /proc does not block.
    after: datetime | None = None
    if "started_after" in options:
        after = context.changed if options["started_after"] == RUN else parse_time(options["started_after"])
        if after is None:
            return (
                good("no change was made, so there is nothing to have been started after")
                if not _find(options)
                else _judge(options, None)
            )
    if not (PROC / "self" / "stat").exists():
        return unverified("this host has no /proc to look into")
    return _judge(options, after)


def _judge(options: Mapping[str, Any], after: datetime | None) -> Sample:
    try:
        found = _find(options)
    except OSError as exc:
        return bad(f"{options['pid_file']} cannot be read: {exc.strerror}")
    except ValueError:
        return bad(f"{options['pid_file']} does not hold the number of a process")
    what = shown(options.get("process") or options["pid_file"])
    wanted = int(options.get("min_count", 1))
    if len(found) < wanted:
        return bad(f"{len(found)} processes of {what} run, expected at least {wanted}")
    if after is not None:
        old = [pid for pid in found if started(pid) < after.timestamp() - _CLOCK_STEP]
        if old:
            return bad(f"process {old[0]} of {what} was started before {after:%Y-%m-%dT%H:%M:%SZ}: not restarted")
    return good(f"{len(found)} processes of {what} run")


def _find(options: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the living processes that are meant.

    :raises OSError: the pid file cannot be read.
    :raises ValueError: it holds no number.
    """
    if "pid_file" in options:
        pid = int(Path(options["pid_file"]).read_text(encoding="ascii", errors="replace").split("\n", 1)[0])
        return [pid] if _alive(pid) and _has(pid, options.get("argument")) else []
    numbers = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]
    return [
        pid
        for pid in numbers
        if _called(pid, options["process"]) and _alive(pid) and _has(pid, options.get("argument"))
    ]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (a name may hold spaces and brackets); [] when gone."""
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in {"Z", "X", "x"}


def _argv(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    except OSError:
        return []


def _called(pid: int, name: str) -> bool:
    argv = _argv(pid)
    if argv and name in {argv[0], os.path.basename(argv[0])}:
        return True
    try:
        comm = (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return False
    return comm == name[:_COMM_LENGTH]


def _has(pid: int, argument: str | None) -> bool:
    return argument is None or argument in _argv(pid)[1:]


def started(pid: int) -> float:
    """Return when a process was started, in seconds since 1970; infinity when it is gone.

    Field 22 counts ticks since boot, time asleep included, which is what CLOCK_BOOTTIME counts too:
    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    """
    fields = _stat(pid)
    if not fields:
        return float("inf")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return datetime.now(timezone.utc).timestamp() - age
