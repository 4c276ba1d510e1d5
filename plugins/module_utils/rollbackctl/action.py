# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine's action plugins share: reading a service's profile, and doing the work where the service is.
Controller only.

A service whose state is a directory is worked on by a module on its host. One whose state is in Kubernetes is worked on
from here, by the same functions in this worker's own process: that saves a module's start, a quarter of a second each.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

from .calls import answer
from .component import Driver
from .controller import plain, role_options, validate
from .host_call import call_on_host
from .registry import DRIVERS
from .worker import die_with_the_controller

try:
    from . import kube_registry

    kube_registry.install()
    KUBERNETES_PROBLEM = ""
except ImportError as problem:  # urllib3 is missing: services on hosts do without
    KUBERNETES_PROBLEM = f"{problem}: install the Python package `kubernetes` on the controller"

ROLES = Path(__file__).resolve().parents[3] / "roles"
STOP_VARIABLE = "ROLLBACKCTL_STOP"
CALLBACK_VARIABLE = "ROLLBACKCTL_CALLBACK"
RUN_FACT = "rollbackctl_run"
PROPOSALS_FACT = "rollbackctl_proposals"
TROUBLE_FACT = "rollbackctl_trouble"  # what failed while a run was taken back
NO_CHECK = (
    "No check of the service was named (rollback_checks): what is read back is each component, not whether the service "
    "works."
)
KUBERNETES = "kubernetes"
DRY_KINDS = ("preflight", "verify", "status")


class RollbackAction(ActionBase):  # type: ignore[misc] # ansible-core ships no types
    """Base class of the engine's action plugins."""

    _supports_check_mode = True
    _supports_async = False

    def variable(self, name: str, default: Any = None) -> Any:
        """Return a host's variable, templated (inventory authors are trusted), as JSON types."""
        if name not in self.task_vars:
            return default
        return plain(self._templar.resolve_variable_expression(name))

    def facts(self, name: str) -> Any:
        """Return what an earlier task of this run left for this host; None when there is nothing."""
        return plain(self.task_vars.get("ansible_facts", {}).get(name))

    @property
    def engine_run(self) -> dict[str, Any]:
        """The run as the guard opened it on this host; empty when it did not."""
        return dict(self.facts(RUN_FACT) or {})

    @property
    def dry(self) -> bool:
        """Whether nothing may be written: check mode, and the playbooks that only look."""
        return bool(self._task.check_mode) or self.variable("run_kind") in DRY_KINDS

    def run_roles(self) -> list[str]:
        """Return the level playbook's roles, in its order."""
        return [str(role) for role in self.variable("run_roles", [])]

    def components(self, role: str) -> tuple[list[dict[str, Any]], list[str]]:
        """Return a role's components on this host, defaults filled in from its specification, and all problems.

        rollback_components narrows them down; what only follows a change (a restart, a fence) always belongs to it.
        """
        items = self.variable(role)
        if not items:
            return [], []
        values, problems = validate(role_options(str(ROLES / role), "preflight"), {role: items})
        wanted = self.variable("rollback_components") or []
        accept = bool(self.variable("rollback_accept_unverified_backup"))
        kept = [
            {**item, "accept_unverified": accept}
            for item in (values.get(role) or [] if not problems else [])
            if not wanted or item.get("name") in wanted or follows(role)
        ]
        return kept, problems

    def components_of(self, roles: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the module takes: the roles that this service has components of, in order."""
        found = [{"role": role, "components": self.components(role)[0]} for role in roles]
        return [item for item in found if item["components"]]

    @property
    def state(self) -> dict[str, Any]:
        """The profile's rollback_state, with the service's name where objects are named for it."""
        state = dict(self.variable("rollback_state") or {})
        if state.get("kind") == KUBERNETES:
            state["service"] = str((self.variable("rollback_service") or {}).get("name") or "")
        return state

    @property
    def in_kubernetes(self) -> bool:
        """Whether the service is worked on from this process."""
        return bool(self.state.get("kind") == KUBERNETES)

    def on_host(self, module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do the work of one of our modules where the service is: on its host, or in this process."""
        return self._in_process(module, arguments) if self.in_kubernetes else self._module_on_host(module, arguments)

    def _in_process(self, module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do what the module would do. When the controller is killed this process ends with it: nothing that changes a
        cluster may outlive the one who holds the lease (engine workers are sessions of their own, so a signal to the
        controller's group does not reach them)."""
        die_with_the_controller()
        return answer(module, arguments, check_mode=bool(self._task.check_mode))

    def _module_on_host(self, module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run one of our modules on the host, by its code that lies there where that can be.

        A host that cannot be reached is a failure like any other: Ansible gives an unreachable one neither rescue nor
        always.
        """
        try:
            called = call_on_host(self, self.task_vars, module, arguments)
            if called is not None:
                return called
            result = self._execute_module(
                module_name=module, module_args=dict(arguments), task_vars=self.task_vars, wrap_async=False
            )
        except AnsibleConnectionFailure as error:
            return {"failed": True, "msg": f"The host cannot be reached: {error}"}
        except AnsibleError as error:
            return {"failed": True, "msg": f"{module} could not be run on the host: {error}"}
        result.pop("invocation", None)
        if result.get("failed") and "rollbackctl" not in result and "next_step" not in result:
            # Not a refusal of ours: the module broke, or Python is missing there.
            result["msg"] = f"{module} broke on the host: {_cause(result)}"
        return dict(result)

    def _update_module_args(self, module_name: str, module_args: dict[str, Any], *args: Any, **more: Any) -> None:
        """Keep the module's parameters, which may hold secrets, out of the host's syslog: AnsibleModule(no_log=True) is
        overruled by what the controller says (PASS_VARS in ansible-core's common/parameters.py)."""
        super()._update_module_args(module_name, module_args, *args, **more)
        module_args["_ansible_no_log"] = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the plugin; whatever goes wrong becomes a result, so that rescue and finish still run."""
        self.task_vars: dict[str, Any] = task_vars or {}
        super().run(tmp, task_vars)
        try:
            return self.act()
        except (AnsibleError, KeyError, OSError, ValueError, TypeError) as error:
            return {"failed": True, "msg": f"{self._task.action}: {type(error).__name__}: {error}"}

    @abstractmethod
    def act(self) -> dict[str, Any]:
        """Do the plugin's work and return its result."""

    @property
    def stop_requested(self) -> str:
        """The signal that asked this run to stop; empty when none did."""
        return os.environ.get(STOP_VARIABLE, "")


def announced() -> dict[str, Any]:
    """Return what the callback plugin said about this very process's parent (pid, run); empty when it is not loaded."""
    try:
        said = json.loads(os.environ.get(CALLBACK_VARIABLE, ""))
    except ValueError:
        return {}
    return dict(said) if said.get("pid") == os.getppid() else {}


def _cause(result: Mapping[str, Any]) -> str:
    """Return why a module broke: ansible-core 2.19 keeps the exception as an object whose event has the message."""
    event = getattr(result.get("exception"), "event", None)
    last = str(result.get("module_stderr") or "").strip().splitlines()[-1:]
    return str(result.get("msg") or getattr(event, "msg", "") or "".join(last) or "no reason was given")[:500]


def follows(role: str) -> bool:
    """Say whether a role's components are only restarted because something else changes."""
    return role in DRIVERS and DRIVERS[role].default_action == "follow"


def stages(role: str) -> bool:
    """Say whether a role's components take part in staging."""
    return role in DRIVERS and DRIVERS[role].stage is not Driver.stage
