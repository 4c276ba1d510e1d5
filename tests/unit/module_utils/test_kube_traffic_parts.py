# SPDX-License-Identifier: GPL-3.0-or-later
"""What a component chooses, and what counts as ended or as there. Objects are written down here, nothing is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.kube_hold import KINDS, SHUTDOWN, Thing, stopping
from ansible.module_utils.rollbackctl.kube_traffic_parts import choose, foreign_fences, remarks, service_problems
from ansible.module_utils.rollbackctl.kube_traffic_quiet import (
    jobs_path,
    not_ready,
    pods_path,
    sets_path,
    slices_path,
    still_there,
)

from tests.unit.module_utils.traffic_lab import RUN, patched, thing

SPACE = "shop"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "name its workloads, or say all: true"),
        ({"all": True, "workloads": ["deployment/api"]}, "one of the two"),
        ({"workloads": ["daemonset/agent"]}, "daemonset/agent has no replica count"),
        ({"workloads": ["api"]}, "'api' is not a workload"),
        ({"workloads": ["deployment/-rf"]}, "is not a workload"),
        ({"workloads": ["deployment/api"], "except": ["x"]}, "except belongs to all"),
        ({"workloads": ["deployment/api"], "service": "api"}, "service belongs to by: service"),
        ({"by": "service"}, "is needed there"),
        ({"by": "service", "service": "api", "all": True}, "by: service stops no workload"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match="Nothing was changed") as caught:
        choose("web", options, SPACE)
    assert said in caught.value.message


def test_cronjobs_are_all_suspended_with_all_unless_it_is_said_otherwise() -> None:
    assert choose("web", {"all": True}, SPACE).every_cronjob
    assert not choose("web", {"all": True, "cronjobs": []}, SPACE).every_cronjob
    assert not choose("web", {"workloads": ["deployment/api"]}, SPACE).every_cronjob
    named = choose("web", {"workloads": ["deployment/api"], "cronjobs": ["report"]}, SPACE)
    assert named.names["cronjob"] == ("report",)


# -- what has ended ---------------------------------------------------------------------------------------------------


def owned(kind: str, name: str, owner: str, owner_kind: str, **more: Any) -> dict[str, Any]:
    """An object controlled by another one; a uid is the name of its object."""
    reference = {"uid": owner, "kind": owner_kind, "name": owner, "controller": True}
    metadata = {"name": name, "uid": name, "labels": {"app": "api"}, "generation": 1, "ownerReferences": [reference]}
    return {"kind": kind, "metadata": metadata, **more}


def deployment(replicas: int = 0, observed: int = 1, ready: int = 0) -> Thing:
    item = {
        "metadata": {"name": "api", "namespace": SPACE, "uid": "api", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "api"}}},
        "status": {"observedGeneration": observed, "readyReplicas": ready},
    }
    return Thing(KINDS["deployment"], item)


def replica_set(name: str = "api-1", owner: str = "api", replicas: int = 0, observed: int = 1) -> dict[str, Any]:
    status = {"observedGeneration": observed}
    return owned("ReplicaSet", name, owner, "Deployment", spec={"replicas": replicas}, status=status)


def pod(name: str, owner: str = "api-1", phase: str = "Running", owner_kind: str = "ReplicaSet") -> dict[str, Any]:
    return owned("Pod", name, owner, owner_kind, status={"phase": phase})


def left(one: Thing, sets: Sequence[Any] = (), pods: Sequence[Any] = ()) -> list[str]:
    world: Mapping[str, Sequence[Any]] = {
        one.kind.collection(SPACE): [one.item],
        sets_path(SPACE): sets,
        pods_path(SPACE): pods,
    }
    return still_there([one], SPACE, world.__getitem__)


def test_a_deployment_has_ended_when_its_pods_have() -> None:
    assert left(deployment(), [replica_set()]) == []
    assert left(deployment(), [replica_set()], [pod("p")]) == ["pod p still runs"]
    leaving = pod("p")
    leaving["metadata"] |= {"deletionTimestamp": "now", "deletionGracePeriodSeconds": 300}
    assert left(deployment(), [replica_set()], [leaving]) == ["pod p has not ended yet (it is allowed 300 s)"]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_is_over_does_not_count_once_nobody_is_removing_it(phase: str) -> None:
    over = pod("evicted", phase=phase)
    assert left(deployment(), [replica_set()], [over]) == []
    over["metadata"] |= {"deletionTimestamp": "now", "deletionGracePeriodSeconds": 30}
    assert len(left(deployment(), [replica_set()], [over])) == 1
    over["metadata"]["finalizers"] = ["somebody.example/slow"]
    assert left(deployment(), [replica_set()], [over]) == []


def test_until_all_controllers_have_seen_it_a_pod_may_still_be_started() -> None:
    assert left(deployment(observed=0)) == ["the controller of deployment/api has not seen the change yet"]
    for busy in (replica_set(replicas=3), replica_set(observed=0)):
        assert left(deployment(), [busy]) == ["deployment/api still has a ReplicaSet at work"]


def test_pods_of_others_with_the_same_labels_do_not_count() -> None:
    theirs = [pod("theirs", "other-1"), pod("job", "nightly", owner_kind="Job")]
    bare = {"metadata": {"name": "bare", "uid": "bare", "labels": {"app": "api"}}, "status": {"phase": "Running"}}
    sets = [replica_set(), replica_set("other-1", owner="other", replicas=2)]
    assert left(deployment(), sets, [*theirs, bare]) == []


def test_a_pod_that_outlives_its_replica_set_counts() -> None:
    assert left(deployment(), [], [pod("late", "api-0")]) == ["pod late still runs"]


def test_a_job_of_a_suspended_cronjob_is_waited_for() -> None:
    item = {"metadata": {"name": "report", "namespace": SPACE, "uid": "report"}, "spec": {"suspend": True}}
    one = Thing(KINDS["cronjob"], item)
    done = {"conditions": [{"type": "Complete", "status": "True"}]}
    jobs = [
        owned("Job", "report-1", "report", "CronJob", status=done),
        owned("Job", "report-2", "report", "CronJob", status={"active": 1}),
        owned("Job", "other-1", "other", "CronJob", status={"active": 1}),
    ]
    assert still_there([one], SPACE, {jobs_path(SPACE): jobs}.__getitem__) == [
        "job report-2 of cronjob/report still runs"
    ]


def endpoints(ready: Sequence[bool | None]) -> dict[str, Any]:
    listed = [{"conditions": {} if one is None else {"ready": one}} for one in ready]
    return {"metadata": {"labels": {"kubernetes.io/service-name": "api"}}, "endpoints": listed or None}


def test_a_service_is_closed_when_it_has_no_endpoints_and_open_when_one_is_ready() -> None:
    one = thing("service", {"app": "api"})

    def world(*slices: Any) -> Any:
        return {slices_path(SPACE): [*slices, {"metadata": {}, "endpoints": [{}]}]}.__getitem__

    assert still_there([one], SPACE, world(endpoints([]))) == []
    assert still_there([one], SPACE, world(endpoints([False]), endpoints([True]))) == [
        "service/api still has 2 endpoints"
    ]
    assert not_ready([one], SPACE, world(endpoints([False]))) == {
        "service/api": "service/api has no endpoint that is ready"
    }
    assert not_ready([one], SPACE, world(endpoints([None]))) == {}


@pytest.mark.parametrize(("ready", "observed"), [(2, 1), (3, 0)])
def test_what_is_not_ready_says_why(ready: int, observed: int) -> None:
    one = deployment(replicas=3, observed=observed, ready=ready)
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, "name": "app"}
    failing = pod("p")
    failing["status"]["containerStatuses"] = [waiting]
    world: Mapping[str, Sequence[Any]] = {
        one.kind.collection(SPACE): [one.item],
        sets_path(SPACE): [replica_set(replicas=3)],
        pods_path(SPACE): [failing],
    }
    (text,) = not_ready([one], SPACE, world.__getitem__).values()
    assert text.startswith(f"deployment/api: {ready if observed else 0} of 3 pods are ready")
    assert "ImagePullBackOff" in text


# -- what is odd ------------------------------------------------------------------------------------------------------


def test_who_may_set_it_going_again_is_said() -> None:
    argo = thing("deployment", 3, **{"argocd.argoproj.io/tracking-id": "x"})
    keda = thing("horizontalpodautoscaler", None)
    keda.item["metadata"]["ownerReferences"] = [{"kind": "ScaledObject", "name": "queue"}]
    said = "\n".join(remarks([argo, keda], fence=True))
    assert "deployment/api is managed by Argo CD" in said
    assert "KEDA's queue" in said
    assert "deployment/api has 2 of 3 pods ready now" in said


def test_a_closed_service_is_no_fence_for_what_pods_do_by_themselves() -> None:
    one = thing("service", {"app": "api"})
    assert "by: scale stops that" in "\n".join(remarks([one], fence=True))
    assert remarks([one], fence=False) == []
    assert "no selector" in service_problems([thing("service", None)])[0]


def test_the_closed_fence_of_another_run_is_not_touched() -> None:
    before = thing("deployment", 3)
    stopped = patched(before, stopping(before, "rb-other", "fence"))
    assert "rollbackctl resume rb-other" in foreign_fences([stopped], RUN)[0]
    assert foreign_fences([stopped], "rb-other") == []
    assert foreign_fences([patched(before, stopping(before, "rb-other", SHUTDOWN))], RUN) == []
