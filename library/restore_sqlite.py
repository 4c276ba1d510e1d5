# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: bring a SQLite database back to a proven backup."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: restore_sqlite
short_description: Bring a SQLite database back to a proven backup
version_added: "0.1.0"
description:
  - Does one phase of a rollback for SQLite databases.
  - Started by the action plugin C(rollback_component), which fills in the parameters; not meant to be called by hand.
  - Checkpoints are taken with SQLite's backup API, so what is still in the WAL is in them, and come with a manifest of
    row counts and digests. A backup is proven (checksum, integrity_check, manifest, identity) before anything changes.
  - A restore either takes the file's place with one rename while nobody has it open, or is written online as one
    transaction. The displaced database is kept until C(finalize).
options:
  phase:
    description: The moment of the run.
    type: str
    required: true
  role:
    description: The role that asks, C(restore_sqlite).
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
    description: Reads and compares; nothing is written, not even beside the database.
  idempotence:
    support: full
    description: A database that has the target's content is left alone.
requirements:
  - python >= 3.9 with its sqlite3 module
author:
  - The rollbackctl authors
"""

EXAMPLES = r"""
- name: Rollback | Bring the database back to the backup
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
from ansible.module_utils.rollbackctl.sqlite import SqliteDriver


def main() -> None:
    """Do the phase."""
    module = AnsibleModule(argument_spec=PHASE_ARGUMENTS, supports_check_mode=True)
    try:
        result = run_phase(SqliteDriver, module.params, check_mode=module.check_mode)
    except RollbackError as exc:
        module.fail_json(msg=exc.message, next_step=exc.next_step)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
