# SPDX-License-Identifier: GPL-3.0-or-later
"""Every parameter of a run against every text of the corpus, by the functions that the guard and the wrapper call.

A value is refused, or it is text that is only ever carried: the reason, and the version of a component, which each
driver looks up in what there is. There is no third way, and this table would not notice a new parameter as safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.controller import parameter_problems, raw_problems, role_options, validate
from rollbackctl import parameters

from tests.security.corpus import ALL, CONTROL, HUGE, OPTIONS, TEMPLATES
from tests.support.bench import ROOT

SPECIFICATION = role_options(str(ROOT / "roles" / "run_guard"), "main")
FREE_TEXT = {"rollback_reason", "rollback_to"}


def shapes(name: str, text: str) -> Iterator[tuple[Any, bool]]:
    """Yield the values of a parameter that hold a text, and whether the text may be carried there."""
    kind = SPECIFICATION[name]["type"]
    if kind == "dict":
        yield {text: "v1"}, False
        yield {"shop-code": text}, True
        yield {"shop-code": {"nested": text}}, False
        yield text, False
    elif kind == "list":
        yield [text], False
        yield ["shop-code", text], False
    else:
        yield text, name in FREE_TEXT


def judged(values: dict[str, Any]) -> list[str]:
    """Return what the guard says about parameters that came in as data."""
    validated, problems = validate(SPECIFICATION, {"rollback_reason": "x", **values})
    return problems or parameter_problems(validated, "rollback")


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
@pytest.mark.parametrize("name", SPECIFICATION)
def test_a_hostile_text_is_refused_or_carried(name: str, text: str) -> None:
    for value, free in shapes(name, text):
        problems = judged({name: value})
        must = not free or text in {*CONTROL, *HUGE} or (name == "rollback_to" and text in OPTIONS)
        assert bool(problems) or not must, value
        said = "\n".join(problems)
        assert not set(said) & {"\x00", "\x1b", "\x9b", "\u202e", "\u2066", "\u2028", "\udcff"}, said
        assert len(said) < 2000


@pytest.mark.parametrize("text", TEMPLATES)
@pytest.mark.parametrize("name", SPECIFICATION)
def test_a_template_that_ansible_would_run_is_refused_in_every_parameter(name: str, text: str) -> None:
    for value, _ in shapes(name, text):
        (problem,) = raw_problems({name: value}, lambda _: True)
        assert name in problem
        assert "rollbackctl, which hands it on as data" in problem


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_a_service_of_the_command_line_is_a_host_and_nothing_else(text: str) -> None:
    _, problems = parameters.judge({"rollback_reason": "x"}, [text], "rollback")
    assert problems
    assert all(problem.isprintable() for problem in problems)


def test_every_parameter_of_the_command_line_is_judged_by_the_guard() -> None:
    """The wrapper has no rule of its own, so the tables above hold for it as well."""
    for name in SPECIFICATION:
        if SPECIFICATION[name]["type"] == "str" and name not in parameters.BY_ARGUMENT:
            _, problems = parameters.judge({"rollback_reason": "x", name: "a\x1b[31mb"}, ["shop"], "rollback")
            assert problems, name
