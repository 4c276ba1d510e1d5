# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a service whose state is in Kubernetes: all of them run in the controller, in the task's own process.

A module on a host must not reach this file: Ansible ships everything that a module's imports reach, on each call.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import check_kube_command, check_kube_events, check_kube_log, check_kube_pods, check_kube_prometheus
from .check_context import context_of
from .check_kube_select import Cluster
from .check_model import Check, CheckResult
from .check_profile import KINDS
from .checks import run_checks
from .errors import RollbackError
from .kube_auth import find_access
from .kube_client import Client
from .kube_store import KubernetesStore
from .store import Store

_SAMPLES = {
    "pods": check_kube_pods.sample,
    "events": check_kube_events.sample,
    "pod_log": check_kube_log.sample,
    "pod_command": check_kube_command.sample,
    "prometheus": check_kube_prometheus.sample,
}
LEASE_SECONDS = 60.0


def install() -> None:
    """Make checks in this process know how to ask a cluster."""
    for name, sample in _SAMPLES.items():
        KINDS[name] = dataclasses.replace(KINDS[name], sample=sample)


def run_here(
    checks: Iterable[Check], seconds: float, state: Mapping[str, Any], run: Mapping[str, Any], *, check_mode: bool
) -> list[CheckResult]:
    """Run all checks at once and return their results in the same order, within so many seconds.

    :param state: the profile's rollback_state.
    :param run: the run that asks, as the guard opened it; empty without one.
    :raises RollbackError: the cluster is not known, or the run's journal cannot be read.
    """
    install()
    store = KubernetesStore(run["state"]) if run.get("id") and run.get("state") else None
    client = store.client if store else Client(find_access(state, os.environ))
    try:
        context = context_of(run, check_mode=check_mode, store=store)
        cluster = Cluster(client, str(state.get("namespace") or ""))
        with _lease_kept(store, run):
            return run_checks(checks, seconds, dataclasses.replace(context, cluster=cluster))
    finally:
        client.close()


@contextmanager
def _lease_kept(store: Store | None, run: Mapping[str, Any]) -> Iterator[None]:
    """Renew the run's lease while the body lasts: checks may take longer than it holds."""
    if store is None or not run.get("token"):
        yield  # nothing was changed under a lease: a run that only looks has none
        return
    ended = threading.Event()
    period = float(run.get("lease_seconds") or LEASE_SECONDS) / 4
    heart = threading.Thread(target=_beat, args=(store, run, period, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def _beat(store: Store, run: Mapping[str, Any], period: float, ended: threading.Event) -> None:
    while not ended.wait(period):
        try:
            store.renew(str(run["id"]), int(run["token"]))
        except (OSError, RollbackError):  # noqa: PERF203 - the next step itself finds out
            return
