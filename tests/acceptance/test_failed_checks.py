# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs whose components all come back, while the service is not healthy: a check of the profile says no.

The shipped playbooks on the sample service. What must be as it was is looked at from outside.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from lab.sample.build import BAD
from lab.sample.profile import profile
from lab.sample.proof import Look, is_ahead
from tests.support.bench import ROOT, Bench, Ran, broken

# What the bad release consists of: only code, which level 1 puts back.
CODE: dict[str, Any] = {"settings": False, "files": False, "migration": ""}
INSIDE, OUTSIDE = ("health", "restarted", "orders"), ("order-page",)
# What says no, from where, and what it says.
FAILING = {
    "inside": ("health", {"status": "perfect"}, "health (inside) failed: status is 'ok', expected 'perfect'"),
    "outside": ("order-page", {"id": 2}, "order-page (outside) failed: id is 1, expected 2"),
}


def unhealthy(bench: Bench, view: str) -> Path:
    """Return the inventory in which a check of that view wants what the good release never answers."""
    name, answer, _ = FAILING[view]
    checks = profile(bench.sample)["rollback_checks"]
    changed = [{**one, "json": answer, "within": 0.5} if one["name"] == name else one for one in checks]
    return bench.profile(f"unhealthy-{view}", rollback_checks=changed)


def verdicts(ran: Ran) -> dict[str, bool]:
    """Return what each check said that was asked, by name."""
    return {check["name"]: check["ok"] for check in ran.record["services"]["shop"]["checks"]}


def expected(view: str) -> dict[str, bool]:
    """Return the verdicts: users' path is asked only when all is well from inside."""
    asked = INSIDE if view == "inside" else (*INSIDE, *OUTSIDE)
    return {name: name != FAILING[view][0] for name in asked}


def test_what_is_not_healthy_is_taken_back(tmp_path: Path) -> None:
    """It is as broken as before, with every order that was taken meanwhile."""
    bench = broken(tmp_path, **CODE)
    try:
        for view in FAILING:
            bench.sample.order(f"patient-{view}")
            before = Look.at(bench.sample)
            ran = bench.play("rollback-level1.yml", hosts=unhealthy(bench, view), rollback_reason="orders fail")
            assert (ran.code, ran.record["outcome"], ran.record["exit_code"]) == (2, "restored", 3), ran.output
            assert FAILING[view][2] in ran.said
            assert "It was put back to the state before the run. The service is wholly old" in ran.said
            assert verdicts(ran) == expected(view)
            bench.sample.wait(healthy=False, version=BAD)
            now = Look.at(bench.sample)
            assert (now.content(), now.orders, now.tree, now.health) == (
                before.content(), before.orders, before.tree, before.health
            )  # fmt: skip
            assert is_ahead(bench.sample, before.commit)
            assert ran.record["next"] == "rollbackctl plan 2 shop"
            done = bench.rollbackctl("plan", "2", "shop", "-i", str(bench.hosts))
            assert done.code == 0, done.output
    finally:
        bench.sample.remove()


def test_a_profile_without_a_check_says_so(tmp_path: Path) -> None:
    """What is read back is each component: the plan and the end say that nobody asks for more."""
    bench = broken(tmp_path, **CODE)
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
    bench = broken(tmp_path / "bench", **CODE)
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
