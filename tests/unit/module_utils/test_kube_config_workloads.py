# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration and the workload whose pods read it: a run brings the pair that was recorded, in both modes."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.faults.harness import Died
from tests.support.kube import token_kubeconfig
from tests.support.kube_rights import LEVEL2
from tests.unit.module_utils.kube_config_parts import GOOD_MAP, GOOD_SECRET, MAP, SECRET, Scene
from tests.unit.module_utils.kube_config_runs import Service

TEMPLATE = {
    "metadata": {"labels": {"app": "api"}},
    "spec": {
        "containers": [
            {
                "name": "api",
                "image": "lab.local/shop:1",
                "envFrom": [{"configMapRef": {"name": MAP}}, {"secretRef": {"name": SECRET}}],
            }
        ]
    },
}
WORKLOAD = {"name": "api", "workloads": ["deployment/api"], "config": "settings", "timeout": 60}


@pytest.fixture
def scene(admin: Client, namespace: str) -> Scene:
    return Scene(admin, namespace)


def deployed(scene: Scene) -> None:
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "api"}}, "template": TEMPLATE}
    scene.client.create(
        f"/apis/apps/v1/namespaces/{scene.namespace}/deployments", {"metadata": {"name": "api"}, "spec": spec}
    )


def read_by_pods(scene: Scene) -> tuple[dict[str, str], dict[str, str]]:
    """Return what pods that start now would get."""
    template = scene.client.get(f"/apis/apps/v1/namespaces/{scene.namespace}/deployments/api")["spec"]["template"]
    sources = template["spec"]["containers"][0]["envFrom"]
    return (
        scene.data("configmap", sources[0]["configMapRef"]["name"]),
        scene.data("secret", sources[1]["secretRef"]["name"]),
    )


def rollouts(scene: Scene) -> int:
    """Return how often the pods were replaced."""
    found = scene.client.list(f"/apis/apps/v1/namespaces/{scene.namespace}/replicasets")
    return max(int(item["metadata"]["annotations"]["deployment.kubernetes.io/revision"]) for item in found)


def broken(scene: Scene, kubeconfig: Path, mode: str) -> tuple[Service, tuple[dict[str, str], dict[str, str]]]:
    """Make a service with a proven checkpoint and break its pair; return it, and what the bad release's pods read."""
    scene.options["mode"] = mode
    service = Service(scene, kubeconfig, workload=WORKLOAD)
    scene.make_good()
    deployed(scene)
    service.checkpoint()
    scene.break_it()
    return service, read_by_pods(scene)


@pytest.mark.parametrize("mode", ["in_place", "versioned"])
def test_pods_get_the_pair_that_was_recorded(scene: Scene, lab_cluster: Cluster, mode: str) -> None:
    service, bad = broken(scene, lab_cluster.kubeconfig, mode)
    ending, run = service.run()
    assert ending["outcome"] == "done", ending
    assert read_by_pods(scene) == (GOOD_MAP, GOOD_SECRET)
    assert scene.is_bad() is (mode == "versioned"), "pods of the bad release keep theirs"
    assert rollouts(scene) == 2
    ending, _ = service.run()
    assert ending["outcome"] == "already", ending
    assert rollouts(scene) == 2
    ending, _ = service.run(kind="undo", named=run.run["id"])
    assert ending["outcome"] == "done", ending
    assert read_by_pods(scene) == bad
    assert rollouts(scene) == 3


@pytest.mark.parametrize("mode", ["in_place", "versioned"])
def test_pods_get_back_what_they_had_when_a_run_fails_later(scene: Scene, lab_cluster: Cluster, mode: str) -> None:
    service, bad = broken(scene, lab_cluster.kubeconfig, mode)
    ending, _ = service.run(break_after="verify")
    assert ending["outcome"] == "restored", ending
    assert read_by_pods(scene) == bad
    assert rollouts(scene) == 3
    point = {"in_place": "write.after", "versioned": "copy.after"}[mode]
    with pytest.raises(Died) as died:
        service.run(failpoint=f"restore_kubernetes_config.{point}:kill", only="rollback")
    ending, _ = service.run(named=died.value.run)
    assert ending["outcome"] == "done", ending
    assert read_by_pods(scene) == (GOOD_MAP, GOOD_SECRET)


@pytest.mark.parametrize("mode", ["in_place", "versioned"])
def test_the_rights_that_ship_for_level_2_are_enough(
    scene: Scene, lab_cluster: Cluster, tmp_path: Path, mode: str
) -> None:
    """X14: from the checkpoint to taking the run back, with the Roles of both levels and without that of finalize."""
    kubeconfig = token_kubeconfig(lab_cluster, scene.namespace, LEVEL2, tmp_path)
    service, bad = broken(scene, kubeconfig, mode)
    ending, run = service.run()
    assert ending["outcome"] == "done", ending
    assert read_by_pods(scene) == (GOOD_MAP, GOOD_SECRET)
    ending, _ = service.run(kind="undo", named=run.run["id"])
    assert ending["outcome"] == "done", ending
    assert read_by_pods(scene) == bad
