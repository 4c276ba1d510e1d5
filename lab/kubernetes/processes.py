# SPDX-License-Identifier: GPL-3.0-or-later
"""Long-running programs with pid files: started apart from whoever started them, never mistaken for another process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Kept so that children which end are reaped as long as their parent, a test run perhaps, lives.
_children: list[subprocess.Popen[bytes]] = []


class Process:
    """One program of a cluster: NAME.pid says which process it is, NAME.log has what it said."""

    def __init__(self, folder: Path, name: str) -> None:
        """Take the folder of the pid file and the log."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._file = folder / f"{name}.pid"

    @property
    def pid(self) -> int:
        """Return the process's number; 0 when it does not run.

        A number alone proves nothing: it is handed out again. So the file also has when the process began.
        """
        try:
            number, began = self._file.read_text(encoding="ascii").split(" ", 1)
        except (OSError, ValueError):
            return 0
        return int(number) if birth(int(number)) == began.strip() else 0

    def start(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; it must not run."""
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True
            )
        _children.append(child)
        half = self._file.with_suffix(".half")
        half.write_text(f"{child.pid} {birth(child.pid)}\n", encoding="ascii")
        half.replace(self._file)

    def stop(self, seconds: float = 10.0) -> None:
        """End it: politely, and after some seconds by force."""
        self._signal(signal.SIGTERM)
        if not self._gone(seconds):
            self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would; returns when it is gone."""
        self._signal(signal.SIGKILL)
        if not self._gone(10.0):
            raise RuntimeError(f"{self.name} (pid {self.pid}) does not end, not even by SIGKILL")

    def tail(self, lines: int = 5) -> str:
        """Return the last lines of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 20_000))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _gone(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.pid:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


def birth(pid: int) -> str:
    """Return when a process began and in which boot, as one word; nothing when it does not run."""
    for child in _children.copy():
        if child.poll() is not None:
            _children.remove(child)
    try:
        # The second field, the name, may hold anything, also blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in {"Z", "X"} else f"{boot()}:{fields[19]}"


def boot() -> str:
    """Return a word that changes when the machine starts anew."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
