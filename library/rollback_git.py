# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: put a good tree on top of a git branch."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollback_git
short_description: Put a good tree on top of a git branch
version_added: "0.1.0"
description:
  - Does one phase of a rollback for git branches.
  - Started by the action plugin C(rollback_component), which fills in the parameters; not meant to be called by hand.
  - The content of a good commit becomes a new commit on top of the branch, at the remote or in the repository itself.
    Nothing is forced, nothing can conflict, and undo is the same thing again.
options:
  phase:
    description: The moment of the run.
    type: str
    required: true
  role:
    description: The role that asks, C(rollback_git).
    type: str
    required: true
  components:
    description: The branches, as the role's argument specification describes them, defaults filled in.
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
    description: Reads and compares; what has to be fetched or merged for that goes into a temporary directory.
  idempotence:
    support: full
    description: A branch that has the target's content is left alone.
requirements:
  - git >= 2.31; 2.38 for C(method=revert)
author:
  - The rollbackctl authors
"""

EXAMPLES = r"""
- name: Rollback | Put the good tree on top of the branch
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
from ansible.module_utils.rollbackctl.git import GitDriver
from ansible.module_utils.rollbackctl.phases import PHASE_ARGUMENTS, run_phase


def main() -> None:
    """Do the phase."""
    module = AnsibleModule(argument_spec=PHASE_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_phase(GitDriver, module.params, check_mode=module.check_mode)
    except RollbackError as exc:
        module.fail_json(msg=exc.message, next_step=exc.next_step)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
