# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: which checkpoints are proven, and which combinations must not come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .component import Entry
from .durable import digest, parse_time
from .errors import Refused, RollbackError
from .names import name_a_version
from .plan import Plan, is_quarantined
from .store import Store

CANDIDATE, PROVEN, DAMAGED = "candidate", "proven", "damaged"
NONE_PROVEN = "There is no proven checkpoint"


def checkpoint_combination(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identities of a checkpoint's components, without those that change with every write."""
    exact = document.get("exact_keys", {})
    return {
        name: {key: value for key, value in version["identity"].items() if key not in exact.get(name, ())}
        for name, version in document.get("components", {}).items()
    }


def choose_checkpoint(store: Store, named: str) -> str:
    """Return the checkpoint to go back to: the one that was named, else the newest proven one that is not quarantined.
    Empty when there is none: each component must then be named.

    :raises Refused: the named one does not exist or is damaged; the candidates are listed.
    """
    known = store.checkpoints()
    if named:
        document = next((document for document in known if document["id"] == named), None)
        if document is None or document["state"] == DAMAGED:
            listed = ", ".join(f"{d['id']} ({d['state']})" for d in known) or "none"
            what = "is damaged" if document else "does not exist"
            raise Refused(f"Checkpoint {named!r} {what}. Known: {listed}. Nothing was changed.")
        return named
    try:
        quarantine = store.quarantine()
    except RollbackError:
        quarantine = []  # the plan names it, and is not carried out
    for document in known:
        if document["state"] == PROVEN and not is_quarantined(checkpoint_combination(document), quarantine):
            return str(document["id"])
    return ""


def no_target(name: str, checkpoints: Sequence[Mapping[str, Any]], chosen: str, choices: Sequence[str]) -> Refused:
    """Return the refusal of a component that nothing names a target for, with what can be typed to name one.

    :param checkpoints: those of the service, newest first.
    :param chosen: the checkpoint of the run, which does not hold the component; empty when none is proven.
    :param choices: what the component itself knows to go back to.
    """
    able = [d for d in checkpoints if d["state"] in (CANDIDATE, PROVEN) and name in d.get("components", {})]
    # A proven one that was not chosen holds what was rolled back before.
    words = {CANDIDATE: CANDIDATE, PROVEN: PROVEN if chosen else "proven, but quarantined"}
    listed = [f"{document['id']} ({words[document['state']]}, {document['taken']})" for document in able]
    listed += [f"{document['id']} (damaged)" for document in checkpoints if document["state"] == DAMAGED]
    candidates = [document for document in able if document["state"] == CANDIDATE]
    others = [choice.partition(" ")[2] for choice in choices if ", live" not in choice]  # "deployment/api revision:2 ("
    named = name_a_version(name, others[0].partition(" ")[0] if others else "VERSION")
    if chosen:
        other = f"rollback_checkpoint={able[0]['id']}" if able else named
        return Refused(f"Checkpoint {chosen} does not hold {name}. Held by: {', '.join(listed) or 'none'}.", other)
    if candidates:
        return Refused(
            f"{NONE_PROVEN} to go back to. Candidates: {', '.join(listed)}.",
            f"To go back to the newest: rollback_checkpoint={candidates[0]['id']}. A candidate becomes proven by "
            "the next checkpoint that is taken after rollback_soak_seconds and still finds the service as it was.",
        )
    known = ", ".join([*listed, *choices]) or "none"
    return Refused(
        f"{NONE_PROVEN} to take {name} back to. Candidates: {known}. "
        "Name one with rollback_checkpoint, or this component's version with rollback_to.",
        named,
    )


def newer_candidate(store: Store, chosen: str, entries: Sequence[Entry]) -> str:
    """Return a note when a newer checkpoint is the same but for the data, only not proven yet; else an empty string.

    :param chosen: the checkpoint of the plan; empty when each component was named.
    :param entries: the plan's.
    """
    if not chosen or not any(entry.layer == "data" and entry.action == "change" for entry in entries):
        return ""
    same = [entry.name for entry in entries if entry.layer in ("application", "schema") and entry.action != "follow"]
    checkpoints = store.checkpoints()
    held = {document["id"]: checkpoint_combination(document) for document in checkpoints}
    for document in checkpoints:
        if document["id"] == chosen:
            break
        alike = all(held[document["id"]].get(name) == held.get(chosen, {}).get(name) for name in same)
        if document["state"] == CANDIDATE and alike:
            return (
                f"{document['id']}, taken {document['taken']}, is newer and has the same code and schema; it is not "
                f"proven yet. Less is lost with rollback_checkpoint={document['id']}."
            )
    return ""


def finish_checkpoint(store: Store, run: Mapping[str, Any], soak_seconds: float | None) -> str:
    """Write the checkpoint from what the roles recorded, and promote candidates that have held long enough.

    A candidate is promoted when the checks passed (they did, or this is not reached), its soak time (seconds) is over
    and what it recorded is still what is live. Without a soak time (an adopted checkpoint) nothing is promoted.

    :return: one line about the checkpoint, for people.
    """
    recorded = [event for event in store.journal(str(run["id"])).events() if event["event"] == "recorded"]
    document = {
        "id": run["checkpoint"],
        "state": CANDIDATE,
        "number": int(run["token"]),
        "taken": store.now(),
        "proven_at": "",
        "run": run["id"],
        "reason": run.get("reason", ""),
        "components": {event["component"]: event["version"] for event in recorded},
        "exact_keys": {event["component"]: event["exact_keys"] for event in recorded},
    }
    live = checkpoint_combination(document)
    if is_quarantined(live, store.quarantine()):
        document["state"] = "quarantined"
        store.write_checkpoint(document)
        return f"{document['id']} was taken, but it holds a quarantined combination and is never chosen."
    store.write_checkpoint(document)
    promoted = []
    moment = store.now()
    for candidate in store.checkpoints() if soak_seconds is not None else ():
        held = (parse_time(moment) - parse_time(candidate["taken"])).total_seconds() if candidate["taken"] else -1.0
        if (
            candidate["state"] == CANDIDATE
            and held >= (soak_seconds or 0.0)
            and checkpoint_combination(candidate) == live
        ):
            store.write_checkpoint({**candidate, "state": PROVEN, "proven_at": moment})
            promoted.append(candidate["id"])
    state = PROVEN if document["id"] in promoted else CANDIDATE
    others = [identity for identity in promoted if identity != document["id"]]
    return f"{document['id']} is {state}" + (f"; promoted {', '.join(others)}" if others else "")


def quarantine_combination(store: Store, plan: Plan, bad: Mapping[str, Any], reason: str) -> str:
    """Remember a combination that was rolled back, once; return one line about it."""
    identity = f"q-{digest(bad)[:12]}"
    known = store.quarantine()
    if all(entry["id"] != identity for entry in known):
        texts = {entry.name: entry.live.text for entry in plan.entries if entry.name in bad}
        entry = {
            "id": identity,
            "since": store.now(),
            "run": plan.run,
            "reason": reason,
            "combination": dict(bad),
            "texts": texts,
        }
        store.write_quarantine([*known, entry])
    return f"{identity}: " + ", ".join(f"{entry.name} {entry.live.text}" for entry in plan.entries if entry.name in bad)


def lift_quarantine(store: Store, run: str) -> None:
    """Forget what a run quarantined: the operator took the service forward to it again."""
    store.write_quarantine([entry for entry in store.quarantine() if entry["run"] != run])


def release(store: Store, identity: str) -> str:
    """Release one quarantined combination; return one line about it.

    :raises Refused: there is none of that id.
    """
    known = store.quarantine()
    if all(entry["id"] != identity for entry in known):
        listed = ", ".join(entry["id"] for entry in known) or "none"
        raise Refused(f"Nothing is quarantined as {identity!r}. Quarantined: {listed}.")
    store.write_quarantine([entry for entry in known if entry["id"] != identity])
    return f"{identity} was released"
