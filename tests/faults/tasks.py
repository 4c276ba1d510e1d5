# SPDX-License-Identifier: GPL-3.0-or-later
"""Goes through the tasks that ship, in their order and by their conditions, without Ansible: blocks with rescue and
always, `when`, roles that are included, set_fact. What a task of ours does is its caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.nativetypes import NativeEnvironment

ROOT = Path(__file__).resolve().parents[2]
INCLUDE, SET_FACT = "ansible.builtin.include_role", "ansible.builtin.set_fact"
Answer = dict[str, Any]
Task = Mapping[str, Any]
_TEMPLATES = NativeEnvironment(undefined=StrictUndefined)
_TEMPLATES.filters["ternary"] = lambda true, this, that: this if true else that


class FailedTask(Exception):
    """A task failed; rescue is for that. Whatever else is raised ends the controller: nobody rescues anything."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


@cache
def load(path: str) -> Any:
    """Return a YAML file of the project."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def go_through(
    tasks: Sequence[Task], variables: dict[str, Any], modules: Mapping[str, Callable[[Mapping[str, Any]], Answer]]
) -> None:
    """Do tasks as Ansible does for one host. modules: our own, by name; each is given its arguments.

    :raises FailedTask: one failed, and nothing rescued that.
    """
    for task in tasks:
        if not all(_is_so(condition, variables) for condition in _listed(task.get("when", []))):
            continue
        if "block" in task:
            _block(task, variables, modules)
        elif INCLUDE in task:
            told = task[INCLUDE]
            name = _valued(told.get("tasks_from", "main"), variables)
            go_through(load(f"roles/{told['name']}/tasks/{name}.yml"), variables, modules)
        elif SET_FACT in task:
            variables.update(_valued(task[SET_FACT], variables))
        else:
            (module,) = set(task) - {"name", "when"}
            answer = modules[module](_valued(task[module] or {}, variables))
            if answer.get("failed"):
                raise FailedTask(answer)


def _block(task: Task, variables: dict[str, Any], modules: Mapping[str, Callable[[Mapping[str, Any]], Answer]]) -> None:
    failed: FailedTask | None = None
    try:
        go_through(task["block"], variables, modules)
    except FailedTask as failure:
        variables["ansible_failed_result"] = failure.answer
        failed = failure
    if failed is not None and "rescue" in task:
        try:
            go_through(task["rescue"], variables, modules)
            failed = None
        except FailedTask as failure:
            failed = failure
    go_through(task.get("always", []), variables, modules)
    if failed is not None:
        raise failed


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_so(condition: Any, variables: Mapping[str, Any]) -> bool:
    return bool(_valued("{{ " + str(condition) + " }}", variables))


def _valued(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _valued(one, variables) for key, one in value.items()}
    if isinstance(value, str) and "{{" in value:
        return _TEMPLATES.from_string(value).render(variables)
    return value
