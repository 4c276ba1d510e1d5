# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: run a service's health checks on its own host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollback_checks
short_description: Run a service's health checks on its own host
version_added: "0.1.0"
description:
  - Runs all checks at once and says for each whether the service is healthy, is not, or whether that is unverified.
  - Normally started by the action plugin of the same name, which reads the profile's C(rollback_checks).
  - Nothing is changed, except by what a check of kind C(command) does itself; its clean-up always runs.
options:
  phase:
    description: The moment of the run; it is put into the results.
    type: str
    required: true
  checks:
    description:
      - The checks, as the role C(run_verify) describes them, without C(headers) and C(environment).
    type: list
    elements: dict
    required: true
  secrets:
    description:
      - JSON text, a list as long as O(checks), of mappings with the C(headers) and C(environment) of each.
      - Not logged and not returned.
    type: str
  deadline:
    description: Seconds for all checks together.
    type: float
    default: 120
  run:
    description:
      - The run that asks, with its C(id) and C(state). Its journal says since when processes and log lines count,
        its plan which versions should run. Without it nothing was changed.
    type: dict
  allow_unverified:
    description: Whether checks that cannot be evaluated leave the task green.
    type: bool
    default: false
attributes:
  check_mode:
    support: partial
    description: Checks of kind C(command) are not run, and are reported as unverified; all others only read.
  idempotence:
    support: full
    description: Changes nothing.
requirements:
  - python >= 3.9
author:
  - The rollbackctl authors
"""

EXAMPLES = r"""
- name: Verify | Ask the service whether it is healthy
  rollback_checks:
    phase: verify
    checks:
      - name: health
        kind: http
        url: http://127.0.0.1:8000/health
        json: {status: ok}
      - name: no-orphans
        kind: sql
        database: /srv/shop/shop.db
        query: SELECT count(*) FROM lines WHERE NOT EXISTS (SELECT 1 FROM orders WHERE orders.id = lines.order_id)
        expect: {value: 0}
"""

RETURN = r"""
rollbackctl:
  description: The phase, and what each check said.
  returned: always, unless the parameters are refused
  type: dict
  contains:
    phase:
      description: The phase that was given.
      type: str
    checks:
      description: One result per check, with phase, name, kind, view, ok, unverified, seconds and text.
      type: list
      elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.rollbackctl.calls import answer


def main() -> None:
    """Run the checks that were given and end with the verdict."""
    module = AnsibleModule(
        argument_spec={
            "phase": {"type": "str", "required": True},
            "checks": {"type": "list", "elements": "dict", "required": True},
            "secrets": {"type": "str", "no_log": True},
            "deadline": {"type": "float", "default": 120},
            "run": {"type": "dict"},
            "allow_unverified": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
        no_log=True,  # the parameters, which may hold secrets, would go to the host's syslog
    )
    module.exit_json(**answer("rollback_checks", module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
