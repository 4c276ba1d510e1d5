# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service's store knows, for people: what is damaged is named, the rest is told all the same."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from . import outcome
from .errors import RollbackError
from .journal import fence_is_closed, is_stranded
from .ledger import DAMAGED
from .plan import Plan, way_out
from .store import DirectoryStore, Lease, Store, host_name, open_store

SHOWN_RUNS = 20


def describe(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the store knows, for `rollbackctl status`: lease, runs, checkpoints, quarantine. Of the runs the
    newest, and the one that stands behind its closed fence however old it is.

    What is damaged is named under "damaged", each with what to type; the rest is told all the same.
    """
    store = open_store(dict(state))
    damaged: list[str] = []
    with _told(damaged):
        store.check_place()
    lease: Lease | None = None
    with _told(damaged):
        lease = store.lease()
    quarantine: list[dict[str, Any]] = []
    with _told(damaged):
        quarantine = store.quarantine()
    newest = store.runs()[-SHOWN_RUNS:]
    with contextlib.suppress(RollbackError):  # what is damaged is named below
        stopped = store.behind_closed_fence(set())
        newest = [*([stopped] if stopped and stopped not in newest else []), *newest]
    runs = [_described(store, identity, damaged) for identity in newest]
    checkpoints = store.checkpoints()
    damaged += [str(document["message"]) for document in checkpoints if document["state"] == DAMAGED]
    return {
        "host": host_name(),
        "machine": _machine(store),
        "lease": {**vars(lease), "ends_in_seconds": round(store.lease_ends_in(lease), 1)} if lease else None,
        "runs": runs,
        "checkpoints": [
            {key: document.get(key, "") for key in ("id", "state", "taken", "proven_at")} for document in checkpoints
        ],
        "quarantine": quarantine,
        "damaged": damaged,
    }


def _machine(store: Store) -> dict[str, Any]:
    """Return who works there, with which Python, and the free space of the state store in bytes; None where it is not
    in a directory."""
    free = None
    if isinstance(store, DirectoryStore):
        there = next(path for path in (store.path, *store.path.parents) if path.exists())
        free = shutil.disk_usage(there).free
    return {"python": platform.python_version(), "user": os.geteuid(), "free_bytes": free}


def _described(store: Store, identity: str, damaged: list[str]) -> dict[str, Any]:
    """Return what is known of one run, and add what of it is damaged."""
    events, damage = store.journal(identity).readable()
    document: Mapping[str, Any] | None = None
    whole = damage is None
    with _told(damaged):
        if damage is not None:
            raise damage
    try:
        document = store.read_plan(identity)
    except RollbackError as error:
        whole = False
        damaged.append(error.said)
    ended = [event for event in events if event["event"] == "finished"]
    begun = next((event for event in events if event["event"] == "opened"), {})
    closed = fence_is_closed(events)
    known = outcome.INTERRUPTED if document else outcome.REFUSED
    return {
        "run": identity,
        "kind": begun.get("kind", ""),
        "level": begun.get("level", 0),
        "outcome": ended[-1]["outcome"] if ended else known if whole else outcome.UNKNOWN,
        "message": ended[-1]["message"] if ended else "",
        "fence": "closed" if closed else "open",
        "next": following(identity, events, document) if document and whole and (closed or not ended) else "",
    }


def following(identity: str, events: list[dict[str, Any]], document: Mapping[str, Any]) -> str:
    """Return the one command that goes on from a run that has not ended, or stands behind its closed fence."""
    with contextlib.suppress(RollbackError):
        if is_stranded(events):
            return way_out(Plan.from_dict(document))
    return f"rollbackctl resume {identity}"


@contextlib.contextmanager
def _told(damaged: list[str]) -> Iterator[None]:
    """Go on where something cannot be read, and note what that is and what to type."""
    try:
        yield
    except RollbackError as error:
        damaged.append(error.said)
