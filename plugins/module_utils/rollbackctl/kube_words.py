# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pod that does not work has to say: its last log lines and events, for a message."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .kube_client import Client, KubeError
from .kube_rollout import container_statuses
from .names import printable

LINES = 5
EVENTS = 3
EVENTS_LATE_SECONDS = 1.0
_LINE_LENGTH = 200


def last_words(client: Client, pod: Mapping[str, Any]) -> str:
    """Return the last log lines and events of a pod for people; what may not be read is left out."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    said = ""
    try:
        lines = _log(client, f"/api/v1/namespaces/{namespace}/pods/{name}/log", pod)
        if lines:
            said += f" Its last lines: {' | '.join(lines)}."
    except KubeError:
        pass
    try:
        events = _events(client, namespace, name)
        texts = list(dict.fromkeys(str(event.get("message") or event.get("reason") or "") for event in events))
        if texts:
            said += f" Events: {' | '.join(texts[-EVENTS:])}."
    except KubeError:
        pass
    return printable(said)


def _events(client: Client, namespace: str, name: str) -> list[dict[str, Any]]:
    """Return a pod's warnings. They come a moment after the pod's status, so an empty list is asked for once more."""
    path, chosen = f"/api/v1/namespaces/{namespace}/events", f"involvedObject.name={name},type=Warning"
    found = client.list(path, fieldSelector=chosen)
    if not found:
        time.sleep(EVENTS_LATE_SECONDS)
        found = client.list(path, fieldSelector=chosen)
    return found


def _log(client: Client, path: str, pod: Mapping[str, Any]) -> list[str]:
    """Return the last lines of the container that is unwell, of its last life when it has begun another."""
    unwell = [one for one in container_statuses(pod) if not one.get("ready")]
    if not unwell:
        return []
    worst = max(unwell, key=lambda one: int(one.get("restartCount") or 0))
    query = {"tailLines": str(LINES), "limitBytes": "4000", "container": str(worst["name"])}
    if "terminated" in (worst.get("lastState") or {}):
        query["previous"] = "true"
    return [line.strip()[:_LINE_LENGTH] for line in client.text(path, **query).splitlines() if line.strip()]
