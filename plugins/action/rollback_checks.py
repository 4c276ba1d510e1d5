# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin: a profile's `rollback_checks`, those from outside here on the controller, those from inside there.

Both run at the same time. Of a service in Kubernetes all of them run here, in this very process. Arguments: phase
(verify, resume or checkpoint), views (inside, outside or both), deadline (seconds, for all together), allow_unverified.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from ansible import module_utils
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)
try:  # An import error here would end the playbook without its rescue and always; run() refuses instead.
    from ansible.module_utils.rollbackctl.check_controller import STATE_VARIABLE, VARIABLE, read_checks
    from ansible.module_utils.rollbackctl.check_model import Check, CheckResult, Context
    from ansible.module_utils.rollbackctl.check_profile import take_secrets
    from ansible.module_utils.rollbackctl.checks import judge, run_checks
    from ansible.module_utils.rollbackctl.errors import Refused, RollbackError
    from ansible.module_utils.rollbackctl.host_call import call_on_host
    from ansible.module_utils.rollbackctl.names import printable
    from ansible.module_utils.rollbackctl.worker import die_with_the_controller

    IMPORT_PROBLEM = ""
except ImportError as problem:
    IMPORT_PROBLEM = str(problem)

KUBERNETES = "kubernetes"
RUN_FACT = "rollbackctl_run"
CHECKED_FACT = "rollbackctl_checked"  # rollback_finish reads it
NO_CHECKS = "The profile has no such check (rollback_checks), so nothing was looked at."


class ActionModule(ActionBase):
    """Run the checks of one or both views and merge what they say."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return failed, msg and rollbackctl (phase, checks); a problem of any kind is a failure in plain words."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if IMPORT_PROBLEM:
            return {**result, "failed": True, "msg": f"rollbackctl is not installed as a whole: {IMPORT_PROBLEM}."}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "phase": {"type": "str", "required": True, "choices": ["verify", "resume", "checkpoint"]},
                "views": {
                    "type": "list",
                    "elements": "str",
                    "choices": ["inside", "outside"],
                    "default": ["inside", "outside"],
                },
                "deadline": {"type": "float", "default": 120},
                "allow_unverified": {"type": "bool", "default": False},
            },
        )
        try:
            return {**result, **self._check(arguments, task_vars or {})}
        except RollbackError as exc:
            return {**result, "failed": True, "msg": exc.message, "next_step": exc.next_step}
        except AnsibleConnectionFailure as exc:
            words = f"The service's host does not answer, so its checks could not be run: {printable(str(exc))}"
            return {**result, "failed": True, "msg": words}
        except AnsibleError as exc:
            return {**result, "failed": True, "msg": f"The checks could not be run: {printable(str(exc))}"}

    def _check(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        # All of them are read: a mistake in one of the other view is a mistake too.
        state = plain(self._templar.template(task_vars.get(STATE_VARIABLE))) or {}
        documents, checks = read_checks(plain(self._templar.template(task_vars.get(VARIABLE))), state)
        if state.get("kind") == KUBERNETES:
            results = self._ask_here(
                [check for check in checks if check.view in arguments["views"]], arguments, task_vars, state
            )
        else:
            results = self._ask_both(documents, checks, arguments, task_vars)
        allow = arguments["allow_unverified"] or bool(self._task.check_mode)
        verdict = judge(results, allow_unverified=allow)
        phase = arguments["phase"]
        asked = {*(task_vars.get("ansible_facts", {}).get(CHECKED_FACT) or []), *(one.name for one in results)}
        return {
            "ansible_facts": {CHECKED_FACT: sorted(asked)},
            "failed": verdict.failed,
            "changed": False,
            "msg": verdict.text if results else NO_CHECKS,
            "rollbackctl": {"phase": phase, "checks": [{"phase": phase, **one.to_dict()} for one in results]},
        }

    def _ask_here(
        self, checks: list[Check], arguments: dict[str, Any], task_vars: dict[str, Any], state: dict[str, Any]
    ) -> list[CheckResult]:
        """Run the checks of a service in Kubernetes.

        :raises Refused: the controller lacks what that needs.
        """
        if not checks:
            return []
        try:
            from ansible.module_utils.rollbackctl.check_kube import run_here  # noqa: PLC0415 - services on hosts do without
        except ImportError as exc:
            raise Refused(
                f"Checks in Kubernetes cannot be run here: {exc}.",
                "Install the Python package `kubernetes` for the controller's Ansible.",
            ) from None
        die_with_the_controller()
        run = plain(task_vars.get("ansible_facts", {}).get(RUN_FACT)) or {}
        return run_here(checks, arguments["deadline"], state, run, check_mode=bool(self._task.check_mode))

    def _ask_both(
        self,
        documents: list[dict[str, Any]],
        checks: list[Check],
        arguments: dict[str, Any],
        task_vars: dict[str, Any],
    ) -> list[CheckResult]:
        """Run those from outside here and those from inside on the service's host, at the same time."""
        context = Context(check_mode=bool(self._task.check_mode))
        outside = [check for check in checks if check.view == "outside" and "outside" in arguments["views"]]
        inside = [
            document
            for document, check in zip(documents, checks, strict=True)
            if check.view == "inside" and "inside" in arguments["views"]
        ]
        found: list[CheckResult] = []
        thread = threading.Thread(
            target=lambda: found.extend(run_checks(outside, arguments["deadline"], context)),
            daemon=True,
        )
        thread.start()
        try:
            there = self._ask_host(inside, arguments, task_vars) if inside else []
        finally:
            thread.join()
        return there + found

    def _update_module_args(self, module_name: str, module_args: dict[str, Any], *args: Any, **more: Any) -> None:
        """Keep the module's parameters out of the host's syslog: AnsibleModule(no_log=True) alone does not."""
        super()._update_module_args(module_name, module_args, *args, **more)
        module_args["_ansible_no_log"] = True

    def _ask_host(
        self,
        documents: list[dict[str, Any]],
        arguments: dict[str, Any],
        task_vars: dict[str, Any],
    ) -> list[CheckResult]:
        """Run the module on the service's host.

        :raises AnsibleConnectionFailure: the host does not answer.
        :raises Refused: the module gave no results.
        """
        public, secrets = take_secrets(documents)
        run = plain(task_vars.get("ansible_facts", {}).get(RUN_FACT)) or {}
        asked = {
            "phase": arguments["phase"],
            "checks": public,
            "secrets": json.dumps(secrets),
            "deadline": arguments["deadline"],
            "run": {key: run[key] for key in ("id", "state") if key in run},
            "allow_unverified": True,  # decided here, for both views together
        }
        answer = call_on_host(self, task_vars, "rollback_checks", asked)
        if answer is None:
            answer = self._execute_module(module_name="rollback_checks", module_args=asked, task_vars=task_vars)
        try:
            reported = answer["rollbackctl"]["checks"]
            return [CheckResult(**{key: one[key] for key in one if key != "phase"}) for one in reported]
        except (KeyError, TypeError):
            words = printable(str(answer.get("msg", "it gave no answer")))
            raise Refused(
                f"The checks on the service's host could not be run: {words}",
                "Check that Python 3.9 or newer is installed there: ansible -m ansible.builtin.setup HOST",
            ) from None


def plain(value: Any) -> Any:
    """Return a value of Ansible's (lazy, tagged) as plain dicts and lists."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value
