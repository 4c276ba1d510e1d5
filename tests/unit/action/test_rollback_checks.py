# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin and the module as ansible-playbook runs them: both views, refusals, and a canary in no output."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.unit.module_utils.check_server import Handler, serving

CANARY = "canary-7f3a"
BIN = Path(__file__).resolve().parents[3] / ".venv" / "bin"


class Playbook:
    """A playbook of one play with one task, run verbosely against one host."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = {**env, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_LOG_PATH": str(folder / "log")}
        self.output = ""

    def run(
        self, checks: Any, task: dict[str, Any], *options: str, connection: str = "local", before: Any = ()
    ) -> dict[str, Any]:
        """Return the task's result, as a rescue would see it."""
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        play = {
            "hosts": "all",
            "gather_facts": False,
            "vars": {"rollback_checks": checks, "token": CANARY},
            "tasks": [
                *before,
                {"block": [{**task, "register": "answer"}], "always": [
                    {"ansible.builtin.copy": {"content": "{{ answer | to_json }}", "dest": str(result)},
                     "delegate_to": "localhost", "vars": {"ansible_connection": "local"}, "check_mode": False},
                ]},
            ],
        }  # fmt: skip
        book = self.folder / "book.yml"
        book.write_text(json.dumps([play]), encoding="utf-8")
        done = subprocess.run(
            [str(BIN / "ansible-playbook"), "-vvv", "-i", "localhost,", "-c", connection, *options, str(book)],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.output = done.stdout + done.stderr + (self.folder / "log").read_text(encoding="utf-8")
        answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        assert (done.returncode != 0) == bool(answer.get("failed"))
        return answer


@pytest.fixture
def playbook(tmp_path: Path, ansible_env: dict[str, str]) -> Playbook:
    return Playbook(tmp_path, ansible_env)


def ask(phase: str = "checkpoint", **arguments: Any) -> dict[str, Any]:
    return {"rollback_checks": {"phase": phase, **arguments}}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


ROOT_IS_THERE = {"name": "inside-file", "kind": "file", "path": "/"}


def test_both_views_are_merged_and_no_secret_is_anywhere(playbook: Playbook) -> None:
    """Not in -vvv output, not in the result, not in Ansible's log, though it really was sent."""
    sent: list[str | None] = []

    def look(request: Handler) -> None:
        sent.append(request.headers["Authorization"])
        request.reply(200 if request.path == "/good" else 500, b'{"token": "%s"}' % CANARY.encode(), X_Version="1.0")

    def http(name: str, path: str, view: str) -> dict[str, Any]:
        return {
            "name": name,
            "kind": "http",
            "view": view,
            "url": server.url + path,
            "headers": {"Authorization": "Bearer {{ token }}"},
            "version": {"header": "X-Version", "value": "1.0"},
            "within": 0,
        }

    command = {"name": "command", "kind": "command", "argv": ["printenv", "TOKEN"], "rc": 9}
    with serving(look) as server:
        checks = [
            http("in-good", "/good", "inside"),
            http("out-good", "/good", "outside"),
            http("in-bad", "/bad", "inside"),
            http("out-bad", "/bad", "outside"),
            {**command, "environment": {"TOKEN": "{{ token }}"}},
        ]
        answer = playbook.run(checks, ask())
    assert answer["failed"]
    assert answer["msg"].startswith("2 of 5 checks succeeded.")
    results = {one["name"]: one for one in answer["rollbackctl"]["checks"]}
    assert {name: one["ok"] for name, one in results.items()} == {
        "in-good": True,
        "out-good": True,
        "in-bad": False,
        "out-bad": False,
        "command": False,
    }
    assert results["command"]["text"] == "exit code 0, expected 9: ***"
    assert set(results["in-good"]) == {"phase", "name", "kind", "view", "ok", "unverified", "seconds", "text"}
    assert "version '1.0'" in results["out-good"]["text"]
    assert set(sent) == {f"Bearer {CANARY}"}
    assert CANARY not in json.dumps(answer)
    assert CANARY not in playbook.output


def test_a_view_is_chosen_and_the_other_left_alone(playbook: Playbook) -> None:
    outside = {**ROOT_IS_THERE, "name": "outside-file", "view": "outside"}
    for view in ("inside", "outside"):
        answer = playbook.run([ROOT_IS_THERE, outside], ask("verify", views=[view]))
        assert not answer["failed"]
        assert answer["rollbackctl"]["phase"] == "verify"
        assert [one["name"] for one in answer["rollbackctl"]["checks"]] == [f"{view}-file"]


def test_the_roles_entry_points(playbook: Playbook) -> None:
    for name, phase in (("inside", "verify"), ("outside", "resume"), ("all", "verify")):
        task = {"ansible.builtin.include_role": {"name": "run_verify", "tasks_from": name}}
        playbook.run([ROOT_IS_THERE, {**ROOT_IS_THERE, "name": "outside-file", "view": "outside"}], task)
        assert f'"phase": "{phase}"' in playbook.output
        assert ('"name": "outside-file"' in playbook.output) == (name != "inside")


def test_unverified_is_not_success_unless_it_is_allowed(playbook: Playbook) -> None:
    metrics = {
        "name": "error-rate",
        "kind": "http",
        "url": f"http://127.0.0.1:{closed_port()}/",
        "source": "metrics",
        "json": {"rate": {"max": 0.001}},
        "within": 0,
    }
    answer = playbook.run([metrics], ask())
    assert answer["failed"]
    assert answer["rollbackctl"]["checks"][0]["unverified"]
    assert not playbook.run([metrics], ask(allow_unverified=True))["failed"]


def test_check_mode_runs_no_command(playbook: Playbook, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = {"name": "smoke", "kind": "command", "argv": ["touch", str(mark)]}
    answer = playbook.run([command, {**command, "name": "out", "view": "outside"}], ask(), "--check")
    assert not answer["failed"]
    assert [one["text"] for one in answer["rollbackctl"]["checks"]] == ["not run, because this is check mode"] * 2
    assert not mark.exists()


@pytest.mark.parametrize(
    ("checks", "complaint"),
    [
        ([{**ROOT_IS_THERE, "pth": "/"}], "pth"),
        ([{**ROOT_IS_THERE, "kind": "dns"}], "dns"),
        ([{**ROOT_IS_THERE, "headers": {"A": CANARY}}], "file checks do not know headers"),
        (
            [{"name": "c", "kind": "command", "argv": ["x"], "environment": {"A": [CANARY]}}],
            "the value of A must be text",
        ),
        ([{"name": "c", "kind": "command", "argv": ["x"], "environment": CANARY}], "`environment` must be a mapping"),
        ("none", "must be a list of mappings"),
    ],
)
def test_a_wrong_profile_is_refused_without_showing_secrets(playbook: Playbook, checks: Any, complaint: str) -> None:
    answer = playbook.run(checks, ask())
    assert answer["failed"]
    assert complaint in answer["msg"]
    assert "Nothing was changed." in answer["msg"]
    assert CANARY not in json.dumps(answer)


def test_a_host_that_does_not_answer_is_a_failure_in_plain_words(playbook: Playbook) -> None:
    playbook.env["ANSIBLE_SSH_ARGS"] = "-o BatchMode=yes"
    answer = playbook.run([ROOT_IS_THERE], ask(), "-e", f"ansible_port={closed_port()}", connection="ssh")
    assert answer["failed"]
    assert not answer.get("unreachable")
    assert "The service's host does not answer, so its checks could not be run" in answer["msg"]


def test_a_missing_library_is_refused_instead_of_crashing(playbook: Playbook, tmp_path: Path) -> None:
    alone = tmp_path / "plugins" / "action"
    alone.mkdir(parents=True)
    shutil.copy(Path(__file__).resolve().parents[3] / "plugins" / "action" / "rollback_checks.py", alone)
    playbook.env["ANSIBLE_ACTION_PLUGINS"] = str(alone)
    for setting in ("MODULE_UTILS", "CALLBACK_PLUGINS", "FILTER_PLUGINS"):  # others would make it importable
        playbook.env[f"ANSIBLE_{setting}"] = str(tmp_path)
    answer = playbook.run([ROOT_IS_THERE], ask())
    assert answer["failed"]
    assert "rollbackctl is not installed as a whole" in answer["msg"]


def test_a_profile_without_checks_says_so(playbook: Playbook) -> None:
    answer = playbook.run([], ask())
    assert not answer["failed"]
    assert "nothing was looked at" in answer["msg"]


def test_the_runs_journal_says_which_processes_are_old(playbook: Playbook, tmp_path: Path) -> None:
    state = {"kind": "directory", "path": str(tmp_path / "state")}
    run = "rb-20261121-093015-4f2a"
    store = DirectoryStore(str(state["path"]))
    store.create()
    store.run_directory(run).mkdir(parents=True)
    store.write_plan(run, {"entries": []})
    guard = {"ansible.builtin.set_fact": {"rollbackctl_run": {"id": run, "state": state}, "cacheable": True}}
    survivor = subprocess.Popen(["sleep", "300"])
    try:
        note = tmp_path / "sleep.pid"
        note.write_text(str(survivor.pid), encoding="utf-8")
        check = {"name": "restarted", "kind": "process", "pid_file": str(note), "started_after": "run", "within": 0}
        assert not playbook.run([check], ask(), before=[guard])["failed"]  # nothing was changed yet
        time.sleep(1.1)  # the journal counts in whole seconds
        store.journal(run).append("begin", component="code")
        answer = playbook.run([check], ask(), before=[guard])
    finally:
        survivor.kill()
        survivor.wait()
    assert answer["failed"]
    assert "not restarted" in answer["msg"]
