# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole runs of a service in Kubernetes whose components are ConfigMaps and Secrets, with or without the workload that
reads them: the engine's own functions, one process a phase."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl import kube_registry
from ansible.module_utils.rollbackctl.store import open_store

from tests.faults.harness import Run
from tests.faults.tasks import Answer
from tests.unit.module_utils.kube_config_parts import Scene, unpacked

kube_registry.install()


class Service:
    """One service: its profile, and runs of it."""

    def __init__(self, scene: Scene, kubeconfig: Path, *, workload: Mapping[str, Any] | None = None) -> None:
        self.scene = scene
        roles = [{"role": "restore_kubernetes_config", "components": [scene.options]}]
        if workload is not None:
            roles.append({"role": "rollback_kubernetes", "components": [dict(workload)]})
        state = {"kind": "kubernetes", "namespace": scene.namespace, "kubeconfig": str(kubeconfig), "service": "shop"}
        self.profile: dict[str, Any] = {"roles": roles, "state": state, "lease_seconds": 30}

    def run(self, *, to: Mapping[str, str] | None = None, soak: float = 0.0, **how: Any) -> tuple[Answer, Run]:
        """Do a run; return its ending and the run."""
        run = Run(self.profile, to=to, soak=soak, **how)
        return run.go(), run

    def checkpoint(self, soak: float = 0.0) -> None:
        """Take one; the next is of another second, as from a playbook: the API server counts in seconds."""
        ending, _ = self.run(kind="checkpoint", soak=soak)
        assert ending["outcome"] == "done", ending
        time.sleep(1.1)

    def events(self, run: Run) -> list[dict[str, Any]]:
        return open_store(dict(self.profile["state"])).journal(str(run.run["id"])).events()

    def shown(self) -> str:
        """Return all text in the namespace that is in no Secret, unpacked."""
        base = self.scene.path("configmap", "").rpartition("/configmaps")[0]
        found: list[Any] = [self.scene.client.list(f"{base}/{kind}") for kind in ("configmaps", "events")]
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{self.scene.namespace}/leases"
        secrets = self.scene.client.names(f"{base}/secrets")
        return unpacked([*found, self.scene.client.list(lease), secrets])
