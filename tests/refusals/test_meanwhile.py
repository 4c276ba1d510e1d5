# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a service while a run is under way, and what a run in check mode leaves: nothing."""

from __future__ import annotations

import signal

from tests.support.bench import Bench, refused, tree, unchanged

LEVEL3 = "rollback-level3.yml"


def test_check_mode_changes_nothing_at_all(bench: Bench) -> None:
    """Level 3 with everything accepted: the plan is whole, and neither the service nor its store is touched."""
    store = tree(bench.sample.state)
    ran = bench.play(LEVEL3, "--check", rollback_reason="x", rollback_accept_data_loss_since=bench.taken)
    assert ran.code == 0, ran.output
    assert ran.record["check_mode"] is True
    assert ran.said.startswith("checked, this would work; nothing was changed")
    assert "done and proven" not in ran.output.lower()
    plan = ran.record["services"]["shop"]["plan"]
    actions = {entry["name"]: entry["action"] for entry in plan["entries"]}
    assert actions == {
        "shop-schema": "by:shop-db",
        "shop-db": "change",
        "shop-env": "change",
        "shop-static": "change",
        "shop-code": "change",
        "shop-web": "follow",
    }
    assert plan["data_loss_since"] == bench.taken
    assert tree(bench.sample.state) == store
    unchanged(bench)


def test_a_second_run_is_refused_while_one_is_under_way(bench: Bench) -> None:
    """Another run, a checkpoint, and the same run named once more; then the first is asked to stop, and does."""
    accepted = {"rollback_reason": "the first", "rollback_accept_data_loss_since": bench.taken}
    with bench.paused("restore_sqlite.stage.before", LEVEL3, **accepted) as (process, mark):
        first = bench.record_of(process.pid)["run"]
        second = bench.play("rollback-level1.yml", rollback_reason="x")
        refused(bench, second, f"run {first}, held by", f"process {process.pid}", f"rollbackctl resume {first}")
        same = bench.play(LEVEL3, rollback_reason="x", rollback_run=first)
        refused(bench, same, first)
        process.send_signal(signal.SIGTERM)
        mark.unlink()
        ended = bench.end(process)
    refused(bench, ended, "Stopped by SIGTERM before the phase fence")
    done = bench.play("finalize.yml", rollback_reason="it is not wanted any more", rollback_run=first)
    assert done.record["outcome"] == "done", done.said
    kept = [path.name for path in bench.sample.databases[0].parent.iterdir() if "rollbackctl" in path.name]
    assert kept == [], "what was staged is removed with the run"
    after = bench.play("rollback-level1.yml", "--check", rollback_reason="x")
    assert after.record["outcome"] == "done", after.said


def test_a_component_that_somebody_else_changed_is_left_alone(bench: Bench) -> None:
    """Between the plan and the change: settings, which are the first to be put back in level 2."""
    settings, before = bench.sample.env_file.read_bytes(), bench.before
    mode = bench.sample.env_file.stat().st_mode
    try:
        with bench.paused("restore_files.unpack.before", "rollback-level2.yml", rollback_reason="x") as (process, mark):
            bench.sample.env_file.write_bytes(settings + b"SHOP_HOTFIX=1\n")
            bench.before = bench.sample.inspect()
            mark.unlink()
            ran = bench.end(process)
        refused(bench, ran, "shop-env reads as", "Somebody else changed it: it was left as it is")
    finally:
        bench.sample.env_file.write_bytes(settings)
        bench.sample.env_file.chmod(mode)
        bench.before = before
    unchanged(bench)
