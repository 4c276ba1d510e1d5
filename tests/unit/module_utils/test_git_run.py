# SPDX-License-Identifier: GPL-3.0-or-later
"""rollback_git as a component of a service: checkpoint, rollback, undo in a run of its own, finalize."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN, Service, statuses
from tests.unit.module_utils.git_lab import Lab, commit, git


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


def service(lab: Lab) -> Service:
    component = {"name": "code", "repository": str(lab.server), "branch": "main", "remote": "origin"}
    deploy = ["sh", "-c", f"cp app {lab.folder}/deployed"]
    return Service(lab.folder, {"rollback_git": [{**component, "work_tree": "update", "deploy": deploy}]})


def test_from_a_named_commit_through_undo_to_finalize(lab: Lab) -> None:
    shop = service(lab)
    plan = shop.begin(rollback_to={"code": "v1.4"})
    assert plan["entries"][0]["action"] == "change"
    shop.go("stage", "capture", "rollback", "verify")
    assert shop.finish()["outcome"] == "done"
    assert (lab.folder / "deployed").read_text() == "v1\n"
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.good)

    shop.open("undo", OTHER_RUN, rollback_run=RUN)
    assert shop.plan()["problems"] == []
    shop.go("stage", "capture", "rollback", "verify")
    assert shop.finish()["outcome"] == "done"
    assert (lab.folder / "deployed").read_text() == "v2\n"
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.bad)
    assert git(lab.shared, "rev-list", "--count", f"{lab.bad}..main") == "2", "undo goes forward too"

    shop.open("finalize", "fi-20261121-120000-0002", rollback_run=RUN)
    result = shop.phase("finalize")
    assert statuses(result) == {"code": "changed"}
    assert "refs/rollbackctl/kept" in result["rollbackctl"]["steps"][0]["text"]


def test_a_second_rollback_changes_nothing(lab: Lab) -> None:
    shop = service(lab)
    for run in (RUN, OTHER_RUN):
        shop.open("rollback", run, rollback_to={"code": lab.good})
        shop.plan(rollback_to={"code": lab.good})
        shop.go("stage", "capture", "rollback", "verify")
        outcome = shop.finish()["outcome"]
    assert outcome == "already"
    assert git(lab.shared, "rev-list", "--count", f"{lab.bad}..main") == "1"


def test_a_failed_deploy_is_taken_back_and_deployed(lab: Lab) -> None:
    shop = service(lab)
    shop.components["rollback_git"][0]["deploy"] = ["sh", "-c", f"cp app {lab.folder}/deployed; grep -q v2 app"]
    shop.begin(rollback_to={"code": lab.good})
    shop.go("stage", "capture")
    assert "exit code 1" in shop.phase("rollback")["msg"]
    shop.go("undo")
    assert (lab.folder / "deployed").read_text() == "v2\n"
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.bad)
    assert git(lab.server, "status", "--porcelain") == ""


def test_somebody_who_pushes_after_the_plan_stops_the_run(lab: Lab) -> None:
    shop = service(lab)
    shop.begin(rollback_to={"code": lab.good})
    theirs = commit(lab.colleague, "Colleague's fix", app="v3\n")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    assert "Somebody else changed it" in shop.phase("rollback")["msg"]
    assert lab.head() == theirs


def test_a_wrong_profile_is_this_component_s_problem(lab: Lab) -> None:
    shop = service(lab)
    shop.components["rollback_git"][0]["repository"] = "/nowhere"
    shop.open(rollback_to={"code": lab.good})
    result = shop.phase("preflight")
    assert "/nowhere" in str(result["rollbackctl"]["proposals"][0]["finding"]["problems"])
