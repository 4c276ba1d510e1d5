# SPDX-License-Identifier: GPL-3.0-or-later
"""B32: the budgets of a runbook's steps add up to more than the runbook allows, and nobody notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.controller import budget_notes

from tests.contract.project import ROOT, files, load

# Verify, scale down, set the image, scale up, health check, and what the runbook says it all takes.
STEPS = {"preflight": 30, "fence": 60, "rollback": 30, "resume": 120, "verify": 60}
CLAIMED = 270


def test_b32_steps_that_do_not_add_up_are_said_in_the_plan() -> None:
    (said,) = budget_notes({"level1": CLAIMED, "phases": STEPS}, 1)
    assert "add up to 300 s" in said
    assert "level 1 is allowed 270 s" in said


@pytest.mark.parametrize(
    "budgets",
    [{}, {"level1": 300, "phases": STEPS}, {"phases": STEPS}, {"level1": 300}, {"level2": 10, "phases": STEPS}],
)
def test_b32_what_adds_up_or_was_not_set_is_no_note(budgets: dict[str, Any]) -> None:
    assert budget_notes(budgets, 1) == []


def shipped() -> list[Path]:
    return [path for path in files("inventories/**/*.yml") if "rollback_budgets" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", shipped(), ids=lambda path: str(path.relative_to(ROOT)))
def test_b32_the_shipped_profiles_add_up(path: Path) -> None:
    budgets = load(path)["rollback_budgets"]
    assert [note for level in (1, 2, 3) for note in budget_notes(budgets, level)] == []
