# SPDX-License-Identifier: GPL-3.0-or-later
"""One phase of one role, for all of its components on this host, in one module call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import module_utils

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl.action import RUN_FACT, RollbackAction  # noqa: E402


CHANGING = ("stage", "fence", "capture", "rollback", "verify")
NEEDS_PEERS = ("fence", "resume")


class ActionModule(RollbackAction):
    """`rollback_component: {phase: PHASE}`, in a task of the role whose components are meant."""

    def act(self) -> dict[str, Any]:
        """Run the role's module for this phase; skip when the service has no such component."""
        phase = str(self._task.args["phase"])
        role = str(self._task._role.get_name())  # noqa: SLF001 - there is no public way to a task's role
        run = self.engine_run
        components, problems = self.components(role)
        if problems:
            return {"failed": True, "msg": f"Refused, nothing was changed: {role}: " + "; ".join(problems)}
        if not components:
            return {"skipped": True, "skip_reason": f"this service has no {role}"}
        if not run:
            return {"failed": True, "msg": "The guard did not open this run. Start the playbook from its beginning."}
        if phase in CHANGING[:-1] and role not in run.get("busy", ()):
            return {"skipped": True, "skip_reason": "the plan changes nothing of this role"}
        if self._stands_still(run, phase):
            return {"skipped": True, "skip_reason": "this run has ended; it is only verified again"}
        stop = self._stop(run, phase)
        if stop:
            return {"failed": True, "msg": stop, "rollbackctl": {"phase": phase, "role": role}}
        result = self.on_host(
            role,
            {
                "phase": phase,
                "role": role,
                "components": components,
                "peers": self.peers() if phase in NEEDS_PEERS else {},
                "run": run,
            },
        )
        if phase == "preflight" and not result.get("failed"):
            result["ansible_facts"] = {f"{RUN_FACT}_{role}": {"run": run["id"], **result["rollbackctl"]}}
        if result.get("failed") and phase in ("undo", "resume") and self.variable("run_after_failure", False):
            # Finish reads the service back and decides; failing here would keep it from running.
            result["failed"] = False
            result["rollbackctl_failure"] = result.get("msg", "")
        return result

    def _stands_still(self, run: dict[str, Any], phase: str) -> bool:
        return bool(run.get("finished") in ("done", "already") and phase in ("stage", "fence", "capture", "rollback", "resume"))

    def _stop(self, run: dict[str, Any], phase: str) -> str:
        if phase not in CHANGING:
            return ""
        if run.get("reversing"):
            return "This run was being taken back when it stopped; going on with that."
        if self.stop_requested:
            return f"Stopped by {self.stop_requested} before the phase {phase}."
        return ""
