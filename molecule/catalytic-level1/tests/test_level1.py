# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout that was paused half-way was taken back, and nobody noticed: seen by kubectl, curl and a client."""

from __future__ import annotations

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "catalytic-saas-api"
WORKLOAD = f"deployment/{NAME}"


def test_it_was_really_broken(kube: Drill) -> None:
    bad = kube.seen("bad")["objects"][WORKLOAD]["spec"]
    assert bad["paused"] is True
    assert bad["template"]["spec"]["containers"][0]["image"] == "lab.local/shop:1.5.0-notready"


def test_users_have_the_good_release(kube: Drill, host: Host) -> None:
    for _ in range(5):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][NAME])
        assert said.startswith("HTTP/1.1 200"), said
        assert "X-Version: 1.4.0" in said, said


def test_nobody_noticed(kube: Drill) -> None:
    asked = kube.asked(NAME)
    assert len(asked) > 50
    assert {(one.status, one.version) for one in asked} == {(200, "1.4.0")}


def test_the_rollout_goes_on_and_is_over(kube: Drill, host: Host) -> None:
    assert "paused" not in kube.objects()[WORKLOAD]["spec"]
    said = host.check_output("kubectl --namespace %s rollout status %s --watch=false", kube.namespace, WORKLOAD)
    assert "successfully rolled out" in said
    images = host.check_output(
        "kubectl --namespace %s get pods --output 'jsonpath={.items[*].spec.containers[*].image}'", kube.namespace
    )
    assert set(images.split()) == {"lab.local/shop:1.4.0"}


def test_nothing_but_the_template_and_its_cause_was_touched(kube: Drill) -> None:
    good, now = kube.seen("good")["objects"], kube.objects()
    for one in (good, now):
        one[WORKLOAD]["metadata"].pop("generation")
        one[WORKLOAD]["metadata"]["annotations"].pop("deployment.kubernetes.io/revision")
    others = [name for name in good if name.partition("/")[0] not in {"pod", "replicaset"}]
    assert {name: now[name] for name in others} == {name: good[name] for name in others}


def test_the_plan_says_that_the_rollout_was_paused(drill: proof.Drill) -> None:
    record = next(one for one in drill.records() if one["playbook"] == "converge.yml")
    assert any("is paused" in note for note in record["services"][NAME]["plan"]["notes"])
    assert record["budget_seconds"] == 300
    assert record["seconds"] < 300


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "already"]
    assert kube.objects() == kube.seen("after")["objects"]
