# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a namespace's quotas let a rollout end: its controllers' steps, counted through with the pods that are there.

A Deployment's controller asks for new pods up to the surge, removes old ones that are not ready first, and ready ones
as new ones come. So what is of the version already needs no room, and a broken pod gives its room to a good one.
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from .kube_await import pods_path
from .kube_client import Client, KubeError
from .kube_front import origins_of
from .kube_objects import Workload, made_hash
from .kube_origin import Origin, origin_of
from .kube_patch import held
from .kube_rollout import is_ready

Usage = dict[str, Decimal]
Objects = Mapping[Workload, Mapping[str, Any]]
_NOTHING = Decimal(0)
_COUNTED = ("deployment", "statefulset")
_ENDED = ("Succeeded", "Failed")
_UNITS: dict[str, Decimal] = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("0.001"),
    **{word: Decimal(1000) ** power for power, word in enumerate("kMGTPE", start=1)},
    **{f"{word}i": Decimal(1024) ** power for power, word in enumerate("KMGTPE", start=1)},
}  # fmt: skip


@dataclass
class Crowd:
    """The pods of one workload, as its controller counts them.

    wanted: how many there are to be. asked, new: pods of the target, asked for and there. need: what one counts for.
    waiting, ready: what the pods of other versions count for; one that was asked for and never came counts for nothing.
    surge, spare: maxSurge and maxUnavailable.
    """

    wanted: int
    surge: int = 0
    spare: int = 0
    need: Usage = field(default_factory=dict)
    asked: int = 0
    new: int = 0
    waiting: list[Usage] = field(default_factory=list)
    ready: list[Usage] = field(default_factory=list)

    def within(self, keys: Collection[str]) -> Crowd:
        """Return a copy that counts only what a quota counts."""
        waiting, ready = ([_only(one, keys) for one in pods] for pods in (self.waiting, self.ready))
        return replace(self, need=_only(self.need, keys), waiting=waiting, ready=ready)

    @property
    def missing(self) -> int:
        """How many pods of the target are still to come."""
        return max(0, self.wanted - self.new)

    def step(self, free: Usage, *, at_once: bool) -> bool:
        """Do what the controller does next, and say whether anything came of it.

        :param free: what there is room for; changed.
        :param at_once: no ready pod goes before the last new one is there.
        """
        before = (self.asked, self.new, len(self.waiting), len(self.ready))
        self.asked = max(self.asked, min(self.wanted, self.wanted + self.surge - len(self.waiting) - len(self.ready)))
        while self.new < self.asked and all(free[key] >= amount for key, amount in self.need.items()):
            _add(free, self.need, -1)
            self.new += 1
        going = len(self.waiting) + len(self.ready) + self.new - self.wanted + self.spare
        while going > 0 and self.waiting:
            _add(free, self.waiting.pop(0))
            going -= 1
        while not (at_once and self.missing) and min(going, self.new + len(self.ready) - self.wanted + self.spare) > 0:
            if not self.ready:
                break
            _add(free, self.ready.pop(0))
            going -= 1
        return before != (self.asked, self.new, len(self.waiting), len(self.ready))


def rolled_out(workload: Workload) -> bool:
    """Say whether the pods of such a workload are counted: a DaemonSet replaces its own, one on each node."""
    return workload.kind in _COUNTED


def quotas_of(client: Client, namespace: str) -> list[dict[str, Any]]:
    """Return the quotas that count every pod. Nobody needs the right to read them; one that is in the way, or that
    counts some pods only, then shows in the rollout."""
    try:
        quotas = client.list(f"/api/v1/namespaces/{namespace}/resourcequotas")
    except KubeError:
        return []
    return [one for one in quotas if not (one.get("spec") or {}).keys() & {"scopes", "scopeSelector"}]


class Standing:
    """The pods and ReplicaSets of a namespace, and which of them are of the templates that are gone back to."""

    def __init__(self, client: Client, namespace: str, items: Objects) -> None:
        """Read them. items: the workloads as they are."""
        self.items = items
        self.origins = origins_of(client, namespace, items)
        pods = client.list(pods_path(namespace))
        self.pods = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in _ENDED]

    def leaving(self) -> Usage:
        """Return what becomes free by itself: pods that are on their way out."""
        found: Usage = {}
        for pod in self.pods:
            if pod["metadata"].get("deletionTimestamp"):
                _add(found, usage(pod["spec"]))
        return found

    def crowd(self, workload: Workload, template: Mapping[str, Any], *, way: str, anew: bool) -> Crowd:
        """Return the pods of a workload.

        :param way: undo, fast or recreate. anew: all pods are made anew, also those of the template.
        """
        item = self.items[workload]
        wanted = int(held(item).get("replicas", item["spec"].get("replicas", 1)))
        surge, spare = _steps(workload, item, wanted, way)
        target = None if anew else Origin(str(item["metadata"]["uid"]), made_hash(template))
        found = Crowd(wanted, surge, spare, usage(template["spec"]))
        there: dict[Origin, int] = {}
        for pod in self.pods:
            origin = self.origins.of(pod)
            if origin is None or origin.uid != item["metadata"]["uid"] or pod["metadata"].get("deletionTimestamp"):
                continue
            there[origin] = there.get(origin, 0) + 1
            if origin == target:
                found.new += 1
            else:
                (found.ready if is_ready(pod) else found.waiting).append(usage(pod["spec"]))
        found.asked = found.new
        for one in self.origins.sets:
            origin = origin_of(one)
            if origin is None or origin.uid != item["metadata"]["uid"]:
                continue
            never_came = max(0, int(one["spec"].get("replicas", 1)) - there.get(origin, 0))
            if origin == target:
                found.asked += never_came
            else:
                found.waiting = [*({} for _ in range(never_came)), *found.waiting]
        return found


def quota_problems(
    quotas: Sequence[Mapping[str, Any]], crowds: Iterable[Crowd], leaving: Mapping[str, Decimal], *, at_once: bool
) -> list[str]:
    """Return why rollouts would not end, by the quotas of their namespace.

    :param crowds: of all workloads that are rolled out; used up. leaving: what becomes free by itself.
    :param at_once: all new pods have to fit beside the old ones that are ready.
    """
    problems = []
    crowds = [*crowds]
    for quota in quotas:
        status = quota.get("status") or {}
        hard = {key: quantity(amount) for key, amount in (status.get("hard") or {}).items()}
        used = {key: quantity((status.get("used") or {}).get(key, "0")) for key in hard}
        free: Usage = {key: amount - used[key] + leaving.get(key, _NOTHING) for key, amount in hard.items()}
        here = [crowd.within(hard) for crowd in crowds]
        while any([crowd.step(free, at_once=at_once) for crowd in here]):  # noqa: C419 - each takes its step
            pass
        lacking: Usage = {}
        for crowd, left in zip(crowds, here):
            for key in left.need if left.missing else ():
                if left.need[key] > free[key]:
                    pods = crowd.missing if at_once else 1
                    lacking[key] = lacking.get(key, _NOTHING) + pods * left.need[key]
        problems += [
            f"quota {quota['metadata']['name']} lets no {amount.normalize():f} more {key} in "
            f"({used[key].normalize():f} of {status['hard'][key]} are used)"
            for key, amount in lacking.items()
        ]
    return problems


def _steps(workload: Workload, item: Mapping[str, Any], wanted: int, way: str) -> tuple[int, int]:
    """Return how many pods more, and how many fewer, a rollout may have than are wanted."""
    strategy = held(item).get("strategy") or item["spec"].get("strategy") or {}
    if way == "recreate" or strategy.get("type") == "Recreate":
        return 0, wanted
    if workload.kind == "statefulset":
        return 0, 1
    if way == "fast":
        return wanted, 0
    rolling = strategy.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
    spare = _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return surge, spare or (0 if surge else 1)


def _share(text: Any, of: int, *, up: bool) -> int:
    """Return a count that is given as a number, or as a percentage."""
    if not str(text).endswith("%"):
        return int(text)
    hundredths = int(str(text)[:-1]) * of
    return -(-hundredths // 100) if up else hundredths // 100


def usage(spec: Mapping[str, Any]) -> Usage:
    """Return what a pod of this spec counts for in a quota. Containers that only run first count where one of them asks
    for more than all that run; those that go on running (native sidecars) count as the others.

    https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers
    """
    found = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for kind in ("requests", "limits"):
        for name, amount in _asked(spec, kind).items():
            found[f"{kind}.{name}"] = amount
            if kind == "requests":
                found[name] = amount
    return found


def _asked(spec: Mapping[str, Any], kind: str) -> Usage:
    running: Usage = {}
    sidecars: Usage = {}
    most: Usage = {}
    for container in spec["containers"]:
        _add(running, _of(container, kind))
    for container in spec.get("initContainers") or []:
        first = dict(sidecars)
        _add(first, _of(container, kind))
        if container.get("restartPolicy") == "Always":
            sidecars = first
            _add(running, _of(container, kind))
        most = {name: max(first.get(name, _NOTHING), most.get(name, _NOTHING)) for name in {*first, *most}}
    found = {name: max(running.get(name, _NOTHING), most.get(name, _NOTHING)) for name in {*running, *most}}
    found.update(_of(spec, kind))
    for name, amount in (spec.get("overhead") or {}).items():
        if kind == "requests" or name in found:
            found[name] = found.get(name, _NOTHING) + quantity(amount)
    return found


def _of(holder: Mapping[str, Any], kind: str) -> Usage:
    """Return what a container, or a pod as a whole, asks for; what has only a limit asks for that."""
    resources = holder.get("resources") or {}
    named = {**(resources.get("limits") or {}), **(resources.get(kind) or {})} if kind == "requests" else None
    return {name: quantity(amount) for name, amount in (named or resources.get(kind) or {}).items()}


def _only(one: Usage, keys: Collection[str]) -> Usage:
    return {key: amount for key, amount in one.items() if key in keys}


def _add(total: Usage, part: Mapping[str, Decimal], times: int = 1) -> None:
    for key, amount in part.items():
        total[key] = total.get(key, _NOTHING) + times * amount


def quantity(text: Any) -> Decimal:
    """Return a resource quantity such as 100m or 64Mi as a number.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in _UNITS:
        return Decimal(0)
    return Decimal(match[1]) * _UNITS[match[2]]
