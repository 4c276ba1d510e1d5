# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a service with other tools than the engine's: kubectl, and HTTP through the Service. Changes nothing."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from tests.support.kube_service import KubeService

OLD, NEW, NEITHER = "old", "new", "neither"
OURS = "rollbackctl.io/"
COPY_OF = f"{OURS}copy-of"
Seen = dict[str, Any]
KINDS = "deployments,services,configmaps,secrets,horizontalpodautoscalers,cronjobs"
# What is wholly old or wholly new at every instant, and what is only given back at the end.
WHOLE, LENT = ("template", "selector", "data"), ("replicas", "strategy", "paused", "notes", "spec")


def read(service: KubeService) -> Seen:
    """Return everything that a rollback may change: (object, field) -> content."""
    said = service.lab.kubectl("--namespace", service.namespace, "get", KINDS, "--output=json")
    items = json.loads(said)["items"]
    alike = _alike(items)
    found: Seen = {}
    for item in items:
        meta = item["metadata"]
        if (meta.get("labels") or {}).get("app.kubernetes.io/managed-by") == "rollbackctl":
            continue
        if meta["name"] != "kube-root-ca.crt":
            name = f"{item['kind'].lower()}/{meta['name']}"
            found.update({f"{name} {field}": content for field, content in _fields(item, alike).items()})
    return found


def _alike(items: list[dict[str, Any]]) -> dict[str, str]:
    """Return the copies that hold what the object itself holds, by name: pods that refer to either read the same."""
    data = {(item["kind"], item["metadata"]["name"]): item.get("data") for item in items}
    return {
        item["metadata"]["name"]: original
        for item in items
        if (original := (item["metadata"].get("annotations") or {}).get(COPY_OF))
        and item.get("data") == data.get((item["kind"], original))
    }


def _fields(item: Mapping[str, Any], alike: Mapping[str, str]) -> dict[str, Any]:
    spec = item.get("spec") or {}
    if item["kind"] == "Deployment":
        return {
            "template": _renamed(_without_ours(spec["template"]), alike),
            "replicas": spec["replicas"],
            "strategy": spec["strategy"],
            "paused": spec.get("paused", False),
            "notes": sorted(key for key in item["metadata"].get("annotations") or {} if key.startswith(OURS)),
        }
    if item["kind"] == "Service":
        notes = sorted(key for key in item["metadata"].get("annotations") or {} if key.startswith(OURS))
        return {"selector": spec.get("selector"), "notes": notes}
    if spec:  # an autoscaler, a job
        return {"spec": spec}
    return {"data": item.get("data")}


def _without_ours(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a template without what makes its pods start anew, which differs from run to run."""
    meta = dict(template["metadata"])
    notes = {key: value for key, value in (meta.get("annotations") or {}).items() if not key.startswith(OURS)}
    meta.pop("annotations", None)
    return {**template, "metadata": {**meta, **({"annotations": notes} if notes else {})}}


def _renamed(template: Mapping[str, Any], alike: Mapping[str, str]) -> Any:
    """Return a template that refers to the objects themselves where it refers to copies that are alike."""

    def each(part: Any) -> Any:
        if isinstance(part, list):
            return [each(one) for one in part]
        if isinstance(part, dict):
            return {key: each(value) for key, value in part.items()}
        return alike.get(part, part)

    return each(template)


def judge(now: Seen, old: Seen, new: Seen, *, counts: bool, lent: tuple[str, ...] = ()) -> dict[str, str]:
    """Say of each part whether it is old, new or neither. A part that is the same in both is not listed, unless it is
    neither. lent: fields that are somebody's for the moment, and not looked at."""
    found = {}
    for part in sorted({*now, *old, *new}):
        field = part.rpartition(" ")[2]
        if field in lent or (field in LENT and not (counts and field == "replicas")):
            continue
        sides, content = (old.get(part), new.get(part)), now.get(part)
        if sides[0] != sides[1] or content not in sides:
            found[part] = OLD if content == sides[0] else NEW if content == sides[1] else NEITHER
    return found


def word(parts: Mapping[str, str]) -> str:
    """Return one word for the whole service."""
    words = set(parts.values())
    return words.pop() if len(words) == 1 else NEITHER


def lent(now: Seen, side: Seen) -> list[str]:
    """Return what was not given back: counts, strategies, our own annotations."""
    return [
        f"{part} is {now[part]}, not {side.get(part)}"
        for part in now
        if part.rpartition(" ")[2] in LENT and now[part] != side.get(part)
    ]


def answer(service: KubeService, path: str = "/version", name: str = "api") -> dict[str, Any]:
    """Ask the Service at its own address, as users do; nothing when nobody answers."""
    if not hasattr(service, "addresses"):
        service.addresses = {}  # type: ignore[attr-defined]
    addresses: dict[str, str] = service.addresses  # type: ignore[attr-defined]
    if name not in addresses:
        said = service.lab.kubectl("--namespace", service.namespace, "get", "service", name, "--output=json")
        addresses[name] = json.loads(said)["spec"]["clusterIP"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{addresses[name]}{path}", timeout=5) as said_by:
            found: dict[str, Any] = json.loads(said_by.read())
            return found
    except (OSError, ValueError):
        return {}
