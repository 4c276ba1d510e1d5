# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller checks before it touches a host: names, values and the shape of a profile.

The truth about parameters is in the roles' meta/argument_specs.yml; nothing here repeats it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, Callable

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .durable import parse_time
from .names import did_you_mean, has_template, is_name, is_run_id, printable, text_problem

# A name with this beginning that nobody knows is a typing error, and a typing error must not pass silently.
OWN_PREFIX = "rollback_"
# How profile variables and roles begin: in an extra variable of such a name a template is refused.
OWN_PREFIXES = (OWN_PREFIX, "restore_", "restart_", "run_", "clear_")
# Of other people's names only those are refused that are one or two letters away from ours (ratio of difflib).
NEAR_MISS = 0.9
# Play variables of the engine; a caller may not set them.
ENGINE_VARIABLES = (
    "run_kind",
    "run_level",
    "run_roles",
    "run_checks",
    "run_takes_back",
    "run_phase",
    "ansible_facts",
    "rollbackctl_run",
    "rollbackctl_proposals",
    "rollbackctl_trouble",
    "__run_failure",
)


def plain(value: Any) -> Any:
    """Return a value of Ansible's own types as JSON types; times (which YAML makes of 2026-11-21T09:30:15Z) as text."""

    def other(item: Any) -> str:
        if isinstance(item, datetime):
            moment = item if item.tzinfo else item.replace(tzinfo=timezone.utc)
            return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return item.isoformat() if isinstance(item, date) else str(item)

    return json.loads(json.dumps(value, default=other))


@cache
def role_options(role_directory: str, entry_point: str) -> dict[str, Any]:
    """Return the options of one entry point of a role's meta/argument_specs.yml.

    :raises OSError, KeyError: the role has no such specification.
    """
    text = (Path(role_directory) / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)["argument_specs"][entry_point]["options"])


def validate(options: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Check values against a specification; return them with types and defaults filled in, and all problems."""
    result = ArgumentSpecValidator(dict(options)).validate(dict(values))
    return dict(result.validated_parameters), [printable(message)[:400] for message in result.error_messages]


def known_names(roles_directory: str) -> set[str]:
    """Return every variable that some role of the project declares, in any entry point."""
    names: set[str] = set()
    for spec in Path(roles_directory).glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(spec.read_text(encoding="utf-8"))["argument_specs"].values():
            names.update(entry.get("options", {}))
    return names


def unknown_names(given: Iterable[str], known: set[str]) -> list[str]:
    """Return a sentence for each name that is ours by its prefix, or nearly a known one, but not known."""
    wrong = []
    for name in sorted(given):
        if name in known or name in ENGINE_VARIABLES:
            continue
        hint = did_you_mean(name, known, NEAR_MISS)
        if name.startswith(OWN_PREFIX) or hint:
            hint = hint or did_you_mean(name, known)
            wrong.append(f"{printable(name)} is not a variable of rollbackctl{hint}")
    return wrong


def raw_problems(extra: Mapping[str, Any], trusted: Callable[[object], bool]) -> list[str]:
    """Return a sentence for each extra variable of ours that holds a template, and for each that is the engine's.

    :param extra: extra variables as they came in, before anything templated them.
    :param trusted: says whether Ansible would treat a text as a template.
    """
    wrong = [f"{name} belongs to the playbooks; it cannot be passed in" for name in ENGINE_VARIABLES if name in extra]
    for name, value in extra.items():
        if name.startswith(OWN_PREFIXES) and any(has_template(text) and trusted(text) for text in _texts(value)):
            wrong.append(
                f"{name} holds template marks ({{{{, {{% or {{#}}): Ansible would run them. Write plain text, or pass "
                "the value through rollbackctl, which hands it on as data"
            )
    return wrong


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def parameter_problems(asked: Mapping[str, Any], kind: str) -> list[str]:
    """Return a sentence for each run parameter whose value cannot be used. asked: validated for type already."""
    wrong = []
    reason = asked.get("rollback_reason")
    if reason is not None or kind in ("rollback", "undo", "shutdown"):
        problem = text_problem(str(reason or ""))
        wrong += [f"rollback_reason {problem}"] if problem else []
    for name, fits, expected in _FORMS:
        value = str(asked.get(name) or "")
        if value and not fits(value):
            wrong.append(f"{name}={_short(value)} is not {expected}")
    for parameter, what in (("rollback_components", "a component"), ("rollback_services", "a service")):
        for name in asked.get(parameter) or []:
            if not is_name(str(name)):
                wrong.append(f"{parameter}: {_short(name)} is not {what} name")
    for name, version in (asked.get("rollback_to") or {}).items():
        if not is_name(str(name)):
            wrong.append(f"rollback_to: {_short(name)} is not a component name")
        problem = _version_problem(version)
        if problem:
            wrong.append(f"rollback_to: the version of {_short(name)} {problem}")
    return wrong


def _is_hash(text: str) -> bool:
    plan = r"[0-9a-f]{12,64}"
    named = rf"[A-Za-z0-9][A-Za-z0-9._-]*={plan}"
    return re.fullmatch(rf"{plan}|{named}(,{named})*", text) is not None


def _is_time(text: str) -> bool:
    try:
        parse_time(text)
    except ValueError:
        return False
    return True


_NAME_FORM = "a name (letters, digits, dots, dashes, underscores)"
_FORMS: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    ("rollback_checkpoint", is_name, _NAME_FORM),
    ("rollback_confirm", is_name, _NAME_FORM),
    ("rollback_environment", is_name, _NAME_FORM),
    ("rollback_release", is_name, _NAME_FORM),
    ("rollback_run", is_run_id, "a run id (lowercase letters, digits, dashes)"),
    ("rollback_plan", _is_hash, "a plan's hash (12 or more hexadecimal digits), or SERVICE=HASH,SERVICE=HASH"),
    ("rollback_accept_data_loss_since", _is_time, "a time; write it as 2026-11-21T09:30:15Z"),
)


def _version_problem(version: Any) -> str:
    if not isinstance(version, str):
        return "is not text"
    # "-2" (two alembic steps back) is a version; "-oProxyCommand" and "--upload-pack" are options.
    if version.startswith("-") and not re.fullmatch(r"-[0-9]{1,3}", version):
        return "starts with a dash"
    return text_problem(version)


def _short(value: Any) -> str:
    text = printable(str(value))
    return repr(text if len(text) <= 60 else text[:57] + "...")


def component_problems(names: Iterable[str], components: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Return what is wrong with the components of a service.

    :param names: the subset that was asked for, and those that rollback_to names.
    :param components: per role, its components.
    """
    wrong = []
    seen: dict[str, str] = {}
    for role, items in components.items():
        for item in items:
            name = str(item.get("name", ""))
            if not is_name(name):
                wrong.append(
                    f"{role}: {_short(name)} is not a component name (letters, digits, dots, dashes, underscores)"
                )
            elif name in seen:
                wrong.append(
                    f"{role}: the name {name} is taken by a component of {seen[name]}; names are unique in a service"
                )
            seen[name] = role
    for name in names:
        if name not in seen:
            listed = ", ".join(sorted(seen)) or "none"
            hint = did_you_mean(name, seen)
            wrong.append(f"there is no component {_short(name)} in this playbook's layers; components: {listed}{hint}")
    return wrong


def together(problems: Iterable[str]) -> list[str]:
    """Return problems with those that several components share said once: "shop-db, shop-env: ..."."""
    names: dict[str, list[str]] = {}
    for problem in problems:
        name, colon, text = problem.partition(": ")
        alike = bool(colon) and is_name(name)
        names.setdefault(text if alike else problem, []).extend([name] if alike else [])
    return [f"{', '.join(dict.fromkeys(of))}: {text}" if of else text for text, of in names.items()]


def budget_notes(budgets: Mapping[str, Any], level: int) -> list[str]:
    """Return a sentence when the phases' budgets add up to more than the level's: a run within each would be late."""
    allowed = float(budgets.get(f"level{level}") or 0)
    total = sum(float(seconds) for seconds in (budgets.get("phases") or {}).values())
    if not allowed or total <= allowed:
        return []
    said = f"the budgets of the phases add up to {total:g} s and level {level} is allowed {allowed:g} s"
    return [f"{said}: correct rollback_budgets in the profile"]
