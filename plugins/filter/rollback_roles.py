# SPDX-License-Identifier: GPL-3.0-or-later
"""Which roles take part in a phase."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollback_roles
short_description: Keep the roles that take part in a phase
description: Roles declare their phases in C(meta/phases.yml). The order stays; it is turned round for what takes back.
version_added: "0.1.0"
positional: phase
options:
  _input:
    description: Role names, in the order in which things are put back.
    type: list
    elements: str
    required: true
  phase:
    description: The phase.
    type: str
    required: true
"""

EXAMPLES = r"""
loop: "{{ run_roles | rollback_roles('stage') }}"
"""

RETURN = r"""
_value:
  description: The roles that declare the phase.
  type: list
  elements: str
"""

from pathlib import Path  # noqa: E402 - documentation comes first
from typing import Any, Callable  # noqa: E402

from ansible import module_utils  # noqa: E402

_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl.action import declared  # noqa: E402


def rollback_roles(roles: list[str], phase: str) -> list[str]:
    """Return the roles that take part in a phase; for `undo` the last one first."""
    found = declared([str(role) for role in roles], str(phase))
    return found[::-1] if phase == "undo" else found


class FilterModule:
    """Offers the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {"rollback_roles": rollback_roles}
