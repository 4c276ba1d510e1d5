# SPDX-License-Identifier: GPL-3.0-or-later
"""A real service in the lab's cluster: workloads of the sample image behind a Service, and runs of the engine for it.

The runs do what the playbooks do, without Ansible's start: see tests/faults/harness.py.
"""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from ansible.module_utils.rollbackctl import kube_registry
from ansible.module_utils.rollbackctl.errors import RollbackError
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError
from ansible.module_utils.rollbackctl.kube_objects import KINDS
from ansible.module_utils.rollbackctl.kube_rollout import progress
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore

from lab.kubernetes.cluster import Cluster
from tests.faults.harness import Run
from tests.faults.tasks import Answer

kube_registry.install()
T = TypeVar("T")

GOOD, BAD = "1.4.0", "1.5.0"
OTHERS = {"example.com/owner": "team-shop"}
CAUSE = "kubernetes.io/change-cause"
PATIENCE_SECONDS = 60.0
LEASE_SECONDS = 20
# Everything that a run might touch by mistake. Endpoints and events are others' reports about it.
COLLECTIONS = (
    *(f"/apis/apps/v1/{word}" for word in ("deployments", "statefulsets", "daemonsets", "replicasets")),
    "/apis/apps/v1/controllerrevisions",
    "/apis/autoscaling/v2/horizontalpodautoscalers",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/networking.k8s.io/v1/ingresses",
    *(f"/api/v1/{word}" for word in ("services", "configmaps", "secrets", "resourcequotas", "serviceaccounts", "pods")),
)


class KubeService:
    """Workloads in a namespace of their own. component: the options of the one component, to be changed at will."""

    def __init__(self, lab: Cluster, admin: Client, namespace: str, kubeconfig: Path | None = None) -> None:
        """Make nothing yet. kubeconfig: with whose rights runs are made; the administrator's without it."""
        self.lab, self.admin, self.namespace = lab, admin, namespace
        self.kubeconfig = kubeconfig or lab.kubeconfig
        self.probed = False  # pods are ready a second sooner when nobody asks them
        self.component: dict[str, Any] = {
            "name": "api",
            "workloads": ["deployment/api"],
            "strategy": "undo",
            "service": "api",
            "answer": {"port": "http", "path": "/version", "json": "version", "in_a_row": 5},
            "timeout": 40.0,
        }

    # -- what is there -----------------------------------------------------------------------------------------------

    def path(self, workload: str) -> str:
        """Return the path of an object: deployment/api, or RESOURCE/NAME of the core API."""
        word, _, name = workload.partition("/")
        if word in KINDS:
            return f"{KINDS[word].collection(self.namespace)}/{name}"
        return f"/api/v1/namespaces/{self.namespace}/{word}/{name}"

    def get(self, workload: str = "deployment/api") -> dict[str, Any]:
        """Return an object as it is."""
        return self.admin.get(self.path(workload))

    def pods(self, **labels: str) -> list[dict[str, Any]]:
        """Return the pods that are not on their way out."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self.admin.list(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector=selector)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def version(self, service: str = "api") -> str:
        """Ask the Service, as users do."""
        text = self.admin.text(f"/api/v1/namespaces/{self.namespace}/services/{service}:http/proxy/version")
        return str(json.loads(text)["version"])

    def objects(self) -> dict[str, Any]:
        """Return all objects of the namespace, but for statuses, what rollbackctl itself keeps there, and what goes."""
        found = {}
        for collection in COLLECTIONS:
            head, _, word = collection.rpartition("/")
            for item in self.admin.list(f"{head}/namespaces/{self.namespace}/{word}"):
                ours = (item["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") == "rollbackctl"
                if not ours and not item["metadata"].get("deletionTimestamp"):
                    found[f"{word}/{item['metadata']['name']}"] = _without_status(item)
        return found

    # -- making and deploying ----------------------------------------------------------------------------------------

    def make(
        self,
        workload: str = "deployment/api",
        version: str = GOOD,
        *,
        replicas: int = 1,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        cause: str = "release 1.4.0",
        spec: Mapping[str, Any] | None = None,
        container: Mapping[str, Any] | None = None,
        image: str = "",
        wait: bool = True,
    ) -> dict[str, Any]:
        """Make a workload of the sample image. spec, container: more fields of those. image: it need not exist."""
        if image:
            container = {**(container or {}), "image": image}
        kind, _, name = workload.partition("/")
        labels = dict(labels or {"app": name})
        body: dict[str, Any] = {
            "metadata": {"name": name, "annotations": {**OTHERS, CAUSE: cause}},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": self.template(version, labels=labels, env=env, container=container),
                **(spec or {}),
            },
        }
        if kind == "statefulset":
            body["spec"]["serviceName"] = name
        if kind == "daemonset":
            body["spec"].pop("replicas")
        made = self.admin.create(KINDS[kind].collection(self.namespace), body)
        return self.wait(workload) if wait else made

    def template(
        self,
        version: str,
        *,
        labels: Mapping[str, str],
        env: Mapping[str, str] | None = None,
        container: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a pod template of the sample image; with a readiness probe where `probed` or a MODE asks for it."""
        variables = {"DRAIN_MS": "0", **(env or {})}
        probe = {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1}
        return {
            "metadata": {"labels": dict(labels)},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "shop",
                        "image": self.lab.image(version),
                        "imagePullPolicy": "IfNotPresent",
                        "env": [{"name": key, "value": value} for key, value in variables.items()],
                        "ports": [{"name": "http", "containerPort": 8080}],
                        **({"readinessProbe": probe} if self.probed or "MODE" in variables else {}),
                        **(container or {}),
                    }
                ],
            },
        }

    def serve(self, name: str = "api", selector: Mapping[str, str] | None = None) -> None:
        """Make the Service that users come by; wait until the API server sends requests on to it, a moment later."""
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        body = {"metadata": {"name": name}, "spec": {"selector": dict(selector or {"app": name}), "ports": ports}}
        path = f"/api/v1/namespaces/{self.namespace}/services"
        self.admin.create(path, body)

        def known() -> bool:
            try:
                return bool(self.admin.text(f"{path}/{name}:http/proxy/version"))
            except KubeError as error:
                return error.status != HTTPStatus.NOT_FOUND

        self.until(known)

    def deploy(
        self,
        workload: str = "deployment/api",
        version: str = BAD,
        *,
        env: Mapping[str, str] | None = None,
        cause: str = "release 1.5.0",
        image: str = "",
        wait: bool = True,
    ) -> dict[str, Any]:
        """Deploy another version, as a pipeline does. image: one that need not exist."""
        item = self.get(workload)
        labels = item["spec"]["selector"]["matchLabels"]
        template = self.template(version, labels=labels, env=env, container={"image": image} if image else None)
        notes = {**item["metadata"]["annotations"], CAUSE: cause}
        done = self.edit(
            workload,
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "replace", "path": "/metadata/annotations", "value": notes},
        )
        return self.wait(workload) if wait else done

    def edit(self, workload: str, *operations: Mapping[str, Any]) -> dict[str, Any]:
        """Change an object by a JSON patch."""
        return self.admin.json_patch(self.path(workload), list(operations))

    def wait(self, workload: str = "deployment/api") -> dict[str, Any]:
        """Wait until a workload is rolled out and its object is at rest."""
        kind = workload.partition("/")[0]
        return self.until(lambda: item if progress(kind, item := self.get(workload)).done else None)

    def until(self, true: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
        """Wait for something and return it."""
        end = time.monotonic() + seconds
        while True:
            try:
                found = true()
            except (KubeError, LookupError):  # not there yet
                found = None
            if found:
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"the cluster did not follow within {seconds:g} s")
            time.sleep(0.05)

    @contextlib.contextmanager
    def seen(self, workload: str = "deployment/api") -> Iterator[list[dict[str, Any]]]:
        """Collect every state that an object goes through while the block lasts."""
        item, found = self.get(workload), list[dict[str, Any]]()
        found.append(item)
        collection, _, name = self.path(workload).rpartition("/")
        over = threading.Event()

        def follow() -> None:
            version = item["metadata"]["resourceVersion"]
            while not over.is_set():
                for _, one in self.admin.watch(collection, version, 1.0, fieldSelector=f"metadata.name={name}"):
                    version = one["metadata"]["resourceVersion"]
                    if "spec" in one:
                        found.append(one)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        yield found
        last = self.get(workload)["metadata"]["resourceVersion"]
        self.until(lambda: found[-1]["metadata"]["resourceVersion"] == last)
        over.set()
        thread.join()

    # -- runs --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """The profile's rollback_state, as the action plugins hand it to the engine."""
        kubeconfig = str(self.kubeconfig)
        return {"kind": "kubernetes", "namespace": self.namespace, "kubeconfig": kubeconfig, "service": "shop"}

    @property
    def store(self) -> KubernetesStore:
        """The service's state store."""
        return KubernetesStore({**self.state, "kubeconfig": str(self.lab.kubeconfig)})

    def run(
        self,
        kind: str = "rollback",
        *,
        to: str | Mapping[str, str] = "",
        checkpoint: str = "",
        components: Sequence[Mapping[str, Any]] = (),
        roles: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        **more: Any,
    ) -> Ended:
        """Make a run for the service. to: rollback_to; a text is for the one component. components: others than it.
        roles: components of several roles, in order. more: see harness.Run."""
        known = roles or {"rollback_kubernetes": components or [self.component]}
        profile = {
            "roles": [{"role": name, "components": [dict(one) for one in found]} for name, found in known.items()],
            "state": self.state,
            "lease_seconds": LEASE_SECONDS,
        }
        named = to if isinstance(to, Mapping) else {"api": to} if to else {}
        run = _Run(profile, kind=kind, to=named, **more)
        run.asked["rollback_checkpoint"] = checkpoint
        return Ended(run, run.go())

    def checkpoint(self, **more: Any) -> Ended:
        """Take a checkpoint, which is proven at once."""
        done = self.run("checkpoint", **more)
        assert done.outcome == "done", done.message
        return done


class _Run(Run):
    """As harness.Run, in this process."""

    def _module(self, phase: str, work: Callable[[], Answer]) -> Answer:
        """Do a phase in this process, unless it is to be killed: a fork of a process with threads may stand still."""
        if self.failpoint:
            return super()._module(phase, work)
        self.before.pop(phase, lambda: None)()
        self.phases.append(phase)
        try:
            answer: Answer = json.loads(json.dumps(work()))
        except RollbackError as error:
            return {"failed": True, "msg": error.message, "next_step": error.next_step}
        return answer


class Ended:
    """A run that has ended."""

    def __init__(self, run: _Run, ending: Answer) -> None:
        self.run = str(run.run["id"])
        self.outcome = str(ending["outcome"])
        self.message = str(ending.get("message", ""))
        self.next = str(ending.get("next", ""))
        self.ending = ending
        self.phases = run.phases
        self.answers = run.answers

    def seconds(self, phase: str) -> float:
        """Return how long a phase took."""
        return float(self.answers[phase]["rollbackctl"]["seconds"])

    def steps(self, phase: str) -> list[dict[str, Any]]:
        """Return what a phase said of each component."""
        return list(self.answers[phase]["rollbackctl"]["steps"])

    def notes(self) -> list[str]:
        """Return what preflight noted."""
        proposals = self.answers["preflight"]["rollbackctl"]["proposals"]
        return [note for proposal in proposals for note in proposal["finding"]["notes"]]

    def __repr__(self) -> str:
        return f"{self.outcome}: {self.message} ({', '.join(self.phases)})"


def _without_status(item: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(dict(item))
    found.pop("status", None)
    metadata = found["metadata"]
    metadata.pop("resourceVersion", None)
    managers = [one for one in metadata.get("managedFields") or [] if one.get("subresource") != "status"]
    metadata["managedFields"] = managers
    return found
