# SPDX-License-Identifier: GPL-3.0-or-later
"""End the run: read the service back, decide the outcome, tell what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import module_utils

# The `module_utils` setting reaches modules only; what runs in the controller finds the shared code through this path.
_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl import outcome  # noqa: E402
from ansible.module_utils.rollbackctl.action import NO_CHECK, TROUBLE_FACT, RollbackAction  # noqa: E402

CHECKED_FACT = "rollbackctl_checked"  # the checks that were asked in this run: rollback_checks leaves it
CHECKED_KINDS = ("rollback", "checkpoint", "verify")
OTHER_SERVICE = "Another service of this run did not get through; the barrier stopped this one with it."


class ActionModule(RollbackAction):
    """`rollback_finish:` takes no options; what failed is in the variable __run_failure, which a rescue sets."""

    def act(self) -> dict[str, Any]:
        """Finish on the host when the guard opened the run there; say the outcome; fail unless it is a success."""
        failure = self.variable("__run_failure")
        failed = failure is not None
        hold = bool((failure or {}).get("hold"))
        message = str((failure or {}).get("msg") or (OTHER_SERVICE if failed else ""))
        message = " ".join(filter(None, [message, *(self.facts(TROUBLE_FACT) or [])]))
        following = str((failure or {}).get("next_step") or "")
        if not failed and (unasked := self._unasked()):
            failed, message = True, f"Nobody asked these checks of the profile, so nothing is proven: {unasked}."
        run = self.engine_run
        if not run or not run.get("token"):
            word = outcome.REFUSED if failed else outcome.DONE
            meaning = outcome.CHECKED if self._task.check_mode and not failed else outcome.MEANINGS[word]
            ending: dict[str, Any] = {"outcome": word, "message": message or meaning, "next": following}
        else:
            asked = {name: self.variable(name) for name in ("rollback_soak_seconds", "rollback_release")}
            ending = self._on_host(run, asked, failed=failed, message=message, hold=hold)
            ending["next"] = ending.get("next") or following
        if ending["outcome"] == outcome.REFUSED and "othing was changed" not in str(ending["message"]):
            ending["message"] = f"Refused, nothing was changed: {ending['message']}"
        succeeded = ending["outcome"] in (outcome.DONE, outcome.ALREADY)
        if succeeded and self._checks_belong_to_it() and not self.variable("rollback_checks"):
            ending["message"] = NO_CHECK
        text = _sentence(ending)
        return {"failed": not succeeded, "msg": text, "rollbackctl": {"phase": "finish", "ending": ending}}

    def _unasked(self) -> str:
        """Return the names of the profile's checks that this run should have asked and did not."""
        if not self._checks_belong_to_it():
            return ""
        asked = self.facts(CHECKED_FACT) or []
        names = [str(check["name"]) for check in self.variable("rollback_checks") or []]
        return ", ".join(name for name in names if name not in asked)

    def _checks_belong_to_it(self) -> bool:
        return not self._task.check_mode and bool(
            self.variable("run_checks", self.variable("run_kind") in CHECKED_KINDS)
        )

    def _on_host(
        self, run: dict[str, Any], asked: dict[str, Any], *, failed: bool, message: str, hold: bool
    ) -> dict[str, Any]:
        result = self.on_host(
            "rollback_run",
            {
                "operation": "finish",
                "run": run,
                "asked": asked,
                "roles": self.components_of(self.run_roles()),
                "failed": failed,
                "message": message,
                "hold": hold,
            },
        )
        if result.get("failed"):
            text = f"{message} The run could not be ended on the host: {result.get('msg', '')}".strip()
            return {"outcome": outcome.UNKNOWN, "message": text, "next": f"rollbackctl resume {run['id']}"}
        return dict(result["rollbackctl"]["ending"])


def _sentence(ending: dict[str, Any]) -> str:
    """Return the outcome in words, what was found, and what to type next."""
    meaning, message = outcome.MEANINGS[ending["outcome"]], str(ending["message"])
    said = message == meaning or "othing was changed" in message
    text = message if said else f"{meaning[0].upper()}{meaning[1:]}. {message}"
    return f"{text} Next: {ending['next']}" if ending.get("next") else text
