# SPDX-License-Identifier: GPL-3.0-or-later
"""What the run that asks for checks has changed, read from its journal and plan where the service is.

The host's own clock wrote those times, so they can be compared with start times of processes and with logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .check_model import Context
from .durable import parse_time
from .store import Store, open_store

_WORD = re.compile(r"[\w.+-]*\d[\w.+-]*")


def context_of(run: Mapping[str, Any] | None, *, check_mode: bool, store: Store | None = None) -> Context:
    """Return the context of a run (its `id` and `state`, as the guard opened it); an empty one without a run.

    :param store: the run's state store, where it is open already.
    :raises RollbackError: the state store or the plan in it is damaged.
    """
    if not run or not run.get("id") or not run.get("state"):
        return Context(check_mode=check_mode)
    store = store or open_store(dict(run["state"]))
    events = store.journal(str(run["id"])).events()
    plan = store.read_plan(str(run["id"]))
    begun = [event["at"] for event in events if event["event"] == "begin"]
    ended = [event["at"] for event in events if event["event"] in {"applied", "reversed", "fence-opened"}]
    return Context(
        changed=parse_time(begun[0]) if begun else None,
        loaded=parse_time(loaded_since(events, plan)) if begun else None,
        settled=parse_time(ended[-1]) if begun and ended else None,
        expect=None
        if plan is None
        else {entry["name"]: spellings(entry["target"]) for entry in plan.get("entries", [])},
        check_mode=check_mode,
    )


def loaded_since(events: Sequence[Mapping[str, Any]], plan: Mapping[str, Any] | None) -> str:
    """Return the time (UTC, as in the journal) of the last change that a process has to have been started after.

    A restart is no such change. Behind a fence nothing may be started before the last change has ended; without one,
    what deploys code may itself restart the service before it ends. There is a change in the events.
    """
    restarts = {entry["name"] for entry in (plan or {}).get("entries", []) if entry.get("action") == "follow"}
    fenced = any(event["event"] == "fence-closed" for event in events)
    words = {"begin", "applied"} if fenced else {"begin"}
    changes = [str(event["at"]) for event in events if event["event"] in words]
    times = [str(event["at"]) for event in events if event["event"] in words and event.get("component") not in restarts]
    return times[-1] if times else changes[0]


def spellings(version: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a version may be called: texts of its identity and artefacts, and words with a digit of its text."""
    named = [*_texts(version.get("identity", {}).values()), *_texts(version.get("artefacts", {}).values())]
    return tuple(dict.fromkeys([*named, *_WORD.findall(str(version.get("text", "")))]))


def _texts(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str) and value]
