# SPDX-License-Identifier: GPL-3.0-or-later
"""Stopping what runs in Kubernetes and giving it back exactly: what the fence (kube_traffic.py), which does it for the
time of a run, and the shutdown (kube_shutdown.py), which does it until somebody resumes traffic, have in common.

Autoscalers are held before anything is stopped and given back after everything else, so that none of them works against
us. What a thing was stands in an annotation of that very thing (kube_hold.py); what is at 0 already stays there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .component import Driver, Place, Version
from .durable import now
from .errors import StateOther, StepFailed
from .kube_client import Client, KubeError
from .kube_hold import (
    AUTOSCALER,
    CRONJOB,
    FENCE,
    RUNNING,
    SHUTDOWN,
    STOPPED,
    UNKNOWN,
    Thing,
    giving_back,
    set_going,
    stopping,
    stopping_again,
)
from .kube_traffic_parts import (
    Choice,
    choose,
    foreign_fences,
    missing,
    read_things,
    refused_reading,
    remarks,
    service_problems,
)
from .kube_traffic_quiet import await_quiet, await_ready, listed, shortened, still_there

# The status of a workload is written all the time while its pods end: then the object has another resourceVersion.
CONFLICTS = 40
CONFLICT_PAUSE_SECONDS = 0.05
SLACK_SECONDS = 30.0
Operations = list[dict[str, Any]]


@dataclass(frozen=True)
class Around:
    """What is called before and after each single write of a step."""

    before: Callable[[], None]
    after: Callable[[], None]


@dataclass(frozen=True)
class Points:
    """The failpoints of each step; calls name their place in full, so that they can be searched for."""

    hold: Around
    scale: Around
    give_back: Around
    release: Around


class TrafficDriver(Driver):
    """Workloads, CronJobs, autoscalers and a Service of one namespace, which run or are stopped."""

    layer = "application"
    store_kind = "kubernetes"
    points: ClassVar[Points]

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        """Keep options and place."""
        super().__init__(options, place)
        # What somebody else did meanwhile and was left so: shown with what is read back, nothing is decided by it.
        self.found_otherwise: list[str] = []

    @property
    def client(self) -> Client:
        """The connection to the cluster."""
        client: Client = self.place.cluster.client
        return client

    @property
    def choice(self) -> Choice:
        """What the profile chose.

        :raises Refused: its options contradict each other.
        """
        namespace = str(self.options.get("namespace") or self.place.cluster.namespace)
        return choose(self.name, self.options, namespace)

    @property
    def timeout(self) -> float:
        """How long stopping, and getting ready again, may take, in seconds."""
        return float(self.options.get("timeout") or 120)

    # -- reading -----------------------------------------------------------------------------------------------------

    def things(self) -> list[Thing]:
        """Return the component's objects as they are.

        :raises Refused: one is not there, or may not be read.
        """
        return self._read()[0]

    def things_left(self, more: Iterable[str] = ()) -> list[Thing]:
        """Return those of the component's objects that are there, and more of them by name: that one was deleted must
        not keep the others from being given back."""
        return self._read(more, all_there=False)[0]

    def _read(self, more: Iterable[str] = (), *, all_there: bool = True) -> tuple[list[Thing], list[str]]:
        choice = self.choice
        try:
            return read_things(self.client, choice, more, all_there=all_there)
        except KubeError as error:
            raise refused_reading(self.client, choice, error) from error

    def reading(self, things: Sequence[Thing]) -> Version:
        """Return what was read as a version: which things run, and exactly what each is when it does."""
        stopped = [thing for thing in things if thing.stopped and thing.kind.word != AUTOSCALER]
        namespace = self.choice.namespace
        ending = still_there(stopped, namespace, listed(self.client, stopped, namespace)) if stopped else []
        notes = {str(thing): note.reason for thing in things if (note := thing.note)}
        text = shortened([thing.text for thing in things if thing.kind.word != AUTOSCALER]) or "nothing"
        if ending:
            text += f"; {shortened(ending)}"
        if self.found_otherwise:
            text += f"; {'; '.join(self.found_otherwise)}"
        return Version(
            {str(thing): thing.state for thing in things},
            text,
            artefacts={"before": {str(t): t.before for t in things}, "notes": notes, "ending": ending},
        )

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - it is read whole or not at all
        """Read what runs and what is stopped."""
        return self.reading(self.things())

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:  # noqa: ARG002 - nothing is inexact
        """Say whether the same things run. How many pods does not count: an autoscaler changes that all the time. What
        is stopped in the version must have ended, and nothing that runs in it may still be noted as stopped."""
        keys = {*reading.identity, *version.identity}
        if any(word_of(reading, key) != word_of(version, key) for key in keys):
            return False
        if all(word == STOPPED for word in version.identity.values()) and reading.artefacts.get("ending"):
            return False
        notes, known = reading.artefacts.get("notes") or {}, version.artefacts.get("notes") or {}
        noted = [key for key, reason in notes.items() if reason == SHUTDOWN and key not in known]
        return not any(word_of(version, key) == RUNNING for key in noted)

    def record(self, into: Any) -> Version:  # noqa: ARG002 - a few numbers: they are in the artefacts
        """Return what runs now, with exact counts, suspensions and selectors."""
        reading = self.live(exact=True)
        return Version(reading.identity, reading.text, now(), reading.artefacts)

    def findings(self, *, fence: bool) -> tuple[list[str], list[str]]:
        """Return what forbids stopping and giving back, and what an operator should know."""
        things, unknown = self._read()
        problems = (
            missing(self.client, self.choice, things)
            + foreign_fences(things, self.place.run)
            + service_problems(things)
        )
        if not any(thing.kind.word != AUTOSCALER for thing in things):
            problems.append(f"there is nothing to stop in namespace {self.choice.namespace}")
        notes = remarks(things, fence=fence) + [f"except names {text}, which is not there" for text in unknown]
        jobs = [thing for thing in things if thing.kind.word == CRONJOB and not thing.stopped]
        running = (
            still_there(jobs, self.choice.namespace, listed(self.client, jobs, self.choice.namespace)) if jobs else []
        )
        notes += [f"{text}; its end is waited for" for text in running]
        return problems, notes

    # -- changing ----------------------------------------------------------------------------------------------------

    def stop(self, things: Sequence[Thing], reason: str) -> None:
        """Stop all of these things and wait until they have really ended.

        :param reason: FENCE or SHUTDOWN.
        :raises StateOther: one was stopped by this run and set going again by somebody: by a shutdown at once, by a
            fence, which must be closed while data is changed, when that happens while its end is waited for.
        :raises DeadlineExceeded: something has not ended in time; it stays stopped.
        """
        scalers = [thing for thing in things if thing.kind.word == AUTOSCALER]
        others = [thing for thing in things if thing.kind.word != AUTOSCALER]

        def make(thing: Thing) -> Operations:
            note = thing.note
            if note is not None and note.run == self.place.run and not thing.stopped:
                if reason == FENCE:
                    return stopping_again(thing)
                raise set_going(thing)
            return stopping(thing, self.place.run, reason)

        self._each(scalers, make, self.points.hold)
        stopped = self._each(others, make, self.points.scale)
        await_quiet(self.client, stopped, self.choice.namespace, self.timeout)

    def give_back(self, things: Sequence[Thing], before: Mapping[str, Any], waited_for: Sequence[Thing]) -> None:
        """Give things back what they were, wait until they are ready, then let jobs and autoscalers work again.

        :param before: by thing, what it was; where somebody removed the note from it.
        :param waited_for: further things that must be ready.
        :raises StepFailed: not all is ready in time. All of it is given back even then.
        """
        late = [thing for thing in things if thing.kind.word in {AUTOSCALER, CRONJOB}]
        early = [thing for thing in things if thing not in late]
        ready = {str(thing): note.ready for thing in things if (note := thing.note)}

        def give(thing: Thing) -> Operations:
            operations, otherwise = giving_back(thing, before.get(str(thing), UNKNOWN))
            if otherwise and otherwise not in self.found_otherwise:
                self.found_otherwise.append(otherwise)
            return operations

        started = self._each(early, give, self.points.give_back)
        names = {str(thing) for thing in started}
        awaited = started + [thing for thing in waited_for if str(thing) not in names]
        namespace = self.choice.namespace
        absent = await_ready(self.client, awaited, namespace, self.timeout) if awaited else {}
        self._each([thing for thing in late if thing.kind.word == CRONJOB], give, self.points.give_back)
        self._each([thing for thing in late if thing.kind.word == AUTOSCALER], give, self.points.release)
        self._refuse_absent(absent, ready, awaited)

    def _refuse_absent(self, absent: Mapping[str, str], ready: Mapping[str, int], things: Sequence[Thing]) -> None:
        """What was no better before it was stopped is said, and no reason to fail.

        :raises StepFailed: something that was ready before is not ready.
        """
        now_ready = {str(thing): thing.ready for thing in self.things_left(map(str, things))} if absent else {}
        worse = [text for key, text in absent.items() if now_ready.get(key, 0) < ready.get(key, 0)]
        self.found_otherwise += [f"{text}, as before" for text in absent.values() if text not in worse]
        if worse:
            raise StepFailed(
                f"{self.name}: all was given back, but not ready within {self.timeout:g} s: {shortened(worse)}.",
                f"Look at those pods, then: rollbackctl resume {self.place.run}",
            )

    def _each(self, things: Sequence[Thing], make: Callable[[Thing], Operations], around: Around) -> list[Thing]:
        return self.client.each(lambda thing: self._change(thing, make, around), list(things)) if things else []

    def _change(self, thing: Thing, make: Callable[[Thing], Operations], around: Around) -> Thing:
        """Patch one object, decided anew on each version of it that somebody else writes; return it as it is then."""
        for _ in range(CONFLICTS):
            operations = make(thing)
            if not operations:
                return thing
            self.place.cluster.prove()
            around.before()
            try:
                item = self.client.json_patch(thing.path, operations)
            except KubeError as error:
                # 409, 422: written to since it was read, or our patch is wrong. 0: the answer was lost. Read back.
                if error.status not in {0, 409, 422}:
                    raise
                fresh = Thing(thing.kind, self.client.get(thing.path))
                if error.status == 422 and _version_of(fresh) == _version_of(thing):
                    raise
                thing = fresh
            else:
                around.after()
                return Thing(thing.kind, item)
            time.sleep(CONFLICT_PAUSE_SECONDS)
        raise StateOther(f"{thing} is written to all the time by somebody else; it was left as it is.")

    def bring(self, target: Version) -> None:
        """Stop what is stopped in a version and give back what runs in it; idempotent.

        :raises StepFailed: see stop and give_back.
        """
        things = self.things_left(target.identity)
        everything = bool(target.artefacts.get("everything"))  # also what was made since the plan
        stopped = [thing for thing in things if everything or target.identity.get(str(thing)) == STOPPED]
        running = [thing for thing in things if not everything and word_of(target, str(thing)) == RUNNING]
        if not running or not all(thing.stopped for thing in stopped):
            self.stop(stopped, SHUTDOWN)
        back = [thing for thing in running if self._may_give_back(thing)]
        if back:
            before = target.artefacts.get("before") or {}
            self.give_back(back, before, [thing for thing in running if not thing.stopped])

    def _may_give_back(self, thing: Thing) -> bool:
        note = thing.note
        return thing.stopped if note is None else note.reason == SHUTDOWN or note.run == self.place.run


def word_of(version: Version, key: str) -> str:
    """What is not there does not run."""
    return str(version.identity.get(key, STOPPED))


def _version_of(thing: Thing) -> str:
    return str(thing.item["metadata"]["resourceVersion"])
