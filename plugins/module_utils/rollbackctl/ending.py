# SPDX-License-Identifier: GPL-3.0-or-later
"""How a run ended for one service: decided by reading it back, never by which task failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import outcome
from .component import Driver
from .errors import RollbackError
from .journal import fence_is_closed
from .plan import Plan, way_out
from .readback import NEW, OLD, STRANGE, Picture, read_service, read_steadily
from .store import Store

CHANGING_KINDS = ("rollback", "undo", "panic", "shutdown")
# Kinds whose success is not that a component changed.
LOOKS_LIKE_NO_CHANGE = ("checkpoint", "adopt", "finalize", "quarantine")
# Kinds that end with traffic back, so that what then starts may change what was put back.
OPENING_KINDS = ("rollback", "undo")


@dataclass(frozen=True)
class Ending:
    """How a run ended for one service."""

    outcome: str
    message: str
    next: str = ""  # a command stands on a line of its own where there are several
    strange: bool = False  # somebody else changed a component: the run cannot go on


def locked_out(run: Mapping[str, Any], message: str, error: RollbackError) -> Ending:
    """Return the outcome of a run whose credentials the API server no longer takes: nothing could be read back, and
    every object is whole all the same."""
    if not run.get("busy"):  # it never came to a plan that changes something
        return Ending(outcome.REFUSED, f"{message} {error.message}".strip(), error.next_step)
    what = "Log in to the cluster again" if getattr(error, "status", 0) == 401 else "Ask for the missing right"
    stopped = " It may be stopped, behind its closed fence." if run.get("fenced") else ""
    return Ending(
        outcome.RESUMABLE,
        f"{message} How the service is could not be read: {error.message} Each of its components is as it was, as it "
        f"is to be, or on its way there.{stopped}".strip(),
        f"{what}, then: rollbackctl resume {run['id']}",
    )


def decide(
    store: Store,
    run: Mapping[str, Any],
    plan: Plan | None,
    drivers: Sequence[Driver],
    events: list[dict[str, Any]],
    *,
    failed: bool,
    message: str,
) -> Ending:
    """Return the outcome, from what was read back, never from which task failed.

    :param failed: whether a phase of the run failed; message: what it said.
    """
    if fence_is_closed(events) and not failed:
        failed, message = True, "Opening the fence was skipped."
    return _failed(store, run, plan, drivers, events, message) if failed else _ended(store, run, plan, drivers, events)


def _ended(
    store: Store, run: Mapping[str, Any], plan: Plan | None, drivers: Sequence[Driver], events: list[dict[str, Any]]
) -> Ending:
    """Return the outcome of a run no phase of which failed."""
    # A change that was begun and now reads as done was done, also by a process that could not write that down.
    applied = any(event["event"] in ("begin", "applied", "recorded", "released") for event in events)
    if plan is not None and applied and run["kind"] in OPENING_KINDS:
        picture = read_steadily(store, run, plan, drivers)
        if picture.word != NEW:
            return _left_again(str(run["id"]), plan, picture)
    word = outcome.DONE if applied or run["kind"] in LOOKS_LIKE_NO_CHANGE else outcome.ALREADY
    if run["kind"] == "undo" and word == outcome.DONE:
        return _unasked(run)
    return Ending(word, outcome.MEANINGS[word])


def _failed(
    store: Store,
    run: Mapping[str, Any],
    plan: Plan | None,
    drivers: Sequence[Driver],
    events: list[dict[str, Any]],
    message: str,
) -> Ending:
    """Return the outcome of a run a phase of which failed."""
    words = {event["event"] for event in events}
    if "finalizing" in words:
        return half_finalized(run, message)
    if plan is None or not words & {"begin", "fence-closing"}:
        stopped = f" The service is still stopped, behind the fence of run {run.get('takes_over')}."
        return Ending(outcome.REFUSED, message + (stopped if run.get("takes_over") else ""), "")
    picture = read_service(store, run, plan, drivers)
    closed = fence_is_closed(events)
    state = f"The service is {picture.word} ({picture.text}). The fence is {'closed' if closed else 'open'}."
    following = f"rollbackctl resume {run['id']}"
    if picture.word == OLD and not closed:
        if left := _not_started(drivers, events):
            text = f"{message} Everything was put back to the state before the run, but {left}."
            return Ending(outcome.RESUMABLE, text, following)
        text = f"{message} It was put back to the state before the run. {state}"
        return Ending(outcome.RESTORED, text, _after_restored(run))
    if picture.strange:
        return Ending(outcome.UNKNOWN, f"{message} {state}", f"Find out who did, then: {way_out(plan)}", strange=True)
    if picture.word == STRANGE:
        return Ending(outcome.UNKNOWN, f"{message} {state}", f"Look at the component named above, then: {following}")
    if picture.word == NEW:
        following += f"\nor, back to where it was:\nrollbackctl undo {run['id']}"
    return Ending(outcome.RESUMABLE, f"{message} {state}", following)


def half_finalized(run: Mapping[str, Any], message: str) -> Ending:
    """Return the outcome of a finalize that did not come to its end."""
    said = f"{message} Some of what run {run['undoes']} kept may be removed already; the rest is still there."
    return Ending(outcome.RESUMABLE, said, f"rollbackctl finalize {run['undoes']}")


def _not_started(drivers: Sequence[Driver], events: list[dict[str, Any]]) -> str:
    """Return what was to be restarted when the run was taken back, and how it reads instead; empty where all was."""
    last = {event["component"]: event["event"] for event in events if event["event"] in ("restarting", "restarted")}
    texts = []
    for driver in drivers:
        if last.get(driver.name) == "restarting":
            try:
                reading = driver.live(exact=False).text
            except (RollbackError, OSError) as error:
                reading = f"nothing ({error})"
            texts.append(f"{driver.name} was to be restarted for that and reads as {reading}")
    return "; ".join(texts)


def _unasked(run: Mapping[str, Any]) -> Ending:
    """Return the outcome of an undo that worked: what is proven, and what nobody asked (decision 8)."""
    said = (
        f"Every component reads as it did before run {run['undoes']}. Whether the service is healthy was not asked: an "
        "undo goes back to what its checks may have called broken."
    )
    return Ending(outcome.DONE, said, f"rollbackctl verify {run['service']}")


def _left_again(identity: str, plan: Plan, picture: Picture) -> Ending:
    """Return the outcome of a run that had reached its targets and, now that traffic is back, has not any more: mostly
    an application that migrates its database when it starts. Nothing is taken back: users may have written since."""
    left = [component for component in picture.components if component.state != "target"]
    texts = []
    for component in left:
        entry = plan.entry(component.name)
        texts.append(f"{component.name} reads as {component.text}, not as {entry.target.text if entry else 'planned'}")
    said = (
        f"Everything had been put back and read back; now that traffic is back, {'; '.join(texts)}. What started "
        "then (an application that migrates its database when it starts, a job, somebody) changed it."
    )
    following = f"Keep it from that (put its code back as well, or switch it off), then: rollbackctl resume {identity}"
    if picture.strange:  # a resume would refuse
        return Ending(outcome.UNKNOWN, said, f"Keep it from that, then: {way_out(plan)}")
    return Ending(outcome.UNKNOWN if picture.word == STRANGE else outcome.RESUMABLE, said, following)


def _after_restored(run: Mapping[str, Any]) -> str:
    """Return what to type when a run took itself back: a level puts back what the one below leaves alone."""
    if run["kind"] == "rollback" and run.get("level") in (1, 2) and run.get("service"):
        return f"rollbackctl plan {run['level'] + 1} {run['service']}"
    return f"rollbackctl report {run['id']}"
