# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a run by the tasks of playbooks/tasks themselves (order, conditions, rescue, always: see tasks.py), one killable
process for each module call.

Ansible starts a Python for each; this forks, which is as killable, a process group of its own included, and saves the
start. That the playbooks themselves behave so is proven by test_whole_runs.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl import failpoints
from ansible.module_utils.rollbackctl.action import stages
from ansible.module_utils.rollbackctl.errors import RollbackError
from ansible.module_utils.rollbackctl.names import new_id
from ansible.module_utils.rollbackctl.phases import run_phase
from ansible.module_utils.rollbackctl.runs import finish_run, open_run, plan_run
from ansible.module_utils.rollbackctl.store import host_name

from plugins.action.rollback_finish import CHECKED_KINDS
from plugins.action.rollback_phase import BEFORE_OPENING, TAKEN_BACK, why_skipped
from plugins.action.rollback_plan import said_by
from tests.faults.tasks import Answer, FailedTask, go_through, load

SAFETY_SECONDS = 120.0
# Kinds whose playbook has other tasks than run.yml.
TASKS = {"checkpoint": "checkpoint.yml", "finalize": "finalize.yml"}
VIEWS = {"inside", "outside"}
# Kinds whose playbook has another order than the level's.
PLAYBOOKS = {"undo": "roll-forward.yml"}
STANDS_FOR = {"mapdata": "restore_sqlite"}


@dataclasses.dataclass
class Died(Exception):
    """A module process was ended by a signal."""

    phase: str
    signal: int
    run: str


class Killer:
    """Ends a module process from outside, once, after so many seconds of module time."""

    def __init__(self, after: float, *, group: bool) -> None:
        self.left = after
        self.group = group
        self.done = False

    def wait(self, pid: int, pipe: int) -> None:
        """Wait for the process's answer, or kill it."""
        began = time.monotonic()
        if not self.done and not select.select([pipe], [], [], max(self.left, 0.0))[0]:
            self.done = True
            try:
                (os.killpg if self.group else os.kill)(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not made its group yet
                os.kill(pid, signal.SIGKILL)
        self.left -= time.monotonic() - began


def call(
    work: Callable[[], Answer], *, failpoint: str = "", killer: Killer | None = None, trace: Path | None = None
) -> tuple[Answer, int]:
    """Do work in a process of its own; return its answer and the signal that ended it (0: none did).

    trace: a file to which the names of the failpoints that are passed are appended.
    """
    reads, writes = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be_module(work, writes, failpoint, trace)
    os.close(writes)
    raw = b""
    end = time.monotonic() + SAFETY_SECONDS
    if killer is not None:
        killer.wait(pid, reads)
    while select.select([reads], [], [], max(end - time.monotonic(), 0.0))[0]:
        piece = os.read(reads, 65536)
        raw += piece
        if not piece:
            break
    else:
        os.killpg(pid, signal.SIGKILL)
    os.close(reads)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return {}, os.WTERMSIG(status)
    answer: Answer = json.loads(raw)
    assert "crash" not in answer, answer["crash"]
    return answer, 0


def _be_module(work: Callable[[], Answer], pipe: int, failpoint: str, trace: Path | None) -> None:
    """Be the child: never return."""
    try:
        faulthandler.dump_traceback_later(SAFETY_SECONDS - 10.0, file=sys.__stderr__ or sys.stderr)  # where it hangs
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if failpoint:
            os.environ[failpoints.VARIABLE] = failpoint
        if trace is not None:
            _trace(trace)
        try:
            answer = work()
        except RollbackError as error:
            answer = {"failed": True, "msg": error.message, "next_step": error.next_step}
        except Exception:  # noqa: BLE001 - a module that crashes is a finding, and must be seen
            answer = {"crash": traceback.format_exc()}
        left = json.dumps(answer).encode()
        while left:
            left = left[os.write(pipe, left) :]
    finally:
        os._exit(0)


def _trace(file: Path) -> None:
    def passed(name: str) -> None:
        with file.open("a", encoding="ascii") as out:
            out.write(f"{name}\n")

    for module in [module for name, module in sys.modules.items() if ".rollbackctl." in name]:
        if hasattr(module, "failpoint"):
            module.failpoint = passed  # type: ignore[attr-defined]


def in_order(roles: list[dict[str, Any]], playbook: str | None) -> list[dict[str, Any]]:
    """Return the roles in the order of the playbook that would run them; as they are given without one, or alone. A
    role that only tests have is in the place of the one that it stands for."""
    if playbook is None or len(roles) == 1:
        return list(roles)
    (play,) = load(f"playbooks/{playbook}")
    order: list[str] = play["vars"]["run_roles"]
    return sorted(roles, key=lambda item: order.index(STANDS_FOR.get(item["role"], item["role"])))


class Run:
    """One controller's run of a level playbook for one service."""

    def __init__(
        self,
        profile: Mapping[str, Any],
        *,
        controller: str = "",
        kind: str = "rollback",
        named: str = "",
        failpoint: str = "",
        only: str = "",
        killer: Killer | None = None,
        survives: bool = False,
        trace: Path | None = None,
        break_after: str = "",
        to: Mapping[str, str] | None = None,
        soak: float = 0.0,
        before: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        """Say who and what.

        named: the run to resume, undo or finalize. failpoint: "name:action", in the phase `only` (any by default).
        survives: the controller outlives its module processes, as rescue and always do; otherwise Died is raised.
        break_after: pretend that this phase failed (a check that says no). to: rollback_to. soak: seconds. before: what
        happens in the world just before a phase.
        """
        self.roles = in_order(profile["roles"], PLAYBOOKS.get(kind))
        self.profile, self.kind, self.failpoint, self.only = profile, kind, failpoint, only
        self.killer, self.survives, self.trace, self.break_after = killer, survives, trace, break_after
        self.before = dict(before or {})
        self.to, self.soak = dict(to or {}), soak
        self.phases: list[str] = []
        self.answers: dict[str, Answer] = {}  # what each phase said last
        self.views: set[str] = set()  # whose checks were asked
        self.closed = False  # whether this run has closed the fence and not opened it again
        self.ending: Answer = {}
        self.died: Died | None = None
        self.trouble: list[str] = []  # what failed while the run was taken back
        self.asked = {"rollback_run": named, "rollback_accept_data_loss_since": "2000-01-01T00:00:00Z"}
        self.run: dict[str, Any] = {
            "id": new_id("rb"),
            "kind": kind,
            "level": 3,
            "state": profile["state"],
            "holder": "tests",
            "controller": controller or host_name(),
            "pid": os.getpid(),
            "lease_seconds": profile["lease_seconds"],
        }

    def go(self) -> Answer:
        """Run it and return the ending; its outcome is under "outcome"."""
        modules = {
            "rollback_guard": self._guard,
            "rollback_phase": self._phase_task,
            "rollback_plan": self._plan,
            "rollback_checks": self._checks,
            "rollback_finish": self._end,
        }
        variables: dict[str, Any] = {
            "ansible_check_mode": False,
            "run_kind": self.kind,
            "ansible_facts": {"rollbackctl_run": self.run},
        }
        self.variables = variables
        with contextlib.suppress(FailedTask):
            go_through(load(f"playbooks/tasks/{TASKS.get(self.kind, 'run.yml')}"), variables, modules)
        assert self.ending, f"a run of kind {self.kind} ended without a finish"
        return self.ending

    def _guard(self, _told: Mapping[str, Any]) -> Answer:
        answer = self._module("guard", lambda: {"run": open_run(self.run, {}, self.asked, dry=False)})
        if not answer.get("failed"):
            self.run.update(answer["run"], service="shop", reason="kill matrix", to=dict(self.to))
        return answer

    def _plan(self, _told: Mapping[str, Any]) -> Answer:
        answer = self.answers.get("preflight")
        proposals = answer["rollbackctl"]["proposals"] if answer else []
        fences = any(options.get("fence") for role in self.roles for options in role["components"])
        plan = self._module("plan", lambda: plan_run(self.run, self.asked, proposals, fences=fences, dry=False))
        if plan.get("problems"):
            return {"failed": True, "msg": "; ".join(plan["problems"])}
        if not plan.get("failed"):
            self.run.update(said_by(plan["plan"]))
        return plan

    def _phase_task(self, told: Mapping[str, Any]) -> Answer:
        """As plugins/action/rollback_phase.py does."""
        phase, after_failure = str(told["phase"]), bool(told.get("after_failure"))
        if why_skipped(self.run, phase, staged=any(stages(role["role"]) for role in self.roles)):
            return {}
        if self.run["reversing"] and phase in BEFORE_OPENING and not after_failure:
            return {"failed": True, "msg": TAKEN_BACK}
        self.run["after_failure"] = after_failure
        answer = self.answers[phase] = self._phase(phase)
        if not answer.get("failed") and phase in {"fence", "resume"}:
            self.closed = phase == "fence" and self.run["fenced"]
        if after_failure and answer.get("failed"):
            self.trouble.append(f"{phase}: {answer['msg']}")
            return {}
        if phase == self.break_after and not after_failure and not answer.get("failed"):
            return {"failed": True, "msg": f"{phase} was told to fail."}
        return answer

    def _checks(self, told: Mapping[str, Any]) -> Answer:
        """Ask the users' checks of these views, which hold wherever the service is not stopped behind its fence."""
        if self.closed:
            return {"failed": True, "msg": "The checks were asked of a service that is stopped behind its fence."}
        self.views |= set(told["views"])
        return {}

    def _end(self, _told: Mapping[str, Any]) -> Answer:
        """As plugins/action/rollback_finish.py does."""
        failure = self.variables.get("__run_failure")
        if failure is None and self.kind in CHECKED_KINDS and self.views != VIEWS:
            failure = {"msg": f"Nobody asked the users' checks; only those of: {sorted(self.views)}."}
        if not self.run.get("token"):
            self.ending = {"outcome": "refused", "message": str((failure or {}).get("msg", ""))}
        else:
            self.ending = self._finish(failure)
        return {"failed": self.ending["outcome"] not in {"done", "already"}}

    def _finish(self, failure: Answer | None) -> Answer:
        failed, message = failure is not None, str((failure or {}).get("msg", ""))
        hold, asked = bool((failure or {}).get("hold")), {"rollback_soak_seconds": self.soak}
        work = lambda: finish_run(self.run, asked, self.roles, failed=failed, message=message, hold=hold)  # noqa: E731
        trouble = {"trouble": self.trouble} if self.trouble else {}
        # Without an answer of finish the words are those of plugins/action/rollback_finish.py.
        nobody_knows = {"outcome": "unknown", "next": f"rollbackctl resume {self.run['id']}"}
        return {**nobody_knows, **self._module("finish", work), **trouble}

    def _phase(self, phase: str) -> Answer:
        params = json.loads(json.dumps({"phase": phase, "roles": self.roles, "run": self.run}))
        return self._module(phase, lambda: run_phase(params, check_mode=False))

    def just_before(self, phase: str, do: Callable[[], None]) -> None:
        """Have something happen just before a phase, ahead of what is to happen there already."""
        then = self.before.get(phase, lambda: None)

        def both() -> None:
            do()
            then()

        self.before[phase] = both

    def _module(self, phase: str, work: Callable[[], Answer]) -> Answer:
        self.before.pop(phase, lambda: None)()
        self.phases.append(phase)
        armed = self.failpoint if self.only in {"", phase} and self.died is None else ""
        answer, number = call(work, failpoint=armed, killer=self.killer, trace=self._trace_file(phase))
        if number:
            resumed = self.asked["rollback_run"] if self.kind == "rollback" else ""  # known before the guard says so
            self.died = Died(phase, number, str(resumed or self.run["id"]))
            if not self.survives:
                raise self.died
            return {"failed": True, "msg": f"the module of {phase} was ended by signal {number}"}
        return answer

    def _trace_file(self, phase: str) -> Path | None:
        return self.trace / phase if self.trace is not None else None


def passed(trace: Path) -> Sequence[tuple[str, str]]:
    """Return (phase, failpoint) in the order of phases and then of passing, each once."""
    found: dict[tuple[str, str], None] = {}
    for file in sorted(trace.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for line in file.read_text(encoding="ascii").split():
            found[file.name, line] = None
    return list(found)
