# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a ConfigMap or a Secret in one request that holds only while nobody else has written to it.

The content is one unit: /data (and /binaryData) as a whole, after a test of the resourceVersion; labels, annotations
and owners stay somebody else's. After any failure the object is read back before anything is said or repeated, so that
a lost answer is no reason to write twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from .errors import StateOther, StepFailed
from .failpoints import failpoint
from .kube_client import Client, KubeError
from .kube_config_content import CONFIGMAP, SECRET, Content, Ref, body_of, content_of

COPY_OF = "rollbackctl.io/copy-of"
CHOSEN = "rollbackctl.io/chosen"
COPY_LABELS = {"app.kubernetes.io/managed-by": "rollbackctl", "rollbackctl.io/kind": "copy"}
_TRIES = 5
_UNKNOWN = 0
# No answer, or somebody was quicker: reading again decides.
_UNDECIDED = (_UNKNOWN, 409)
# What may be repeated of an answer to writing a Secret: admission controllers put what they like into their messages.
_TELLING = re.compile(
    r"admission webhook \"[^\"\s]{1,253}\" denied the request"
    r"|ValidatingAdmissionPolicy '[^'\s]{1,253}' with binding '[^'\s]{1,253}' denied request"
    r"|cannot [a-z]+ resource \"[a-z]+\""
    r"|field is immutable when `immutable` is set"
    r"|field is immutable"
    r"|exceeded quota"
    r"|it is being terminated"
    r"|does not support dry run"
    r"|Too long"
)


@dataclass(frozen=True)
class Found:
    """An object as it was read; content is None when it is not there."""

    content: Content | None
    item: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> str:
        """Return its resourceVersion."""
        return str(self.item.get("metadata", {}).get("resourceVersion", ""))

    @property
    def token(self) -> str:
        """Return what changes with every write to it, and holds nothing of its content."""
        return f"{self.item['metadata']['uid']}:{self.version}" if self.item else ""


def read(client: Client, ref: Ref, namespace: str) -> Found:
    """Read one object."""
    item = client.find(ref.path(namespace))
    return Found(content_of(ref.kind, item), item or {})


def choice_of(item: Mapping[str, Any], run: str) -> int:
    """Return the turn of a run in which it chose this copy last; 0 when it did not."""
    whose, _, turn = str((item["metadata"].get("annotations") or {}).get(CHOSEN) or "").rpartition(" ")
    return int(turn) if whose == run and turn.isdecimal() else 0


def why(ref: Ref, error: KubeError) -> str:
    """Return why a write was refused, for people; of an answer about a Secret only what holds no value."""
    if ref.kind != SECRET or error.status == _UNKNOWN:
        return error.message
    said = "; ".join(dict.fromkeys(_TELLING.findall(error.message)))
    fields = ", ".join(dict.fromkeys(cause[0] for cause in error.causes if cause[0] and len(cause[0]) < 80))
    about = f" ({fields})" if fields and not said else ""
    return f"the API server answered {error.status} {error.reason}{about}{': ' if said else ''}{said}"


def operations(wanted: Content, present: Content, kind: str) -> list[dict[str, Any]]:
    """Return the JSON patch operations (RFC 6902: "add" replaces what is there) that put the content in."""
    changes: list[dict[str, Any]] = [{"op": "add", "path": "/data", "value": dict(wanted.data)}]
    if kind == CONFIGMAP and (wanted.binary or present.binary):
        changes.append({"op": "add", "path": "/binaryData", "value": dict(wanted.binary)})
    return changes


class Writer:
    """Writes objects of one namespace for one component. prove: raises when the run may no longer change anything."""

    def __init__(self, component: str, client: Client, namespace: str, prove: Callable[[], None]) -> None:
        """Keep where to write."""
        self.component = component
        self.client = client
        self.namespace = namespace
        self.prove = prove

    def put(self, ref: Ref, seen: Found, wanted: Content, *, keep_added: bool = False) -> bool:
        """Give an object the wanted content; one that is not there is made. Return whether it had to be written.

        :param seen: what was there when it was decided to do this.
        :param keep_added: leave keys alone that the wanted content does not have.
        :raises StateOther: somebody else has changed the content since; it was left as it is.
        :raises StepFailed: the API server does not take it.
        """
        present = seen
        failure = None
        for _ in range(_TRIES):
            if wanted.within(present.content) if keep_added else wanted.same(present.content):
                return failure is not None
            if not _unchanged(present, seen):
                raise self._other(ref, present)
            failure = self._try(ref, present, wanted, keep_added=keep_added)
            if failure is None:
                return True
            tried, present = present, read(self.client, ref, self.namespace)
            if failure.status not in _UNDECIDED and tried.version == present.version:
                break  # nobody came between: it is the content that is not taken
        raise self._refused(ref, failure)

    def copy(self, ref: Ref, name: str, wanted: Content, choice: str) -> bool:
        """Have an immutable copy of a content under a name of its own, marked with a run's choice. Return whether
        something had to be written.

        :param choice: "RUN TURN", see choice_of.
        :raises StateOther: there is something else of that name.
        :raises StepFailed: the API server does not take it.
        """
        mine = ref.named(name)
        body = body_of(mine, wanted, labels=COPY_LABELS, notes={COPY_OF: ref.name, CHOSEN: choice})
        body["immutable"] = True
        failure = None
        for _ in range(_TRIES):
            present = read(self.client, mine, self.namespace)
            if present.content is not None and not wanted.same(present.content):
                raise StateOther(
                    f"{self.component}: {mine} was to be a copy of {ref.name} but holds something else. It was left as "
                    "it is.",
                    f"Find out who made it. If nobody needs it: kubectl delete -n {self.namespace} {mine}",
                )
            if present.content is not None and present.content.annotations.get(CHOSEN) == choice:
                return failure is not None
            if failure is not None and failure.status not in _UNDECIDED:
                break
            failure = self._try_copy(mine, body, choice, there=present.content is not None)
            if failure is None:
                return True
        raise self._refused(mine, failure)

    def _try_copy(self, mine: Ref, body: Mapping[str, Any], choice: str, *, there: bool) -> KubeError | None:
        self.prove()
        failpoint("restore_kubernetes_config.copy.before")
        try:
            if there:
                self.client.merge_patch(mine.path(self.namespace), {"metadata": {"annotations": {CHOSEN: choice}}})
            else:
                self.client.create(mine.folder(self.namespace), body)
        except KubeError as error:
            return error
        failpoint("restore_kubernetes_config.copy.after")
        return None

    def _try(self, ref: Ref, present: Found, wanted: Content, *, keep_added: bool) -> KubeError | None:
        """Write once, onto what was read; return what went wrong."""
        self.prove()
        failpoint("restore_kubernetes_config.write.before")
        try:
            if present.content is None:
                body = body_of(ref, wanted, labels=wanted.labels, notes=wanted.annotations)
                body["immutable"] = wanted.immutable
                self.client.create(ref.folder(self.namespace), body)
            else:
                new = wanted.added_to(present.content) if keep_added else wanted
                guard = {"op": "test", "path": "/metadata/resourceVersion", "value": present.version}
                changes = operations(new, present.content, ref.kind)
                self.client.json_patch(ref.path(self.namespace), [guard, *changes])
        except KubeError as error:
            return error
        failpoint("restore_kubernetes_config.write.after")
        return None

    def _other(self, ref: Ref, present: Found) -> StateOther:
        what = "has another content" if present.content is not None else "is gone"
        return StateOther(
            f"{self.component}: {ref} {what} since this step read it: somebody else changed it. It was left as it is.",
            "Find out who did, then start a new run (its plan will see the present state).",
        )

    def _refused(self, ref: Ref, failure: KubeError | None) -> StepFailed:
        said = why(ref, failure) if failure is not None else "it is written to all the time."
        return StepFailed(
            f"{self.component}: {ref} was not put back: {said} It is as it was.",
            (failure.next_step if failure is not None else "")
            or "Repair the cause, then resume this run; it reads the state first.",
        )


def _unchanged(present: Found, seen: Found) -> bool:
    if present.content is None or seen.content is None:
        return present.content is seen.content
    return present.content.same(seen.content)
