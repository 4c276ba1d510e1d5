# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd answers, and how processes are told apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.service_managers import Systemd, output_of, parse_systemd
from ansible.module_utils.rollbackctl.service_reading import (
    FAILED,
    RUNNING,
    STARTING,
    STOPPED,
    STOPPING,
    Reading,
    alive,
    family,
    process_key,
    start_ticks,
    started_at,
)

# Written after systemctl(1) of systemd 252 and the D-Bus properties in org.freedesktop.systemd1(5).
SHOW = "LoadState=loaded\nActiveState={active}\nSubState={sub}\nMainPID={pid}\nInvocationID={run}\n"
RUN = "3f0c4d3bb2a04a1c9d0a2b6d0b7a9f11"


@pytest.mark.parametrize(
    ("active", "sub", "pid", "run", "expected"),
    [
        ("active", "running", 812, RUN, Reading(RUNNING, (812,), RUN, "journalctl --unit=shop.service")),
        ("active", "exited", 0, RUN, Reading(RUNNING, (), RUN, "journalctl --unit=shop.service")),
        ("activating", "auto-restart", 0, RUN, Reading(STARTING, (), RUN, "journalctl --unit=shop.service")),
        ("deactivating", "stop-sigterm", 812, RUN, Reading(STOPPING, (812,), "", "journalctl --unit=shop.service")),
        ("inactive", "dead", 0, "", Reading(STOPPED, (), "", "journalctl --unit=shop.service")),
        ("failed", "failed", 0, RUN, Reading(FAILED, (), "", "journalctl --unit=shop.service")),
    ],
)
def test_systemd_252_show_as_documented_not_run_here(
    active: str, sub: str, pid: int, run: str, expected: Reading
) -> None:
    assert parse_systemd("shop.service", SHOW.format(active=active, sub=sub, pid=pid, run=run)) == expected


@pytest.mark.parametrize("text", ["LoadState=not-found\nActiveState=inactive\nMainPID=0\n", "LoadState=masked\n", ""])
def test_systemd_252_unusable_unit_as_documented_not_run_here(text: str) -> None:
    with pytest.raises(Refused, match=r"no usable unit 'shop\.service'"):
        parse_systemd("shop.service", text)


def test_a_missing_manager_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="systemctl cannot be run: No such file"):
        Systemd("shop.service", 1).read()


def test_a_failing_read_is_refused_without_its_output() -> None:
    with pytest.raises(Refused, match="ended with exit code 4") as caught:
        output_of([sys.executable, "-c", "print('canary-11'); raise SystemExit(4)"])
    assert "canary-11" not in caught.value.message.partition(" -c ")[0]


def test_a_process_is_named_by_its_start() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key = process_key(process.pid)
        assert alive(key)
        assert not alive(f"1:{process.pid}")  # the same number, another process
        assert started_at(process.pid).startswith("20")
        assert key in family((os.getpid(),))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert start_ticks(process.pid) is None  # a zombie holds nothing open
        assert not alive(key)
    assert process_key(process.pid) == ""
    assert not alive("")
    assert started_at(process.pid) == ""
