# SPDX-License-Identifier: GPL-3.0-or-later
"""A version whose pods could not start is refused before anything is stopped: what they read is gone, or they would not
be let in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube import token_kubeconfig
from tests.support.kube_refusal import refused
from tests.support.kube_rights import LEVEL1
from tests.support.kube_service import BAD, GOOD, KubeService

STRATEGIES = ["undo", "fast", "recreate"]


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """Nothing is made yet."""
    return KubeService(lab_cluster, admin, namespace)


def core(service: KubeService, word: str, name: str, **body: Any) -> str:
    """Make an object of the core API; return its path."""
    path = f"/api/v1/namespaces/{service.namespace}/{word}"
    service.admin.create(path, {"metadata": {"name": name}, **body})
    return f"{path}/{name}"


def reading(service: KubeService, *, spec: dict[str, Any] | None = None, **container: Any) -> None:
    """Make the good version with something that it reads, take a checkpoint, and deploy a bad one that does not."""
    template = service.template(GOOD, labels={"app": "api"}, container=container)
    template["spec"].update(spec or {})
    service.make(spec={"template": template})
    service.serve()
    service.checkpoint()
    service.deploy()
    assert service.version() == BAD


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_config_map_that_was_pruned_with_the_release_before(service: KubeService, strategy: str) -> None:
    path = core(service, "configmaps", "api-5c8b", data={"SHOP_LEVEL": "one"})
    service.component["strategy"] = strategy
    reading(service, envFrom=[{"configMapRef": {"name": "api-5c8b"}}])
    service.admin.delete(path)
    refused(service, "deployment/api: the version that is gone back to needs configmap/api-5c8b, which is not there")
    core(service, "configmaps", "api-5c8b", data={"SHOP_LEVEL": "one"})
    assert service.run().outcome == "done"
    assert service.version() == GOOD


KEY = {"name": "thing", "key": "level"}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a variable of a ConfigMap": (
        {"env": [{"name": "SHOP_LEVEL", "valueFrom": {"configMapKeyRef": KEY}}]}, {}, "configmap",
    ),
    "a variable of a Secret": ({"env": [{"name": "SHOP_LEVEL", "valueFrom": {"secretKeyRef": KEY}}]}, {}, "secret"),
    "all variables of a Secret": ({"envFrom": [{"secretRef": {"name": "thing"}}]}, {}, "secret"),
    "a volume of a ConfigMap": ({}, {"volumes": [{"name": "v", "configMap": {"name": "thing"}}]}, "configmap"),
    "a volume of a Secret": ({}, {"volumes": [{"name": "v", "secret": {"secretName": "thing"}}]}, "secret"),
    "a projected volume": (
        {}, {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "thing"}}]}}]}, "secret",
    ),
    "a ServiceAccount": ({}, {"serviceAccountName": "thing"}, "serviceaccount"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_everything_else_that_pods_cannot_start_without(service: KubeService, way: str) -> None:
    container, spec, kind = WAYS[way]
    body = (
        {"stringData": {"level": "x"}} if kind == "secret" else {"data": {"level": "x"}} if kind == "configmap" else {}
    )
    path = core(service, f"{kind}s", "thing", **body)
    if container:
        container = {**container, "env": [{"name": "DRAIN_MS", "value": "0"}, *container.get("env", [])]}
    service.component["strategy"] = "recreate"
    reading(service, spec=spec, **container)
    service.admin.delete(path)
    ended = refused(service, f"needs {kind}/thing, which is not there")
    assert "x" not in [word.strip(".,;") for word in ended.message.split()], "no value is said"
    if container and "valueFrom" in str(container):
        core(service, f"{kind}s", "thing", **{field: {"other": "x"} for field in body})
        refused(service, f"needs level of {kind}/thing, which does not hold it")


def test_a_volume_claim_that_is_gone_or_going(service: KubeService) -> None:
    """The pods of the version never start here either way, so it is named instead of recorded."""
    claim = [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]
    template = service.template(GOOD, labels={"app": "api"})
    template["spec"]["volumes"] = claim
    service.make(replicas=0, spec={"replicas": 0, "template": template})
    service.deploy()
    service.component.update(service="", strategy="recreate")
    _refused_alone(service, "needs persistentvolumeclaim/disk, which is not there")
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": ""}
    path = core(service, "persistentvolumeclaims", "disk", spec=spec)
    service.admin.merge_patch(path, {"metadata": {"finalizers": ["example.com/later"]}})
    service.admin.delete(path)
    _refused_alone(service, "needs persistentvolumeclaim/disk, which is being deleted")
    service.admin.merge_patch(path, {"metadata": {"finalizers": None}})


def _refused_alone(service: KubeService, words: str) -> None:
    before = service.objects()
    ended = service.run(to="revision:1")
    assert ended.outcome == "refused", ended
    assert words in ended.message
    assert service.objects() == before


def test_what_is_optional_or_only_for_pulling_images_stops_nothing(service: KubeService) -> None:
    volumes = [{"name": "v", "configMap": {"name": "gone", "optional": True}}]
    spec = {"imagePullSecrets": [{"name": "registry"}], "volumes": volumes}
    reading(service, spec=spec, envFrom=[{"secretRef": {"name": "gone", "optional": True}}])
    ended = service.run()
    assert ended.outcome == "done", ended
    assert "secret/registry, by which images are pulled, is not there" in ended.notes()
    assert not any("gone" in note and "needs" in note for note in ended.notes())


def test_what_level_2_puts_back_before_is_not_missing(service: KubeService) -> None:
    settings = {"name": "settings", "configmaps": ["app"]}
    roles = {"restore_kubernetes_config": [settings], "rollback_kubernetes": [service.component]}
    path = core(service, "configmaps", "app", data={"SHOP_LEVEL": "one"})
    service.make(container={"envFrom": [{"configMapRef": {"name": "app"}}]})
    service.serve()
    service.checkpoint(roles=roles)
    service.deploy()
    service.admin.delete(path)
    refused(service, "needs configmap/app, which is not there", "level 2 does")
    ended = service.run(roles=roles)
    assert ended.outcome == "done", ended
    assert (service.version(), service.admin.get(path)["data"]) == (GOOD, {"SHOP_LEVEL": "one"})


def test_a_version_whose_pods_all_run_is_gone_back_to_and_the_gap_is_said(service: KubeService) -> None:
    """The bad release never got up, so none of the good pods has gone: none has to be made."""
    path = core(service, "configmaps", "app", data={"SHOP_LEVEL": "one"})
    service.make(container={"envFrom": [{"configMapRef": {"name": "app"}}]})
    service.serve()
    service.checkpoint()
    service.deploy(image="lab.local/shop:nowhere", wait=False)
    service.admin.delete(path)
    ended = service.run()
    assert ended.outcome == "done", ended
    assert any("needs configmap/app" in one and "that is restarted would not start" in one for one in ended.notes())
    assert service.version() == GOOD


def test_what_may_not_be_looked_at_is_said_and_stops_nothing(service: KubeService, tmp_path: Path) -> None:
    core(service, "secrets", "app", stringData={"SHOP_LEVEL": "one"})
    service.kubeconfig = token_kubeconfig(service.lab, service.namespace, LEVEL1, tmp_path)
    reading(service, envFrom=[{"secretRef": {"name": "app"}}])
    ended = service.run()
    assert ended.outcome == "done", ended
    said = "whether secret/app is there could not be looked at: it shows in the rollout"
    assert said in ended.notes()


# -- Pod Security -----------------------------------------------------------------------------------------------------


def restrict(service: KubeService, **levels: str) -> None:
    labels = {f"pod-security.kubernetes.io/{mode}": level for mode, level in levels.items()}
    service.admin.merge_patch(f"/api/v1/namespaces/{service.namespace}", {"metadata": {"labels": labels}})
    service.until(lambda: "would violate" in _warned(service))


def _warned(service: KubeService) -> str:
    """Return what kubectl is warned of; the API server hears of a namespace's labels a moment later."""
    warnings: list[str] = []
    item = service.get()
    patch = [{"op": "replace", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": 7}]
    service.admin.json_patch(
        service.path(f"deployment/{item['metadata']['name']}"), patch, dry_run=True, warnings=warnings
    )
    return " ".join(warnings)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_namespace_that_became_restricted_lets_no_pod_of_the_version_in(service: KubeService, strategy: str) -> None:
    service.component["strategy"] = strategy
    reading(service)
    restrict(service, enforce="restricted")
    refused(service, "would violate PodSecurity", f"Namespace {service.namespace} enforces that")
    assert service.version() == BAD


def test_a_namespace_that_only_warns_lets_them_in(service: KubeService) -> None:
    reading(service)
    restrict(service, warn="restricted", enforce="baseline")
    ended = service.run()
    assert ended.outcome == "done", ended
    assert any("would violate PodSecurity" in one and "enforces only baseline" in one for one in ended.notes())
    assert service.version() == GOOD
