# SPDX-License-Identifier: GPL-3.0-or-later
"""Proving, before anything is changed, that templates can be put back: everything that forbids it, all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .component import Driver
from .errors import RollbackError
from .kube_admission import Admission, Operations, Verdict, own_text
from .kube_answer import service_rules
from .kube_applied import kept_by_apply
from .kube_client import Client, Rule
from .kube_difference import compare
from .kube_front import service_problem
from .kube_history import Revision
from .kube_needs import Thing, look
from .kube_objects import Workload, cleaned, compared, differences, images, template_hash, template_of
from .kube_owner import owner_problem
from .kube_preflight import image_findings, missing_rights, strategy_problem, workload_rules
from .kube_quota import Standing, quota_problems, quotas_of, rolled_out
from .kube_security import forbidden
from .kube_way import Objects, WayDriver

SHOW_HISTORY_OF = 3
SHOWN_REVISIONS = 8
# Of more workloads than this only some are tried out, and those whose template is not in their history: the others' was
# taken before. What is found there (a policy, a webhook) is looked for in all.
TRY_ALL, TRY_SOME = 10, 3
Templates = Mapping[Workload, Mapping[str, Any]]
Histories = Mapping[Workload, Sequence[Revision]]


@dataclass
class Proof:
    """What was found. as_usual: workloads that have to be rolled out by their own strategy, although `fast` is set."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    as_usual: list[Workload] = field(default_factory=list)

    def add(self, other: Proof) -> None:
        """Take in what was found elsewhere."""
        self.problems += other.problems
        self.notes += other.notes
        self.as_usual += other.as_usual


@dataclass(frozen=True)
class Undertaking:
    """What is to be done: the component's workloads as they are, the templates of those that change, and what would be
    sent for each of these.

    anew: all pods are made anew, also those of the template. starts: the version was rolled out when it was recorded;
    what an undo goes forward to may never have been, and then nothing waits for its pods.
    """

    driver: WayDriver
    items: Objects
    templates: Templates
    trial: Mapping[Workload, Operations]
    anew: bool
    starts: bool

    @property
    def client(self) -> Client:
        """The connection to the cluster."""
        return self.driver.client

    @property
    def strategy(self) -> str:
        """How the pods are replaced: undo, fast or recreate."""
        return str(self.driver.options.get("strategy") or "undo")

    @cached_property
    def standing(self) -> Standing:
        """The pods that are there."""
        return Standing(self.client, self.driver.namespace, self.items)


def prove(task: Undertaking, admission: Admission, read_histories: Callable[[], Histories]) -> Proof:
    """Find out what forbids giving workloads other templates. Questions that do not wait for another's answer are asked
    at once."""
    proof, driver, items = Proof(), task.driver, task.items
    proof.problems += [text for workload, item in items.items() if (text := strategy_problem(workload, item))]
    gitops = str(driver.options.get("gitops") or "")
    for workload, item in ((w, items[w]) for w in task.templates):
        changes = list(compare(compared(item["spec"]["template"]), compared(task.templates[workload])))
        if owned := owner_problem(str(workload), item, gitops, changes):
            proof.problems.append(owned)
        if item["spec"].get("paused"):
            proof.notes.append(f"the rollout of {workload} is paused; it goes on with the same change")
        if task.strategy == "recreate" and workload.kind == "daemonset":
            proof.problems.append(f"{workload} cannot be scaled to 0; use the strategy undo for it")
        if task.strategy == "fast" and (item["spec"].get("strategy") or {}).get("type") == "Recreate":
            proof.notes.append(f"{workload} never runs two versions at once (strategy Recreate); that stays so")
    lacking: list[str] = []
    histories: dict[Workload, Sequence[Revision]] = {}
    room, pulls, needs = Proof(), Proof(), Proof()
    questions: list[Callable[[], None]] = [
        lambda: lacking.extend(missing_rights(task.client, _rules(driver, items), workload_rules(items, "patch"))),
        lambda: histories.update(read_histories()),
        lambda: _quota(task, room),
        lambda: _images(task.client, task.templates, pulls),
        lambda: _needs(task, needs),
    ]
    task.client.each(lambda ask: ask(), questions)
    proof.problems += lacking
    if not lacking:
        proof.problems += _service(driver, items)
        _try(task, admission, histories, proof)
    for found in (room, needs):
        proof.add(found if task.starts else Proof([], [*found.problems, *found.notes], found.as_usual))
    proof.add(pulls)
    if len(items) <= SHOW_HISTORY_OF:
        proof.notes += _same_images(items, task.templates)
        proof.notes += [
            text for w, template in task.templates.items() if (text := kept_by_apply(w, items[w], template))
        ]
        proof.notes += [
            f"history of {workload}: {'; '.join(str(one) for one in history[:SHOWN_REVISIONS]) or 'none'}"
            for workload, history in histories.items()
        ]
    return proof


def _same_images(items: Objects, templates: Templates) -> list[str]:
    """Say what changes where the versions read alike, being named by their images; values may be secret."""
    pairs = {w: (template_of(items[w]), cleaned(template)) for w, template in templates.items()}
    return [
        f"{w} keeps its images; what changes: {', '.join(found[:5])}"
        for w, (live, target) in pairs.items()
        if images(live) == images(target) and (found := differences(live, target))
    ]


def _rules(driver: WayDriver, items: Objects) -> list[Rule]:
    """Return the rights that a run needs, apart from the one to patch the workloads."""
    namespace, kinds = driver.namespace, {workload.kind for workload in items}
    rules = [Rule(verb, "pods", "", namespace) for verb in ("list", "watch")]
    name = next(iter(items)).name if len(items) == 1 else ""
    rules += [
        Rule(verb, f"{kind}s", "apps", namespace, name) for kind in sorted(kinds) for verb in ("get", "list", "watch")
    ]
    for needed, word in (("deployment" in kinds, "replicasets"), (kinds - {"deployment"}, "controllerrevisions")):
        if needed:
            rules += [Rule(verb, word, "apps", namespace) for verb in ("get", "list")]
    if driver.options.get("service"):
        rules += service_rules(namespace, str(driver.options["service"]), driver.options.get("answer"))
    return rules


def _service(driver: WayDriver, items: Objects) -> list[str]:
    """Return why the Service could not be proven to serve the version."""
    service = str(driver.options.get("service") or "")
    if not service:
        return []
    others: dict[Workload, dict[str, Any]] = {}
    for sibling in driver.siblings.values():
        others.update(_members(sibling, driver))
    problem = service_problem(driver.client, driver.namespace, service, items, others)
    return [problem] if problem else []


def _members(sibling: Driver, driver: WayDriver) -> Mapping[Workload, dict[str, Any]]:
    """Return the workloads of another component, if it has any here; what is wrong with them is for it to say."""
    way = getattr(sibling, "way", None)
    if way is None or way is driver or way.namespace != driver.namespace:
        return {}
    try:
        found: Mapping[Workload, dict[str, Any]] = way.members()
    except RollbackError:
        return {}
    return found


def _quota(task: Undertaking, proof: Proof) -> None:
    """Say what quotas do not let in. A surge that is too large for them gives way to the workloads' own strategies."""
    counted = {w: template for w, template in task.templates.items() if rolled_out(w)}
    quotas = quotas_of(task.client, task.driver.namespace) if counted else []
    if not quotas:
        return
    leaving = task.standing.leaving()

    def problems(way: str) -> list[str]:
        crowds = [task.standing.crowd(w, template, way=way, anew=task.anew) for w, template in counted.items()]
        return quota_problems(quotas, crowds, leaving, at_once=way == "fast")

    found = problems(task.strategy)
    if found and task.strategy == "fast":
        proof.as_usual += [workload for workload in counted if workload.kind == "deployment"]
        proof.notes += [f"{problem}: the pods start by the workloads' own strategies" for problem in found]
        found = problems("undo")
    proof.problems += found


def _needs(task: Undertaking, proof: Proof) -> None:
    """Say what is not there that pods need to start. Where all pods of the version are there, none is made."""
    brought = {
        Thing(ref.kind, ref.name)
        for sibling in task.driver.siblings.values()
        if getattr(sibling, "namespace", "") == task.driver.namespace
        for ref in getattr(sibling, "refs", ())
    }
    found = look(task.client, task.driver.namespace, task.templates, brought)
    proof.notes += found.notes
    for workload, texts in found.wrong.items():
        said = f"{workload}: the version that is gone back to needs {'; and '.join(texts)}"
        if task.strategy != "recreate" and not _makes_pods(task, workload):
            proof.notes.append(f"{said}. Its pods run and none is made now, but one that is restarted would not start")
        else:
            proof.problems.append(
                f"{said}: its pods could not start. Bring it back first (level 2 does, where the profile has it in "
                "restore_kubernetes_config), or choose another version"
            )


def _makes_pods(task: Undertaking, workload: Workload) -> bool:
    """Say whether pods of the version have to be made, as far as it can be told from those that are there."""
    if not rolled_out(workload):
        return True
    return task.standing.crowd(workload, task.templates[workload], way=task.strategy, anew=task.anew).missing > 0


def _images(client: Client, templates: Templates, proof: Proof) -> None:
    """Say which images no node has."""
    wrong, said = image_findings(client, templates)
    proof.problems += wrong
    proof.notes += said


def _try(task: Undertaking, admission: Admission, histories: Histories, proof: Proof) -> None:
    """Let the API server, and every policy that it asks, judge the changes without making them."""
    sent = {w: operations[1:] for w, operations in task.trial.items() if operations}  # without the test of the version

    def attempt(workload: Workload) -> Verdict:
        return admission.verdict(workload, task.templates[workload], sent[workload])

    chosen = [*sent]
    if len(sent) > TRY_ALL:
        known = {w: {revision.hash for revision in histories[w]} for w in sent}
        new = [w for w in sent if template_hash(task.templates[w]) not in known[w]]
        chosen = [*dict.fromkeys([*new, *chosen[:TRY_SOME]])]
    found = dict(zip(chosen, task.client.each(attempt, chosen)))
    if not all(verdict.silent for verdict in found.values()):
        rest = [w for w in sent if w not in found]
        found.update(zip(rest, task.client.each(attempt, rest)))
    for workload, verdict in found.items():
        _judge(workload, verdict, proof)
    warned = {w: verdict.warnings for w, verdict in found.items() if verdict.warnings}
    if warned:
        problems, notes = forbidden(task.client, task.driver.namespace, warned, stops=task.strategy == "recreate")
        (proof.problems if task.starts else proof.notes).extend(problems)
        proof.notes += notes


def _judge(workload: Workload, verdict: Verdict, proof: Proof) -> None:
    error = verdict.error
    if error is not None and "does not support dry run" in error.message:
        proof.notes.append(f"{workload}: a webhook cannot be tried out, so what it says is not known yet")
    elif error is not None:
        proof.problems.append(f"the API server would refuse it: {error.message}")
    elif verdict.changed:
        proof.problems.append(
            f"{workload}: the API server would make something else of the version that is gone back to (it differs "
            f"in {', '.join(verdict.changed[:5])}): a policy or a newer Kubernetes changes templates. Name the version "
            "with rollback_to, as image:REFERENCE"
        )
    elif verdict.own:
        proof.notes.append(
            f"{workload}: a webhook or the API server writes {own_text(verdict)} by itself, whatever is sent: that is "
            "no part of the version, and is as it is written today"
        )
