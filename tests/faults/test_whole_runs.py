# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the shipped level 3 playbook, whose controller or module is killed; another controller goes on.

The module is held at a failpoint while the controller is killed: both orders of dying are tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.durable import read_document
from ansible.module_utils.rollbackctl.journal import fence_is_closed
from ansible.module_utils.rollbackctl.store import DirectoryStore

from lab.sample.build import GOOD, create
from tests.faults import outside
from tests.faults.cases import ALL_FAILPOINTS, scenario_of
from tests.faults.conftest import THOROUGH
from tests.faults.shop import wait_for

LEASE_SECONDS = 15
RUN_SECONDS = 180
# How the run is hit while its module is held: the controller alone (its module goes on to the end of the phase), with
# all its process group, with the module; the controller asked to stop; the module alone.
HOW = ("controller", "group", "both", "term", "module")
SHORT = [
    ("fence.close.after", "both"),
    ("restore_sqlite.replace.after", "both"),
    ("restore_sqlite.replace.after", "term"),
    ("rollback_git.push.after", "group"),
    ("restore_files.exchange.before", "module"),
    ("restart_service.open.before", "controller"),
]
# Where the sample's level 3 run passes; its fence makes restarts and deploy commands unnecessary.
PASSED = [
    name
    for name in ALL_FAILPOINTS
    if scenario_of(name).name in {"data", "restore"} and not name.startswith("rollback_git.deploy.")
]
LONG = [(name, HOW[number % len(HOW)]) for number, name in enumerate(PASSED)]


class Stage:
    """The sample service in one fixed place, and controllers that roll it back."""

    def __init__(self, folder: Path, root: Path, env: dict[str, str], *, lease_seconds: int = LEASE_SECONDS) -> None:
        self.folder, self.root, self.env = folder, root, env
        self.sample = create(folder, name="shop", orders=50)
        self.inventory = self.sample.inventory(
            folder / "hosts",
            rollback_state={"kind": "directory", "path": str(self.sample.state), "lease_seconds": lease_seconds},
        )
        self.sample.start()
        done = self.play("checkpoint", "first").wait(RUN_SECONDS)
        assert done == 0, self.output("first")
        self.new = outside.read(self.sample)
        self.sample.deploy_bad()
        self.sample.stop()
        self.old = outside.read(self.sample)
        shutil.copytree(self.sample.root, folder / "template", symlinks=True)

    def set_up(self) -> None:
        """Put the broken service in place and start it."""
        self.sample.stop(gently=False)
        shutil.rmtree(self.sample.root)
        shutil.copytree(self.folder / "template", self.sample.root, symlinks=True)
        for name in ("first", "second"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.sample.start(healthy=False)

    def play(self, playbook: str, controller: str, failpoint: str = "", **extra: str) -> subprocess.Popen[bytes]:
        """Start a playbook as a controller of that name, which has nothing but the project and the inventory."""
        home = self.folder / controller
        (home / "records").mkdir(parents=True, exist_ok=True)
        env = {**self.env, "HOME": str(home), "ROLLBACKCTL_RECORDS": str(home / "records")}
        if failpoint:
            env["ROLLBACKCTL_FAILPOINT"] = failpoint
        argv = [str(self.root / ".venv/bin/ansible-playbook"), "-i", str(self.inventory), f"playbooks/{playbook}.yml"]
        argv += ["-l", "shop", "-e", json.dumps(extra)]
        with (home / "output").open("ab") as out:
            return subprocess.Popen(
                argv, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def roll_back(self, controller: str, failpoint: str = "", **extra: str) -> subprocess.Popen[bytes]:
        """Start the level 3 playbook."""
        since = {"rollback_accept_data_loss_since": "2000-01-01T00:00:00Z", "rollback_reason": "whole runs"}
        return self.play("rollback-level3", controller, failpoint, **since, **extra)

    def record(self, controller: str) -> dict[str, Any]:
        """Return the newest record of a controller."""
        found = sorted((self.folder / controller / "records").glob("*.json"), key=lambda path: path.stat().st_mtime)
        assert found, self.output(controller)
        document: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8"))
        return document

    def output(self, controller: str) -> str:
        return (self.folder / controller / "output").read_text(encoding="utf-8")

    def word(self) -> str:
        """Return whether the service is old, new or neither, after checking that nothing is broken."""
        now = outside.read(self.sample)
        wrong = outside.broken(now, self.old, self.new)
        assert not wrong, wrong
        return outside.word(outside.judge(now, self.old, self.new))

    def answers(self) -> bool:
        """Say whether anybody serves requests."""
        with contextlib.suppress(OSError):
            return self.sample.get("/health")[0] in {200, 500}
        return False


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Stage]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    env["ANSIBLE_CONFIG"] = str(root / "ansible.cfg")
    env["ANSIBLE_NOCOLOR"] = "1"
    made = Stage(tmp_path_factory.mktemp("whole"), root, env)
    yield made
    made.sample.remove()


@pytest.mark.parametrize(("failpoint", "how"), LONG if THOROUGH else SHORT)
def test_a_run_is_hit_and_a_second_controller_goes_on(
    stage: Stage, failpoint: str, how: str, table: list[tuple[str, ...]], tmp_path: Path
) -> None:
    stage.set_up()
    mark = tmp_path / "held"
    controller = stage.roll_back("first", f"{failpoint}:pause={mark}")
    module = int(wait_for(lambda: held(mark, controller), failpoint, RUN_SECONDS))
    hit(controller, module, how)
    mark.unlink()
    if how in {"term", "module"}:  # its controller lives, and ends the run by the rules
        wait_for(lambda: over(controller, mark), "the run to end", RUN_SECONDS)
        record = stage.record("first")
        assert record["outcome"] in {"restored", "refused", "resumable", "done"}, record["message"]
        fence = "opened by the run"
        read = stage.word()
        if record["outcome"] in {"restored", "refused"}:
            assert read == outside.OLD
        assert stage.answers() or record["outcome"] == "resumable"
    else:
        assert controller.wait(RUN_SECONDS) == -signal.SIGKILL
        record = stage.record("first")
        assert record["outcome"] == "interrupted"
        fence = watched(stage, record["run"])
        read = stage.word()
    again = go_on(stage, record)
    table.append((failpoint, how, "whole run", read, fence, f"{record['outcome']}, {again}"))


def held(mark: Path, controller: subprocess.Popen[bytes]) -> str:
    """Return the process id of the module that waits at the failpoint."""
    assert controller.poll() is None, "the run ended before it came to the failpoint"
    return mark.read_text(encoding="ascii") if mark.exists() else ""


def over(controller: subprocess.Popen[bytes], mark: Path) -> bool:
    """Say whether the run has ended; taking back may pass the same failpoint, and is not held."""
    mark.unlink(missing_ok=True)
    return controller.poll() is not None


def hit(controller: subprocess.Popen[bytes], module: int, how: str) -> None:
    if how in {"controller", "both"}:
        os.kill(controller.pid, signal.SIGKILL)
    if how == "group":
        os.killpg(controller.pid, signal.SIGKILL)
    if how == "term":
        os.kill(controller.pid, signal.SIGTERM)
    if how in {"both", "module"}:
        os.kill(module, signal.SIGKILL)


def watched(stage: Stage, run: str) -> str:
    """Wait for what the watchdog does once the lease has ended, and check it against the rule."""
    store = DirectoryStore(str(stage.sample.state))
    with store.locked(RUN_SECONDS):  # a module that went on has come to its end
        pass
    if not fence_is_closed(store.journal(run).events()):
        return "not closed"
    report = store.run_directory(run) / "watchdog.json"
    wait_for(report.exists, "the watchdog", LEASE_SECONDS + 60)
    with store.locked(RUN_SECONDS):
        pass
    said = read_document(report) or {}
    word = stage.word()
    assert said["opened"] == (word in {outside.OLD, outside.NEW}), (word, said)
    if said["opened"]:
        wait_for(stage.answers, "the service to answer")
        return f"opened, {word}"
    assert not stage.answers()
    assert f"rollbackctl resume {run}" in said["message"]
    return "kept closed"


def go_on(stage: Stage, record: dict[str, Any]) -> str:
    """Resume from another controller until the service is good and says so."""
    names = {} if record["outcome"] == "refused" else {"rollback_run": record["run"]}
    second = stage.roll_back("second", **names)
    code = second.wait(RUN_SECONDS)
    ended = stage.record("second")
    assert (code, ended["outcome"]) in {(0, "done"), (0, "already")}, ended["message"]
    assert ended["run"] == record["run"] or not names
    assert stage.word() == outside.NEW
    assert stage.sample.get("/health")[0] == 200
    assert stage.sample.get("/version")[1]["version"] == GOOD
    return str(ended["outcome"])
