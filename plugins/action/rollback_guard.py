# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard: all that can be known to be wrong before a host is touched, then identity and lease on the host."""

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

from ansible.context import CLIARGS  # noqa: E402
from ansible.errors import AnsibleError  # noqa: E402
from ansible.module_utils.rollbackctl.action import (  # noqa: E402
    KUBERNETES,
    KUBERNETES_PROBLEM,
    ROLES,
    RUN_FACT,
    RollbackAction,
    announced,
)
from ansible.module_utils.rollbackctl.check_controller import read_checks  # noqa: E402
from ansible.module_utils.rollbackctl.controller import (  # noqa: E402
    component_problems,
    known_names,
    parameter_problems,
    role_options,
    unknown_names,
    validate,
)
from ansible.module_utils.rollbackctl.errors import RollbackError  # noqa: E402
from ansible.module_utils.rollbackctl.names import did_you_mean  # noqa: E402
from ansible.module_utils.rollbackctl.profile_errors import error_words  # noqa: E402
from ansible.module_utils.rollbackctl.registry import DRIVERS  # noqa: E402
from ansible.module_utils.rollbackctl.store import KINDS, host_name  # noqa: E402


class ActionModule(RollbackAction):
    """`rollback_guard:` takes no options; it reads the play's run_kind, run_level and run_roles."""

    def act(self) -> dict[str, Any]:
        """Refuse with all problems at once, or open the run on the host."""
        kind = str(self.variable("run_kind"))
        unreadable = self._unreadable()
        if unreadable:
            return _refused(unreadable)
        asked, problems = self._asked("main")
        profile, wrong = self._asked("profile")
        problems += wrong + parameter_problems(asked, kind) + self._scope_problems(asked, profile, kind)
        problems += unknown_names(self._own_names(), known_names(str(ROLES)))
        problems += self._component_problems(asked) + self._check_problems() + self._state_problems()
        said = announced()
        if not said:
            problems.append(
                "the run record's callback plugin is not loaded: start the playbook from this project, or add its "
                "plugins/callback folder to ANSIBLE_CALLBACK_PLUGINS"
            )
        if problems:
            return _refused(problems)
        return self._open(kind, asked, profile, said)

    def _asked(self, entry_point: str) -> tuple[dict[str, Any], list[str]]:
        options = role_options(str(ROLES / "run_guard"), entry_point)
        given = {name: self.variable(name) for name in options if name in self.task_vars}
        return validate(options, {name: value for name, value in given.items() if value is not None})

    def _unreadable(self) -> list[str]:
        """Return a sentence for each variable of this run whose template does not work, with file and line."""
        read = [*role_options(str(ROLES / "run_guard"), "main"), *role_options(str(ROLES / "run_guard"), "profile")]
        wrong = []
        for name in [*read, *self.run_roles(), "rollback_checks"]:
            try:
                self.variable(name)
            except AnsibleError as error:
                wrong.append(f"{name}: {error_words(error)}")
        return wrong

    def _own_names(self) -> set[str]:
        """The names that people wrote: extra variables, inventory and profile; not facts, registers or magic ones."""
        return {name for name in self.task_vars if not name.startswith(("__", "ansible_"))}

    def _scope_problems(self, asked: dict[str, Any], profile: dict[str, Any], kind: str) -> list[str]:
        wrong = []
        known = set((self.task_vars.get("groups") or {}).get("all") or [])
        absent = [str(name) for name in asked.get("rollback_services") or [] if name not in known]
        if absent:
            hint = did_you_mean(absent[0], known)
            wrong.append(f"rollback_services: {', '.join(absent)}: no such service in the inventory{hint}")
        if not CLIARGS.get("subset") and not asked.get("rollback_services"):
            wrong.append(
                "no service was named: use --limit SERVICE or -e rollback_services=SERVICE; nothing is the default"
            )
        service = profile.get("rollback_service") or {}
        confirm = kind in ("rollback", "undo", "shutdown") and service.get("environment") == "production"
        if confirm and not self.dry and asked.get("rollback_confirm") != service.get("name"):
            wrong.append(f"this is production: pass rollback_confirm={service.get('name')} to say that you mean it")
        return wrong

    def _component_problems(self, asked: dict[str, Any]) -> list[str]:
        wrong, components = [], {}
        for role in self.run_roles():
            items = self.variable(role) or []
            wrong += [f"{role}: {problem}" for problem in self.components(role)[1]]
            components[role] = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        named = [*(asked.get("rollback_components") or []), *(asked.get("rollback_to") or {})]
        return wrong + component_problems([str(name) for name in named], components)

    def _state_problems(self) -> list[str]:
        """Say which roles cannot work with the service's kind of state store."""
        state = self.state
        wrong = []
        if self.in_kubernetes and KUBERNETES_PROBLEM:
            wrong.append(f"rollback_state.kind kubernetes cannot be used here: {KUBERNETES_PROBLEM}")
        for role in self.run_roles():
            wanted = DRIVERS[role].store_kind if role in DRIVERS else KUBERNETES
            if self.variable(role) and state.get("kind") in KINDS and wanted != state["kind"]:
                wrong.append(f"{role} needs rollback_state.kind {wanted}; this service's is {state.get('kind')}")
        return wrong

    def _check_problems(self) -> list[str]:
        try:
            read_checks(self.variable("rollback_checks") or [], self.state)
        except RollbackError as error:
            return [error.message]
        return []

    def _open(self, kind: str, asked: dict[str, Any], profile: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
        state = {**profile["rollback_state"], **self.state}
        run = {
            "id": said["run"],
            "kind": kind,
            "level": int(self.variable("run_level", 0)),
            "state": state,
            "holder": str(self.variable("awx_user_name") or getpass.getuser()),
            "controller": host_name(),
            "pid": os.getppid(),
            "process": said["run"],
            "lease_seconds": state.get("lease_seconds") or 60,
            "takes_back": str(self.variable("run_takes_back") or ""),
        }
        result = self.on_host(
            "rollback_run",
            {"operation": "open", "run": run, "service": profile["rollback_service"], "asked": asked, "dry": self.dry},
        )
        if result.get("failed"):
            return result
        run.update(result["rollbackctl"]["run"])
        run.update(
            service=profile["rollback_service"]["name"],
            reason=str(asked.get("rollback_reason") or kind),
            to=asked.get("rollback_to") or {},
            components=asked.get("rollback_components") or [],
        )
        result["rollbackctl"]["run"] = run
        result["rollbackctl"]["budgets"] = profile.get("rollback_budgets") or {}
        result["rollbackctl"]["strict"] = bool(asked.get("rollback_strict_budget"))
        result["ansible_facts"] = {RUN_FACT: run}
        return result


def _refused(problems: list[str]) -> dict[str, Any]:
    return {
        "failed": True,
        "msg": "Refused, nothing was changed: " + "; ".join(problems),
        "rollbackctl": {"phase": "guard", "problems": problems},
    }
