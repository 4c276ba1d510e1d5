# SPDX-License-Identifier: GPL-3.0-or-later
"""The run record: what happened in a run, when, to what, and how it ended. The callback plugin fills it."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import outcome
from .durable import now, parse_time, write_atomic
from .names import printable
from .store import host_name

SCHEMA = 1
VERSION = "0.1.0"
RECORDS_VARIABLE = "ROLLBACKCTL_RECORDS"
# Where the record goes while its own folder takes none; the wrapper sets it, and looks there too.
SPARE_VARIABLE = "ROLLBACKCTL_SPARE_RECORDS"
NO_SERVICE = "Refused, nothing was changed: no service was named, or none matched, so nothing ran."


def records_directory(*, dry: bool) -> Path | None:
    """Return where this controller keeps records. A run that only looks keeps one only where it is told to."""
    named = os.environ.get(RECORDS_VARIABLE)
    if named:
        return Path(named)
    if dry:
        return None
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "rollbackctl" / "records"


class Record:
    """One run's record, grown event by event and written after each."""

    def __init__(self, *, run: str, kind: str, directory: Path | None, **facts: Any) -> None:
        """Begin a record whose outcome is `interrupted` until something better is known."""
        self.directory = directory
        self._failed = False
        self.began = time.monotonic() - _process_age()
        self.budgets: dict[str, Any] = {}
        self.document: dict[str, Any] = {
            "schema": SCHEMA,
            "run": run,
            "attempt": 1,
            "kind": kind,
            "level": facts["level"],
            "playbook": facts["playbook"],
            "check_mode": facts["check_mode"],
            "inventory": facts["inventory"],
            "limit": facts["limit"],
            "outcome": outcome.INTERRUPTED,
            "exit_code": outcome.EXIT_CODES[outcome.INTERRUPTED],
            "message": "The controller ended before the run did.",
            "next": "",
            "reason": printable(facts["reason"]),
            "operator": printable(facts["operator"]) or getpass.getuser(),
            "controller": host_name(),
            "pid": os.getpid(),
            "version": VERSION,
            "started": _utc(time.time() - (time.monotonic() - self.began)),
            "ended": "",
            "seconds": 0.0,
            "budget_seconds": 0.0,
            "over_budget": False,
            "strict_budget": False,
            "phases": [],
            "services": {},
            "component_seconds": 0.0,
            "overhead_seconds": 0.0,
        }

    # -- events ------------------------------------------------------------------------------------------------------

    def begin_phase(self, name: str) -> None:
        """Note that a phase begins, unless it is the one under way."""
        phases = self.document["phases"]
        if phases and phases[-1]["name"] == name:
            return
        offset = time.monotonic() - self.began
        self._close_phase()
        budget = float((self.budgets.get("phases") or {}).get(name, 0))
        phases.append(
            {
                "name": name,
                "started": now(),
                "offset": round(offset, 3),
                "seconds": 0.0,
                "budget_seconds": budget,
                "status": "ok",
            }
        )

    def take(self, service: str, phase: str, result: Mapping[str, Any], *, failed: bool) -> None:
        """Take in what a task of the engine returned for a service."""
        found = self._service(service)
        facts = result.get("rollbackctl") or {}
        failure = str(result.get("rollbackctl_failure") or "")
        self._close_phase()
        if failed or failure:
            self._phase_failed(phase)
            if phase != "finish":
                found["message"] = printable(failure or str(result.get("msg", "")))
        self._take_run(facts)
        ended = time.monotonic() - self.began
        placed = []
        for step in reversed(facts.get("steps") or []):
            ended -= step["seconds"]
            placed.append({**step, "offset": round(max(0.0, ended), 3)})
            self.document["component_seconds"] = round(self.document["component_seconds"] + step["seconds"], 4)
        found["steps"] += reversed(placed)
        checks = facts.get("checks") or []
        found["checks"] += [{"phase": phase, **check} for check in checks]
        if checks:
            # They run at the same time: what they took is the longest of them.
            longest = max(float(check["seconds"]) for check in checks)
            self.document["component_seconds"] = round(self.document["component_seconds"] + longest, 4)
        found["problems"] += [printable(problem) for problem in facts.get("problems") or []]
        if facts.get("plan"):
            found["plan"] = _shown_plan(facts["plan"])
        if facts.get("fence"):
            found["fence"] = _fence({**(found["fence"] or {}), **facts["fence"]})
        if facts.get("status"):
            found["status"] = facts["status"]
        if facts.get("ending"):
            self._take_ending(found, facts["ending"])

    def refuse(self, problems: list[str]) -> None:
        """End the record of a run that was refused before any service was known."""
        word = outcome.REFUSED
        self.document.update(
            outcome=word,
            exit_code=outcome.EXIT_CODES[word],
            message=printable("Refused, nothing was changed: " + "; ".join(problems)),
            ended=now(),
        )

    def end(self) -> None:
        """Judge the run from its services. One without an ending counts as unknown; without any, nothing ran."""
        self._close_phase()
        document = self.document
        for found in document["services"].values():
            if not found["outcome"]:
                found["outcome"] = outcome.UNKNOWN
        word = outcome.worst([found["outcome"] for found in document["services"].values()])
        chosen = next((found for found in document["services"].values() if found["outcome"] == word), None)
        document["ended"] = now()
        document["seconds"] = round(time.monotonic() - self.began, 3)
        budget = self.budgets.get(f"level{document['level']}") or self.budgets.get(document["kind"]) or 0
        document["budget_seconds"] = float(budget)
        document["over_budget"] = bool(budget) and document["seconds"] > float(budget)
        document["outcome"] = word
        document["exit_code"] = outcome.exit_code(
            word, over_strict_budget=document["over_budget"] and document["strict_budget"]
        )
        document["message"] = chosen["message"] if chosen else NO_SERVICE
        document["next"] = chosen["next"] if chosen else "Name a service: --limit SERVICE"
        document["overhead_seconds"] = round(max(0.0, document["seconds"] - document["component_seconds"]), 3)

    def write(self) -> None:
        """Write the record. A record that cannot be written must not stop a rollback: it is said once, on stderr, and
        tried again at the next event."""
        if self.directory is None:
            return
        try:
            self._write_to(self.directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                if not self._failed:
                    self._failed = True
                    os.write(2, f"The run record cannot be written: {error}\n".encode())
            with contextlib.suppress(OSError):
                if os.environ.get(SPARE_VARIABLE):
                    self._write_to(Path(os.environ[SPARE_VARIABLE]))

    def _write_to(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(self.document, indent=1, ensure_ascii=False)
        write_atomic(directory / f"{self.document['run']}.json", text.encode())

    @property
    def path(self) -> str:
        """Where the record is; empty where none is kept."""
        return str(self.directory / f"{self.document['run']}.json") if self.directory else ""

    # -- parts -------------------------------------------------------------------------------------------------------

    def _service(self, name: str) -> dict[str, Any]:
        blank: dict[str, Any] = {
            "outcome": "", "message": "", "next": "", "plan": None, "steps": [], "checks": [], "fence": None,
            "set_aside": [], "quarantined": "", "problems": [],
        }  # fmt: skip
        found: dict[str, Any] = self.document["services"].setdefault(name, blank)
        return found

    def _close_phase(self) -> None:
        if self.document["phases"]:
            last = self.document["phases"][-1]
            last["seconds"] = round(time.monotonic() - self.began - last["offset"], 3)

    def _phase_failed(self, name: str) -> None:
        for phase in reversed(self.document["phases"]):
            if phase["name"] == name:
                phase["status"] = "failed"
                return

    def _take_run(self, facts: Mapping[str, Any]) -> None:
        """Take in what the guard opened: a resumed run keeps its id, and its earlier record is kept beside."""
        run = facts.get("run")
        if facts.get("phase") not in ("guard", "panic") or not run:
            return
        self.budgets = dict(facts.get("budgets") or {})
        for phase in self.document["phases"]:  # the guard's own, which began before its budget was known
            phase["budget_seconds"] = float((self.budgets.get("phases") or {}).get(phase["name"], 0))
        self.document["strict_budget"] = bool(facts.get("strict"))
        self.document["reason"] = self.document["reason"] or printable(str(run.get("reason", "")))
        if run["id"] == self.document["run"]:
            return
        with contextlib.suppress(OSError):  # a folder that takes nothing: write() says so
            self._keep_earlier(str(run["id"]))
        self.document["run"] = run["id"]

    def _keep_earlier(self, run: str) -> None:
        if self.directory is not None:
            (self.directory / f"{self.document['run']}.json").unlink(missing_ok=True)
            earlier = self.directory / f"{run}.json"
            if earlier.exists():
                attempt = 1
                while (self.directory / f"{run}.{attempt}.json").exists():
                    attempt += 1
                os.replace(earlier, self.directory / f"{run}.{attempt}.json")
                self.document["attempt"] = attempt + 1

    def _take_ending(self, found: dict[str, Any], ending: Mapping[str, Any]) -> None:
        found["outcome"] = ending["outcome"]
        found["message"] = printable(str(ending["message"]))
        found["next"] = "\n".join(map(printable, str(ending.get("next", "")).splitlines()))
        found["set_aside"] = ending.get("set_aside") or []
        found["quarantined"] = printable(str(ending.get("quarantined") or ""))
        for entry in (found["plan"] or {}).get("entries", ()):
            if entry["name"] in (ending.get("losses") or {}):
                entry["finding"]["loss"] = ending["losses"][entry["name"]]
        for key in ("checkpoint", "notes"):
            if ending.get(key):
                found[key] = ending[key]


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _process_age() -> float:
    """Return for how long (seconds) this process has run: a rollback's time counts from the command, not from the first
    event. Field 22 of /proc/self/stat is the start in clock ticks since boot (proc(5))."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        ticks = int(stat.rpartition(")")[2].split()[19])
        return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def _shown_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a plan the record shows: texts, no artefacts."""
    return {
        "id": plan["run"],
        **{
            k: plan[k] for k in ("hash", "checkpoint", "data_loss_since", "seconds", "worst_seconds", "fence", "undoes")
        },
        "notes": list(plan["notes"]),
        "entries": [
            {
                **{key: entry[key] for key in ("name", "role", "layer", "action")},
                "live": {"text": entry["live"]["text"]},
                "target": {"text": entry["target"]["text"]},
                "finding": {key: entry["finding"][key] for key in ("seconds", "worst_seconds", "notes", "loss")},
            }
            for entry in plan["entries"]
        ],
    }


def _fence(fence: dict[str, Any]) -> dict[str, Any]:
    closed, opened = fence.get("closed", ""), fence.get("opened", "")
    seconds = (parse_time(opened) - parse_time(closed)).total_seconds() if closed and opened else 0.0
    return {"closed": closed, "opened": opened, "seconds": seconds, "by": fence.get("by", "")}
