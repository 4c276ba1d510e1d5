# SPDX-License-Identifier: GPL-3.0-or-later
"""The services in Kubernetes that all of these tests share; the table is that of tests/faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible.module_utils.rollbackctl import fence
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.faults.kubernetes.scenes import Bench


@pytest.fixture(scope="session")
def kube_bench(lab_cluster: Cluster, admin: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The place where services in Kubernetes are made and killed."""
    made = Bench(lab_cluster, admin, tmp_path_factory.mktemp("kubernetes"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "CLUSTER_POLL_SECONDS", 0.3)
