# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_rollout import (
    is_ready,
    matches_labels,
    may_pass,
    not_ready,
    pod_failure,
    progress,
    settled,
    waits_in_order,
)

from tests.unit.module_utils.kube_recorded import recorded


@pytest.mark.parametrize(
    ("name", "done", "over", "text"),
    [
        ("deployment", True, True, "2 of 2 updated, 2 available, 0 old ones left"),
        ("deployment-second", True, True, "2 of 2 updated"),
        ("deployment-unseen", False, False, "its controller has not seen the change yet"),
        ("deployment-rolling", False, False, "2 of 2 updated, 3 available, 1 old ones left"),
        ("deployment-paused", False, False, "1 of 2 updated, 2 available, 2 old ones left"),
        ("deployment-too-late", False, False, "1 of 2 updated"),
        ("deployment-without-pods", False, False, "0 of 1 updated, 0 available, 0 old ones left"),
        ("statefulset", True, True, "2 of 2 updated"),
        ("statefulset-second", True, True, "2 of 2 updated"),
        ("statefulset-rolling", False, False, "1 of 2 updated, 1 available, 1 old ones left"),
        ("daemonset", True, True, "1 of 1 updated, 1 available"),
        ("daemonset-second", True, True, "1 of 1 updated, 1 available"),
    ],
)
def test_how_far_a_rollout_is(name: str, done: bool, over: bool, text: str) -> None:  # noqa: FBT001 - a table
    item = recorded(name)
    found = progress(item["kind"].lower(), item)
    assert (found.done, settled(item["kind"].lower(), item)) == (done, over)
    assert found.text.startswith(text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deployment", ""),
        ("deployment-rolling", ""),
        ("deployment-paused", ""),
        ("deployment-too-late", 'ReplicaSet "api-64cb65c8b4" has timed out progressing.'),
        ("deployment-without-pods", 'pods cannot be made: pods "late-'),
    ],
)
def test_why_a_rollout_will_not_end(name: str, words: str) -> None:
    item = recorded(name)
    found = progress("deployment", item).failed
    assert found.startswith(words)
    assert bool(found) is bool(words)
    # What was so before the change says nothing about it.
    assert progress("deployment", item, known=item["status"]["conditions"]).failed == ""


def status(item: dict[str, Any], **values: int) -> dict[str, Any]:
    item["status"].update(values)
    return item


def test_an_autoscaler_or_an_unwell_pod_does_not_begin_a_rollout() -> None:
    item = status(recorded("deployment"), availableReplicas=1, readyReplicas=1)
    assert not progress("deployment", item).done
    assert settled("deployment", item)
    item["spec"]["replicas"] = 4
    assert settled("deployment", item)
    db = status(recorded("statefulset"), availableReplicas=1, readyReplicas=1)
    db["spec"]["replicas"] = 3
    assert settled("statefulset", db)


def test_no_pod_at_all_is_not_the_end_of_a_rollout() -> None:
    """With the strategy Recreate, going back and forth, the condition says "available" before a pod is there."""
    for pods in (0, 2):
        item = status(recorded("deployment"), replicas=pods, updatedReplicas=pods, availableReplicas=0, readyReplicas=0)
        assert not settled("deployment", item)


def test_without_a_progress_deadline_the_condition_is_not_believed() -> None:
    item = status(recorded("deployment"), availableReplicas=1)
    item["spec"]["progressDeadlineSeconds"] = 2**31 - 1
    assert not settled("deployment", item)


def test_stopped_workloads_are_rolled_out() -> None:
    for name in ("deployment", "statefulset"):
        item = recorded(name)
        item["spec"]["replicas"] = 0
        zeros = dict.fromkeys(
            ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "currentReplicas"), 0
        )
        assert settled(name, status(item, **zeros)), name


@pytest.mark.parametrize(
    ("name", "failure", "ready", "why"),
    [
        ("pod-ready", "", True, ""),
        ("pod-crashing", "pod db-1, container shop: CrashLoopBackOff, it ended with 1", False, "containers with"),
        ("pod-without-image", "container shop: ImagePullBackOff: Back-off pulling image", False, "containers with"),
        ("pod-not-ready", "", False, "containers with unready status: [shop]"),
        ("pod-unschedulable", "", False, "0/1 nodes are available: 1 Insufficient cpu."),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pod(name: str, failure: str, ready: bool, why: str) -> None:  # noqa: FBT001 - a table
    pod = recorded(name)
    assert failure in pod_failure(pod)
    assert bool(pod_failure(pod)) is bool(failure)
    assert is_ready(pod) is ready
    assert not_ready(pod).startswith(why)
    assert bool(not_ready(pod)) is bool(why)


def waiting(reason: str, *, restarts: int = 0, field: str = "containerStatuses") -> dict[str, Any]:
    pod = recorded("pod-crashing")
    one = pod["status"].pop("containerStatuses")[0]
    one.update(restartCount=restarts, state={"waiting": {"reason": reason}})
    pod["status"][field] = [one]
    return pod


@pytest.mark.parametrize(
    ("reason", "restarts", "hopeless", "passes"),
    [
        ("ContainerCreating", 0, False, False),
        ("ErrImagePull", 0, False, True),
        ("ImagePullBackOff", 0, True, False),
        ("ErrImageNeverPull", 0, True, False),
        ("InvalidImageName", 0, True, False),
        ("CreateContainerConfigError", 0, True, True),
        ("RunContainerError", 0, True, True),
        ("CrashLoopBackOff", 1, False, False),
        ("CrashLoopBackOff", 2, True, False),
    ],
)
def test_what_waiting_does_not_help(reason: str, restarts: int, hopeless: bool, passes: bool) -> None:  # noqa: FBT001
    for field in ("containerStatuses", "initContainerStatuses"):
        pod = waiting(reason, restarts=restarts, field=field)
        assert bool(pod_failure(pod)) is hopeless
        assert may_pass(pod) is passes


def test_an_image_that_could_not_be_pulled_is_a_failure_for_those_who_ask() -> None:
    assert pod_failure(waiting("ErrImagePull")) == ""
    assert pod_failure(waiting("ErrImagePull"), pulling=True).startswith("pod db-1, container shop: ErrImagePull")


def test_a_pod_on_its_way_out_is_not_ready() -> None:
    pod = recorded("pod-ready")
    pod["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    assert not is_ready(pod)
    assert not is_ready({"metadata": {"name": "new"}})
    assert not_ready({"metadata": {"name": "new"}}) == "it has not started"


def test_who_waits_for_a_broken_pod() -> None:
    db = recorded("statefulset")
    assert waits_in_order("statefulset", db)
    db["spec"]["podManagementPolicy"] = "Parallel"
    assert not waits_in_order("statefulset", db)
    assert not waits_in_order("deployment", recorded("deployment"))


LABELS = {"app": "api", "tier": "web"}


@pytest.mark.parametrize(
    ("selector", "takes"),
    [
        ({"matchLabels": {"app": "api"}}, True),
        ({"matchLabels": {"app": "api", "tier": "db"}}, False),
        ({"matchLabels": {"app": "api", "more": "x"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "x"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["api"]}]}, False),
        ({"matchExpressions": [{"key": "more", "operator": "NotIn", "values": ["api"]}]}, True),
        ({"matchExpressions": [{"key": "more", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "more", "operator": "DoesNotExist"}]}, True),
        ({"matchLabels": {"app": "api"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}, False),
        ({}, True),
    ],
)
def test_which_labels_a_selector_takes(selector: dict[str, Any], takes: bool) -> None:  # noqa: FBT001 - a table
    assert matches_labels(selector, LABELS) is takes
