# SPDX-License-Identifier: GPL-3.0-or-later
"""A program at a real terminal of 80 columns, and somebody who reads what it says and answers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PATIENCE_SECONDS = 600.0
_DRIVES_A_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\r")


class Terminal:
    """A program that runs at a terminal; leaving the block waits for its end."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, columns: int = 80) -> None:
        """Start it."""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._raw = b""
        self._process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**env, "TERM": "xterm"},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """All it wrote until now, without what drives a terminal."""
        return _DRIVES_A_TERMINAL.sub("", self._raw.decode(errors="replace"))

    def until(self, words: str) -> str:
        """Read until it has said these words; return all it wrote until then."""
        end = time.monotonic() + PATIENCE_SECONDS
        while words not in self.text:
            if not self._read(end):
                raise AssertionError(f"it never said {words!r}:\n{self.text}")
        return self.text

    def answer(self, words: str) -> None:
        """Type a line."""
        os.write(self._ours, f"{words}\n".encode())

    def end(self) -> int:
        """Read to the end; return the exit code."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._read(end):
            pass
        try:
            return self._process.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"it did not end:\n{self.text}") from None

    def _read(self, end: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, end - time.monotonic()))[0]:
            return False
        part = b""
        with contextlib.suppress(OSError):  # EIO: everybody at the other end is gone
            part = os.read(self._ours, 65536)
        self._raw += part
        return bool(part)
