# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: bring a .env file, or some of its variables, back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore_env
short_description: Bring a .env file, or some of its variables, back from a checkpoint or a named backup
version_added: "0.1.0"
description:
  - Does one phase of a rollback for .env files.
  - Started by the action plugin C(rollback_component), which fills in the parameters; not meant to be called by hand.
  - The file is replaced in one step. Results hold names of variables, never values.
options:
  phase:
    description: The moment of the run.
    type: str
    required: true
  role:
    description: The role that asks, C(restore_env).
    type: str
    required: true
  components:
    description: The .env files, as the role's argument specification describes them, defaults filled in.
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
    description: Reads the file and the backup; nothing is written.
  idempotence:
    support: full
    description: A file that already is the target is left alone.
requirements:
  - python >= 3.9
author:
  - The rollbackctl authors
"""

EXAMPLES = r"""
- name: Rollback | Put the good variables back
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
from ansible.module_utils.rollbackctl.env_file import EnvFileDriver
from ansible.module_utils.rollbackctl.errors import RollbackError
from ansible.module_utils.rollbackctl.phases import PHASE_ARGUMENTS, run_phase


def main() -> None:
    """Do the phase."""
    module = AnsibleModule(argument_spec=PHASE_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_phase(EnvFileDriver, module.params, check_mode=module.check_mode)
    except RollbackError as exc:
        module.fail_json(msg=exc.message, next_step=exc.next_step)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
