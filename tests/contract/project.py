# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract tests read: the project's files, as git knows them (what is not committed does not ship)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (
    "playbooks",
    "roles",
    "library",
    "plugins",
    "python",
    "inventories",
    "lab",
    "tools",
    "awx",
    "eda",
    "molecule",
)


def files(*patterns: str) -> list[Path]:
    """Files of the project that exist, links and what git ignores left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout.decode()
    paths = [ROOT / name for name in listed.split("\0") if name]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def shipped(*endings: str) -> list[Path]:
    """Files that a user gets, by the ends of their names."""
    return [path for path in files(*SHIPPED) if path.name.endswith(endings)]


def name(path: Path) -> str:
    """A file's name within the project, for messages and test ids."""
    return str(path.relative_to(ROOT))


def load(path: Path) -> Any:
    """A YAML file with one document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def roles() -> list[str]:
    """All roles."""
    return sorted(path.parents[1].name for path in files("roles/*/meta/main.yml"))


def component_roles() -> list[str]:
    """Roles that put something back."""
    return [role for role in roles() if not role.startswith("run_")]


def options(role: str, entry_point: str) -> dict[str, Any]:
    """The options of one entry point of a role."""
    specs = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]
    found: dict[str, Any] = specs[entry_point]["options"]
    return found


def plays() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every play of the playbooks that people run."""
    for path in files("playbooks/*.yml"):
        if path.parent.name == "playbooks":
            for play in load(path):
                yield path.name, play


def level_plays() -> dict[str, dict[str, Any]]:
    """The plays that the engine runs phase by phase, by playbook; a panic is one task, with rules of its own."""
    return {playbook: play for playbook, play in plays() if play.get("vars", {}).get("run_kind", "panic") != "panic"}


def tasks(document: Any) -> Iterator[Mapping[str, Any]]:
    """Every task of a list of tasks or plays, however deep in blocks."""
    for item in document or []:
        if isinstance(item, Mapping):
            yield item
            for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
                yield from tasks(item.get(key))


def task_files() -> list[Path]:
    """Files that hold tasks: of roles, of playbooks, and the playbooks themselves."""
    return [
        path
        for path in files("roles", "playbooks", "molecule")
        if path.suffix == ".yml" and path.parent.name in {"tasks", "handlers", "playbooks", "molecule"}
    ]
