# SPDX-License-Identifier: GPL-3.0-or-later
"""Small services in the lab's cluster that can be stopped, and a way to see that nothing of them was changed."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_hold import KINDS, Thing
from ansible.module_utils.rollbackctl.kube_shutdown import KubeShutdownDriver
from ansible.module_utils.rollbackctl.kube_store import Cluster as Held
from ansible.module_utils.rollbackctl.kube_traffic import KubeTrafficDriver
from ansible.module_utils.rollbackctl.names import new_id
from ansible.module_utils.rollbackctl.phases import run_phase
from ansible.module_utils.rollbackctl.runs import finish_run, open_run, plan_run
from ansible.module_utils.rollbackctl.store import Store, host_name, open_store

from lab.kubernetes.cluster import Cluster

RUN, OTHER_RUN = "rb-20261121-093015-4f2a", "rb-20261121-101500-0001"
PATIENCE_SECONDS = 120.0
PAUSE = {"name": "app", "image": "lab.local/pause:1", "imagePullPolicy": "Never"}
# What a person would want to find again: another scaling behaviour than the default one.
BEHAVIOR = {
    "scaleDown": {
        "stabilizationWindowSeconds": 120,
        "selectPolicy": "Min",
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }
}


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def workload(kind: str, name: str, replicas: int, **container: Any) -> dict[str, Any]:
    """A Deployment or StatefulSet of pods that do nothing and end at once when they are told to."""
    pod = {"containers": [{**PAUSE, **container}]}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
    }
    if kind == "statefulset":
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def cronjob(name: str, *, suspend: bool, schedule: str = "0 3 1 1 *") -> dict[str, Any]:
    """A CronJob that is not due while a test runs."""
    pod = {"restartPolicy": "Never", "containers": [PAUSE]}
    spec = {"schedule": schedule, "suspend": suspend, "jobTemplate": {"spec": {"template": {"spec": pod}}}}
    return {"metadata": {"name": name}, "spec": spec}


def autoscaler(name: str, target: str, **more: Any) -> dict[str, Any]:
    """An autoscaler of a workload; nobody measures anything here, so its limits are all it has."""
    kind, _, workload_name = target.partition("/")
    words = {"deployment": "Deployment", "statefulset": "StatefulSet"}
    metric = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    reference = {"apiVersion": "apps/v1", "kind": words[kind], "name": workload_name}
    metrics = [{"type": "Resource", "resource": metric}]
    spec = {"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 9, "metrics": metrics}
    return {"metadata": {"name": name}, "spec": spec | more}


# -- objects that are only written down --------------------------------------------------------------------------------


def thing(kind: str, value: Any, **annotations: str) -> Thing:
    metadata: dict[str, Any] = {"name": "api", "namespace": "shop", "resourceVersion": "7"}
    if annotations:
        metadata["annotations"] = annotations
    spec = {"other": [1, {"x": "y"}]} | ({} if value is None else {KINDS[kind].field: value})
    return Thing(KINDS[kind], {"metadata": metadata, "spec": spec, "status": {"readyReplicas": 2}})


def patched(before: Thing, operations: Sequence[Mapping[str, Any]]) -> Thing:
    """Apply a patch as the API server does (RFC 6902, as far as it is used here); the object then has a new version."""
    item = copy.deepcopy(dict(before.item))
    for one in operations:
        *way, last = [key.replace("~1", "/").replace("~0", "~") for key in one["path"].split("/")[1:]]
        place = item
        for key in way:
            place = place[key]
        if one["op"] == "test":
            assert place.get(last) == one["value"]
        elif one["op"] == "remove":
            del place[last]
        else:
            place[last] = copy.deepcopy(one["value"])
    if not item["metadata"].get("annotations", True):
        del item["metadata"]["annotations"]  # the API server does not keep an empty map
    item["metadata"]["resourceVersion"] = str(int(item["metadata"]["resourceVersion"]) + 1)
    return Thing(before.kind, item)


# -- objects in the cluster --------------------------------------------------------------------------------------------


class Town:
    """A namespace with things in it that run."""

    def __init__(self, lab: Cluster, admin: Client, namespace: str) -> None:
        self.lab = lab
        self.admin = admin
        self.namespace = namespace

    def make(self, kind: str, document: Mapping[str, Any]) -> None:
        self.admin.create(KINDS[kind].collection(self.namespace), dict(document))

    def get(self, text: str) -> dict[str, Any]:
        """Return an object by its text, e.g. deployment/api."""
        kind, _, name = text.partition("/")
        return self.admin.get(f"{KINDS[kind].collection(self.namespace)}/{name}")

    def replicas(self, text: str) -> int:
        return int(self.get(text)["spec"]["replicas"])

    def kubectl(self, *arguments: str) -> str:
        return self.lab.kubectl("--namespace", self.namespace, *arguments)

    def pods(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.admin.list(f"/api/v1/namespaces/{self.namespace}/pods"))

    def wait_ready(self, *texts: str) -> None:
        for text in texts:

            def ready(text: str = text) -> bool:
                item = self.get(text)
                return int(item["status"].get("readyReplicas") or 0) >= int(item["spec"]["replicas"])

            until(ready, f"{text} is not ready")

    def photograph(self) -> str:
        """Return everything that people have said about everything here: specs, labels, annotations, as text."""
        found = {}
        for word, kind in KINDS.items():
            for item in self.admin.list(kind.collection(self.namespace)):
                meta = item["metadata"]
                said = {"labels": meta.get("labels"), "annotations": meta.get("annotations"), "spec": item["spec"]}
                found[f"{word}/{meta['name']}"] = said
        return json.dumps(found, indent=1, sort_keys=True)

    # -- drivers -----------------------------------------------------------------------------------------------------

    def place(self, run: str = RUN, client: Client | None = None) -> Place:
        return Place(run=run, reason="a test", cluster=Held(client or self.admin, self.namespace, lambda: None))

    def fence(
        self, run: str = RUN, client: Client | None = None, but: Sequence[str] = (), **options: Any
    ) -> KubeTrafficDriver:
        options["except"] = list(but)
        return KubeTrafficDriver({"name": "fence", "fence": True, "timeout": 90, **options}, self.place(run, client))

    def shutdown(self, run: str = RUN, client: Client | None = None, **options: Any) -> KubeShutdownDriver:
        return KubeShutdownDriver({"name": "all", "timeout": 90, **options}, self.place(run, client))

    def forked(self, work: Callable[[Client], None], failpoint: str) -> int:
        """Do something in a process of its own, with a connection of its own; return its exit status (-9: killed)."""
        child = os.fork()
        if not child:
            try:
                os.environ["ROLLBACKCTL_FAILPOINT"] = failpoint
                work(Client(find_access({"kubeconfig": str(self.lab.kubeconfig)}, os.environ)))
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# -- the engine --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    """One run; each method does what a task of a playbook would."""

    town: Town
    kind: str = "shutdown"
    options: dict[str, Any] = dataclasses.field(default_factory=lambda: {"all": True})
    others: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    role: str = "shutdown_kubernetes"
    lease_seconds: float = 30
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def state(self) -> dict[str, Any]:
        kubeconfig = str(self.town.lab.kubeconfig)
        return {"kind": "kubernetes", "namespace": self.town.namespace, "service": "shop", "kubeconfig": kubeconfig}

    @property
    def store(self) -> Store:
        return open_store(self.state)

    @property
    def roles(self) -> list[dict[str, Any]]:
        return [*self.others, {"role": self.role, "components": [{"name": "all", "timeout": 90, **self.options}]}]

    @property
    def id(self) -> str:
        return str(self.facts["id"])

    def begin(self, named: str = "") -> dict[str, Any]:
        """Guard, preflight and plan; return the plan, which has no problems."""
        run = {"id": new_id("rb"), "kind": self.kind, "level": 0, "state": self.state, "holder": "ops"}
        run |= {"controller": host_name(), "pid": os.getpid(), "lease_seconds": self.lease_seconds}
        asked = {"rollback_run": named, "rollback_on_failure": "hold"}
        opened = open_run(run, {}, asked, dry=False)
        self.facts = {**run, **opened, "service": "shop", "reason": "a test", "to": {}}
        proposals = self.phase("preflight")["rollbackctl"]["proposals"]
        made = plan_run(self.facts, asked, proposals, fences=self.role == "stop_kubernetes", dry=False)
        assert made["problems"] == []
        plan: dict[str, Any] = made["plan"]
        return plan

    def phase(self, phase: str) -> dict[str, Any]:
        return run_phase({"phase": phase, "roles": self.roles, "run": self.facts}, check_mode=False)

    def change(self) -> None:
        for phase in ("stage", "rollback", "verify", "resume"):
            result = self.phase(phase)
            assert not result.get("failed"), result

    def finish(self) -> str:
        ended = finish_run(self.facts, {}, self.roles, failed=False, message="")
        assert ended["quarantined"] == ""
        return str(ended["outcome"])

    def whole(self, named: str = "") -> str:
        """The run as a playbook does it; what it changes is nothing where the plan says so."""
        plan = self.begin(named)
        if any(entry["action"] == "change" for entry in plan["entries"]):
            self.change()
        return self.finish()
