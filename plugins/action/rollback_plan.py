# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the proposals of all roles together: show the plan, refuse with all problems at once, or make it durable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import module_utils

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl.action import PROPOSALS_FACT, RUN_FACT, RollbackAction  # noqa: E402
from ansible.module_utils.rollbackctl.controller import budget_notes  # noqa: E402
from ansible.module_utils.rollbackctl.readback import CAPTURED_LAYERS  # noqa: E402


class ActionModule(RollbackAction):
    """`rollback_plan:` takes no options."""

    def act(self) -> dict[str, Any]:
        """Compose the plan on the host, where ledger and quarantine are."""
        run = self.engine_run
        found = self.facts(PROPOSALS_FACT) or {}
        proposals = found["proposals"] if found.get("run") == run.get("id") else []
        fences = any(item.get("fence") for role in self.components_of(self.run_roles()) for item in role["components"])
        asked = {
            name: self.variable(name)
            for name in ("rollback_on_failure", "rollback_accept_data_loss_since", "rollback_plan")
        }
        result = self.on_host(
            "rollback_run",
            {
                "operation": "plan",
                "run": run,
                "asked": asked,
                "proposals": proposals,
                "fences": fences,
                "dry": self.dry,
            },
        )
        if result.get("failed"):
            return result
        problems = result["rollbackctl"]["problems"]
        if problems:
            result["failed"] = True
            result["msg"] = "Refused, nothing was changed: " + "; ".join(problems)
        plan = result["rollbackctl"]["plan"] or {}
        if plan:
            said = budget_notes(self.variable("rollback_budgets") or {}, int(self.variable("run_level", 0)))
            plan["notes"] = [*plan["notes"], *said]
        changing = [entry for entry in plan.get("entries", []) if entry["action"] == "change"]
        captures = plan.get("fence") or any(entry["layer"] in CAPTURED_LAYERS for entry in changing)
        facts = {"fenced": bool(plan.get("fence")), "busy": bool(changing), "captures": bool(captures)}
        facts["on_failure"] = plan.get("on_failure", "hold")
        result["ansible_facts"] = {RUN_FACT: {**run, **facts}}
        return result
