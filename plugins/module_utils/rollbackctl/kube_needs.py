# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be there before pods of a template can start: ConfigMaps and Secrets and their keys, volume claims, the
ServiceAccount, classes. Names are read and said, values never.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .kube_client import Client, KubeError
from .kube_config_references import places_read
from .kube_objects import Workload

_CORE = "/api/v1/namespaces/{namespace}"
_PATHS = {
    "configmap": f"{_CORE}/configmaps",
    "secret": f"{_CORE}/secrets",
    "persistentvolumeclaim": f"{_CORE}/persistentvolumeclaims",
    "serviceaccount": f"{_CORE}/serviceaccounts",
    "priorityclass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "runtimeclass": "/apis/node.k8s.io/v1/runtimeclasses",
}
# What every namespace, and every cluster, has by itself.
_DEFAULT, _BUILT_IN = "default", "system-"


@dataclass(frozen=True, order=True)
class Thing:
    """One object; as text, configmap/app."""

    kind: str
    name: str

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"{self.kind}/{self.name}"

    def path(self, namespace: str) -> str:
        """Return the path of the object."""
        return f"{_PATHS[self.kind].format(namespace=namespace)}/{self.name}"


def needed(template: Mapping[str, Any]) -> dict[Thing, set[str]]:
    """Return what pods of a template cannot start without, and the keys that they ask for."""
    found: dict[Thing, set[str]] = {}
    for kind, holder, name in places_read(template):
        if not holder.get("optional"):
            keys = {str(one["key"]) for one in [holder, *(holder.get("items") or [])] if one.get("key")}
            found.setdefault(Thing(kind, str(holder.get(name))), set()).update(keys)
    for thing in _others(template["spec"]):
        found.setdefault(thing, set())
    return found


def _others(spec: Mapping[str, Any]) -> Iterator[Thing]:
    for volume in spec.get("volumes") or []:
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            yield Thing("persistentvolumeclaim", str(claim))
        if secret := ((volume.get("csi") or {}).get("nodePublishSecretRef") or {}).get("name"):
            yield Thing("secret", str(secret))
    if (account := str(spec.get("serviceAccountName") or _DEFAULT)) != _DEFAULT:
        yield Thing("serviceaccount", account)
    if (priority := str(spec.get("priorityClassName") or "")) and not priority.startswith(_BUILT_IN):
        yield Thing("priorityclass", priority)
    if runtime := spec.get("runtimeClassName"):
        yield Thing("runtimeclass", str(runtime))


def logins(template: Mapping[str, Any]) -> set[Thing]:
    """Return the Secrets that images are pulled with; pods start without them where an image needs none."""
    return {
        Thing("secret", str(one["name"])) for one in template["spec"].get("imagePullSecrets") or [] if "name" in one
    }


@dataclass
class Missing:
    """What is not there: of each workload in words, what pods cannot start without; and notes."""

    wrong: dict[Workload, list[str]]
    notes: list[str]


def look(
    client: Client, namespace: str, templates: Mapping[Workload, Mapping[str, Any]], brought: Collection[Thing]
) -> Missing:
    """Look whether everything is there.

    :param brought: what another component of the same run puts back before.
    """
    needs = {workload: needed(template) for workload, template in templates.items()}
    pulls = {thing for template in templates.values() for thing in logins(template)}
    things = sorted({thing for need in needs.values() for thing in need} | pulls)
    things = [thing for thing in things if thing not in brought]
    answers = client.each(lambda thing: _find(client, thing.path(namespace)), things) if things else []
    there = dict(zip(things, answers))
    wrong = {
        w: [text for thing in sorted(need) for text in _lacks(thing, need[thing], there)] for w, need in needs.items()
    }
    unseen = [str(thing) for thing, item in there.items() if isinstance(item, KubeError)]
    notes = [f"{one}, by which images are pulled, is not there" for one in sorted(pulls) if there.get(one, 0) is None]
    if unseen:
        more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
        notes.append(f"whether {', '.join(unseen[:5])}{more} is there could not be looked at: it shows in the rollout")
    return Missing({w: texts for w, texts in wrong.items() if texts}, notes)


def _find(client: Client, path: str) -> dict[str, Any] | KubeError | None:
    try:
        return client.find(path)
    except KubeError as error:
        if error.status != 403:
            raise
        return error


def _lacks(thing: Thing, keys: Collection[str], there: Mapping[Thing, Any]) -> Iterator[str]:
    item = there.get(thing, {"data": dict.fromkeys(keys)})
    if item is None:
        yield f"{thing}, which is not there"
    elif isinstance(item, Mapping):
        held = {*(item.get("data") or {}), *(item.get("binaryData") or {})}
        if lacking := sorted({*keys} - held):
            yield f"{', '.join(lacking)} of {thing}, which does not hold it"
        if thing.kind == "persistentvolumeclaim" and item["metadata"].get("deletionTimestamp"):
            yield f"{thing}, which is being deleted"
