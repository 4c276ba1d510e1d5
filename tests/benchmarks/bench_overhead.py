# SPDX-License-Identifier: GPL-3.0-or-later
"""What a level costs beside the work itself: the sample service, put back by the playbooks and by a runbook's steps.

Overhead is the time from the command to its end, less the time inside components and checks; for the runbook less the
time inside its commands. Both are measured in turns, on the same service, broken anew each time.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.traffic import Request, Traffic
from tests.benchmarks.rows import row
from tests.support.bench import BIN, Bench

USUAL = Path(__file__).resolve().parent / "usual"
REPEATS = 3
# What each level can put back is what is broken for it.
LEVELS: dict[int, dict[str, Any]] = {1: {"migration": "", "settings": False}, 2: {"migration": ""}, 3: {}}
BARS = {1: 6.0, 2: 6.0, 3: 6.0}
TOTAL_BAR_SECONDS, STAGE_FACTOR = 5.0, 1.1
WAY = "the runbook's steps as a playbook, one command a task"
TASK = re.compile(r"^TASK \[(.*?)\] \**$", re.MULTILINE)
DELTA = re.compile(r'"delta": "(\d+):(\d+):([\d.]+)"')
END = re.compile(r'"end": "([^"]+)"')


def bench() -> list[dict[str, Any]]:
    """Return one line for each level's overhead, and for what users see of a level 3."""
    with tempfile.TemporaryDirectory(prefix="rollbackctl-bench-") as folder:
        rig = Rig(Path(folder))
        try:
            rows = [_overhead(level, *rig.compare(level)) for level in LEVELS]
            return rows + _traffic(*rig.compare(3, users=True))
        finally:
            rig.bench.sample.remove()


def _overhead(level: int, ours: Sequence[dict[str, Any]], usual: Sequence[dict[str, Any]]) -> dict[str, Any]:
    phases = {name: statistics.median(one["phases"].get(name, 0.0) for one in ours) for name in ours[0]["phases"]}
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items())
    total, theirs = (statistics.median(one["total"] for one in runs) for runs in (ours, usual))
    used, used_usual = (statistics.median(one["processor"] for one in runs) for runs in (ours, usual))
    return row(
        f"level {level}: overhead",
        [one["overhead"] for one in ours],
        [one["overhead"] for one in usual],
        way=f"{WAY}: {usual[0]['tasks']} tasks",
        bar_seconds=BARS[level],
        note=f"by phase: {parts}; in total {total:.1f} s and {theirs:.1f} s, "
        f"processor time {used:.1f} s and {used_usual:.1f} s",
        phases=phases,
        processor_seconds=[one["processor"] for one in ours],
        usual_processor_seconds=[one["processor"] for one in usual],
        total_seconds=[one["total"] for one in ours],
        usual_total_seconds=[one["total"] for one in usual],
    )


def _traffic(ours: Sequence[dict[str, Any]], usual: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    work = statistics.median(one["stopped_work"] for one in ours)
    stage = statistics.median(one["stage"] for one in ours)
    bar = TOTAL_BAR_SECONDS + STAGE_FACTOR * stage
    return [
        row(
            "level 3 under traffic: the command's whole time",
            [one["total"] for one in ours],
            [one["total"] for one in usual],
            way=WAY,
            bar_seconds=bar,
            bar=f"<= 1.1 x staging + {TOTAL_BAR_SECONDS:g} s = {bar:.1f} s",
            note=f"staging the database took {stage:.2f} s",
        ),
        row(
            "level 3 under traffic: service stopped",
            [one["stopped"] for one in ours],
            [one["stopped"] for one in usual],
            way="stop, cp, start",
            note=f"ours: {work:.2f} s of it inside components (the swap, settings, files, code, the service's start)",
        ),
        row(
            "level 3 under traffic: longest time without an answer",
            [one["silence"] for one in ours],
            [one["silence"] for one in usual],
            way="stop, cp, start",
            note="20 requests a second; an error page counts as an answer, a refused connection does not",
        ),
    ]


class Rig:
    """A running sample service with a proven checkpoint, and with copies of its parts as a runbook wants them."""

    def __init__(self, folder: Path) -> None:
        """Make it; folder: an empty one."""
        self.bench = Bench(folder)
        self.backup, self.kept = folder / "backup", folder / "kept"
        for where in (self.backup, self.kept):
            (where / "static").mkdir(parents=True)
        sample = self.bench.sample
        self.bench.prove_checkpoint()
        shutil.copytree(sample.static, self.backup / "static", dirs_exist_ok=True)
        shutil.copy2(sample.env_file, self.backup / "shop.env")
        subprocess.run(["sqlite3", sample.databases[0], f".backup {self.backup / 'shop.db'}"], check=True, timeout=60)

    def compare(self, level: int, *, users: bool = False) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Break the service and put it back, ours and the usual way in turns; return what each run cost."""
        found: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for _ in range(REPEATS):
            for run, results in zip((self.ours, self.usual), found, strict=True):
                self.bench.sample.deploy_bad(**LEVELS[level])
                spent = _processor()
                if users:
                    with Traffic(self.bench.sample.url) as traffic:
                        traffic.wait_for(lambda seen: len(seen) >= 20)
                        began = time.time()
                        result = run(level)
                        result["silence"] = _silence(traffic.requests, began, time.time())
                else:
                    result = run(level)
                result["processor"] = _processor() - spent
                status, health = self.bench.sample.get("/health")
                if status != 200:
                    raise RuntimeError(f"level {level} did not bring the service back: {health}")
                results.append(result)
        return found

    def ours(self, level: int) -> dict[str, Any]:
        """Run a level's playbook."""
        values = {"rollback_accept_data_loss_since": self.bench.taken} if level == 3 else {}
        began = time.monotonic()
        ran = self.bench.play(f"rollback-level{level}.yml", rollback_reason="benchmark", **values)
        total = time.monotonic() - began
        if ran.record.get("outcome") != "done":
            raise RuntimeError(f"level {level} ended as {ran.record.get('outcome')}: {ran.said}")
        return {"total": total, **_measured(ran.record, total)}

    def usual(self, level: int) -> dict[str, Any]:
        """Run the runbook."""
        sample = self.bench.sample
        values = {
            "git": ["git", "-C", str(sample.app)],
            "python": sys.executable,
            "check": str(USUAL / "check.py"),
            "supervisorctl": [str(BIN / "supervisorctl"), "--configuration", str(sample.configuration)],
            "program": sample.name,
            "app": str(sample.app),
            "database": str(sample.databases[0]),
            "settings": str(sample.env_file),
            "static": str(sample.static),
            "backup": str(self.backup),
            "kept": str(self.kept),
            "url": sample.url,
        }
        environment = self.bench.environment(ANSIBLE_CONFIG=str(USUAL / "ansible.cfg"))
        argv = ["ansible-playbook", "-v", str(USUAL / "runbook.yml"), "--inventory", str(self.bench.hosts)]
        argv += ["--tags", f"level{level}", "--extra-vars", json.dumps(values)]
        began = time.monotonic()
        done = subprocess.run(
            argv, env=environment, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
        )
        total = time.monotonic() - began
        if done.returncode != 0:
            raise RuntimeError(f"the runbook failed: {done.stdout}{done.stderr}")
        names = TASK.findall(done.stdout)
        texts = dict(zip(names, TASK.split(done.stdout)[2::2], strict=True))
        inside = sum(_seconds(text) for text in texts.values())
        result = {"total": total, "overhead": total - inside, "tasks": len(names)}
        if level == 3:
            result["stopped"] = (_ended(texts["Start"]) - _ended(texts["Stop"])).total_seconds()
        return result


def _measured(record: Mapping[str, Any], total: float) -> dict[str, Any]:
    """Return what a run record says about time: overhead by phase, the fence, staging."""
    service = record["services"]["shop"]
    phases: dict[str, float] = defaultdict(float)
    phases["start"] = record["phases"][0]["offset"]
    for phase in record["phases"]:
        phases[phase["name"]] += phase["seconds"]
    phases["end"] = total - record["seconds"]
    for step in service["steps"]:
        phases[step["phase"]] -= step["seconds"]
    checks: dict[tuple[str, str], float] = defaultdict(float)
    for check in service["checks"]:  # those of one view run at the same time
        key = check["phase"], check["view"]
        checks[key] = max(checks[key], check["seconds"])
    for (phase, _view), seconds in checks.items():
        phases[phase] -= seconds
    behind = ("capture", "rollback", "resume")
    return {
        "overhead": total - record["component_seconds"],
        "phases": dict(phases),
        "stopped": (service["fence"] or {}).get("seconds", 0.0),
        "stopped_work": sum(step["seconds"] for step in service["steps"] if step["phase"] in behind),
        "stage": sum(
            step["seconds"] for step in service["steps"] if (step["phase"], step["role"]) == ("stage", "restore_sqlite")
        ),
    }


def _processor() -> float:
    """Return the seconds of processor time that ended children used: what other work on the machine does not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _silence(requests: Sequence[Request], since: float, until: float) -> float:
    answered = sorted(one.at + one.seconds for one in requests if one.status)
    inside = [since, *(moment for moment in answered if since <= moment <= until), until]
    return max(later - sooner for sooner, later in pairwise(inside))


def _seconds(text: str) -> float:
    return sum(int(hours) * 3600 + int(minutes) * 60 + float(rest) for hours, minutes, rest in DELTA.findall(text))


def _ended(text: str) -> datetime:
    return datetime.fromisoformat(END.findall(text)[0])
