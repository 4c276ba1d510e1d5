# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the proposals of all roles together: show the plan, refuse with all problems at once, or make it durable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import module_utils

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl.action import NO_CHECK, PROPOSALS_FACT, RUN_FACT, RollbackAction  # noqa: E402
from ansible.module_utils.rollbackctl.controller import budget_notes, together  # noqa: E402
from ansible.module_utils.rollbackctl.readback import CAPTURED_LAYERS  # noqa: E402
from ansible.module_utils.rollbackctl.registry import DRIVERS  # noqa: E402


def said_by(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the phases and their conditions go by, of a plan as it is kept."""
    changing = [entry for entry in plan.get("entries", []) if entry["action"] == "change"]
    captures = plan.get("fence") or any(entry["layer"] in CAPTURED_LAYERS for entry in changing)
    return {
        "fenced": bool(plan.get("fence")),
        "busy": bool(changing),
        "captures": bool(captures),
        "on_failure": plan.get("on_failure", "hold"),
    }


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
        asked["rollback_plan"], unnamed = self._approved(str(asked["rollback_plan"] or ""))
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
        problems = result["rollbackctl"]["problems"] = together([*unnamed, *result["rollbackctl"]["problems"]])
        if problems:
            result["failed"] = True
            result["msg"] = "Refused, nothing was changed: " + "; ".join(problems)
        plan = result["rollbackctl"]["plan"] or {}
        if plan:
            said = budget_notes(self.variable("rollback_budgets") or {}, int(self.variable("run_level", 0)))
            unchecked = [NO_CHECK] if plan["kind"] == "rollback" and not self.variable("rollback_checks") else []
            plan["notes"] = [*(run.get("notes") or []), *plan["notes"], *self._left_alone(plan), *unchecked, *said]
        result["ansible_facts"] = {RUN_FACT: {**run, **said_by(plan)}}
        return result

    def _left_alone(self, plan: dict[str, Any]) -> list[str]:
        """Return what of the profile this run does not put back, and why."""
        if plan["kind"] == "finalize":
            return []
        planned = {entry["name"] for entry in plan["entries"]}
        left: dict[str, list[str]] = {}
        for role in DRIVERS:
            items = [item for item in self.variable(role) or [] if item["name"] not in planned]
            # What another one's change brings along is not left alone, also where an undo's plan has no line for it.
            for name in [str(item["name"]) for item in items if item.get("restored_by") not in planned]:
                if role not in self.run_roles():
                    why = f"not part of level {plan['level']}" if plan["level"] else "not part of this kind of run"
                elif plan["undoes"]:
                    why = f"run {plan['undoes']} did not change it"
                else:
                    why = "not named in rollback_components"
                left.setdefault(why, []).append(name)
        return [f"Left as it is: {', '.join(names)} ({why})." for why, names in left.items()]

    def _approved(self, plans: str) -> tuple[str, list[str]]:
        """Return the hash that was approved for this service, of a hash or a list SERVICE=HASH,SERVICE=HASH, and what
        is wrong with that."""
        if "=" not in plans:
            return plans, []
        service = str(self.task_vars["inventory_hostname"])
        own = dict(pair.split("=", 1) for pair in plans.split(",")).get(service, "")
        return own, [] if own else [f"rollback_plan names no plan of {service}: look at its plan first"]
