# SPDX-License-Identifier: GPL-3.0-or-later
"""verify.yml of a service in Kubernetes: whatever is wrong with it, the exit code says so and the record says what.

That it succeeds while all is well: molecule/syriamart-verify.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.drill import main as drill
from lab.kubernetes.scenes import syriamart
from tests.support.bench import Ran
from tests.support.kube_bench import KubeBench

NAME = "user-service"


@pytest.fixture(scope="module")
def bench(lab_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeBench]:
    """A healthy service. Checks are tried once, and not for so long as a service may take to come up."""
    assert lab_cluster.running()
    made = KubeBench(tmp_path_factory.mktemp("verify"), syriamart(NAME))
    made.look()
    yield made
    made.remove()


@contextlib.contextmanager
def told(bench: KubeBench, mode: str) -> Iterator[None]:
    """Have the pods break, and mend again."""
    bench.drill.tell(NAME, mode)
    try:
        yield
    finally:
        bench.drill.tell(NAME, "ok")


def failed(bench: KubeBench, ran: Ran, *names: str) -> dict[str, str]:
    """Assert that these checks failed, and no others; return what was said of each."""
    assert ran.code != 0, ran.output
    assert ran.record["outcome"] not in {"done", "already"}
    checks = ran.record["services"][NAME]["checks"]
    wrong = {check["name"]: check["text"] for check in checks if not check["ok"]}
    assert sorted(wrong) == sorted(names), checks
    for name in names:
        assert name in ran.said, ran.said
    bench.unchanged()
    return wrong


def test_too_many_lines_with_errors_in_the_pods_logs(bench: KubeBench) -> None:
    """Users are served again; what was in the log minutes ago still says that something is wrong."""
    drill(["--root", str(bench.drill.root), "errors", NAME, "11"])
    text = failed(bench, bench.play("verify.yml"), "few-errors")["few-errors"]
    assert text.startswith("11 matching lines of 2 pods")
    assert "expected at most 10" in text
    # The other tests are about other checks: new pods have a new log.
    bench.drill.kubectl("rollout", "restart", f"deployment/{NAME}")
    bench.drill.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=90s")
    bench.look()


def test_answers_that_take_too_long(bench: KubeBench) -> None:
    with told(bench, "slow"):
        text = failed(bench, bench.play("verify.yml"), "speed")["speed"]
    assert re.search(r"p95 of 5 requests is [0-9.]+ (s|ms), expected at most", text), text


def test_a_service_that_says_it_is_not_healthy(bench: KubeBench) -> None:
    """Its pods are taken out of the Service, so that nobody answers any more; asked in the pod, neither is it well."""
    with told(bench, "notready"):
        bench.drill.kubectl("wait", "--for=condition=Ready=false", "pod", f"--selector=app={NAME}", "--timeout=60s")
        wrong = failed(bench, bench.play("verify.yml"), "health", "speed", "database")
    assert "200" not in wrong["health"]
    bench.drill.kubectl("wait", "--for=condition=Ready", "pod", f"--selector=app={NAME}", "--timeout=60s")


def test_a_database_that_does_not_answer(bench: KubeBench) -> None:
    """The command in the pod ends with another code than 0."""
    database = {"name": "database", "kind": "pod_command", "workload": [f"deployment/{NAME}"]}
    hosts = bench.profile("database", rollback_checks=[{**database, "argv": ["/shop", "get", "http://127.0.0.1:5432"]}])
    text = failed(bench, bench.play("verify.yml", hosts=hosts), "database")["database"]
    assert "exit code 1" in text


def test_what_cannot_be_looked_at_is_no_success(bench: KubeBench) -> None:
    """A workload that is not there has no errors in its log either."""
    log = {"name": "few-errors", "kind": "pod_log", "workload": ["deployment/user-servise"], "pattern": "ERROR"}
    hosts = bench.profile("nobody", rollback_checks=[log])
    text = failed(bench, bench.play("verify.yml", hosts=hosts), "few-errors")["few-errors"]
    assert "deployment/user-servise does not exist" in text
