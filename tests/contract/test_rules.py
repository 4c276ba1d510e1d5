# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that hold for every file that ships."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import rollbackctl
from ansible.module_utils.rollbackctl import record
from ansible.module_utils.rollbackctl.plan import FORMAT

from tests.contract.project import ROOT, files, load, name, shipped, task_files, tasks

SPDX = "# SPDX-License-Identifier: GPL-3.0-or-later"
PYTHON = [*shipped(".py"), *files("tests/**/*.py", "tests/*.py")]
SHELLS = {"shell", "ansible.builtin.shell", "raw", "ansible.builtin.raw", "script", "ansible.builtin.script"}
MODULE_LIMIT = 500


def test_there_are_files() -> None:
    assert len(PYTHON) > 60
    assert len(task_files()) > 15


def test_python_files_begin_with_their_licence() -> None:
    migrations = re.compile(r"^lab/.*/migrations/")  # the sample's own, written as alembic writes them
    wrong = []
    for path in PYTHON:
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines and lines[0].startswith("#!"):
            lines = lines[1:]
        if (not lines or lines[0] != SPDX) and not migrations.match(name(path)):
            wrong.append(name(path))
    assert wrong == []


def test_files_of_the_engine_and_its_roles_are_short() -> None:
    paths = files("plugins/*/*.py", "plugins/module_utils/rollbackctl/*.py", "library/*.py", "python/**/*.py")
    long = {name(path): n for path in paths if (n := len(path.read_text(encoding="utf-8").splitlines())) > MODULE_LIMIT}
    assert long == {}


@pytest.mark.parametrize("path", task_files(), ids=name)
def test_no_task_uses_a_shell_or_hides_a_failure(path: Path) -> None:
    wrong = []
    for task in tasks(load(path)):
        wrong += [f"{task.get('name')}: {key}" for key in SHELLS & set(task)]
        if "ignore_errors" in task or "ignore_unreachable" in task or task.get("failed_when") is False:
            wrong.append(f"{task.get('name')}: hides a failure")
    assert wrong == []


@pytest.mark.parametrize("path", task_files(), ids=name)
def test_every_task_has_a_name(path: Path) -> None:
    nameless = [sorted(task) for task in tasks(load(path)) if not task.get("name")]
    assert nameless == []


def test_no_python_uses_a_shell() -> None:
    wrong = []
    for path in shipped(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            shell = any(
                keyword.arg in {"shell", "use_unsafe_shell"} and not _false(keyword.value) for keyword in node.keywords
            )
            if shell or called in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}:
                wrong.append(f"{name(path)}:{node.lineno}: {called}")
    assert wrong == []


def _false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_links_lead_somewhere_that_ships() -> None:
    command = ["git", "ls-files", "-s", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout.decode()
    links = [ROOT / line.split("\t")[1] for line in listed.split("\0") if line.startswith("120000")]
    assert len(links) >= 7
    shipping = {str(path) for path in files(".")}
    for link in links:
        if not os.path.lexists(link):
            continue  # taken away, not yet committed
        target = os.path.realpath(link)
        assert any(one == target or one.startswith(f"{target}/") for one in shipping), (
            f"{name(link)}: nothing ships there"
        )


def test_playbooks_find_their_plugins_from_their_own_folder() -> None:
    # AWX starts a playbook without the project's ansible.cfg when it is not in the project's root.
    for link, folder in (("library", "library"), ("action_plugins", "plugins/action"), ("roles", "roles")):
        assert (ROOT / "playbooks" / link).resolve() == ROOT / folder
    for link, folder in (("callback_plugins", "plugins/callback"), ("module_utils", "plugins/module_utils")):
        assert (ROOT / "playbooks" / link).resolve() == ROOT / folder


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert rollbackctl.__version__ == project["version"] == record.VERSION


def test_every_documented_addition_is_of_this_version_or_an_older_one() -> None:
    now = tuple(int(part) for part in record.VERSION.split("."))
    for path in files("library/*.py", "plugins/*/*.py"):
        for found in re.findall(r'version_added: "?([0-9.]+)', path.read_text(encoding="utf-8")):
            assert tuple(int(part) for part in found.split(".")) <= now, name(path)


def test_the_plan_s_format_is_a_number() -> None:
    assert isinstance(FORMAT, int)


def test_yaml_files_can_be_read() -> None:
    paths = [path for path in shipped(".yml", ".yaml") if "{{" not in path.name]
    assert len(paths) > 30
    for path in paths:
        load(path)


def test_no_file_names_a_place_of_this_machine() -> None:
    here = re.compile("|".join(re.escape(f"{place}/") for place in {ROOT, Path.home()} - {Path("/")}).encode())
    paths = [path for path in files(".") if path.suffix not in {".png", ".lock"}]
    wrong = [name(path) for path in paths if here.search(path.read_bytes())]
    assert wrong == []
