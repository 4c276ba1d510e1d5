# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: bring a directory back from a checkpoint or a checked archive."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore_files
short_description: Bring a directory back from a checkpoint or a checked archive
version_added: "0.1.0"
description:
  - Does one phase of a rollback for directories.
  - Started by the action plugin C(rollback_component), which fills in the parameters; not meant to be called by hand.
  - The good tree is unpacked beside the directory, compared, and swapped with it in one step; the displaced tree is
    kept until the run is finalized.
options:
  phase:
    description: The moment of the run.
    type: str
    required: true
  role:
    description: The role that asks, C(restore_files).
    type: str
    required: true
  components:
    description: The directories, as the role's argument specification describes them, defaults filled in.
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
    description: Reads the directory and the archive; nothing is written.
  idempotence:
    support: full
    description: A directory that already is the target is left alone.
requirements:
  - python >= 3.9
author:
  - The rollbackctl authors
"""

EXAMPLES = r"""
- name: Rollback | Swap the directory with the good tree
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
from ansible.module_utils.rollbackctl.files import FilesDriver
from ansible.module_utils.rollbackctl.phases import PHASE_ARGUMENTS, run_phase


def main() -> None:
    """Do the phase."""
    module = AnsibleModule(argument_spec=PHASE_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_phase(FilesDriver, module.params, check_mode=module.check_mode)
    except RollbackError as exc:
        module.fail_json(msg=exc.message, next_step=exc.next_step)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
