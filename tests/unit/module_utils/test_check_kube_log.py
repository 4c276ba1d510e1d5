# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `pod_log` against a real cluster: all pods' lines since the change, also those from before a restart."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import check_kube_log
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_pod_exec import execute

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.components import PAUSE
from tests.support.kube_service import KubeService
from tests.unit.module_utils.check_lab import SECOND, one, tell


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    return KubeService(lab_cluster, admin, namespace)


def fail(service: KubeService, pod: dict[str, Any], times: int) -> None:
    """Have a pod in mode errors answer so many requests; each leaves a line in its log."""
    argv = ["/shop", "get", "http://127.0.0.1:8080/version"]
    name = pod["metadata"]["name"]

    def once(_: int) -> None:
        assert execute(service.admin.access, service.namespace, name, "shop", argv, 30).rc == 1

    service.admin.each(once, range(times))


def test_more_than_ten_errors_in_five_minutes_fail(service: KubeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.make(replicas=2, env={"MODE": "errors"})
    first, second = service.pods()
    for pod, lines in ((first, 3), (second, 8)):
        fail(service, pod, lines)
    limit = {"kind": "pod_log", "pattern": r"\bERROR\b", "minutes": 5}
    name = second["metadata"]["name"]
    many = one(service, **limit, max=10)
    assert not many.ok
    assert many.text.startswith("11 matching lines of 2 pods since 20")
    assert many.text.endswith(f"expected at most 10; most of them (8) in the log of pod {name}, container shop")
    assert one(service, **limit, max=11).ok
    assert not one(service, **limit, selector="app=api", max=10).ok
    monkeypatch.setattr(check_kube_log, "BYTES_PER_POD", 100)
    cut = one(service, **limit, max=10)
    assert cut.unverified
    assert "only the first 0 KiB were read" in cut.text
    monkeypatch.undo()
    logs_of = check_kube_log.logs_of

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return logs_of(*arguments)

    with monkeypatch.context() as slow:
        slow.setattr(check_kube_log, "logs_of", slowly)
        late = one(service, **limit, max=10, timeout=0.01)
    assert late.unverified
    assert "set a longer `timeout`" in late.text
    assert one(service, **limit, settled=datetime.now(UTC) + SECOND).ok, "what the bad version wrote does not count"


def test_what_a_container_wrote_before_its_restart_counts(service: KubeService) -> None:
    service.make()
    (pod,) = service.pods()
    tell(service, pod, "crash")
    service.until(lambda: all(one["status"]["containerStatuses"][0]["restartCount"] == 1 for one in service.pods()))
    crashed = one(service, kind="pod_log", pattern="^ERROR crash$")
    assert not crashed.ok
    assert "most of them (1) in the log before the restart of pod api-" in crashed.text
    assert one(service, kind="pod_log", pattern="^ERROR crash$", max=1).ok
    # A container that waits to be started again has one log only, which must not count twice.
    tell(service, service.until(lambda: service.pods() if ready(service) else None)[0], "crash")
    service.until(lambda: any("waiting" in one["status"]["containerStatuses"][0]["state"] for one in service.pods()))
    assert one(service, kind="pod_log", pattern="^ERROR crash$", max=1).ok
    gone = one(service, kind="pod_log", pattern="x", selector="app=none")
    assert gone.unverified
    assert gone.text == "there is no pod of selector app=none"


def test_pods_without_a_log_and_workloads_that_never_log_say_nothing(service: KubeService) -> None:
    """One that waits for its image has no log; one that logs into a file has an empty one."""
    check = {"kind": "pod_log", "pattern": "ERROR"}
    service.make("deployment/waiting", image="127.0.0.1:9/none:1", wait=False)
    service.until(lambda: service.pods(app="waiting"))
    waiting = one(service, **check, workload="deployment/waiting")
    assert waiting.unverified
    assert "nothing ran since then, so it has no log" in waiting.text
    service.make("deployment/silent", container={"image": PAUSE}, wait=False)
    service.until(lambda: any(map(is_running, service.pods(app="silent"))))
    silent = one(service, **check, workload="deployment/silent")
    assert silent.unverified
    assert "deployment/silent has not logged anything" in silent.text
    assert one(service, **check, workload="deployment/silent", quiet=True).ok
    service.make()
    assert one(service, **check, settled=datetime.now(UTC) + SECOND).ok, "it has logged something before"
    both = one(service, **check, workload=["deployment/api", "deployment/silent"])
    assert both.unverified


def test_a_pattern_that_goes_back_for_ever_is_given_up(service: KubeService) -> None:
    service.make()
    late = one(service, kind="pod_log", pattern="([^~]+)+~", timeout=5)
    assert late.unverified
    assert "the pattern took longer than" in late.text


def is_running(pod: dict[str, Any]) -> bool:
    return bool(pod["status"].get("phase") == "Running")


def ready(service: KubeService) -> bool:
    return all(one["status"]["containerStatuses"][0]["ready"] for one in service.pods())
