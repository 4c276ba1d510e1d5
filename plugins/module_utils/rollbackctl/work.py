# SPDX-License-Identifier: GPL-3.0-or-later
"""One phase of one service while it is done: what its functions share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .component import Driver, Entry, FenceDriver, Version, is_fence
from .errors import Refused, StateOther
from .journal import Journal
from .names import printable
from .plan import Plan
from .readback import place_of
from .step import changing_step, deadline
from .store import Store

MINIMUM_DEADLINE_SECONDS = 30.0


@dataclass
class Work:
    """One phase of one service: its run, its components in the level's order, and what came of each."""

    phase: str
    run: Mapping[str, Any]
    store: Store
    drivers: list[Driver] = field(default_factory=list)
    role_of: dict[str, str] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, status: str, text: str, began: float, read_back: str = "") -> None:
        """Add one component's line to the result. began: from time.monotonic()."""
        self.steps.append(
            {
                "phase": self.phase,
                "role": self.role_of[name],
                "component": name,
                "status": status,
                "text": printable(text),
                "read_back": printable(read_back),
                "seconds": round(time.monotonic() - began, 4),
            }
        )

    @cached_property
    def plan(self) -> Plan:
        """The run's plan from the store; no phase changes it, so it is read once."""
        document = self.store.read_plan(str(self.run["id"]))
        if document is None:
            raise Refused(f"Run {self.run['id']} has no plan in {self.store.where}. Nothing was changed by this step.")
        return Plan.from_dict(document)

    @cached_property
    def checkpoints(self) -> list[dict[str, Any]]:
        """The service's checkpoints, newest first, read once for all components."""
        return self.store.checkpoints()

    @property
    def fences(self) -> list[FenceDriver]:
        """The service's fences, each in its place of this run."""
        found = [driver for driver in self.drivers if isinstance(driver, FenceDriver) and is_fence(driver)]
        for driver in found:
            driver.place = place_of(self.store, self.run, driver)
        return found

    def each(
        self,
        do: Callable[[Driver, Entry, Journal], None],
        actions: tuple[str, ...] = ("change",),
        first: Callable[[Journal], None] = lambda _journal: None,
    ) -> None:
        """Do something with every component that the plan changes, in one changing step; what takes back goes
        backwards. first: done once, inside the lock, before all of them."""
        plan = self.plan
        order = _backwards(self.drivers) if self.phase == "undo" else self.drivers
        only = self.run.get("only")
        todo = [
            (driver, entry)
            for driver in order
            if (entry := plan.entry(driver.name)) and entry.action in actions and only in (None, "", driver.name)
        ]
        if not todo:
            return
        with changing_step(self.store, str(self.run["id"]), int(self.run["token"])) as journal:
            first(journal)
            for driver, entry in todo:
                driver.place = place_of(self.store, self.run, driver)
                driver.entry = entry
                limit = max(MINIMUM_DEADLINE_SECONDS, entry.finding.worst_seconds)
                with deadline(limit, f"{driver.name}, phase {self.phase}"):
                    do(driver, entry, journal)


def _backwards(drivers: list[Driver]) -> list[Driver]:
    """Return the order for taking a run back: the other way round, but for what the others read when they start."""
    first = [driver for driver in drivers if driver.before_others]
    return first + [driver for driver in reversed(drivers) if not driver.before_others]


def other(driver: Driver, entry: Entry, reading: Version) -> StateOther:
    """Return what to say of a component that somebody else changed."""
    return StateOther(
        f"{driver.name} reads as {reading.text}; the plan knows only {entry.live.text} and {entry.target.text}. "
        "Somebody else changed it: it was left as it is.",
        "Find out who did, then start a new run.",
    )
