# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a service in Kubernetes, as ansible-playbook runs them: all here, under a lease that holds on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube_service import KubeService
from tests.unit.action.test_rollback_checks import BIN, ROOT_IS_THERE, Playbook, ask, closed_port
from tests.unit.module_utils.check_lab import tell

RUN = "rb-20261121-093015-4f2a"
LEASE_SECONDS = 4


@pytest.fixture
def playbook(tmp_path: Path, ansible_env: dict[str, str]) -> Playbook:
    return Playbook(tmp_path, ansible_env)


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    return KubeService(lab_cluster, admin, namespace)


def known(state: dict[str, Any]) -> list[str]:
    """Return the options that say where the service is."""
    return ["-e", json.dumps({"rollback_state": state})]


PODS: dict[str, Any] = {"name": "pods", "kind": "pods", "workload": "deployment/api"}


def test_all_checks_run_here_under_the_runs_lease(playbook: Playbook, service: KubeService) -> None:
    """The host cannot be reached at all. What was restarted since the run's first change is found by its journal."""
    service.make()
    checks: list[dict[str, Any]] = [
        PODS,
        ROOT_IS_THERE,
        {"name": "long", "kind": "command", "argv": ["sleep", str(LEASE_SECONDS + 2)], "timeout": 60},
        {"name": "log", "kind": "pod_log", "view": "outside", "selector": "app=api", "pattern": "ERROR", "max": 1},
        {
            "name": "inside",
            "kind": "pod_command",
            "workload": "deployment/api",
            "argv": ["/shop", "check"],
            "timeout": 60,
        },
    ]
    playbook.env["ANSIBLE_SSH_ARGS"] = "-o BatchMode=yes"
    options = [*known(service.state), "-e", f"ansible_port={closed_port()}"]
    store = service.store
    with store.locked():
        lease = store.acquire(RUN, "somebody", "here", os.getpid(), LEASE_SECONDS)
        journal = store.open_journal(RUN)
        store.write_plan(RUN, {"entries": []})
        journal.append("begin", component="api")
    time.sleep(1.1)  # the journal counts in whole seconds
    tell(service, service.pods()[0], "crash")
    service.until(lambda: all(one["status"]["containerStatuses"][0]["restartCount"] for one in service.pods()))
    service.wait()
    without = playbook.run(checks, ask("verify"), *options, connection="ssh")
    assert not without["failed"], without["msg"]
    assert [one["name"] for one in without["rollbackctl"]["checks"]] == [check["name"] for check in checks]
    assert store.lease_ends_in(lease) < 0, "only the run itself keeps its lease"
    with store.locked():
        lease = store.acquire(RUN, "somebody", "here", os.getpid(), LEASE_SECONDS)
    run = {"id": RUN, "state": service.state, "token": lease.token, "lease_seconds": LEASE_SECONDS}
    guard = {"ansible.builtin.set_fact": {"rollbackctl_run": run, "cacheable": True}}
    during = playbook.run(checks, ask("verify"), *options, connection="ssh", before=[guard])
    assert during["failed"]
    (failed,) = [one for one in during["rollbackctl"]["checks"] if not one["ok"]]
    assert failed["name"] == "pods"
    assert "container shop was restarted 1 times" in failed["text"]
    spec = service.admin.get(f"/apis/coordination.k8s.io/v1/namespaces/{service.namespace}/leases/{store.prefix}")[
        "spec"
    ]
    assert spec["leaseTransitions"] == lease.token
    held = datetime.fromisoformat(spec["renewTime"]) - datetime.fromisoformat(spec["acquireTime"])
    assert held.total_seconds() > LEASE_SECONDS, "renewed while the long check went on"


def test_one_view_and_check_mode(playbook: Playbook, service: KubeService) -> None:
    service.make()
    outside = {"name": "log", "kind": "pod_log", "view": "outside", "selector": "app=api", "pattern": "ERROR"}
    command = {"name": "run", "kind": "pod_command", "workload": "deployment/api", "argv": ["/shop", "check"]}
    dry = playbook.run([PODS, outside, command], ask("verify", views=["inside"]), "--check", *known(service.state))
    assert not dry["failed"]
    assert {one["name"]: one["text"] for one in dry["rollbackctl"]["checks"]} == {
        "pods": "deployment/api: 1 of 1 pods ready",
        "run": "not run, because this is check mode",
    }


def test_what_is_wrong_with_the_way_to_the_cluster_is_said(playbook: Playbook, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    state = {"kind": "kubernetes", "namespace": "shop", "kubeconfig": str(absent)}
    answer = playbook.run([PODS], ask("verify"), *known(state))
    assert answer["failed"]
    assert str(absent) in answer["msg"]


def test_the_checks_end_with_the_controller(playbook: Playbook, service: KubeService, tmp_path: Path) -> None:
    """A worker that outlived it would keep the lease of a dead run alive."""
    mark = tmp_path / "mark"
    waits = {"name": "waits", "kind": "command", "argv": ["/bin/sh", "-c", f"echo $$ > {mark}; exec sleep 60"]}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {"rollback_state": service.state, "rollback_checks": [{**waits, "timeout": 60}]},
        "tasks": [ask("verify")],
    }
    book = tmp_path / "book.yml"
    book.write_text(json.dumps([play]), encoding="utf-8")
    argv = [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(book)]
    controller = subprocess.Popen(argv, env=playbook.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        service.until(lambda: mark.exists() and mark.read_text(encoding="utf-8").strip())
        worker = _parent(int(mark.read_text(encoding="utf-8")))
        assert _parent(worker) == controller.pid
        controller.kill()
        controller.wait()
        service.until(lambda: not Path(f"/proc/{worker}").exists(), 10)
    finally:
        controller.kill()
        controller.wait()
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(mark.read_text(encoding="utf-8")), signal.SIGKILL)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
