# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a pod is, and which template it was made from.

Labels prove neither: two applications may share them, and two templates may differ in nothing but an environment
variable. The controller's UID and the ReplicaSet or ControllerRevision that a pod was made from do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .kube_client import Client, KubeError
from .kube_objects import controller_uid, made_hash

_HASH = "controller-revision-hash"
_APPS = "/apis/apps/v1/namespaces"


@dataclass(frozen=True)
class Origin:
    """uid: of the workload. made: what made_hash says of the template."""

    uid: str
    made: str


class Origins:
    """Where the pods of a namespace come from. That never changes for a pod, so each answer is remembered."""

    def __init__(self, client: Client, namespace: str) -> None:
        """Nothing is asked yet."""
        self.client = client
        self.namespace = namespace
        self._children: dict[str, Origin | None] = {}
        self.sets: list[dict[str, Any]] = []  # the ReplicaSets, once they were loaded

    def load(self, *, deployments: bool, others: bool) -> Origins:
        """Read the history of all workloads at once; without that, each piece is asked for when it is needed."""
        for wanted, word in ((deployments, "replicasets"), (others, "controllerrevisions")):
            if wanted:
                found = self.client.list(f"{_APPS}/{self.namespace}/{word}")
                self.sets = found if word == "replicasets" else self.sets
                for child in found:
                    self._children[f"{word}/{child['metadata']['name']}"] = origin_of(child)
        return self

    def of(self, pod: Mapping[str, Any]) -> Origin | None:
        """Return where a pod comes from; None for one that no known kind of workload controls."""
        owner = next((one for one in pod["metadata"].get("ownerReferences") or [] if one.get("controller")), None)
        kind = str((owner or {}).get("kind"))
        if owner is None or kind not in {"ReplicaSet", "StatefulSet", "DaemonSet"}:
            return None
        if kind == "ReplicaSet":
            return self._child("replicasets", str(owner["name"]))
        # A StatefulSet labels its pods with the revision's whole name, a DaemonSet with the last part of it.
        label = str((pod["metadata"].get("labels") or {}).get(_HASH) or "")
        name = label if kind == "StatefulSet" else f"{owner['name']}-{label}"
        found = self._child("controllerrevisions", name) if label else None
        return found or Origin(str(owner["uid"]), "")

    def of_item(self, item: Mapping[str, Any]) -> Origin:
        """Return where the pods come from that a workload makes now."""
        return Origin(str(item["metadata"]["uid"]), made_hash(item["spec"]["template"]))

    def pods_of(self, items: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return those of the pods that belong to one of the workloads, of whichever template."""
        uids = {item["metadata"]["uid"] for item in items}
        return [pod for pod in pods if (origin := self.of(pod)) is not None and origin.uid in uids]

    def _child(self, word: str, name: str) -> Origin | None:
        key = f"{word}/{name}"
        if key not in self._children:
            try:
                child = self.client.find(f"{_APPS}/{self.namespace}/{word}/{name}")
            except KubeError as error:
                if error.status != 403:
                    raise
                child = None
            self._children[key] = origin_of(child) if child is not None else None
        return self._children[key]


def origin_of(child: Mapping[str, Any]) -> Origin | None:
    """Return whose a ReplicaSet or ControllerRevision is, and of which template; None when it is nobody's."""
    uid = controller_uid(child)
    body = child.get("data") or {} if child.get("kind") == "ControllerRevision" else child
    template = (body.get("spec") or {}).get("template")  # a ControllerRevision of somebody else may hold anything
    return Origin(uid, made_hash(template)) if uid and template else None
