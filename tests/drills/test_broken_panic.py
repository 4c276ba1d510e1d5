# SPDX-License-Identifier: GPL-3.0-or-later
"""A panic in which not all can be put back: what can be is, and the table says what is left, service by service.

A run that fails cannot be a drill of molecule; it is one all the same: the shipped profile, really broken.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.drill import main as drill
from lab.kubernetes.drill import release
from lab.kubernetes.scenes import BAD, syriamart
from tests.support.kube_bench import KubeBench

PANIC_SECONDS = 120.0


@pytest.fixture
def bench(lab_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeBench]:
    """Four services with checkpoints, then broken by a release."""
    assert lab_cluster.running()
    made = KubeBench(tmp_path_factory.mktemp("panic"), syriamart())
    try:
        done = made.play("checkpoint.yml", rollback_reason="before the release")
        assert done.record.get("outcome") == "done", done.output
        for name in ("user-service", "order-service", "catalog-service-green"):
            release(made.drill, name, BAD, mode="errors")
        selector = json.dumps({"spec": {"selector": {"version": "green"}}})
        made.drill.kubectl("patch", "service", "catalog-service", f"--patch={selector}")
        drill(["--root", str(made.drill.root), "canary", "payment-service", "--version", BAD, "--mode", "errors"])
        yield made
    finally:
        made.remove()


def damage_ledger(bench: KubeBench, service: str) -> None:
    """Make the checkpoint of a service something that nobody can read."""
    chosen = f"--selector=rollbackctl.io/service={service},rollbackctl.io/kind=checkpoint"
    (item,) = bench.drill.get("configmaps", chosen)["items"]
    ((key, _),) = item["binaryData"].items()
    patch = json.dumps({"binaryData": {key: base64.b64encode(b"not a document any more").decode()}})
    bench.drill.kubectl("patch", "configmap", item["metadata"]["name"], "--type=merge", f"--patch={patch}")


def test_what_can_be_put_back_is_and_the_rest_is_said(bench: KubeBench) -> None:
    """The ledger of two services is damaged, and one of these has a stable version that needs none; a third is gone."""
    damage_ledger(bench, "user-service")
    damage_ledger(bench, "catalog-service")
    bench.drill.kubectl("delete", "deployment", "payment-service")
    bad = bench.drill.objects()["deployment/user-service"]
    ran = bench.play("panic.yml", limit="", rollback_environment="production")
    assert ran.code != 0, ran.output
    words = {name: service["outcome"] for name, service in ran.record["services"].items()}
    assert words["order-service"] == "done", ran.output
    assert {words["user-service"], words["payment-service"]}.isdisjoint({"done", "already"}), words
    assert ran.record["seconds"] < PANIC_SECONDS
    # What could be done is done ...
    for name in ("order-service", "catalog-service"):
        answer = bench.drill.ask(name)
        assert (answer["status"], answer["version"]) == (200, "1.4.0"), name
    now = bench.drill.objects()
    assert now["deployment/payment-service-canary"]["spec"]["replicas"] == 0
    # ... what could not be was left alone, and is in the table, by name.
    assert now["deployment/user-service"] == bad
    table = ran.output.partition("Show the status of every service")[2]
    assert "user-service: " in table, ran.output
    assert "NOT DONE" in table
    assert "damaged" in table
    assert "deployment/payment-service does not exist" in table
    assert "order-service: done and proven" in table
