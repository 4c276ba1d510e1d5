# SPDX-License-Identifier: GPL-3.0-or-later
"""Blue-green: a version is which pods a Service selects. The bad ones stay as they are: the way forward again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from .component import LIVE, OTHER, TARGET, Entry, Finding, Version, unknown_target
from .durable import now
from .errors import Refused
from .failpoints import failpoint
from .kube_answer import await_answer, await_endpoints, recorded_answer, service_rules
from .kube_await import pods_path
from .kube_client import Rule
from .kube_objects import template_hash
from .kube_owner import owner_problem
from .kube_patch import Patch
from .kube_preflight import missing_rights
from .kube_rollout import is_ready
from .kube_way import WayDriver, is_checkpoint

SELECTOR = "selector"


class SwitchDriver(WayDriver):
    """A Service and the label by which it chooses. Options: service, label (default version), workloads, answer."""

    failpoints = ("rollback_kubernetes.switch.before", "rollback_kubernetes.switch.after")

    @property
    def path(self) -> str:
        """The path of the Service.

        :raises Refused: the profile names none.
        """
        if not self.service:
            raise Refused(f"{self.name}: strategy blue_green needs `service`, the Service that is switched.")
        return f"/api/v1/namespaces/{self.namespace}/services/{self.service}"

    @property
    def service(self) -> str:
        """The Service's name."""
        return str(self.options.get("service") or "")

    @property
    def label(self) -> str:
        """The label that the Service's selector chooses a version by."""
        return str(self.options.get("label") or "version")

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a selector is always exact
        """Read what the Service selects."""
        item = self.client.find(self.path)
        if item is None:
            raise Refused(f"{self.name}: service {self.service} does not exist in namespace {self.namespace}.")
        return self._version(item["spec"].get("selector") or {})

    def _version(self, selector: Mapping[str, str]) -> Version:
        if self.label not in selector:
            raise Refused(
                f"{self.name}: service {self.service} does not choose by the label {self.label}; it selects "
                f"{json.dumps(dict(selector), sort_keys=True)}. Set `label` to the one that differs between versions."
            )
        return Version({SELECTOR: dict(selector)}, f"service {self.service} -> {selector[self.label]}")

    def stable(self) -> Version | str | None:
        """Return the version that the profile calls stable: where a panic sends traffic to."""
        return str(self.options["stable"]) if self.options.get("stable") else None

    def resolve(self, want: Version | str) -> Version:
        """Return the selector to go back to: the recorded one, or the present one with another value of the label."""
        if isinstance(want, Version):
            return want
        selector = dict(self.live(exact=True).identity[SELECTOR])
        rest = {key: value for key, value in selector.items() if key != self.label}
        values = sorted({
            value
            for pod in self.client.list(pods_path(self.namespace), labelSelector=_text(rest))
            if (value := (pod["metadata"].get("labels") or {}).get(self.label))
        })  # fmt: skip
        if want not in values:
            raise unknown_target(self.name, want, values, f"{self.label} among the running pods,")
        return self._version({**selector, self.label: want})

    def check(self, live: Version, target: Version) -> Finding:
        """Prove that the version to switch to is warm: as many ready pods as serve now, of the recorded templates."""
        wanted, serving = self._ready(target), self._ready(live)
        problems = []
        if not wanted:
            problems.append(f"no pod of {target.text} is ready, so nothing would serve. Bring it up first")
        elif len(wanted) < len(serving) and not self.options.get("fewer"):
            problems.append(
                f"only {len(wanted)} pods of {target.text} are ready and {len(serving)} serve now. Scale it up, or set "
                "`fewer: true` on the component"
            )
        recorded = dict(target.artefacts.get("templates") or {})
        present = self.read(self.workloads) if self.workloads else {}
        for workload, item in present.items():
            known = recorded.get(str(workload))
            if known and self._chosen(item, target) and known != template_hash(item["spec"]["template"]):
                problems.append(f"{workload} is no longer what it was when {target.text} was recorded")
        gitops = str(self.options.get("gitops") or "")
        item = self.client.get(self.path)
        if owned := owner_problem(f"service {self.service}", item, gitops, would="switch it back"):
            problems.append(owned)
        rules = [Rule("get", "services", "", self.namespace, self.service), Rule("list", "pods", "", self.namespace)]
        rules += service_rules(self.namespace, self.service, self.options.get("answer"))
        patch = [Rule("patch", "services", "", self.namespace, self.service)]
        problems += missing_rights(self.client, rules, patch)
        return Finding(
            problems=tuple(f"{self.name}: {problem}" for problem in problems),
            seconds=1.0,
            worst_seconds=self.timeout + 20,
        )

    @staticmethod
    def _chosen(item: Mapping[str, Any], version: Version) -> bool:
        labels = item["spec"]["template"]["metadata"].get("labels") or {}
        return all(labels.get(key) == value for key, value in version.identity[SELECTOR].items())

    def _ready(self, version: Version) -> dict[str, str]:
        """Return the ready pods that a version selects, UID -> name."""
        pods = self.client.list(pods_path(self.namespace), labelSelector=_text(version.identity[SELECTOR]))
        return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods if is_ready(pod)}

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - traffic changes no selector
        """Read the Service against the plan."""
        self.entry = entry
        reading = self.live(exact=True)
        if reading.identity == entry.target.identity:
            return TARGET, reading
        return (LIVE if reading.identity == entry.live.identity else OTHER), reading

    def record(self, into: Any) -> Version:
        """Record the selector, the templates of the workloads that it chooses, and what the Service answers.

        :raises Refused: (checkpoint) nothing serves, or the Service tells no version.
        """
        reading = self.live(exact=True)
        items = self.read(self.workloads) if self.workloads else {}
        chosen = {
            str(workload): template_hash(item["spec"]["template"])
            for workload, item in items.items()
            if self._chosen(item, reading)
        }
        artefacts: dict[str, Any] = {"templates": chosen}
        if not is_checkpoint(into):
            artefacts["kept"] = True
        elif not self._ready(reading):
            raise Refused(
                f"{self.name}: {reading.text}, but none of its pods is ready: that is no state to come back to."
            )
        else:
            said = recorded_answer(self.client, self, self.namespace)
            artefacts["answers"] = [said] if said else []
        return Version(reading.identity, reading.text, taken=now(), artefacts=artefacts)

    def apply(self, target: Version) -> None:
        """Switch the Service in one write, and wait until only the pods of that version get requests."""
        ends = time.monotonic() + self.timeout
        sides = [target, *((self.entry.live, self.entry.target) if self.entry else ())]
        known = [side.identity[SELECTOR] for side in sides]
        wanted = dict(target.identity[SELECTOR])
        failpoint("rollback_kubernetes.switch.before")
        self.change(
            self.path,
            f"service {self.service}",
            lambda item: Patch(item) if item["spec"].get("selector") == wanted else Patch(item).select(wanted),
            lambda item: self.entry is None or item["spec"].get("selector") in known,
        )
        failpoint("rollback_kubernetes.switch.after")
        broken = bool(target.artefacts.get("kept"))  # what was so before a run may not have worked
        if broken and not self._ready(target):
            return
        left = ends - time.monotonic()
        await_endpoints(self.client, self.namespace, self.service, lambda _uids: self._ready(target), left)
        answer = self.options.get("answer")
        if answer and not broken:
            expected = [str(one) for one in target.artefacts.get("answers") or []]
            left = max(0.0, ends - time.monotonic())
            await_answer(self.client, self.namespace, self.service, answer, expected, left)


def _text(selector: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
