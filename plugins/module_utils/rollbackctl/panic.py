# SPDX-License-Identifier: GPL-3.0-or-later
"""Panic: one service to its last known good, at once, without questions, going on past what is broken and saying so.

The parts are those of any run (lease, plan, journal, read-back), so a panic can be taken back. What differs: a
component that cannot be put back does not stop the others, and without a ledger the targets that need none are still
reached.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import outcome
from .component import Driver
from .errors import LeaseHeld, RollbackError
from .names import printable
from .phases import run_phase
from .readback import blank_place
from .registry import drivers_of
from .runs import finish_run, open_run, plan_run
from .store import Store, open_store

KIND = "panic"
BUDGET_SECONDS = 120.0
DONE, ALREADY, NOT_DONE = "changed", "already", "failed"
Roles = Sequence[Mapping[str, Any]]


class Panic:
    """One service's panic: what was done, and what could not be."""

    def __init__(self, run: dict[str, Any], service: Mapping[str, Any], roles: Roles, *, dry: bool) -> None:
        """Name the run as the guard would, the profile's rollback_service, and the components by role."""
        self.run, self.service, self.roles, self.dry = run, service, roles, dry
        self.facts: dict[str, Any] = {"phase": KIND, "steps": [], "problems": [], "plan": None}
        # One for all parts of it: its connections stay open, and its lease need not be read again.
        self.store: Store | None = None

    def go(self) -> dict[str, Any]:
        """Do it and return the facts for the record, with the ending."""
        try:
            self.store = open_store(dict(self.run["state"]))
        except RollbackError as error:
            return self._without_ledger(error)
        with self.store.whole():
            ended = self._change(self.store)
        if ended:
            return self.facts
        self._phase("verify")
        return self._finish()

    def _change(self, store: Store) -> bool:
        """Open the run, plan it and put everything back; say whether it has ended with that already."""
        try:
            named = {"rollback_run": self.run.get("named", "")}
            opened = open_run(self.run, self.service, named, dry=self.dry, store=store)
        except LeaseHeld as error:
            self._end(outcome.REFUSED, f"{error.message} Nothing was changed.", error.next_step)
            return True
        except RollbackError as error:
            self._without_ledger(error)
            return True
        self.run.update(opened, service=self.service["name"], to={})
        self.facts["run"] = self.run
        if not self._plan():
            self._finish()
            return True
        if self.dry:
            self._end(outcome.DONE, "This is what would be done.", "")
            return True
        for entry in self.facts["plan"]["entries"]:
            if entry["action"] == "change":
                self._phase("rollback", only=entry["name"])
        return False

    def _plan(self) -> bool:
        """Find out what can be put back and write that down; what cannot is a problem, not an end."""
        proposals = self._phase("preflight")
        fit = []
        for proposal in proposals:
            wrong = proposal["finding"]["problems"]
            self.facts["problems"] += wrong
            if not wrong:
                fit.append(proposal)
        if not fit:
            return False
        try:
            policy = {"rollback_on_failure": "hold"}
            planned = plan_run(self.run, policy, fit, fences=False, dry=self.dry, store=self.store)
        except RollbackError as error:
            self.facts["problems"].append(error.message)
            return False
        self.facts["problems"] += planned["problems"]
        self.facts["plan"] = planned["plan"]
        return not planned["problems"]

    def _phase(self, phase: str, only: str = "") -> list[dict[str, Any]]:
        """Run one phase, of one component or of all; keep what it says."""
        told = {**self.run, "only": only}
        result = run_phase({"phase": phase, "roles": self.roles, "run": told}, check_mode=self.dry, store=self.store)
        found = result["rollbackctl"]
        self.facts["steps"] += found["steps"]
        if result.get("failed"):
            self.facts["problems"].append(result["msg"])
        proposals: list[dict[str, Any]] = found["proposals"]
        return proposals

    def _finish(self) -> dict[str, Any]:
        problems = self.facts["problems"]
        if self.dry:
            return self._end(outcome.REFUSED if problems else outcome.DONE, "; ".join(problems), "")
        try:
            message = " ".join(problems)
            ending = finish_run(self.run, {}, self.roles, failed=bool(problems), message=message, store=self.store)
        except RollbackError as error:
            said = f"{' '.join(problems)} The run could not be ended: {error.message}".strip()
            return self._end(outcome.UNKNOWN, said, "rollbackctl status")
        if problems and ending["outcome"] == outcome.RESUMABLE:
            ending["message"] = f"Not all could be put back. {ending['message']}"
        self.facts["ending"] = ending
        return self.facts

    def _end(self, word: str, message: str, following: str) -> dict[str, Any]:
        self.facts["ending"] = {"outcome": word, "message": message or outcome.MEANINGS[word], "next": following}
        return self.facts

    def _without_ledger(self, reason: RollbackError) -> dict[str, Any]:
        """Reach the targets that need no ledger: traffic to what the profile calls stable, canaries stopped."""
        problems = [f"The ledger could not be used: {reason.message}"]
        try:
            place = blank_place(open_store(dict(self.run["state"])), self.run)
            # Without a lease there is none to lose.
            drivers = drivers_of(self.roles, replace(place, cluster=replace(place.cluster, prove=_always)))
        except RollbackError as error:
            return self._end(outcome.REFUSED, f"{problems[0]} {error.message} Nothing was changed.", error.next_step)
        reached = sum(self._blindly(driver, problems) for driver in drivers)
        self.facts["problems"] = problems
        word = outcome.UNKNOWN if reached or not self.dry else outcome.REFUSED
        return self._end(word, " ".join(problems), "Mend what is named above, then panic again.")

    def _blindly(self, driver: Driver, problems: list[str]) -> bool:
        began = time.monotonic()
        want = driver.stable()
        if want is None:
            problems.append(f"{driver.name}: its last known good is only in the ledger.")
            return False
        try:
            target = driver.resolve(want)
            present = driver.live(exact=True)
            status = ALREADY if driver.matches(present, target, exact=True) else DONE
            if status == DONE and not self.dry:
                driver.apply(target)
                present = driver.live(exact=True)
                if not driver.matches(present, target, exact=True):
                    problems.append(f"{driver.name} reads as {present.text}, not as {target.text}.")
                    status = NOT_DONE
        except RollbackError as error:
            problems.append(f"{driver.name}: {error.message}")
            return False
        self.facts["steps"].append({
            "phase": KIND,
            "role": next((item["role"] for item in self.roles if _has(item, driver.name)), ""),
            "component": driver.name,
            "status": status,
            "text": printable(target.text),
            "read_back": printable(present.text),
            "seconds": round(time.monotonic() - began, 4),
        })  # fmt: skip
        return status == DONE


def _always() -> None:
    """Prove nothing: there is no lease."""


def _has(item: Mapping[str, Any], name: str) -> bool:
    return any(options["name"] == name for options in item["components"])


def lines(service: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the rows of the status table for one service."""
    ending = facts["ending"]
    rows = [f"{service}: {outcome.MEANINGS[ending['outcome']]}"]
    rows += [
        f"  {step['component']}: {step['status']}, {step['read_back'] or step['text']}"
        for step in facts["steps"]
        if step["phase"] in ("rollback", KIND)
    ]
    rows += [f"  NOT DONE: {printable(str(problem))}" for problem in facts["problems"]]
    if ending.get("next"):
        rows.append(f"  next: {ending['next']}")
    return rows
