# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `process`: enough processes run, and they were started after the change.

A process that survived the rollback still runs the bad code, whatever lies on disk; `started_after: run` finds it. One
that is another service's would say nothing, so processes that have nothing to do with each other are told apart.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .check_model import Context, Sample, bad, good, shown, unverified
from .durable import parse_time

KEYS = frozenset({"process", "argument", "pid_file", "user", "folder", "unit", "min_count", "started_after"})
REQUIRED: tuple[str, ...] = ()
PROC = Path("/proc")
RUN = "run"
_COMM_LENGTH = 15  # TASK_COMM_LEN - 1: https://man7.org/linux/man-pages/man5/proc_pid_comm.5.html
_CLOCK_STEP = 0.05  # start times are counted in ticks of 10 ms
_WRITTEN_SLACK = 2.0  # between a file's time and a process's
_NARROWING = {"argument", "user", "folder", "unit"}
_SHOWN_PROGRAMS = 3


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence."""
    found = []
    if ("process" in options) == ("pid_file" in options):
        found.append("either `process` or `pid_file` says which process is meant")
    found += [f"`{key}` is empty" for key in ("process", "argument", "user", "unit") if options.get(key) == ""]
    found += [
        f"`{key}` must be an absolute path"
        for key in ("pid_file", "folder")
        if key in options and not os.path.isabs(options[key])
    ]
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
    """Count once. When nothing was changed (a checkpoint), `started_after: run` asks for no time, but for a process.

    Unverified where there is no /proc, and where processes match that have nothing to do with each other.
    """
    del timeout  # Reading /proc does not block.
    if not (PROC / "self" / "stat").exists():
        return unverified("this host has no /proc to look into")
    after: datetime | None = None
    if "started_after" in options:
        after = context.loaded if options["started_after"] == RUN else parse_time(options["started_after"])
    return _judge(options, after)


def _judge(options: Mapping[str, Any], after: datetime | None) -> Sample:
    try:
        found = _find(options)
        written = os.stat(options["pid_file"]).st_mtime if "pid_file" in options else 0.0
    except OSError as exc:
        return bad(f"{options['pid_file']} cannot be read: {exc.strerror}")
    except ValueError:
        return bad(f"{options['pid_file']} does not hold the number of a process")
    what = shown(options.get("process") or options["pid_file"])
    wanted = int(options.get("min_count", 1))
    if len(found) < wanted:
        return bad(f"{len(found)} processes of {what} run, expected at least {wanted}{_near_miss(options, found)}")
    alone = "pid_file" in options and not _NARROWING & set(options)
    if alone and started(found[0]) > written + _WRITTEN_SLACK:
        return unverified(
            f"process {found[0]} was started after {what} was written: another program has that number by now, or the "
            "clock was set; say which is meant: `argument`, `folder`, `user` or `unit`"
        )
    narrowed = bool({"argument", "folder"} & set(options))
    if "unit" not in options and (strangers := _strangers(found, whole=not narrowed)):
        return unverified(
            f"{what} is the name of several programs here ({strangers}); say which is meant: "
            "`argument`, `folder`, `user`, `unit` or `pid_file`"
        )
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
        numbers: Iterable[int] = [pid]
    else:
        # A Python program looks for Python programs: neither it nor what started it is the service.
        ours = {os.getpid(), *_ancestors(os.getpid())}
        numbers = (
            int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal() and int(entry.name) not in ours
        )
    return [pid for pid in numbers if _called(pid, options.get("process")) and _alive(pid) and _is_meant(pid, options)]


def _is_meant(pid: int, options: Mapping[str, Any]) -> bool:
    return (
        ("argument" not in options or _has(pid, options["argument"]))
        and ("user" not in options or options["user"] in _user(pid))
        and ("folder" not in options or _folder(pid) == os.path.realpath(options["folder"]))
        and ("unit" not in options or in_unit(_cgroup(pid), options["unit"]))
    )


def _near_miss(options: Mapping[str, Any], found: list[int]) -> str:
    """Say how many have the name alone, for whoever wrote the rest wrong."""
    if found or "process" not in options or not _NARROWING & set(options):
        return ""
    named = len(_find({"process": options["process"]}))
    return f"; {named} with that name are something else" if named else ""


def _strangers(pids: list[int], *, whole: bool) -> str:
    """Return what processes are that cannot be of one service, in words; empty when they can.

    Of one service are those that descend from one of them, and those that run as one user, in one folder and one
    control group; where nothing but a name was given (`whole`), with the same arguments too.
    """
    mine = set(pids)
    heads = [pid for pid in pids if not mine & set(_ancestors(pid))]
    kinds: dict[tuple[Any, ...], int] = {}
    for pid in heads:
        folder = _folder(pid)
        about = (_user(pid), folder, _cgroup(pid), tuple(_argv(pid)) if whole else ())
        if _alive(pid):
            kinds.setdefault(about, pid)
    if len(kinds) < 2:
        return ""
    listed = [f"process {pid} in {about[1] or 'a folder that is not shown'}" for about, pid in kinds.items()]
    return ", ".join(listed[:_SHOWN_PROGRAMS]) + (", ..." if len(listed) > _SHOWN_PROGRAMS else "")


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while (fields := _stat(pid)) and (pid := int(fields[1])) > 1 and pid not in found:
        found.append(pid)
    return found


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # gone


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (a name may hold spaces and brackets); [] when gone."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in {"Z", "X", "x"}


def _argv(pid: int) -> list[str]:
    """Return the arguments; of a process that gave itself a title (node, gunicorn with setproctitle), its words.

    A title is one text over the place of all arguments, filled up with zeros: "node /srv/shop/app.js".
    """
    argv = _read(pid, "cmdline").rstrip("\0").split("\0")
    if len(argv) == 1 and " " in argv[0]:
        first, *rest = argv[0].split()
        return [first.rstrip(":"), *rest, argv[0].partition(" ")[2].strip()] if rest else [first]
    return argv if argv[0] else []


def _called(pid: int, name: str | None) -> bool:
    if name is None:
        return True
    argv = _argv(pid)
    if argv and name in {argv[0], os.path.basename(argv[0])}:
        return True
    return _read(pid, "comm").rstrip("\n") == name[:_COMM_LENGTH]


def _has(pid: int, argument: str) -> bool:
    return argument in _argv(pid)[1:]


def _user(pid: int) -> tuple[str, ...]:
    """Return who runs it, by number and, where there is one, by name."""
    for line in _read(pid, "status").splitlines():
        if line.startswith("Uid:"):
            number = line.split()[2]  # the effective one
            try:
                return number, pwd.getpwuid(int(number)).pw_name
            except KeyError:
                return (number,)
    return ()


def _folder(pid: int) -> str:
    try:
        return os.readlink(PROC / str(pid) / "cwd")
    except OSError:
        return ""  # gone, or not ours to see


def _cgroup(pid: int) -> str:
    return _read(pid, "cgroup")


def in_unit(cgroup: str, unit: str) -> bool:
    """Say whether /proc/PID/cgroup (cgroups(7)) names a unit of systemd; `.service` may be left out."""
    names = {unit, f"{unit}.service"}
    return any(names & set(line.split(":", 2)[-1].split("/")) for line in cgroup.splitlines())


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
