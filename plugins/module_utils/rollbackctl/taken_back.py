# SPDX-License-Identifier: GPL-3.0-or-later
"""Which run of a kind is the newest that was not taken back: what resume-traffic takes back where no run is named."""

from __future__ import annotations

from . import outcome
from .errors import Refused
from .store import Store

_UNDONE = (outcome.DONE, outcome.ALREADY)
_WITHOUT_EFFECT = (outcome.REFUSED, outcome.RESTORED)


def newest_to_take_back(store: Store, kind: str) -> str:
    """Return the newest run of a kind that changed something and was not taken back.

    :raises Refused: there is none.
    """
    taken_back: set[str] = set()
    for run in reversed(store.runs()):
        document = store.read_plan(run)
        if document is None:
            continue
        events = store.journal(run).events()
        ended = [str(event["outcome"]) for event in events if event["event"] == "finished"][-1:]
        if document["kind"] == "undo" and ended and ended[0] in _UNDONE:
            taken_back.add(str(document["undoes"]))
        changed = any(event["event"] == "begin" for event in events) and not set(ended) & set(_WITHOUT_EFFECT)
        if document["kind"] == kind and changed and run not in taken_back:
            return run
    raise Refused(
        f"There is no {kind} of this service that is still to be taken back. Nothing was changed.", "rollbackctl status"
    )
