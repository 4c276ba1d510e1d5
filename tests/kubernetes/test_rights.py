# SPDX-License-Identifier: GPL-3.0-or-later
"""The rights that ship with rollback_kubernetes: enough for a run, each of them needed, and nothing beyond them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace, token_kubeconfig
from tests.support.kube_rights import LEVEL1, LEVEL2, Rules, role, shipped
from tests.support.kube_service import BAD, GOOD, KubeService


def without(rules: Rules, verb: str, resource: str) -> Rules:
    """Return rules that do not give one right. Resources that share a rule with it are given theirs alone."""
    found = []
    for rule in rules:
        for one in rule["resources"]:
            verbs = [known for known in rule["verbs"] if (one, known) != (resource, verb)]
            if verbs:
                found.append({"apiGroups": rule["apiGroups"], "resources": [one], "verbs": verbs})
    return found


def client_with(service: KubeService, rules: Rules, folder: Path) -> Client:
    path = token_kubeconfig(service.lab, service.namespace, rules, folder)
    return Client(find_access({"kubeconfig": str(path)}, os.environ))


# -- enough -----------------------------------------------------------------------------------------------------------


def test_level_1_can_do_a_run_with_exactly_its_rights(
    lab_cluster: Cluster, admin: Client, namespace: str, tmp_path: Path
) -> None:
    """Also without the one optional right, to look at nodes; and what fails still says why, with log lines."""
    service = KubeService(lab_cluster, admin, namespace, token_kubeconfig(lab_cluster, namespace, LEVEL1, tmp_path))
    service.probed = True
    service.make()
    service.make("statefulset/db", cause="release 1.4.0")
    service.serve()
    service.component["workloads"] = ["deployment/api", "statefulset/db"]
    service.checkpoint()
    service.deploy(wait=False)
    service.deploy("statefulset/db")
    service.wait()
    ended = service.run()
    assert ended.outcome == "done", ended
    assert "whether the nodes have the images could not be looked at (Forbidden)" in " ".join(ended.notes())
    assert service.version() == GOOD
    assert service.run("undo", named=ended.run).outcome == "done"
    assert service.version() == BAD
    service.component.update(workloads=["deployment/api"], timeout=8)
    broken = service.run(to=f"image:{service.lab.image(GOOD, 'notready')}")
    assert broken.outcome == "restored", broken
    assert "Its last lines: INFO version 1.4.0 listens on :8080, mode notready" in broken.message
    assert "Events: Readiness probe failed" in broken.message


def test_level_1_can_switch_and_stop_canaries_with_exactly_its_rights(
    lab_cluster: Cluster, admin: Client, namespace: str, tmp_path: Path
) -> None:
    service = KubeService(lab_cluster, admin, namespace, token_kubeconfig(lab_cluster, namespace, LEVEL1, tmp_path))
    for colour, version in (("blue", GOOD), ("green", BAD)):
        labels = {"app": "api", "version": colour}
        service.make(f"deployment/{colour}", version, labels=labels, wait=False)
    service.serve(selector={"app": "api", "version": "green"})
    for colour in ("blue", "green"):
        service.wait(f"deployment/{colour}")
    switch = {**service.component, "strategy": "blue_green", "workloads": []}
    canary = {"name": "canary", "strategy": "canary_stop", "workloads": ["deployment/green"], "timeout": 40.0}
    ended = service.run(components=[switch, canary], to={"api": "blue"})
    assert ended.outcome == "done", ended
    assert (service.version(), service.pods(version="green")) == (GOOD, [])


def test_rights_for_named_objects_are_enough(
    lab_cluster: Cluster, admin: Client, namespace: str, tmp_path: Path
) -> None:
    """Of one Deployment and one Service, by its port as the proxy calls it."""
    rules = [rule for rule in LEVEL1 if not set(rule["resources"]) & {"deployments", "services/proxy"}]
    verbs = ["get", "list", "watch", "patch"]
    rules += [
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["api"], "verbs": verbs},
        {"apiGroups": [""], "resources": ["services/proxy"], "resourceNames": ["api:http"], "verbs": ["get"]},
    ]
    service = KubeService(lab_cluster, admin, namespace, token_kubeconfig(lab_cluster, namespace, rules, tmp_path))
    service.make()
    service.make("deployment/other", replicas=0)
    service.serve()
    service.checkpoint()
    service.deploy()
    ended = service.run()
    assert ended.outcome == "done", ended
    assert service.version() == GOOD
    service.component["workloads"] = ["deployment/other"]
    assert service.run(to="version:1.5.0").outcome == "refused"


# -- each one needed --------------------------------------------------------------------------------------------------

UNDO = {"service": "api", "answer": {"port": "http", "path": "/version", "json": "version"}}
PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "deployment": ({"workloads": ["deployment/api"], **UNDO}, "version:1.5.0"),
    "statefulset": ({"workloads": ["statefulset/db"]}, "version:1.5.0"),
    "daemonset": ({"workloads": ["daemonset/agent"]}, "version:1.5.0"),
    "blue_green": ({"strategy": "blue_green", "service": "colours", "answer": UNDO["answer"]}, "green"),
    "canary_stop": ({"strategy": "canary_stop", "workloads": ["deployment/green"]}, ""),
}
# What each plan cannot do without. The rest of level 1 only reads: for messages (logs, events), for an early word
# (quotas), for checks (roles/run_verify).
NEEDED: dict[str, dict[str, list[str]]] = {
    "deployment": {
        "leases": ["get", "create", "update"],
        "configmaps": ["get", "create", "patch"],
        "deployments": ["get", "list", "watch", "patch"],
        "replicasets": ["get", "list"],
        "pods": ["list", "watch"],
        "endpointslices": ["list"],
        "services/proxy": ["get"],
    },
    "statefulset": {"statefulsets": ["get", "list", "watch", "patch"], "controllerrevisions": ["get", "list"]},
    "daemonset": {"daemonsets": ["get", "list", "watch", "patch"], "controllerrevisions": ["get", "list"]},
    "blue_green": {
        "services": ["get", "patch"], "pods": ["list"], "endpointslices": ["list"], "services/proxy": ["get"],
    },
    "canary_stop": {"deployments": ["get", "patch"], "replicasets": ["list"], "pods": ["list", "watch"]},
}  # fmt: skip
RIGHTS = [
    (plan, verb, resource)
    for plan, resources in NEEDED.items()
    for resource, verbs in resources.items()
    for verb in verbs
]


@pytest.fixture(scope="module")
def ready(lab_cluster: Cluster, admin: Client) -> Iterator[KubeService]:
    """Everything that the plans are about; next to no pods: none is changed here."""
    with fresh_namespace(admin, "rights") as namespace:
        service = KubeService(lab_cluster, admin, namespace)
        service.make(replicas=0)
        service.make("statefulset/db", replicas=0)
        service.make("daemonset/agent", wait=False)
        service.serve()
        service.make("deployment/green", labels={"app": "api", "version": "green"}, wait=False)
        service.serve("colours", {"app": "api", "version": "blue"})
        for workload in ("daemonset/agent", "deployment/green"):
            service.wait(workload)
        make_lease(service)
        yield service


def lease(service: KubeService) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{service.namespace}/leases/rollbackctl-shop"


def make_lease(service: KubeService) -> None:
    """Have a first run make the Lease, which every later one updates."""
    assert service.run(to="version:9.9.9", components=[{"name": "api"}]).outcome == "refused"
    assert service.admin.find(lease(service)) is not None


@pytest.mark.parametrize(("plan", "verb", "resource"), RIGHTS)
def test_without_a_right_that_it_needs_a_run_is_refused_and_names_it(
    ready: KubeService, tmp_path: Path, plan: str, verb: str, resource: str
) -> None:
    service = copy.copy(ready)
    rules = without(LEVEL1, verb, resource)
    service.kubeconfig = token_kubeconfig(service.lab, service.namespace, rules, tmp_path)
    options, to = PLANS[plan]
    if (verb, resource) == ("create", "leases"):
        service.admin.delete(lease(service))
    before = service.objects()
    ended = service.run(components=[{"name": "api", "timeout": 40.0, **options}], to=to)
    assert ended.outcome == "refused", ended
    bare = resource.partition("/")[0]
    assert verb in ended.message, ended.message
    assert bare in ended.message, ended.message
    assert service.objects() == before
    found = service.admin.find(lease(service))
    if found and found["spec"].get("holderIdentity"):
        service.admin.delete(lease(service))  # who cannot read the journal leaves the lease to its end
        found = None
    if found is None:
        make_lease(ready)


def test_every_right_of_level_1_is_one_that_is_needed_or_one_that_has_its_reason() -> None:
    given = {(verb, one) for rule in LEVEL1 for one in rule["resources"] for verb in rule["verbs"]}
    needed = {(verb, resource) for _, verb, resource in RIGHTS}
    reading = {
        (verb, one) for rule in role("rollbackctl-level1") for one in rule["resources"]
        for verb in ("get", "list", "watch") if verb in rule["verbs"]
    }  # fmt: skip
    listing = {("list", "configmaps")}  # checkpoints, where no version is named
    identity = {("get", "namespaces")}
    assert given - needed <= reading | listing | identity
    assert needed <= given


# -- nothing beyond ---------------------------------------------------------------------------------------------------

Attempt = Callable[[Client, str], object]
POD = {"metadata": {"name": "mine"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
CORE, APPS, RBAC = "/api/v1", "/apis/apps/v1", "/apis/rbac.authorization.k8s.io/v1"


def here(base: str, namespace: str, rest: str) -> str:
    return f"{base}/namespaces/{namespace}/{rest}"


DENIED: dict[str, Attempt] = {
    "delete a Deployment": lambda c, n: c.delete(here(APPS, n, "deployments/api")),
    "delete a StatefulSet": lambda c, n: c.delete(here(APPS, n, "statefulsets/db")),
    "delete a DaemonSet": lambda c, n: c.delete(here(APPS, n, "daemonsets/agent")),
    "delete a ReplicaSet": lambda c, n: c.delete(here(APPS, n, "replicasets/any")),
    "delete a ControllerRevision": lambda c, n: c.delete(here(APPS, n, "controllerrevisions/any")),
    "delete a Service": lambda c, n: c.delete(here(CORE, n, "services/api")),
    "delete a pod": lambda c, n: c.delete(here(CORE, n, "pods/any")),
    "delete a ConfigMap": lambda c, n: c.delete(here(CORE, n, "configmaps/kube-root-ca.crt")),
    "delete a Secret": lambda c, n: c.delete(here(CORE, n, "secrets/any")),
    "delete a Lease": lambda c, n: c.delete(here("/apis/coordination.k8s.io/v1", n, "leases/any")),
    "delete the namespace": lambda c, n: c.delete(f"{CORE}/namespaces/{n}"),
    "create a Deployment": lambda c, n: c.create(here(APPS, n, "deployments"), {"metadata": {"name": "mine"}}),
    "replace a Deployment": lambda c, n: c.replace(here(APPS, n, "deployments/api"), {"metadata": {"name": "api"}}),
    "patch a ReplicaSet": lambda c, n: c.merge_patch(here(APPS, n, "replicasets/any"), {"spec": {"replicas": 0}}),
    "create a pod": lambda c, n: c.create(here(CORE, n, "pods"), POD),
    "change a pod": lambda c, n: c.merge_patch(here(CORE, n, "pods/any"), {"metadata": {"labels": {"a": "b"}}}),
    "enter a pod": lambda c, n: c.text(here(CORE, n, "pods/any/exec"), command="id", stdout="true"),
    "attach to a pod": lambda c, n: c.text(here(CORE, n, "pods/any/attach"), stdout="true"),
    "forward a port": lambda c, n: c.text(here(CORE, n, "pods/any/portforward"), ports="80"),
    "evict a pod": lambda c, n: c.create(here(CORE, n, "pods/any/eviction"), {"metadata": {"name": "any"}}),
    "create a Service": lambda c, n: c.create(here(CORE, n, "services"), {"metadata": {"name": "mine"}}),
    "write through a Service": lambda c, n: c.create(here(CORE, n, "services/api:http/proxy/break"), {}),
    "take a ServiceAccount's token": lambda c, n: c.create(here(CORE, n, "serviceaccounts/default/token"), {}),
    "change a quota": lambda c, n: c.merge_patch(here(CORE, n, "resourcequotas/any"), {"spec": {"hard": {}}}),
    "bind a role": lambda c, n: c.create(here(RBAC, n, "rolebindings"), {"metadata": {"name": "mine"}}),
    "change a role": lambda c, n: c.merge_patch(here(RBAC, n, "roles/rollbackctl-level1"), {"rules": []}),
    "scale by an autoscaler": lambda c, n: c.merge_patch(
        here("/apis/autoscaling/v2", n, "horizontalpodautoscalers/any"), {"spec": {"minReplicas": 1}}
    ),
    "look at nodes": lambda c, _: c.list(f"{CORE}/nodes"),
    "look into another namespace": lambda c, _: c.list(here(APPS, "default", "deployments")),
    "change another namespace": lambda c, _: c.merge_patch(here(APPS, "default", "deployments/any"), {}),
    "read another namespace's ConfigMaps": lambda c, _: c.list(here(CORE, "kube-system", "configmaps")),
    "list namespaces": lambda c, _: c.list(f"{CORE}/namespaces"),
}  # fmt: skip
DENIED_ON_LEVEL_1: dict[str, Attempt] = {
    "read a Secret": lambda c, n: c.get(here(CORE, n, "secrets/any")),
    "list Secrets": lambda c, n: c.list(here(CORE, n, "secrets")),
    "create a Secret": lambda c, n: c.create(here(CORE, n, "secrets"), {"metadata": {"name": "mine"}}),
    "change a Secret": lambda c, n: c.merge_patch(here(CORE, n, "secrets/any"), {"data": {}}),
}
LEVELS = {"level 1": LEVEL1, "level 2": LEVEL2}


@pytest.fixture(scope="module")
def robots(ready: KubeService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Client]:
    return {level: client_with(ready, rules, tmp_path_factory.mktemp("robots")) for level, rules in LEVELS.items()}


@pytest.mark.parametrize(
    ("level", "what"),
    [*((level, what) for level in LEVELS for what in DENIED), *(("level 1", what) for what in DENIED_ON_LEVEL_1)],
)
def test_the_api_server_denies_what_no_run_needs(
    ready: KubeService, robots: Mapping[str, Client], level: str, what: str
) -> None:
    attempt = {**DENIED, **DENIED_ON_LEVEL_1}[what]
    with pytest.raises(KubeError) as caught:
        attempt(robots[level], ready.namespace)
    assert (caught.value.status, caught.value.reason) == (403, "Forbidden"), caught.value.message


def test_level_2_may_read_and_write_secrets_of_its_namespace_and_not_of_others(
    ready: KubeService, robots: Mapping[str, Client]
) -> None:
    robot, folder = robots["level 2"], here(CORE, ready.namespace, "secrets")
    robot.create(folder, {"metadata": {"name": "app"}, "stringData": {"key": "1"}})
    robot.merge_patch(f"{folder}/app", {"stringData": {"key": "2"}})
    assert robot.get(f"{folder}/app")["data"]["key"] == "Mg=="
    with pytest.raises(KubeError) as caught:
        robot.list(here(CORE, "kube-system", "secrets"))
    assert caught.value.status == 403


def test_finalize_removes_what_a_run_kept_with_a_role_of_its_own(
    ready: KubeService, robots: Mapping[str, Client], tmp_path: Path
) -> None:
    service = copy.copy(ready)
    path = here(CORE, service.namespace, "configmaps")
    service.admin.create(path, {"metadata": {"name": "settings"}, "data": {"level": "good"}})
    roles = {"restore_kubernetes_config": [{"name": "settings", "configmaps": ["settings"]}]}
    service.checkpoint(roles=roles)
    service.admin.merge_patch(f"{path}/settings", {"data": {"level": "bad"}})
    done = service.run(roles=roles)
    assert done.outcome == "done", done
    selector = {"labelSelector": f"rollbackctl.io/kind=kept,rollbackctl.io/run={done.run}"}
    (kept,) = service.admin.list(path, **selector)
    with pytest.raises(KubeError):
        robots["level 2"].delete(f"{path}/{kept['metadata']['name']}")
    rules = [*LEVEL2, *role("rollbackctl-finalize")]
    service.kubeconfig = token_kubeconfig(service.lab, service.namespace, rules, tmp_path)
    ended = service.run("finalize", named=done.run, roles=roles)
    assert (ended.outcome, ended.ending["notes"]) == ("done", []), ended
    assert service.admin.list(path, **selector) == []


def test_the_files_are_roles_and_give_no_star_and_no_deletion() -> None:
    for file in ("level1.yml", "level2.yml"):
        for document in shipped(file):
            assert document["kind"] in {"Role", "ClusterRole"}
            assert "*" not in json.dumps(document)
            verbs = {verb for rule in document["rules"] for verb in rule["verbs"]}
            assert ("delete" in verbs) is (document["metadata"]["name"] == "rollbackctl-finalize")
            assert not verbs & {"deletecollection", "escalate", "bind", "impersonate"}
            if document["kind"] == "ClusterRole":
                assert document["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
