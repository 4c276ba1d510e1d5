# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: take a database schema back along its alembic migrations."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollback_alembic
short_description: Take a database schema back along its alembic migrations
version_added: "0.1.0"
description:
  - Does one phase of a rollback for the schema of a database.
  - Started by the action plugin C(rollback_component), which fills in the parameters; not meant to be called by hand.
  - Every step to the target is proven possible first; a copy of the database is migrated and put in place in one
    transaction, or the database is migrated where it is with a copy from before each step.
options:
  phase:
    description: The moment of the run.
    type: str
    required: true
  role:
    description: The role that asks, C(rollback_alembic).
    type: str
    required: true
  components:
    description: The databases, as the role's argument specification describes them, defaults filled in.
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
    description: Reads the database and the migrations, and runs env.py without a change; nothing is written.
  idempotence:
    support: full
    description: A database that is at the target revision is left alone.
requirements:
  - python >= 3.9
  - alembic in the project's own environment
author:
  - The rollbackctl authors
"""

EXAMPLES = r"""
- name: Rollback | Downgrade the schema step by step
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
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.errors import RollbackError
from ansible.module_utils.rollbackctl.phases import PHASE_ARGUMENTS, run_phase


def main() -> None:
    """Do the phase."""
    module = AnsibleModule(argument_spec=PHASE_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_phase(AlembicDriver, module.params, check_mode=module.check_mode)
    except RollbackError as exc:
        module.fail_json(msg=exc.message, next_step=exc.next_step)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
