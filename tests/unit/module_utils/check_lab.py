# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a real service in the lab's cluster, as a profile says them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl import check_kube
from ansible.module_utils.rollbackctl.check_controller import read_checks
from ansible.module_utils.rollbackctl.check_kube_select import Cluster
from ansible.module_utils.rollbackctl.check_model import CheckResult, Context
from ansible.module_utils.rollbackctl.checks import run_checks
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client

from tests.support.kube_service import KubeService

SECOND = timedelta(seconds=1)
DEADLINE_SECONDS = 90.0
# The rights that roles/run_verify/README.md lists.
RIGHTS = (
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets"], "verbs": ["get"]},
    {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/log", "services/proxy"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
)


def ask(
    service: KubeService, *documents: dict[str, Any], kubeconfig: Path | None = None, **known: Any
) -> dict[str, CheckResult]:
    """Run checks of a profile for deployment/api, unless they name other pods; return their results by name.

    known: what the run is known to have changed, see check_model.Context.
    """
    check_kube.install()
    state = {**service.state, "kubeconfig": str(kubeconfig or service.kubeconfig)}
    client = Client(find_access(state, os.environ))
    context = Context(cluster=Cluster(client, service.namespace), **known)
    which = {"workload": "deployment/api"}
    with_pods = [one if {"selector", "workload", "service"} & set(one) else {**which, **one} for one in documents]
    try:
        return {
            result.name: result for result in run_checks(read_checks(with_pods, state)[1], DEADLINE_SECONDS, context)
        }
    finally:
        client.close()


def one(service: KubeService, /, **check: Any) -> CheckResult:
    """Run one check once, with time enough for a busy machine."""
    known = {key: check.pop(key) for key in ("changed", "settled", "check_mode", "kubeconfig") if key in check}
    return ask(service, {"name": "check", "within": 0, "timeout": 30, **check}, **known)["check"]


def tell(service: KubeService, pod: dict[str, Any], mode: str) -> None:
    """Have a pod break in some way."""
    name = pod["metadata"]["name"]
    service.admin.create(f"/api/v1/namespaces/{service.namespace}/pods/{name}:8080/proxy/break?mode={mode}", {})


def time_of(text: str) -> datetime:
    """Return a time of the API server's."""
    return datetime.fromisoformat(text).astimezone(UTC)
