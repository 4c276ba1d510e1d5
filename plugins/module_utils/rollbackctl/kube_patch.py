# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON patches for workloads: only the paths that are listed are touched, all else of an object is somebody else's
(RFC 6902: all operations of a patch take effect, or none).

What is changed only for the time of a rollout (a strategy, a replica count) is kept in an annotation of the same
object, written and removed in the same patch: whoever comes next, also after a crash, knows what to give back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .kube_objects import CHANGE_CAUSE, STAMP, cleaned, notes_of

HELD = "rollbackctl.io/held"
FAST = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}}


def pointer(key: str) -> str:
    """Return a key as it stands in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def held(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept in an object's own annotation; empty when nothing is."""
    text = notes_of(item).get(HELD)
    return dict(json.loads(text)) if text else {}


class Patch:
    """A patch of one object as it was read. Nothing is sent here."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        """Begin with the object; the patch holds only as long as nobody else has written to it."""
        self.item = item
        self._changes: list[dict[str, Any]] = []
        self._notes: dict[str, str | None] = {}

    def template(self, template: Mapping[str, Any], *, stamp: str = "", cause: str | None = None) -> Patch:
        """Give the workload another template.

        :param stamp: put into the template, so that pods start anew although nothing else of it changes.
        :param cause: the change-cause that belongs to the template; None leaves the annotation alone.
        """
        wanted = cleaned(template)
        if stamp:
            wanted["metadata"].setdefault("annotations", {})[STAMP] = stamp
        self._changes.append({"op": "replace", "path": "/spec/template", "value": wanted})
        if cause is not None:
            self._notes[CHANGE_CAUSE] = cause or None
        return self

    def paused(self, *, wanted: bool) -> Patch:
        """Let a rollout go on, or stand still."""
        if wanted != bool(self.item["spec"].get("paused")):
            change: dict[str, Any] = {"op": "add", "path": "/spec/paused", "value": True}
            self._changes.append(change if wanted else {"op": "remove", "path": "/spec/paused"})
        return self

    def surge(self) -> Patch:
        """Let a Deployment start all new pods at once, for this rollout only."""
        self._hold({"strategy": self.item["spec"].get("strategy") or {}})
        self._changes.append({"op": "add", "path": "/spec/strategy", "value": FAST})
        return self

    def scale(self, replicas: int) -> Patch:
        """Set a replica count and keep the former one."""
        self._hold({"replicas": int(self.item["spec"].get("replicas", 1))})
        self._changes.append({"op": "replace", "path": "/spec/replicas", "value": replicas})
        return self

    def replicas(self, count: int) -> Patch:
        """Set a replica count for good."""
        self._changes.append({"op": "add", "path": "/spec/replicas", "value": count})
        return self

    def select(self, selector: Mapping[str, str]) -> Patch:
        """Let a Service choose other pods."""
        self._changes.append({"op": "replace", "path": "/spec/selector", "value": dict(selector)})
        return self

    def give_back(self) -> Patch:
        """Bring back all that was kept, and forget it."""
        kept = held(self.item)
        self._changes += [
            {"op": "add", "path": f"/spec/{field}", "value": kept[field]}
            for field in ("strategy", "replicas")
            if field in kept
        ]
        self._notes[HELD] = None
        return self

    def _hold(self, kept: Mapping[str, Any]) -> None:
        """Write former values down beside those that are kept already; what was kept first stays."""
        present = json.loads(self._notes.get(HELD) or "{}") or held(self.item)
        self._notes[HELD] = json.dumps({**kept, **present}, sort_keys=True)

    @property
    def operations(self) -> list[dict[str, Any]]:
        """The operations; empty when nothing would change."""
        present = notes_of(self.item)
        notes: list[dict[str, Any]] = []
        for key, value in self._notes.items():
            if value is None and key in present:
                notes.append({"op": "remove", "path": f"/metadata/annotations/{pointer(key)}"})
            elif value is not None and present.get(key) != value:
                notes.append({"op": "add", "path": f"/metadata/annotations/{pointer(key)}", "value": value})
        if notes and not present:
            notes.insert(0, {"op": "add", "path": "/metadata/annotations", "value": {}})
        if not self._changes and not notes:
            return []
        guard = {"op": "test", "path": "/metadata/resourceVersion", "value": self.item["metadata"]["resourceVersion"]}
        return [guard, *self._changes, *notes]
