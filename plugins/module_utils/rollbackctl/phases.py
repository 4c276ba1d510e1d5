# SPDX-License-Identifier: GPL-3.0-or-later
"""What each phase does with a service's components. The module calls run_phase; drivers do the work; this decides.

Every phase reads the plan from the store and compares it with what is live, so running a phase again is harmless:
that is all that a resume is. One call does a whole phase: starting a module costs more than most of what it does
(docs/decisions/0002-one-task-a-phase.md).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable

from .component import LIVE, OTHER, TARGET, Driver, Entry, Finding, Version, is_fence
from .durable import now
from .errors import AwaitingSomebody, Refused, RollbackError, StateOther, StepFailed
from .fence import CLOSINGS, close_fences, closed_again, open_fences, refuse_written, require_fence, started_again
from .journal import Journal, fence_is_closed, written_since_applied
from .ledger import no_target
from .names import printable
from .plan import Proposal
from .readback import CAPTURED_LAYERS, blank_place, captured, count_loss, kept_before, place_of, recorded
from .ready import require_ready
from .registry import drivers_of
from .reversal import undo
from .step import changing_step
from .store import Store, open_store
from .taken_back import require_whole, undone_plan
from .work import Work, other

PHASE_ARGUMENTS: dict[str, Any] = {
    "phase": {"type": "str", "required": True},
    "roles": {"type": "list", "elements": "dict", "required": True},
    "run": {"type": "dict", "required": True},
}


def run_phase(
    params: Mapping[str, Any],
    *,
    check_mode: bool,
    drivers: Mapping[str, type[Driver]] | None = None,
    store: Store | None = None,
) -> dict[str, Any]:
    """Run one phase for all components of a service, in order, and return the module's result.

    :param params: see PHASE_ARGUMENTS; roles is a list of {"role": name, "components": [options, ...]}.
    :param drivers: which driver knows which role; the registry's by default.
    :param store: the one that the run names, where a process has it open already.
    :return: `rollbackctl` (steps, proposals) is there also when it failed; nothing in it is secret.
    """
    began = time.monotonic()
    work = Work(params["phase"], params["run"], store or open_store(params["run"]["state"]))
    try:
        handler = _HANDLERS.get(work.phase)
        if handler is None:
            raise Refused(f"There is no phase {work.phase!r}; known: {', '.join(_HANDLERS)}.")
        if check_mode and work.phase != "preflight":
            raise Refused(f"Phase {work.phase} does not run in check mode.")
        place = blank_place(work.store, work.run)
        work.drivers = drivers_of(params["roles"], place, drivers)
        work.role_of = {options["name"]: item["role"] for item in params["roles"] for options in item["components"]}
        handler(work)
    except RollbackError as error:
        hold = isinstance(error, AwaitingSomebody)
        return _result(work, began, failed=True, msg=error.message, next_step=error.next_step, hold=hold)
    except OSError as error:
        return _result(work, began, failed=True, msg=f"Phase {work.phase}: {error}", next_step="")
    return _result(work, began)


def _result(work: Work, began: float, **more: Any) -> dict[str, Any]:
    facts = {
        "phase": work.phase,
        "steps": work.steps,
        "proposals": work.proposals,
        "seconds": round(time.monotonic() - began, 4),
        **work.extra,
    }
    changed = any(step["status"] == "changed" for step in work.steps)
    if "msg" in more:
        more["msg"] = printable(more["msg"])
    return {"changed": changed, "rollbackctl": facts, **more}


# -- preflight: reads and proves, writes nothing ---------------------------------------------------------------------


def _preflight(work: Work) -> None:
    resumed = work.plan if work.run.get("resume") else None
    if work.run["kind"] == "undo" and resumed is None:
        require_whole(work)
    for driver in work.drivers:
        began = time.monotonic()
        if resumed is not None:
            _preflight_resumed(work, driver, resumed.entry(driver.name), began)
        else:
            _propose(work, driver, began)


def _propose(work: Work, driver: Driver, began: float) -> None:
    live: Version | None = None
    target: Version | None = None
    problems: list[str] = []
    if work.run.get("fence_of"):
        driver.place = replace(place_of(work.store, work.run, driver), work=None)
    finding = Finding()
    try:
        live = driver.live(exact=True)
        if work.run["kind"] == "preflight":  # nobody waits: what an incident's run would stumble over is said as well
            problems += driver.ready()
        want = wanted(work, driver, live)
        driver.known = recorded(work.checkpoints, driver.name)
        if want is None:
            work.note(driver.name, "ok", f"live: {live.text}; this run leaves it alone", began)
            return
        target = driver.resolve(want)
        finding = driver.check(live, target)
        if work.run["kind"] == "undo":
            finding = _since_the_undone_run(work, driver, live, finding)
        problems += finding.problems
    except RollbackError as error:
        problems.append(f"{error.message} {error.next_step}".strip())
    except OSError as error:
        problems.append(str(error))
    already = live is not None and target is not None and driver.matches(live, target, exact=True)
    proposal = Proposal(
        name=driver.name,
        role=work.role_of[driver.name],
        layer=driver.layer,
        live=live,
        target=target,
        finding=replace(finding, problems=tuple(problems)),
        default_action=driver.default_action,
        exact_keys=driver.exact_keys,
        restored_by=str(driver.options.get("restored_by") or ""),
        strategy=str(driver.options.get("strategy") or "propose"),
        already=already,
        named=driver.name in work.run.get("to", {}),
    )
    work.proposals.append(proposal.to_dict())
    text = f"{live.text if live else 'could not be read'} -> {target.text if target else 'no target'}"
    work.note(driver.name, "refused" if problems else "ok", "; ".join(problems) or text, began)


def _since_the_undone_run(work: Work, driver: Driver, live: Version, finding: Finding) -> Finding:
    """Return a finding whose loss is what was written since the undone run, not what that run itself brought back."""
    entry = undone_plan(work).entry(driver.name)
    if finding.loss is None or entry is None:
        return finding
    events = work.store.journal(str(work.run["undoes"])).events()
    own = [event for event in events if event.get("component") == driver.name]
    times = [event["at"] for event in own if event["event"] == "applied"]
    if not times and any(event["event"] == "begin" for event in own):  # killed before it could write that down
        times = [event["at"] for event in events if event.get("reached")][:1]
    if not times:
        return finding
    loss = replace(finding.loss, since=times[-1])
    return replace(finding, loss=driver.lost_since(live, entry.target, loss))


def wanted(work: Work, driver: Driver, live: Version) -> Version | str | None:
    """Return what a component is to go back to: the operator's word first, then the checkpoint, or the undone run's
    capture. None when an undo leaves the component alone.

    :raises Refused: nothing names a target.
    """
    run = work.run
    if driver.default_action == "follow":
        return live
    named = run.get("to", {}).get(driver.name)
    if named:
        return str(named)
    if run["kind"] == "undo":
        return kept_before(work.store, str(run["undoes"]), driver.name)
    inherent = driver.stable() if run["kind"] == "panic" else driver.inherent()
    if inherent is not None:
        return inherent
    if run.get("checkpoint"):
        for document in work.checkpoints:
            if document["id"] == run["checkpoint"] and driver.name in document.get("components", {}):
                return Version.from_dict(document["components"][driver.name])
    raise no_target(driver.name, work.checkpoints, str(run.get("checkpoint") or ""), driver.choices())


def _preflight_resumed(work: Work, driver: Driver, entry: Entry | None, began: float) -> None:
    if entry is None:
        return
    journal = work.store.journal(str(work.run["id"])).events()
    driver.place = place_of(work.store, work.run, driver)
    state, reading = driver.state(entry, opened=written_since_applied(journal, driver.name))
    if state == OTHER and entry.action not in ("keep", "follow"):
        text = f"reads as {reading.text}; the plan knows {entry.live.text} and {entry.target.text}"
        work.note(driver.name, "refused", text, began)
        raise StateOther(
            f"{driver.name} {text}. Somebody else changed it since the run began. This step changed nothing.",
            "Find out who did, then start a new run (its plan will see the present state).",
        )
    work.note(driver.name, "ok", f"reads as {state}: {reading.text}", began)


# -- phases that prepare or change -----------------------------------------------------------------------------------


def _stage(work: Work) -> None:
    def stage(driver: Driver, entry: Entry, journal: Journal) -> None:
        began = time.monotonic()
        if driver.state(entry, opened=written_since_applied(journal.events(), driver.name))[0] != TARGET:
            driver.stage(entry.target)
            work.note(driver.name, "ok", f"prepared: {entry.target.text}", began)

    work.each(stage)


def _capture(work: Work) -> None:
    """Keep what must be kept before anything changes and while nobody writes: data. The rest is kept on its turn."""

    def capture(driver: Driver, entry: Entry, journal: Journal) -> None:
        began = time.monotonic()
        if driver.layer not in CAPTURED_LAYERS:
            return
        state, reading = driver.state(entry, opened=written_since_applied(journal.events(), driver.name))
        if state == OTHER:
            raise other(driver, entry, reading)
        if state == LIVE:
            version = capture_once(work.store, work.run, driver, reading, journal)
            work.note(driver.name, "ok", f"kept: {version.text}", began)

    work.each(capture, first=lambda journal: require_fence(work, journal))


def capture_once(store: Store, run: Mapping[str, Any], driver: Driver, reading: Version, journal: Journal) -> Version:
    """Keep what is live, unless what is kept already is just that (a resumed run never overwrites what it kept)."""
    kept = captured(store, str(run["id"]), driver.name)
    if kept is not None and driver.matches(reading, kept, exact=True):
        return kept
    count = sum(1 for event in journal.events() if event["event"] == "captured" and event["component"] == driver.name)
    version = driver.record(store.kept_shelf(str(run["id"]), driver.name, f"before-{count + 1}"))
    journal.append("captured", component=driver.name, version=version.to_dict())
    return version


def _rollback(work: Work) -> None:
    def rollback(driver: Driver, entry: Entry, journal: Journal) -> None:
        began = time.monotonic()
        for _try in range(CLOSINGS):
            events = journal.events()
            if entry.action == "follow" and is_fence(driver) and fence_is_closed(events):
                work.note(driver.name, "ok", "starts when the fence opens", began)
                return
            state, reading = driver.state(entry, opened=written_since_applied(events, driver.name))
            if state == TARGET:
                count_loss(work.store, work.run, driver, entry)
                work.note(driver.name, "already", entry.target.text, began, reading.text)
                return
            if state == OTHER and entry.action != "follow":
                raise other(driver, entry, reading)
            with journal.together():
                if state == LIVE:
                    capture_once(work.store, work.run, driver, reading, journal)
                # Asked last: what was started behind the fence may have written to what was read and kept just now.
                again = closed_again(work, journal) if driver.layer in CAPTURED_LAYERS else []
                if not again:
                    journal.append("begin", component=driver.name, target=entry.target.text)
                    break
            refuse_written(work, journal, again)
        else:
            raise started_again(work, again)
        driver.apply(entry.target)
        state, reading = driver.state(entry, opened=False)
        if state != TARGET:
            raise StepFailed(
                f"{driver.name} was put back but reads as {reading.text}, not as {entry.target.text}."
                f"{driver.strangers(entry)}",
                f"rollbackctl resume {work.run['id']}",
            )
        count_loss(work.store, work.run, driver, entry)
        journal.append("applied", component=driver.name, read_back=reading.text)
        work.note(driver.name, "changed", entry.target.text, began, reading.text)

    def prove(journal: Journal) -> None:
        require_fence(work, journal)
        refuse_written(work, journal, closed_again(work, journal))

    work.each(rollback, ("change", "follow"), first=prove)


def _verify(work: Work) -> None:
    plan = work.plan
    events = work.store.journal(str(work.run["id"])).events()
    wrong = []
    for driver in work.drivers:
        entry = plan.entry(driver.name)
        began = time.monotonic()
        if entry is None or entry.action == "keep":
            continue
        if entry.action == "follow" and is_fence(driver) and fence_is_closed(events):
            continue
        driver.place = place_of(work.store, work.run, driver)
        written = entry.action != "change" or written_since_applied(events, driver.name)
        state, reading = driver.state(entry, opened=written)
        if entry.action == "none" and driver.default_action == "follow":
            state = TARGET
        work.note(driver.name, "ok" if state == TARGET else "failed", f"reads as {state}", began, reading.text)
        if state != TARGET:
            said = f"{driver.name} reads as {reading.text}, not as {entry.target.text}."
            wrong.append(said + driver.strangers(entry))
    if wrong:
        raise StepFailed(" ".join(wrong), f"rollbackctl resume {work.run['id']}")


def _checkpoint(work: Work) -> None:
    run = work.run
    with changing_step(work.store, str(run["id"]), int(run["token"])) as journal:
        if run["kind"] == "checkpoint":
            require_ready(work.drivers)
        kept: list[tuple[Driver, Version]] = []
        for driver in work.drivers:
            began = time.monotonic()
            named = run.get("to", {}).get(driver.name)
            if driver.default_action == "follow" or (run["kind"] == "adopt" and not named):
                continue
            if named:
                version = driver.resolve(str(named))
            else:
                version = driver.record(work.store.checkpoint_shelf(str(run["checkpoint"]), driver.name))
                kept.append((driver, version))
            if not version.taken:
                version = Version(**{**vars(version), "taken": now()})
            journal.append("recorded", component=driver.name, version=version.to_dict(), exact_keys=driver.exact_keys)
            work.note(driver.name, "changed", version.text, began)
        _require_still(kept)


def _require_still(kept: list[tuple[Driver, Version]]) -> None:
    """Refuse a checkpoint whose parts were recorded one after another while somebody deployed: it never ran like that.

    :raises Refused: a component is not what was recorded of it, apart from what users write.
    """
    for driver, version in kept:
        reading = driver.live(exact=False)
        if not driver.matches(reading, version, exact=False):
            raise Refused(
                f"{driver.name} changed while the checkpoint was taken: it was {version.text} and is {reading.text}. "
                "Nothing was changed.",
                "Take it again when the deployment has ended.",
            )


def _finalize(work: Work) -> None:
    run = work.run
    finished = str(run["undoes"])
    with changing_step(work.store, str(run["id"]), int(run["token"])) as journal:
        journal.append("finalizing")
        for driver in work.drivers:
            began = time.monotonic()
            driver.place = place_of(work.store, {**run, "id": finished}, driver)
            removed = driver.finalize()
            if removed:
                work.note(driver.name, "changed", f"removed {', '.join(removed)}", began)


_HANDLERS: dict[str, Callable[[Work], None]] = {
    "preflight": _preflight,
    "stage": _stage,
    "fence": close_fences,
    "capture": _capture,
    "rollback": _rollback,
    "verify": _verify,
    "undo": undo,
    "resume": open_fences,
    "checkpoint": _checkpoint,
    "finalize": _finalize,
}
