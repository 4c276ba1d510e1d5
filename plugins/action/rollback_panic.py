# SPDX-License-Identifier: GPL-3.0-or-later
"""Panic for one service, whole, in one task: lease, plan, changes, read-back, end."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

from ansible import module_utils

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl import outcome  # noqa: E402
from ansible.module_utils.rollbackctl.action import RollbackAction, announced  # noqa: E402
from ansible.module_utils.rollbackctl.names import text_problem  # noqa: E402
from ansible.module_utils.rollbackctl.panic import BUDGET_SECONDS, KIND, Panic, lines  # noqa: E402
from ansible.module_utils.rollbackctl.store import host_name  # noqa: E402
from ansible.module_utils.rollbackctl.worker import die_with_the_controller  # noqa: E402


class ActionModule(RollbackAction):
    """`rollback_panic:` takes no options; it reads the play's run_roles and the run parameter rollback_environment."""

    def act(self) -> dict[str, Any]:
        """Take the service to its last known good; skip services of other environments."""
        environment = str(self.variable("rollback_environment") or "")
        service = self.variable("rollback_service")
        if not environment:
            return self._refused("no environment was named: -e rollback_environment=NAME; nothing is the default")
        if not isinstance(service, dict) or service.get("environment") != environment:
            return {"skipped": True, "skip_reason": f"not of the environment {environment}"}
        reason = str(self.variable("rollback_reason") or f"panic of {environment}")
        problems = [f"rollback_reason {problem}"] if (problem := text_problem(reason)) else []
        if not self.in_kubernetes:
            problems.append("panic knows only services in Kubernetes; for this one: rollbackctl run")
        said = announced()
        if not said:
            problems.append("the run record's callback plugin is not loaded: start the playbook from this project")
        for role in self.run_roles():
            problems += [f"{role}: {problem}" for problem in self.components(role)[1]]
        if problems:
            return self._refused("; ".join(problems))
        return self._panic(dict(service), reason, str(said["run"]))

    def _panic(self, service: dict[str, Any], reason: str, identity: str) -> dict[str, Any]:
        state = self.state
        run = {
            "id": identity,
            "kind": KIND,
            "level": 0,
            "state": state,
            "holder": str(self.variable("awx_user_name") or getpass.getuser()),
            "controller": host_name(),
            "pid": os.getppid(),
            "process": identity,
            "lease_seconds": state.get("lease_seconds") or 60,
            "reason": reason,
            "named": str(self.variable("rollback_run") or ""),
        }
        die_with_the_controller()
        facts = Panic(run, service, self.components_of(self.run_roles()), dry=self.dry).go()
        facts["budgets"] = {KIND: BUDGET_SECONDS, **(self.variable("rollback_budgets") or {})}
        ending = facts["ending"]
        rows = lines(str(service["name"]), facts)
        return {
            "failed": ending["outcome"] not in (outcome.DONE, outcome.ALREADY),
            "changed": any(step["status"] == "changed" for step in facts["steps"]),
            "msg": ending["message"] if ending["outcome"] in (outcome.DONE, outcome.ALREADY) else "\n".join(rows),
            "rollbackctl": facts,
            "rows": rows,
        }

    def _refused(self, message: str) -> dict[str, Any]:
        ending = {"outcome": outcome.REFUSED, "message": f"Refused, nothing was changed: {message}", "next": ""}
        name = str((self.variable("rollback_service") or {}).get("name") or self.task_vars.get("inventory_hostname"))
        facts = {"phase": KIND, "steps": [], "problems": [message], "ending": ending}
        return {
            "failed": True,
            "msg": ending["message"],
            "rollbackctl": facts,
            "rows": lines(name, facts),
        }
