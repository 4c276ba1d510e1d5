# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting the pod templates of workloads back: a version is the template of each, in full.

A pruned ReplicaSet therefore does not matter, nor what number a revision has by now. Only the template, a paused
rollout and the change-cause that belongs to the template are written; replicas, strategies, labels and annotations of
others are left alone, but for what a strategy needs for the time of one rollout, which the object itself remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .component import BETWEEN, LIVE, OTHER, TARGET, Driver, Entry, Finding, Version
from .durable import digest, now
from .errors import StepFailed
from .failpoints import failpoint
from .kube_answer import await_answer, await_endpoints, recorded_answer, service_rules
from .kube_await import await_gone, await_rollout, pods_path, runs_template
from .kube_client import Rule
from .kube_history import Revision, find, revisions, split_wanted
from .kube_objects import (
    CHANGE_CAUSE,
    STAMP,
    Workload,
    notes_of,
    pack_templates,
    template_hash,
    template_of,
    unpack_templates,
)
from .kube_patch import Patch, held
from .kube_preflight import (
    gitops_owner,
    image_findings,
    missing_rights,
    quota_problems,
    strategy_problem,
    targets_text,
    workload_rules,
)
from .kube_rollout import is_ready, matches_labels, progress
from .kube_way import WayDriver

CONFIG = "config"
SHOW_HISTORY_OF = 3
SHOWN_REVISIONS = 8
Objects = dict[Workload, dict[str, Any]]


class TemplateDriver(WayDriver):
    """Workloads by their templates. Options: workloads, strategy (undo, fast, recreate), service, answer, config."""

    failpoints = (
        "rollback_kubernetes.patch.before",
        "rollback_kubernetes.patch.after",
        "rollback_kubernetes.scale.before",
        "rollback_kubernetes.scale.after",
        "rollback_kubernetes.rollout.after",
        "rollback_kubernetes.give_back.before",
        "rollback_kubernetes.give_back.after",
    )

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a template is always exact
        """Read the template of each workload, whether its rollout is over, and the configuration that its pods read."""
        return self._version(self.read(self.workloads))

    def _version(self, items: Objects, config: Mapping[str, Any] | None = None) -> Version:
        identity: dict[str, Any] = {
            str(workload): template_hash(self._named(item["spec"]["template"])) for workload, item in items.items()
        }
        reader = self._config_driver()
        if reader is not None:
            identity[CONFIG] = dict(reader.live(exact=True).identity if config is None else config)
        waiting = [str(w) for w, item in items.items() if held(item) or not progress(w.kind, item).done]
        text = targets_text({workload: template_of(item) for workload, item in items.items()})
        if waiting:
            text += f"; not rolled out: {', '.join(waiting[:3])}{' and others' if len(waiting) > 3 else ''}"
        return Version(identity, text, artefacts={"settled": not waiting})

    def _named(self, template: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a template with the configuration named as in the profile, whichever copy of it the template reads."""
        reader = self._config_driver()
        original = getattr(reader, "original_names", None)
        return original(template) if original else template

    def _config_driver(self) -> Driver | None:
        return self.siblings.get(str(self.options.get("config") or ""))

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:
        """Say whether the templates (and what the pods read) are those of the version; exact: and rolled out, unless
        the version itself never was."""
        keys = [key for key in {*reading.identity, *version.identity} if key != CONFIG]
        if any(reading.identity.get(key) != version.identity.get(key) for key in keys):
            return False
        configs = [one.identity[CONFIG] for one in (reading, version) if CONFIG in one.identity]
        if len(configs) == 2 and configs[0] != configs[1]:
            return False
        return not exact or self._settled(reading) or not self._settled(version)

    @staticmethod
    def _settled(version: Version) -> bool:
        return bool(version.artefacts.get("settled", True))

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - traffic changes no template
        """Read the workloads against the plan, each for itself: some old and some new is half-way, and can go on."""
        self.entry = entry
        items = self.read(self.workloads)
        reading = self._version(items, config={})
        stamp = self._stamp(entry.target)
        old, new = [], []
        for workload, item in items.items():
            fingerprint = reading.identity[str(workload)]
            stamped = not stamp or _stamp_of(item) == stamp
            old.append(fingerprint == entry.live.identity.get(str(workload)))
            new.append(fingerprint == entry.target.identity.get(str(workload)) and stamped)
        rolled = self._settled(reading) or not self._settled(entry.target)
        if all(new) and rolled:
            return TARGET, reading
        kept = any(held(item) for item in items.values())
        if all(old) and not kept and not (stamp and any(new)):
            return LIVE, reading
        return (BETWEEN if all(a or b for a, b in zip(old, new)) else OTHER), reading

    def _stamp(self, target: Version) -> str:
        """Return what the pods' templates are stamped with when what they read changes: something new for each run and
        target, so that a stamp of an earlier rollback proves nothing."""
        entry = self.entry
        if entry is None or CONFIG not in target.identity or CONFIG not in entry.live.identity:
            return ""
        if entry.live.identity[CONFIG] == entry.target.identity.get(CONFIG):
            return ""
        return digest([self.place.run, dict(target.identity)])[:16]

    # -- finding the target ------------------------------------------------------------------------------------------

    def resolve(self, want: Version | str) -> Version:
        """Return the templates to go back to: those of a checkpoint, or those that a person named."""
        if isinstance(want, Version):
            if "templates" in want.artefacts:
                self._templates(want)
            return want
        items = self.read(self.workloads)
        wanted = split_wanted(want, [str(workload) for workload in self.workloads])
        histories = self.histories(items)
        templates = {
            str(workload): find(str(workload), item, histories[workload], wanted[str(workload)])
            for workload, item in items.items()
        }
        causes = {
            str(workload): revision.cause
            for workload, history in histories.items()
            for revision in history
            if revision.hash == template_hash(templates[str(workload)])
        }
        identity = {name: template_hash(template) for name, template in templates.items()}
        by_workload = {workload: templates[str(workload)] for workload in self.workloads}
        artefacts = {"templates": pack_templates(templates), "causes": causes}
        return Version(identity, targets_text(by_workload), artefacts=artefacts)

    def histories(self, items: Objects) -> dict[Workload, list[Revision]]:
        """Return the history of each workload, newest first."""
        base = f"/apis/apps/v1/namespaces/{self.namespace}"
        kinds = {workload.kind for workload in items}
        sets = self.client.list(f"{base}/replicasets") if "deployment" in kinds else []
        records = self.client.list(f"{base}/controllerrevisions") if kinds - {"deployment"} else []
        return {w: revisions(item, sets if w.kind == "deployment" else records) for w, item in items.items()}

    def _templates(self, version: Version) -> dict[Workload, dict[str, Any]]:
        """Return the templates of a version.

        :raises StepFailed: they are not what their hashes say.
        """
        templates = unpack_templates(str(version.artefacts["templates"]))
        wrong = [name for name, template in templates.items() if template_hash(template) != version.identity.get(name)]
        missing = [str(workload) for workload in self.workloads if str(workload) not in templates]
        if wrong or missing:
            raise StepFailed(
                f"{self.name}: the recorded templates of {', '.join(wrong + missing)} are damaged or missing."
            )
        return {workload: templates[str(workload)] for workload in self.workloads}

    # -- proving that it can work ------------------------------------------------------------------------------------

    def check(self, live: Version, target: Version) -> Finding:
        """Name everything that forbids it: rights, owners, strategies, quotas, images."""
        items = self.read(self.workloads)
        templates = self._templates(target)
        changing = {
            w: item
            for w, item in items.items()
            if live.identity[str(w)] != target.identity[str(w)] or CONFIG in target.identity
        }
        strategy = str(self.options.get("strategy") or "undo")
        problems = [text for workload, item in items.items() if (text := strategy_problem(workload, item))]
        notes: list[str] = []
        for workload, item in changing.items():
            owner = gitops_owner(item)
            if owner and self.options.get("gitops") != "paused":
                problems.append(
                    f"{workload} belongs to {owner}, which would put the bad version back. Pause it there and set "
                    "`gitops: paused` on the component, or go back in Git"
                )
            if item["spec"].get("paused"):
                notes.append(f"the rollout of {workload} is paused; it is resumed by the same change")
            if strategy == "recreate" and workload.kind == "daemonset":
                problems.append(f"{workload} cannot be scaled to 0; use the strategy undo for it")
        problems += missing_rights(self.client, self._rules(), workload_rules(self.workloads, "patch"))
        if strategy != "recreate":
            surging = {w: {**item, "spec": {**item["spec"], "template": templates[w]}} for w, item in changing.items()}
            problems += quota_problems(self.client, self.namespace, surging, whole=strategy == "fast")
        wrong, said = image_findings(self.client, {workload: templates[workload] for workload in changing})
        problems, notes = problems + wrong, notes + said
        if len(items) <= SHOW_HISTORY_OF:
            notes += [
                f"history of {workload}: {'; '.join(str(one) for one in history[:SHOWN_REVISIONS]) or 'none'}"
                for workload, history in self.histories(items).items()
            ]
        return Finding(
            problems=tuple(f"{self.name}: {problem}" for problem in problems),
            seconds=10.0,
            worst_seconds=self.timeout,
            notes=tuple(notes),
        )

    def _rules(self) -> list[Rule]:
        namespace = self.namespace
        kinds = {workload.kind for workload in self.workloads}
        rules = [Rule(verb, "pods", "", namespace) for verb in ("list", "watch")]
        rules += [
            Rule(verb, f"{kind}s", "apps", namespace, workload.name if len(self.workloads) == 1 else "")
            for kind in sorted(kinds)
            for workload in self.workloads[:1]
            for verb in ("list", "watch")
        ]
        if "deployment" in kinds:
            rules += [Rule(verb, "replicasets", "apps", namespace) for verb in ("get", "list")]
        if kinds - {"deployment"}:
            rules.append(Rule("list", "controllerrevisions", "apps", namespace))
        if self.options.get("service"):
            rules += service_rules(namespace, str(self.options["service"]), asks=bool(self.options.get("answer")))
        return rules

    # -- recording and changing --------------------------------------------------------------------------------------

    def record(self, into: Any) -> Version:  # noqa: ARG002 - templates are small enough for the checkpoint itself
        """Record the templates, their change-causes, the digests of running images, and what the Service answers."""
        items = self.read(self.workloads)
        reading = self._version(items)
        templates = {str(w): self._named(template_of(item)) for w, item in items.items()}
        said = recorded_answer(self.client, self, self.namespace) if self._settled(reading) else ""
        artefacts = {
            **reading.artefacts,
            "templates": pack_templates(templates),
            "causes": {str(w): notes_of(item).get(CHANGE_CAUSE, "") for w, item in items.items()},
            "digests": self._digests(items) if self._settled(reading) else {},
            "answers": [said] if said else [],
        }
        return Version(reading.identity, reading.text, taken=now(), artefacts=artefacts)

    def _digests(self, items: Objects) -> dict[str, dict[str, list[str]]]:
        """Return which images really run, by digest, for each workload and container: a tag may move later."""
        pods = self.client.list(pods_path(self.namespace))
        found: dict[str, dict[str, list[str]]] = {}
        for workload, item in items.items():
            for pod in pods:
                labels = pod["metadata"].get("labels") or {}
                if not is_ready(pod) or not matches_labels(item["spec"]["selector"], labels):
                    continue
                for status in (pod.get("status") or {}).get("containerStatuses") or []:
                    known = found.setdefault(str(workload), {}).setdefault(status["name"], [])
                    if status.get("imageID") and status["imageID"] not in known:
                        known.append(status["imageID"])
        return found

    def apply(self, target: Version) -> None:
        """Give every workload its template, all at once, and wait until users are served by it."""
        templates = self._templates(target)
        stamp = self._stamp(target)
        strategy = str(self.options.get("strategy") or "undo")
        if strategy == "recreate":
            self._scale_down(target, stamp)
        failpoint("rollback_kubernetes.patch.before")
        items = dict(
            zip(self.workloads, self.client.each(lambda w: self._put(w, templates[w], target, stamp), self.workloads))
        )
        failpoint("rollback_kubernetes.patch.after")
        if not self._settled(target):
            return  # it never was rolled out: going back to it cannot wait for that
        await_rollout(self.client, items, self.timeout)
        failpoint("rollback_kubernetes.rollout.after")
        self._give_back()
        self._serve(target)

    def _known(self, workload: Workload, target: Version) -> Callable[[Mapping[str, Any]], bool]:
        """Return the test whether a workload has a template that the plan knows."""
        sides = [target, *((self.entry.live, self.entry.target) if self.entry else ())]
        known = {side.identity.get(str(workload)) for side in sides}
        return lambda item: self.entry is None or template_hash(self._named(item["spec"]["template"])) in known

    def _is_there(self, workload: Workload, item: Mapping[str, Any], target: Version, stamp: str) -> bool:
        right = template_hash(self._named(item["spec"]["template"])) == target.identity[str(workload)]
        return right and (not stamp or _stamp_of(item) == stamp) and not item["spec"].get("paused")

    def _put(self, workload: Workload, template: Mapping[str, Any], target: Version, stamp: str) -> dict[str, Any]:
        rewritten = getattr(self._config_driver(), "copied_names", None)
        if rewritten:
            template = rewritten(template, target.identity.get(CONFIG) or {})
        cause = dict(target.artefacts.get("causes") or {}).get(str(workload))

        def patch(item: Mapping[str, Any]) -> Patch:
            change = Patch(item)
            kept = held(item)
            if not self._is_there(workload, item, target, stamp):
                change.template(template, stamp=stamp, cause=cause)
                if self.options.get("strategy") == "fast" and workload.kind == "deployment" and not kept:
                    change.surge()
            if "replicas" in kept:
                change.give_back()
            return change

        return self.change(workload.path, str(workload), patch, self._known(workload, target))

    def _scale_down(self, target: Version, stamp: str) -> None:
        """Stop all pods of the old version before one of the new starts; the count is kept by the object itself."""
        items = self.read(self.workloads)
        down = {
            w: item
            for w, item in items.items()
            if not self._is_there(w, item, target, stamp) or "replicas" in held(item)
        }
        if not down:
            return
        failpoint("rollback_kubernetes.scale.before")

        def patch(item: Mapping[str, Any]) -> Patch:
            return Patch(item) if "replicas" in held(item) else Patch(item).scale(0)

        self.client.each(lambda w: self.change(w.path, str(w), patch, self._known(w, target)), list(down))
        failpoint("rollback_kubernetes.scale.after")
        await_gone(self.client, down, self.timeout)

    def _give_back(self) -> None:
        """Bring back what was held for the time of the rollout."""
        waiting = [workload for workload, item in self.read(self.workloads).items() if held(item)]
        if not waiting:
            return
        failpoint("rollback_kubernetes.give_back.before")
        self.client.each(
            lambda w: self.change(w.path, str(w), lambda item: Patch(item).give_back(), lambda _item: True), waiting
        )
        failpoint("rollback_kubernetes.give_back.after")

    # -- what users get ----------------------------------------------------------------------------------------------

    def _serve(self, target: Version) -> None:
        """Wait until users are served by the version, and by no other; check that a tag still is the image it was."""
        self._compare_digests(target)
        service = str(self.options.get("service") or "")
        if not service:
            return
        await_endpoints(self.client, self.namespace, service, self._pods, self.timeout)
        answer = self.options.get("answer")
        if answer:
            expected = [str(one) for one in target.artefacts.get("answers") or []]
            await_answer(self.client, self.namespace, service, answer, expected, self.timeout)

    def _pods(self) -> dict[str, str]:
        """Return the pods that were made from the templates that the workloads ask for now, UID -> name."""
        items = self.read(self.workloads)
        found = {}
        for pod in self.client.list(pods_path(self.namespace)):
            labels = pod["metadata"].get("labels") or {}
            for workload, item in items.items():
                if matches_labels(item["spec"]["selector"], labels) and runs_template(self.client, workload, item, pod):
                    found[pod["metadata"]["uid"]] = pod["metadata"]["name"]
        return found

    def _compare_digests(self, target: Version) -> None:
        """Stop when an image that is named by a tag is no longer the one that ran when the version was recorded.

        :raises StepFailed: a tag was moved.
        """
        recorded = dict(target.artefacts.get("digests") or {})
        if not recorded:
            return
        running = self._digests(self.read(self.workloads))
        for workload, containers in recorded.items():
            for container, known in containers.items():
                strange = [one for one in running.get(workload, {}).get(container, []) if known and one not in known]
                if strange:
                    raise StepFailed(
                        f"{workload}, container {container}: its image's tag has been moved. It runs {strange[0]}, and "
                        f"when this version was recorded it was {known[0]}."
                    )


def _stamp_of(item: Mapping[str, Any]) -> str:
    return str((item["spec"]["template"].get("metadata", {}).get("annotations") or {}).get(STAMP) or "")
