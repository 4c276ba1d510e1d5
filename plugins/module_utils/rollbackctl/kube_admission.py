# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API server, and every webhook and policy that it asks, makes of a pod template: found out by a dry run.

What a webhook adds, or writes whatever it is sent, is its own and no part of a version: it may be another one tomorrow.
What it takes away from a version, or sets otherwise although the version has it so, makes another version of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .kube_client import Client, KubeError
from .kube_difference import ADDED, GONE, Difference, Path, at, compare, covered, shown, unit_of, without
from .kube_objects import Workload, cleaned, compared, template_hash

TEMPLATE = "/spec/template"
Operations = Sequence[Mapping[str, Any]]
_DECIDED = range(400, 500)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a template. own: the places that webhooks write by themselves; changed: those where they make
    another version of it; warnings: what the API server warns of; error: why it would not take it."""

    own: tuple[Path, ...] = ()
    changed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: KubeError | None = None

    @property
    def silent(self) -> bool:
        """Say whether it is taken as it is, without a word."""
        return not (self.own or self.changed or self.warnings or self.error)


class Admission:
    """Asks for verdicts, for each template of a workload once."""

    def __init__(self, client: Client) -> None:
        """Nothing is asked yet."""
        self.client = client
        self._known: dict[tuple[Workload, str], Verdict] = {}

    def verdict(self, workload: Workload, template: Mapping[str, Any], operations: Operations = ()) -> Verdict:
        """Return what would become of a template.

        :param operations: all of the patch that would be sent; the template alone without.
        """
        key = (workload, template_hash(template))
        if key in self._known:
            return self._known[key]
        found = self._ask(workload, cleaned(template), operations)
        if found.error is None or found.error.status in _DECIDED:
            self._known[key] = found
        return found

    def is_same(self, workload: Workload, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """Say whether a template is a wanted one but for what webhooks write by themselves.

        :raises KubeError: the API server does not say.
        """
        verdict = self.verdict(workload, wanted)
        if verdict.error is not None and verdict.error.status not in _DECIDED:
            raise verdict.error
        own, found_otherwise = verdict.own, compare(compared(wanted), compared(found))
        return bool(own) and all(one.kind != GONE and covered(one.path, own) for one in found_otherwise)

    def _ask(self, workload: Workload, template: Mapping[str, Any], operations: Operations) -> Verdict:
        sent = operations or [{"op": "replace", "path": TEMPLATE, "value": template}]
        template = next((cleaned(one["value"]) for one in sent if one["path"] == TEMPLATE), template)
        warnings: list[str] = []
        try:
            made = cleaned(self._made(workload, sent, warnings))
        except KubeError as error:
            return Verdict(error=error)
        found = list(compare(template, made))
        own = [one.path for one in found if one.kind == ADDED]
        other = [one for one in found if one.kind != ADDED]
        if other:
            written = self._written_anyway(workload, template, made, sent, [one for one in other if one.kind != GONE])
            own += written
            other = [one for one in other if one.path not in written]
        return Verdict(tuple(own), tuple(str(one) for one in other), tuple(dict.fromkeys(warnings)))

    def _written_anyway(
        self,
        workload: Workload,
        template: Mapping[str, Any],
        made: Mapping[str, Any],
        sent: Operations,
        places: Sequence[Difference],
    ) -> list[Path]:
        """Return those of the places that are written just so also when nothing is sent there."""
        bare = without(template, [unit_of(one.path) for one in places])
        try:
            answer = self._made(
                workload, [{**one, "value": bare} if one["path"] == TEMPLATE else one for one in sent], []
            )
        except KubeError:
            return []
        return [one.path for one in places if at(answer, one.path) == at(made, one.path)]

    def _made(self, workload: Workload, sent: Operations, warnings: list[str]) -> Mapping[str, Any]:
        made = self.client.json_patch(workload.path, sent, dry_run=True, warnings=warnings)
        template: Mapping[str, Any] = made["spec"]["template"]
        return template


def own_text(verdict: Verdict) -> str:
    """Return what webhooks write by themselves, for people: the places, never a value."""
    places = [shown(path) for path in verdict.own]
    return ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")
