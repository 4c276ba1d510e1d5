# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening a run, writing its plan and ending it: what the guard, the plan and the finish do on the service's host."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import outcome
from .durable import now
from .ending import CHANGING_KINDS, Ending, decide, half_finalized, locked_out
from .errors import LeaseHeld, Refused, RollbackError
from .journal import is_stranded, passed_to
from .kept import kept_plan
from .ledger import (
    choose_checkpoint,
    finish_checkpoint,
    lift_quarantine,
    newer_candidate,
    quarantine_combination,
    release,
)
from .names import is_run_id
from .plan import Plan, Proposal, Request, combination, compose
from .readback import blank_place, captured, losses
from .status import describe, following
from .step import LOCK_WAIT_SECONDS, beating
from .store import Store, open_store
from .taken_back import newest_to_take_back

# Kinds whose run may take the closed fence of a stopped one over.
TAKING_OVER = ("rollback", "undo")
# A second run is refused within a second; a process that only just ends (a watchdog being armed) is waited for.
OPEN_WAIT_SECONDS = 0.8
RUN_ARGUMENTS: dict[str, Any] = {
    "operation": {"type": "str", "required": True, "choices": ["open", "plan", "finish", "describe", "release"]},
    "run": {"type": "dict", "required": True},
    "service": {"type": "dict", "default": {}},
    "asked": {"type": "dict", "default": {}},
    "proposals": {"type": "list", "elements": "dict", "default": []},
    "roles": {"type": "list", "elements": "dict", "default": []},
    "fences": {"type": "bool", "default": False},
    "dry": {"type": "bool", "default": False},
    "failed": {"type": "bool", "default": False},
    "hold": {"type": "bool", "default": False},
    "message": {"type": "str", "default": ""},
}


def check_identity(identity: Mapping[str, Any], store: Store) -> None:
    """Prove that this is the place that the profile means: a marker file of the host holds the expected text, or the
    state store's namespace is the very one (a name can be made again elsewhere, its UID can't).

    :raises Refused: the file is missing or holds something else; the namespace is another one.
    """
    if identity.get("namespace_uid"):
        store.check_namespace(str(identity["namespace_uid"]))
    if not identity.get("path"):
        return
    path = Path(str(identity["path"]))
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise Refused(f"Identity proof failed: {path} cannot be read ({error}). Is this the right host?") from error
    if found != str(identity.get("content") or "").strip():
        raise Refused(f"Identity proof failed: {path} does not hold what the profile expects. This is another place.")


def open_run(
    run: Mapping[str, Any],
    service: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    dry: bool,
    store: Store | None = None,
) -> dict[str, Any]:
    """Do the guard's part on the host: identity, lease, and what the run works from.

    :param run: id, kind, level, state, holder, controller, pid, lease_seconds.
    :param service: the profile's rollback_service.
    :param asked: the run's parameters as given (rollback_run, rollback_checkpoint, ...).
    :param dry: check mode: nothing is written and no lease is taken.
    :param store: the one that run["state"] names, where a process has it open already.
    :return: the run's facts for the phases: id, token, checkpoint, undoes, resume, finished, proven, reversing.
    :raises Refused: wrong place, lease held, unknown run or checkpoint.
    """
    store = store or open_store(dict(run["state"]))
    store.check_place()
    if service.get("identity"):
        check_identity(service["identity"], store)
    kind, named = str(run["kind"]), str(asked.get("rollback_run") or "")
    facts: dict[str, Any] = {"id": run["id"], "token": 0, "checkpoint": "", "undoes": ""}
    facts.update(resume=False, finished="", proven=False, reversing=False, takes_over="", fence_of="")
    if not named and run.get("takes_back"):
        named = newest_to_take_back(store, str(run["takes_back"]))
    if named:
        facts.update(_named_run(store, kind, int(run["level"]), named))
    begins = kind in ("rollback", "preflight", "panic") and not facts["resume"]
    with store.ahead() if begins else contextlib.nullcontext():
        if begins:
            facts["checkpoint"] = choose_checkpoint(store, str(asked.get("rollback_checkpoint") or ""))
        elif kind in ("checkpoint", "adopt"):
            facts["checkpoint"] = str(facts["id"]).replace("rb-", "cp-", 1)
        if not facts["resume"] and kind in (*TAKING_OVER, "preflight"):
            facts.update(_fence_to_take_over(store, named))
        if dry:
            _warn_of_lease(store, facts)
        else:
            facts["token"] = _take_lease(store, run, facts, named)
    return facts


def _take_lease(store: Store, run: Mapping[str, Any], facts: Mapping[str, Any], named: str) -> int:
    """Take the lease, last of all: who is refused must not keep others away. Returns the token.

    :raises Refused: somebody else holds it, or the store cannot be written.
    """
    store.create()
    token, identity = 0, str(facts["id"])
    try:
        # Who resumes a run waits for what its dead controller has left behind.
        wait = store.wait_for_own(identity) if named == identity else 0.0
        with store.locked(max(OPEN_WAIT_SECONDS, wait)):
            if run["kind"] in (*CHANGING_KINDS, "checkpoint"):
                _refuse_behind_closed_fence(store, {identity, str(facts["takes_over"])})
            seconds, process = float(run["lease_seconds"]), str(run.get("process") or "")
            _refuse_twice_in_one_run(store, process)
            lease = store.acquire(
                identity, str(run["holder"]), str(run["controller"]), int(run["pid"]), seconds, process
            )
            token = lease.token
            journal = store.open_journal(identity)
            journal.append("opened", kind=str(run["kind"]), level=int(run["level"]), holder=lease.holder, token=token)
    except OSError as error:
        with contextlib.suppress(OSError):
            store.release(identity, token)
        raise Refused(f"The state store {store.where} cannot be written: {error.strerror}.") from error
    except RollbackError:
        if token:
            with contextlib.suppress(RollbackError):
                store.release(identity, token)
        raise
    return token


def _refuse_twice_in_one_run(store: Store, process: str) -> None:
    """Refuse a service that this same process has opened a moment ago under another inventory name.

    :raises LeaseHeld: so it is.
    """
    lease = store.lease()
    if process and lease is not None and lease.process == process and store.lease_ends_in(lease) > 0:
        raise LeaseHeld(
            f"Two inventory hosts of this run are one service: both have the state store {store.where}. "
            "Nothing was changed.",
            "Name one of them with --limit, or correct rollback_state of the other.",
        )


def _refuse_behind_closed_fence(store: Store, named: set[str]) -> None:
    """Refuse a new run while an earlier one stands behind its closed fence: its watchdog would leave the service to the
    new run, whose plan knows nothing of a fence that somebody else closed; and nobody wants to go back to what a
    checkpoint would find there. While a lease holds, that is what is said.

    :param named: runs of which it is known: the one that is resumed, and the one whose fence is taken over.
    :raises Refused: so it is; naming that run (to resume it or to take it back) goes on with it.
    """
    run = store.behind_closed_fence(named)
    if not run:
        return
    lease = store.lease()
    if lease is not None and store.lease_ends_in(lease) > 0:
        # Said here, once: asked again a moment later the lease may have ended, and would be taken.
        raise store.held("Another run is under way on this service.")
    raise Refused(
        f"Run {run} stopped behind a closed fence, so the service is stopped. Nothing was changed.",
        following(run, store.journal(run).events(), store.read_plan(run) or {}),
    )


def _fence_to_take_over(store: Store, named: str) -> dict[str, Any]:
    """Return what a new run takes over: the closed fence of the run that it names to take it back, or of one that
    cannot go on because somebody else changed a component behind it."""
    run = store.behind_closed_fence(set())
    if not run or (run != named and not is_stranded(store.journal(run).events())):
        return {}
    document = store.read_plan(run) or {}
    return {"takes_over": run, "fence_of": str(document.get("fence_of") or run)}


def _named_run(store: Store, kind: str, level: int, named: str) -> dict[str, Any]:
    """Return what naming a run means: resuming it, or undoing or finalizing it."""
    if not is_run_id(named):
        raise Refused(f"rollback_run={named!r} is not a run id.")
    document = store.read_plan(named)
    if document is None:
        known = ", ".join(store.runs()[-10:]) or "none"
        raise Refused(f"Run {named} has no plan here, so it changed nothing. Runs: {known}.", "Start a new run.")
    plan = Plan.from_dict(document)
    events = store.journal(named).events()
    ended = [event["outcome"] for event in events if event["event"] == "finished"]
    taker = passed_to(events)
    if taker and kind != "finalize" and (store.read_plan(taker) or {}).get("kind") != "undo":
        verb = "undo" if kind == "undo" else "resume"
        raise Refused(f"Run {named} was taken over by run {taker}. Nothing was changed.", f"rollbackctl {verb} {taker}")
    if kind == "finalize" and (stopped := store.behind_closed_fence(set())):
        raise Refused(f"Run {stopped} stands behind its closed fence and may need what was kept.", "rollbackctl status")
    if kind == "finalize" or (kind == "undo" and plan.kind != "undo"):
        if any(event["event"] == "finalized" for event in events):
            raise Refused(f"Run {named} was finalized: what it kept is gone, so it cannot be taken back.")
        if not ended:
            raise Refused(f"Run {named} has not ended.", f"rollbackctl resume {named}")
        return {"undoes": named}
    if plan.kind != kind or (kind == "rollback" and plan.level != level):
        raise Refused(
            f"Run {named} is a {plan.kind} of level {plan.level}, not a {kind} of level {level}.",
            f"rollbackctl resume {named}",
        )
    return {
        "id": named,
        "resume": True,
        "checkpoint": plan.checkpoint,
        "undoes": plan.undoes,
        "takes_over": plan.takes_over,
        "fence_of": plan.fence_of,
        "finished": ended[-1] if ended else "",
        "proven": outcome.DONE in ended or outcome.ALREADY in ended,
        "reversing": any(event["event"] == "reverse" for event in events) and outcome.RESTORED not in ended,
    }


def _warn_of_lease(store: Store, facts: dict[str, Any]) -> None:
    try:
        lease = store.lease()
    except RollbackError as error:
        facts["notes"] = [f"{error.message} A run would be refused. {error.next_step}"]
        return
    if lease is not None and lease.run != facts["id"] and store.lease_ends_in(lease) > 0:
        facts["notes"] = [f"Run {lease.run} of {lease.holder} holds the lease now; a run would be refused."]


def plan_run(
    run: Mapping[str, Any],
    asked: Mapping[str, Any],
    proposals: Sequence[Mapping[str, Any]],
    *,
    fences: bool,
    dry: bool,
    store: Store | None = None,
) -> dict[str, Any]:
    """Compose the plan and, unless dry, make it durable; on a resume, return the plan as it was.

    :param store: as in open_run.
    :return: {"plan": ..., "problems": [...]}; with problems nothing was written.
    """
    store = store or open_store(dict(run["state"]))
    if run["resume"]:
        document = store.read_plan(str(run["id"]))
        if document and run.get("proven"):  # users have gone on with it since
            document["on_failure"] = "hold"
        return {"plan": document, "problems": []}
    if run["kind"] == "finalize":
        removal, problems = kept_plan(store, run, str(asked.get("rollback_plan") or ""))
        return {"plan": removal.to_dict(), "problems": problems}
    request = Request(
        run=str(run["id"]),
        kind=str(run["kind"]),
        level=int(run["level"]),
        service=str(run["service"]),
        created=now(),
        checkpoint=str(run["checkpoint"]),
        undoes=str(run["undoes"]),
        # Going back would be to what no fence may be opened on.
        on_failure="hold" if run.get("takes_over") else str(asked.get("rollback_on_failure") or "restore"),
        accepted_loss_since=str(asked.get("rollback_accept_data_loss_since") or ""),
        approved_hash=str(asked.get("rollback_plan") or ""),
        fences=fences,
        takes_over=str(run.get("takes_over") or ""),
        fence_of=str(run.get("fence_of") or ""),
    )
    try:
        quarantine, damage = store.quarantine(), []
    except RollbackError as error:  # the plan can be shown all the same, and is never carried out
        quarantine = []
        damage = [error.said] if run["kind"] in ("rollback", "panic") else []
    plan, problems = compose([Proposal.from_dict(p) for p in proposals], request, quarantine)
    problems = damage + problems
    note = newer_candidate(store, plan.checkpoint, plan.entries)
    plan = replace(plan, notes=(*plan.notes, note)) if note else plan
    if not plan.entries:
        problems.append("There is nothing to put back: none of this playbook's roles has a component here.")
    if not problems and not dry:
        with store.locked(LOCK_WAIT_SECONDS), _full_disk_refused(store):
            store.renew(plan.run, int(run["token"]))
            journal = store.journal(plan.run)
            with journal.together():
                store.write_plan(plan.run, plan.to_dict())
                journal.append("planned", hash=plan.hash)
                if plan.takes_over:
                    journal.append("fence-closing", taken_over=plan.takes_over)
            if plan.takes_over:  # from now on this run answers for it, and nobody else
                store.open_journal(plan.takes_over).append("fence-passed", to=plan.run)
    return {"plan": plan.to_dict(), "problems": problems}


class _full_disk_refused:  # noqa: N801 - reads as a clause of the with statement
    """Turn an OSError of writing the plan into a refusal: nothing was changed yet."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise Refused(f"The plan cannot be written to {self.store.where}: {error.strerror}.") from error


def finish_run(
    run: Mapping[str, Any],
    asked: Mapping[str, Any],
    roles: Sequence[Mapping[str, Any]],
    *,
    failed: bool,
    message: str,
    hold: bool = False,
    store: Store | None = None,
) -> dict[str, Any]:
    """End the run: read the service back, decide the outcome, write ledger and quarantine, give the lease back.

    :param roles: all components of the service, as run_phase takes them.
    :param failed: whether a phase of the run failed; message: what it said.
    :param hold: that phase waits for a person, so nothing was taken back.
    :param store: as in open_run.
    :return: outcome, message, next, set_aside, quarantined, fence.
    """
    store = store or open_store(dict(run["state"]))
    identity = str(run["id"])
    result: dict[str, Any] = {"set_aside": [], "quarantined": "", "notes": []}
    from .registry import drivers_of  # noqa: PLC0415 - all drivers: opening and planning need none, and start sooner

    drivers = drivers_of(roles, blank_place(store, run))
    try:
        with store.locked(LOCK_WAIT_SECONDS):
            store.renew(identity, int(run["token"]))
            events = store.journal(identity).events()
            document = store.read_plan(identity)
            plan = Plan.from_dict(document) if document else None
            with beating(store, identity, int(run["token"])):
                ending = decide(store, run, plan, drivers, events, failed=failed, message=message)
                if ending.outcome == outcome.DONE:
                    result["losses"] = losses(store, identity, plan, drivers)
            if hold and ending.outcome == outcome.RESTORED:
                ending = Ending(outcome.RESUMABLE, message, f"rollbackctl resume {identity}")
            if run.get("finished") in (outcome.DONE, outcome.ALREADY) and ending.outcome in (
                outcome.DONE,
                outcome.ALREADY,
            ):
                ending = Ending(outcome.ALREADY, outcome.MEANINGS[outcome.ALREADY])
            if run["kind"] in ("checkpoint", "adopt") and ending.outcome == outcome.DONE:
                ending = _write_checkpoint(store, run, asked, result)
            if run["kind"] == "finalize" and ending.outcome == outcome.DONE:
                ending = _remove_kept(store, run, ending)
            result.update(outcome=ending.outcome, message=ending.message, next=ending.next)
            _write_ledger(store, run, plan, ending, result)
            result["message"] = _with_notes(ending, result["notes"])
            said = {"strange": True} if ending.strange else {}
            store.journal(identity).append("finished", outcome=ending.outcome, message=ending.message, **said)
            try:
                store.release(identity, int(run["token"]))
            except RollbackError as error:  # the run has ended all the same, and so does its lease
                result["notes"].append(f"The lease could not be given back; it ends by itself. {error.message}")
    except LeaseHeld as error:
        result.update(
            vars(Ending(outcome.UNKNOWN, f"{message} {error.message}".strip(), f"rollbackctl resume {identity}"))
        )
    except RollbackError as error:
        if getattr(error, "status", 0) not in (401, 403) or run["kind"] not in CHANGING_KINDS:
            raise
        result.update(vars(locked_out(run, message, error)))
    return result


def _with_notes(ending: Ending, notes: Sequence[str]) -> str:
    """Return what is said at the end: also what did not work then and does not change the outcome."""
    said = [] if notes and ending.message == outcome.MEANINGS[ending.outcome] else [ending.message]
    return " ".join([*said, *notes])


def _write_checkpoint(store: Store, run: Mapping[str, Any], asked: Mapping[str, Any], result: dict[str, Any]) -> Ending:
    """Write the checkpoint that the roles recorded; without it the run did not do what it was for."""
    soak = float(asked.get("rollback_soak_seconds") or 0) if run["kind"] == "checkpoint" else None
    try:
        result["checkpoint"] = finish_checkpoint(store, run, soak)
    except (RollbackError, OSError) as error:
        return Ending(
            outcome.REFUSED, f"The checkpoint could not be written: {error}. Nothing of the service was changed."
        )
    return Ending(outcome.DONE, outcome.MEANINGS[outcome.DONE])


def _remove_kept(store: Store, run: Mapping[str, Any], ending: Ending) -> Ending:
    """Remove what the store holds of the run that is finalized; only then it is."""
    try:
        store.remove_kept(str(run["undoes"]))
        store.open_journal(str(run["undoes"])).append("finalized", by=str(run["id"]))
    except (RollbackError, OSError) as error:
        return half_finalized(run, f"Not all could be removed: {error}.")
    return ending


def _write_ledger(
    store: Store,
    run: Mapping[str, Any],
    plan: Plan | None,
    ending: Ending,
    result: dict[str, Any],
) -> None:
    """Write what later runs need to know. A failure here is said but does not undo a proven rollback."""
    succeeded = ending.outcome in (outcome.DONE, outcome.ALREADY)
    try:
        if run["kind"] in ("rollback", "panic") and ending.outcome == outcome.DONE and plan is not None:
            good = combination(plan.entries, "target")
            bad = {name: one for name, one in combination(plan.entries, "live").items() if good.get(name) != one}
            if bad:
                result["quarantined"] = quarantine_combination(store, plan, bad, str(run.get("reason", "")))
        elif run["kind"] == "undo" and ending.outcome == outcome.DONE:
            lift_quarantine(store, str(run["undoes"]))
    except (RollbackError, OSError) as error:
        result["notes"].append(f"The ledger could not be written: {error}")
    for entry in plan.entries if plan and succeeded else ():
        kept = captured(store, str(run["id"]), entry.name)
        if kept is not None and entry.layer == "data":
            result["set_aside"].append({"component": entry.name, "path": kept.at, "text": kept.text})


def release_quarantine(run: Mapping[str, Any], identity: str) -> str:
    """Release one quarantined combination; return one line about it.

    :raises Refused: there is none of that id.
    """
    store = open_store(dict(run["state"]))
    with store.locked(LOCK_WAIT_SECONDS):
        store.renew(str(run["id"]), int(run["token"]))
        text = release(store, identity)
        store.journal(str(run["id"])).append("released", text=text)
    return text


def operate(params: Mapping[str, Any]) -> dict[str, Any]:
    """Do one operation of the module rollback_run and return its facts.

    :param params: the module's parameters: operation, run, service, asked, proposals, roles, fences, dry, failed, hold,
        message.
    :raises RollbackError: it was refused, or went wrong.
    """
    run, asked, operation = params["run"], params["asked"], params["operation"]
    if operation == "open":
        return {"phase": "guard", "run": open_run(run, params["service"], asked, dry=params["dry"])}
    if operation == "plan":
        return {
            "phase": "plan",
            **plan_run(run, asked, params["proposals"], fences=params["fences"], dry=params["dry"]),
        }
    if operation == "finish":
        failed, message, hold = params["failed"], params["message"], params["hold"]
        ending = finish_run(run, asked, params["roles"], failed=failed, message=message, hold=hold)
        return {"phase": "finish", "ending": ending}
    if operation == "release":
        return {"phase": "release", "text": release_quarantine(run, str(asked.get("rollback_release") or ""))}
    return {"phase": "status", "status": describe(run["state"])}
