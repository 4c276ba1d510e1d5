# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that one controller began was ended by another one, which had never heard of it: seen by kubectl and curl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "order-service"


def killed(kube: Drill) -> str:
    return (kube.root / "killed.run").read_text(encoding="ascii")


def first_record(kube: Drill) -> dict[str, Any]:
    path: Path = kube.root / "first-controller" / "records" / f"{killed(kube)}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def test_the_first_controller_was_killed_in_the_middle(kube: Drill) -> None:
    record = first_record(kube)
    assert record["controller"] == "first-controller"
    assert record["outcome"] == "interrupted"
    assert [phase["name"] for phase in record["phases"]][-1] == "rollback"
    spec = kube.seen("killed")["objects"][f"deployment/{NAME}"]["spec"]
    assert spec["replicas"] == 0
    assert spec["template"]["spec"]["containers"][0]["image"] == "lab.local/shop:1.5.0-errors"


def test_another_one_ended_the_same_run(kube: Drill, drill: proof.Drill) -> None:
    record = next(one for one in drill.records() if one["run"] == killed(kube))
    assert record["controller"] != "first-controller"
    assert (record["services"][NAME]["outcome"], record["reason"]) == ("done", "the first controller is gone")


def test_users_have_the_good_release_again(kube: Drill, host: Host) -> None:
    for _ in range(10):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][NAME])
        assert said.startswith("HTTP/1.1 200"), said
        assert "X-Version: 1.4.0" in said, said


def test_there_are_as_many_pods_as_before_which_only_the_object_itself_knew(kube: Drill, host: Host) -> None:
    ready = host.check_output(
        "kubectl --namespace %s get deployment %s --output 'jsonpath={.spec.replicas} {.status.readyReplicas}'",
        kube.namespace,
        NAME,
    )
    assert ready == "2 2"
    good, now = (one[f"deployment/{NAME}"]["metadata"] for one in (kube.seen("good")["objects"], kube.objects()))
    assert set(now["annotations"]) == set(good["annotations"])


def test_there_was_one_rollout(kube: Drill) -> None:
    assert kube.history(f"deployment/{NAME}") == ["2", "3"]  # the first is the third again


def test_the_lease_was_taken_over_and_given_back(kube: Drill) -> None:
    spec = kube.get("lease", f"rollbackctl-{NAME}")["spec"]
    assert spec.get("holderIdentity", "") == ""
    assert spec["leaseTransitions"] >= 3  # the checkpoint, the run that was killed, the one that went on


def test_the_second_run_found_all_in_place(kube: Drill) -> None:
    assert kube.objects() == kube.seen("after")["objects"]
