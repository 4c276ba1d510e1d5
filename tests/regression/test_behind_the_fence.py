# SPDX-License-Identifier: GPL-3.0-or-later
"""What others do to a service while it stands behind the closed fence of a run, with the shipped playbooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.sample.build import GOOD
from tests.support.bench import Bench, broken

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
