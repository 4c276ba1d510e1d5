#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open, plan, finish or describe a run on the service's host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollback_run
short_description: Open, plan, finish or describe a run on the service's host
description:
  - Takes and gives back the run's lease, composes the plan, ends the run and writes the ledger.
  - The engine's action plugins call it; a playbook has no reason to.
version_added: "0.1.0"
author: [The rollbackctl authors]
options:
  operation:
    description: What to do.
    type: str
    required: true
    choices: [open, plan, finish, describe, release]
  run:
    description: The run, as the guard made it.
    type: dict
    required: true
  service:
    description: The profile's C(rollback_service).
    type: dict
    default: {}
  asked:
    description: The run's parameters.
    type: dict
    default: {}
  proposals:
    description: What the roles' preflight found, for C(plan).
    type: list
    elements: dict
    default: []
  roles:
    description: All components of the service, by role, for reading it back.
    type: list
    elements: dict
    default: []
  fences:
    description: Whether the service has a component that can be a fence.
    type: bool
    default: false
  dry:
    description: Write nothing and take no lease.
    type: bool
    default: false
  failed:
    description: Whether a phase failed, for C(finish).
    type: bool
    default: false
  hold:
    description: Whether the failed phase waits for a person, so that nothing was taken back.
    type: bool
    default: false
  message:
    description: What the failed phase said.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: With O(dry) it only reads.
"""

EXAMPLES = r"""
- name: Status | Read the state store
  rollback_run:
    operation: describe
    run: {state: {kind: directory, path: /var/lib/rollbackctl}}
"""

RETURN = r"""
rollbackctl:
  description: The run, the plan with its problems, the ending, or the description.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.rollbackctl.calls import answer
from ansible.module_utils.rollbackctl.runs import RUN_ARGUMENTS


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=RUN_ARGUMENTS,
        supports_check_mode=True,
        no_log=True,  # the parameters, which may hold secrets, would go to the host's syslog
    )
    module.exit_json(**answer("rollback_run", module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
