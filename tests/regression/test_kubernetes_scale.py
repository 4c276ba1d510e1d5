# SPDX-License-Identifier: GPL-3.0-or-later
"""B16: the runbooks scaled to 0 and then back to 3, whatever had run there, and under the hands of an autoscaler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace
from tests.unit.module_utils.traffic_lab import BEHAVIOR, Town, autoscaler, workload

API = "deployment/api"


@pytest.fixture(scope="module")
def town(lab_cluster: Cluster, admin: Client) -> Iterator[Town]:
    with fresh_namespace(admin, "b16") as name:
        made = Town(lab_cluster, admin, name)
        made.make("deployment", workload("deployment", "api", 5))
        made.make("horizontalpodautoscaler", autoscaler("api", API, minReplicas=2, maxReplicas=9, behavior=BEHAVIOR))
        made.wait_ready(API)
        yield made


def test_b16_five_replicas_and_their_autoscaler_are_what_they_were(town: Town) -> None:
    before = town.photograph()
    fence = town.fence(workloads=[API])
    fence.close()
    assert (town.replicas(API), town.pods()) == (0, [])
    fence.open()
    assert town.replicas(API) == 5
    assert town.get(API)["status"]["readyReplicas"] == 5
    assert town.photograph() == before


def test_b16_what_an_autoscaler_made_of_it_meanwhile_is_the_count_that_comes_back(town: Town) -> None:
    """The count is what it was when it was stopped, not what it was when a checkpoint was taken or a plan was made."""
    shutdown = town.shutdown(all=True)
    planned = shutdown.resolve("stopped")
    town.kubectl("scale", API, "--replicas=4")
    town.wait_ready(API)
    before, recorded = town.photograph(), shutdown.record(None)
    shutdown.apply(planned)
    assert (town.replicas(API), town.pods()) == (0, [])
    shutdown.apply(recorded)
    assert town.replicas(API) == 4
    assert town.photograph() == before
