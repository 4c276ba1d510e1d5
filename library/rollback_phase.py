#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one phase of a run for all components of a service."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollback_phase
short_description: Run one phase of a run for all components of a service
description:
  - Reads, proves, keeps or changes the service's components, in the level's order, as the run's plan says.
  - The action plugin of the same name fills in the components from the service's profile.
version_added: "0.1.0"
author: [The rollbackctl authors]
options:
  phase:
    description: The phase.
    type: str
    required: true
  roles:
    description: The components, a list of C(role) and C(components) in the order in which things are put back.
    type: list
    elements: dict
    required: true
  run:
    description: The run, as the guard opened it.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: In check mode only C(preflight) runs; it reads and proves, and writes nothing.
"""

EXAMPLES = r"""
- name: Rollback | Bring every component to its target
  rollback_phase:
    phase: rollback
"""

RETURN = r"""
rollbackctl:
  description:
    - What came of each component. C(steps) has one line a component (phase, role, component, status, text, read_back,
      seconds); C(proposals) what preflight found.
  returned: always
  type: dict
next_step:
  description: What to type next.
  returned: on failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.rollbackctl.calls import answer
from ansible.module_utils.rollbackctl.phases import PHASE_ARGUMENTS


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=PHASE_ARGUMENTS,
        supports_check_mode=True,
        no_log=True,  # the parameters, which may hold secrets, would go to the host's syslog
    )
    module.exit_json(**answer("rollback_phase", module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
