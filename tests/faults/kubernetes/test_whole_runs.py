# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of the shipped playbooks for a service in Kubernetes, whose controller is killed at a random moment; a
second process goes on with the run.

Seeds are printed: FAULTS_SEED=<seed> repeats one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults.conftest import THOROUGH
from tests.faults.kubernetes import outside
from tests.faults.kubernetes.cases import Case
from tests.faults.kubernetes.scenes import Bench, Stage, scene_called
from tests.faults.shop import wait_for
from tests.support.kube_service import BAD, GOOD

SEED = os.environ.get("FAULTS_SEED", "")
ROUNDS = 12 if THOROUGH else 3
RUN_SECONDS = 240
LEASE_SECONDS = 20
# Who is hit: the controller alone, all its process group, the controller politely.
HOW = ("controller", "group", "term")
PLAYBOOKS = {"undo": "rollback-level1", "configuration": "rollback-level2"}
Table = list[tuple[str, ...]]


class Controllers:
    """Controllers that roll a stage's service back; each has nothing but the project and the inventory."""

    def __init__(self, stage: Stage, folder: Path, root: Path, env: dict[str, str]) -> None:
        self.stage, self.folder, self.root, self.env = stage, folder, root, env
        self.playbook = PLAYBOOKS[stage.scene.name]
        state = {key: value for key, value in stage.service.state.items() if key != "service"}
        host: dict[str, Any] = {
            "ansible_connection": "local",
            "rollback_service": {"name": "shop", "environment": "demo"},
            "rollback_state": {**state, "lease_seconds": LEASE_SECONDS},
            "rollback_soak_seconds": 0,
        }
        host.update({role: [dict(options)] for role, options in stage.scene.components})
        self.inventory = folder / "hosts.yml"
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": {"shop": host}}}), encoding="utf-8")

    def start(self, name: str, **extra: object) -> subprocess.Popen[bytes]:
        """Start the playbook as a controller of that name."""
        home = self.folder / name
        (home / "records").mkdir(parents=True)
        env = {**self.env, "HOME": str(home), "ROLLBACKCTL_RECORDS": str(home / "records")}
        extra = {"rollback_reason": "whole runs", **extra}
        argv = [str(self.root / ".venv/bin/ansible-playbook"), "-i", str(self.inventory)]
        argv += [f"playbooks/{self.playbook}.yml", "-l", "shop", "-e", json.dumps(extra)]
        with (home / "output").open("ab") as out:
            return subprocess.Popen(
                argv, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def record(self, name: str) -> dict[str, Any]:
        """Return the record of a controller; empty when it was killed before it began one."""
        found = list((self.folder / name / "records").glob("*.json"))
        return dict(json.loads(found[0].read_text(encoding="utf-8"))) if found else {}

    def output(self, name: str) -> str:
        return (self.folder / name / "output").read_text(encoding="utf-8")

    def left(self, name: str) -> list[int]:
        """Return the processes that a controller has left behind."""
        mark = f"ROLLBACKCTL_RECORDS={self.folder / name / 'records'}".encode()
        found = []
        for place in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in place.read_bytes():
                    found.append(int(place.parent.name))
        return found


@pytest.fixture(scope="module", params=list(PLAYBOOKS) if THOROUGH else ["undo"])
def controllers(
    request: pytest.FixtureRequest, kube_bench: Bench, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Controllers:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    env.update(ANSIBLE_CONFIG=str(root / "ansible.cfg"), ANSIBLE_NOCOLOR="1")
    stage = kube_bench.fresh(scene_called(request.param))
    return Controllers(stage, tmp_path_factory.mktemp("controllers"), root, env)


@pytest.mark.timeout(3600)
def test_a_controller_is_killed_at_a_random_moment(controllers: Controllers, table: Table) -> None:
    case = Case(controllers.stage)
    began = time.monotonic()
    assert controllers.start("usual").wait(RUN_SECONDS) == 0, controllers.output("usual")
    usual = time.monotonic() - began
    case.ended_as(outside.NEW)
    case.stage.ended(controllers.record("usual")["run"])
    for seed in [int(SEED)] if SEED else range(1, ROUNDS + 1):
        table.append(one_round(controllers, seed, usual))


def test_what_fails_is_held_where_that_is_asked_for(controllers: Controllers) -> None:
    """K11: nothing is taken back, the pods of the former version go on serving, and a person decides later."""
    case = Case(controllers.stage)
    missing = f"{case.service.lab.image(GOOD).rpartition(':')[0]}:none"
    held = controllers.start("held", rollback_on_failure="hold", rollback_to={"api": f"image:{missing}"})
    assert held.wait(RUN_SECONDS) != 0
    record = controllers.record("held")
    assert record["outcome"] == "resumable", controllers.output("held")
    assert missing in record["message"]
    assert case.service.get()["spec"]["template"]["spec"]["containers"][0]["image"] == missing
    assert outside.answer(case.service)["version"] == BAD
    case.take_back(record["run"])


def one_round(controllers: Controllers, seed: int, usual: float) -> tuple[str, ...]:
    """Break the service, kill whoever puts it back, and have another one go on."""
    dice = random.Random(seed)
    case = Case(controllers.stage)
    how, moment = HOW[seed % len(HOW)], dice.uniform(0.2, 0.9) * usual
    print(f"seed {seed}: {how} after {moment:.2f} s of {usual:.2f} s", flush=True)
    first, second = f"first-{seed}", f"second-{seed}"
    controller = controllers.start(first)
    with contextlib.suppress(subprocess.TimeoutExpired):
        controller.wait(moment)
    hit(controller, how)
    code = controller.wait(RUN_SECONDS)
    wait_for(lambda: not controllers.left(first), "the workers of a controller that is gone", 10.0)
    record = controllers.record(first)
    run, word = str(record.get("run", "")), str(record.get("outcome", "no record"))
    parts = case.parts()
    begun = bool(run) and case.store.read_plan(run) is not None
    if code == -signal.SIGKILL and record:
        assert word in {"interrupted", "done", "already"}, record
    if begun and word == "interrupted":
        assert case.store.journal(run).events()[-1]["event"] != "finished"
    if word == "restored":
        assert set(parts.values()) == {outside.OLD}
    extra = {"rollback_run": run} if begun else {}
    if run and not begun:
        case.lose_controller(run)  # it never came to a plan: whoever begins anew waits for the end of its lease
    assert controllers.start(second, **extra).wait(RUN_SECONDS) == 0, controllers.output(second)
    ended = controllers.record(second)
    assert ended["outcome"] in {"done", "already"}, ended["message"]
    assert not begun or ended["run"] == run
    case.ended_as(outside.NEW)
    case.stage.ended(ended["run"])
    return (
        f"{controllers.playbook}, {how}",
        "kill",
        f"{moment:.1f} s",
        outside.word(parts),
        "",
        f"{word}, {ended['outcome']}",
    )


def hit(controller: subprocess.Popen[bytes], how: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        if how == "group":
            os.killpg(controller.pid, signal.SIGKILL)
        else:
            os.kill(controller.pid, signal.SIGKILL if how == "controller" else signal.SIGTERM)
