# SPDX-License-Identifier: GPL-3.0-or-later
"""Failpoints do what they are told, where they are told, and nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.failpoints import VARIABLE, failpoint


def child(action: str) -> int:
    """Reach a failpoint in a process of its own; return how that ended (minus the signal, as subprocess says it)."""
    pid = os.fork()
    if pid == 0:
        os.environ[VARIABLE] = f"role.step.before:{action}"
        failpoint("role.step.before")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("action", "ended"), [("kill", -signal.SIGKILL), ("term", -signal.SIGTERM)])
def test_signals(action: str, ended: int) -> None:
    assert child(action) == ended


def test_another_place_and_no_variable_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    failpoint("role.step.before")
    monkeypatch.setenv(VARIABLE, "role.step.before:kill")
    failpoint("role.step.after")
    failpoint("role.step.before.more")


def test_fail_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "role.step.before:fail")
    with pytest.raises(OSError, match="failpoint"):
        failpoint("role.step.before")


def test_pause_waits_until_the_mark_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv(VARIABLE, f"role.step.before:pause={mark}")
    thread = threading.Thread(target=failpoint, args=("role.step.before",))
    thread.start()
    limit = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    assert mark.exists()
    assert thread.is_alive()
    mark.unlink()
    thread.join(30)
    assert not thread.is_alive()
