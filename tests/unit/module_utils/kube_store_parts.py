# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the state store in Kubernetes share: a service's state in the lab's cluster, and looks at it."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_lease import LEASE_NOTE, STEP_NOTE
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore
from ansible.module_utils.rollbackctl.store import Lease

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace, token_kubeconfig
from tests.unit.module_utils.engine_parts import RUN

ELSEWHERE = "another-controller"
# All that the store itself asks for.
STORE_RULES: list[dict[str, Any]] = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "create", "patch", "delete"]},
]


@dataclass
class Place:
    """A service's state, and the lab's own tools to look at it and to spoil it."""

    lab: Cluster
    admin: Client
    namespace: str
    service: str
    kubeconfig: Path

    @property
    def state(self) -> dict[str, Any]:
        """The profile's rollback_state, as the action plugins hand it to the engine."""
        return {
            "kind": "kubernetes",
            "namespace": self.namespace,
            "kubeconfig": str(self.kubeconfig),
            "service": self.service,
        }

    @property
    def store(self) -> KubernetesStore:
        """A store of its own, as each process has one."""
        return KubernetesStore(self.state)

    @property
    def lease_path(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/rollbackctl-{self.service}"

    def object(self, name: str, folder: str = "configmaps") -> str:
        """Return the path of one of the service's objects."""
        return f"/api/v1/namespaces/{self.namespace}/{folder}/rollbackctl-{self.service}-{name}"

    def lease(self) -> dict[str, Any]:
        return self.admin.get(self.lease_path)

    def note(self, name: str) -> str:
        """Return an annotation of the Lease."""
        return str(self.lease()["metadata"]["annotations"].get(name, ""))

    @property
    def mark(self) -> str:
        return self.note(STEP_NOTE)

    def set_mark(self, mark: str) -> None:
        self.admin.merge_patch(self.lease_path, {"metadata": {"annotations": {STEP_NOTE: mark}}})

    def expire(self) -> None:
        """Let the lease end: as if its time had passed without a renewal."""
        self.admin.merge_patch(self.lease_path, {"spec": {"renewTime": "2001-01-01T00:00:00.000000Z"}})

    def flip(self, name: str, field: str, key: str) -> None:
        """Change one byte in the middle of what an object holds."""
        text = str(self.admin.get(self.object(name))[field][key])
        raw = bytearray(base64.b64decode(text) if field == "binaryData" else text.encode())
        raw[len(raw) // 2] ^= 1
        new = base64.b64encode(raw).decode() if field == "binaryData" else raw.decode()
        patch = json.dumps({field: {key: new}})
        where = ("--namespace", self.namespace, "patch", "configmap", f"rollbackctl-{self.service}-{name}")
        self.lab.kubectl(*where, "--type=merge", "--patch-file=/dev/stdin", input=patch)

    def holder(self) -> Lease:
        """Return the lease as it is written, ended or not."""
        return Lease(**json.loads(self.note(LEASE_NOTE)))


def take(
    store: KubernetesStore, run: str = RUN, *, pid: int = 1, controller: str = ELSEWHERE, seconds: float = 60.0
) -> Lease:
    """Take the lease and open the run's journal, as the guard does."""
    with store.locked():
        lease = store.acquire(run, "ops", controller, pid, seconds)
        store.open_journal(run)
        return lease


@pytest.fixture(scope="module")
def shared_namespace(admin: Client) -> Iterator[str]:
    """One namespace for the tests of a file: each has a service of its own in it."""
    with fresh_namespace(admin, "store") as name:
        yield name


@pytest.fixture(scope="module")
def shared_kubeconfig(lab_cluster: Cluster, shared_namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the rights that the store needs, and no others."""
    return token_kubeconfig(lab_cluster, shared_namespace, STORE_RULES, tmp_path_factory.mktemp("kubeconfig"))


@pytest.fixture
def place(lab_cluster: Cluster, admin: Client, shared_namespace: str, shared_kubeconfig: Path) -> Place:
    """The state of a new service."""
    return Place(lab_cluster, admin, shared_namespace, f"shop-{secrets.token_hex(4)}", shared_kubeconfig)


@pytest.fixture
def store(place: Place) -> KubernetesStore:
    return place.store
