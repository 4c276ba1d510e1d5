# SPDX-License-Identifier: GPL-3.0-or-later
"""Defect of the runbooks: `kubectl exec -it` in a script. Where there is no terminal, there is none to allocate."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace
from tests.support.kube_service import KubeService
from tests.unit.module_utils.check_lab import ask


@pytest.fixture(scope="module")
def service(lab_cluster: Cluster, admin: Client) -> Iterator[KubeService]:
    with fresh_namespace(admin) as namespace:
        found = KubeService(lab_cluster, admin, namespace)
        found.make("statefulset/db")
        yield found


def test_b19_a_command_in_a_pod_needs_no_terminal(service: KubeService) -> None:
    """Nothing is read, the exit code comes back, and the output is the program's, not what a terminal makes of it."""
    reading, writing = os.pipe()
    os.close(writing)
    old = os.dup(0)
    try:
        os.dup2(reading, 0)
        pod = {"kind": "pod_command", "timeout": 30, "workload": "statefulset/db"}
        found = ask(
            service,
            {"name": "compatible", **pod, "argv": ["/shop", "check"], "stdout_contains": "}\n"},
            {"name": "not", **pod, "argv": ["/shop", "get", "http://127.0.0.1:8080/absent"]},
        )
    finally:
        os.dup2(old, 0)
        os.close(old)
        os.close(reading)
    assert found["compatible"].ok, found["compatible"].text
    assert found["not"].text == "in pod db-0: exit code 1, expected 0: 404 404 page not found"
