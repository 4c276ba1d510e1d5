# SPDX-License-Identifier: GPL-3.0-or-later
"""The three calls that a host of a service answers: as a module, or by code that lies there (host_call.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from .errors import RollbackError

# Stands before the answer: a login's greeting or a sudo's lecture may come first.
ANSWER = "rollbackctl-answer: "


def answer(name: str, arguments: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Do what a module of ours does, and return its result; a refusal is a result too (failed, msg, next_step).

    :param name: rollback_phase, rollback_run or rollback_checks.
    :param arguments: the module's, of JSON types.
    :raises KeyError: there is no such module.
    """
    try:
        return _CALLS[name](arguments, check_mode=check_mode)
    except RollbackError as error:
        return {"failed": True, "msg": error.message, "next_step": error.next_step}


def main() -> None:
    """Answer the call that is on standard input, as one line on standard output."""
    call = json.load(sys.stdin)
    print("\n" + ANSWER + json.dumps(answer(call["name"], call["arguments"], check_mode=call["check_mode"])))  # noqa: T201


# Each loads only what it needs: a call's start is most of its time.


def _phase(arguments: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    from .phases import run_phase  # noqa: PLC0415

    return run_phase(arguments, check_mode=check_mode)


def _run(arguments: Mapping[str, Any], **_: bool) -> dict[str, Any]:
    from .runs import RUN_ARGUMENTS, operate  # noqa: PLC0415

    defaults = {name: option.get("default") for name, option in RUN_ARGUMENTS.items()}
    return {"changed": False, "rollbackctl": operate({**defaults, **arguments})}


def _checks(arguments: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    from .check_context import context_of  # noqa: PLC0415
    from .check_profile import give_secrets, load_checks  # noqa: PLC0415
    from .checks import judge, run_checks  # noqa: PLC0415

    documents = arguments["checks"]
    if arguments.get("secrets"):
        documents = give_secrets(documents, json.loads(arguments["secrets"]))
    checks = load_checks(documents)
    context = context_of(arguments.get("run"), check_mode=check_mode)
    results = run_checks(checks, arguments["deadline"], context)
    verdict = judge(results, allow_unverified=arguments["allow_unverified"] or check_mode)
    phase = arguments["phase"]
    return {
        "changed": False,
        "failed": verdict.failed,
        "msg": verdict.text,
        "rollbackctl": {"phase": phase, "checks": [{"phase": phase, **result.to_dict()} for result in results]},
    }


_CALLS = {"rollback_phase": _phase, "rollback_run": _run, "rollback_checks": _checks}
