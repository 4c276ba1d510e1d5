# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the parts of docs/ that are made from the code: tables of variables and of outcomes.

.venv/bin/python tools/make_docs.py      after a change of meta/argument_specs.yml or outcome.py

A made part stands between `<!-- made: NAME -->` and `<!-- end -->`; what stands outside is written by hand.
tests/contract/test_docs.py fails when a page is not what this makes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible import module_utils

ROOT = Path(__file__).resolve().parents[1]
module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))

from ansible.module_utils.rollbackctl import outcome  # noqa: E402 - after the path above

_PART = re.compile(r"(<!-- made: (?P<name>[a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MARKED = re.compile(r"\b[CIO]\(([^)]*)\)")


def options(role: str, entry_point: str) -> Mapping[str, Any]:
    """Return the options of an entry point of a role's argument_specs.yml."""
    text = (ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.safe_load(text)["argument_specs"][entry_point]["options"]
    return found


def components(role: str) -> str:
    """Return the table of what one component of a role may say."""
    return _table(options(role, "preflight")[role]["options"])


def profile() -> str:
    """Return the table of what a profile says about the service itself."""
    return _table(options("run_guard", "profile"))


def parameters() -> str:
    """Return the table of a run's parameters, with the wrapper's words for them."""
    rows = ["| variable | rollbackctl | type | meaning |", "|---|---|---|---|"]
    by_argument = {"rollback_services": "`SERVICE...`", "rollback_run": "`RUN`", "rollback_release": "`COMBINATION`"}
    for name, option in options("run_guard", "main").items():
        flag = by_argument.get(name, f"`--{name.removeprefix('rollback_').replace('_', '-')}`")
        rows.append(f"| `{name}` | {flag} | {_type(option)} | {_text(option)} |")
    return "\n".join(rows)


def checks() -> str:
    """Return the table of what a check may say."""
    return _table(options("run_verify", "all")["rollback_checks"]["options"])


def outcomes() -> str:
    """Return the table of the words that a run can end in."""
    rows = ["| outcome | exit code | meaning |", "|---|---|---|"]
    rows += [f"| `{word}` | {code} | {outcome.MEANINGS[word]} |" for word, code in outcome.EXIT_CODES.items()]
    code = outcome.EXIT_OVER_BUDGET
    done = outcome.MEANINGS[outcome.DONE]
    return "\n".join([*rows, f"| `{outcome.DONE}` | {code} | {done}, but over its budget, which was strict |"])


def parts() -> dict[str, Callable[[], str]]:
    """Return every made part by name: one for each component role, and the others."""
    found: dict[str, Callable[[], str]] = {
        "profile": profile,
        "parameters": parameters,
        "checks": checks,
        "outcomes": outcomes,
    }
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        role = path.parents[1].name
        if not role.startswith("run_"):
            found[role] = lambda role=role: components(role)  # type: ignore[misc] # bound now, not when it is called
    return found


def made(text: str) -> str:
    """Return a page with its made parts made anew.

    :raises KeyError: it names a part that does not exist.
    """
    known = parts()
    return _PART.sub(lambda found: f"{found[1]}\n{known[found['name']]()}\n\n{found[3]}", text)


def pages() -> list[Path]:
    """Return every page of docs/."""
    return sorted((ROOT / "docs").rglob("*.md"))


def _table(described: Mapping[str, Any]) -> str:
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join(rows + [_row(name, option) for name, option in _flat(described)])


def _flat(described: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, option in described.items():
        yield f"{above}{name}", option
        yield from _flat(option.get("options") or {}, f"{above}{name}.")


def _row(name: str, option: Mapping[str, Any]) -> str:
    default = "**required**" if option.get("required") else _value(option["default"]) if "default" in option else ""
    return f"| `{name}` | {_type(option)} | {default} | {_text(option)} |"


def _type(option: Mapping[str, Any]) -> str:
    if option.get("choices"):
        return ", ".join(f"`{choice}`" for choice in option["choices"])
    kind = str(option["type"])
    return f"list of {option['elements']}" if kind == "list" and "elements" in option else kind


def _value(default: Any) -> str:
    return f"`{yaml.safe_dump(default, default_flow_style=True).removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


def _text(option: Mapping[str, Any]) -> str:
    said = option["description"]
    text = said if isinstance(said, str) else " ".join(said)
    return _MARKED.sub(r"`\1`", text).replace("|", "\\|")


def main() -> None:
    """Make every page; say which ones changed."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = made(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"made anew: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
