# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `pods`: ready, stuck and restarted pods of a real cluster, and what only a status document can show."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_kube_pods import judge, restarts, trouble
from ansible.module_utils.rollbackctl.check_kube_select import Group, as_text
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube_service import KubeService
from tests.unit.module_utils.check_lab import SECOND, ask, one, tell, time_of


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    return KubeService(lab_cluster, admin, namespace)


def test_a_workloads_own_pods_are_counted(service: KubeService) -> None:
    """Another application's pods with the same labels are found by a selector, and never for the workload."""
    service.make(wait=False)
    service.make("statefulset/other", labels={"app": "api"}, wait=False)
    service.wait()
    service.wait("statefulset/other")
    found = ask(
        service,
        {"name": "workload", "kind": "pods"},
        {"name": "selector", "kind": "pods", "selector": "app=api", "ready": 2},
        {"name": "both", "kind": "pods", "workload": ["deployment/api", "statefulset/other"]},
        {"name": "too-many", "kind": "pods", "selector": "app=api", "ready": 3, "within": 0},
        {"name": "absent", "kind": "pods", "workload": ["deployment/api", "daemonset/api"], "within": 0},
        {"name": "nobody", "kind": "pods", "selector": "app=none", "within": 0},
    )
    assert {name: result.text for name, result in found.items()} == {
        "workload": "deployment/api: 1 of 1 pods ready",
        "selector": "selector app=api: 2 of 2 pods ready",
        "both": "deployment/api: 1 of 1 pods ready; statefulset/other: 1 of 1 pods ready",
        "too-many": "selector app=api: 2 of 2 pods ready, expected at least 3",
        "absent": f"daemonset/api does not exist in {service.namespace}",
        "nobody": "selector app=none: 0 of 0 pods ready, expected 1",
    }
    assert [name for name, result in found.items() if result.ok] == ["workload", "selector", "both"]
    # A workload that was scaled away is no healthy one.
    service.edit("deployment/api", {"op": "replace", "path": "/spec/replicas", "value": 0})
    service.until(lambda: not service.pods(**{"app": "api", "pod-template-hash": _hash(service)}))
    assert one(service, kind="pods").text == "deployment/api: 0 of 0 pods ready, expected 1"


def _hash(service: KubeService) -> str:
    sets = service.admin.list(f"/apis/apps/v1/namespaces/{service.namespace}/replicasets")
    return str(sets[0]["metadata"]["labels"]["pod-template-hash"])


def test_stuck_pods_are_named_with_their_reason_and_how_they_ended(service: KubeService) -> None:
    hungry = {"resources": {"requests": {"cpu": "1000"}}}
    service.make("deployment/crash", env={"MODE": "crash"}, wait=False)
    service.make(
        "deployment/image", container={"image": "lab.local/shop:absent", "imagePullPolicy": "Never"}, wait=False
    )
    service.make("deployment/big", container=hungry, wait=False)
    service.make("deployment/deaf", env={"MODE": "notready"}, wait=False)

    def state(name: str) -> str:
        return one(service, kind="pods", workload=f"deployment/{name}").text

    crash = service.until(lambda: text if "CrashLoopBackOff" in (text := state("crash")) else None)
    (pod,) = service.pods(app="crash")
    assert crash.startswith(
        f"deployment/crash: 0 of 1 pods ready, expected 1; pod {pod['metadata']['name']}: container shop"
    )
    assert "is in CrashLoopBackOff, last ended with exit code 1 (Error) at 20" in crash
    assert "ErrImageNeverPull (Container image" in service.until(
        lambda: text if "Err" in (text := state("image")) else None
    )
    assert "Unschedulable (0/1 nodes are available" in service.until(
        lambda: text if "Unsch" in (text := state("big")) else None
    )
    assert "ContainersNotReady (containers with unready status: [shop])" in service.until(
        lambda: text if "unready" in (text := state("deaf")) else None
    )
    # Enough others that are ready do not make up for a stuck one.
    service.make("deployment/well", env={"DRAIN_MS": "0"})
    stuck = one(service, kind="pods", selector="app in (well,crash,image)", ready=1)
    assert not stuck.ok
    assert "; and 1 more" in stuck.text
    # A broken image is no reason to wait for longer than asked.
    waited = one(service, kind="pods", workload="deployment/image", within=1)
    assert 1 <= waited.seconds < 20


def test_restarts_count_from_the_change_on(service: KubeService) -> None:
    service.make(env={"DRAIN_MS": "0"})
    (pod,) = service.pods()
    made = time_of(pod["metadata"]["creationTimestamp"])
    service.until(lambda: datetime.now(UTC) > made + 2 * SECOND)
    changed = datetime.now(UTC)
    time.sleep(1)
    _crash(service, pod)
    after = datetime.now(UTC) + SECOND
    restarted = one(service, kind="pods", changed=changed)
    assert not restarted.ok
    assert (
        f"pod {pod['metadata']['name']}: container shop was restarted 1 times, last ended with exit code 1"
        in restarted.text
    )
    assert "expected at most 0" in restarted.text
    assert one(service, kind="pods", changed=made - SECOND).ok is False
    assert one(service, kind="pods", changed=changed, max_restarts=1).ok
    assert one(service, kind="pods").ok, "nothing was changed, so nothing counts"
    time.sleep(1)
    assert one(service, kind="pods", changed=after).ok


def _crash(service: KubeService, pod: dict[str, Any]) -> None:
    """Have the pod's container end, and wait until it is ready again."""
    tell(service, pod, "crash")

    def again() -> bool:
        containers = [one["status"]["containerStatuses"][0] for one in service.pods()]
        return all(one["restartCount"] == 1 and one["ready"] for one in containers)

    service.until(again)


def test_a_change_that_lies_ahead_is_no_proof(service: KubeService) -> None:
    """Or a controller whose clock is wrong would find that nothing was restarted since."""
    service.make()
    later = one(service, kind="pods", changed=datetime.now(UTC) + 60 * SECOND)
    assert later.unverified
    assert "set the controller's clock right" in later.text


def test_an_api_server_that_does_not_let_us_is_unverified(service: KubeService) -> None:
    denied = ask(service, {"name": "pods", "kind": "pods", "namespace": "never-made", "within": 0})["pods"]
    assert denied.text == "deployment/api does not exist in never-made"
    wrong = one(service, kind="pods", selector="app=(")
    assert wrong.unverified
    assert "400" in wrong.text


# What a status document says. The documents are cut out of a real cluster's.

MADE, CHANGED, LATER = "2026-11-21T09:00:00Z", time_of("2026-11-21T09:30:00Z"), "2026-11-21T09:31:00Z"


def pod_of(phase: str, *containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    listed = [{"name": f"c{number}", "restartCount": 0, **one} for number, one in enumerate(containers)]
    metadata = {"name": "api-1", "uid": "1", "creationTimestamp": MADE}
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": listed, **status}}


def ended(code: int, when: str, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": when}}


RUNNING = {"running": {"startedAt": LATER}}


def test_restarts_of_an_older_pod_may_not_be_known() -> None:
    often = pod_of("Running", {"state": RUNNING, "lastState": ended(1, LATER), "restartCount": 5})
    assert restarts(often, CHANGED)[:2] == (1, 5)
    before = pod_of("Running", {"state": RUNNING, "lastState": ended(1, MADE), "restartCount": 5})
    assert restarts(before, CHANGED) == (0, 0, "")
    often["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    group = Group("deployment/api", (often,), 1)
    assert not judge(group, {}, CHANGED).unverified
    doubt = judge(group, {"max_restarts": 3}, CHANGED)
    assert (doubt.ok, doubt.unverified) == (False, True)
    assert "how many of them since the change at 2026-11-21T09:30:00Z is not known" in doubt.text
    assert judge(group, {"max_restarts": 5}, CHANGED).ok


def test_pods_that_are_done_or_were_thrown_out_are_no_trouble() -> None:
    assert trouble(pod_of("Succeeded", {"state": ended(0, LATER, "Completed")}), CHANGED) == ""
    assert trouble(pod_of("Failed", {"state": ended(137, LATER)}, reason="Evicted"), CHANGED) == ""
    assert trouble(pod_of("Failed", {"state": ended(1, MADE)}), CHANGED) == ""
    assert "has ended with exit code 1 (Error) at 2026-11-21T09:31:00Z" in trouble(
        pod_of("Failed", {"state": ended(1, LATER)}), CHANGED
    )
    assert trouble(pod_of("Failed", {"state": ended(1, MADE)}), None)
    assert trouble(pod_of("Running", {"state": ended(137, MADE, "OOMKilled")}), CHANGED)
    assert trouble(pod_of("Pending", {"state": {"waiting": {"reason": "ContainerCreating"}}}), CHANGED) == ""
    config = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "shop" not found'}}
    assert 'CreateContainerConfigError (secret "shop" not found)' in trouble(pod_of("Pending", {"state": config}), None)


def test_a_controller_that_has_not_looked_yet_is_waited_for() -> None:
    assert "has not seen its last change yet" in judge(Group("deployment/api", (), 0, behind=True), {}, None).text


def test_a_selector_is_written_as_the_api_wants_it() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "env", "operator": "NotIn", "values": ["test"]},
        {"key": "app", "operator": "Exists"},
        {"key": "old", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "api"}, "matchExpressions": expressions}
    assert as_text(selector) == "app=api,tier in (a,b),env notin (test),app,!old"
