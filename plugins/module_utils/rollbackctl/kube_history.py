# SPDX-License-Identifier: GPL-3.0-or-later
"""The history that Kubernetes keeps of a workload, and finding a version in it that a person named. Pure functions.

Revisions are ReplicaSets of a Deployment, ControllerRevisions of a StatefulSet or DaemonSet; which are whose is read
from the controller's UID. After an undo the revision that was gone back to gets a new number, so numbers are only
names: what is resolved is the template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Refused
from .kube_objects import (
    CHANGE_CAUSE,
    cleaned,
    controller_uid,
    image_text,
    images,
    notes_of,
    template_hash,
    template_of,
    with_images,
)

_REVISION = "deployment.kubernetes.io/revision"
_FORMS = "revision:NUMBER, image:REFERENCE, image:CONTAINER=REFERENCE or version:TAG"


@dataclass(frozen=True)
class Revision:
    """One entry of a workload's history. live: it is what the workload asks for now."""

    number: int
    template: Mapping[str, Any]
    hash: str
    cause: str
    created: str
    live: bool

    def __str__(self) -> str:
        """Return it for people."""
        cause = f", {self.cause}" if self.cause else ""
        live = ", live" if self.live else ""
        return f"revision:{self.number} ({image_text(self.template)}, {self.created}{cause}{live})"


def revisions(item: Mapping[str, Any], children: Sequence[Mapping[str, Any]]) -> list[Revision]:
    """Return a workload's history, newest first.

    :param children: ReplicaSets or ControllerRevisions of the namespace; those of others are left out.
    """
    live = template_hash(item["spec"]["template"])
    found = []
    for child in children:
        if controller_uid(child) != item["metadata"]["uid"]:
            continue
        if "data" in child:
            template, number = child["data"]["spec"]["template"], int(child.get("revision") or 0)
        else:
            template, number = child["spec"]["template"], int(notes_of(child).get(_REVISION) or 0)
        fingerprint = template_hash(template)
        created = str(child["metadata"].get("creationTimestamp") or "")
        cause = notes_of(child).get(CHANGE_CAUSE, "")
        found.append(Revision(number, cleaned(template), fingerprint, cause, created, fingerprint == live))
    return sorted(found, key=lambda revision: revision.number, reverse=True)


def split_wanted(want: str, workloads: Sequence[str]) -> dict[str, str]:
    """Return what each workload is to go back to, from rollback_to's text for the component: one form for all of them,
    or WORKLOAD=FORM, separated by commas.

    :raises Refused: a workload that the component does not have, or one without a form.
    """
    parts = [part.strip() for part in want.split(",") if part.strip()]
    named = {}
    for part in parts:
        workload, equals, form = part.partition("=")
        if equals and "/" in workload and ":" not in workload:
            named[workload] = form
    if not named and len(parts) == 1:
        return dict.fromkeys(workloads, parts[0])
    unknown = sorted(set(named) - set(workloads))
    if unknown or len(named) != len(parts) or set(named) != set(workloads):
        listed = ", ".join(workloads)
        raise Refused(
            f"{want!r} must say for each workload what it goes back to, as WORKLOAD=FORM, separated by commas. "
            f"Workloads: {listed}. Forms: {_FORMS}."
        )
    return named


def find(name: str, item: Mapping[str, Any], history: Sequence[Revision], form: str) -> tuple[Mapping[str, Any], str]:
    """Return the template that a form names, and the change-cause that belongs to it; empty when none does.

    :param name: the workload, for messages.
    :raises Refused: there is none, or the form is not one of those known; the candidates are listed.
    """
    word, _, value = form.partition(":")
    if form.isdigit():
        word, value = "revision", form
    if word == "revision" and value.isdigit():
        for revision in history:
            if revision.number == int(value):
                return revision.template, revision.cause
        raise Refused(f"{name}: there is no {form}. Known: {_listed(history)}. Nothing was changed.")
    present = template_of(item)
    if word == "image" and value:
        template = with_images(present, _wanted_image(name, present, value))
    elif word == "version" and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", value):
        container = _main_container(name, present, "version:TAG")
        repository = images(present)[container].split("@", 1)[0]
        head, slash, last = repository.rpartition("/")
        template = with_images(present, {container: f"{head}{slash}{last.split(':', 1)[0]}:{value}"})
    else:
        raise Refused(f"{name}: {form!r} names no version; write {_FORMS}. History: {_listed(history)}.")
    wanted = template_hash(template)
    return template, next((revision.cause for revision in history if revision.hash == wanted), "")


def _listed(history: Sequence[Revision]) -> str:
    return "; ".join(str(revision) for revision in history) or "none"


def _wanted_image(name: str, template: Mapping[str, Any], value: str) -> dict[str, str]:
    container, equals, reference = value.partition("=")
    if not equals:
        container, reference = _main_container(name, template, "image:REFERENCE"), value
    if container not in images(template):
        raise Refused(f"{name}: there is no container {container!r}; there are {', '.join(sorted(images(template)))}.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}", reference):
        raise Refused(f"{name}: {reference!r} is not an image.")
    return {container: reference}


def _main_container(name: str, template: Mapping[str, Any], form: str) -> str:
    """Return the container that is meant when none is named: the only one, or the one with the workload's name."""
    names = [str(container["name"]) for container in template["spec"]["containers"]]
    own = name.rpartition("/")[2]
    if len(names) == 1 or own in names:
        return names[0] if len(names) == 1 else own
    raise Refused(f"{name}: {form} does not say which container; write image:CONTAINER=REFERENCE with one of {names}.")
