# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd and pm2 answer, and how processes are told apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.service_managers import Pm2, Systemd, output_of, parse_pm2, parse_systemd
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


# What `pm2 jlist --silent` of pm2 7.0.4 printed for an application that ran and one that had ended with code 3 too
# often, most keys left out and paths shortened; each process comes with its whole environment, secrets included.
PM2 = """\
[{"pid": 22631, "name": "shop", "pm2_env": {"status": "online", "pm_uptime": 1795253120348, "restart_time": 0,
"pm_err_log_path": "/srv/pm2/logs/shop-error.log", "env": {"SHOP_API_KEY": "canary-11"}}, "pm_id": 0, "monit": {}},
{"pid": 0, "name": "broken", "pm2_env": {"status": "errored", "pm_uptime": 1795253120519, "restart_time": 0,
"exit_code": 3, "pm_err_log_path": "/srv/pm2/logs/broken-error.log"}, "pm_id": 1, "monit": {"memory": 0, "cpu": 0}}]
"""
# Written after pm2's source (lib/Satan.js prints it when the daemon is older than the command).
OUT_OF_DATE = "\n>>>> In-memory PM2 is out-of-date, do:\n>>>> $ pm2 update\nIn memory PM2 version: 5.3.0\n\n"


@pytest.mark.parametrize("before", ["", OUT_OF_DATE])
def test_pm2_7_0_4_list_as_recorded_2026_11_21(before: str) -> None:
    reading = parse_pm2("shop", before + PM2)
    assert reading == Reading(RUNNING, (22631,), "1795253120348:22631", "/srv/pm2/logs/shop-error.log")
    assert "canary-11" not in repr(reading)
    assert parse_pm2("broken", before + PM2) == Reading(FAILED, (), "", "/srv/pm2/logs/broken-error.log")


@pytest.mark.parametrize(
    ("status", "state"),
    [("online", RUNNING), ("waiting restart", STARTING), ("stopping", STOPPING), ("stopped", STOPPED), ("???", FAILED)],
)
def test_pm2_worst_of_several_processes_speaks_as_documented_not_run_here(status: str, state: str) -> None:
    reading = parse_pm2("shop", PM2.replace("errored", status).replace("broken", "shop"))
    assert reading.state == state
    assert reading.pids == (22631,)


def test_pm2_unknown_application_is_refused_with_those_there_are() -> None:
    with pytest.raises(Refused, match=r"no application 'web'\. Known: broken, shop"):
        parse_pm2("web", PM2)
    with pytest.raises(Refused, match="Known: none"):
        parse_pm2("web", "[]")


def test_pm2_garbage_is_refused_without_quoting_it() -> None:
    with pytest.raises(Refused) as caught:
        parse_pm2("shop", '[{"SHOP_API_KEY":"canary-11"')
    assert "canary-11" not in caught.value.message


def test_a_missing_manager_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="systemctl cannot be run: No such file"):
        Systemd("shop.service", 1).read()
    with pytest.raises(Refused, match="pm2 cannot be run: No such file"):
        Pm2("shop", 1).read()


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
