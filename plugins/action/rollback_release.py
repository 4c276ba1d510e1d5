# SPDX-License-Identifier: GPL-3.0-or-later
"""Release one quarantined combination."""

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
    """`rollback_release:` takes no options; the run parameter rollback_release names the combination."""

    def act(self) -> dict[str, Any]:
        """Release it in the state store."""
        asked = {"rollback_release": self.variable("rollback_release")}
        if self.dry:
            return {"skipped": True, "skip_reason": "check mode releases nothing"}
        result = self.on_host("rollback_run", {"operation": "release", "run": self.engine_run, "asked": asked})
        return {**result, "changed": not result.get("failed")}
