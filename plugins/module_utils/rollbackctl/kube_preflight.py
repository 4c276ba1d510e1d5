# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be known to be wrong before a workload is changed: rights, strategies, quotas, missing images.

All of it reads; the one POST is the question whether we may (SelfSubjectAccessReview).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from .kube_client import Client, KubeError, Rule
from .kube_objects import KINDS, Workload, image_text, images

# A node lists only its largest images (--node-status-max-images): beyond them nothing can be said.
_LISTED_IMAGES = 50
_UNITS: dict[str, Decimal] = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("0.001"),
    **{word: Decimal(1000) ** power for power, word in enumerate("kMGTPE", start=1)},
    **{f"{word}i": Decimal(1024) ** power for power, word in enumerate("KMGTPE", start=1)},
}  # fmt: skip


def strategy_problem(workload: Workload, item: Mapping[str, Any]) -> str:
    """Return why changing a workload's template would not, or not wholly, reach its pods; empty when it does."""
    if item["metadata"].get("deletionTimestamp"):
        return f"{workload} is being deleted"
    strategy = item["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return (
            f"{workload} has the update strategy OnDelete: its pods change only when somebody deletes them; "
            "RollingUpdate is needed"
        )
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    if partition:
        return f"{workload} has a partition of {partition}: only some of its pods would change. Set it to 0 first"
    return ""


def missing_rights(client: Client, rules: Sequence[Rule], named: Sequence[Rule]) -> list[str]:
    """Return a sentence for each right that we lack.

    :param rules: to ask as they are. named: those that are often granted for all objects: that is asked first, and one
        by one only where it is not so.
    """
    broad = {rule: Rule(rule.verb, rule.resource, rule.group, rule.namespace, "", rule.subresource) for rule in named}
    denied = set(client.allowed([*rules, *dict.fromkeys(broad.values())]))
    lacking = [rule for rule in rules if rule in denied]
    lacking += client.allowed([rule for rule in named if broad[rule] in denied])
    return [f"the credentials may not {rule}" for rule in lacking]


def workload_rules(workloads: Iterable[Workload], verb: str) -> list[Rule]:
    """Return the right to do something with each workload."""
    return [Rule(verb, KINDS[w.kind].resource, KINDS[w.kind].group, w.namespace, w.name) for w in workloads]


def image_findings(client: Client, targets: Mapping[Workload, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return what is wrong and what is not known about the images of the target templates, by what the nodes have."""
    wanted = {image for template in targets.values() for image in images(template).values()}
    try:
        nodes = client.list("/api/v1/nodes")
    except KubeError as error:
        return [], [f"whether the nodes have the images could not be looked at ({error.reason or 'no answer'})"]
    present, whole = set(), True
    for node in nodes:
        listed = (node.get("status") or {}).get("images") or []
        whole = whole and len(listed) < _LISTED_IMAGES
        present |= {name for image in listed for name in image.get("names") or []}
    absent = {image for image in wanted if not any(_same_image(image, name) for name in present)}
    problems, notes = [], []
    for workload, template in targets.items():
        for container in [*(template["spec"].get("initContainers") or []), *template["spec"]["containers"]]:
            image = container.get("image")
            if image in absent and container.get("imagePullPolicy") == "Never" and whole:
                problems.append(f"{workload}: no node has the image {image}, and its pull policy is Never")
                absent.discard(image)
    if absent:
        some = ", ".join(sorted(absent)[:5])
        notes.append(f"no node has {some} yet, as far as the nodes say: pulled while rolling out, if it can be")
    return problems, notes


def _same_image(wanted: str, name: str) -> bool:
    """Say whether a node's name of an image is the one wanted; docker.io/library/ is what a short name means."""
    names = {wanted, f"docker.io/library/{wanted}", f"docker.io/{wanted}"}
    return name in names or (":" not in wanted.rpartition("/")[2] and name in {f"{one}:latest" for one in names})


def quota_problems(
    client: Client, namespace: str, items: Mapping[Workload, Mapping[str, Any]], *, whole: bool
) -> list[str]:
    """Return why the additional pods of the rollouts would not be let in, by the namespace's quotas.

    :param items: the Deployments as they are. whole: as many new pods as there are old ones (surge of 100 %).
    """
    try:
        quotas = client.list(f"/api/v1/namespaces/{namespace}/resourcequotas")
    except KubeError:
        return []  # nobody needs the right to read quotas; a quota that is in the way then shows in the rollout
    need: dict[str, Decimal] = {}
    for workload, item in items.items():
        if workload.kind != "deployment":
            continue
        extra = _surge(item, whole=whole)
        for key, amount in _requests(item["spec"]["template"]).items():
            need[key] = need.get(key, Decimal(0)) + extra * amount
    problems = []
    for quota in quotas:
        spec, status = quota.get("spec") or {}, quota.get("status") or {}
        if spec.get("scopes") or spec.get("scopeSelector"):
            continue  # it counts some pods only; where it is in the way, the rollout says so
        for key, hard in (status.get("hard") or {}).items():
            used = quantity((status.get("used") or {}).get(key, "0"))
            wanted = need.get(key, Decimal(0))
            if wanted and used + wanted > quantity(hard):
                problems.append(
                    f"quota {quota['metadata']['name']} lets no {wanted.normalize():f} more {key} in "
                    f"({used.normalize():f} of {hard} are used)"
                )
    return problems


def _surge(item: Mapping[str, Any], *, whole: bool) -> int:
    """Return how many pods more than before a rollout must at least be able to start."""
    replicas = int(item["spec"].get("replicas", 1))
    if whole:
        return replicas
    strategy = item["spec"].get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    unavailable = str(rolling.get("maxUnavailable", "25%"))
    spared = int(unavailable.rstrip("%")) * (replicas if unavailable.endswith("%") else 100) // 100
    return 0 if strategy.get("type") == "Recreate" or spared > 0 else min(1, replicas)


def _requests(template: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return what one pod counts for in a quota."""
    found = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for container in template["spec"]["containers"]:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in {*limits, *requests}:
            asked = quantity(requests.get(name, limits.get(name, "0")))
            for key in (f"requests.{name}", name):
                found[key] = found.get(key, Decimal(0)) + asked
        for name, value in limits.items():
            found[f"limits.{name}"] = found.get(f"limits.{name}", Decimal(0)) + quantity(value)
    return found


def quantity(text: Any) -> Decimal:
    """Return a resource quantity such as 100m or 64Mi as a number.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in _UNITS:
        return Decimal(0)
    return Decimal(match[1]) * _UNITS[match[2]]


def targets_text(targets: Mapping[Workload, Mapping[str, Any]]) -> str:
    """Return the versions of several workloads for people: one in full, many counted."""
    if len(targets) <= 3:
        return ", ".join(f"{workload} {image_text(template)}" for workload, template in targets.items())
    counts: dict[str, int] = {}
    for template in targets.values():
        counts[image_text(template)] = counts.get(image_text(template), 0) + 1
    listed = sorted(counts.items(), key=lambda pair: -pair[1])
    said = ", ".join(f"{count} of {text}" for text, count in listed[:3])
    return f"{len(targets)} workloads: {said}{' and others' if len(listed) > 3 else ''}"
