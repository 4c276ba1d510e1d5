# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a whole service back against its plan: is it wholly old, wholly new, or neither?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .component import BETWEEN, LIVE, OTHER, TARGET, Driver, Entry, Place, Version, is_fence
from .errors import RollbackError
from .journal import written_since_applied, written_since_kept
from .plan import Plan
from .store import Store

# What users write to: it is kept while nobody writes, and what differs from that was written since.
CAPTURED_LAYERS = ("schema", "data")
# What cannot be read may be readable a moment later, and a rollout that was begun may be about to end.
SECOND_LOOKS = 5
PAUSE_SECONDS = 0.5
CLUSTER_PAUSE_SECONDS = 1.5
OLD, NEW, NEITHER, STRANGE = "wholly old", "wholly new", "neither old nor new", "changed by somebody else"


@dataclass(frozen=True)
class Component:
    """One component as it reads now. state: live, target, between, other, or unread."""

    name: str
    state: str
    text: str


@dataclass(frozen=True)
class Picture:
    """A service as it reads now."""

    components: tuple[Component, ...]

    @property
    def word(self) -> str:
        """Return OLD, NEW, NEITHER or STRANGE. A service without changing components is both; NEW is said."""
        states = {component.state for component in self.components}
        if states <= {TARGET}:
            return NEW
        if states <= {LIVE}:
            return OLD
        return NEITHER if states <= {TARGET, LIVE, BETWEEN} else STRANGE

    @property
    def strange(self) -> bool:
        """Say whether somebody else changed a component for sure: what cannot be read may be as it was."""
        return any(component.state == OTHER for component in self.components)

    @property
    def text(self) -> str:
        """Return one line for people."""
        return ", ".join(f"{c.name}: {c.state} ({c.text})" for c in self.components) or "nothing to read"


def captured(store: Store, run: str, component: str) -> Version | None:
    """Return what a run kept of a component last before changing it; None when it kept nothing."""
    for event in reversed(store.journal(run).events()):
        if event["event"] == "captured" and event["component"] == component:
            return Version.from_dict(event["version"])
    return None


def kept_before(store: Store, run: str, component: str) -> Version | None:
    """Return what was kept of a component before a run, or before the first one whose closed fence it took over."""
    document = store.read_plan(run) or {}
    first = str(document.get("takes_over") or "")
    return (kept_before(store, first, component) if first else None) or captured(store, run, component)


def place_of(store: Store, run: Mapping[str, Any], driver: Driver) -> Place:
    """Return where a driver may keep things of this run; a fence that was taken over stays that of the run which closed
    it, with what that one noted of it."""
    if run.get("fence_of") and is_fence(driver):
        run = {**run, "id": run["fence_of"]}
    return replace(blank_place(store, run), work=store.work_directory(str(run["id"]), driver.name))


def recorded(checkpoints: Sequence[Mapping[str, Any]], component: str) -> tuple[Version, ...]:
    """Return what checkpoints hold of a component, in their order; damaged ones hold nothing."""
    held = [document.get("components", {}).get(component) for document in checkpoints]
    return tuple(Version.from_dict(version) for version in held if version)


def count_loss(store: Store, run: Mapping[str, Any], driver: Driver, entry: Entry) -> None:
    """Count once, behind the fence, what bringing a schema to its target threw away, and write it down.

    :raises StepFailed: something else was lost than the plan says.
    """
    journal, kept = store.journal(str(run["id"])), captured(store, str(run["id"]), driver.name)
    done = any(event["event"] == "counted" and event["component"] == driver.name for event in journal.events())
    if driver.layer == "schema" and kept is not None and not done:
        loss = driver.lost(entry, kept)
        journal.append("counted", component=driver.name, loss=asdict(loss) if loss else None)


def losses(store: Store, run: str, plan: Plan | None, drivers: Sequence[Driver]) -> dict[str, Any]:
    """Return per component what was lost (None: nothing), as it was counted when nobody wrote. What was restored is
    compared only here: its copies do not change any more, and behind the fence users wait."""
    events = store.journal(run).events()
    found = {event["component"]: event["loss"] for event in events if event["event"] == "counted"}
    # Begun is enough: the run is done, and may have been killed before it wrote down that a change was.
    changed = {event["component"] for event in events if event["event"] == "begin"}
    for driver in drivers:
        entry, kept = plan.entry(driver.name) if plan else None, captured(store, run, driver.name)
        counts = driver.layer == "data" and driver.name in changed and plan is not None and plan.kind != "undo"
        if entry is not None and kept is not None and counts:
            with contextlib.suppress(RollbackError, OSError):  # then the plan's statement stands
                loss = driver.lost(entry, kept)
                found[driver.name] = asdict(loss) if loss else None
    return found


def blank_place(store: Store, run: Mapping[str, Any]) -> Place:
    """Return a place where nothing may be kept: that of preflight and of check mode."""
    return Place(run=str(run["id"]), reason=str(run.get("reason", "")), cluster=store.cluster)


def reads_as_kept(driver: Driver, reading: Version, kept: Version | None) -> bool:
    """Say whether a component is the version that was kept: data exactly, the rest maybe not wholly there yet, as while
    pods are replaced."""
    return kept is not None and driver.matches(reading, kept, exact=driver.layer in CAPTURED_LAYERS)


def read_component(store: Store, run: str, driver: Driver, entry: Entry) -> Component:
    """Read one component against the plan. While nobody can have written since, what was kept counts as old only when
    it is exactly that; what users do not write to always."""
    events = store.journal(run).events()
    try:
        state, reading = driver.state(entry, opened=written_since_applied(events, entry.name))
        before = captured(store, run, entry.name)
        exact = not written_since_kept(events, entry.name)
        if before is not None and state != TARGET:
            if driver.matches(reading, before, exact=exact or driver.layer not in CAPTURED_LAYERS):
                state = LIVE
            elif reads_as_kept(driver, reading, before):
                state = BETWEEN
            elif state == LIVE and exact:
                # The version is ours, its rows are not: nothing to open on, and a resume keeps them too and goes on.
                return Component(entry.name, BETWEEN, f"{reading.text}, written to since it was kept")
    except (RollbackError, OSError) as error:
        return Component(entry.name, "unread", str(error))
    return Component(entry.name, state, reading.text)


def read_service(store: Store, run: Mapping[str, Any], plan: Plan, drivers: Sequence[Driver]) -> Picture:
    """Read every component that the plan changes. One that has no driver here reads as unread."""
    known = {driver.name: driver for driver in drivers}
    found = []
    for entry in plan.entries:
        driver = known.get(entry.name)
        # What was as planned already is read too where somebody else has changed something behind the fence.
        left = ("keep", "follow") if plan.takes_over else ("none", "keep", "follow")
        if entry.action in left or (driver is not None and driver.default_action == "follow"):
            continue
        if driver is None:
            found.append(Component(entry.name, "unread", "it is no longer in the profile"))
            continue
        driver.place = place_of(store, run, driver)
        found.append(read_component(store, str(run["id"]), driver, entry))
    return Picture(tuple(found))


def read_steadily(store: Store, run: Mapping[str, Any], plan: Plan, drivers: Sequence[Driver]) -> Picture:
    """As read_service; what cannot be read, or is half-way, is looked at again."""
    picture = read_service(store, run, plan, drivers)
    for _again in range(SECOND_LOOKS):
        if all(component.state not in ("unread", BETWEEN) for component in picture.components):
            break
        time.sleep(PAUSE_SECONDS if store.cluster is None else CLUSTER_PAUSE_SECONDS)
        picture = read_service(store, run, plan, drivers)
    return picture
