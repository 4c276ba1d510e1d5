# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking back what a run changed, after it failed: all of it or nothing, and never past what users wrote since."""

from __future__ import annotations

import time
from dataclasses import replace

from .component import BETWEEN, TARGET, Driver, Entry, Version, is_fence
from .errors import StepFailed
from .fence import CLOSINGS, closed_again, require_fence, started_again
from .journal import Journal, fence_is_closed, written_since_applied
from .readback import CAPTURED_LAYERS, captured, place_of, reads_as_kept
from .work import Work, other


def undo(work: Work) -> None:
    """Take back what this run changed, all of it or nothing: data that was written to since is never thrown away."""
    events = work.store.journal(str(work.run["id"])).events()
    begun = {event["component"] for event in events if event["event"] == "begin"}
    plan = work.plan

    def prove(journal: Journal) -> None:
        if begun:
            require_fence(work, journal)
            closed_again(work, journal)
        for driver in work.drivers:
            entry = plan.entry(driver.name)
            if entry is not None and entry.action == "change" and driver.name in begun:
                _refuse_to_lose_writes(work, driver, entry, journal)

    def take_back(driver: Driver, entry: Entry, journal: Journal) -> None:
        if driver.name in begun:
            _take_back(work, driver, entry, journal)

    def start_anew(driver: Driver, entry: Entry, journal: Journal) -> None:
        began = time.monotonic()
        if is_fence(driver) and fence_is_closed(journal.events()):
            return
        # A place of its own: what was restarted for the change is restarted once more for taking it back.
        again = work.store.kept_shelf(str(work.run["id"]), driver.name, "taken-back")
        driver.place = replace(driver.place, work=again)
        journal.append("restarting", component=driver.name)
        driver.apply(entry.live)
        journal.append("restarted", component=driver.name)
        work.note(driver.name, "changed", "restarted", began, driver.live(exact=True).text)

    work.each(take_back, first=prove)
    if begun:
        work.each(start_anew, ("follow",))


def _take_back(work: Work, driver: Driver, entry: Entry, journal: Journal) -> None:
    """Bring one component back to what was kept of it, and read that back."""
    began = time.monotonic()
    before = captured(work.store, str(work.run["id"]), driver.name)
    for _try in range(CLOSINGS):
        reading = driver.live(exact=True)
        if before is None or driver.matches(reading, before, exact=True):
            work.note(driver.name, "already", entry.live.text, began, reading.text)
            return
        state, reading = driver.state(entry, opened=False)
        if state not in (TARGET, BETWEEN) and not reads_as_kept(driver, reading, before):
            raise other(driver, entry, reading)
        # Asked last, as before a change: what was started behind the fence may have written since it was read.
        again = closed_again(work, journal) if driver.layer in CAPTURED_LAYERS else []
        if not again:
            break
    else:
        raise started_again(work, again)
    journal.append("reverse", component=driver.name)
    driver.apply(before)
    reading = driver.live(exact=True)
    if not driver.matches(reading, before, exact=True):
        raise StepFailed(f"{driver.name} was to go back to {before.text} but reads as {reading.text}.")
    journal.append("reversed", component=driver.name, read_back=reading.text)
    work.note(driver.name, "changed", before.text, began, reading.text)


def _refuse_to_lose_writes(work: Work, driver: Driver, entry: Entry, journal: Journal) -> None:
    """Stop before anything is taken back when the data is no longer what this run made of it. A revision does not show
    rows: what going back would throw away is compared, once traffic may have written.

    :raises StepFailed: somebody wrote to it.
    """
    driver.place = place_of(work.store, work.run, driver)
    before = captured(work.store, str(work.run["id"]), driver.name)
    state, reading = driver.state(entry, opened=False)
    if state in (TARGET, BETWEEN) or reads_as_kept(driver, reading, before):
        lost = _loss(driver, reading, before) if written_since_applied(journal.events(), driver.name) else ""
        if not lost:
            return
        reading = replace(reading, text=f"{reading.text}, with {lost}")
    if driver.layer not in CAPTURED_LAYERS:
        raise other(driver, entry, reading)
    raise StepFailed(
        f"{driver.name} reads as {reading.text}: it was written to after the change, and nothing automatic "
        "throws such writes away. Nothing was taken back.",
        f"rollbackctl resume {work.run['id']}    or    rollbackctl undo {work.run['id']}",
    )


def _loss(driver: Driver, reading: Version, before: Version | None) -> str:
    """Return what going back to what was kept would throw away of a schema's rows; empty when that is nothing."""
    if driver.layer != "schema" or before is None or driver.matches(reading, before, exact=True):
        return ""
    loss = driver.check(reading, before).loss
    return loss.text if loss else ""
