# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: which checkpoints are proven, and which combinations must not come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .durable import digest, parse_time
from .errors import Refused, RollbackError
from .plan import Plan, is_quarantined
from .store import Store

CANDIDATE, PROVEN, DAMAGED = "candidate", "proven", "damaged"


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
