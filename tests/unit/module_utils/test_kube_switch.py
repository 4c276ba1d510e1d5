# SPDX-License-Identifier: GPL-3.0-or-later
"""A Service switched between colours in a real cluster, by runs of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.faults.harness import Died
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import FaultProxy, Request
from tests.support.kube_service import BAD, GOOD, Ended, KubeService

BLUE, GREEN = {"app": "api", "version": "blue"}, {"app": "api", "version": "green"}
EVERYTHING = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """Blue is good and serves; green is bad, and stands by."""
    found = KubeService(lab_cluster, admin, namespace)
    found.make("deployment/blue", GOOD, labels=BLUE, wait=False)
    found.make("deployment/green", BAD, labels=GREEN, wait=False)
    found.serve(selector=BLUE)
    found.component.update(strategy="blue_green", label="version", workloads=["deployment/blue", "deployment/green"])
    for colour in ("blue", "green"):
        found.wait(f"deployment/{colour}")
    found.until(lambda: found.version() == GOOD)
    return found


def switch(service: KubeService, colour: str, version: str) -> None:
    """Switch it, as a release does."""
    service.edit("services/api", {"op": "replace", "path": "/spec/selector/version", "value": colour})
    service.until(lambda: service.version() == version)


def selected(service: KubeService) -> str:
    return str(service.get("services/api")["spec"]["selector"]["version"])


def refused(service: KubeService, words: str, **run: Any) -> Ended:
    before = service.objects()
    ended = service.run(**run)
    assert ended.outcome == "refused", ended
    assert words in ended.message, ended.message
    assert service.objects() == before
    return ended


def test_one_write_switches_back_and_the_bad_colour_stays(service: KubeService) -> None:
    """B17: the way forward is still there, and so is the evidence."""
    service.checkpoint()
    switch(service, "green", BAD)
    before = service.objects()
    ended = service.run()
    assert ended.outcome == "done", ended
    assert (selected(service), service.version()) == ("blue", GOOD)
    after = service.objects()
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"services/api"}
    assert {**before["services/api"]["spec"], "selector": BLUE} == after["services/api"]["spec"]
    assert service.run().outcome == "already"
    forward = service.run("undo", named=ended.run)
    assert (forward.outcome, selected(service), service.version()) == ("done", "green", BAD)


def test_a_colour_by_its_name(service: KubeService) -> None:
    switch(service, "green", BAD)
    refused(service, "version among the running pods, 'red' does not exist. Known: blue, green", to="red")
    assert service.run(to="blue").outcome == "done"
    assert service.version() == GOOD


@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_at_the_switch_a_resume_goes_on(service: KubeService, place: str) -> None:
    service.checkpoint()
    switch(service, "green", BAD)
    with pytest.raises(Died) as died:
        service.run(failpoint=f"rollback_kubernetes.switch.{place}:kill")
    assert selected(service) == ("green" if place == "before" else "blue")
    ended = service.run(named=died.value.run)
    assert ended.outcome in {"done", "already"}, ended
    assert (selected(service), service.version()) == ("blue", GOOD)


def test_a_colour_that_is_cold_or_small_or_another_is_refused(service: KubeService) -> None:
    service.checkpoint()
    switch(service, "green", BAD)
    service.edit("deployment/green", {"op": "replace", "path": "/spec/replicas", "value": 2})
    service.wait("deployment/green")
    refused(service, "only 1 pods of service api -> blue are ready and 2 serve now. Scale it up, or set `fewer: true`")
    service.component["fewer"] = True
    service.edit("deployment/blue", {"op": "add", "path": "/spec/template/metadata/labels/more", "value": "x"})
    service.wait("deployment/blue")
    refused(service, "deployment/blue is no longer what it was when service api -> blue was recorded")
    service.edit("deployment/blue", {"op": "replace", "path": "/spec/replicas", "value": 0})
    service.until(lambda: not service.pods(version="blue"))
    refused(service, "no pod of service api -> blue is ready, so nothing would serve. Bring it up first")
    assert service.version() == BAD


def test_a_switch_that_git_would_take_back_is_refused(service: KubeService) -> None:
    """K15."""
    labels = {"kustomize.toolkit.fluxcd.io/name": "shop"}
    service.edit("services/api", {"op": "add", "path": "/metadata/labels", "value": labels})
    refused(service, "service api belongs to Flux, which would switch it back", to="green")
    service.component["gitops"] = "paused"
    assert service.run(to="green").outcome == "done"


@pytest.mark.parametrize(
    ("component", "words"),
    [
        ({"service": ""}, "api: strategy blue_green needs `service`"),
        ({"service": "ghost"}, "api: service ghost does not exist in namespace "),
        ({"label": "colour"}, "api: service api does not choose by the label colour; it selects {"),
        ({"workloads": ["deployment/ghost"]}, "api: deployment/ghost does not exist"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(service: KubeService, component: dict[str, Any], words: str) -> None:
    service.component.update(component)
    refused(service, words, to="green")


def test_no_checkpoint_of_a_colour_that_serves_nobody(service: KubeService) -> None:
    service.edit("services/api", {"op": "replace", "path": "/spec/selector/version", "value": "red"})
    ended = service.run("checkpoint")
    assert "none of its pods is ready: that is no state to come back to" in ended.message
    assert service.store.checkpoints() == []


def test_a_switch_by_somebody_else_between_reading_and_writing_is_not_overwritten(
    service: KubeService, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    """K2."""
    service.checkpoint()
    switch(service, "green", BAD)
    service.kubeconfig = token_kubeconfig(
        service.lab, service.namespace, EVERYTHING, tmp_path, server=fault_proxy.url, cluster_rules=[]
    )

    def somebody(_request: Request) -> None:
        service.edit("services/api", {"op": "replace", "path": "/spec/selector/version", "value": "red"})

    met = fault_proxy.add("/services/api$", "PATCH", call=somebody)
    ended = service.run()
    assert met.met == 1
    assert ended.outcome == "unknown", ended
    assert "service api was changed by somebody else in this very moment" in ended.message
    assert selected(service) == "red"


def test_taken_back_the_bad_colour_serves_again_although_it_is_broken(service: KubeService) -> None:
    service.checkpoint()
    service.edit("services/api", {"op": "replace", "path": "/spec/selector/version", "value": "red"})
    ended = service.run(break_after="verify")
    assert ended.outcome == "restored", ended
    assert selected(service) == "red"
