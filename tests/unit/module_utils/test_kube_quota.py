# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_objects import Workload
from ansible.module_utils.rollbackctl.kube_patch import FAST, HELD
from ansible.module_utils.rollbackctl.kube_quota import (
    Crowd,
    Standing,
    Usage,
    quantity,
    quota_problems,
    quotas_of,
    usage,
)

from tests.unit.module_utils.kube_recorded import listed, recorded
from tests.unit.module_utils.kube_server import Handler, client_of

API = Workload("deployment", "api", "shop")
DB = Workload("statefulset", "db", "shop")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"), ("900", "900"), ("100m", "0.1"), ("1.5", "1.5"), ("2k", "2000"), ("1Ki", "1024"),
        ("64Mi", "67108864"), ("1G", "1000000000"),
        ("1Gi", "1073741824"), ("1Pi", str(2**50)), ("2E", str(2 * 10**18)), ("1e3", "1000"),
        ("5n", "0.000000005"), ("3u", "0.000003"), (2, "2"), ("what", "0"), ("1Zi", "0"), ("", "0"),
    ],
)  # fmt: skip
def test_quantities(text: Any, number: str) -> None:
    assert quantity(text) == Decimal(number)


# -- what a pod counts for --------------------------------------------------------------------------------------------


def asks(cpu: str, **more: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": cpu}}, **more}


ALWAYS = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [asks("1"), asks("2")]}, "3"),
        ({"containers": [asks("1")], "initContainers": [asks("500m")]}, "1"),
        ({"containers": [asks("1")], "initContainers": [asks("4"), asks("3")]}, "4"),
        ({"containers": [asks("1")], "initContainers": [asks("2", **ALWAYS)]}, "3"),  # a native sidecar goes on running
        ({"containers": [asks("1")], "initContainers": [asks("2", **ALWAYS), asks("5")]}, "7"),  # beside it
        ({"containers": [asks("1")], "initContainers": [asks("5"), asks("2", **ALWAYS)]}, "5"),  # before it
        ({"containers": [{"resources": {"limits": {"cpu": "2"}}}]}, "2"),  # only a limit: it is asked for, too
        ({"containers": [asks("1")], "overhead": {"cpu": "250m"}}, "1.25"),
        ({"containers": [asks("1")], **asks("6")}, "6"),  # of the pod as a whole
    ],
)
def test_what_a_pod_asks_for(spec: dict[str, Any], cpu: str) -> None:
    found = usage(spec)
    assert found["requests.cpu"] == found["cpu"] == Decimal(cpu)
    assert found["pods"] == found["count/pods"] == 1


def test_limits_are_counted_for_themselves() -> None:
    resources = {"requests": {"cpu": "1", "memory": "1Ki"}, "limits": {"cpu": "4"}}
    found = usage({"containers": [{"resources": resources}, {"resources": resources}]})
    assert {key: int(amount) for key, amount in found.items() if "." in key} == {
        "limits.cpu": 8, "requests.cpu": 2, "requests.memory": 2048
    }  # fmt: skip
    assert "limits.memory" not in found


# -- whether a rollout ends -------------------------------------------------------------------------------------------


def pods(count: int, cpu: int = 1) -> list[Usage]:
    return [{"pods": Decimal(1), "requests.cpu": Decimal(cpu)} for _ in range(count)]


def crowd(wanted: int = 4, *, cpu: int = 1, surge: int = 1, spare: int = 0, **more: Any) -> Crowd:
    return Crowd(wanted, surge, spare, pods(1, cpu)[0], **more)


def problems(hard: dict[str, str], used: dict[str, str], *crowds: Crowd, at_once: bool = False, **leaving: int) -> str:
    quota = {"metadata": {"name": "small"}, "status": {"hard": hard, "used": used}}
    going = {key: Decimal(count) for key, count in leaving.items()}
    return "; ".join(quota_problems([quota], crowds, going, at_once=at_once))


FULL: tuple[dict[str, str], dict[str, str]] = ({"pods": "4"}, {"pods": "4"})


@pytest.mark.parametrize(
    "found",
    [
        crowd(new=4, asked=4),  # the bad release never got a pod in
        crowd(new=4, asked=4, waiting=[{}]),  # and still asks for one
        crowd(new=3, asked=3, spare=1, waiting=pods(1)),  # its broken pod gives its room to a good one
        crowd(new=2, asked=2, spare=1, waiting=pods(1), ready=pods(1)),
        crowd(spare=1, ready=pods(4)),  # one may be missing meanwhile
        crowd(spare=1, waiting=pods(4)),
        crowd(surge=0, spare=4, ready=pods(4)),  # all old ones end first
        crowd(wanted=0, ready=pods(4)),
    ],
    ids=repr,
)
def test_a_rollout_that_a_full_quota_does_not_stop(found: Crowd) -> None:
    assert problems(*FULL, found) == ""


@pytest.mark.parametrize(
    "found", [crowd(ready=pods(4)), crowd(waiting=pods(4)), crowd(new=3, asked=3, waiting=pods(1))]
)
def test_a_rollout_that_needs_one_more_pod_than_there_may_be(found: Crowd) -> None:
    """No pod may be missing, so none goes before a new one has come: also kubectl's stands still then."""
    assert problems(*FULL, found) == "quota small lets no 1 more pods in (4 of 4 are used)"
    assert problems({"pods": "5"}, {"pods": "4"}, found) == ""
    assert problems(*FULL, found, pods=1) == "", "one of another workload is on its way out"


def test_what_pods_ask_for_is_counted_and_not_only_how_many_they_are() -> None:
    larger, smaller = crowd(cpu=3, spare=1, ready=pods(4, 1)), crowd(cpu=1, spare=1, ready=pods(4, 3))
    assert "lets no 3 more requests.cpu in (4 of 8 are used)" in problems(
        {"requests.cpu": "8", "limits.cpu": "1", "services": "0"}, {"requests.cpu": "4"}, larger
    )
    assert problems({"requests.cpu": "12"}, {"requests.cpu": "4"}, larger) == ""
    assert problems({"requests.cpu": "12"}, {"requests.cpu": "12"}, smaller) == ""
    stopped = crowd(cpu=3, surge=0, spare=4, ready=pods(4, 1))
    assert "lets no 3 more requests.cpu" in problems({"requests.cpu": "8"}, {"requests.cpu": "4"}, stopped)


def test_several_workloads_share_the_room() -> None:
    assert problems({"pods": "9"}, {"pods": "8"}, crowd(ready=pods(4)), crowd(ready=pods(4))) == ""
    both = problems({"pods": "8"}, {"pods": "8"}, crowd(ready=pods(4)), crowd(ready=pods(4)))
    assert both == "quota small lets no 2 more pods in (8 of 8 are used)"


def test_all_at_once_needs_room_for_all_beside_those_that_serve() -> None:
    found = crowd(surge=4, ready=pods(4))
    assert "lets no 4 more pods in (4 of 7" in problems({"pods": "7"}, {"pods": "4"}, found, at_once=True)
    assert problems({"pods": "8"}, {"pods": "4"}, found, at_once=True) == ""
    there = crowd(surge=4, new=3, asked=3, ready=pods(1))
    assert problems({"pods": "5"}, {"pods": "4"}, there, at_once=True) == "", "three are of the version already"


# -- who is there -----------------------------------------------------------------------------------------------------


def deployment(replicas: int = 4, **strategy: Any) -> dict[str, Any]:
    item = recorded("deployment")
    item["spec"].update(replicas=replicas, strategy=strategy)
    return item


def standing(
    item: dict[str, Any], *there: dict[str, Any], sets: list[dict[str, Any]], kind: Workload = API
) -> Standing:
    def answer(handler: Handler) -> None:
        items = sets if "replicasets" in handler.path else list(there) if "pods" in handler.path else []
        handler.reply(200, {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})

    with client_of(answer) as (client, _server):
        return Standing(client, "shop", {kind: item})


@pytest.mark.parametrize(
    ("strategy", "way", "steps"),
    [
        ({}, "undo", (1, 1)),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "30%", "maxSurge": "30%"}}, "undo", (2, 1)),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}}, "undo", (2, 0)),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0}}, "undo", (0, 1)),
        ({"type": "Recreate"}, "undo", (0, 4)),
        ({"type": "Recreate"}, "fast", (0, 4)),
        ({}, "fast", (4, 0)),
        ({}, "recreate", (0, 4)),
    ],
)
def test_how_many_pods_more_and_fewer_there_may_be(strategy: dict[str, Any], way: str, steps: tuple[int, int]) -> None:
    item = deployment(**strategy)
    found = standing(item, sets=[]).crowd(API, item["spec"]["template"], way=way, anew=False)
    assert (found.wanted, (found.surge, found.spare)) == (4, steps)


def test_what_an_object_keeps_for_the_time_of_a_rollout_is_what_counts() -> None:
    item = deployment(0, **FAST)
    item["metadata"].setdefault("annotations", {})[HELD] = '{"replicas": 2, "strategy": {"type": "Recreate"}}'
    found = standing(item, sets=[]).crowd(API, item["spec"]["template"], way="undo", anew=False)
    assert (found.wanted, found.surge, found.spare) == (2, 0, 2)


def test_the_pods_of_a_stateful_set_are_replaced_one_by_one() -> None:
    item = recorded("statefulset")
    found = standing(item, sets=[], kind=DB).crowd(DB, item["spec"]["template"], way="fast", anew=False)
    assert (found.surge, found.spare) == (0, 1)


def test_pods_are_told_apart_by_the_template_that_they_were_made_from() -> None:
    """Also those that are not ready, that are on their way out, and that were asked for and never came."""
    item, sets = deployment(3), listed("replicasets")
    uid = item["metadata"]["uid"]
    ours = [one for one in sets if one["metadata"]["ownerReferences"][0]["uid"] == uid]
    good, bad = ours[0], ours[1]
    for one in ours:
        one["spec"]["replicas"] = {id(good): 2, id(bad): 3}.get(id(one), 0)

    def pod(of: dict[str, Any], number: int, *, ready: bool = True, going: bool = False) -> dict[str, Any]:
        owner = {"kind": "ReplicaSet", "name": of["metadata"]["name"], "uid": of["metadata"]["uid"], "controller": True}
        metadata: dict[str, Any] = {"name": f"{of['metadata']['name']}-{number}", "ownerReferences": [owner]}
        metadata.update({"deletionTimestamp": "2026-12-01T00:00:00Z"} if going else {})
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        return {"metadata": metadata, "spec": {"containers": [asks("1")]}, "status": {"conditions": conditions}}

    here = standing(
        item,
        pod(good, 1),
        pod(good, 2, going=True),
        pod(bad, 1),
        pod(bad, 2, ready=False),
        {**pod(bad, 3), "status": {"phase": "Failed"}},
        sets=sets,
    )
    found = here.crowd(API, good["spec"]["template"], way="undo", anew=False)
    assert (found.new, found.asked, len(found.ready), len(found.waiting)) == (1, 2, 1, 2)
    assert found.waiting[0] == {}, "the one that never came"
    assert here.leaving()["pods"] == 1
    anew = here.crowd(API, good["spec"]["template"], way="undo", anew=True)
    assert (anew.new, len(anew.ready), len(anew.waiting)) == (0, 2, 3)


def test_a_quota_that_counts_only_some_pods_or_cannot_be_read_forbids_nothing() -> None:
    items = [{"spec": {"scopes": ["BestEffort"]}}, {"spec": {"scopeSelector": {}}}, {"spec": {"hard": {"pods": "1"}}}]

    def answer(handler: Handler) -> None:
        handler.reply(200, {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})

    with client_of(answer) as (client, _server):
        assert [one["spec"] for one in quotas_of(client, "shop")] == [{"hard": {"pods": "1"}}]
    with client_of(lambda handler: handler.refuse(403, "Forbidden")) as (client, _server):
        assert quotas_of(client, "shop") == []
