# SPDX-License-Identifier: GPL-3.0-or-later
"""One phase for all components of a service, in one module call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import module_utils

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl.action import PROPOSALS_FACT, TROUBLE_FACT, RollbackAction, stages  # noqa: E402

CHANGING = ("stage", "fence", "capture", "rollback")
BEFORE_OPENING = (*CHANGING, "verify")
TAKEN_BACK = "This run was being taken back when it stopped; going on with that."


def why_skipped(run: Mapping[str, Any], phase: str, *, staged: bool) -> str:
    """Return why there is nothing to do in a phase; empty when there is. staged: whether a role prepares ahead."""
    if phase in CHANGING and not run.get("busy"):
        return "the plan changes nothing"
    if phase in ("fence", "capture") and not run.get("captures"):
        return "the plan changes no data"
    if phase == "stage" and not staged:
        return "nothing of this service is prepared ahead"
    if run.get("finished") in ("done", "already") and phase in (*CHANGING, "resume"):
        return "this run has ended; it is only verified again"
    return ""


class ActionModule(RollbackAction):
    """`rollback_phase: {phase: PHASE}` for all of the level playbook's roles.

    roles: only these of them. after_failure: a failure is told to finish, which decides, and does not end the tasks.
    """

    def act(self) -> dict[str, Any]:
        """Run the module for this phase; skip where the service has nothing to do in it."""
        phase = str(self._task.args["phase"])
        names = [str(role) for role in self._task.args.get("roles") or self.run_roles()]
        run = self.engine_run
        if not run:
            return {"failed": True, "msg": "The guard did not open this run. Start the playbook from its beginning."}
        staged = any(stages(role) for role in names if self.variable(role))
        if skip := why_skipped(run, phase, staged=staged):
            return {"skipped": True, "skip_reason": skip}
        stop = self._stop(run, phase)
        if stop:
            return {"failed": True, "msg": stop, "rollbackctl": {"phase": phase}}
        told = {**run, "after_failure": bool(self._task.args.get("after_failure"))}
        arguments = {"phase": phase, "roles": self.components_of(names), "run": told}
        result = self.on_host("rollback_phase", arguments)
        if phase == "preflight" and not result.get("failed"):
            result["ansible_facts"] = {PROPOSALS_FACT: {"run": run["id"], **result["rollbackctl"]}}
        if result.get("failed") and self._task.args.get("after_failure"):
            # Finish reads the service back and decides; failing here would keep it from running.
            result["failed"] = False
            result["rollbackctl_failure"] = result.get("msg", "")
            trouble = [*(self.facts(TROUBLE_FACT) or []), str(result.get("msg", ""))]
            result["ansible_facts"] = {TROUBLE_FACT: trouble}
        return result

    def _stop(self, run: dict[str, Any], phase: str) -> str:
        if phase not in BEFORE_OPENING or self._task.args.get("after_failure"):
            return ""
        if run.get("reversing"):
            return TAKEN_BACK
        if self.stop_requested:
            return f"Stopped by {self.stop_requested} before the phase {phase}."
        return ""
