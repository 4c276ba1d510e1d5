# SPDX-License-Identifier: GPL-3.0-or-later
"""Stopping canaries: a version is how many pods each has. Nothing is deleted; the way forward is the recorded count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .component import BETWEEN, LIVE, OTHER, TARGET, Entry, Finding, Version
from .durable import now
from .errors import Refused
from .failpoints import failpoint
from .kube_await import await_gone
from .kube_client import Rule
from .kube_objects import KINDS, Workload
from .kube_owner import owner_problem
from .kube_patch import Patch
from .kube_preflight import missing_rights, workload_rules
from .kube_way import Objects, WayDriver

STOPPED = "stopped"


class CanaryDriver(WayDriver):
    """Workloads that are only there to try a version out. Options: workloads, or selector (labels of Deployments)."""

    failpoints = ("rollback_kubernetes.canary.before", "rollback_kubernetes.canary.after")

    def members(self) -> Objects:
        """Return the canaries: those that are named, or those that carry the labels; none is fine."""
        if self.workloads:
            fixed = [str(workload) for workload in self.workloads if workload.kind == "daemonset"]
            if fixed:
                raise Refused(
                    f"{self.name}: {', '.join(fixed)} has no replica count, so it cannot be stopped this way."
                )
            return self.read(self.workloads)
        selector = str(self.options.get("selector") or "")
        if not selector:
            raise Refused(f"{self.name}: strategy canary_stop needs `workloads` or `selector`.")
        items = self.client.list(KINDS["deployment"].collection(self.namespace), labelSelector=selector)
        return {Workload("deployment", item["metadata"]["name"], self.namespace): item for item in items}

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a count is always exact
        """Read how many pods each canary is to have."""
        counts = {str(workload): _count(item) for workload, item in self.members().items()}
        running = [f"{name} x {count}" for name, count in counts.items() if count]
        return Version(counts, f"canaries: {', '.join(running)}" if running else "no canary runs")

    def inherent(self) -> Version | str | None:
        """Return that a canary is to be stopped."""
        return STOPPED

    def resolve(self, want: Version | str) -> Version:
        """Return no pods for each canary, or the counts that were recorded."""
        if isinstance(want, Version):
            return want
        if want != STOPPED:
            raise Refused(f"{self.name}: a canary can only be `{STOPPED}`, not {want!r}.")
        return Version(dict.fromkeys(self.live(exact=True).identity, 0), "no canary runs")

    def check(self, live: Version, target: Version) -> Finding:  # noqa: ARG002 - the same rights for each way
        """Name the rights that are missing and who else scales the canaries."""
        items = self.members()
        gitops = str(self.options.get("gitops") or "")
        owners = [owner_problem(str(w), item, gitops, would="start it again") for w, item in items.items()]
        problems = [text for text in owners if text]
        kinds = {workload.kind for workload in items} | ({"deployment"} if not self.workloads else set())
        rules = [Rule(verb, "pods", "", self.namespace) for verb in ("list", "watch")]
        rules += [
            Rule(verb, KINDS[kind].resource, KINDS[kind].group, self.namespace)
            for kind in sorted(kinds)
            for verb in ("get", "list")
        ]
        history = {"deployment": "replicasets"}
        rules += [
            Rule("list", word, "apps", self.namespace)
            for word in sorted({history.get(kind, "controllerrevisions") for kind in kinds})
        ]
        problems += missing_rights(self.client, rules, workload_rules(items, "patch"))
        return Finding(
            problems=tuple(f"{self.name}: {problem}" for problem in problems),
            seconds=5.0,
            worst_seconds=self.timeout + 20,
        )

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - traffic changes no count
        """Read the canaries against the plan."""
        self.entry = entry
        reading = self.live(exact=True)
        if reading.identity == entry.target.identity:
            return TARGET, reading
        counts = reading.identity.items()
        if all(_as_planned(count, entry.live.identity.get(name)) for name, count in counts):
            return LIVE, reading
        known = all(
            count == entry.target.identity.get(name) or _as_planned(count, entry.live.identity.get(name))
            for name, count in counts
        )
        return (BETWEEN if known else OTHER), reading

    def record(self, into: Any) -> Version:  # noqa: ARG002 - counts are small enough for the checkpoint itself
        """Record the counts."""
        reading = self.live(exact=True)
        return Version(reading.identity, reading.text, taken=now())

    def apply(self, target: Version) -> None:
        """Give each canary its count, and wait until the pods of those that stop are gone. Those that start again may
        have been broken: nobody waits for them."""
        items = {workload: item for workload, item in self.members().items() if str(workload) in target.identity}
        failpoint("rollback_kubernetes.canary.before")

        def put(workload: Workload) -> dict[str, Any]:
            name, count = str(workload), int(target.identity[str(workload)])

            def patch(item: Mapping[str, Any]) -> Patch:
                return Patch(item) if _count(item) == count else Patch(item).replicas(count)

            def ours(item: Mapping[str, Any]) -> bool:
                sides = (self.entry.live, self.entry.target) if self.entry else ()
                known = [side.identity.get(name) for side in sides]
                return not sides or _count(item) == count or any(_as_planned(_count(item), one) for one in known)

            return self.change(workload.path, name, patch, ours)

        changed = dict(zip(items, self.client.each(put, list(items))))
        failpoint("rollback_kubernetes.canary.after")
        stopped = {workload: item for workload, item in changed.items() if not target.identity[str(workload)]}
        if stopped:
            await_gone(self.client, stopped, self.timeout)


def _count(item: Mapping[str, Any]) -> int:
    return int(item["spec"].get("replicas", 1))


def _as_planned(count: int, planned: Any) -> bool:
    """Say whether a count is what the plan saw; an autoscaler may have added pods to those that ran, or taken some."""
    return bool(planned == count or (planned and count))
