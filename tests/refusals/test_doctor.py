# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor asks the services: what an incident's run would stumble over is said while there is none, all at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.sample.profile import profile
from tests.support.bench import Bench, Ran, tree, unchanged


def doctor(bench: Bench, hosts: Path) -> Ran:
    before = tree(bench.sample.state)
    ran = bench.rollbackctl("doctor", "shop", "--inventory", str(hosts))
    assert tree(bench.sample.state) == before  # nothing is written, no lease is taken
    assert ran.record == {}
    unchanged(bench)
    return ran


def test_a_service_that_could_be_put_back(bench: Bench) -> None:
    ran = doctor(bench, bench.hosts)
    assert ran.code == 0, ran.output
    assert "✗" not in ran.output
    for said in (
        "shop: host",
        "Python 3.",
        "MiB free for its state",
        "shop: identity",
        f"{bench.checkpoint} is proven",
    ):
        assert said in ran.output, said
    for name in ("shop-schema", "shop-db", "shop-env", "shop-static", "shop-code", "shop-web"):
        assert f"shop: {name}" in ran.output, name


def test_all_that_is_wrong_with_a_profile(bench: Bench) -> None:
    known = profile(bench.sample)
    hosts = bench.profile(
        "two-typos", rollback_budgest={"level1": 1}, restore_env=[{**known["restore_env"][0], "pth": "/x"}]
    )
    ran = doctor(bench, hosts)
    assert ran.code == 2, ran.output
    assert "rollback_budgest is not a variable of rollbackctl; did you mean rollback_budgets?" in ran.output
    assert "pth" in ran.output


def test_all_that_is_wrong_with_the_components(bench: Bench, tmp_path: Path) -> None:
    known = profile(bench.sample)
    hosts = bench.profile(
        "two-missing",
        restore_env=[{**known["restore_env"][0], "path": str(tmp_path / "no-settings.env")}],
        rollback_git=[{**known["rollback_git"][0], "repository": str(tmp_path / "no-repository")}],
    )
    ran = doctor(bench, hosts)
    assert ran.code == 2, ran.output
    wrong = [line for line in ran.output.splitlines() if "✗" in line]
    assert len(wrong) == 2, ran.output
    assert "no-settings.env" in ran.output
    assert "no-repository" in ran.output


def test_another_place_than_the_profile_means(bench: Bench) -> None:
    service = profile(bench.sample)["rollback_service"]
    elsewhere = {**service, "identity": {**service["identity"], "content": "another shop"}}
    ran = doctor(bench, bench.profile("elsewhere", rollback_service=elsewhere))
    assert ran.code == 2, ran.output
    assert "Identity proof failed" in ran.output


def test_a_service_without_a_checkpoint_and_one_with_a_candidate(bench: Bench, tmp_path: Path) -> None:
    state = tmp_path / "state"
    hosts = bench.profile("fresh", rollback_state={"kind": "directory", "path": str(state)}, rollback_soak_seconds=1800)
    ran = doctor(bench, hosts)
    assert ran.code == 2, ran.output
    (wrong,) = [line for line in ran.output.splitlines() if "✗" in line]
    assert "rollbackctl checkpoint shop --reason" in wrong
    assert not state.exists()
    shutil.copytree(bench.sample.state / "checkpoints", state / "checkpoints")
    for path in state.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    state.chmod(0o700)
    assert doctor(bench, hosts).code == 0
