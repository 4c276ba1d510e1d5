# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting the pod templates of workloads back: a version is the template of each, in full.

A pruned ReplicaSet therefore does not matter, nor what number a revision has by now. Only the template, a paused
rollout and the change-cause that belongs to the template are written; replicas, strategies, labels and annotations of
others are left alone, but for what a strategy needs for the time of one rollout, which the object itself remembers.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .component import BETWEEN, LIVE, OTHER, TARGET, Driver, Entry, Finding, Place, Version
from .durable import digest, now
from .errors import AwaitingSomebody, Refused, StateOther, StepFailed
from .failpoints import failpoint
from .kube_admission import Admission
from .kube_answer import await_answer, recorded_answer
from .kube_await import await_gone, await_rollout
from .kube_difference import compare
from .kube_front import await_served, compare_digests, injected, injected_notes, running_digests, running_pods
from .kube_history import Revision, find, revisions, split_wanted
from .kube_objects import (
    CHANGE_CAUSE,
    STAMP,
    Workload,
    compared,
    notes_of,
    pack_templates,
    recorded_templates,
    template_hash,
    template_of,
    unpack_templates,
)
from .kube_owner import whose
from .kube_patch import Patch, held
from .kube_preflight import targets_text
from .kube_proof import SHOW_HISTORY_OF, Undertaking, prove
from .kube_rollout import settled
from .kube_room import await_with_room
from .kube_way import Objects, WayDriver, is_checkpoint
from .names import name_a_version

CONFIG = "config"
AS_USUAL = "as_usual"


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

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        super().__init__(options, place)
        self._admission: Admission | None = None
        self._seen: dict[str, Mapping[str, Any]] = {}  # templates that were read, by their hashes

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - a template is always exact
        """Read the template of each workload, whether its rollout is over, and the configuration that its pods read."""
        if not self.workloads:
            raise Refused(f"{self.name}: strategy {self.strategy} needs `workloads`, such as [deployment/{self.name}].")
        items = self.look()
        return self._version(items, self._config_read(items))

    def _config_read(self, items: Objects) -> Mapping[str, Any] | None:
        """Return what the pods were started with. Inside a run the objects may hold something else already; the stamp
        says which side of the plan the pods are on."""
        entry = self.entry
        if entry is None or CONFIG not in entry.live.identity or CONFIG not in entry.target.identity:
            return self._config()
        stamp = self._stamp(entry.target)
        new = bool(stamp) and all(_stamp_of(item) == stamp for item in items.values())
        side = entry.target if new else entry.live
        return dict(side.identity[CONFIG])

    def _config(self) -> Mapping[str, Any] | None:
        """Return the configuration that the pods' objects hold now; None when the profile names none."""
        reader = self._config_driver()
        return reader.live(exact=True).identity if reader is not None else None

    def _version(self, items: Objects, config: Mapping[str, Any] | None) -> Version:
        named = {str(workload): self._named(item["spec"]["template"]) for workload, item in items.items()}
        identity: dict[str, Any] = {name: template_hash(template) for name, template in named.items()}
        self._seen.update((identity[name], template) for name, template in named.items())
        if config is not None:
            identity[CONFIG] = dict(config)
        waiting = [str(w) for w, item in items.items() if held(item) or not settled(w.kind, item)]
        text = targets_text({workload: template_of(item) for workload, item in items.items()})
        if waiting:
            text += f"; not rolled out: {', '.join(waiting[:3])}{' and others' if len(waiting) > 3 else ''}"
        return Version(identity, text, artefacts={"settled": not waiting})

    def _named(self, template: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a template with the configuration named as in the profile, whichever copy of it the template reads."""
        reader = self._config_driver()
        original = getattr(reader, "original_names", None)
        return original(template) if original else template

    @property
    def strategy(self) -> str:
        """How the pods are replaced: undo, fast or recreate."""
        return str(self.options.get("strategy") or "undo")

    def _config_driver(self) -> Driver | None:
        return self.siblings.get(str(self.options.get("config") or ""))

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:
        """Say whether the templates (and what the pods read) are those of the version; exact: and rolled out, unless
        the version itself never was."""
        keys = [key for key in {**reading.identity, **version.identity} if key != CONFIG]
        other = [key for key in keys if reading.identity.get(key) != version.identity.get(key)]
        if not all(self._same_but_for_webhooks(key, reading, version) for key in other):
            return False
        return self._reads_alike(reading, version) and (
            not exact or self._settled(reading) or not self._settled(version)
        )

    def _same_but_for_webhooks(self, name: str, reading: Version, version: Version) -> bool:
        """Say whether a workload that reads otherwise than a version differs only in what webhooks write themselves."""
        workload = next((one for one in self.workloads if str(one) == name), None)
        found = self._seen.get(str(reading.identity.get(name)))
        wanted = recorded_templates(version.artefacts).get(name)
        if workload is None or found is None or wanted is None:
            return False
        return self.admission.is_same(workload, wanted, found)

    @property
    def admission(self) -> Admission:
        """What the API server makes of templates."""
        self._admission = self._admission or Admission(self.client)
        return self._admission

    def _reads_alike(self, reading: Version, version: Version) -> bool:
        """Say whether the pods' configuration is that of the version, as far as it knows one."""
        if CONFIG not in reading.identity or CONFIG not in version.identity:
            return True
        found, wanted = (Version(one.identity[CONFIG], "") for one in (reading, version))
        reader = self._config_driver()
        return found.identity == wanted.identity or bool(reader and reader.matches(found, wanted, exact=True))

    @staticmethod
    def _settled(version: Version) -> bool:
        return bool(version.artefacts.get("settled", True))

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - traffic changes no template
        """Read the workloads against the plan, each for itself: some old and some new is half-way, and can go on."""
        self.entry = entry
        items = self.look()
        reading = self._version(items, None)
        stamp = self._stamp(entry.target)
        old, new = [], []
        for workload, item in items.items():
            name = str(workload)
            stamped = not stamp or _stamp_of(item) == stamp
            old.append(reading.identity[name] == entry.live.identity.get(name))
            right = reading.identity[name] == entry.target.identity.get(name)
            if not right and not (old[-1] and entry.action == "change"):
                right = self._same_but_for_webhooks(name, reading, entry.target)
            new.append(right and stamped)
        rolled = self._settled(reading) or not self._settled(entry.target)
        if all(new) and rolled:
            return TARGET, reading
        holding = any(held(item) for item in items.values())
        if all(old) and not holding and not (stamp and any(new)):
            return LIVE, reading
        return (BETWEEN if all(a or b for a, b in zip(old, new)) else OTHER), reading

    def strangers(self, entry: Entry) -> str:
        """Return who wrote what differs from the target in the workloads' templates."""
        wanted, said = recorded_templates(entry.target.artefacts), []
        for workload, item in self.recent().items():
            found = compared(self._named(template_of(item)))
            by = whose(item, compare(compared(wanted.get(str(workload), found)), found))
            said += [f"{workload}: {by}"] if by else []
        return f" Somebody else wrote it after that: {'; '.join(said)}." if said else ""

    def _stamp(self, target: Version) -> str:
        """Return what the pods' templates are stamped with when what they read changes: something new for each run and
        target, so that a stamp of an earlier rollback proves nothing."""
        entry = self.entry
        if entry is None or CONFIG not in target.identity or CONFIG not in entry.live.identity:
            return ""
        if self._reads_alike(entry.live, entry.target):
            return ""
        return digest([self.place.run, dict(target.identity)])[:16]

    # -- finding the target ------------------------------------------------------------------------------------------

    def resolve(self, want: Version | str) -> Version:
        """Return the templates to go back to: those of a checkpoint, or those that a person named."""
        if isinstance(want, Version):
            missing = [str(workload) for workload in self.workloads if str(workload) not in want.identity]
            if missing:
                raise Refused(
                    f"{self.name}: {', '.join(missing)} did not belong to this component yet when {want.text} was "
                    "recorded. Name a version of each workload with rollback_to, or choose another checkpoint."
                )
            self._templates(want)
            return want
        items = self.read(self.workloads)
        histories = self.histories(items)
        try:
            wanted = split_wanted(want, [str(workload) for workload in self.workloads])
            found = {
                workload: find(str(workload), item, histories[workload], wanted[str(workload)])
                for workload, item in items.items()
            }
        except Refused as error:
            hint = name_a_version(self.name, "revision:NUMBER")
            raise Refused(f"{self.name}: {error.message}", f"Name another one: {hint}") from error
        templates = {str(workload): template for workload, (template, _) in found.items()}
        identity = {name: template_hash(self._named(template)) for name, template in templates.items()}
        causes = {str(workload): cause for workload, (_, cause) in found.items()}
        artefacts = {"templates": pack_templates(templates), "causes": causes}
        by_workload = {workload: template for workload, (template, _) in found.items()}
        return Version(identity, targets_text(by_workload), artefacts=artefacts)

    def histories(self, items: Objects) -> dict[Workload, list[Revision]]:
        """Return the history of each workload, newest first."""
        base = f"/apis/apps/v1/namespaces/{self.namespace}"
        kinds = {workload.kind for workload in items}
        sets = self.client.list(f"{base}/replicasets") if "deployment" in kinds else []
        records = self.client.list(f"{base}/controllerrevisions") if kinds - {"deployment"} else []
        return {w: revisions(item, sets if w.kind == "deployment" else records) for w, item in items.items()}

    def choices(self) -> Sequence[str]:
        """Return each workload's history."""
        known = self.histories(self.members())
        return [f"{workload} {revision}" for workload, history in known.items() for revision in history]

    def _templates(self, version: Version) -> dict[Workload, dict[str, Any]]:
        """Return the templates of a version.

        :raises StepFailed: they are not what their hashes say.
        """
        try:
            templates = unpack_templates(str(version.artefacts["templates"]))
        except (KeyError, OSError, EOFError, ValueError, zlib.error) as error:
            raise StepFailed(f"{self.name}: the recorded templates are damaged ({error}).") from error
        hashes = {name: template_hash(self._named(template)) for name, template in templates.items()}
        wrong = [name for name, fingerprint in hashes.items() if fingerprint != version.identity.get(name)]
        missing = [str(workload) for workload in self.workloads if str(workload) not in templates]
        if wrong or missing:
            raise StepFailed(
                f"{self.name}: the recorded templates of {', '.join(wrong + missing)} are damaged or missing."
            )
        return {workload: templates[str(workload)] for workload in self.workloads}

    # -- proving that it can work ------------------------------------------------------------------------------------

    def check(self, live: Version, target: Version) -> Finding:
        """Name everything that forbids it: rights, owners, strategies, quotas, images, what the API server refuses."""
        items = self.recent()
        templates = self._templates(target)
        changing = {
            w: item
            for w, item in items.items()
            if live.identity[str(w)] != target.identity[str(w)]
            or CONFIG in target.identity
            or held(item)
            or item["spec"].get("paused")
        }
        trial = {w: self._change_of(w, item, templates[w], target, "").operations for w, item in changing.items()}
        anew, starts = not self._reads_alike(live, target), self._settled(target)
        task = Undertaking(self, items, {w: templates[w] for w in changing}, trial, anew, starts)
        proof = prove(task, self.admission, lambda: self.histories(items))
        problems = tuple(f"{self.name}: {problem}" for problem in proof.problems)
        facts = {AS_USUAL: [str(workload) for workload in proof.as_usual]}
        notes = (*proof.notes, *injected_notes(target.artefacts.get("injected") or {}))
        # The driver's own deadline comes first: it can say what it waited for.
        return Finding(problems, seconds=10.0, worst_seconds=self.timeout + 20, notes=notes, facts=facts)

    # -- recording and changing --------------------------------------------------------------------------------------

    def record(self, into: Any) -> Version:
        """Record the templates and their change-causes; for a checkpoint also the digests of the running images and
        what the Service answers, so that it can be proven later that just this version is back.

        :raises Refused: (checkpoint) a rollout is under way, or the Service tells no version.
        """
        items = self.recent()
        # Inside a run the configuration has been put back already: what the pods still run with is what the plan saw.
        config = self.entry.live.identity.get(CONFIG) if self.entry and not is_checkpoint(into) else self._config()
        reading = self._version(items, config)
        artefacts: dict[str, Any] = {
            **reading.artefacts,
            "templates": pack_templates({str(w): self._named(template_of(item)) for w, item in items.items()}),
            "causes": {str(w): notes_of(item).get(CHANGE_CAUSE, "") for w, item in items.items()},
        }
        if not is_checkpoint(into):
            artefacts["paused"] = [str(w) for w, item in items.items() if item["spec"].get("paused")]
            artefacts["kept"] = True
            return Version(reading.identity, reading.text, taken=now(), artefacts=artefacts)
        if not self._settled(reading):
            raise Refused(
                f"{self.name}: {reading.text}. A checkpoint is taken of what runs, not of what is on its way: wait "
                "until the rollout has ended."
            )
        said = recorded_answer(self.client, self, self.namespace)
        pods = running_pods(self.client, self.namespace, items)
        artefacts["digests"] = running_digests(items, pods)
        artefacts["injected"] = injected(items, pods)
        artefacts["answers"] = [said] if said else []
        return Version(reading.identity, reading.text, taken=now(), artefacts=artefacts)

    def apply(self, target: Version) -> None:
        """Give every workload its template, all at once, and wait until users are served by it."""
        self._ends = time.monotonic() + self.timeout
        templates = self._templates(target)
        stamp = self._stamp(target)
        before = self.recent()
        if self.strategy == "recreate":
            self._scale_down(target, stamp)
            before = {}
        failpoint("rollback_kubernetes.patch.before")

        def put(workload: Workload) -> dict[str, Any]:
            return self._put(workload, templates[workload], target, stamp, before.get(workload))

        items = dict(zip(self.workloads, self.client.each(put, self.workloads)))
        failpoint("rollback_kubernetes.patch.after")
        if not self._settled(target):
            return  # it never was rolled out: going back to it cannot wait for that
        try:
            await_with_room(self, items, lambda: self._left)
        except (AwaitingSomebody, StateOther):
            raise
        except StepFailed as error:
            raise type(error)(error.message + self._other_versions(items, target), error.next_step) from error
        failpoint("rollback_kubernetes.rollout.after")
        self._give_back(target)
        self._serve(target)

    @property
    def _left(self) -> float:
        """How much of the time for one change is left, in seconds."""
        return max(0.0, self._ends - time.monotonic())

    def _other_versions(self, items: Objects, target: Version) -> str:
        """Return what else could be gone back to, for a message."""
        if len(items) > SHOW_HISTORY_OF:
            return ""
        tried = {side.identity.get(str(w)) for w in items for side in (target, *self._plan_sides)}
        found = [
            f"{workload}={revision}"
            for workload, history in self.histories(items).items()
            for revision in history
            if revision.hash not in tried
        ]
        return f" Other versions for rollback_to: {'; '.join(found)}." if found else ""

    def _known(self, workload: Workload, target: Version) -> Callable[[Mapping[str, Any]], bool]:
        """Return the test whether a workload has a template that the plan knows."""
        sides = (target, *self._plan_sides)
        return lambda item: self.entry is None or any(self._is_version(workload, item, side) for side in sides)

    def _is_version(self, workload: Workload, item: Mapping[str, Any], version: Version) -> bool:
        """Say whether a workload's template is that of a version, but for what webhooks write themselves."""
        name, template = str(workload), self._named(item["spec"]["template"])
        found, wanted = template_hash(template), recorded_templates(version.artefacts).get(name)
        planned = [side.identity.get(name) for side in self._plan_sides]
        if found == version.identity.get(name) or found in planned or not planned or wanted is None:
            return bool(found == version.identity.get(name))
        return self.admission.is_same(workload, wanted, template)

    @property
    def _plan_sides(self) -> tuple[Version, ...]:
        return (self.entry.live, self.entry.target) if self.entry else ()

    def _stands_still(self, workload: Workload, target: Version) -> bool:
        """Say whether a workload's rollout is to be paused again: so it was before the run, half-way."""
        return not self._settled(target) and str(workload) in (target.artefacts.get("paused") or ())

    def _is_there(self, workload: Workload, item: Mapping[str, Any], target: Version, stamp: str) -> bool:
        moves_as_wanted = bool(item["spec"].get("paused")) == self._stands_still(workload, target)
        stamped = not stamp or _stamp_of(item) == stamp
        return moves_as_wanted and stamped and self._is_version(workload, item, target)

    def _put(
        self,
        workload: Workload,
        template: Mapping[str, Any],
        target: Version,
        stamp: str,
        before: dict[str, Any] | None,
    ) -> dict[str, Any]:
        rewritten = getattr(self._config_driver(), "copied_names", None)
        if rewritten and CONFIG in target.identity:
            template = rewritten(template, target.identity[CONFIG])
        return self.change(
            workload.path,
            str(workload),
            lambda item: self._change_of(workload, item, template, target, stamp),
            self._known(workload, target),
            before,
        )

    def _change_of(
        self, workload: Workload, item: Mapping[str, Any], template: Mapping[str, Any], target: Version, stamp: str
    ) -> Patch:
        """Return the patch that brings a workload, as it was read, to the target."""
        change, kept = Patch(item), held(item)
        if not self._is_there(workload, item, target, stamp):
            cause = dict(target.artefacts.get("causes") or {}).get(str(workload))
            change.template(template, stamp=stamp, cause=cause).paused(wanted=self._stands_still(workload, target))
            if self._settled(target) and not kept and self._starts_at_once(workload, item):
                change.surge()
        if "replicas" in kept or (kept and not self._settled(target)):
            change.give_back()
        return change

    def _starts_at_once(self, workload: Workload, item: Mapping[str, Any]) -> bool:
        """Say whether all new pods may start beside the old ones: not where a quota, or the workload itself, forbids
        it."""
        usual = self.entry.finding.facts.get(AS_USUAL, ()) if self.entry else ()
        alone = (item["spec"].get("strategy") or {}).get("type") == "Recreate"
        return self.strategy == "fast" and workload.kind == "deployment" and not alone and str(workload) not in usual

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
        await_gone(self.client, down, self._left)

    def _give_back(self, target: Version) -> None:
        """Bring back what was held for the time of the rollout, and a pause that a whole version had."""
        paused = target.artefacts.get("paused") or ()

        def patch(workload: Workload, item: Mapping[str, Any]) -> Patch:
            change = Patch(item).give_back() if held(item) else Patch(item)
            return change.paused(wanted=True) if str(workload) in paused else change

        waiting = [w for w, item in self.read(self.workloads).items() if patch(w, item).operations]
        if not waiting:
            return
        failpoint("rollback_kubernetes.give_back.before")
        given = self.client.each(
            lambda w: self.change(w.path, str(w), lambda item: patch(w, item), lambda _item: True), waiting
        )
        failpoint("rollback_kubernetes.give_back.after")
        # Another strategy is another generation: until its controller has seen that, the rollout does not read as over.
        unseen = {w: item for w, item in zip(waiting, given) if str(w) not in paused}
        if unseen:
            await_rollout(self.client, unseen, self._left)

    # -- what users get ----------------------------------------------------------------------------------------------

    def _serve(self, target: Version) -> None:
        """Wait until users are served by the version, and by no other; check that a tag still is the image it was."""
        items = self.read(self.workloads)
        recorded = dict(target.artefacts.get("digests") or {})
        if recorded:
            compare_digests(recorded, items, running_pods(self.client, self.namespace, items))
        service, answer = str(self.options.get("service") or ""), self.options.get("answer")
        stopped = all(item["spec"].get("replicas") == 0 for item in items.values())
        if not service or stopped:
            return
        await_served(self.client, self.namespace, service, items, self._left)
        if answer and not target.artefacts.get("kept"):  # what a run takes back to may have been broken
            expected = [str(one) for one in target.artefacts.get("answers") or []]
            await_answer(self.client, self.namespace, service, answer, expected, self._left)


def _stamp_of(item: Mapping[str, Any]) -> str:
    return str((item["spec"]["template"].get("metadata", {}).get("annotations") or {}).get(STAMP) or "")
