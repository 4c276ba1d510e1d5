# SPDX-License-Identifier: GPL-3.0-or-later
"""Managers that are spoken to by commands: systemd, pm2, and a profile's own start, stop and status.

Commands' output is never shown: `pm2 jlist` prints the whole environment of every process, secrets included.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import DeadlineExceeded, Refused, StepFailed
from .service_reading import FAILED, RUNNING, STARTING, STOPPED, STOPPING, Reading, process_key

READ_SECONDS = 30.0
SYSTEMD_PROPERTIES = "LoadState,ActiveState,SubState,MainPID,InvocationID"
# systemctl(1) and src/basic/unit-def.c: the six states of a unit.
_SYSTEMD_STATES = {
    "active": RUNNING,
    "reloading": RUNNING,
    "activating": STARTING,
    "deactivating": STOPPING,
    "inactive": STOPPED,
    "failed": FAILED,
}
# pm2/constants.js: the states of a process.
_PM2_STATES = {
    "online": RUNNING,
    "launching": STARTING,
    "waiting restart": STARTING,
    "one-launch-status": STARTING,
    "stopping": STOPPING,
    "stopped": STOPPED,
    "errored": FAILED,
}
# Of several processes under one name the worst one speaks for all.
_WORST_FIRST = (FAILED, STOPPED, STOPPING, STARTING, RUNNING)


class Systemd:
    """One unit of systemd."""

    def __init__(self, unit: str, timeout: float) -> None:
        """Take the unit's name (checked by the caller) and the patience for stop and start, in seconds."""
        self.unit = unit
        self.timeout = timeout

    def read(self) -> Reading:
        """Read the unit's state.

        :raises Refused: no systemd, or it does not know the unit.
        """
        argv = ["systemctl", "show", "--no-pager", f"--property={SYSTEMD_PROPERTIES}", "--", self.unit]
        return parse_systemd(self.unit, output_of(argv))

    def stop(self) -> None:
        """Stop the unit."""
        run(["systemctl", "stop", "--", self.unit], self.timeout)

    def start(self) -> None:
        """Start the unit; after a crash loop systemd would refuse without a reset of its counter."""
        run(["systemctl", "reset-failed", "--", self.unit], self.timeout)
        run(["systemctl", "start", "--", self.unit], self.timeout)


def parse_systemd(unit: str, text: str) -> Reading:
    """Return the reading that `systemctl show` printed.

    :raises Refused: the unit does not exist or its file does not parse.
    """
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    load = values.get("LoadState", "")
    if load != "loaded":
        raise Refused(
            f"systemd has no usable unit {unit!r}: LoadState is {load or 'not given'}.",
            "See what there is: systemctl list-units --type=service --all",
        )
    state = _SYSTEMD_STATES.get(values.get("ActiveState", ""), FAILED)
    pid = int(values.get("MainPID") or 0)
    started = values.get("InvocationID", "") if state in {RUNNING, STARTING} else ""
    return Reading(state, (pid,) if pid else (), started, f"journalctl --unit={unit}")


class Pm2:
    """One application of pm2; in cluster mode it has several processes."""

    def __init__(self, application: str, timeout: float) -> None:
        """Take the application's name (checked by the caller) and the patience in seconds."""
        self.application = application
        self.timeout = timeout

    def read(self) -> Reading:
        """Read the state of all of the application's processes.

        :raises Refused: no pm2, or it does not know the application.
        """
        return parse_pm2(self.application, output_of(["pm2", "jlist", "--silent"]))

    def stop(self) -> None:
        """Stop the application (pm2 hands on what follows `--` to the script: the name comes without)."""
        run(["pm2", "stop", self.application, "--silent"], self.timeout)

    def start(self) -> None:
        """Start the application, which pm2 knows by name."""
        run(["pm2", "start", self.application, "--silent"], self.timeout)


def parse_pm2(application: str, text: str) -> Reading:
    """Return the reading that `pm2 jlist` printed; lines before the list are pm2's remarks.

    :raises Refused: not a list, or the application is not in it.
    """
    start = re.search(r"^\[(?=\s*[\]{])", text, re.MULTILINE)
    try:
        listed: list[dict[str, Any]] = json.JSONDecoder().raw_decode(text[start.start() :])[0] if start else []
    except ValueError as exc:
        raise Refused("`pm2 jlist` printed no list of processes.", "Try it by hand: pm2 list") from exc
    mine = [entry for entry in listed if entry.get("name") == application]
    if not mine:
        known = sorted({str(entry.get("name")) for entry in listed})
        raise Refused(f"pm2 has no application {application!r}. Known: {', '.join(known) or 'none'}.")
    states = [_PM2_STATES.get(str(entry["pm2_env"].get("status")), FAILED) for entry in mine]
    state = min(states, key=_WORST_FIRST.index)
    pids = tuple(int(entry["pid"]) for entry in mine if entry.get("pid"))
    # pm_uptime: when this start of the process was, milliseconds since 1970.
    started = ",".join(f"{entry['pm2_env'].get('pm_uptime')}:{entry.get('pid')}" for entry in mine)
    return Reading(state, pids, started if pids else "", str(mine[0]["pm2_env"].get("pm_err_log_path", "")))


class Command:
    """A service with its own start, stop and status commands."""

    def __init__(self, argv: Mapping[str, Sequence[str]], pid_file: Path | None, timeout: float) -> None:
        """Take the commands `start`, `stop` and `status`, the file with the process id if there is one, and the
        patience in seconds."""
        self.argv = argv
        self.pid_file = pid_file
        self.timeout = timeout

    def read(self) -> Reading:
        """Ask the status command: exit code 0 means that it runs, as in init scripts (LSB: 0 running, else not).

        :raises Refused: the command cannot be run, or the file has no process id.
        """
        code = exit_code(self.argv["status"], READ_SECONDS)
        if code in {126, 127}:
            raise Refused(f"the status command {self.argv['status'][0]} cannot be run (exit code {code}).")
        pid = self._pid()
        key = process_key(pid) if pid else ""
        if code == 0:
            return Reading(RUNNING, (pid,) if key else (), key)
        # It says "not running"; a process that is still there is on its way out.
        return Reading(STOPPING, (pid,), key) if key else Reading(STOPPED)

    def _pid(self) -> int:
        if self.pid_file is None:
            return 0
        try:
            text = self.pid_file.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return 0
        except OSError as exc:
            raise Refused(f"{self.pid_file} cannot be read: {exc.strerror}.") from exc
        if not re.fullmatch(r"[1-9][0-9]{0,9}", text):
            raise Refused(f"{self.pid_file} should hold a process id and does not.")
        return int(text)

    def stop(self) -> None:
        """Run the stop command."""
        run(self.argv["stop"], self.timeout)

    def start(self) -> None:
        """Run the start command."""
        run(self.argv["start"], self.timeout)


def exit_code(argv: Sequence[str], timeout: float) -> int:
    """Run a command with its output thrown away (a daemon that it starts may keep the pipe open for ever).

    :raises DeadlineExceeded: after timeout seconds; the command is killed, what it started may go on.
    :raises Refused: it is not there or may not be run.
    """
    try:
        return subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired as exc:
        raise DeadlineExceeded(f"{argv[0]} did not end within {timeout:g} s.") from exc
    except OSError as exc:
        raise Refused(f"{argv[0]} cannot be run: {exc.strerror}.") from exc


def run(argv: Sequence[str], timeout: float) -> None:
    """Run a changing command.

    :raises StepFailed: it ended with anything but 0, or not in time.
    """
    code = exit_code(argv, timeout)
    if code != 0:
        raise StepFailed(f"{' '.join(argv[:2])} ended with exit code {code}.")


def output_of(argv: Sequence[str]) -> str:
    """Return what a reading command prints.

    :raises Refused: it cannot be run, fails or takes longer than READ_SECONDS.
    """
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=READ_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as exc:
        raise Refused(f"{argv[0]} did not answer within {READ_SECONDS:g} s.") from exc
    except OSError as exc:
        raise Refused(f"{argv[0]} cannot be run: {exc.strerror}.", f"Install {argv[0]}, or correct `manager`.") from exc
    if done.returncode != 0:
        raise Refused(f"{' '.join(argv[:2])} ended with exit code {done.returncode}.")
    return done.stdout.decode(errors="replace")
