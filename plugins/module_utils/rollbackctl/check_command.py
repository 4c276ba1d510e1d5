# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `command`: a program's exit code and output; what it made is cleaned up, what it started is ended.

The clean-up runs after every try, also after one that failed or ran too long. Nothing outlives a try: its process group
is killed, and whatever left that group is found by a mark in its environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from .check_model import Context, Sample, bad, clip, empty_problems, good, shown, text_map_problem, unverified

KEYS = frozenset({"argv", "rc", "stdout_contains", "cleanup", "environment", "chdir"})
REQUIRED: tuple[str, ...] = ("argv",)
OUTPUT_LIMIT = 1024 * 1024
STDERR_LIMIT = 64 * 1024
LAST_WORDS = 160
MARK = "ROLLBACKCTL_CHECK"
# What the caller's environment holds besides is none of the command's business (it may be the vault's password).
INHERITED = ("HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "USER")
_POLL_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class _Ended:
    rc: int | None  # None: it ran too long and was killed
    stdout: bytes
    stderr: bytes
    left_running: int

    def last_words(self) -> str:
        """Return the last line it wrote."""
        return last_words(self.stdout, self.stderr)


def last_words(stdout: bytes, stderr: bytes) -> str:
    """Return the last line that a program wrote, to stderr if there is one, for a message."""
    words = stderr.strip() or stdout.strip()
    if len(words) >= STDERR_LIMIT:  # It may begin in the middle of a secret, which would not be recognised.
        words = words.partition(b"\n")[2]
    lines = words.decode("utf-8", "replace").splitlines()
    return f": {clip(lines[-1].strip(), LAST_WORDS)}" if lines else ""


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence that shows no secret."""
    found = []
    for key in ("argv", "cleanup"):
        words = options.get(key)
        if words is not None and (not words or not words[0] or any("\0" in word for word in words)):
            found.append(f"`{key}` must be a list: the program, then each of its arguments")
    found += empty_problems(options, "stdout_contains")
    if problem := text_map_problem("environment", options.get("environment", {})):
        found.append(problem)
    if "chdir" in options and not os.path.isabs(options["chdir"]):
        found.append("`chdir` must be an absolute path")
    return found


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Run the command, then its clean-up, timeout seconds each."""
    if context.check_mode:
        return Sample(ok=False, text="not run, because this is check mode", unverified=True, final=True)
    verdict = _try(options, timeout)
    if "cleanup" not in options:
        return verdict
    cleaned = _clean_up(options, timeout)
    return Sample(ok=False, text=f"{cleaned}. The check before it: {verdict.text}", final=True) if cleaned else verdict


def _try(options: Mapping[str, Any], timeout: float) -> Sample:
    argv = options["argv"]
    try:
        ended = _run(argv, options, timeout)
    except OSError as exc:
        return unverified(f"{shown(exc.filename or argv[0])} cannot be run: {exc.strerror}")
    wanted = int(options.get("rc", 0))
    if ended.rc is None:
        return bad(f"did not end within {timeout:g} s; it and all it started were killed{ended.last_words()}")
    if ended.rc != wanted:
        return bad(f"exit code {ended.rc}, expected {wanted}{ended.last_words()}")
    if "stdout_contains" in options and options["stdout_contains"].encode() not in ended.stdout:
        return bad(f"exit code {ended.rc}, but its output lacks {shown(options['stdout_contains'])}")
    more = f"; {ended.left_running} processes it left behind were ended" if ended.left_running else ""
    return good(f"exit code {ended.rc}{more}")


def _clean_up(options: Mapping[str, Any], timeout: float) -> str:
    """Return why the clean-up failed, or an empty string."""
    try:
        ended = _run(options["cleanup"], options, timeout)
    except OSError as exc:
        why = f"{shown(exc.filename or options['cleanup'][0])} cannot be run: {exc.strerror}"
    else:
        if ended.rc == 0:
            return ""
        why = f"exit code {ended.rc}" if ended.rc is not None else f"not done within {timeout:g} s"
        why += ended.last_words()
    return f"the clean-up failed, so what the check created may still be there; remove it by hand ({why})"


def _run(argv: list[str], options: Mapping[str, Any], timeout: float) -> _Ended:
    """Run argv to its end, or for timeout seconds; then kill all that it started.

    :raises OSError: it could not be started.
    """
    mark = secrets.token_hex(8)
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment.update(options.get("environment", {}))
    environment[MARK] = mark
    process = subprocess.Popen(
        argv,
        cwd=options.get("chdir", "/"),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    with process, selectors.DefaultSelector() as pipes:
        left = 0
        try:
            for name in output:
                pipe: IO[bytes] = getattr(process, name)
                os.set_blocking(pipe.fileno(), False)
                pipes.register(pipe, selectors.EVENT_READ, name)
            ended = _watch(process, pipes, output, time.monotonic() + timeout)
        finally:
            # The leader is not reaped yet, so its group's number cannot have been given to somebody else.
            left = _kill_all(process.pid, mark)
        _drain(pipes, output, 0)
    return _Ended(process.returncode if ended else None, output["stdout"], output["stderr"], left)


def _watch(
    process: subprocess.Popen[bytes],
    pipes: selectors.DefaultSelector,
    output: dict[str, bytes],
    deadline: float,
) -> bool:
    """Collect output until the process has ended (without reaping it); return false when the deadline came first."""
    while time.monotonic() < deadline:
        _drain(pipes, output, min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
    return False


def _drain(pipes: selectors.DefaultSelector, output: dict[str, bytes], patience: float) -> None:
    if not pipes.get_map():
        time.sleep(patience)
        return
    ready = pipes.select(patience)
    while ready:
        for key, _ in ready:
            chunk = os.read(key.fd, 65536)
            if not chunk:
                pipes.unregister(key.fileobj)
            elif key.data == "stdout":
                output["stdout"] = (output["stdout"] + chunk)[:OUTPUT_LIMIT]
            else:
                output["stderr"] = (output["stderr"] + chunk)[-STDERR_LIMIT:]
        ready = pipes.select(0) if patience == 0 and pipes.get_map() else []


def _kill_all(group: int, mark: str) -> int:
    """Kill a process group and whatever carries the mark; return how many of those had left the group."""
    os.killpg(group, signal.SIGKILL)
    wanted = f"{MARK}={mark}".encode()
    for rounds in range(5):  # one that forks while it is looked for shows up in the next round
        strays = [pid for pid in _marked(wanted) if pid != group]
        for pid in strays:
            # It may have ended by itself meanwhile, or gained rights that this user cannot signal.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not strays:
            return rounds
        time.sleep(0.005)
    return len(strays)


def _marked(wanted: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # Gone, or another user's.
    return found
