# SPDX-License-Identifier: GPL-3.0-or-later
"""What taking a run back needs: which run, where none is named, and that all of what it changed can be brought back."""

from __future__ import annotations

from . import outcome
from .component import LIVE, Driver, Entry
from .errors import Refused, RollbackError
from .plan import Plan
from .readback import blank_place, kept_before, place_of
from .store import Store
from .work import Work

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


def undone_plan(work: Work) -> Plan:
    """Return the plan of the run that an undo takes back.

    :raises Refused: it is not there any more.
    """
    document = work.store.read_plan(str(work.run["undoes"]))
    if document is None:
        raise Refused(f"Run {work.run['undoes']} has no plan in {work.store.where}. Nothing was changed.")
    return Plan.from_dict(document)


def require_whole(work: Work) -> None:
    """Prove that everything that a run changed can be brought back: half an undo would leave a service that never was.

    :raises Refused: a component of that run is not in the profile any more, or nothing was kept of one that it changed.
    """
    undone = str(work.run["undoes"])
    ended = [event for event in work.store.journal(undone).events() if event["event"] == "finished"]
    if ended and ended[-1]["outcome"] in _WITHOUT_EFFECT:
        return
    known = {driver.name: driver for driver in work.drivers}
    only = work.run.get("components") or [entry.name for entry in undone_plan(work).entries]
    wrong = []
    for entry in undone_plan(work).entries:
        if entry.action != "change" or entry.name not in only:
            continue
        driver = known.get(entry.name)
        if driver is None:
            wrong.append(f"{entry.name} ({entry.role}) was changed by it and is not in the profile any more")
        elif kept_before(work.store, undone, entry.name) is None and (text := _not_as_before(work, driver, entry)):
            wrong.append(f"nothing was kept of {entry.name}, and {text}")
    if wrong:
        raise Refused(
            f"Run {undone} cannot be taken back as a whole: {'; '.join(wrong)}. Nothing was changed.",
            "Give it its name in the profile again; or take back only what can be: name that with rollback_components.",
        )


def _not_as_before(work: Work, driver: Driver, entry: Entry) -> str:
    """Return how a component reads of which a run kept nothing, unless that is how it was before that run."""
    driver.place = place_of(work.store, {**work.run, "id": work.run["undoes"]}, driver)
    try:
        state, reading = driver.state(entry, opened=True)
    except (RollbackError, OSError) as error:
        return f"it cannot be read ({error})"
    finally:
        driver.place = blank_place(work.store, work.run)
    return "" if state == LIVE else f"it reads as {reading.text}, not as {entry.live.text}, which it was before"
