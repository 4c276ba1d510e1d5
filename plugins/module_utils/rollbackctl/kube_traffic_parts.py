# SPDX-License-Identifier: GPL-3.0-or-later
"""What a component of stop_kubernetes or shutdown_kubernetes is made of, what that needs, and what is odd about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Refused
from .kube_client import Client, KubeError, Rule
from .kube_hold import AUTOSCALER, CRONJOB, FENCE, KINDS, SERVICE, WORKLOADS, Kind, Thing
from .kube_objects import parse_workload
from .kube_owner import gitops_owner
from .kube_preflight import missing_rights
from .kube_traffic_quiet import shortened

BY_SCALE, BY_SERVICE = "scale", "service"


@dataclass(frozen=True)
class Choice:
    """What the profile chose. names: kind -> names; everything: all workloads (and jobs) of the namespace but `but`."""

    namespace: str
    names: Mapping[str, tuple[str, ...]]
    everything: bool = False
    every_cronjob: bool = False
    but: tuple[str, ...] = ()
    by: str = BY_SCALE

    @property
    def kinds(self) -> list[Kind]:
        """The kinds that have to be read, autoscalers left out."""
        words = {word for word, names in self.names.items() if names}
        words |= set(WORKLOADS) if self.everything else set()
        words |= {CRONJOB} if self.every_cronjob else set()
        return [kind for word, kind in KINDS.items() if word in words]


def choose(name: str, options: Mapping[str, Any], namespace: str) -> Choice:
    """Return what a component's options choose.

    :raises Refused: they contradict each other; all of it is said at once.
    """
    by, everything = str(options.get("by") or BY_SCALE), bool(options.get("all"))
    named = [str(text) for text in options.get("workloads") or []]
    jobs, but = options.get("cronjobs"), tuple(str(text) for text in options.get("except") or [])
    wrong = []
    if by == BY_SCALE and everything == bool(named):
        wrong.append("name its workloads, or say all: true; one of the two")
    if by == BY_SERVICE and (everything or named):
        wrong.append("by: service stops no workload; leave out workloads and all")
    if (by == BY_SERVICE) != bool(options.get("service")):
        wrong.append("service belongs to by: service, and is needed there")
    if but and not everything:
        wrong.append("except belongs to all: true")
    names: dict[str, tuple[str, ...]] = {}
    for text in named:
        try:
            workload = parse_workload(text, namespace)
        except Refused as error:
            wrong.append(error.message)
            continue
        if workload.kind not in WORKLOADS:
            wrong.append(f"{text} has no replica count, so it cannot be stopped")
        names[workload.kind] = (*names.get(workload.kind, ()), workload.name)
    if wrong:
        raise Refused(f"{name}: {'; '.join(wrong)}. Nothing was changed.")
    names[CRONJOB] = tuple(str(job) for job in jobs or [])
    names[SERVICE] = (str(options["service"]),) if by == BY_SERVICE else ()
    return Choice(namespace, names, everything, everything and jobs is None, but, by)


def read_things(
    client: Client, choice: Choice, more: Iterable[str] = (), *, all_there: bool = True
) -> tuple[list[Thing], list[str]]:
    """Return the chosen objects as they are, sorted, with the autoscalers of the workloads among them; and which names
    of `except` there is nothing of. Those are said, and no reason to refuse: what is stopped too much is given back.

    :param more: further ones by their text (deployment/api), left out where they are no longer there.
    :param all_there: whether each one that the profile names has to be there.
    :raises Refused: one is not.
    """
    namespace = choice.namespace
    extra: dict[str, set[str]] = {}
    for text in more:
        word, _, name = text.partition("/")
        extra.setdefault(word, set()).add(name)
    kinds = {*choice.kinds, *(KINDS[word] for word in extra)}
    if choice.by == BY_SCALE:
        kinds.add(KINDS[AUTOSCALER])
    order = [kind for kind in KINDS.values() if kind in kinds]
    # Several of a kind cost one request this way, and what is missing can be told from what there is.
    found = dict(zip(order, client.each(lambda kind: client.list(kind.collection(namespace)), order)))
    missing, chosen = [], []
    for kind in order:
        items = {str(item["metadata"]["name"]): Thing(kind, item) for item in found[kind]}
        named = choice.names.get(kind.word, ())
        missing += [_unknown(f"{kind.word}/{name}", items.values()) for name in named if name not in items]
        every = choice.every_cronjob if kind.word == CRONJOB else choice.everything and kind.word in WORKLOADS
        wanted = set(named) | extra.get(kind.word, set()) | (set(items) if every else set())
        chosen += [thing for name, thing in items.items() if name in wanted and not _left_out(thing, choice)]
    known = {str(item["metadata"]["name"]) for items in found.values() for item in items}
    known |= {f"{kind.word}/{item['metadata']['name']}" for kind, items in found.items() for item in items}
    if missing and all_there:
        raise Refused(f"Namespace {namespace}: {'; '.join(missing)}. Nothing was changed.")
    stopped = {str(thing) for thing in chosen if thing.kind.word in WORKLOADS}
    scalers = [Thing(KINDS[AUTOSCALER], item) for item in found.get(KINDS[AUTOSCALER], [])]
    chosen += [one for one in scalers if scaled_by(one) in stopped and one not in chosen]
    return sorted(chosen, key=str), [text for text in choice.but if text not in known]


def _left_out(thing: Thing, choice: Choice) -> bool:
    return thing.name in choice.but or str(thing) in choice.but


def _unknown(text: str, known: Iterable[Thing]) -> str:
    listed = shortened(sorted(map(str, known))) or "none"
    return f"{text} does not exist (there are: {listed})"


def scaled_by(scaler: Thing) -> str:
    """Return the workload that an autoscaler scales, as text."""
    target = scaler.item["spec"].get("scaleTargetRef") or {}
    return f"{str(target.get('kind') or '').lower()}/{target.get('name')}"


# -- rights ------------------------------------------------------------------------------------------------------------


def missing(client: Client, choice: Choice, things: Iterable[Thing]) -> list[str]:
    """Return a sentence for each right that is lacking: to read, to wait, to change these things."""
    namespace = choice.namespace
    general = [Rule("list", kind.resource, kind.group, namespace) for kind in choice.kinds]
    watched = [("", "pods"), ("apps", "replicasets")] if choice.by == BY_SCALE else []
    watched += [(kind.group, kind.resource) for kind in choice.kinds if kind.word in WORKLOADS]
    watched += [("batch", "jobs")] if KINDS[CRONJOB] in choice.kinds else []
    if choice.by == BY_SERVICE:
        watched.append(("discovery.k8s.io", "endpointslices"))
    else:
        general.append(Rule("list", KINDS[AUTOSCALER].resource, KINDS[AUTOSCALER].group, namespace))
    general += [Rule(verb, resource, group, namespace) for group, resource in watched for verb in ("list", "watch")]
    named = [
        Rule(verb, thing.kind.resource, thing.kind.group, namespace, thing.name)
        for thing in things
        for verb in ("get", "patch")
    ]
    return missing_rights(client, list(dict.fromkeys(general)), named)


def refused_reading(client: Client, choice: Choice, error: KubeError) -> Refused | KubeError:
    """Return what to say when reading was not allowed: every right that is lacking, not only the first."""
    if error.status != 403:
        return error
    lacking = missing(client, choice, ())
    return Refused(f"{'; '.join(lacking)}. Nothing was changed.", error.next_step) if lacking else error


# -- what an operator should know --------------------------------------------------------------------------------------


def remarks(things: Sequence[Thing], *, fence: bool) -> list[str]:
    """Return what may work against stopping these things, or goes on all the same."""
    found = []
    for thing in things:
        owner = gitops_owner(thing.item)
        if owner:
            found.append(f"{thing} is managed by {owner}, which may set it going again: pause its sync meanwhile")
        if thing.kind.word == AUTOSCALER:
            owners = [
                one for one in thing.item["metadata"].get("ownerReferences") or [] if one["kind"] == "ScaledObject"
            ]
            found += [
                f"{thing} belongs to KEDA's {one['name']}, which may set it going again: pause it" for one in owners
            ]
        wanted = int(thing.value or 0) if thing.kind.word in WORKLOADS else 0
        if thing.ready < wanted:
            found.append(f"{thing} has {thing.ready} of {wanted} pods ready now")
        if thing.kind.word == SERVICE and fence:
            found.append(
                f"{thing} lets no new connection through while it is closed; pods and open connections go on, so what "
                "writes by itself still writes (by: scale stops that)"
            )
    return found


def foreign_fences(things: Iterable[Thing], run: str) -> list[str]:
    """Return a sentence for each thing that another run's closed fence holds."""
    held = [(thing, note) for thing in things if (note := thing.note) and note.reason == FENCE and note.run != run]
    return [
        f"{thing} is stopped by the fence of run {note.run}, which has not opened it again; type: rollbackctl resume "
        f"{note.run}"
        for thing, note in held
        if thing.stopped
    ]


def service_problems(things: Iterable[Thing]) -> list[str]:
    """Return why a Service cannot be closed by its selector."""
    return [
        f"{thing} has no selector, so it cannot be closed by one"
        for thing in things
        if thing.kind.word == SERVICE and not thing.value
    ]
