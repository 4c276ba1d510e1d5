# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until workloads are rolled out; when they never will, giving up in seconds with the pod's last words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import DeadlineExceeded, StepFailed
from .kube_client import Client, KubeError
from .kube_objects import KINDS, Workload, controller_uid, images, template_hash
from .kube_rollout import matches_labels, pod_failure, progress
from .kube_wait import Observer, Query
from .names import printable

# A quota that a terminating pod still uses is free a moment later.
FAILURE_LASTS_SECONDS = 4.0
# With one or two workloads only their own objects are asked for.
FEW = 2
LOG_LINES = 5


def pods_path(namespace: str) -> str:
    """Return the path of a namespace's pods."""
    return f"/api/v1/namespaces/{namespace}/pods"


def await_rollout(
    client: Client, workloads: Mapping[Workload, Mapping[str, Any]], seconds: float, *, watch_pods: bool = True
) -> None:
    """Wait until each workload is rolled out with the template that it asks for.

    :param workloads: each as it was read last.
    :param seconds: the deadline for all of them together.
    :param watch_pods: give up early when a new pod will not start.
    :raises StepFailed: a rollout will not end by waiting; the message has the pod's last log lines and events.
    :raises DeadlineExceeded: the time is up.
    """
    (namespace,) = {workload.namespace for workload in workloads}
    failing: dict[Workload, float] = {}
    with Observer(client, _collections(workloads, namespace, watch_pods=watch_pods)) as seen:

        def decide() -> bool | None:
            ended = True
            for workload in workloads:
                item = _named(seen, workload)
                state = progress(workload.kind, item)
                ended = ended and state.done
                if state.failed:
                    since = failing.setdefault(workload, time.monotonic())
                    if time.monotonic() - since > FAILURE_LASTS_SECONDS:
                        raise StepFailed(f"{workload} will not roll out: {printable(state.failed)}.")
                else:
                    failing.pop(workload, None)
            if not ended and watch_pods:
                _give_up_early(client, seen, workloads, namespace)
            return True if ended else None

        if seen.until(decide, seconds) is None:
            slow = [(w, state) for w in workloads if not (state := progress(w.kind, _named(seen, w))).done]
            said = "; ".join(f"{workload}: {state.text}" for workload, state in slow[:5])
            more = f" and {len(slow) - 5} more" if len(slow) > 5 else ""
            raise DeadlineExceeded(f"Not rolled out within {seconds:.0f} s: {said}{more}.")


def await_gone(client: Client, workloads: Mapping[Workload, Mapping[str, Any]], seconds: float) -> None:
    """Wait until no pod of the workloads is left, the terminating ones included.

    :raises DeadlineExceeded: the time is up; the pods that are left are named.
    """
    (namespace,) = {workload.namespace for workload in workloads}
    path = pods_path(namespace)
    selectors = [item["spec"]["selector"] for item in workloads.values()]
    with Observer(client, {path: {}}) as seen:

        def left() -> list[str]:
            return [
                pod["metadata"]["name"]
                for pod in seen.objects(path)
                if any(matches_labels(selector, pod["metadata"].get("labels") or {}) for selector in selectors)
            ]

        if seen.until(lambda: None if left() else True, seconds) is None:
            names = ", ".join(sorted(left())[:10])
            raise DeadlineExceeded(f"These pods are still there after {seconds:.0f} s: {names}.")


def _collections(
    workloads: Mapping[Workload, Mapping[str, Any]], namespace: str, *, watch_pods: bool
) -> dict[str, Query]:
    few = len(workloads) <= FEW
    found: dict[str, Query] = {}
    for kind in {workload.kind for workload in workloads}:
        names = [workload.name for workload in workloads if workload.kind == kind]
        alone = few and len(names) == 1
        found[KINDS[kind].collection(namespace)] = {"fieldSelector": f"metadata.name={names[0]}"} if alone else {}
    if watch_pods:
        (first, *others) = workloads.values()
        labels = first["spec"]["selector"].get("matchLabels") or {}
        simple = not others and labels and not first["spec"]["selector"].get("matchExpressions")
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found[pods_path(namespace)] = {"labelSelector": selector} if simple else {}
    return found


def _named(seen: Observer, workload: Workload) -> dict[str, Any]:
    for item in seen.objects(KINDS[workload.kind].collection(workload.namespace)):
        if item["metadata"]["name"] == workload.name:
            return item
    raise StepFailed(f"{workload} was deleted in the meantime.")


def _give_up_early(
    client: Client, seen: Observer, workloads: Mapping[Workload, Mapping[str, Any]], namespace: str
) -> None:
    for pod in seen.objects(pods_path(namespace)):
        failure = pod_failure(pod)
        if not failure or pod["metadata"].get("deletionTimestamp"):
            continue
        for workload in workloads:
            item = _named(seen, workload)
            labels = pod["metadata"].get("labels") or {}
            if matches_labels(item["spec"]["selector"], labels) and runs_template(client, workload, item, pod):
                raise StepFailed(f"{workload} will not roll out: {failure}.{last_words(client, pod)}")


def runs_template(client: Client, workload: Workload, item: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Say whether a pod belongs to a workload and was made from the template that it asks for now."""
    if workload.kind != "deployment":
        return controller_uid(pod) == item["metadata"]["uid"] and images({"spec": pod["spec"]}) == images(
            item["spec"]["template"]
        )
    owner = next((one for one in pod["metadata"].get("ownerReferences") or [] if one.get("controller")), None)
    if owner is None or owner.get("kind") != "ReplicaSet":
        return False
    replica_set = client.find(f"/apis/apps/v1/namespaces/{workload.namespace}/replicasets/{owner['name']}")
    return (
        replica_set is not None
        and controller_uid(replica_set) == item["metadata"]["uid"]
        and template_hash(replica_set["spec"]["template"]) == template_hash(item["spec"]["template"])
    )


def last_words(client: Client, pod: Mapping[str, Any]) -> str:
    """Return the last log lines and events of a pod for people; what may not be read is left out."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    said = ""
    try:
        lines = _log(client, f"{pods_path(namespace)}/{name}/log", pod)
        if lines:
            said += f" Its last lines: {' | '.join(lines)}."
    except KubeError:
        pass
    try:
        events = client.list(
            f"/api/v1/namespaces/{namespace}/events", fieldSelector=f"involvedObject.name={name},type=Warning"
        )
        texts = list(dict.fromkeys(str(event.get("message") or event.get("reason") or "") for event in events))
        if texts:
            said += f" Events: {' | '.join(texts[-3:])}."
    except KubeError:
        pass
    return printable(said)


def _log(client: Client, path: str, pod: Mapping[str, Any]) -> Sequence[str]:
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    restarted = next((one for one in containers if int(one.get("restartCount") or 0)), None)
    query = {"tailLines": str(LOG_LINES), "limitBytes": "4000"}
    if restarted is not None:
        query.update(container=str(restarted["name"]), previous="true")
    return [line.strip()[:200] for line in client.text(path, **query).splitlines() if line.strip()]
