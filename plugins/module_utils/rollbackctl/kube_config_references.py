# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ConfigMaps and Secrets a pod template reads, and the same template reading copies of them instead."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


def references(template: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the names that a pod template refers to: {"configmaps": ..., "secrets": ...}."""
    found: dict[str, set[str]] = {"configmaps": set(), "secrets": set()}
    for kind, holder, field in _places(template):
        if holder.get(field):
            found[f"{kind}s"].add(str(holder[field]))
    return found


def rewritten(template: Mapping[str, Any], copies: Mapping[str, str]) -> dict[str, Any]:
    """Return a pod template that refers to copies; the given one stays as it is.

    :param copies: as in Version.artefacts["copies"]: {"configmap/app-config": "app-config-1a2b3c4d5e"}.
    """
    result: dict[str, Any] = copy.deepcopy(dict(template))
    for kind, holder, field in _places(result):
        name = copies.get(f"{kind}/{holder.get(field)}")
        if name is not None:
            holder[field] = name
    return result


def _places(template: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield every place that names one: its kind, the mapping, and the field in it."""
    yield from places_read(template)
    for login in (template.get("spec") or {}).get("imagePullSecrets") or []:
        yield "secret", login, "name"


def places_read(template: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the places that pods read from, which is all but those for pulling images."""
    spec = template.get("spec") or {}
    for container in (one for group in _CONTAINERS for one in spec.get(group) or []):
        for variable in container.get("env") or []:
            yield from _of(variable.get("valueFrom"), "configMapKeyRef", "secretKeyRef")
        for source in container.get("envFrom") or []:
            yield from _of(source, "configMapRef", "secretRef")
    for volume in spec.get("volumes") or []:
        if volume.get("configMap"):
            yield "configmap", volume["configMap"], "name"
        if volume.get("secret"):
            yield "secret", volume["secret"], "secretName"
        for source in (volume.get("projected") or {}).get("sources") or []:
            yield from _of(source, "configMap", "secret")


def _of(source: Mapping[str, Any] | None, configmap: str, secret: str) -> Iterator[tuple[str, Any, str]]:
    for kind, field in (("configmap", configmap), ("secret", secret)):
        holder = (source or {}).get(field)
        if holder:
            yield kind, holder, "name"
