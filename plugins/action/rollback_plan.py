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

from ansible.module_utils.rollbackctl.action import RUN_FACT, RollbackAction  # noqa: E402


class ActionModule(RollbackAction):
    """`rollback_plan:` takes no options."""

    def act(self) -> dict[str, Any]:
        """Compose the plan on the host, where ledger and quarantine are."""
        run = self.engine_run
        proposals: list[dict[str, Any]] = []
        for role in self.run_roles():
            found = self.facts(f"{RUN_FACT}_{role}") or {}
            if found.get("run") == run.get("id"):
                proposals += found["proposals"]
        fences = any(item.get("fence") for items in self.peers().values() for item in items)
        asked = {
            name: self.variable(name)
            for name in ("rollback_on_failure", "rollback_accept_data_loss_since", "rollback_plan")
        }
        result = self.on_host(
            "rollback_run",
            {"operation": "plan", "run": run, "asked": asked, "proposals": proposals, "fences": fences, "dry": self.dry},
        )
        if result.get("failed"):
            return result
        problems = result["rollbackctl"]["problems"]
        if problems:
            result["failed"] = True
            result["msg"] = "Refused, nothing was changed: " + "; ".join(problems)
        plan = result["rollbackctl"]["plan"] or {}
        busy = {entry["role"] for entry in plan.get("entries", []) if entry["action"] in ("change", "follow")}
        result["ansible_facts"] = {RUN_FACT: {**run, "fenced": bool(plan.get("fence")), "busy": sorted(busy)}}
        return result
