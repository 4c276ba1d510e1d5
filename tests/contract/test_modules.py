# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules and plugins say what they take, and keep parameters out of logs."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.project import ROOT, files, name

MODULES = files("library/*.py")
PLUGINS = files("plugins/callback/*.py", "plugins/filter/*.py")


def constants(path: Path) -> dict[str, Any]:
    """The documentation of a module: its constants, read as YAML."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
            if target in {"DOCUMENTATION", "EXAMPLES", "RETURN"}:
                found[target] = yaml.safe_load(ast.literal_eval(node.value))
    return found


def calls(path: Path, called: str) -> list[ast.Call]:
    """Calls of a name in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == called
    ]


def argument_names(path: Path) -> set[str]:
    """The parameters that a module really takes."""
    (call,) = calls(path, "AnsibleModule")
    spec = next(keyword.value for keyword in call.keywords if keyword.arg == "argument_spec")
    if isinstance(spec, ast.Dict):
        return {key.value for key in spec.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    assert isinstance(spec, ast.Name)
    from ansible.module_utils.rollbackctl import phases, runs  # noqa: PLC0415 - only where a module takes what they take

    return set(getattr(phases, spec.id, None) or getattr(runs, spec.id))


def test_there_are_modules() -> None:
    assert {"rollback_phase.py", "rollback_run.py"} <= {path.name for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_documented(path: Path) -> None:
    found = constants(path)
    assert set(found) == {"DOCUMENTATION", "EXAMPLES", "RETURN"}
    documentation = found["DOCUMENTATION"]
    assert documentation["module"] == path.stem
    assert documentation["version_added"]
    assert documentation["short_description"]
    assert documentation["attributes"]["check_mode"]["support"] in {"full", "partial", "none"}
    assert isinstance(found["EXAMPLES"], list)
    assert all(path.stem in task for task in found["EXAMPLES"])
    assert "rollbackctl" in found["RETURN"]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_what_is_documented_is_what_is_taken(path: Path) -> None:
    assert set(constants(path)["DOCUMENTATION"]["options"]) == argument_names(path)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_parameters_stay_out_of_the_syslog(path: Path) -> None:
    (call,) = calls(path, "AnsibleModule")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for wanted in ("no_log", "supports_check_mode"):
        value = given.get(wanted)
        assert isinstance(value, ast.Constant), wanted
        assert value.value is True, wanted


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_has_an_action_plugin_or_is_called_by_one(path: Path) -> None:
    callers = [one for one in files("plugins/action/*.py") if path.stem in one.read_text(encoding="utf-8")]
    assert callers != []


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_a_plugin_is_documented(path: Path) -> None:
    documentation = constants(path)["DOCUMENTATION"]
    assert documentation["name"] == path.stem
    assert documentation["version_added"]


def imports(path: Path, *, everywhere: bool) -> list[str]:
    """The modules that a file imports; those of the same package begin with a dot. everywhere: inside functions too."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            own = "." if node.level else ""
            found += [own + node.module] if node.module else [own + alias.name for alias in node.names]
    return [one.replace("ansible.module_utils.rollbackctl.", ".") for one in found]


def shipped_to_targets() -> set[Path]:
    """What Ansible puts beside the modules: all that their imports reach, also those inside functions."""
    reached: set[Path] = set()
    todo = list(MODULES)
    while todo:
        for one in imports(todo.pop(), everywhere=True):
            path = ROOT / "plugins" / "module_utils" / "rollbackctl" / f"{one[1:]}.py"
            if one.startswith(".") and path.is_file() and path not in reached:
                reached.add(path)
                todo.append(path)
    return reached


def test_what_runs_on_targets_needs_the_standard_library_only() -> None:
    reached = shipped_to_targets()
    assert len(reached) > 40
    wrong = [
        f"{path.name}: {one}"
        for path in reached
        for one in imports(path, everywhere=False)
        if not one.startswith(".") and one.split(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_what_is_for_the_controller_is_not_shipped_to_targets() -> None:
    assert [
        path.name for path in shipped_to_targets() if path.name.startswith("kube_") or path.name == "action.py"
    ] == []


def test_what_runs_on_targets_is_python_3_9() -> None:
    paths = files("plugins/module_utils/rollbackctl/*.py", "library/*.py")
    assert len(paths) > 20
    for path in paths:
        source = path.read_text(encoding="utf-8")
        ast.parse(source, filename=name(path), feature_version=(3, 9))
        assert "from __future__ import annotations" in source or path.name == "__init__.py", name(path)


def test_every_action_plugin_finds_the_shared_code() -> None:
    paths = files("plugins/action/*.py")
    assert len(paths) >= 5
    for path in paths:
        assert "module_utils.__path__.append" in path.read_text(encoding="utf-8"), name(path)
    assert (ROOT / "plugins" / "action" / "rollback_guard.py") in paths
