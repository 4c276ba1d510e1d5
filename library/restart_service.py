# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: restart a service after what it has loaded was put back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restart_service
short_description: Restart a service because something it has loaded was put back
version_added: "0.1.0"
description:
  - Does one phase of a rollback for programs under supervisor, systemd, pm2 or commands of their own.
  - Started by the action plugin C(rollback_component), which fills in the parameters; not meant to be called by hand.
  - A restart counts when a start is read back that is later than the changes it is for, in state RUNNING, and
    that stays up. With O(components) C(fence) the service is stopped, with all its children, while data is changed.
options:
  phase:
    description: The moment of the run.
    type: str
    required: true
  role:
    description: The role that asks, C(restart_service).
    type: str
    required: true
  components:
    description: The services, as the role's argument specification describes them, defaults filled in.
    type: list
    elements: dict
    required: true
  run:
    description: The run (id, token, place of the state store, kind, level).
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Asks the manager for the state; nothing is stopped or started.
  idempotence:
    support: full
    description: A service that this run has restarted is not restarted again when the run is resumed.
requirements:
  - python >= 3.9
author:
  - The rollbackctl authors
"""

EXAMPLES = r"""
- name: Rollback | Restart what has loaded the bad version
  rollback_component:
    phase: rollback
"""

RETURN = r"""
rollbackctl:
  description: What was read, done and read back, per component; the run record is made from it.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.rollbackctl.errors import RollbackError
from ansible.module_utils.rollbackctl.phases import PHASE_ARGUMENTS, run_phase
from ansible.module_utils.rollbackctl.service import ServiceDriver


def main() -> None:
    """Do the phase."""
    module = AnsibleModule(argument_spec=PHASE_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_phase(ServiceDriver, module.params, check_mode=module.check_mode)
    except RollbackError as exc:
        module.fail_json(msg=exc.message, next_step=exc.next_step)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
