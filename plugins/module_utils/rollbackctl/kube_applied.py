# SPDX-License-Identifier: GPL-3.0-or-later
"""What the next `kubectl apply` of a person or a pipeline makes of an object that was put back. Pure functions.

kubectl removes what stands in its annotation of the last apply and no longer in the file. After a rollback the
annotation still describes the release that was left, so what only the version gone back to has is not removed.
https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/#how-apply-calculates-differences-and-merges-changes
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from .kube_difference import ADDED, at, compare, shown
from .kube_objects import Workload, compared, notes_of

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_SHOWN = 6


def kept_by_apply(workload: Workload, item: Mapping[str, Any], template: Mapping[str, Any]) -> str:
    """Return what the next apply would leave of a template that is put back; empty when nothing is known to be left."""
    applied = _applied(item)
    if applied is None:
        return ""
    known = (applied.get("spec") or {}).get("template") or {}
    brought = [one.path for one in compare(compared(item["spec"]["template"]), compared(template)) if one.kind == ADDED]
    return _text(str(workload), [shown(path) for path in brought if at(known, path) is None])


def keys_kept_by_apply(what: str, item: Mapping[str, Any], brought: Collection[str]) -> str:
    """Return which keys of a ConfigMap or Secret the next apply would leave, of those that are put back into it."""
    applied = _applied(item)
    if applied is None:
        return ""
    known = {key for field in ("data", "binaryData", "stringData") for key in applied.get(field) or {}}
    return _text(what, [f"key {key}" for key in sorted({*brought} - known)])


def _applied(item: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the file that was applied last; None when none was."""
    try:
        found = json.loads(notes_of(item).get(LAST_APPLIED, "null"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _text(what: str, places: list[str]) -> str:
    if not places:
        return ""
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return (
        f"{what} is deployed by kubectl apply, whose annotation goes on describing the release that is left: the next "
        f"apply will keep {', '.join(places[:_SHOWN])}{more}, which only the version gone back to has, unless its file "
        "names it. Compare with kubectl diff before it, or take them out by hand"
    )
