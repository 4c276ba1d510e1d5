# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of a service in the lab's cluster that must be refused: nothing is written, and users are served as before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from tests.support.kube_service import Ended, KubeService

_SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
_WRITTEN = ("deployments", "statefulsets", "daemonsets", "replicasets", "services", "configmaps", "secrets")


def refused(service: KubeService, *words: str, **run: Any) -> Ended:
    """Make a run that must be refused, with all of the words: every object of the namespace stays as it is, to its
    resourceVersion, and the Service goes on sending requests to the same pods."""
    before = _written(service)
    with served(service) as states:
        ended = service.run(**run)
    assert ended.outcome == "refused", ended
    assert all(word in ended.message for word in words), ended.message
    assert _written(service) == before
    assert states == states[:1], "the same endpoints all the time"
    return ended


def _written(service: KubeService) -> dict[str, Any]:
    """Return all objects, those that somebody asks for with their resourceVersion."""
    found = service.objects()
    for word in _WRITTEN:
        base = "/apis/apps/v1" if word.endswith("sets") or word == "deployments" else "/api/v1"
        for item in service.admin.names(f"{base}/namespaces/{service.namespace}/{word}"):
            if f"{word}/{item['metadata']['name']}" in found:
                found[f"version of {word}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
    return found


@contextlib.contextmanager
def served(service: KubeService, name: str = "api") -> Iterator[list[set[str]]]:
    """Collect the pods that a Service sends requests to, each time that they change while the block lasts."""
    path, chosen = _SLICES.format(service.namespace), {"labelSelector": f"kubernetes.io/service-name={name}"}
    items, version = service.admin.list_at(path, **chosen)
    states, over = [_ready(items)], threading.Event()

    def follow() -> None:
        known, at = {item["metadata"]["name"]: item for item in items}, version
        while not over.is_set():
            for event, item in service.admin.watch(path, at, 1.0, **chosen):
                at = item["metadata"]["resourceVersion"]
                if event != "BOOKMARK":
                    known[item["metadata"]["name"]] = item if event != "DELETED" else {}
                    found = _ready([one for one in known.values() if one])
                    states.extend([found] if found != states[-1] else [])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield states
    finally:
        over.set()
        thread.join()


def _ready(items: list[dict[str, Any]]) -> set[str]:
    return {
        endpoint["targetRef"]["name"]
        for item in items
        for endpoint in item.get("endpoints") or []
        if endpoint["conditions"].get("ready")
    }
