# SPDX-License-Identifier: GPL-3.0-or-later
"""What it takes to stop one object in Kubernetes and to give back exactly what it was. Pure functions.

    deployment, statefulset      replicas 0
    cronjob                      suspended
    service                      its selector asks for one more label, which no pod has
    horizontalpodautoscaler      neither up nor down (its limits are not touched)

The former value is kept in an annotation of the same object and written by the same patch (RFC 6902: all operations
take effect, or none). So no crash can part them, and a person reads it with kubectl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .durable import now
from .errors import StateOther, StepFailed
from .kube_patch import pointer

# Not the annotation of kube_patch.py: a rollout behind a closed fence keeps its own things and gives only those back.
NOTE = "rollbackctl.io/stopped"
LABEL = "rollbackctl.io/stopped"
RUNNING, STOPPED = "running", "stopped"
# For whom something is stopped: while data is changed, or until somebody resumes traffic.
FENCE, SHUTDOWN = "fence", "shutdown"
# For a value that is not known: it is left alone. None is one: a field that is not set.
UNKNOWN: Any = object()
_DISABLED = "Disabled"
_NOWHERE = {"scaleUp": {"selectPolicy": _DISABLED}, "scaleDown": {"selectPolicy": _DISABLED}}


@dataclass(frozen=True)
class Kind:
    """A kind of object that can be stopped. field: the one of its spec that does it."""

    word: str
    group: str
    version: str
    resource: str
    field: str

    def collection(self, namespace: str) -> str:
        """Return the path of the collection in a namespace."""
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/namespaces/{namespace}/{self.resource}"


KINDS = {
    kind.word: kind
    for kind in (
        Kind("deployment", "apps", "v1", "deployments", "replicas"),
        Kind("statefulset", "apps", "v1", "statefulsets", "replicas"),
        Kind("cronjob", "batch", "v1", "cronjobs", "suspend"),
        Kind("service", "", "v1", "services", "selector"),
        Kind("horizontalpodautoscaler", "autoscaling", "v2", "horizontalpodautoscalers", "behavior"),
    )
}
AUTOSCALER, CRONJOB, SERVICE = "horizontalpodautoscaler", "cronjob", "service"
WORKLOADS = ("deployment", "statefulset")


@dataclass(frozen=True)
class Note:
    """What an object's annotation says. ready: how many of its pods were ready when it was stopped."""

    run: str
    reason: str
    value: Any
    ready: int


@dataclass(frozen=True)
class Thing:
    """One object as it was read; as text, deployment/api."""

    kind: Kind
    item: Mapping[str, Any]

    def __str__(self) -> str:
        """Return it as profiles write it."""
        return f"{self.kind.word}/{self.name}"

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.item["metadata"]["name"])

    @property
    def path(self) -> str:
        """The path of the object."""
        return f"{self.kind.collection(self.item['metadata']['namespace'])}/{self.name}"

    @property
    def value(self) -> Any:
        """The field that stops it; None when it is not set."""
        return self.item["spec"].get(self.kind.field)

    @property
    def stopped(self) -> bool:
        """Whether it is stopped, by whomever."""
        return _is_stopped(self.kind, self.value)

    @property
    def state(self) -> str:
        """RUNNING or STOPPED."""
        return STOPPED if self.stopped else RUNNING

    @property
    def note(self) -> Note | None:
        """What was kept when it was stopped; None when nothing was.

        :raises StepFailed: the annotation is there and cannot be read.
        """
        text = _notes(self.item).get(NOTE)
        if text is None:
            return None
        try:
            kept = json.loads(text)
            return Note(str(kept["run"]), str(kept["for"]), kept[self.kind.field], int(kept["ready"]))
        except (ValueError, KeyError, TypeError):
            raise StepFailed(
                f"{self}: its annotation {NOTE} was damaged by somebody, so what it was before is not known from it.",
                f"Set {self.kind.field} by hand, remove the annotation, then go on.",
            ) from None

    @property
    def ready(self) -> int:
        """How many of its pods are ready, where it has pods of its own."""
        return int((self.item.get("status") or {}).get("readyReplicas") or 0)

    @property
    def before(self) -> Any:
        """Its value when it runs: what it has, or what was kept when it was stopped."""
        note = self.note
        return note.value if self.stopped and note is not None else self.value

    @property
    def text(self) -> str:
        """One line for people: deployment/api 3."""
        return f"{self} {value_text(self.kind, self.value)}"


def value_text(kind: Kind, value: Any) -> str:
    """Return a value for people."""
    if kind.word in WORKLOADS:
        return str(value)
    if kind.word == AUTOSCALER:
        return "held" if _is_stopped(kind, value) else "scaling"
    if kind.word == CRONJOB:
        return "suspended" if value else "active"
    return "selects nothing" if _is_stopped(kind, value) else "selects its pods"


def _notes(item: Mapping[str, Any]) -> dict[str, str]:
    return dict(item["metadata"].get("annotations") or {})


def _is_stopped(kind: Kind, value: Any) -> bool:
    if kind.word in WORKLOADS:
        return bool(value == 0)
    if kind.word == CRONJOB:
        return value is True
    if kind.word == SERVICE:
        return LABEL in (value or {})
    return all(((value or {}).get(way) or {}).get("selectPolicy") == _DISABLED for way in _NOWHERE)


def _stopped_value(kind: Kind, value: Any) -> Any:
    if kind.word in WORKLOADS:
        return 0
    if kind.word == CRONJOB:
        return True
    if kind.word == SERVICE:
        return {**(value or {}), LABEL: "true"}
    return _NOWHERE


def stopping(thing: Thing, run: str, reason: str) -> list[dict[str, Any]]:
    """Return the patch that stops an object and keeps what it was; empty when it is stopped already, by whomever: then
    it is left so afterwards too."""
    if thing.stopped:
        return []
    kept = {"run": run, "for": reason, "at": now(), "ready": thing.ready, thing.kind.field: thing.value}
    present = _notes(thing.item)
    text = json.dumps(kept, sort_keys=True)
    note: dict[str, Any] = {"op": "add", "path": f"/metadata/annotations/{pointer(NOTE)}", "value": text}
    first: list[dict[str, Any]] = [] if present else [{"op": "add", "path": "/metadata/annotations", "value": {}}]
    return [_guard(thing), *first, note, _set(thing, _stopped_value(thing.kind, thing.value))]


def stopping_again(thing: Thing) -> list[dict[str, Any]]:
    """Return the patch that stops an object that somebody set going while it was held; its note stays as it is."""
    return [_guard(thing), _set(thing, _stopped_value(thing.kind, thing.value))]


def giving_back(thing: Thing, fallback: Any = UNKNOWN) -> tuple[list[dict[str, Any]], str]:
    """Return the patch that gives an object back what was kept, and what was found to be otherwise, for people.

    What somebody else has set in the meantime is left; then only the note goes.

    :param fallback: the value where somebody removed the note, from what the run recorded.
    """
    note = thing.note
    if note is None:
        if not thing.stopped or fallback is UNKNOWN:
            return [], ""
        text = f"{thing}: its note was removed by somebody; {value_text(thing.kind, fallback)} is what was recorded"
        return [_guard(thing), _set(thing, fallback)], text
    operations = [_guard(thing), {"op": "remove", "path": f"/metadata/annotations/{pointer(NOTE)}"}]
    if not thing.stopped:
        was, found = value_text(thing.kind, note.value), value_text(thing.kind, thing.value)
        if was == found:
            return operations, f"{thing} was set going by somebody already"
        return operations, f"{thing} was set to {found} by somebody and left so; it had {was}"
    if thing.kind.word == SERVICE and thing.value != _stopped_value(thing.kind, note.value):
        selector = {key: value for key, value in thing.value.items() if key != LABEL}
        return [*operations, _set(thing, selector)], f"{thing}: its selector was changed by somebody and left so"
    return [*operations, _set(thing, note.value)], ""


def _guard(thing: Thing) -> dict[str, Any]:
    """The patch holds only as long as nobody else has written to the object."""
    return {"op": "test", "path": "/metadata/resourceVersion", "value": thing.item["metadata"]["resourceVersion"]}


def _set(thing: Thing, value: Any) -> dict[str, Any]:
    path = f"/spec/{thing.kind.field}"
    return {"op": "remove", "path": path} if value is None else {"op": "add", "path": path, "value": value}


def writer(thing: Thing) -> str:
    """Return who wrote the field last, as far as the object says; empty when it does not."""
    found = ""
    latest = ""
    for entry in thing.item["metadata"].get("managedFields") or []:
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if f"f:{thing.kind.field}" in fields and str(entry.get("time") or "") >= latest:
            latest = str(entry.get("time") or "")
            found = f"{entry.get('manager')} at {latest}"
    return found


def set_going(thing: Thing) -> StateOther:
    """Return the error for what was stopped and runs again: nobody wins by scaling against a controller."""
    who = writer(thing) or "somebody"
    return StateOther(
        f"{thing} was stopped and is {value_text(thing.kind, thing.value)} again, set by {who}. It was left as it is.",
        "Find out who did (a GitOps controller: pause its sync), then go on.",
    )
