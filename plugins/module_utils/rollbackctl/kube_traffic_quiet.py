# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what was stopped has really ended, and whether what was given back is really there: read from pods, jobs and
endpoints, never from a count that somebody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .errors import DeadlineExceeded
from .kube_client import Client
from .kube_hold import CRONJOB, KINDS, SERVICE, WORKLOADS, Thing, set_going
from .kube_objects import controller_uid
from .kube_rollout import matches_labels, pod_failure
from .kube_wait import Observer

Objects = Callable[[str], Sequence[Mapping[str, Any]]]
_ENDED = ("Succeeded", "Failed")
_SERVICE_NAME = "kubernetes.io/service-name"
SHOWN = 8


def pods_path(namespace: str) -> str:
    """Return the path of a namespace's pods."""
    return f"/api/v1/namespaces/{namespace}/pods"


def sets_path(namespace: str) -> str:
    """Return the path of a namespace's ReplicaSets."""
    return f"/apis/apps/v1/namespaces/{namespace}/replicasets"


def jobs_path(namespace: str) -> str:
    """Return the path of a namespace's jobs."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def slices_path(namespace: str) -> str:
    """Return the path of a namespace's EndpointSlices."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def witnesses(things: Iterable[Thing], namespace: str) -> list[str]:
    """Return the collections that say whether these things have ended, or are there."""
    words = {thing.kind.word for thing in things}
    found = [KINDS[word].collection(namespace) for word in WORKLOADS if word in words]
    if words & set(WORKLOADS):
        found.append(pods_path(namespace))
    if "deployment" in words:
        found.append(sets_path(namespace))
    if CRONJOB in words:
        found.append(jobs_path(namespace))
    if SERVICE in words:
        found.append(slices_path(namespace))
    return found


def listed(client: Client, things: Sequence[Thing], namespace: str) -> Objects:
    """Return those collections as they are at this moment."""
    paths = witnesses(things, namespace)
    found = dict(zip(paths, client.each(client.list, paths)))
    return lambda path: found[path]


def still_there(things: Iterable[Thing], namespace: str, objects: Objects) -> list[str]:
    """Return what is left of things that are stopped, each in a few words; empty when all of it has ended."""
    found: list[str] = []
    for thing in things:
        if thing.kind.word in WORKLOADS:
            found += _pods_left(thing, namespace, objects)
        elif thing.kind.word == CRONJOB:
            uid = thing.item["metadata"]["uid"]
            jobs = [job for job in objects(jobs_path(namespace)) if controller_uid(job) == uid and not _job_ended(job)]
            found += [f"job {job['metadata']['name']} of {thing} still runs" for job in jobs]
        elif thing.kind.word == SERVICE:
            count = len(_endpoints(thing, namespace, objects))
            found += [f"{thing} still has {count} endpoints"] if count else []
    return found


def not_ready(things: Iterable[Thing], namespace: str, objects: Objects) -> dict[str, str]:
    """Return what is not there yet of things that run, by thing."""
    found: dict[str, str] = {}
    for thing in things:
        if thing.kind.word == SERVICE:
            ready = [one for one in _endpoints(thing, namespace, objects) if _is_ready(one)]
            if not ready:
                found[str(thing)] = f"{thing} has no endpoint that is ready"
        elif thing.kind.word in WORKLOADS:
            item = _fresh(thing, namespace, objects)
            wanted = int(item["spec"].get("replicas", 1)) if item else 0
            ready_pods = Thing(thing.kind, item).ready if item and _is_seen(item) else 0
            if ready_pods < wanted:
                why = _why(thing, namespace, objects)
                found[str(thing)] = f"{thing}: {ready_pods} of {wanted} pods are ready{why}"
    return found


def await_quiet(client: Client, things: Sequence[Thing], namespace: str, seconds: float) -> None:
    """Wait until nothing is left of things that are stopped.

    :raises DeadlineExceeded: the time is up; what is left is named.
    """
    with Observer(client, {path: {} for path in witnesses(things, namespace)}) as seen:

        def left() -> list[str]:
            _refuse_to_fight(things, namespace, seen.objects)
            return still_there(things, namespace, seen.objects)

        if seen.until(lambda: None if left() else True, seconds) is None:
            raise DeadlineExceeded(f"Not stopped within {seconds:g} s: {shortened(left())}.")


def _refuse_to_fight(things: Iterable[Thing], namespace: str, objects: Objects) -> None:
    """Stop waiting for what somebody set going again.

    :raises StateOther: so it is; who did is named, as far as it is known.
    """
    for thing in things:
        item = _fresh(thing, namespace, objects) if thing.kind.word in WORKLOADS else None
        if item is not None and not Thing(thing.kind, item).stopped:
            raise set_going(Thing(thing.kind, item))


def await_ready(client: Client, things: Sequence[Thing], namespace: str, seconds: float) -> dict[str, str]:
    """Wait until things that run are ready; return what is not when the time is up, by thing."""
    with Observer(client, {path: {} for path in witnesses(things, namespace)}) as seen:
        done = seen.until(lambda: None if not_ready(things, namespace, seen.objects) else True, seconds)
        return {} if done else not_ready(things, namespace, seen.objects)


def shortened(texts: Sequence[str]) -> str:
    """Return a list for people that stays readable."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return f"{', '.join(texts[:SHOWN])}{more}"


# -- pods --------------------------------------------------------------------------------------------------------------


def _pods_left(thing: Thing, namespace: str, objects: Objects) -> list[str]:
    item = _fresh(thing, namespace, objects)
    if item is None:
        return []  # deleted in the meantime; its pods go with it
    waiting = [] if _is_seen(item) else [f"the controller of {thing} has not seen the change yet"]
    if thing.kind.word == "deployment":
        mine = [one for one in objects(sets_path(namespace)) if controller_uid(one) == item["metadata"]["uid"]]
        # Until then it may still start one.
        waiting += [f"{thing} still has a ReplicaSet at work" for one in mine if not _is_quiet_set(one)][:1]
    pods = [pod for pod in _own_pods(item, thing, namespace, objects) if not _has_ended(pod)]
    return waiting + [_pod_text(pod) for pod in pods]


def _own_pods(item: Mapping[str, Any], thing: Thing, namespace: str, objects: Objects) -> list[Mapping[str, Any]]:
    """Return the pods that a workload controls: labels alone prove nothing, two applications may share them."""
    pods = objects(pods_path(namespace))
    if thing.kind.word != "deployment":
        return [pod for pod in pods if controller_uid(pod) == item["metadata"]["uid"]]
    sets = {one["metadata"]["uid"]: controller_uid(one) for one in objects(sets_path(namespace))}
    selector = item["spec"]["selector"]
    # The pod may outlive its ReplicaSet by the time it takes to end.
    return [
        pod
        for pod in pods
        if _controller_kind(pod) == "ReplicaSet"
        and matches_labels(selector, pod["metadata"].get("labels") or {})
        and sets.get(controller_uid(pod), item["metadata"]["uid"]) == item["metadata"]["uid"]
    ]


def _fresh(thing: Thing, namespace: str, objects: Objects) -> Mapping[str, Any] | None:
    for item in objects(thing.kind.collection(namespace)):
        if item["metadata"]["uid"] == thing.item["metadata"]["uid"]:
            return item
    return None


def _is_seen(item: Mapping[str, Any]) -> bool:
    observed = int((item.get("status") or {}).get("observedGeneration") or 0)
    return observed >= int(item["metadata"].get("generation") or 0)


def _is_quiet_set(item: Mapping[str, Any]) -> bool:
    return _is_seen(item) and not int(item["spec"].get("replicas", 1))


def _controller_kind(pod: Mapping[str, Any]) -> str:
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(owner["kind"]) for owner in owners if owner.get("controller")), "")


def _has_ended(pod: Mapping[str, Any]) -> bool:
    """Say whether a pod is over: its containers have ended and nobody is about to remove it (an evicted one stays), or
    only somebody's finalizer keeps it from being removed."""
    if (pod.get("status") or {}).get("phase") not in _ENDED:
        return False
    return not pod["metadata"].get("deletionTimestamp") or bool(pod["metadata"].get("finalizers"))


def _pod_text(pod: Mapping[str, Any]) -> str:
    metadata = pod["metadata"]
    text = f"pod {metadata['name']} still runs"
    if metadata.get("deletionTimestamp"):
        grace = metadata.get("deletionGracePeriodSeconds")
        text = f"pod {metadata['name']} has not ended yet (it is allowed {grace} s)"
    return text


def _why(thing: Thing, namespace: str, objects: Objects) -> str:
    item = _fresh(thing, namespace, objects)
    if item is None:
        return ""
    failures = [failure for pod in _own_pods(item, thing, namespace, objects) if (failure := pod_failure(pod))]
    return f" ({failures[0]})" if failures else ""


# -- jobs and endpoints ------------------------------------------------------------------------------------------------


def _job_ended(job: Mapping[str, Any]) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(one.get("type") in {"Complete", "Failed"} and one.get("status") == "True" for one in conditions)


def _endpoints(thing: Thing, namespace: str, objects: Objects) -> list[Mapping[str, Any]]:
    slices = [
        one
        for one in objects(slices_path(namespace))
        if (one["metadata"].get("labels") or {}).get(_SERVICE_NAME) == thing.name
    ]
    return [endpoint for one in slices for endpoint in one.get("endpoints") or []]


def _is_ready(endpoint: Mapping[str, Any]) -> bool:
    # Unknown counts as ready, says the API.
    return (endpoint.get("conditions") or {}).get("ready") is not False
