# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty Deployments went back in one step, each to its own template: seen by kubectl."""

from __future__ import annotations

from collections import Counter
from typing import Any

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.kubernetes.scenes import FIFTY
from lab.sample import proof

BUDGET_SECONDS = 120.0


def versions(objects: dict[str, Any]) -> Counter[str]:
    """Return how many Deployments ask for which version."""
    found = [item for name, item in objects.items() if name.startswith("deployment/")]
    return Counter(item["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] for item in found)


def test_all_were_really_changed(kube: Drill) -> None:
    assert versions(kube.seen("good")["objects"]) == {"1.4.0": FIFTY}
    assert versions(kube.seen("bad")["objects"]) == {"1.5.0": FIFTY}


def test_all_are_back_and_run(kube: Drill, host: Host) -> None:
    assert versions(kube.objects()) == {"1.4.0": FIFTY}
    running = host.check_output(
        "kubectl --namespace %s get pods --field-selector status.phase=Running "
        "--output 'jsonpath={.items[*].spec.containers[0].env[0].value}'",
        kube.namespace,
    )
    assert Counter(running.split()) == {"1.4.0": FIFTY}
    ready = host.check_output(
        "kubectl --namespace %s get deployments --output 'jsonpath={.items[*].status.readyReplicas}'", kube.namespace
    )
    assert ready.split() == ["1"] * FIFTY


def test_nothing_else_of_them_was_touched(kube: Drill) -> None:
    good, now = kube.seen("good")["objects"], kube.objects()
    for objects in (good, now):
        for name in [name for name in objects if name.startswith(("pod/", "replicaset/"))]:
            del objects[name]
        for item in objects.values():
            item["metadata"].pop("generation", "")
            (item["metadata"].get("annotations") or {}).pop("deployment.kubernetes.io/revision", "")
    assert now == good


def test_it_was_one_step_within_its_time(drill: proof.Drill) -> None:
    record = next(one for one in drill.records() if one["playbook"] == "converge.yml")
    steps = [step for step in record["services"]["fifty"]["steps"] if step["phase"] == "rollback"]
    assert [step["component"] for step in steps] == ["workers"]
    assert record["seconds"] < record["budget_seconds"] == BUDGET_SECONDS


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name="fifty") == ["done", "already"]
    assert kube.objects() == kube.seen("after")["objects"]
