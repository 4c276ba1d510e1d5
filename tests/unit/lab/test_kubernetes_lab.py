# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's cluster is a real one, stays what it is when asked for twice, and leaves nothing where it is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from lab.kubernetes import machine
from lab.kubernetes.cluster import Cluster, Existing, LabError, cluster
from lab.kubernetes.layout import Layout

PATIENCE_SECONDS = 60.0
SERVICE = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: shop}}}}
  template:
    metadata: {{labels: {{app: shop}}}}
    spec:
      containers:
        - name: shop
          image: {image}
          imagePullPolicy: Never
          env: [{{name: SHOP_CURRENCY, value: EUR}}, {{name: DRAIN_MS, value: "0"}}]
          volumeMounts: [{{name: settings, mountPath: /settings}}]
          readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
      volumes: [{{name: settings, configMap: {{name: shop}}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: shop, namespace: {namespace}}}
data: {{greeting: hello}}
---
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: {namespace}}}
spec:
  selector: {{app: shop}}
  ports: [{{port: 80, targetPort: 8080}}]
"""


def eventually(good: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while not good():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def get(host: str, port: int, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def lab() -> Cluster:
    one = cluster()
    one.up()
    return one


@pytest.fixture
def own() -> Cluster:
    """The lab's own cluster, also where another one is used in its place."""
    one = Cluster()
    one.up()
    return one


@pytest.fixture
def namespace(lab: Cluster) -> Iterator[str]:
    name = f"lab-{uuid.uuid4().hex[:8]}"
    lab.kubectl("create", "namespace", name)
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def other() -> Iterator[Cluster]:
    one = cluster(f"t{uuid.uuid4().hex[:6]}")
    try:
        one.up()
        yield one
    finally:
        one.down()


def test_a_version_answers_through_its_service(lab: Cluster, namespace: str) -> None:
    lab.kubectl("apply", "-f", "-", input=SERVICE.format(namespace=namespace, image=lab.image("0.1.0")))
    lab.kubectl("-n", namespace, "rollout", "status", "deployment/shop", "--timeout=60s")
    address = lab.kubectl("-n", namespace, "get", "service", "shop", "--output=jsonpath={.spec.clusterIP}")

    status, answer = get(address, 80, "/version")

    assert status == 200
    assert answer["version"] == "0.1.0"
    assert answer["settings"] == {"SHOP_CURRENCY": "EUR", "greeting": "hello"}
    pods = json.loads(lab.kubectl("-n", namespace, "get", "pods", "--output=json"))["items"]
    assert answer["pod"] in {pod["metadata"]["name"] for pod in pods}
    assert get(pods[0]["status"]["podIP"], 8080, "/version")[0] == 200
    # From inside, and from one pod to the others over the bridge; what it says is in its log.
    inside = ("-n", namespace, "exec", "deployment/shop", "--", "/shop")
    assert lab.kubectl(*inside, "check").startswith("200 ")
    assert '"version":"0.1.0"' in lab.kubectl(*inside, "get", f"http://{address}/version")
    assert "version 0.1.0 listens" in lab.kubectl("-n", namespace, "logs", "deployment/shop")


def test_up_changes_nothing_that_runs(own: Cluster) -> None:
    before = own.state()
    own.up()
    assert own.state() == before
    assert 0 not in before.values()


def test_up_starts_again_what_was_killed(own: Cluster, namespace: str) -> None:
    before = own.state()
    own.kill("kube-scheduler")
    assert not own.running()
    own.up()
    after = own.state()
    assert own.running()
    assert {name for name in before if before[name] != after[name]} == {"kube-scheduler"}
    assert namespace in own.kubectl("get", "namespaces")


def test_an_image_is_on_the_node_until_it_is_removed(own: Cluster) -> None:
    reference = own.image("0.1.1", "slow")
    assert reference == "lab.local/shop:0.1.1-slow"
    assert own.image("0.1.1", "slow") == reference
    assert reference in own.images()
    own.remove_image(reference)
    own.remove_image(reference)
    assert reference not in own.images()


def test_a_pod_without_its_image_does_not_start_and_asks_nobody(own: Cluster, namespace: str) -> None:
    own.kubectl("-n", namespace, "run", "gone", "--image=lab.local/shop:never-made", "--image-pull-policy=IfNotPresent")

    def message() -> str:
        path = "{.status.containerStatuses[0].state.waiting.message}"
        return own.kubectl("-n", namespace, "get", "pod", "gone", f"--output=jsonpath={path}")

    assert eventually(lambda: "127.0.0.1:1" in message()), message()


def test_a_service_account_has_its_own_rights(lab: Cluster, namespace: str) -> None:
    lab.kubectl("-n", namespace, "create", "serviceaccount", "reader")
    lab.kubectl("-n", namespace, "create", "role", "reader", "--verb=get,list", "--resource=pods")
    lab.kubectl(
        "-n", namespace, "create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:reader"
    )
    who = ["--token", lab.kubectl("-n", namespace, "create", "token", "reader").strip()]
    anonymous = ["--client-certificate=", "--client-key="]
    kubeconfig = lab.directory / f"{namespace}.kubeconfig"
    settings = json.loads(lab.kubectl("config", "view", "--raw", "--output=json"))
    settings["users"] = [{"name": settings["users"][0]["name"], "user": {"token": who[1]}}]
    assert anonymous
    kubeconfig.write_text(json.dumps(settings), encoding="utf-8")
    try:
        reader = Existing(kubeconfig)
        assert reader.kubectl("-n", namespace, "get", "pods") == ""
        with pytest.raises(LabError, match="Forbidden"):
            reader.kubectl("-n", namespace, "get", "secrets")
    finally:
        kubeconfig.unlink()
