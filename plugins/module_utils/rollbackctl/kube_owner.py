# SPDX-License-Identifier: GPL-3.0-or-later
"""Who would put an object back to what it was: a GitOps controller, the owner that it is made by, an operator that
keeps single fields. Pure functions over what the object says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .kube_difference import Difference, Writer, shown, writer
from .kube_objects import notes_of

# By what it leaves on the object.
_GITOPS_NOTES = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "configsync.gke.io/resource-id": "Config Sync",
    "meta.helm.sh/release-name": "",  # Helm alone does not put anything back by itself
}
_GITOPS_LABELS = {
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}
_GITOPS_MANAGERS = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
    "flux": "Flux",
    "fleetagent": "Fleet",
    "configsync": "Config Sync",
}
# Field managers that are programs which keep what they write; people and pipelines have other names (kubectl-edit).
_KEEPS = re.compile(r"(^|[-_.])(operator|controller|controller-manager|reconciler)$|^manager$", re.IGNORECASE)
_KUBERNETES = "kube-controller-manager"
OURSELVES = "rollbackctl"
PAUSED = "paused"
_SHOWN = 3


def gitops_owner(item: Mapping[str, Any]) -> str:
    """Return what would put the object back to what Git says (Argo CD, Flux); empty when nothing would."""
    labels = item["metadata"].get("labels") or {}
    for table, found in ((_GITOPS_NOTES, notes_of(item)), (_GITOPS_LABELS, labels)):
        for key, owner in table.items():
            if owner and key in found:
                return owner
    managers = {str(entry.get("manager")) for entry in item["metadata"].get("managedFields") or []}
    return next((owner for name, owner in _GITOPS_MANAGERS.items() if name in managers), "")


def maker_of(item: Mapping[str, Any]) -> str:
    """Return the object whose controller makes this one, as KIND/NAME; empty without one."""
    makers = [one for one in item["metadata"].get("ownerReferences") or [] if one.get("controller")]
    return f"{makers[0].get('kind')}/{makers[0].get('name')}" if makers else ""


def owner_problem(
    what: str,
    item: Mapping[str, Any],
    gitops: str,
    changes: Iterable[Difference] = (),
    would: str = "put the bad version back",
) -> str:
    """Return who would put an object back to what it is now, and what to do about it; empty when nobody is known to.

    :param gitops: the component's option of that name. changes: what would change of its template. would: in words.
    """
    if gitops == PAUSED:
        return ""
    owner, maker = gitops_owner(item), maker_of(item)
    if owner:
        return (
            f"{what} belongs to {owner}, which would {would}. Pause it there and set `gitops: paused` on the "
            "component, or go back in Git"
        )
    if maker:
        return (
            f"{what} is made by {maker}, whose controller would write it again. Go back there, or pause it and set "
            "`gitops: paused` on the component"
        )
    kept = [(one, by) for one in changes if (by := writer(item, one.path)) and _is_program(by)]
    if kept:
        places = ", ".join(shown(one.path) for one, _ in kept[:_SHOWN])
        return (
            f"{what}: {places} was written by {kept[0][1]}, whose name is that of an operator: it would write its own "
            "value again. Change it there, or pause it and set `gitops: paused` on the component"
        )
    return ""


def _is_program(by: Writer) -> bool:
    return bool(_KEEPS.search(by.manager)) and by.manager != _KUBERNETES


def whose(item: Mapping[str, Any], changes: Iterable[Difference]) -> str:
    """Return who wrote what is otherwise in a workload's template, for people; empty where nobody else is known."""
    found: dict[str, list[str]] = {}
    for one in changes:
        by = writer(item, one.path)
        if by is not None and by.manager != OURSELVES:
            found.setdefault(str(by), []).append(shown(one.path))
    said = [f"{', '.join(places[:_SHOWN])} was written by {by}" for by, places in found.items()]
    return "; ".join(said[:_SHOWN])
