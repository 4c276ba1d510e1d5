# SPDX-License-Identifier: GPL-3.0-or-later
"""Canaries stopped in a real cluster, by runs of the engine."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.faults.harness import Died
from tests.support.kube_service import BAD, GOOD, Ended, KubeService

STABLE, CANARY = {"app": "api", "track": "stable"}, {"app": "api", "track": "canary"}


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """A stable version and a canary beside it, behind one Service."""
    found = KubeService(lab_cluster, admin, namespace)
    found.component = {
        "name": "canary", "strategy": "canary_stop", "workloads": ["deployment/api-canary"], "timeout": 30.0,
    }  # fmt: skip
    found.make("deployment/api", GOOD, labels=STABLE, wait=False)
    found.make("deployment/api-canary", BAD, labels=CANARY, env={"MODE": "notready"}, wait=False)
    found.serve(selector={"app": "api"})
    found.until(lambda: found.pods(track="canary"))
    return found


def count(service: KubeService) -> int:
    return int(service.get("deployment/api-canary")["spec"]["replicas"])


def refused(service: KubeService, words: str, **run: Any) -> Ended:
    before = service.objects()
    ended = service.run(**run)
    assert ended.outcome == "refused", ended
    assert words in ended.message, ended.message
    assert service.objects() == before
    return ended


def test_a_canary_is_stopped_without_a_checkpoint_and_can_start_again(service: KubeService) -> None:
    """B17: nothing is deleted. It was broken: nobody waits for it when the run is undone."""
    before = service.get("deployment/api-canary")
    ended = service.run()
    assert ended.outcome == "done", ended
    assert (count(service), service.pods(track="canary")) == (0, [])
    after = service.get("deployment/api-canary")
    assert {**before["spec"], "replicas": 0} == after["spec"]
    assert service.run().outcome == "already"
    forward = service.run("undo", named=ended.run)
    assert (forward.outcome, count(service)) == ("done", 1)


@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_on_the_way_a_resume_goes_on(service: KubeService, place: str) -> None:
    with pytest.raises(Died) as died:
        service.run(failpoint=f"rollback_kubernetes.canary.{place}:kill")
    assert count(service) == (1 if place == "before" else 0)
    ended = service.run(named=died.value.run)
    assert ended.outcome in {"done", "already"}, ended
    assert count(service) == 0


def test_taken_back_it_has_its_count_again(service: KubeService) -> None:
    service.edit("deployment/api-canary", {"op": "replace", "path": "/spec/replicas", "value": 2})
    ended = service.run(break_after="verify")
    assert (ended.outcome, count(service)) == ("restored", 2), ended


def test_by_its_labels_and_none_is_fine(service: KubeService) -> None:
    service.edit("deployment/api-canary", {"op": "add", "path": "/metadata/labels", "value": CANARY})
    service.component.update(workloads=[], selector="track=canary")
    assert service.run().outcome == "done"
    assert (count(service), service.pods(track="canary")) == (0, [])
    service.component["selector"] = "track=none"
    assert service.run().outcome == "already"


def test_an_autoscaler_that_adds_a_canary_meanwhile_does_not_save_it(service: KubeService) -> None:
    def scale() -> None:
        service.edit("deployment/api-canary", {"op": "replace", "path": "/spec/replicas", "value": 2})

    ended = service.run(before={"rollback": scale})
    assert (ended.outcome, count(service)) == ("done", 0), ended
    forward = service.run("undo", named=ended.run)
    assert (forward.outcome, count(service)) == ("done", 2), "as many as there were when it was stopped"


def test_what_cannot_be_stopped_is_refused(service: KubeService) -> None:
    refused(service, "a canary can only be `stopped`, not 'version:1'", to={"canary": "version:1"})
    labels = {"argocd.argoproj.io/instance": "shop"}
    service.edit("deployment/api-canary", {"op": "add", "path": "/metadata/labels", "value": labels})
    refused(service, "deployment/api-canary belongs to Argo CD, which would start it again")
    service.component["workloads"] = []
    refused(service, "strategy canary_stop needs `workloads` or `selector`")
    service.make("daemonset/agent", wait=False)
    service.until(lambda: service.pods(app="agent"))
    service.component["workloads"] = ["daemonset/agent"]
    service.wait("daemonset/agent")
    refused(service, "daemonset/agent has no replica count")


def test_beside_the_stable_version_that_is_rolled_back_in_the_same_run(service: KubeService) -> None:
    """The canary is listed first: the Service is proven to send requests to the stable version alone."""
    service.edit(
        "deployment/api-canary", {"op": "replace", "path": "/spec/template/spec/containers/0/env", "value": []}
    )
    service.wait("deployment/api")
    stable = {
        "name": "api", "workloads": ["deployment/api"], "service": "api", "timeout": 40.0,
        "answer": {"port": "http", "path": "/version", "json": "version"},
    }  # fmt: skip
    service.deploy("deployment/api")
    service.wait("deployment/api-canary")
    ended = service.run(components=[service.component, stable], to={"api": "revision:1"})
    assert ended.outcome == "done", ended
    assert {service.version() for _ in range(10)} == {GOOD}
