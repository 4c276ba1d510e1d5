# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that believe to be on another host: forked, with a host name of their own (a UTS namespace).

What a run leaves behind on a host that is gone is told apart from what is left on this one by that name.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Self

from ansible.module_utils.rollbackctl import failpoints
from ansible.module_utils.rollbackctl.errors import RollbackError

CLONE_NEWUTS = 0x04000000
PATIENCE_SECONDS = 60.0


def become_host(name: str) -> None:
    """Give this process, and those that it starts, another host name."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    socket.sethostname(name)


class Worker:
    """A forked process at work. It says things with `say`, and hears things with `hear`; its result comes last."""

    def __init__(self, work: Callable[[Worker], Any], *, host: str = "", failpoint: str = "") -> None:
        """Start it. host: its host name, this machine's own without it. failpoint: as ROLLBACKCTL_FAILPOINT."""
        there, self._back = os.pipe(), os.pipe()
        self._out, self._in = there[1], self._back[0]
        self.pid = os.fork()
        if self.pid == 0:
            self._out, self._in = self._back[1], there[0]
            self._be(work, host, failpoint)
        os.close(there[0])
        os.close(self._back[1])
        self._rest = b""
        self._status: int | None = None

    def say(self, what: Any) -> None:
        """Send a JSON value to the other side."""
        os.write(self._out, json.dumps(what).encode() + b"\n")

    def hear(self, seconds: float = PATIENCE_SECONDS) -> Any:
        """Return the next JSON value from the other side."""
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"process {self.pid} said nothing for {seconds:g} s")
            piece = os.read(self._in, 65536)
            if not piece:
                raise EOFError(f"process {self.pid} has ended")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def result(self, seconds: float = PATIENCE_SECONDS) -> Any:
        """Return what the work returned, or the text of the error that ended it."""
        answer = self.hear(seconds)
        self.end()
        assert "crash" not in answer, answer["crash"]
        return answer.get("result", answer)

    def stop(self) -> None:
        """Freeze it."""
        self._send(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def kill(self) -> int:
        """Kill it, unless it has ended; return the signal that ended it."""
        self._send(signal.SIGKILL)
        return self.end()

    def end(self) -> int:
        """Wait for its end; return the signal that ended it."""
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
            os.close(self._out)
            os.close(self._in)
        return os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._status is None:
            self.kill()

    def _send(self, number: signal.Signals) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _be(self, work: Callable[[Worker], Any], host: str, failpoint: str) -> None:
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._rest, self._status = b"", None
            if host:
                become_host(host)
            os.environ.pop(failpoints.VARIABLE, None)
            if failpoint:
                os.environ[failpoints.VARIABLE] = failpoint
            try:
                answer = {"result": work(self)}
            except RollbackError as error:
                answer = {"error": type(error).__name__, "message": error.message, "next": error.next_step}
            except Exception:  # noqa: BLE001 - a test must see it
                answer = {"crash": traceback.format_exc()}
            self.say(answer)
        finally:
            os._exit(0)


@contextlib.contextmanager
def all_gone(*workers: Worker) -> Iterator[None]:
    """Kill what is left of several processes."""
    try:
        yield
    finally:
        for worker in workers:
            worker.__exit__()
