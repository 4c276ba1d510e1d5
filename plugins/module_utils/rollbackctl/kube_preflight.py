# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be known to be wrong before a workload is changed: rights, strategies, missing images.

All of it reads; the one POST is the question whether we may (SelfSubjectAccessReview).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .kube_client import Client, KubeError, Rule
from .kube_objects import KINDS, Workload, image_text, images

# A node lists only its largest images (--node-status-max-images): beyond them nothing can be said.
_LISTED_IMAGES = 50


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
