# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of what is in Kubernetes, as profiles say them: what is refused, and where they may be asked."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_controller import read_checks
from ansible.module_utils.rollbackctl.check_model import Context
from ansible.module_utils.rollbackctl.check_profile import load_checks
from ansible.module_utils.rollbackctl.checks import run_checks
from ansible.module_utils.rollbackctl.errors import Refused

IN_CLUSTER = {"kind": "kubernetes", "namespace": "production"}
PODS = {"name": "pods", "kind": "pods", "workload": ["deployment/api"]}
EVENTS = {"name": "events", "kind": "events", "selector": "app=api", "reasons": ["OOMKilled"]}
LOG = {"name": "log", "kind": "pod_log", "selector": "app=api", "pattern": "ERROR"}
COMMAND = {"name": "command", "kind": "pod_command", "workload": ["statefulset/db"], "argv": ["pg_isready"]}
PROMETHEUS = {"name": "rate", "kind": "prometheus", "url": "http://127.0.0.1:9090", "query": "up", "expect": {"min": 1}}
SERVICE = {"name": "rate", "kind": "prometheus", "service": "prom", "port": 9090, "query": "up", "expect": {"min": 1}}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({**PODS, "selector": "app=api"}, "either `selector` or `workload`"),
        ({"name": "pods", "kind": "pods"}, "either `selector` or `workload`"),
        ({**PODS, "workload": ["api"]}, "deployment/NAME, statefulset/NAME, daemonset/NAME"),
        ({**PODS, "workload": ["job/api"]}, "deployment/NAME"),
        ({**PODS, "workload": ["deployment/../../secrets"]}, "deployment/NAME"),
        ({**PODS, "workload": []}, "deployment/NAME"),
        ({**PODS, "namespace": "../kube-system"}, "`namespace` must be lowercase"),
        ({**PODS, "ready": 0}, "`ready` must be at least 1"),
        ({**PODS, "max_restarts": -1}, "must not be negative"),
        ({**PODS, "max": 1}, "pods checks do not know max"),
        ({**EVENTS, "selector": " "}, "`selector` must be a label selector"),
        ({**EVENTS, "selector": "app=api&limit=1"}, "`selector` must be a label selector"),
        ({**EVENTS, "reasons": []}, "`reasons` must be a list"),
        ({**EVENTS, "reasons": ["a,b=c"]}, "`reasons` must be a list"),
        ({**EVENTS, "max": -1}, "`max` must not be negative"),
        ({**LOG, "minutes": 0}, "`minutes` must be above 0"),
        ({**LOG, "pattern": "("}, "not a regular expression"),
        ({**COMMAND, "argv": []}, "`argv` must be a list"),
        ({**COMMAND, "container": "a/b"}, "`container` must be lowercase"),
        ({**COMMAND, "environment": {"A": "b"}}, "do not know environment"),
        ({**PROMETHEUS, "service": "prom", "port": 1}, "either `url` or `service`"),
        ({**PROMETHEUS, "port": 1}, "`port` belongs to `service`"),
        ({**PROMETHEUS, "url": "http://x/api/v1/query?query=up"}, "without /api"),
        ({**PROMETHEUS, "url": "http://me:secret@x/"}, "must not hold a user"),
        ({**PROMETHEUS, "query": " "}, "`query` is empty"),
        ({**PROMETHEUS, "expect": {}}, "`expect` wants either"),
        ({**PROMETHEUS, "expect": {"value": "many"}}, "`value` must be a number"),
        ({**SERVICE, "port": 0}, "needs `port`"),
        ({**SERVICE, "headers": {"A": "b"}}, "`headers` belongs to `url`"),
        ({**SERVICE, "service": "prom:9090/../x"}, "`service` must be lowercase"),
    ],
)
def test_what_cannot_be_meant_is_refused(document: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused) as caught:
        load_checks([document])
    assert complaint in caught.value.message


def test_a_service_on_a_host_cannot_ask_a_cluster() -> None:
    for document in (PODS, EVENTS, LOG, COMMAND, SERVICE):
        with pytest.raises(Refused, match=f"{document['name']}: what is in Kubernetes can be asked only where"):
            read_checks([document], {"kind": "directory", "path": "/x"})
        assert len(read_checks([document], IN_CLUSTER)[1]) == 1
    assert len(read_checks([PROMETHEUS], {"kind": "directory", "path": "/x"})[1]) == 1


def test_a_workload_may_be_one_word() -> None:
    assert read_checks([{**PODS, "workload": "deployment/api"}], IN_CLUSTER)[1][0].options["workload"] == [
        "deployment/api"
    ]


def test_pods_are_waited_for_and_all_else_has_one_chance() -> None:
    found = {
        check.kind: (check.in_a_row, check.within) for check in load_checks([PODS, EVENTS, LOG, COMMAND, PROMETHEUS])
    }
    assert found == {
        "pods": (1, 30),
        "events": (1, 0),
        "pod_log": (1, 0),
        "pod_command": (1, 0),
        "prometheus": (1, 3),
    }


def reached(source: Path, shared: Path) -> set[str]:
    """Return the shared files that a module's imports reach, also those inside functions: Ansible ships them all."""
    found: set[str] = set()
    waiting = [source]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)]
                new = {name for name in names if (shared / f"{name}.py").exists()} - found
                found |= new
                waiting += [shared / f"{name}.py" for name in new]
    return found


def test_a_module_on_a_host_reaches_no_client(root: Path) -> None:
    shared = root / "plugins/module_utils/rollbackctl"
    shipped = reached(root / "library/rollback_checks.py", shared)
    assert "check_kube_kinds" in shipped
    assert [name for name in shipped if "kube" in name] == ["check_kube_kinds"]
    assert {"check_kube_select", "kube_client"} <= reached(shared / "check_kube.py", shared)


def test_where_no_cluster_is_known_a_check_is_unverified() -> None:
    """What a module on a host would say."""
    (result,) = run_checks(load_checks([{**SERVICE, "within": 0}]), 5, Context())
    assert (result.ok, result.unverified) == (False, True)
