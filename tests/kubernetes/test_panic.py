# SPDX-License-Identifier: GPL-3.0-or-later
"""panic.yml goes on past what is broken, says what it could not do, and can be taken back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube_service import BAD, GOOD, KubeService

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "drill"


class Fleet:
    """Services of one environment in one namespace, and the shipped playbooks run on them."""

    def __init__(self, kube: KubeService, folder: Path) -> None:
        self.kube, self.folder = kube, folder
        self.hosts: dict[str, dict[str, Any]] = {}

    def add(self, name: str, component: Mapping[str, Any], **state: Any) -> None:
        """Name a service with one component."""
        kubeconfig = str(self.kube.kubeconfig)
        self.hosts[name] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "rollback_service": {"name": name, "environment": ENVIRONMENT},
            "rollback_state": {
                "kind": "kubernetes",
                "namespace": self.kube.namespace,
                "kubeconfig": kubeconfig,
                "lease_seconds": 15,
                **state,
            },
            "rollback_soak_seconds": 0,
            "rollback_kubernetes": [{"namespace": self.kube.namespace, "timeout": 60, **component}],
        }

    def play(self, book: str, *extra: str) -> tuple[int, str, dict[str, Any]]:
        """Run a playbook; return exit code, output, and the record."""
        inventory, records = self.folder / "hosts.yml", self.folder / "records"
        inventory.write_text(json.dumps({"all": {"hosts": self.hosts}}), encoding="utf-8")
        before = set(records.glob("*.json"))
        argv = [
            str(ROOT / ".venv" / "bin" / "ansible-playbook"),
            str(ROOT / "playbooks" / book),
            "-i",
            str(inventory),
            *extra,
        ]
        environment = {**os.environ, "ROLLBACKCTL_RECORDS": str(records), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment, timeout=240)
        written = set(records.glob("*.json")) - before
        record = json.loads(written.pop().read_text(encoding="utf-8")) if written else {}
        return done.returncode, done.stdout + done.stderr, record

    def checkpoint(self, *names: str) -> None:
        code, output, _ = self.play("checkpoint.yml", "-l", ",".join(names), "-e", "rollback_reason=good")
        assert code == 0, output


@pytest.fixture
def fleet(lab_cluster: Cluster, admin: Client, namespace: str, tmp_path: Path) -> Fleet:
    return Fleet(KubeService(lab_cluster, admin, namespace), tmp_path)


PANIC = ("panic.yml", "-e", f"rollback_environment={ENVIRONMENT}")


def test_what_is_broken_is_said_and_keeps_nobody_waiting(fleet: Fleet) -> None:
    kube = fleet.kube
    for name in ("orders", "catalog"):
        kube.make(f"deployment/{name}")
        fleet.add(name, {"name": name, "workloads": [f"deployment/{name}"]})
    fleet.checkpoint("orders", "catalog")
    kube.deploy("deployment/orders", BAD)
    kube.lab.kubectl("-n", kube.namespace, "delete", "deployment", "catalog")  # broken: it is not there any more
    # A service whose ledger is out of reach: its traffic goes to what the profile calls stable all the same.
    for slot, version in (("stable", GOOD), ("next", BAD)):
        kube.make(f"deployment/users-{slot}", version, labels={"app": "users", "version": slot})
    kube.serve("users", {"app": "users", "version": "next"})
    switch = {"name": "users", "strategy": "blue_green", "service": "users", "stable": "stable"}
    fleet.add("users", switch, namespace=f"{kube.namespace}-gone")

    code, output, record = fleet.play(*PANIC)

    assert code != 0
    assert record["outcome"] == "unknown"
    words = {name: service["outcome"] for name, service in record["services"].items()}
    assert words == {"orders": "done", "catalog": "refused", "users": "unknown"}
    assert kube.get("deployment/orders")["spec"]["template"]["spec"]["containers"][0]["image"].endswith(GOOD)
    assert kube.until(lambda: kube.version("users") == GOOD)
    assert kube.get("deployment/users-next")["spec"]["replicas"] == 1, "the bad one is the way forward again"
    assert "NOT DONE: catalog: deployment/catalog does not exist" in output
    assert "NOT DONE: The ledger could not be used" in output
    assert "users: changed, service users -> stable" in output


def test_a_panic_is_a_run_that_can_be_taken_back(fleet: Fleet) -> None:
    kube = fleet.kube
    kube.make("deployment/api")
    kube.make("deployment/api-canary", BAD)
    fleet.add("shop", {"name": "api", "workloads": ["deployment/api"]})
    fleet.hosts["shop"]["rollback_kubernetes"].append(
        {
            "name": "canary",
            "namespace": kube.namespace,
            "strategy": "canary_stop",
            "workloads": ["deployment/api-canary"],
            "timeout": 60,
        }
    )
    fleet.checkpoint("shop")
    bad = kube.deploy("deployment/api", BAD)["spec"]
    before = kube.objects()

    code, output, _ = fleet.play(*PANIC, "--check")
    assert code == 0, output
    assert kube.objects() == before, "check mode changed something"

    code, output, record = fleet.play(*PANIC)
    assert (code, record["outcome"]) == (0, "done"), output
    assert kube.get("deployment/api")["spec"]["template"]["spec"]["containers"][0]["image"].endswith(GOOD)
    assert kube.get("deployment/api-canary")["spec"]["replicas"] == 0

    code, output, again = fleet.play(*PANIC)
    assert (code, again["outcome"]) == (0, "already"), output

    named = ("-e", f"rollback_run={record['run']}", "-e", "rollback_reason=it was not that")
    code, output, undone = fleet.play("roll-forward.yml", "-l", "shop", *named)
    assert (code, undone["outcome"]) == (0, "done"), output
    assert kube.get("deployment/api")["spec"]["template"] == bad["template"]
    assert kube.get("deployment/api-canary")["spec"]["replicas"] == 1


def test_a_service_that_another_run_works_on_is_left_to_it(fleet: Fleet) -> None:
    kube = fleet.kube
    kube.make("deployment/api")
    fleet.add("shop", {"name": "api", "workloads": ["deployment/api"]})
    fleet.checkpoint("shop")
    kube.deploy("deployment/api", BAD)
    before = kube.objects()
    lease = json.loads(kube.lab.kubectl("-n", kube.namespace, "get", "lease", "rollbackctl-shop", "-o", "json"))
    held = {"run": "rb-other", "token": 9, "holder": "a colleague", "controller": "elsewhere", "pid": 1}
    held.update(acquired="2026-11-21T09:30:15Z", seconds=3600.0)
    lease["metadata"]["annotations"]["rollbackctl.io/lease"] = json.dumps(held)
    lease["spec"]["renewTime"] = "2099-01-01T00:00:00.000000Z"
    kube.lab.kubectl("replace", "-f", "-", input=json.dumps(lease))

    code, output, record = fleet.play(*PANIC)

    assert (code, record["outcome"]) == (2, "refused"), output
    assert "a colleague on elsewhere" in record["message"]
    assert kube.objects() == before


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ((), "no environment was named"),
        (("-e", "rollback_environment=nowhere"), ""),
    ],
)
def test_nothing_is_chosen_by_default(fleet: Fleet, extra: tuple[str, ...], said: str) -> None:
    fleet.kube.make("deployment/api")
    fleet.add("shop", {"name": "api", "workloads": ["deployment/api"]})
    before = fleet.kube.objects()
    code, output, record = fleet.play("panic.yml", *extra)
    assert code == 2, output
    assert record["outcome"] == "refused"
    assert said in output
    assert fleet.kube.objects() == before
