# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run kept of its service, as the plan of a finalize: shown and approved before it is removed for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .component import Entry, Finding, Version
from .durable import digest, now
from .plan import Plan
from .readback import captured
from .store import Store

REMOVED = Version(identity={}, text="nothing: the way back is removed")


def kept_plan(store: Store, run: Mapping[str, Any], approved: str) -> tuple[Plan, list[str]]:
    """Return what finalizing a run removes, and why that is not what was approved.

    :param run: the finalize, as the guard opened it; `undoes` is the run whose way back is removed.
    :param approved: beginning of the hash of the plan that somebody said yes to; empty when nobody was asked.
    """
    of = str(run["undoes"])
    document = store.read_plan(of) or {}
    entries = []
    for entry in Plan.from_dict(document).entries if document else ():
        kept = captured(store, of, entry.name)
        if kept is not None:
            finding = Finding(seconds=0.0, worst_seconds=0.0, notes=(f"kept at {kept.at}",) if kept.at else ())
            entries.append(Entry(entry.name, entry.role, entry.layer, kept, REMOVED, "remove", finding))
    plan = Plan(
        run=str(run["id"]),
        kind="finalize",
        level=0,
        service=str(run["service"]),
        checkpoint="",
        created=now(),
        entries=tuple(entries),
        hash=digest([of, [{"name": entry.name, "kept": dict(entry.live.identity)} for entry in entries]]),
        notes=() if entries else (f"Run {of} kept nothing.",),
        undoes=of,
    )
    if approved and not plan.hash.startswith(approved):
        return plan, [
            f"What is kept is no longer what was approved ({approved}): it is now {plan.hash[:12]}. Look at it again."
        ]
    return plan, []
