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


def test_what_runs_on_targets_needs_the_standard_library_only() -> None:
    # What runs in the controller may use Ansible; what a function imports is there where that function runs.
    wrong = []
    for path in files("plugins/module_utils/rollbackctl/*.py"):
        if path.name == "action.py" or path.name.endswith("controller.py"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            wrong += [f"{path.name}: {one}" for one in modules if one.split(".")[0] not in sys.stdlib_module_names]
    assert wrong == []


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
