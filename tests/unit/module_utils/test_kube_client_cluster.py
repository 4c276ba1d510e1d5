# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against a real API server, as it is and with faults in between."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import kube_auth, kube_watch
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError, Rule

from lab.kubernetes.cluster import Cluster
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import FaultProxy, LatencyProxy, Request

MAPS: list[dict[str, Any]] = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]


def maps(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{name}" if name else "")


def settings(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def client_of(kubeconfig: Path, **options: Any) -> Client:
    return Client(kube_auth.find_access({"kubeconfig": str(kubeconfig)}, os.environ), **options)


@pytest.fixture
def robot(lab_cluster: Cluster, namespace: str, tmp_path: Path, fault_proxy: FaultProxy) -> Client:
    """A client with few rights, whose requests pass the fault proxy."""
    return client_of(token_kubeconfig(lab_cluster, namespace, MAPS, tmp_path, server=fault_proxy.url))


def test_one_object_through_its_life(admin: Client, namespace: str) -> None:
    made = admin.create(maps(namespace), settings("a", key="1"))
    with pytest.raises(KubeError, match="create configmaps in") as caught:
        admin.create(maps(namespace), settings("a"))
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    path = maps(namespace, "a")
    assert admin.get(path)["data"] == {"key": "1"}
    tested = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/data/key", "value": "2"},
    ]
    assert admin.json_patch(path, tested, dry_run=True)["data"] == {"key": "2"}
    assert admin.get(path)["data"] == {"key": "1"}
    assert admin.json_patch(path, tested)["data"] == {"key": "2"}
    with pytest.raises(KubeError) as caught:
        admin.json_patch(path, tested)
    assert (caught.value.status, caught.value.reason) == (422, "Invalid")
    with pytest.raises(KubeError) as caught:
        admin.replace(path, made)
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    assert admin.merge_patch(path, {"data": {"key": None, "other": "3"}})["data"] == {"other": "3"}
    admin.delete(path)
    assert admin.find(path) is None
    with pytest.raises(
        KubeError, match=r"delete configmaps/a in test-\w+: the API server answered 404 NotFound: configmaps"
    ):
        admin.delete(path)


def test_an_invalid_object_names_its_fields(admin: Client, namespace: str) -> None:
    with pytest.raises(KubeError, match=r"metadata\.name: Invalid value: \"A_\"") as caught:
        admin.create(maps(namespace), settings("A_"))
    assert caught.value.causes[0][0] == "metadata.name"


def test_an_immutable_template_is_refused_without_its_environment(admin: Client, namespace: str) -> None:
    container = {"name": "a", "image": "lab.local/none:1", "env": [{"name": "PASSWORD", "value": "hunter2"}]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    job = {"metadata": {"name": "a"}, "spec": {"suspend": True, "template": template}}
    admin.create(jobs, job)
    other = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "lab.local/none:2"}
    with pytest.raises(KubeError, match=r"spec\.template: Invalid value: field is immutable") as caught:
        admin.json_patch(f"{jobs}/a", [other])
    assert caught.value.status == 422
    assert "hunter2" not in str(caught.value)


def test_lists_are_paged_and_names_are_light(admin: Client, namespace: str) -> None:
    admin.each(lambda number: admin.create(maps(namespace), settings(f"m-{number:02}", key="x" * 100)), range(23))
    every = admin.list(maps(namespace), limit="5")
    assert [one["metadata"]["name"] for one in every if one["metadata"]["name"].startswith("m-")] == [
        f"m-{number:02}" for number in range(23)
    ]
    assert {(one["apiVersion"], one["kind"]) for one in every} == {("v1", "ConfigMap")}
    light = admin.names(maps(namespace), limit="10")
    assert len(light) == len(every)
    assert not any("data" in one for one in light)


def test_a_watch_sees_what_happens_after_the_list(admin: Client, namespace: str) -> None:
    items, version = admin.list_at(maps(namespace))
    path = maps(namespace, "a")

    def change() -> None:
        admin.create(maps(namespace), settings("a", key="1"))
        admin.merge_patch(path, {"data": {"key": "2"}})
        admin.delete(path)

    threading.Timer(0.2, change).start()
    seen = []
    for kind, thing in admin.watch(maps(namespace), version, 10):
        seen.append((kind, thing.get("data", {}).get("key")))
        if kind == "DELETED":
            break
    assert [one for one in seen if one[0] != "BOOKMARK"] == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]
    assert all(one["metadata"]["name"] != "a" for one in items)


def test_rights(lab_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"], "resourceNames": ["api"]}]
    everywhere = [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"], "resourceNames": ["kube-system"]}]
    client = client_of(token_kubeconfig(lab_cluster, namespace, rules, tmp_path, cluster_rules=everywhere))
    may = [Rule("patch", "deployments", "apps", namespace, "api"), Rule("get", "namespaces", "", "", "kube-system")]
    may_not = [
        Rule("patch", "deployments", "apps", namespace, "web"),
        Rule("patch", "deployments", "apps", namespace, "api", "scale"),
        Rule("list", "secrets", "", namespace),
    ]
    assert client.allowed([may[0], *may_not, may[1]]) == may_not
    assert client.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    with pytest.raises(KubeError, match="403 Forbidden") as caught:
        client.list(f"/api/v1/namespaces/{namespace}/secrets")
    assert caught.value.reason == "Forbidden"


def test_the_time(admin: Client) -> None:
    assert abs((admin.server_time() - datetime.now(UTC)).total_seconds()) < 2  # both run on this machine


def test_a_token_that_nobody_knows(lab_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    path = token_kubeconfig(lab_cluster, namespace, MAPS, tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("token: ", "token: x"), encoding="utf-8")
    with pytest.raises(KubeError, match="401 Unauthorized") as caught:
        client_of(path).list(maps(namespace))
    assert "Log in to the cluster again" in caught.value.next_step


# With faults in between.


def test_reads_outlast_faults(robot: Client, namespace: str, fault_proxy: FaultProxy) -> None:
    fault_proxy.add("configmaps", "GET", status=503, times=2)
    fault_proxy.add("configmaps", "GET", drop="before")
    fault_proxy.add("configmaps", "GET", drop="after")
    fault_proxy.add("configmaps", "GET", bytes=20)
    assert robot.names(maps(namespace))
    assert [seen.status for seen in fault_proxy.requests] == [503, 503, 0, 0, 200, 200]


def test_a_lost_answer_is_read_back_by_the_caller(robot: Client, namespace: str, fault_proxy: FaultProxy) -> None:
    fault_proxy.add(method="POST", drop="after")
    with pytest.raises(KubeError) as caught:
        robot.create(maps(namespace), settings("a", key="1"))
    assert (caught.value.status, caught.value.reason) == (0, "Unreachable")
    assert robot.get(maps(namespace, "a"))["data"] == {"key": "1"}
    assert fault_proxy.count("POST") == 1


def test_a_change_in_between_is_a_conflict(
    robot: Client, admin: Client, namespace: str, fault_proxy: FaultProxy
) -> None:
    made = robot.create(maps(namespace), settings("a", key="1"))

    def interfere(request: Request) -> None:
        assert request.json()["data"] == {"key": "2"}
        admin.merge_patch(maps(namespace, "a"), {"data": {"key": "theirs"}})

    fault_proxy.add(method="PUT", call=interfere)
    with pytest.raises(KubeError) as caught:
        robot.replace(maps(namespace, "a"), {**made, "data": {"key": "2"}})
    assert caught.value.reason == "Conflict"
    assert robot.get(maps(namespace, "a"))["data"] == {"key": "theirs"}


def test_a_token_that_is_refused_once(
    lab_cluster: Cluster, namespace: str, tmp_path: Path, fault_proxy: FaultProxy
) -> None:
    path = token_kubeconfig(lab_cluster, namespace, MAPS, tmp_path, server=fault_proxy.url)
    text = path.read_text(encoding="utf-8")
    token = text.split("token: ")[1].split()[0]
    (tmp_path / "token").write_text(token)
    path.write_text(text.replace(f"token: {token}", "tokenFile: token"), encoding="utf-8")
    fault_proxy.add(method="POST", status=401)
    assert client_of(path).create(maps(namespace), settings("a"))["metadata"]["name"] == "a"
    assert [seen.status for seen in fault_proxy.requests] == [401, 201]


def test_a_watch_outlasts_cuts(robot: Client, admin: Client, namespace: str, fault_proxy: FaultProxy) -> None:
    _, version = robot.list_at(maps(namespace))
    fault_proxy.add("watch=true", events=1)
    fault_proxy.add("watch=true", status=429, retry_after="0")
    fault_proxy.add("watch=true", bytes=10)
    names = [f"m-{number}" for number in range(6)]

    def change() -> None:
        for name in names:
            admin.create(maps(namespace), settings(name))
            time.sleep(0.05)

    threading.Thread(target=change, daemon=True).start()
    seen = []
    for kind, thing in robot.watch(maps(namespace), version, 10, fieldSelector="metadata.name!=kube-root-ca.crt"):
        if kind == "ADDED":
            seen.append(thing["metadata"]["name"])
        if len(seen) == len(names):
            break
    assert seen == names  # none twice, none missed
    assert fault_proxy.count("GET", "watch=true") == 4


def test_a_watch_on_a_half_open_connection_misses_nothing(
    robot: Client, admin: Client, namespace: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_watch, "WINDOW", 0.5)
    monkeypatch.setattr(kube_watch, "GRACE", 0.2)
    _, version = robot.list_at(maps(namespace))
    fault_proxy.add("watch=true", events=1, silent=True)
    threading.Thread(
        target=lambda: [admin.create(maps(namespace), settings(name)) for name in ("one", "two")], daemon=True
    ).start()
    seen = []
    for kind, thing in robot.watch(maps(namespace), version, 20, fieldSelector="metadata.name!=kube-root-ca.crt"):
        if kind == "ADDED":
            seen.append(thing["metadata"]["name"])
        if len(seen) == 2:
            break
    assert seen == ["one", "two"]


def test_many_requests_far_away_take_turns_together(lab_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with LatencyProxy.to(lab_cluster.server, 0.05) as proxy:
        text = lab_cluster.kubeconfig.read_text(encoding="utf-8").replace(lab_cluster.server, proxy.url)
        path = tmp_path / "far"
        path.write_text(text, encoding="utf-8")
        client = client_of(path)  # with a client certificate, from end to end
        began = time.monotonic()
        client.get(maps(namespace, "kube-root-ca.crt"))
        assert time.monotonic() - began > 0.1  # handshake and request
        began = time.monotonic()
        client.each(lambda _: client.find(maps(namespace, "a")), range(64))
        assert time.monotonic() - began < 64 * 0.05
        client.close()
