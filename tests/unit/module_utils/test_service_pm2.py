# SPDX-License-Identifier: GPL-3.0-or-later
"""pm2: what it answers, as recorded, and that nothing of it is started only to look.

In the place of its command stands one that notes how it was called; the daemon's socket is a real one.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.errors import Refused, StepFailed
from ansible.module_utils.rollbackctl.service import ServiceDriver, manager_of
from ansible.module_utils.rollbackctl.service_pm2 import Pm2, parse_pm2
from ansible.module_utils.rollbackctl.service_reading import FAILED, RUNNING, STARTING, STOPPED, STOPPING, Reading

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


@dataclass(frozen=True)
class Home:
    """A folder of pm2 and a command that notes how it was called."""

    folder: Path
    program: Path

    @property
    def options(self) -> dict[str, Any]:
        return {"pm2_home": str(self.folder), "pm2_program": str(self.program)}

    def calls(self) -> list[dict[str, Any]]:
        note = self.program.with_name("calls")
        return [json.loads(line) for line in note.read_text(encoding="utf-8").splitlines()] if note.exists() else []


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("pm2")
    program = folder / "bin" / "pm2"
    program.parent.mkdir()
    answer = PM2.replace("\n", " ")
    program.write_text(
        f"""#!{sys.executable}
import json, os, sys
with open({str(program.with_name("calls"))!r}, "a") as note:
    note.write(json.dumps({{"argv": sys.argv[1:], "uid": os.getuid(), "env": dict(os.environ)}}) + "\\n")
print({answer!r})
""",
        encoding="utf-8",
    )
    program.chmod(0o755)
    folder.chmod(0o755)
    return Home(folder, program)


@pytest.fixture
def daemon(home: Home) -> Iterator[None]:
    """A daemon's socket: somebody listens on it."""
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(home.folder / "rpc.sock"))
        line.listen()
        yield


def pm2(home: Home, **more: Any) -> Pm2:
    given = {"name": "web", "manager": "pm2", "program": "shop", "stop_timeout": 5, "start_timeout": 5}
    manager = manager_of({**given, **home.options, **more})
    assert isinstance(manager, Pm2)
    return manager


def test_looking_starts_no_daemon(home: Home) -> None:
    """`pm2 jlist` starts one when there is none: an empty one, which knows no application."""
    with pytest.raises(Refused, match=r"No daemon of pm2 answers in .*looking must not start one") as caught:
        pm2(home).read()
    assert caught.value.next_step.endswith(f"env PM2_HOME={home.folder} {home.program} resurrect")
    for tell in (pm2(home).stop, pm2(home).start):
        with pytest.raises(StepFailed, match="no daemon of pm2 answers"):
            tell()
    (home.folder / "pm2.pid").write_text("1", encoding="ascii")  # left behind by one that was killed
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(home.folder / "rpc.sock"))
    with pytest.raises(Refused, match="Connection refused"):
        pm2(home).read()
    assert home.calls() == []


def test_a_plan_names_the_missing_daemon(home: Home) -> None:
    options = {
        "name": "web", "manager": "pm2", "program": "shop", "stop_timeout": 5, "start_timeout": 5, "settle": 0,
        "fence": False, **home.options,
    }  # fmt: skip
    driver = ServiceDriver(options, Place(run="rb-1", work=None, reason=""))
    finding = driver.check(driver.resolve("running"), driver.resolve("running"))
    assert "No daemon of pm2 answers" in finding.problems[0]
    assert home.calls() == []


@pytest.mark.usefixtures("daemon")
def test_the_daemon_that_the_profile_names_is_asked_and_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PM2_HOME", "/somebody/else/s")
    monkeypatch.setenv("VAULT_PASSWORD", "canary-12")
    manager = pm2(home)
    assert manager.read().pids == (22631,)
    manager.stop()
    manager.start()
    calls = home.calls()
    assert [call["argv"] for call in calls] == [
        ["jlist", "--silent"],
        ["stop", "shop", "--silent"],
        ["start", "shop", "--silent"],
    ]
    for call in calls:
        assert call["env"]["PM2_HOME"] == str(home.folder)
        assert call["env"]["PATH"].startswith(f"{home.program.parent}:"), "node is beside pm2, where nvm installed both"
        assert "VAULT_PASSWORD" not in call["env"]


@pytest.mark.usefixtures("daemon")
def test_it_is_asked_as_its_own_user(home: Home) -> None:
    name = getpass.getuser()
    pm2(home, pm2_user=name).read()
    (call,) = home.calls()
    assert (call["uid"], call["env"]["USER"]) == (os.getuid(), name)
    with pytest.raises(Refused, match="there is no user 'no-such-user'"):
        pm2(home, pm2_user="no-such-user")


def test_its_folder_is_the_user_s_own_where_none_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PM2_HOME", str(home.folder))
    assert pm2(home, pm2_home=None).daemon.home == home.folder
    own = pm2(home, pm2_home=None, pm2_user=getpass.getuser()).daemon.home
    assert own == Path("~").expanduser() / ".pm2"


@pytest.mark.usefixtures("daemon")
def test_a_missing_command_is_refused(home: Home) -> None:
    home.program.unlink()
    with pytest.raises(Refused, match="pm2 cannot be run: No such file"):
        pm2(home).read()
