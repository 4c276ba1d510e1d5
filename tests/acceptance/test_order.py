# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runbooks' scripts take as arguments: service and backup. What is named is what the run works with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.support.bench import Bench, unchanged

REASON = "checkout answers 500"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A service with two proven checkpoints, then broken; `checkpoint` is the older one."""
    made = Bench(tmp_path_factory.mktemp("order"))
    made.prove_checkpoint()
    again = made.play("checkpoint.yml", rollback_reason="once more")
    assert again.record["outcome"] == "done", again.said
    made.sample.deploy_bad()
    made.before = made.sample.inspect()
    yield made
    made.sample.remove()


def proven(bench: Bench) -> list[str]:
    """Return the proven checkpoints, newest first."""
    return [one["id"] for one in DirectoryStore(str(bench.sample.state)).checkpoints() if one["state"] == "proven"]


def test_service_and_checkpoint_are_the_ones_that_were_named(bench: Bench) -> None:
    """By the playbook, without a limit; of two proven checkpoints the older one, which is not the default."""
    newest, oldest = proven(bench)
    assert oldest == bench.checkpoint
    asked = {"rollback_reason": REASON, "rollback_accept_data_loss_since": bench.taken, "rollback_services": ["shop"]}
    for named, expected in (({}, newest), ({"rollback_checkpoint": oldest}, oldest)):
        ran = bench.play("rollback-level3.yml", "--check", limit="", **asked, **named)
        assert ran.code == 0, ran.output
        assert set(ran.record["services"]) == {"shop"}
        assert ran.record["services"]["shop"]["plan"]["checkpoint"] == expected
    unchanged(bench)
