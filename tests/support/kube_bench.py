# SPDX-License-Identifier: GPL-3.0-or-later
"""Services in the lab's cluster as drills make them, and shipped playbooks run on them as a person would run them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.rollbackctl import kube_registry
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore

from lab.kubernetes.cluster import cluster
from lab.kubernetes.drill import make
from lab.kubernetes.scenes import Scene
from tests.support.bench import ROOT, Bench, Ran

kube_registry.install()


class KubeBench(Bench):
    """What a drill has, for runs that a drill cannot make because they must fail."""

    def __init__(self, folder: Path, scene: Scene, **more: Any) -> None:
        """Make the services. more: further variables of the place."""
        self.folder = folder
        self.drill = make(folder / "s", scene, more=more)
        self.inventory = ROOT / "inventories" / scene.inventory
        self.hosts = folder / "s" / "hosts.yml"
        self.records = folder / "records"
        self.before: dict[str, Any] = {}

    def start(
        self,
        playbook: str,
        *words: str,
        limit: str = "all",
        hosts: Path | None = None,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        **values: Any,
    ) -> subprocess.Popen[str]:
        """Start ansible-playbook, as Bench does; for all hosts of the inventory."""
        return super().start(playbook, *words, limit=limit, hosts=hosts, cwd=cwd, env=env, **values)

    def profile(self, name: str, *, host: str = "", **changes: Any) -> Path:
        """Return an inventory in which one host's profile is changed; a variable that is None is left out.

        host: which one; the only one without it. name: one that was not used yet.
        """
        folder = self.folder / "inventories" / name
        folder.mkdir(parents=True)
        shutil.copy(self.hosts, folder / "hosts.yml")
        shutil.copytree(self.inventory / "host_vars", folder / "host_vars")
        (folder / "group_vars").symlink_to(self.inventory / "group_vars")
        path = folder / "host_vars" / f"{host or next(iter(self.drill.about['urls']))}.yml"
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
        told = {key: value for key, value in {**known, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
        return folder / "hosts.yml"

    def store(self, service: str) -> KubernetesStore:
        """Return a service's state store."""
        where = {"kind": "kubernetes", "namespace": self.drill.namespace, "kubeconfig": str(cluster().kubeconfig)}
        return KubernetesStore({**where, "service": service})

    def look(self) -> None:
        """Remember all objects of the namespace, for `unchanged`."""
        self.before = self.drill.objects()

    def unchanged(self) -> None:
        """Assert that all objects of the namespace are as they were."""
        now = self.drill.objects()
        assert {name: now.get(name) for name in {*now, *self.before} if now.get(name) != self.before.get(name)} == {}

    def refused(self, ran: Ran, *words: str) -> None:
        """Assert that a run was refused, that it said all of the words, and that nothing in the namespace changed."""
        assert ran.code != 0, ran.output
        assert ran.record.get("outcome") == "refused", f"{ran.said}\n{ran.output}"
        assert ran.record["exit_code"] == 2
        assert "othing was changed" in ran.said, ran.said
        missing = [word for word in words if word not in ran.said]
        assert not missing, f"it did not say {missing}: {ran.said}"
        self.unchanged()

    def remove(self) -> None:
        """Remove the namespace; nobody waits for that."""
        lab = cluster()
        lab.kubectl("delete", "namespace", self.drill.namespace, "--wait=false", "--ignore-not-found")
        shutil.rmtree(self.drill.root, ignore_errors=True)
