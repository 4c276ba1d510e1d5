# SPDX-License-Identifier: GPL-3.0-or-later
"""Workloads of Kubernetes: names and paths, templates, and what makes two templates the same. Pure functions."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .durable import canonical, digest
from .errors import Refused

# What a rollout adds by itself, or only to start the same pods anew: it makes no other version.
_HASH_LABEL = "pod-template-hash"
STAMP = "rollbackctl.io/config"
_RESTARTED = "kubectl.kubernetes.io/restartedAt"
CHANGE_CAUSE = "kubernetes.io/change-cause"
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Kind:
    """A kind of workload. path: of its collection, with {namespace}; children: where its history is."""

    word: str
    group: str
    resource: str

    def collection(self, namespace: str) -> str:
        """Return the path of the collection in a namespace."""
        return f"/apis/{self.group}/v1/namespaces/{namespace}/{self.resource}"


KINDS = {
    "deployment": Kind("deployment", "apps", "deployments"),
    "statefulset": Kind("statefulset", "apps", "statefulsets"),
    "daemonset": Kind("daemonset", "apps", "daemonsets"),
}


@dataclass(frozen=True, order=True)
class Workload:
    """One workload of a namespace; as text, deployment/api."""

    kind: str
    name: str
    namespace: str

    def __str__(self) -> str:
        """Return it as profiles write it."""
        return f"{self.kind}/{self.name}"

    @property
    def path(self) -> str:
        """The path of the object."""
        return f"{KINDS[self.kind].collection(self.namespace)}/{self.name}"


def parse_workload(text: str, namespace: str) -> Workload:
    """Return the workload that a profile names.

    :raises Refused: it is not written KIND/NAME with a kind that is known and a name that Kubernetes takes.
    """
    kind, slash, name = text.partition("/")
    if not slash or kind not in KINDS or not _NAME.fullmatch(name):
        raise Refused(f"{text!r} is not a workload; write one of {', '.join(f'{word}/NAME' for word in KINDS)}.")
    return Workload(kind, name, namespace)


def template_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod template of a workload or a ReplicaSet, without what a rollout adds to it by itself."""
    return cleaned(item["spec"]["template"])


def cleaned(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod template without what a rollout adds to it by itself, and without our own stamp."""
    copy: dict[str, Any] = json.loads(json.dumps(template))
    copy.pop("$patch", None)
    metadata = copy.setdefault("metadata", {}) or {}
    metadata.pop("creationTimestamp", None)
    for field, unwanted in (("labels", (_HASH_LABEL,)), ("annotations", (STAMP,))):
        values = {key: value for key, value in (metadata.get(field) or {}).items() if key not in unwanted}
        if values:
            metadata[field] = values
        else:
            metadata.pop(field, None)
    copy["metadata"] = metadata
    return copy


def compared(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a pod template makes it another version than others. A restart makes none."""
    copy = cleaned(template)
    (copy["metadata"].get("annotations") or {}).pop(_RESTARTED, None)
    if not copy["metadata"].get("annotations"):
        copy["metadata"].pop("annotations", None)
    return copy


def template_hash(template: Mapping[str, Any]) -> str:
    """Return what makes two templates the same version (80 bits of sha256)."""
    return digest(compared(template))[:20]


def made_hash(template: Mapping[str, Any]) -> str:
    """Return what makes two templates start the same pods: the version, and for whom or what it was started anew."""
    metadata = template.get("metadata") or {}
    return digest([cleaned(template), (metadata.get("annotations") or {}).get(STAMP)])[:20]


def differences(wanted: Any, found: Any, path: str = "template") -> list[str]:
    """Return where two JSON values differ, as paths such as template.spec.containers[0].image."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        keys = sorted({*wanted, *found})
        return [one for key in keys for one in differences(wanted.get(key), found.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found))
        return [one for number, (a, b) in pairs for one in differences(a, b, f"{path}[{number}]")]
    return [] if wanted == found else [path]


def images(template: Mapping[str, Any]) -> dict[str, str]:
    """Return the image of each container, init containers included, by the container's name."""
    spec = template.get("spec") or {}
    return {
        str(container["name"]): str(container.get("image") or "")
        for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    }


def image_text(template: Mapping[str, Any]) -> str:
    """Return the images of a template for people, each without its registry: shop:1.4.0."""
    return ", ".join(sorted({image.rsplit("/", 1)[-1] for image in images(template).values()}))


def with_images(template: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    """Return a copy of a template with other images for some of its containers."""
    copy = cleaned(template)
    for field in ("initContainers", "containers"):
        for container in copy["spec"].get(field) or []:
            container["image"] = wanted.get(container["name"], container.get("image"))
    return copy


def controller_uid(item: Mapping[str, Any]) -> str:
    """Return the UID of the object that controls this one; empty without one. Labels prove nothing: two applications
    may share them, and then each would find the other's history."""
    for owner in item["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner["uid"])
    return ""


def notes_of(item: Mapping[str, Any]) -> dict[str, str]:
    """Return an object's annotations."""
    return dict(item["metadata"].get("annotations") or {})


def pack_templates(templates: Mapping[str, Any]) -> str:
    """Return templates as compressed text: fifty alike are hardly larger than one."""
    return base64.b64encode(gzip.compress(canonical(dict(templates)), mtime=0)).decode()


def recorded_templates(artefacts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the templates that a version's artefacts hold, none where they hold none or are damaged."""
    try:
        return unpack_templates(str(artefacts["templates"]))
    except (KeyError, OSError, EOFError, ValueError, zlib.error):
        return {}


def unpack_templates(text: str) -> dict[str, Any]:
    """Return the templates that pack_templates wrote."""
    return dict(json.loads(gzip.decompress(base64.b64decode(text))))
