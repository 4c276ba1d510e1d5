# SPDX-License-Identifier: GPL-3.0-or-later
"""All pods of the bad version had ended before the first good one answered, in the time that each step may take."""

from __future__ import annotations

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "order-service"
BUDGETS = {"preflight": 30.0, "rollback": 210.0, "verify": 60.0}


def test_it_was_really_broken(kube: Drill) -> None:
    assert kube.seen("bad")["answers"][NAME] == {"status": 500, "version": "1.5.0"}


def test_users_have_the_version_that_was_named(kube: Drill, host: Host) -> None:
    for _ in range(10):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][NAME])
        assert said.startswith("HTTP/1.1 200"), said
        assert "X-Version: 1.4.0" in said, said


def test_the_two_versions_never_worked_side_by_side(kube: Drill) -> None:
    asked = kube.asked(NAME)
    last_bad = max(one.at + one.seconds for one in asked if one.version == "1.5.0")
    first_good = min(one.at for one in asked if one.version == "1.4.0")
    assert last_bad < first_good


def test_there_are_as_many_pods_as_before_and_not_as_in_the_checkpoint(kube: Drill, host: Host) -> None:
    assert kube.seen("good")["objects"][f"deployment/{NAME}"]["spec"]["replicas"] == 2
    ready = host.check_output(
        "kubectl --namespace %s get deployment %s --output 'jsonpath={.spec.replicas} {.status.readyReplicas}'",
        kube.namespace,
        NAME,
    )
    assert ready == "3 3"


def test_the_object_is_as_it_was_but_for_its_image(kube: Drill) -> None:
    good, now = (one[f"deployment/{NAME}"] for one in (kube.seen("good")["objects"], kube.objects()))
    for one in (good, now):
        one["metadata"].pop("generation")
        one["metadata"]["annotations"].pop("deployment.kubernetes.io/revision")
        one["spec"].pop("replicas")
    assert now == good


def test_each_step_and_the_whole_run_kept_within_their_time(drill: proof.Drill) -> None:
    record = next(one for one in drill.records() if one["playbook"] == "converge.yml")
    assert record["budget_seconds"] == sum(BUDGETS.values()) == 300
    assert record["seconds"] < record["budget_seconds"]
    assert record["over_budget"] is False
    said = {phase["name"]: phase for phase in record["phases"]}
    for name, budget in BUDGETS.items():
        assert said[name]["budget_seconds"] == budget
        assert said[name]["seconds"] < budget


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "already"]
    assert kube.objects() == kube.seen("after")["objects"]
