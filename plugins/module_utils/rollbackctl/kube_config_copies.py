# SPDX-License-Identifier: GPL-3.0-or-later
"""The way `versioned` of putting ConfigMaps and Secrets back: immutable copies, which pods refer to from then on.

Nothing is changed in place, so pods of the bad release, which may start again at any time, never see the old values. A
copy is named NAME-<ten digits of its content's mark>, so that a content has one copy, whoever makes it.

What is live is what the workloads refer to: those that name this component in their option `config`. A run that has
made its choice marks the copy with it (an annotation); for the rest of that run this is what is live, for the workloads
follow after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import StepFailed
from .kube_config_check import Change, copy_problems
from .kube_config_content import SECRET, Content, Ref, content_of, copy_name, mark_of, stem
from .kube_config_in_place import InPlace, Reading
from .kube_config_key import key_in, key_path
from .kube_config_references import references
from .kube_config_write import COPY_LABELS, COPY_OF, Found, choice_of
from .kube_objects import Workload, parse_workload, template_of

_COPIES = ",".join(f"{label}={value}" for label, value in COPY_LABELS.items())
_DIGITS = "[0-9a-f]{10}"
Names = dict[Ref, str]


class Versioned(InPlace):
    """Copies of the objects."""

    def look(self) -> Reading:
        """Read what the workloads refer to, or what this run has chosen."""
        site = self.site
        kinds = sorted({ref.kind for ref in self.refs})
        workloads = self._workloads()
        asked: list[Callable[[], Any]] = [
            lambda: site.client.find(key_path(site.state)) if SECRET in kinds else None,
            *(lambda ref=ref: site.client.find(ref.path(site.namespace)) for ref in self.refs),
            *(lambda kind=kind: self._copies(kind) for kind in kinds),
            *(lambda workload=workload: site.client.find(workload.path) for workload in workloads),
        ]
        answers = iter(site.client.each(lambda ask: ask(), asked))
        key = key_in(next(answers))
        items = {ref: next(answers) for ref in self.refs}
        copies = {kind: next(answers) for kind in kinds}
        templates = [template_of(item) for item in answers if item is not None]
        names = {**used(self.refs, templates), **chosen(self.refs, copies, site.run)}
        others = {ref: name for ref, name in names.items() if name != ref.name}
        read = site.client.each(lambda ref: site.client.find(ref.named(others[ref]).path(site.namespace)), [*others])
        items.update({ref: item for ref, item in zip(others, read) if item is not None})
        return Reading({ref: Found(content_of(ref.kind, item), item or {}) for ref, item in items.items()}, key)

    def put(self, ref: Ref, seen: Found, wanted: Content, key: bytes | None) -> None:
        """Make the copy, unless there is one, and choose it."""
        if wanted.same(seen.content):
            return
        if ref.kind == SECRET and key is None:
            raise StepFailed(f"{self.site.component}: {ref} cannot be copied before anything was recorded here.")
        name = copy_name(ref, mark_of(ref, wanted, key, each=False))
        self.site.writer.copy(ref, name, wanted, f"{self.site.run} {self._turn(ref) + 1}")

    def problems(self, changes: Sequence[Change]) -> tuple[list[str], list[str]]:
        """Return what stands in the way, and notes."""
        needed = [change.ref for change in changes if change.needed]
        problems = copy_problems(self.site.client, self.site.namespace, needed)
        if not any(self._reads_this(options) for options in self._sibling_options()):
            problems.append(
                f"no workload would read the copies. Set `config: {self.site.component}` on the rollback_kubernetes "
                "component whose pods read it, or `mode: in_place` here."
            )
        return problems, ["the objects stay as they are; the pods of this run's workloads get immutable copies."]

    def _turn(self, ref: Ref) -> int:
        """Return how often this run has chosen a copy of this object."""
        turns = [choice_of(item, self.site.run) for item in self._copies(ref.kind) if _is_copy_of(ref, item)]
        return max(turns, default=0)

    def _copies(self, kind: str) -> list[dict[str, Any]]:
        """Return the metadata of all copies of a kind: no value is read for that."""
        folder = Ref(kind, "").folder(self.site.namespace)
        return self.site.client.names(folder, labelSelector=_COPIES)

    def _sibling_options(self) -> list[Mapping[str, Any]]:
        return [driver.options for driver in self.site.siblings.values()]

    def _reads_this(self, options: Mapping[str, Any]) -> bool:
        place = str(options.get("namespace") or self.site.state)
        return options.get("config") == self.site.component and place == self.site.namespace

    def _workloads(self) -> list[Workload]:
        return [
            parse_workload(str(text), self.site.namespace)
            for options in self._sibling_options()
            if self._reads_this(options)
            for text in options.get("workloads") or []
        ]


def chosen(refs: Sequence[Ref], copies: Mapping[str, Sequence[Mapping[str, Any]]], run: str) -> Names:
    """Return the copies that a run chose last.

    :param copies: the metadata of all copies, by kind.
    """
    found: Names = {}
    for ref in refs:
        mine = [(choice_of(item, run), item["metadata"]["name"]) for item in copies[ref.kind] if _is_copy_of(ref, item)]
        turn, name = max(mine, default=(0, ""))
        if turn:
            found[ref] = name
    return found


def used(refs: Sequence[Ref], templates: Sequence[Mapping[str, Any]]) -> Names:
    """Return the object, or the copy of it, that all pod templates refer to; nothing for what they do not agree on."""
    named: dict[str, set[str]] = {"configmaps": set(), "secrets": set()}
    for template in templates:
        for kind, names in references(template).items():
            named[kind] |= names
    found: Names = {}
    for ref in refs:
        mine = {name for name in named[f"{ref.kind}s"] if original_name(ref, name)}
        if len(mine) == 1:
            found[ref] = mine.pop()
    return found


def original_name(ref: Ref, name: str) -> str:
    """Return the object's own name when a name is that or one of a copy of it; else nothing."""
    return ref.name if name == ref.name or re.fullmatch(rf"{re.escape(stem(ref))}-{_DIGITS}", name) else ""


def original_names(refs: Sequence[Ref], template: Mapping[str, Any]) -> Names:
    """Return how a template's copies are to be called so that it refers to the objects themselves."""
    return {
        Ref(ref.kind, name): ref.name
        for ref in refs
        for name in references(template)[f"{ref.kind}s"]
        if name != ref.name and original_name(ref, name)
    }


def _is_copy_of(ref: Ref, item: Mapping[str, Any]) -> bool:
    return bool((item["metadata"].get("annotations") or {}).get(COPY_OF) == ref.name)
