# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that was put back: what may not be done to it any more. Each test leaves it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.bench import Bench, broken, refused, unchanged


@dataclass(frozen=True)
class Recovered:
    """A bench after level 1, and the run that did it."""

    bench: Bench
    bad: str
    run: str


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovered]:
    """The bad release was nothing but code, which is put back by level 1."""
    bench = broken(tmp_path_factory.mktemp("recovered"), settings=False, files=False, migration="")
    bad = bench.sample.commit()
    ran = bench.play("rollback-level1.yml", rollback_reason="orders fail")
    assert ran.record["outcome"] == "done", ran.output
    bench.before = bench.sample.inspect()
    yield Recovered(bench, bad, ran.record["run"])
    bench.sample.remove()


def test_the_bad_combination_does_not_come_back(recovered: Recovered) -> None:
    """Named explicitly, by its commit: it was rolled back a moment ago."""
    bench = recovered.bench
    ran = bench.play("rollback-level1.yml", rollback_reason="x", rollback_to={"shop-code": recovered.bad})
    refused(bench, ran, "The target is quarantined as q-", "orders fail", "rollbackctl quarantine release q-")


def test_a_second_rollback_has_nothing_to_do(recovered: Recovered) -> None:
    bench = recovered.bench
    ran = bench.play("rollback-level1.yml", rollback_reason="x")
    assert (ran.code, ran.record["outcome"]) == (0, "already")
    unchanged(bench)


def test_a_run_that_ended_is_only_verified_again(recovered: Recovered) -> None:
    bench = recovered.bench
    ran = bench.play("rollback-level1.yml", rollback_reason="x", rollback_run=recovered.run)
    assert (ran.code, ran.record["outcome"], ran.record["run"]) == (0, "already", recovered.run)
    unchanged(bench)


def test_a_run_is_not_gone_on_with_by_another_level(recovered: Recovered) -> None:
    bench = recovered.bench
    ran = bench.play("rollback-level2.yml", rollback_reason="x", rollback_run=recovered.run)
    refused(
        bench, ran, f"Run {recovered.run} is a rollback of level 1, not a rollback of level 2", "rollbackctl resume"
    )


def test_a_finalized_run_cannot_be_taken_back(recovered: Recovered) -> None:
    bench = recovered.bench
    ran = bench.play("finalize.yml", rollback_reason="kept long enough", rollback_run=recovered.run)
    assert ran.record["outcome"] == "done", ran.said
    bench.before = bench.sample.inspect()  # without what the run kept
    undo = bench.play("roll-forward.yml", rollback_reason="x", rollback_run=recovered.run)
    refused(bench, undo, f"Run {recovered.run} was finalized: what it kept is gone, so it cannot be taken back")
