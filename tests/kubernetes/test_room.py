# SPDX-License-Identifier: GPL-3.0-or-later
"""Quotas: a rollback lives within one that `kubectl rollout undo` lives within, and is refused where none could."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_patch import FAST, HELD

from lab.kubernetes.cluster import Cluster
from tests.support.kube_refusal import refused, served
from tests.support.kube_service import BAD, GOOD, KubeService

NOWHERE = "lab.local/shop:nowhere"
TIGHT = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
LOOSE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """Nothing is made yet."""
    found = KubeService(lab_cluster, admin, namespace)
    found.probed = True
    return found


def running(service: KubeService, **made: Any) -> None:
    service.make(**{"replicas": 2, **made})
    service.serve()
    service.checkpoint()


def quota(service: KubeService, **hard: str) -> None:
    """Make a quota, or another one of it, and wait until what is used is counted."""
    path = f"/api/v1/namespaces/{service.namespace}/resourcequotas"
    limits = {key.replace("_", "."): value for key, value in hard.items()}
    if service.admin.find(f"{path}/small") is None:
        service.admin.create(path, {"metadata": {"name": "small"}, "spec": {"hard": limits}})
    else:
        service.admin.merge_patch(f"{path}/small", {"spec": {"hard": limits}})
    service.until(lambda: (service.admin.get(f"{path}/small").get("status") or {}).get("hard") == limits)


def conditions(service: KubeService) -> list[str]:
    return [str(one["type"]) for one in service.get()["status"].get("conditions") or []]


@pytest.mark.parametrize("strategy", ["undo", "fast"])
def test_a_bad_release_that_never_got_in_is_taken_away_beside_a_full_quota(service: KubeService, strategy: str) -> None:
    """All good pods are there, so none is made. kubectl's undo works, and so do we."""
    running(service)
    quota(service, pods="2")
    service.deploy(image=NOWHERE, wait=False)
    service.until(lambda: "ReplicaFailure" in conditions(service))
    service.component["strategy"] = strategy
    with served(service) as states:
        ended = service.run()
    assert ended.outcome == "done", ended
    assert states == states[:1], "the good pods served all the time"
    service.deploy(image=NOWHERE, wait=False)
    service.lab.kubectl("-n", service.namespace, "rollout", "undo", "deployment/api")
    assert service.wait()["spec"]["template"]["spec"]["containers"][0]["image"] == service.lab.image(GOOD)


def test_a_broken_pod_gives_its_room_to_a_good_one(service: KubeService) -> None:
    """A good pod has gone already, and the broken one that came for it holds its place, for some seconds more."""
    running(service, spec={"strategy": LOOSE})
    quota(service, pods="3")
    broken = service.template(BAD, labels={"app": "api"}, container={"image": NOWHERE})
    broken["spec"]["terminationGracePeriodSeconds"] = 8
    service.edit("deployment/api", {"op": "replace", "path": "/spec/template", "value": broken})
    service.until(lambda: sum(pod["spec"]["containers"][0]["image"] == NOWHERE for pod in service.pods(app="api")) == 2)
    service.until(lambda: len(service.admin.list(f"/api/v1/namespaces/{service.namespace}/pods")) == 3)
    ended = service.run()
    assert ended.outcome == "done", ended
    assert (service.version(), len(service.pods(app="api"))) == (GOOD, 2)


def test_a_pod_that_takes_its_time_to_end_is_waited_for(service: KubeService) -> None:
    """It holds its room for longer than a quota may be full otherwise; nothing serves from it meanwhile."""
    running(service, replicas=1, spec={"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0}}})
    service.deploy(env={"DRAIN_MS": "9000"}, wait=False)
    service.edit(
        "deployment/api", {"op": "replace", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": 12}
    )
    service.wait()
    service.until(lambda: len(service.admin.list(f"/api/v1/namespaces/{service.namespace}/pods")) == 1)
    quota(service, pods="1")
    ended = service.run()
    assert ended.outcome == "done", ended
    assert service.version() == GOOD


def test_where_no_way_fits_it_is_refused(service: KubeService) -> None:
    """No pod may be missing, and none is of the version: that needs one more than there may be, whoever does it."""
    running(service, spec={"strategy": TIGHT})
    service.deploy()
    service.until(lambda: len(service.admin.list(f"/api/v1/namespaces/{service.namespace}/pods")) == 2)
    quota(service, pods="2")
    refused(service, "quota small lets no 1 more pods in (2 of 2 are used)")
    quota(service, pods="3")
    assert service.run().outcome == "done"


def test_a_service_is_not_stopped_for_pods_that_would_not_be_let_in(service: KubeService) -> None:
    """With recreate all old pods go first, and the new ones, which ask for more, would not come."""
    service.component["strategy"] = "recreate"
    running(service, container={"resources": {"requests": {"cpu": "20m"}}})
    service.deploy()
    item = service.get()
    item["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1m"}}
    service.edit("deployment/api", {"op": "replace", "path": "/spec/template", "value": item["spec"]["template"]})
    service.wait()
    service.until(lambda: len(service.admin.list(f"/api/v1/namespaces/{service.namespace}/pods")) == 2)
    quota(service, requests_cpu="30m")
    refused(service, "quota small lets no 0.02 more requests.cpu in")


def test_all_at_once_gives_way_where_a_native_sidecar_counts_too(service: KubeService) -> None:
    sidecar = {
        "name": "mesh", "image": service.lab.image(GOOD), "args": ["pause"], "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always", "resources": {"requests": {"cpu": "10m"}},
    }  # fmt: skip
    template = service.template(GOOD, labels={"app": "api"}, container={"resources": {"requests": {"cpu": "1m"}}})
    template["spec"]["initContainers"] = [sidecar]
    service.component["strategy"] = "fast"
    running(service, spec={"template": template})
    item = service.get()
    item["spec"]["template"]["spec"]["containers"][0]["image"] = service.lab.image(BAD)
    service.edit("deployment/api", {"op": "replace", "path": "/spec/template", "value": item["spec"]["template"]})
    service.wait()
    service.until(lambda: len(service.admin.list(f"/api/v1/namespaces/{service.namespace}/pods")) == 2)
    quota(service, requests_cpu="35m")
    with service.seen() as states:
        ended = service.run()
    assert ended.outcome == "done", ended
    assert any("lets no 0.022 more requests.cpu in" in note for note in ended.notes())
    assert all(one["spec"]["strategy"] != FAST for one in states)


def test_all_at_once_gives_way_also_when_the_quota_comes_only_then(service: KubeService) -> None:
    """The pods that cannot start all at once start by the workload's own strategy, and the run goes on."""
    service.component["strategy"] = "fast"
    running(service, spec={"strategy": LOOSE})
    service.deploy()
    service.until(lambda: len(service.admin.list(f"/api/v1/namespaces/{service.namespace}/pods")) == 2)
    before = service.get()["spec"]["strategy"]
    with service.seen() as states:
        ended = service.run(before={"rollback": lambda: quota(service, pods="2")})
    assert ended.outcome == "done", ended
    assert any(one["spec"]["strategy"] == FAST for one in states)
    assert service.get()["spec"]["strategy"] == before
    assert HELD not in service.get()["metadata"]["annotations"]
    assert service.version() == GOOD
