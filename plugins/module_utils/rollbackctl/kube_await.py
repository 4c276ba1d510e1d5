# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until workloads are rolled out; when they never will, giving up in seconds with the pod's last words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .errors import AwaitingSomebody, DeadlineExceeded, StateOther, StepFailed
from .kube_client import Client
from .kube_difference import compare
from .kube_objects import KINDS, Workload, compared, template_hash
from .kube_origin import Origins
from .kube_owner import whose
from .kube_rollout import (
    is_ready,
    is_seen,
    matches_labels,
    may_pass,
    not_ready,
    pod_failure,
    progress,
    waits_in_order,
)
from .kube_wait import Observer, Query
from .kube_words import last_words
from .names import printable

Objects = Mapping[Workload, Mapping[str, Any]]
# A quota that a terminating pod still uses is free a moment later.
FAILURE_LASTS_SECONDS = 4.0
_NO_ROOM = "exceeded quota"
# A pod of the old version that is not ready for so long will hardly get ready, and is not replaced before.
OLD_POD_SECONDS = 30.0
# With one or two workloads only their own objects are asked for.
FEW = 2


class NoRoom(StepFailed):
    """A quota lets no more pods in, and none is about to go."""


def pods_path(namespace: str) -> str:
    """Return the path of a namespace's pods."""
    return f"/api/v1/namespaces/{namespace}/pods"


def await_rollout(client: Client, workloads: Objects, seconds: float) -> None:
    """Wait until each workload is rolled out with the template that it asks for.

    :param workloads: each as it was right after the change.
    :param seconds: the deadline for all of them together.
    :raises StepFailed: a rollout will not end by waiting; the message has the pod's last log lines and events.
    :raises AwaitingSomebody: a pod of the old version is in the way, and its controller will not remove it.
    :raises DeadlineExceeded: the time is up.
    :raises StateOther: somebody else wrote another template meanwhile.
    """
    (namespace,) = {workload.namespace for workload in workloads}
    with Observer(client, _collections(workloads, namespace)) as seen:
        watch = _Watch(client, seen, workloads, namespace)
        if seen.until(watch.decide, seconds) is None:
            raise DeadlineExceeded(f"Not rolled out within {seconds:.0f} s: {watch.slow()}")


class _Watch:
    """What is seen of a rollout of several workloads, and since when."""

    def __init__(self, client: Client, seen: Observer, workloads: Objects, namespace: str) -> None:
        self.client, self.seen, self.workloads, self.namespace = client, seen, workloads, namespace
        self.origins = Origins(client, namespace)
        self._since: dict[str, float] = {}
        # Since when a quota is full for each, since when in this state, and the state.
        self._full: dict[Workload, tuple[float, float, str]] = {}
        # What the bad rollout left says nothing about this one.
        self._known = {
            workload: [] if is_seen(item) else (item.get("status") or {}).get("conditions") or []
            for workload, item in workloads.items()
        }

    def decide(self) -> bool | None:
        """Say that all are rolled out, or nothing yet."""
        items = {workload: self._item(workload) for workload in self.workloads}
        for workload, item in items.items():
            self._is_ours(workload, item)
        states = {w: progress(w.kind, item, known=self._known[w]) for w, item in items.items()}
        if all(state.done for state in states.values()):
            return True
        for workload, state in states.items():
            said = f"{workload} will not roll out: {printable(state.failed)}."
            full = _NO_ROOM in state.failed
            if self._stays_full(workload, items[workload], state.text, now=full):
                raise NoRoom(said)
            if self._lasts(f"{workload} {state.failed}", FAILURE_LASTS_SECONDS, now=bool(state.failed) and not full):
                raise StepFailed(said)
        for workload, item, pod in self._pods(items):
            self._look_at(workload, item, pod)
        return None

    def slow(self) -> str:
        """Return which workloads are not rolled out, and what the first of their pods waits for."""
        items = {workload: self._item(workload) for workload in self.workloads}
        slow = {w: state for w, item in items.items() if not (state := progress(w.kind, item)).done}
        said = "; ".join(f"{workload}: {state.text}" for workload, state in list(slow.items())[:5])
        said += f" and {len(slow) - 5} more." if len(slow) > 5 else "."
        for workload, item, pod in self._pods({w: items[w] for w in slow}):
            if not is_ready(pod) and self.origins.of(pod) == self.origins.of_item(item):
                why = printable(not_ready(pod))
                return f"{said} Pod {pod['metadata']['name']} of {workload}: {why}.{last_words(self.client, pod)}"
        return said

    def _is_ours(self, workload: Workload, item: Mapping[str, Any]) -> None:
        """Stop when the template is no longer the one that was put there: an operator's own value, a deploy."""
        put, found = (one["spec"]["template"] for one in (self.workloads[workload], item))
        older = int(item["metadata"]["generation"]) < int(self.workloads[workload]["metadata"]["generation"])
        if older or template_hash(put) == template_hash(found):
            return
        by = whose(item, compare(compared(put), compared(found)))
        raise StateOther(
            f"{workload} was put back, and then somebody else changed its template again{f' ({by})' if by else ''}. An "
            "operator does so each time: change it there, or pause it, before the next run.",
            "Find out who did, then start a new run.",
        )

    def _stays_full(self, workload: Workload, item: Mapping[str, Any], text: str, *, now: bool) -> bool:
        """Say whether a quota has been full for so long that it stays so: no pod is about to go, and nothing gets on. A
        controller that was refused tries again after as long once more."""
        if not now:
            self._full.pop(workload, None)
            return False
        leaving = sum(
            bool(pod["metadata"].get("deletionTimestamp"))
            for pod in self.seen.objects(pods_path(self.namespace))
            if matches_labels(item["spec"]["selector"], pod["metadata"].get("labels") or {})
        )
        moment, state = time.monotonic(), f"{text}, {leaving} leaving"
        first, since, known = self._full.get(workload, (moment, moment, state))
        since = since if known == state else moment
        self._full[workload] = (first, since, state)
        return leaving == 0 and moment - since >= FAILURE_LASTS_SECONDS + (since - first)

    def _item(self, workload: Workload) -> dict[str, Any]:
        for item in self.seen.objects(KINDS[workload.kind].collection(workload.namespace)):
            if item["metadata"]["name"] == workload.name:
                return item
        raise StepFailed(f"{workload} was deleted in the meantime.")

    def _pods(self, items: Mapping[Workload, dict[str, Any]]) -> list[tuple[Workload, dict[str, Any], dict[str, Any]]]:
        """Return the pods that may belong to the workloads, by their labels, with those."""
        return [
            (workload, item, pod)
            for pod in self.seen.objects(pods_path(self.namespace))
            if not pod["metadata"].get("deletionTimestamp")
            for workload, item in items.items()
            if matches_labels(item["spec"]["selector"], pod["metadata"].get("labels") or {})
        ]

    def _look_at(self, workload: Workload, item: Mapping[str, Any], pod: dict[str, Any]) -> None:
        """Give up when this pod of the new version will not start, or this one of the old version never goes."""
        failure, uid = pod_failure(pod, pulling=True), str(pod["metadata"]["uid"])
        waits = waits_in_order(workload.kind, item) and not is_ready(pod)
        soon = FAILURE_LASTS_SECONDS if may_pass(pod) else 0.0
        failing = self._lasts(f"{uid} failing", soon, now=bool(failure))
        waiting = self._lasts(f"{uid} waiting", OLD_POD_SECONDS, now=waits)
        if not failing and not waiting:
            return
        origin, wanted = self.origins.of(pod), self.origins.of_item(item)
        if origin is None or origin.uid != wanted.uid:
            return
        if origin == wanted and failing:
            raise StepFailed(f"{workload} will not roll out: {failure}.{last_words(self.client, pod)}")
        if origin != wanted and waits:
            name = pod["metadata"]["name"]
            remove = f"kubectl --namespace {self.namespace} delete pod {name}"
            raise AwaitingSomebody(
                f"{workload} has its template back, but Kubernetes does not replace pod {name}, which is of the bad "
                f"version, before it is ready ({failure or printable(not_ready(pod))}). Remove it, then resume the "
                f"run: {remove}",
                remove,
            )

    def _lasts(self, what: str, seconds: float, *, now: bool) -> bool:
        """Say whether something has been so for that long without a break."""
        if not now:
            self._since.pop(what, None)
            return False
        return time.monotonic() - self._since.setdefault(what, time.monotonic()) >= seconds


def await_gone(client: Client, workloads: Objects, seconds: float) -> None:
    """Wait until no pod of the workloads is left, the terminating ones included.

    :raises DeadlineExceeded: the time is up; the pods that are left are named.
    """
    (namespace,) = {workload.namespace for workload in workloads}
    path = pods_path(namespace)
    origins = Origins(client, namespace).load(
        deployments=any(workload.kind == "deployment" for workload in workloads),
        others=any(workload.kind != "deployment" for workload in workloads),
    )
    with Observer(client, {path: {}}) as seen:

        def left() -> list[str]:
            return [pod["metadata"]["name"] for pod in origins.pods_of(workloads.values(), seen.objects(path))]

        if seen.until(lambda: None if left() else True, seconds) is None:
            names = ", ".join(sorted(left())[:10])
            raise DeadlineExceeded(f"These pods are still there after {seconds:.0f} s: {names}.")


def _collections(workloads: Objects, namespace: str) -> dict[str, Query]:
    few = len(workloads) <= FEW
    found: dict[str, Query] = {}
    for kind in {workload.kind for workload in workloads}:
        names = [workload.name for workload in workloads if workload.kind == kind]
        alone = few and len(names) == 1
        found[KINDS[kind].collection(namespace)] = {"fieldSelector": f"metadata.name={names[0]}"} if alone else {}
    (first, *others) = workloads.values()
    labels = first["spec"]["selector"].get("matchLabels") or {}
    simple = not others and labels and not first["spec"]["selector"].get("matchExpressions")
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    found[pods_path(namespace)] = {"labelSelector": selector} if simple else {}
    return found
