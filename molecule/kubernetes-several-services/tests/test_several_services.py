# SPDX-License-Identifier: GPL-3.0-or-later
"""One run put three services back, none before all of them were known to be able to: seen by kubectl and curl."""

from __future__ import annotations

from typing import Any

import pytest
from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

SERVICES = ("user-service", "order-service", "payment-service")


@pytest.fixture(scope="module")
def record(drill: proof.Drill) -> dict[str, Any]:
    return next(one for one in drill.records() if one["playbook"] == "converge.yml")


def test_they_were_really_broken(kube: Drill) -> None:
    assert [kube.seen("bad")["answers"][name] for name in SERVICES] == [{"status": 500, "version": "1.5.0"}] * 3


@pytest.mark.parametrize("name", SERVICES)
def test_users_have_the_good_release_again(kube: Drill, host: Host, name: str) -> None:
    for _ in range(5):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][name])
        assert said.startswith("HTTP/1.1 200"), said
        assert "X-Version: 1.4.0" in said, said


def test_it_was_one_run(record: dict[str, Any]) -> None:
    assert sorted(record["services"]) == sorted(SERVICES)
    assert {one["outcome"] for one in record["services"].values()} == {"done"}


def test_no_service_was_changed_before_all_had_their_plan(record: dict[str, Any]) -> None:
    phases = {phase["name"]: phase["offset"] for phase in record["phases"]}
    looked = [step for one in record["services"].values() for step in one["steps"] if step["phase"] == "preflight"]
    changed = [step for one in record["services"].values() for step in one["steps"] if step["phase"] == "rollback"]
    assert len(changed) == 3
    assert max(step["offset"] for step in looked) < phases["plan"] < phases["rollback"]
    assert min(step["offset"] for step in changed) >= phases["rollback"]


def test_each_service_has_its_own_lease_and_they_are_given_back(kube: Drill) -> None:
    leases = {item["metadata"]["name"]: item["spec"].get("holderIdentity", "") for item in kube.get("leases")["items"]}
    assert leases == {f"rollbackctl-{name}": "" for name in SERVICES}


@pytest.mark.parametrize("name", SERVICES)
def test_the_second_run_found_all_in_place(drill: proof.Drill, name: str) -> None:
    assert drill.outcomes(name=name) == ["done", "already"]


def test_the_second_run_changed_nothing(kube: Drill) -> None:
    assert kube.objects() == kube.seen("after")["objects"]
