# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs whose components all come back, while the service is not healthy: a check of the profile says no.

The shipped playbooks on the sample service. What must be as it was is looked at from outside.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.store import DirectoryStore

from lab.sample.build import BAD, GOOD
from lab.sample.profile import profile
from lab.sample.proof import Look, is_ahead
from tests.support.bench import ROOT, Bench, Ran, broken

LEVELS: dict[int, dict[str, Any]] = {1: {"settings": False, "files": False, "migration": ""}, 3: {}}
# Several runs a test, on a machine that may be busy.
pytestmark = pytest.mark.timeout(1200)
INSIDE, OUTSIDE = ("health", "restarted", "orders"), ("order-page",)
# What says no, from where, and what it says.
FAILING = {
    "inside": ("health", {"status": "perfect"}, "health (inside) failed: status is 'ok', expected 'perfect'"),
    "outside": ("order-page", {"id": 2}, "order-page (outside) failed: id is 1, expected 2"),
}


# At level 3 all checks are asked in one go, behind the open fence: one view each is enough.
TAKEN_BACK = {1: ("inside", "outside"), 3: ("outside",)}
HELD = {1: ("inside", "outside"), 3: ("inside",)}


def unhealthy(bench: Bench, view: str) -> Path:
    """Return the inventory in which a check of that view wants what the good release never answers."""
    name, answer, _ = FAILING[view]
    checks = profile(bench.sample)["rollback_checks"]
    changed = [{**one, "json": answer, "within": 0.5} if one["name"] == name else one for one in checks]
    return bench.profile(f"unhealthy-{view}", rollback_checks=changed)


def roll_back(bench: Bench, level: int, hosts: Path, on_failure: str, **more: Any) -> Ran:
    loss = {"rollback_accept_data_loss_since": bench.taken} if level == 3 else {}
    values = {"rollback_reason": "orders fail", "rollback_on_failure": on_failure, **loss}
    return bench.play(f"rollback-level{level}.yml", hosts=hosts, **values, **more)


def verdicts(ran: Ran) -> dict[str, bool]:
    """Return what each check said that was asked, by name."""
    return {check["name"]: check["ok"] for check in ran.record["services"]["shop"]["checks"]}


def fence(bench: Bench, ran: Ran) -> list[str]:
    """Return what the run's own journal says of the fence."""
    events = DirectoryStore(str(bench.sample.state)).journal(str(ran.record["run"])).events()
    return [event["event"] for event in events if event["event"] in {"fence-closing", "fence-opened"}]


def expected(level: int, view: str) -> dict[str, bool]:
    """Return the verdicts: behind a fence all checks are asked once it is open, else those from inside before."""
    asked = INSIDE if level == 1 and view == "inside" else (*INSIDE, *OUTSIDE)
    return {name: name != FAILING[view][0] for name in asked}


@pytest.mark.parametrize("level", TAKEN_BACK)
def test_what_is_not_healthy_is_taken_back(level: int, tmp_path: Path) -> None:
    """It is as broken as before, with every order that was taken meanwhile, and the fence is open."""
    bench = broken(tmp_path, **LEVELS[level])
    try:
        for view in TAKEN_BACK[level]:
            bench.sample.order(f"patient-{view}")
            before = Look.at(bench.sample)
            ran = roll_back(bench, level, unhealthy(bench, view), "restore")
            assert (ran.code, ran.record["outcome"], ran.record["exit_code"]) == (2, "restored", 3), ran.output
            assert FAILING[view][2] in ran.said
            assert "It was put back to the state before the run. The service is wholly old" in ran.said
            assert verdicts(ran) == expected(level, view)
            assert fence(bench, ran) == ["fence-closing", "fence-opened"] * (2 if level == 3 else 0)
            bench.sample.wait(healthy=False, version=BAD)
            now = Look.at(bench.sample)
            assert (now.content(), now.orders, now.tree, now.health) == (
                before.content(), before.orders, before.tree, before.health
            )  # fmt: skip
            assert is_ahead(bench.sample, before.commit)
            following = shlex.split(ran.record["next"])
            assert following[:2] == (["rollbackctl", "plan"] if level == 1 else ["rollbackctl", "report"])
            done = bench.rollbackctl(*following[1:], *(["-i", str(bench.hosts)] if level == 1 else []))
            assert done.code == 0, done.output
    finally:
        bench.sample.remove()


def test_why_nothing_was_taken_back_is_said(tmp_path: Path) -> None:
    """A customer orders while the checks are asked: going back would throw that away."""
    bench = broken(tmp_path)
    try:
        url, order = f"{bench.sample.url}/orders", '{"customer": "meanwhile", "cents": 100}'
        buys = [sys.executable, "-c", f"import urllib.request as u; u.urlopen({url!r}, {order.encode()!r}); exit(1)"]
        checks = [*profile(bench.sample)["rollback_checks"], {"name": "buys", "kind": "command", "argv": buys}]
        ran = roll_back(bench, 3, bench.profile("buys", rollback_checks=checks), "restore")
        assert (ran.code, ran.record["outcome"]) == (2, "resumable"), ran.output
        assert "nothing automatic throws such writes away. Nothing was taken back." in ran.record["message"]
        assert Look.at(bench.sample).health == [200, GOOD]
    finally:
        bench.sample.remove()


@pytest.mark.parametrize("level", HELD)
def test_what_is_not_healthy_is_held_where_that_is_asked_for(level: int, tmp_path: Path) -> None:
    """It is at its target and serves; when the check holds, the command that was named ends the run."""
    bench = broken(tmp_path, **LEVELS[level])
    try:
        for view in HELD[level]:
            before = Look.at(bench.sample)
            ran = roll_back(bench, level, unhealthy(bench, view), "hold")
            assert (ran.code, ran.record["outcome"], ran.record["exit_code"]) == (2, "resumable", 4), ran.output
            assert FAILING[view][2] in ran.said
            assert "The service is wholly new" in ran.said
            assert "The fence is open" in ran.said
            assert verdicts(ran) == expected(level, view)
            assert fence(bench, ran) == ["fence-closing", "fence-opened"] * (level == 3)
            held = Look.at(bench.sample)
            assert held.health == [200, GOOD]
            assert is_ahead(bench.sample, before.commit)
            following, *_, back = ran.record["next"].splitlines()
            assert following == f"rollbackctl resume {ran.record['run']}"
            assert back == f"rollbackctl undo {ran.record['run']}"
            resumed = bench.rollbackctl(*following.split()[1:], "-i", str(bench.hosts))
            assert (resumed.code, resumed.record["outcome"]) == (0, "done"), resumed.output
            assert verdicts(resumed) == dict.fromkeys((*INSIDE, *OUTSIDE), True)
            now = Look.at(bench.sample)
            assert (now.content(), now.orders, now.tree) == (held.content(), held.orders, held.tree)
            bench.sample.deploy_bad(**LEVELS[level])
    finally:
        bench.sample.remove()


def test_a_profile_without_a_check_says_so(tmp_path: Path) -> None:
    """What is read back is each component: the plan and the end say that nobody asks for more."""
    bench = broken(tmp_path, **LEVELS[1])
    try:
        hosts = bench.profile("unchecked", rollback_checks=[])
        ran = bench.play("rollback-level1.yml", hosts=hosts, rollback_reason="orders fail")
        assert (ran.code, ran.record["outcome"]) == (0, "done"), ran.output
        said = "No check of the service was named (rollback_checks)"
        assert any(note.startswith(said) for note in ran.record["services"]["shop"]["plan"]["notes"])
        assert ran.record["message"].startswith(said)
        plan, end = ran.output.split("TASK [Stage")
        assert said in plan
        assert f"but      {said}" in end
        told = bench.rollbackctl("report", ran.record["run"])
        assert said in told.output
    finally:
        bench.sample.remove()


def test_without_its_checks_a_run_is_not_done(tmp_path: Path) -> None:
    """All components came back, and somebody took the checks out of the phases: nobody knows whether it is healthy."""
    bench = broken(tmp_path / "bench", **LEVELS[1])
    try:
        for name in ("roles", "plugins", "library"):
            (tmp_path / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "playbooks", tmp_path / "playbooks", symlinks=True)
        path = tmp_path / "playbooks" / "tasks" / "run.yml"
        phases = yaml.safe_load(path.read_text(encoding="utf-8"))
        for block in phases:
            tasks = block.get("block", [])
            tasks[:] = [task for task in tasks if "run_verify" not in str(task)]
        path.write_text(yaml.safe_dump(phases, sort_keys=False), encoding="utf-8")
        ran = bench.play(str(tmp_path / "playbooks" / "rollback-level1.yml"), rollback_reason="orders fail")
        assert verdicts(ran) == {}
        assert (ran.code, ran.record["outcome"]) == (2, "resumable"), ran.output
        assert "Nobody asked these checks of the profile, so nothing is proven: health, restarted" in ran.said
        assert ran.record["next"].startswith(f"rollbackctl resume {ran.record['run']}")
    finally:
        bench.sample.remove()
