# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `prometheus` against a real Prometheus that scrapes a real target, directly and behind a Service."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.check_controller import read_checks
from ansible.module_utils.rollbackctl.check_model import CheckResult, Context
from ansible.module_utils.rollbackctl.check_prometheus import judge
from ansible.module_utils.rollbackctl.checks import run_checks
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube_service import KubeService
from tests.unit.module_utils.check_lab import one
from tests.unit.module_utils.check_server import Handler, serving

PATIENCE_SECONDS = 60.0
METRICS = b"""\
shop_error_rate{pod="api-1"} 0.002
shop_error_rate{pod="api-2"} 0.2
shop_nothing NaN
"""
UP = {"query": 'up{job="shop"}', "expect": {"min": 1}}


@contextmanager
def prometheus(folder: Path, address: str, target: str) -> Iterator[int]:
    """Run Prometheus; return its port once it has scraped the target."""
    program = shutil.which("prometheus")
    assert program, "apt-get install prometheus"
    with socket.create_server((address, 0)) as free:
        port: int = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [{"job_name": "shop", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    flags = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "storage.tsdb.retention.time": "1h",
        "web.listen-address": f"{address}:{port}",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *(f"--{flag}={value}" for flag, value in flags.items())], stdout=log, stderr=log
        )
        try:
            _await(f"http://{address}:{port}/api/v1/query?query=shop_error_rate")
            yield port
        finally:
            process.terminate()
            process.wait()


def _await(url: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback
                if json.loads(answer.read())["data"]["result"]:
                    return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    raise TimeoutError(url)


@contextmanager
def scraped() -> Iterator[str]:
    """A target with metrics, as host:port."""

    def reply(request: Handler) -> None:
        request.reply(200, METRICS, Content_Type="text/plain; version=0.0.4")

    with serving(reply) as server:
        yield f"127.0.0.1:{server.server_port}"


def ask(*documents: dict[str, Any]) -> dict[str, CheckResult]:
    common = {"kind": "prometheus", "within": 0, "timeout": 30}
    checks = read_checks([{**common, **document} for document in documents])[1]
    return {result.name: result for result in run_checks(checks, 60, Context())}


def test_every_series_must_be_as_expected(tmp_path: Path) -> None:
    with scraped() as target, prometheus(tmp_path, "127.0.0.1", target) as port:
        url = f"http://127.0.0.1:{port}"
        rate = {"url": url, "query": "shop_error_rate"}
        found = ask(
            {"name": "up", "url": f"{url}/", **UP},
            {"name": "up-exactly", "url": url, **UP, "expect": {"value": 1}},
            {"name": "low", **rate, "query": 'shop_error_rate{pod="api-1"}', "expect": {"max": 0.01}},
            {"name": "one-is-high", **rate, "expect": {"max": 0.01}},
            {"name": "both-are", **rate, "expect": {"max": 0.001}},
            {"name": "scalar", **rate, "query": "scalar(sum(shop_error_rate)) * 10", "expect": {"min": 2, "max": 2.1}},
            {"name": "empty", **rate, "query": "shop_absent", "expect": {"max": 1}},
            {"name": "nan", **rate, "query": "shop_nothing", "expect": {"max": 1}},
            {"name": "infinite", **rate, "query": "shop_error_rate / 0", "expect": {"max": 1}},
            {"name": "range", **rate, "query": "shop_error_rate[1m]", "expect": {"max": 1}},
            {"name": "typo", **rate, "query": "sum(shop_error_rate", "expect": {"max": 1}},
        )
        wrong = ask({"name": "elsewhere", "url": f"http://{target}", **UP})["elsewhere"]
    texts = {name: result.text for name, result in found.items()}
    assert texts == {
        "up": "the result is 1",
        "up-exactly": "the result is 1",
        "low": "the result is 0.002",
        "one-is-high": "the result is 0.2, expected at most 0.01"
        f" (__name__=shop_error_rate, instance={target}, job=shop, pod=api-2)",
        "both-are": texts["both-are"],
        "scalar": "the result is 2.02",
        "empty": "the query finds no series",
        "nan": f"the result is no number (__name__=shop_nothing, instance={target}, job=shop)",
        "infinite": texts["infinite"],
        "range": "the query gives no numbers of one moment; take a range's rate(), max_over_time() or the like",
        "typo": texts["typo"],
    }
    assert texts["both-are"].endswith(", and 1 more of 2 series")
    assert "no number" in texts["infinite"]
    assert "parse error: unclosed left parenthesis" in texts["typo"]
    assert [name for name, result in found.items() if result.ok] == ["up", "up-exactly", "low", "scalar"]
    unknown = {"empty", "nan", "infinite", "range", "typo"}
    assert {name for name, result in found.items() if result.unverified} == unknown
    assert (wrong.unverified, wrong.text) == (True, "what answers there is not Prometheus")
    down = ask({"name": "down", "url": url, **UP})["down"]
    assert down.unverified
    assert "nothing listens there" in down.text


def test_behind_a_service_it_is_asked_through_the_api_server(
    lab_cluster: Cluster, admin: Client, namespace: str, tmp_path: Path
) -> None:
    service = KubeService(lab_cluster, admin, namespace)
    core = f"/api/v1/namespaces/{namespace}"
    with scraped() as target, prometheus(tmp_path, lab_cluster.node_address, target) as port:
        # The API server forwards to pods only: this one has the node's address, where Prometheus listens.
        container = {"name": "pause", "image": "lab.local/pause:1", "imagePullPolicy": "Never"}
        metadata = {"name": "prom", "labels": {"app": "prom"}}
        admin.create(f"{core}/pods", {"metadata": metadata, "spec": {"hostNetwork": True, "containers": [container]}})
        spec = {"selector": {"app": "prom"}, "ports": [{"port": 9090, "targetPort": port}]}
        admin.create(f"{core}/services", {"metadata": {"name": "prom"}, "spec": spec})
        behind = {"kind": "prometheus", "service": "prom", "port": 9090}
        up = service.until(lambda: found if (found := one(service, **behind, **UP)).ok else None)
        assert up.text == "the result is 1"
        high = one(service, **behind, query="shop_error_rate", expect={"max": 0.01})
        assert (high.ok, high.unverified) == (False, False)
        typo = one(service, **behind, query="sum(", expect={"max": 1})
        assert typo.unverified
        assert "Is the query written correctly?" in typo.text
    absent = one(service, **{**behind, "service": "absent"}, **UP)
    assert absent.unverified
    assert "404" in absent.text


def answer(*values: str, **more: Any) -> bytes:
    result = [{"metric": {}, "value": [0, value]} for value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}, **more}).encode()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (answer("1", warnings=["partial response: store-2 does not answer"]), "is not sure of its answer: partial"),
        (answer("1", "NaN"), "no number"),
        (b'{"status": "success"}', "not Prometheus"),
        (b"[]", "not Prometheus"),
        (b"<html>", "not Prometheus"),
        (b" " * (1024 * 1024 + 1), "larger than 1024 KiB"),
        (b'{"status": "error", "errorType": "timeout", "error": "query timed out"}', "Prometheus: query timed out"),
        (
            json.dumps({"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}}).encode(),
            "no numbers",
        ),
    ],
)
def test_what_is_not_known_is_unverified(body: bytes, text: str) -> None:
    found = judge(body, {"max": 1})
    assert (found.ok, found.unverified) == (False, True)
    assert text in found.text


def test_a_number_that_is_too_high_is_a_failure_whatever_the_rest_says() -> None:
    assert not judge(answer("NaN", "2", warnings=["w"]), {"max": 1}).unverified
    assert judge(answer("1", "1"), {"value": "1"}).ok
