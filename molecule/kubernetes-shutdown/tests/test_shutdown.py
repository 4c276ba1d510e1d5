# SPDX-License-Identifier: GPL-3.0-or-later
"""A service was stopped and came back exactly, twice: seen by kubectl, curl and a client that kept asking."""

from __future__ import annotations

import itertools
from typing import Any

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "catalytic-saas-api"
NOTE = "rollbackctl.io/stopped"
KINDS = ("deployment", "horizontalpodautoscaler", "cronjob", "service", "configmap", "secret")


def settings(objects: dict[str, Any]) -> dict[str, Any]:
    """What people have said about the service: pods come and go, and each change has a number."""
    found = {}
    for key, item in objects.items():
        if key.partition("/")[0] in KINDS:
            metadata = {name: value for name, value in item["metadata"].items() if name != "generation"}
            found[key] = {**item, "metadata": metadata}
    return found


def test_nothing_was_left_running(kube: Drill) -> None:
    seen = kube.seen("stopped")
    objects = seen["objects"]
    assert [key for key in objects if key.startswith("pod/")] == []
    assert objects[f"deployment/{NAME}"]["spec"]["replicas"] == 0
    assert objects["cronjob/usage-report"]["spec"]["suspend"] is True
    behavior = objects[f"horizontalpodautoscaler/{NAME}"]["spec"]["behavior"]
    assert {way["selectPolicy"] for way in behavior.values()} == {"Disabled"}
    assert seen["answers"][NAME]["status"] == 0
    # What it was stands on the object itself; what was suspended before has nothing to be given back.
    assert '"replicas": 3' in objects[f"deployment/{NAME}"]["metadata"]["annotations"][NOTE]
    assert NOTE not in objects["cronjob/old-export"]["metadata"]["annotations"]


def test_everything_is_as_it_was_both_times(kube: Drill) -> None:
    good = settings(kube.seen("good")["objects"])
    assert good[f"deployment/{NAME}"]["spec"]["replicas"] == 3
    assert good["cronjob/old-export"]["spec"]["suspend"] is True
    assert settings(kube.seen("resumed")["objects"]) == good
    assert settings(kube.objects()) == good


def test_users_are_answered_again(kube: Drill, host: Host) -> None:
    for _ in range(5):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][NAME])
        assert said.startswith("HTTP/1.1 200"), said


def test_a_client_that_kept_asking_saw_two_gaps_and_nothing_wrong(kube: Drill) -> None:
    asked = kube.asked(NAME)
    assert {one.version for one in asked if one.status == 200} == {"1.4.0"}
    assert {one.status for one in asked} == {0, 200}
    good = [one.status == 200 for one in asked]
    stopped = sum(1 for one, following in itertools.pairwise(good) if one and not following)
    assert stopped >= 2
    assert good[-1]


def test_all_pods_are_ready(kube: Drill, host: Host) -> None:
    ready = host.check_output(
        "kubectl --namespace %s get deployment %s --output 'jsonpath={.status.readyReplicas}'", kube.namespace, NAME
    )
    assert ready == "3"


def test_a_stopped_service_is_no_bad_combination(drill: proof.Drill) -> None:
    services = [record["services"][NAME] for record in drill.records() if record["playbook"] == "shutdown.yml"]
    assert [(one["outcome"], one["quarantined"], one["checks"]) for one in services] == [("done", "", [])] * 2


def test_after_it_the_checks_were_asked(drill: proof.Drill) -> None:
    resumed = [record["services"][NAME] for record in drill.records() if record["playbook"] == "resume-traffic.yml"]
    assert all(one["checks"] != [] and all(check["ok"] for check in one["checks"]) for one in resumed)


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "already"]
    assert kube.objects() == kube.seen("after")["objects"]
