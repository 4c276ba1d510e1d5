# SPDX-License-Identifier: GPL-3.0-or-later
"""The services in Kubernetes that all of these tests share; the table is that of tests/faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible.module_utils.rollbackctl import fence
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.registry import DRIVERS

from lab.kubernetes.cluster import Cluster
from tests.faults.kubernetes.scenes import Bench
from tests.unit.module_utils.kube_engine_parts import MapData


@pytest.fixture(scope="session")
def kube_bench(lab_cluster: Cluster, admin: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The place where services in Kubernetes are made and killed."""
    made = Bench(lab_cluster, admin, tmp_path_factory.mktemp("kubernetes"))
    yield made
    made.close()


@pytest.fixture(scope="package", autouse=True)
def _data_behind_the_fence() -> Iterator[None]:
    """A role that nobody ships: one key of a ConfigMap, as data that must not change while a service writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DRIVERS, "mapdata", MapData)
        yield


@pytest.fixture(autouse=True)
def _quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "CLUSTER_POLL_SECONDS", 0.3)
