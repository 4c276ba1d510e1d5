# SPDX-License-Identifier: GPL-3.0-or-later
"""Managers that are spoken to by commands: systemd, and a profile's own start, stop and status."""

from __future__ import annotations

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


def exit_code(argv: Sequence[str], timeout: float, **how: Any) -> int:
    """Run a command with its output thrown away (a daemon that it starts may keep the pipe open for ever).

    how: more of what subprocess.run takes: environment, user.

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
            **how,
        ).returncode
    except subprocess.TimeoutExpired as exc:
        raise DeadlineExceeded(f"{argv[0]} did not end within {timeout:g} s.") from exc
    except OSError as exc:
        raise Refused(f"{argv[0]} cannot be run: {exc.strerror}.") from exc


def run(argv: Sequence[str], timeout: float, **how: Any) -> None:
    """Run a changing command; how: as exit_code takes it.

    :raises StepFailed: it ended with anything but 0, or not in time.
    """
    code = exit_code(argv, timeout, **how)
    if code != 0:
        raise StepFailed(f"{' '.join(argv[:2])} ended with exit code {code}.")


def output_of(argv: Sequence[str], **how: Any) -> str:
    """Return what a reading command prints; how: as exit_code takes it.

    :raises Refused: it cannot be run, fails or takes longer than READ_SECONDS.
    """
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=READ_SECONDS,
            check=False,
            **{"env": {**os.environ, "LC_ALL": "C"}, **how},
        )
    except subprocess.TimeoutExpired as exc:
        raise Refused(f"{argv[0]} did not answer within {READ_SECONDS:g} s.") from exc
    except OSError as exc:
        raise Refused(f"{argv[0]} cannot be run: {exc.strerror}.", f"Install {argv[0]}, or correct `manager`.") from exc
    if done.returncode != 0:
        raise Refused(f"{' '.join(argv[:2])} ended with exit code {done.returncode}.")
    text: str = done.stdout.decode(errors="replace")
    return text
