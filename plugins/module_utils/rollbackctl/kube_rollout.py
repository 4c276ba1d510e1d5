# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading how far a rollout is, and why it will not end. Pure functions over objects as the API server gives them.

"Rolled out" is what kubectl rollout status waits for and more: the controller has seen this generation, all replicas
are updated and available, and the old ones are gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A container in one of these will not start by waiting.
HOPELESS = frozenset({"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
# Nor in one of these, once it has lasted: what is missing may be made just now, a runtime may be busy.
STUCK = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# The first try to get the image failed. The next one is seconds away, and makes ImagePullBackOff of it.
PULLING = "ErrImagePull"
CRASH = "CrashLoopBackOff"
# A program may fail at first because what it needs was just being restarted.
CRASHES = 2
_PROGRESSING, _COMPLETE = "Progressing", "NewReplicaSetAvailable"
# What a Deployment without a progress deadline has in its place; it then says nothing of its progress.
_NO_DEADLINE = 2**31 - 1


@dataclass(frozen=True)
class Progress:
    """How far a workload's rollout is. failed: why it will not end by itself; empty while it may."""

    done: bool
    text: str
    failed: str = ""


def progress(kind: str, item: Mapping[str, Any], *, known: Sequence[Mapping[str, Any]] = ()) -> Progress:
    """Return how far a workload's rollout is.

    :param known: conditions that were there before the rollout began, and so say nothing about it.
    """
    status = item.get("status") or {}
    if not is_seen(item):
        return Progress(done=False, text="its controller has not seen the change yet")
    if kind == "daemonset":
        return _daemonset(status)
    wanted = int(item["spec"].get("replicas", 1))
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    there = int(status.get("replicas") or 0)
    text = f"{updated} of {wanted} updated, {available} available, {max(0, there - updated)} old ones left"
    if kind == "statefulset":
        ended = status.get("currentRevision") == status.get("updateRevision") or updated == wanted
        ready = int(status.get("readyReplicas") or 0)
        return Progress(done=ended and updated == wanted == there and min(ready, available) >= wanted, text=text)
    failed = _deployment_failure([one for one in status.get("conditions") or [] if one not in known])
    return Progress(done=updated == wanted == there and available == wanted, text=text, failed=failed)


def settled(kind: str, item: Mapping[str, Any]) -> bool:
    """Say whether a workload's last rollout ended. It stays so when pods are added later, or one becomes unwell, as
    autoscalers and nodes bring about all the time: that makes no other version."""
    status, spec = item.get("status") or {}, item["spec"]
    if progress(kind, item).done:
        return True
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    old_ones = int(status.get("replicas") or 0) != updated
    # Right after a change back and forth a controller may call the rollout ended although no pod is there yet.
    if not is_seen(item) or kind == "daemonset" or old_ones or not available:
        return False
    if kind == "statefulset":
        return bool(status.get("currentRevision") == status.get("updateRevision"))
    if int(spec.get("progressDeadlineSeconds") or _NO_DEADLINE) == _NO_DEADLINE:
        return False
    conditions = status.get("conditions") or []
    return any(one.get("type") == _PROGRESSING and one.get("reason") == _COMPLETE for one in conditions)


def is_seen(item: Mapping[str, Any]) -> bool:
    """Say whether a workload's controller has taken notice of its last change."""
    status = item.get("status") or {}
    return int(status.get("observedGeneration") or 0) >= int(item["metadata"].get("generation") or 0)


def _daemonset(status: Mapping[str, Any]) -> Progress:
    wanted = int(status.get("desiredNumberScheduled") or 0)
    updated, available = int(status.get("updatedNumberScheduled") or 0), int(status.get("numberAvailable") or 0)
    return Progress(done=updated == available == wanted, text=f"{updated} of {wanted} updated, {available} available")


def _deployment_failure(conditions: Sequence[Mapping[str, Any]]) -> str:
    for condition in conditions:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"pods cannot be made: {condition.get('message') or condition.get('reason')}"
        if condition.get("type") == _PROGRESSING and condition.get("reason") == "ProgressDeadlineExceeded":
            return str(condition.get("message") or "its progress deadline is over")
    return ""


def waits_in_order(kind: str, item: Mapping[str, Any]) -> bool:
    """Say whether a workload's controller replaces no pod of an old version before it is ready: a broken one then stays
    for ever (https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback)."""
    return kind == "statefulset" and item["spec"].get("podManagementPolicy", "OrderedReady") == "OrderedReady"


def pod_failure(pod: Mapping[str, Any], *, pulling: bool = False) -> str:
    """Return why a pod will not become ready by waiting; empty while it may.

    :param pulling: that an image could not be pulled is one such reason; see may_pass.
    """
    for container in container_statuses(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        crashed = reason == CRASH and int(container.get("restartCount") or 0) >= CRASHES
        if reason in HOPELESS or reason in STUCK or crashed or (pulling and reason == PULLING):
            last = ((container.get("lastState") or {}).get("terminated") or {}).get("exitCode")
            ended = f", it ended with {last}" if last is not None else ""
            message = f": {waiting['message']}" if waiting.get("message") and not crashed else ""
            return f"pod {pod['metadata']['name']}, container {container['name']}: {reason}{ended}{message}"
    return ""


def may_pass(pod: Mapping[str, Any]) -> bool:
    """Say whether what pod_failure found is of the kind that has to last before it is believed."""
    reasons = {
        str(((one.get("state") or {}).get("waiting") or {}).get("reason") or "") for one in container_statuses(pod)
    }
    return bool(reasons & {*STUCK, PULLING}) and not reasons & HOPELESS


def container_statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what is known of a pod's containers, those that run first included."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def not_ready(pod: Mapping[str, Any]) -> str:
    """Return why a pod is not ready, as its conditions say it; empty when it is."""
    for kind in ("PodScheduled", "Ready"):
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition.get("type") == kind and condition.get("status") != "True":
                return str(condition.get("message") or condition.get("reason") or "it is not ready")
    return "" if is_ready(pod) else "it has not started"


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Say whether a pod is ready and not on its way out."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def matches_labels(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Say whether a label selector (matchLabels and matchExpressions) takes an object with these labels."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        key, operator, values = term["key"], term["operator"], term.get("values") or []
        here = key in labels
        holds = {
            "In": here and labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": here,
            "DoesNotExist": not here,
        }.get(operator, False)
        if not holds:
            return False
    return True
