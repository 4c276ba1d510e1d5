# SPDX-License-Identifier: GPL-3.0-or-later
"""What others do to a service while it stands behind the closed fence of a run, with the shipped playbooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.sample.build import GOOD
from tests.support.bench import BIN, Bench, broken

LEVEL3 = "rollback-level3.yml"


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A service with a proven checkpoint, then broken by a release."""
    made = broken(tmp_path_factory.mktemp("fenced"))
    yield made
    made.sample.remove()


def test_a_monitor_that_starts_the_service_meanwhile_leaves_no_process_with_the_bad_code(bench: Bench) -> None:
    """The data is back, the code is not: what starts now has loaded the bad release, whatever lies on disk later."""
    accepted = {"rollback_reason": "x", "rollback_accept_data_loss_since": bench.taken}
    with bench.paused("restore_files.exchange.before", LEVEL3, **accepted) as (process, mark):
        bench.sample.supervisor("start", "shop")
        bad = bench.sample.get("/version")[1]["version"]
        mark.unlink()
        ran = bench.end(process)
    assert bad != GOOD
    assert ran.record["outcome"] == "done", ran.said
    assert bench.sample.get("/version")[1]["version"] == GOOD
    assert "started behind the closed fence by somebody else than this run" in ran.output + str(ran.record)


def test_an_application_that_migrates_itself_when_it_starts_is_not_done(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The schema is taken back, the code is not: its start takes the schema up again."""
    bench = broken(tmp_path_factory.mktemp("itself"), migration="adds")
    try:
        migrates_itself(bench)
    finally:
        bench.sample.remove()


def migrates_itself(bench: Bench) -> None:
    sample = bench.sample
    there = sample.revision()
    start = sample.root / "start.sh"
    migrate = f"(cd {sample.app} && DATABASE_URL=sqlite:///{sample.databases[0]} {BIN}/alembic upgrade head)"
    start.write_text(f'#!/bin/sh\nset -e\n{migrate}\nexec "$@"\n', encoding="utf-8")
    start.chmod(0o755)
    text = sample.configuration.read_text(encoding="utf-8")
    sample.configuration.write_text(text.replace("command=", f"command={start} ", 1), encoding="utf-8")
    sample.supervisor("reread")
    sample.supervisor("update")
    sample.wait(healthy=False)
    ran = bench.play(
        "rollback-schema.yml",
        hosts=bench.profile("itself", rollback_checks=[]),
        rollback_reason="x",
        rollback_accept_data_loss_since="2000-01-01T00:00:00Z",
        rollback_components=["shop-schema"],
    )
    assert sample.revision() == there
    assert ran.record["outcome"] == "resumable", ran.said
    assert f"shop-schema reads as revision {there}, not as revision" in ran.said
    assert "migrates its database when it starts" in ran.said


@pytest.mark.timeout(900)
def test_what_somebody_changed_behind_the_fence_has_one_way_out(bench: Bench) -> None:
    """Settings are edited once they were put back: the run stops, its resume too; a new run takes over."""
    accepted = {"rollback_reason": "x", "rollback_accept_data_loss_since": bench.taken}
    with bench.paused("restore_files.exchange.before", LEVEL3, **accepted) as (process, mark):
        with bench.sample.env_file.open("a", encoding="utf-8") as settings:
            settings.write("SHOP_HOTFIX=1\n")
        mark.unlink()
        stopped = bench.end(process)
    following = "rollbackctl run 3 shop --reason REASON"
    assert stopped.record["outcome"] == "unknown", stopped.said
    assert following in stopped.said
    with pytest.raises(OSError, match="refused"):
        bench.sample.get("/health")
    resumed = bench.play(LEVEL3, rollback_run=stopped.record["run"], **accepted)
    assert resumed.record["outcome"] == "unknown", resumed.said
    assert following in resumed.said
    done = bench.play(LEVEL3, **accepted)
    assert done.record["outcome"] == "done", done.said
    assert bench.sample.get("/version")[1]["version"] == GOOD
    assert "SHOP_HOTFIX" not in bench.sample.env_file.read_text(encoding="utf-8")
