# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what the state store knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import module_utils

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl.action import RollbackAction  # noqa: E402


class ActionModule(RollbackAction):
    """`rollback_status:` takes no options."""

    def act(self) -> dict[str, Any]:
        """Return lease, runs, checkpoints and quarantine as the record's `status`."""
        return self.on_host("rollback_run", {"operation": "describe", "run": self.engine_run})
