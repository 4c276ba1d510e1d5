# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API server warns of when a template is tried out, and which of it means that no pod would be let in.

Pod Security is enforced on pods alone: a workload is taken with a warning, and its pods are refused afterwards.
https://kubernetes.io/docs/concepts/security/pod-security-admission/#workload-resources-and-pod-templates
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .kube_client import Client, KubeError
from .kube_objects import Workload

_ENFORCE = "pod-security.kubernetes.io/enforce"
_LEVELS = ("privileged", "baseline", "restricted")
_VIOLATES = re.compile(r'would violate PodSecurity "([a-z]+):[^"]*": ')
_SHOWN = 3


def forbidden(
    client: Client, namespace: str, warned: Mapping[Workload, Sequence[str]], *, stops: bool
) -> tuple[list[str], list[str]]:
    """Return problems and notes for what was warned of.

    :param stops: all pods are stopped before the first new one starts: then what is not known is a problem.
    """
    problems: list[str] = []
    notes: list[str] = []
    violated = any(_VIOLATES.match(one) for texts in warned.values() for one in texts)
    enforced = _enforced(client, namespace) if violated else ""
    for workload, texts in warned.items():
        for text in texts[:_SHOWN]:
            found = _VIOLATES.match(text)
            if found is None:
                notes.append(f"{workload}: the API server warns: {text}")
                continue
            said = f"{workload}: the pods of the version that is gone back to {text}"
            if enforced is None:
                said += f". Whether namespace {namespace} enforces that could not be looked at (get namespaces)"
                (problems if stops else notes).append(said)
            elif _level(enforced) < _level(found[1]):
                notes.append(f"{said}. Namespace {namespace} enforces only {enforced}")
            else:
                problems.append(
                    f"{said}. Namespace {namespace} enforces that, so none would be let in: take it back there "
                    f"({_ENFORCE}), or choose another version"
                )
    return problems, notes


def _enforced(client: Client, namespace: str) -> str | None:
    """Return the level that a namespace enforces; None when it may not be read."""
    try:
        labels = client.get(f"/api/v1/namespaces/{namespace}")["metadata"].get("labels") or {}
    except KubeError as error:
        if error.status != 403:
            raise
        return None
    return str(labels.get(_ENFORCE) or _LEVELS[0])


def _level(word: str) -> int:
    """Return how strict a level is; one that is not known is the strictest, as it is to the API server."""
    return _LEVELS.index(word) if word in _LEVELS else len(_LEVELS)
