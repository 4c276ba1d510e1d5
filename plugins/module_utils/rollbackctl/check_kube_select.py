# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pods a check means, and what the API server says of their containers. In the controller only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from .check_model import Context, Sample, bad, unverified
from .durable import parse_time
from .errors import RollbackError
from .kube_client import Client, KubeError
from .kube_objects import Workload, controller_uid, parse_workload

Pod = Mapping[str, Any]
# The API server's time is known within a second, and so is the journal's.
SLACK = timedelta(seconds=3)


@dataclass(frozen=True)
class Cluster:
    """What the checks of one task ask. namespace: where nothing else is said."""

    client: Client
    namespace: str


@dataclass(frozen=True)
class Group:
    """The pods of a workload or a selector, without those that are on their way out.

    wanted: how many there should be; None where only a selector says which. behind: the workload's controller has not
    seen its last change yet.
    """

    what: str
    pods: tuple[Pod, ...]
    wanted: int | None = None
    behind: bool = False


class NothingToAsk(Exception):
    """The check cannot go on; the sample says why."""

    def __init__(self, sample: Sample) -> None:
        super().__init__(sample.text)
        self.sample = sample


def namespace_of(options: Mapping[str, Any], context: Context) -> str:
    """Return the namespace that a check means."""
    return str(options.get("namespace") or context.cluster.namespace)


def find_groups(options: Mapping[str, Any], context: Context) -> list[Group]:
    """Return the pods that a check means, by workload.

    :raises NothingToAsk: a workload does not exist, or the API server does not say.
    """
    cluster, namespace = context.cluster, namespace_of(options, context)
    try:
        if "selector" in options:
            pods = _pods(cluster.client, namespace, options["selector"])
            return [Group(f"selector {options['selector']}", tuple(pods))]
        workloads = [parse_workload(text, namespace) for text in options["workload"]]
        found: list[Group] = cluster.client.each(lambda workload: _group(cluster.client, workload), workloads)
    except RollbackError as exc:
        raise NothingToAsk(unverified(exc.message)) from None
    return found


def _group(client: Client, workload: Workload) -> Group:
    try:
        item = client.get(workload.path)
    except KubeError as exc:
        if exc.status == 404:
            raise NothingToAsk(bad(f"{workload} does not exist in {workload.namespace}")) from None
        raise
    selector = as_text(item["spec"]["selector"])
    owners = {item["metadata"]["uid"]}
    if workload.kind == "deployment":
        # Another application's pods may have the same labels; those of this one belong to its own ReplicaSets.
        sets = client.names(f"/apis/apps/v1/namespaces/{workload.namespace}/replicasets", labelSelector=selector)
        owners = {one["metadata"]["uid"] for one in sets if controller_uid(one) in owners}
    pods = [pod for pod in _pods(client, workload.namespace, selector) if controller_uid(pod) in owners]
    status = item.get("status") or {}
    wanted = (
        status.get("desiredNumberScheduled", 0) if workload.kind == "daemonset" else item["spec"].get("replicas", 1)
    )
    behind = int(status.get("observedGeneration") or 0) < int(item["metadata"].get("generation") or 0)
    return Group(str(workload), tuple(pods), int(wanted), behind)


def as_text(selector: Mapping[str, Any]) -> str:
    """Return a selector (matchLabels and matchExpressions) as one label selector."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for term in selector.get("matchExpressions") or []:
        key, values = term["key"], f"({','.join(term.get('values') or [])})"
        forms = {"In": f"{key} in {values}", "NotIn": f"{key} notin {values}", "Exists": key, "DoesNotExist": f"!{key}"}
        terms.append(forms[term["operator"]])
    return ",".join(terms)


def _pods(client: Client, namespace: str, selector: str) -> list[Pod]:
    found = client.list(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def containers(pod: Pod) -> list[Mapping[str, Any]]:
    """Return the statuses of a pod's containers, those for its start first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def ends(container: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield how a container ended, as far as that is remembered: now ("state"), and the time before ("lastState")."""
    for field in ("state", "lastState"):
        terminated = (container.get(field) or {}).get("terminated")
        if terminated:
            yield field, terminated


def moment(value: Any) -> datetime | None:
    """Return a time of the API server's; None where it has none (null, or the year 1)."""
    found = parse_time(str(value)) if value else None
    return found if found is not None and found.year > 1 else None


def future(start: datetime | None, now: datetime) -> Sample | None:
    """Return what is to be said when the run's change seems to lie ahead: nothing is counted since then; else None."""
    if start is None or start <= now + SLACK:
        return None
    return unverified(
        f"the run's change is said to be at {start:%Y-%m-%dT%H:%M:%SZ}, but the API server's clock says "
        f"{now:%Y-%m-%dT%H:%M:%SZ}; set the controller's clock right"
    )
