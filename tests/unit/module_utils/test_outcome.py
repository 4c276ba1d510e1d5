# SPDX-License-Identifier: GPL-3.0-or-later
"""The outcome words and exit codes."""

from __future__ import annotations

import itertools

import pytest
from ansible.module_utils.rollbackctl import outcome


def test_every_word_has_a_code_a_meaning_and_a_rank() -> None:
    assert set(outcome.EXIT_CODES) == set(outcome.MEANINGS) == set(outcome._WORST_FIRST)


def test_only_success_is_zero() -> None:
    assert {word for word, code in outcome.EXIT_CODES.items() if code == 0} == {outcome.DONE, outcome.ALREADY}


@pytest.mark.parametrize(
    ("words", "worst"),
    [
        ([], "refused"),
        (["done"], "done"),
        (["done", "already"], "done"),
        (["already", "already"], "already"),
        (["done", "refused"], "refused"),
        (["refused", "restored"], "restored"),
        (["restored", "resumable"], "resumable"),
        (["resumable", "unknown", "done"], "unknown"),
        (["interrupted", "resumable"], "interrupted"),
    ],
)
def test_the_worst_service_decides(words: list[str], worst: str) -> None:
    assert all(outcome.worst(list(order)) == worst for order in itertools.permutations(words))


def test_being_late_matters_only_for_success() -> None:
    assert outcome.exit_code("done", over_strict_budget=True) == outcome.EXIT_OVER_BUDGET
    assert outcome.exit_code("done") == 0
    assert outcome.exit_code("refused", over_strict_budget=True) == 2
    assert outcome.exit_code("unknown", over_strict_budget=True) == 5
