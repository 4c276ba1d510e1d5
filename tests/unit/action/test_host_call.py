# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls on a host: its code is sent once, sent anew when it is damaged, and where none can lie a module does the work.

Each test has a copy of the project with one more file, so that its code has a digest of its own.
"""

from __future__ import annotations

import json
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENGINE = Path("plugins/module_utils/rollbackctl")
CACHE = Path(pwd.getpwuid(0).pw_dir) / ".cache" / "rollbackctl"
NOBODY = pwd.getpwnam("nobody")
TO_BE_FOUND = {"ansible_python_interpreter": "auto_silent", "ansible_interpreter_python_fallback": ["/usr/bin/python3"]}


class Project:
    """A copy of the project, and what its calls leave on the host."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder / "project"
        for name in ("plugins", "library", "roles"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "ansible.cfg", self.folder)
        self.own = f"only_{uuid.uuid4().hex}.py"
        (self.folder / ENGINE / self.own).touch()
        self.env = {**env, "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg")}
        run = {"id": "", "state": {"kind": "directory", "path": str(folder / "state")}}
        self.book = folder / "book.yml"
        self.book.write_text(
            json.dumps(
                [
                    {
                        "hosts": "all",
                        "gather_facts": False,
                        "tasks": [
                            {"set_fact": {"rollbackctl_run": run, "cacheable": True}},
                            {"rollback_status": {}, "register": "answer"},
                            {"copy": {"content": "{{ answer | to_json }}", "dest": str(folder / "answer.json")}},
                        ],
                    }
                ]
            ),
            encoding="utf-8",
        )

    def ask(self, *words: str, **env: str) -> dict[str, Any]:
        """Return what one call says of the state store."""
        argv = ["ansible-playbook", "-vvv", "-i", "localhost,", "-c", "local", *words, str(self.book)]
        done = subprocess.run(
            argv, cwd=self.folder, env={**self.env, **env}, capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, done.stdout
        self.said = done.stdout
        answer = json.loads((self.book.parent / "answer.json").read_text(encoding="utf-8"))
        status: dict[str, Any] = answer["rollbackctl"]["status"]
        del status["machine"]["free_bytes"]
        return status

    @property
    def there(self) -> list[Path]:
        """The folders on the host that hold this copy's code."""
        return [path.parents[1] for path in CACHE.glob(f"*/rollbackctl/{self.own}")]


@pytest.fixture
def project(tmp_path: Path, ansible_env: dict[str, str]) -> Iterator[Project]:
    one = Project(tmp_path, ansible_env)
    yield one
    for folder in one.there:
        shutil.rmtree(folder)


def test_the_code_is_sent_once_and_kept_for_its_user_alone(project: Project) -> None:
    first = project.ask()
    (folder,) = project.there
    assert folder.stat().st_mode & 0o077 == 0
    inode = folder.stat().st_ino
    assert project.ask() == first
    assert [folder.stat().st_ino for folder in project.there] == [inode]
    assert first["runs"] == []
    # A module's payload is put together nowhere.
    assert "AnsiballZ" not in project.said


def test_damaged_code_is_sent_anew(project: Project) -> None:
    first = project.ask()
    (folder,) = project.there
    (folder / "rollbackctl" / "calls.py").write_text("def main(:\n", encoding="utf-8")
    assert project.ask() == first
    assert project.there == [folder]
    assert "def main()" in (folder / "rollbackctl" / "calls.py").read_text(encoding="utf-8")


def test_code_that_others_could_have_changed_is_sent_anew(project: Project) -> None:
    first = project.ask()
    (folder,) = project.there
    canary = folder / "rollbackctl" / "canary"
    canary.touch()
    folder.chmod(0o777)
    assert project.ask() == first
    assert project.there == [folder]
    assert folder.stat().st_mode & 0o022 == 0
    assert not canary.exists()


@pytest.mark.parametrize(
    ("words", "env"),
    [((), {"ANSIBLE_PIPELINING": "False"}), (("-e", json.dumps(TO_BE_FOUND)), {})],
    ids=["no-pipe", "interpreter-to-be-found"],
)
def test_where_it_cannot_be_done_a_module_does_the_work(project: Project, words: Any, env: dict[str, str]) -> None:
    first = project.ask(*words, **env)
    assert first["runs"] == []
    assert project.there == []


def test_a_user_without_a_folder_is_told_that_there_is_no_code() -> None:
    def start(program: str) -> subprocess.CompletedProcess[str]:
        text = (ROOT / ENGINE / program).read_text(encoding="utf-8")
        argv = ["/usr/bin/python3", "-I", "-c", text, "0" * 64]
        return subprocess.run(
            argv, user=NOBODY.pw_uid, group=NOBODY.pw_gid, extra_groups=[], cwd="/", input="", text=True,
            capture_output=True, check=False,
        )  # fmt: skip

    assert not Path(NOBODY.pw_dir).exists()
    assert start("host_start.py").returncode == 90
    assert start("host_unpack.py").returncode == 1
    assert not Path(NOBODY.pw_dir).exists()
