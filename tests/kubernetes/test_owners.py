# SPDX-License-Identifier: GPL-3.0-or-later
"""Others that write to the same objects: operators that keep their own values, and the next `kubectl apply`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube_refusal import refused
from tests.support.kube_service import BAD, GOOD, KubeService

OPERATOR = "shop-operator"


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """Nothing is made yet."""
    return KubeService(lab_cluster, admin, namespace)


# -- operators --------------------------------------------------------------------------------------------------------


def level(service: KubeService) -> str:
    variables = service.get()["spec"]["template"]["spec"]["containers"][0]["env"]
    return next(str(one["value"]) for one in variables if one["name"] == "SHOP_LEVEL")


def write(service: KubeService, value: str, manager: str) -> None:
    """Write one value as somebody else does."""
    service.lab.kubectl(
        "-n", service.namespace, "set", "env", "deployment/api", f"SHOP_LEVEL={value}", f"--field-manager={manager}"
    )


@contextlib.contextmanager
def operator(service: KubeService, value: str, manager: str = OPERATOR) -> Iterator[None]:
    """Have a program put its own value back for as long as the block lasts."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(0.1):
            if level(service) != value:
                write(service, value, manager)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def kept(service: KubeService) -> KubeService:
    """A good version with a checkpoint, and a bad one of another value."""
    service.make(env={"SHOP_LEVEL": "good"})
    service.serve()
    service.checkpoint()
    service.deploy(version=GOOD, env={"SHOP_LEVEL": "bad"})
    return service


PLACE = "template.spec.containers[shop].env[SHOP_LEVEL].value"


@pytest.mark.parametrize("manager", [OPERATOR, "deploy-bot"])
@pytest.mark.parametrize("strategy", ["undo", "recreate"])
def test_an_operator_that_puts_its_value_back_is_noticed_and_named(
    kept: KubeService, strategy: str, manager: str
) -> None:
    """It was not to be known before: it had written nothing yet. It is never called done."""
    kept.component["strategy"] = strategy
    with operator(kept, "bad", manager):
        ended = kept.run()
    assert ended.outcome == "restored", ended
    assert f"{PLACE} was written by {manager} at 20" in ended.message
    # Also where the run took itself back, so that the next command is another one's.
    assert "pause it" in ended.message
    assert "left as it is" not in ended.message
    kept.wait()
    assert (level(kept), kept.get()["spec"]["replicas"]) == ("bad", 1)


def test_an_operator_that_writes_later_is_noticed_by_verify(kept: KubeService) -> None:
    ended = kept.run(before={"verify": lambda: write(kept, "bad", OPERATOR)})
    assert ended.outcome not in {"done", "already"}, ended
    assert (
        f"Somebody else wrote it after that: deployment/api: {PLACE} was written by {OPERATOR} at 20" in ended.message
    )


def test_what_an_operator_has_written_is_refused_until_it_is_paused(kept: KubeService) -> None:
    write(kept, "worse", OPERATOR)
    kept.wait()
    refused(kept, f"deployment/api: {PLACE} was written by {OPERATOR} at 20", "`gitops: paused`")
    kept.component["gitops"] = "paused"
    assert kept.run().outcome == "done"
    assert level(kept) == "good"


def test_what_an_operator_keeps_of_the_rest_is_no_reason(kept: KubeService) -> None:
    """It has written another field, which is the same in both versions."""
    kept.lab.kubectl(
        "-n", kept.namespace, "annotate", "deployment/api", "example.com/seen=1", f"--field-manager={OPERATOR}"
    )
    assert kept.run().outcome == "done"


@pytest.mark.parametrize("strategy", ["undo", "blue_green", "canary_stop"])
def test_what_another_object_s_controller_makes_is_refused(service: KubeService, strategy: str) -> None:
    service.make(labels={"app": "api", "version": "blue"})
    service.make("deployment/green", BAD, labels={"app": "api", "version": "green"})
    service.serve(selector={"app": "api", "version": "blue"})
    maps = f"/api/v1/namespaces/{service.namespace}/configmaps"
    maker = service.admin.create(maps, {"metadata": {"name": "shop"}})["metadata"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "shop", "uid": maker["uid"], "controller": True}
    what = "services/api" if strategy == "blue_green" else "deployment/api"
    service.edit(what, {"op": "add", "path": "/metadata/ownerReferences", "value": [owner]})
    service.component.update(strategy=strategy)
    to = {"undo": "version:1.5.0", "blue_green": "green", "canary_stop": ""}[strategy]
    name = "service api" if strategy == "blue_green" else "deployment/api"
    refused(service, f"{name} is made by ConfigMap/shop, whose controller would write it again", to=to)


# -- client-side apply ------------------------------------------------------------------------------------------------


def release(service: KubeService, version: str, env: dict[str, str], beside: str, data: dict[str, str]) -> None:
    """Deploy as a pipeline does, by kubectl apply of whole files."""
    template = service.template(version, labels={"app": "api"}, env=env)
    more = {"name": beside, "image": service.lab.image(GOOD), "args": ["pause"], "imagePullPolicy": "IfNotPresent"}
    template["spec"]["containers"].append(more)
    spec = {"selector": {"matchLabels": {"app": "api"}}, "template": template}
    files: list[dict[str, Any]] = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}, "spec": spec},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app"}, "data": data},
    ]
    service.lab.kubectl("-n", service.namespace, "apply", "-f", "-", input=yaml.safe_dump_all(files))
    service.wait()


def names(service: KubeService) -> tuple[list[str], list[str]]:
    containers = service.get()["spec"]["template"]["spec"]["containers"]
    return [one["name"] for one in containers], [one["name"] for one in containers[0]["env"]]


def test_what_the_next_apply_would_keep_is_said_beforehand(service: KubeService) -> None:
    """And it is just that: the fixed release is applied, and what only the good one had is still there."""
    settings = {"name": "settings", "configmaps": ["app"]}
    service.component["config"] = "settings"
    roles = {"restore_kubernetes_config": [settings], "rollback_kubernetes": [service.component]}
    release(service, GOOD, {"SHOP_OLD": "on", "SHOP_A": "1"}, "logger", {"OLD": "x", "LEVEL": "1"})
    service.serve()
    service.checkpoint(roles=roles)
    release(service, BAD, {"SHOP_A": "2"}, "shipper", {"LEVEL": "2"})
    ended = service.run(roles=roles)
    assert ended.outcome == "done", ended
    said = [note for note in ended.notes() if "kubectl apply" in note]
    assert len(said) == 2, said
    assert "template.spec.containers[logger]" in said[1]
    assert "template.spec.containers[shop].env[SHOP_OLD]" in said[1]
    assert "SHOP_A" not in said[1]
    assert "shipper" not in said[1]
    assert "configmap/app is deployed by kubectl apply" in said[0]
    assert "key OLD, which only" in said[0]
    release(service, "1.5.1", {"SHOP_A": "2"}, "shipper", {"LEVEL": "3"})
    containers, env = names(service)
    assert "logger" in containers
    assert "SHOP_OLD" in env
    path = f"/api/v1/namespaces/{service.namespace}/configmaps/app"
    assert service.admin.get(path)["data"] == {"OLD": "x", "LEVEL": "3"}


def test_without_an_apply_nothing_is_said_of_one(service: KubeService) -> None:
    service.make(env={"SHOP_OLD": "on"})
    service.serve()
    service.checkpoint()
    service.deploy()
    ended = service.run()
    assert ended.outcome == "done", ended
    assert not any("kubectl apply" in note for note in ended.notes())
