# SPDX-License-Identifier: GPL-3.0-or-later
"""Restart a service because something it has loaded was changed, and keep it stopped while data is changed.

A restart has no version to go back to. What it has is a moment: the service must have started *after* everything else
was put back. A start time that differs from the plan's proves nothing (a crash loop gives a new one each second), so
`apply` writes down, after the other changes and before its own, which start it saw: only a later one counts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, TypeVar

from .component import BETWEEN, LIVE, TARGET, Entry, FenceDriver, Finding, Place, Version, unknown_target
from .durable import digest, now, read_document, write_document
from .errors import DeadlineExceeded, Refused, StepFailed
from .failpoints import failpoint
from .names import is_name
from .service_managers import Command, Systemd
from .service_pm2 import Daemon, Pm2
from .service_reading import DOWN, FAILED, RUNNING, STOPPED, Manager, Reading, alive, family, started_at

MARK, FENCE = "restart.json", "fence.json"
# In a mark: the start counts for every target.
ANY = "any"
RESTARTED = Version({"state": RUNNING, "started": ""}, "running, started anew")
POLL_SECONDS = 0.05
_Seen = TypeVar("_Seen")
# systemd.unit(5): a unit name may hold these; an instance comes after @.
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.\\@-]{0,254}")
_NEEDS = {
    "supervisor": ("program",),
    "systemd": ("program",),
    "pm2": ("program",),
    "command": ("start", "stop", "status"),
}


class ServiceDriver(FenceDriver):
    """One program under a process manager."""

    layer = "application"
    default_action = "follow"
    # Neither belongs to a plan's hash: a crash loop changes both all the time.
    exact_keys = ("state", "started")
    failpoints = (
        "restart_service.restart.before",
        "restart_service.stop.before",
        "restart_service.stop.after",
        "restart_service.start.before",
        "restart_service.start.after",
        "restart_service.restart.after",
        "restart_service.close.before",
        "restart_service.close.after",
        "restart_service.open.before",
        "restart_service.open.after",
    )

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        """Keep options and place, and prepare the manager."""
        super().__init__(options, place)
        self.stop_timeout = float(options["stop_timeout"])
        self.start_timeout = float(options["start_timeout"])
        self.settle = float(options["settle"])
        self.manager = manager_of(options)

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a state is read whole or not at all
        """Read whether it runs and since when.

        :raises Refused: the manager cannot be asked or does not know the program.
        """
        return _version(self.manager.read())

    def resolve(self, want: Version | str) -> Version:
        """Return the one state there is to reach: running, started anew. A version (of the checkpoint, or what is live)
        says nothing more: what it was restarted from is gone.

        :raises Refused: an operator named anything but "running".
        """
        if isinstance(want, str) and want != "running":
            raise unknown_target(self.name, want, ["running"], "state")
        return RESTARTED

    def check(self, live: Version, target: Version) -> Finding:  # noqa: ARG002 - a restart is the same from anywhere
        """Prove that the manager answers and knows the program; name what a restart may take."""
        problems = []
        try:
            reading = self.manager.read()
        except Refused as exc:
            problems.append(exc.message)
        else:
            if self.options["fence"] and not reading.pids and reading.state == RUNNING:
                problems.append(
                    f"{self.name} is a fence, but no process id of it is known, so nobody could prove that it is gone. "
                    "Name pid_file in the profile."
                )
        return Finding(
            problems=tuple(problems),
            seconds=1.5 + self.settle,
            worst_seconds=2 * self.stop_timeout + self.start_timeout + self.settle,
        )

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:  # noqa: ARG002 - see the module
        """Say whether it runs, or not, as in that version; when it was started is no part of a version."""
        return bool(reading.identity["state"] == version.identity["state"])

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - not about content
        """Read it against the plan: TARGET is *restarted by this run and as it should be*, or as it should be where the
        plan leaves it alone. It is never OTHER: a restart is right whatever somebody did before."""
        seen = self.manager.read()
        reading = _version(seen)
        if entry.action == "none":
            return (TARGET if self.matches(reading, entry.target, exact=False) else BETWEEN), reading
        if self._mark(entry.target, ANY) is not None:
            return (TARGET if self._restarted(seen, entry.target, ANY) else BETWEEN), reading
        return (LIVE if self.matches(reading, entry.live, exact=False) else BETWEEN), reading

    # -- changing ----------------------------------------------------------------------------------------------------

    def record(self, into: Path) -> Version:  # noqa: ARG002 - a state has no files
        """Return the reading; there is nothing to keep beside it."""
        return _version(self.manager.read(), taken=now())

    def apply(self, target: Version) -> None:
        """Restart it (start it, where it is stopped; stop it, where the target is stopped), once per run and target.

        :raises StepFailed: it does not stop, start or stay up; says where its log is.
        """
        seen = self.manager.read()
        if self._mark(target) is not None and self._restarted(seen, target):
            return
        failpoint("restart_service.restart.before")
        self._write_mark(_key(target), seen.started, done=False)
        self._stop()
        if target.identity["state"] != STOPPED:
            # What had failed at the target (undo of a release that does not start) may fail again: there it was.
            self._start(insist=target.identity["state"] == RUNNING)
        self._write_mark(_key(target), seen.started, done=True)
        failpoint("restart_service.restart.after")

    def _restarted(self, seen: Reading, target: Version, *other: str) -> bool:
        mark = self._mark(target, *other)
        if mark is None:
            return False
        wanted = target.identity["state"]
        if wanted == STOPPED:
            return seen.state == STOPPED
        later = mark["done"] or (seen.started and seen.started != mark["before"])
        return bool(later) and (seen.state == RUNNING or wanted != RUNNING)

    def _mark(self, target: Version, *other: str) -> dict[str, Any] | None:
        mark = read_document(self.place.work / MARK) if self.place.work is not None else None
        return mark if mark is not None and mark["target"] in {_key(target), *other} else None

    def _write_mark(self, target: str, before: str, *, done: bool) -> None:
        if self.place.work is not None:
            document = {"target": target, "before": before, "done": done}
            write_document(self.place.work / MARK, document)

    def _stop(self) -> None:
        """Stop it with all that descends from it, and read that back."""
        seen = self.manager.read()
        if seen.state in DOWN and not seen.pids:
            return
        members = family(seen.pids)
        failpoint("restart_service.stop.before")
        self.manager.stop()
        self._wait(self._down, self.stop_timeout, "stop")
        failpoint("restart_service.stop.after")
        self._wait_gone(members)

    def _start(self, *, insist: bool) -> None:
        """Start it, wait until it runs and stays up for `settle` seconds."""
        failpoint("restart_service.start.before")
        self.manager.start()
        failpoint("restart_service.start.after")
        try:
            seen = self._wait(self._up, self.start_timeout, "start")
            end = time.monotonic() + self.settle
            while seen.state == RUNNING and time.monotonic() < end:
                time.sleep(min(POLL_SECONDS, self.settle))
                again = self.manager.read()
                if again.state != RUNNING or again.started != seen.started:
                    raise self._failed(f"started and ended again within {self.settle:g} s", again)
        except StepFailed:
            if insist:
                raise

    def _up(self) -> Reading | None:
        seen = self.manager.read()
        if seen.state == FAILED:
            raise self._failed("does not start", seen)
        return seen if seen.state == RUNNING else None

    def _down(self) -> Reading | None:
        seen = self.manager.read()
        return seen if seen.state in DOWN and not seen.pids else None

    def _wait(self, look: Callable[[], _Seen | None], seconds: float, what: str) -> _Seen:
        end = time.monotonic() + seconds
        while True:
            seen = look()
            if seen is not None:
                return seen
            if time.monotonic() >= end:
                raise DeadlineExceeded(
                    f"{self.name}: {self.options['manager']} did not {what} it within {seconds:g} s; it reads as "
                    f"{self.manager.read().state}."
                )
            time.sleep(POLL_SECONDS)

    def _wait_gone(self, members: Sequence[str]) -> None:
        """Wait until processes are gone; they may still hold the database open when their parent has ended."""
        left = list(members)
        end = time.monotonic() + self.stop_timeout
        while left := [key for key in left if alive(key)]:
            if time.monotonic() >= end:
                pids = ", ".join(key.partition(":")[2] for key in left)
                raise StepFailed(
                    f"{self.name} is stopped, but processes it had started still run: {pids}.",
                    "End them by hand (or let supervisor do it: stopasgroup=true), then resume.",
                )
            time.sleep(POLL_SECONDS)

    def _failed(self, what: str, seen: Reading) -> StepFailed:
        where = seen.log or str(self.options.get("log_file") or "")
        return StepFailed(
            f"{self.name} {what}: {self.options['manager']} reads {seen.state}.",
            f"Its last words: {where}" if where else "",
        )

    # -- the fence ---------------------------------------------------------------------------------------------------

    def closed(self) -> bool:
        """Read whether it is stopped, with all processes that were its own when the fence closed."""
        seen = self.manager.read()
        return seen.state in DOWN and not seen.pids and not any(map(alive, self._fenced() or ()))

    def close(self) -> None:
        """Stop it and read back that it and its children are gone.

        :raises StepFailed: something of it still runs.
        """
        if self.place.work is not None:
            # A restart from before the fence is no proof of one after it.
            (self.place.work / MARK).unlink(missing_ok=True)
        if self.closed() and self._fenced() is not None:
            return
        # Known before the stop, for a run that is killed in the middle: who must be gone before data may change.
        members = sorted({*(self._fenced() or ()), *family(self.manager.read().pids)})
        if self.place.work is not None:
            write_document(self.place.work / FENCE, {"members": members})
        failpoint("restart_service.close.before")
        self._stop()
        self._wait_gone(members)
        failpoint("restart_service.close.after")

    def open(self) -> None:
        """Start it and read back that it runs.

        :raises StepFailed: it does not.
        """
        failpoint("restart_service.open.before")
        if self.manager.read().state != RUNNING:
            self._start(insist=True)
        if self.place.work is not None and self._fenced() is not None:
            # It was stopped before the changes and started after them: as good as a restart, whatever it was for.
            self._write_mark(ANY, "", done=True)
            (self.place.work / FENCE).unlink(missing_ok=True)
        failpoint("restart_service.open.after")

    def _fenced(self) -> list[str] | None:
        """Return the processes that were its own when this run closed the fence; None when it did not."""
        document = read_document(self.place.work / FENCE) if self.place.work is not None else None
        return list(document["members"]) if document else None


def _key(target: Version) -> str:
    # With the time: what was captured may have the same start as the checkpoint, when only files were changed since.
    return digest({"identity": dict(target.identity), "taken": target.taken})


def _version(seen: Reading, taken: str = "") -> Version:
    identity = {"state": seen.state, "started": seen.started}
    if not seen.pids:
        return Version(identity, seen.state.lower(), taken)
    since = started_at(seen.pids[0])
    pids = " ".join(map(str, seen.pids))
    return Version(identity, f"{seen.state.lower()} since {since or 'just now'} (process {pids})", taken)


def manager_of(options: Mapping[str, Any]) -> Manager:
    """Return the manager that a component's options describe.

    :raises Refused: what the manager needs is missing, or a name is none.
    """
    name, kind = options["name"], options["manager"]
    if kind not in _NEEDS:
        raise Refused(f"{name}: manager {kind!r} is unknown. Known: {', '.join(_NEEDS)}. Nothing was changed.")
    missing = [key for key in _NEEDS[kind] if not options.get(key)]
    if missing:
        raise Refused(f"{name}: manager {kind} needs {', '.join(missing)} in the profile. Nothing was changed.")
    program = str(options.get("program") or "")
    if not _is_program(kind, program):
        raise Refused(f"{name}: {program!r} cannot be the name of a program of {kind}. Nothing was changed.")
    timeout = max(float(options["stop_timeout"]), float(options["start_timeout"]))
    if kind == "systemd":
        return Systemd(program, timeout)
    if kind == "pm2":
        return Pm2(program, timeout, Daemon.of(options))
    if kind == "command":
        argv = {key: [str(word) for word in options[key]] for key in _NEEDS["command"]}
        return Command(argv, Path(options["pid_file"]) if options.get("pid_file") else None, timeout)
    from .service_supervisor import Address, Supervisor, read_address  # noqa: PLC0415 - XML-RPC is long in loading

    if options.get("server_url"):
        return Supervisor(Address(str(options["server_url"])), program)
    if options.get("configuration"):
        return Supervisor(read_address(Path(options["configuration"])), program)
    raise Refused(f"{name}: manager supervisor needs configuration or server_url in the profile. Nothing was changed.")


def _is_program(kind: str, program: str) -> bool:
    if kind == "command":
        return True
    if kind == "systemd":
        return _UNIT.fullmatch(program) is not None
    if kind == "supervisor":
        parts = program.split(":")
        return len(parts) <= 2 and all(map(is_name, parts))
    # For pm2 a number is an index and "all" is everything.
    return is_name(program) and not program.isdigit() and program != "all"
