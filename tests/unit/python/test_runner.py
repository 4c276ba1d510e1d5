# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that touches ansible-runner, against real playbooks: values stay data, nothing is left, signals arrive."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from rollbackctl.runner import Event, Request, as_data, run_playbook

HOSTILE = [
    "{{ lookup('pipe', 'touch CANARY') }}",
    "{% for x in lookup('pipe', 'touch CANARY') %}{% endfor %}",
    "{# comment #}",
    "!unsafe no tag",
    "a: b\n- c",
    "$(touch CANARY) `touch CANARY`; touch CANARY",
    "@/etc/passwd",
    "\u202eback\u2028to \x1b[31mfront",
    "yes",
    "2026-11-21T09:30:15Z",
    "null",
    "1.10",
    "0x1f",
    "1e3",
    "<<",
    "=",
    "~",
    "\U0001f600",
    "#jinja2: variable_start_string:'[%', variable_end_string:'%]'\n[% lookup('pipe', 'touch CANARY') %]",
    "",
    "'\"\\",
]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a playbook of one local play with these tasks."""

    def write(*tasks: dict[str, Any]) -> Path:
        path = tmp_path / "play.yml"
        play = {"name": "Play", "hosts": "localhost", "gather_facts": False, "tasks": list(tasks)}
        path.write_text(yaml.safe_dump([play]), encoding="utf-8")
        return path

    return write


def copied(name: str, target: Path) -> dict[str, Any]:
    """A task that writes a variable, as JSON, to a file on this machine."""
    content = {"content": f"{{{{ {name} | to_json }}}}", "dest": str(target), "mode": "0600"}
    return {"name": "Rollback | Write it down", "ansible.builtin.copy": content}


def test_values_arrive_as_data_and_nothing_fires(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    texts = [text.replace("CANARY", str(canary)) for text in HOSTILE]
    values = {
        "rollback_reason": texts[0],
        "rollback_to": dict(zip(map(str, range(len(texts))), texts, strict=True)),
        "deep": [{"x": texts}],
    }
    target = tmp_path / "seen.json"
    result = run_playbook(Request(write(copied("[rollback_reason, rollback_to, deep]", target)), values=values))
    assert result.code == 0, result.output
    assert json.loads(target.read_text(encoding="utf-8")) == list(values.values())
    assert not canary.exists()


def test_the_same_value_fires_without_the_tag(write: Any, tmp_path: Path) -> None:
    """The test above would prove nothing if a plain value did not fire."""
    canary = tmp_path / "canary"
    variables = tmp_path / "plain.yml"
    variables.write_text(json.dumps({"reason": f"{{{{ lookup('pipe', 'touch {canary}') }}}}"}), encoding="utf-8")
    playbook = write(copied("reason", tmp_path / "seen.json"))
    text = playbook.read_text(encoding="utf-8").replace(
        "hosts: localhost", f"hosts: localhost\n  vars_files: [{variables}]"
    )
    playbook.write_text(text, encoding="utf-8")
    assert run_playbook(Request(playbook)).code == 0
    assert canary.exists()


def test_types_other_than_text_keep_their_type() -> None:
    values: dict[str, object] = {
        "a": True,
        "b": 3,
        "c": None,
        "d": 1.5,
        "e": [],
        "f": "1.10",
        "g": "\U0001f600 {{ x }}",
    }
    tag, _, document = as_data(values).partition("\n")
    assert tag == "--- !unsafe"
    assert yaml.safe_load(document) == values


def test_nothing_is_left_behind(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "runtime"
    place.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    seen: list[tuple[int, str]] = []

    def spy(event: Event) -> None:
        if event.get("event") == "playbook_on_task_start":
            seen.extend((path.stat().st_mode & 0o077, path.name) for path in place.rglob("*"))

    result = run_playbook(Request(write(copied("'x'", tmp_path / "out")), values={"secret": "s3cret"}), spy)
    assert result.code == 0, result.output
    assert list(place.iterdir()) == []
    assert (0, "variables.yml") in seen
    assert [mode for mode, name in seen if name.startswith("rollbackctl-")] == [0]
    assert not {"command", "stdout", "extravars", "envvars"} & {name for _, name in seen}


def test_the_playbook_sees_only_the_environment_it_needs(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("VAULT_TOKEN", "wanted")
    monkeypatch.setenv("ROLLBACKCTL_PASS_ENV", "VAULT_TOKEN")
    monkeypatch.setenv("KUBECONFIG", "/somewhere")
    monkeypatch.setenv("ANSIBLE_TIMEOUT", "7")
    monkeypatch.setenv("ANSIBLE_CONFIG", "/elsewhere/ansible.cfg")
    monkeypatch.setenv("LANG", "tr_TR.UTF-8")
    task = {
        "name": "Guard | Look around",
        "ansible.builtin.command": {"argv": ["sh", "-c", f"env -0 > {tmp_path}/env"]},
    }
    assert run_playbook(Request(write(task), environment={"ROLLBACKCTL_RECORDS": "/given"})).code == 0
    seen = dict(pair.split("=", 1) for pair in (tmp_path / "env").read_text(encoding="utf-8").split("\0") if pair)
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert seen["VAULT_TOKEN"] == "wanted"
    assert seen["KUBECONFIG"] == "/somewhere"
    assert seen["ANSIBLE_TIMEOUT"] == "7"
    assert seen["ANSIBLE_CONFIG"].endswith("/ansible.cfg")
    assert not seen["ANSIBLE_CONFIG"].startswith("/elsewhere")
    assert seen["ROLLBACKCTL_RECORDS"] == "/given"
    assert seen["LC_ALL"] == "C.UTF-8"
    assert "ANSIBLE_HOST_KEY_CHECKING" not in seen


def test_variables_are_not_in_the_command_line(write: Any, tmp_path: Path) -> None:
    task = {
        "name": "Guard | Look at the command line",
        "ansible.builtin.command": {
            "argv": ["sh", "-c", f"cat /proc/[0-9]*/cmdline > {tmp_path}/seen 2>/dev/null; true"]
        },
    }
    assert run_playbook(Request(write(task), values={"rollback_reason": "s3cret-reason"})).code == 0
    assert b"ansible-playbook" in (tmp_path / "seen").read_bytes()
    assert b"s3cret-reason" not in (tmp_path / "seen").read_bytes()


def test_check_mode(write: Any, tmp_path: Path) -> None:
    assert run_playbook(Request(write(copied("'x'", tmp_path / "out")), check=True)).code == 0
    assert not (tmp_path / "out").exists()


def test_a_failure_is_told_with_its_output(write: Any) -> None:
    result = run_playbook(Request(write({"name": "Guard | Fail", "ansible.builtin.fail": {"msg": "the disk is gone"}})))
    assert result.code == 2
    assert "the disk is gone" in result.output
    assert result.pid > 0


def test_a_playbook_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "play.yml"
    path.write_text("{", encoding="utf-8")
    result = run_playbook(Request(path))
    assert result.code != 0
    assert result.pid == 0
    assert result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_ansible_playbook_and_is_waited_for(
    write: Any, tmp_path: Path, number: signal.Signals
) -> None:
    waits = {"name": "Rollback | Take long", "ansible.builtin.command": {"argv": ["sleep", "60"]}}
    after = copied("'x'", tmp_path / "after")
    before = signal.getsignal(number)

    def interrupt(event: Event) -> None:
        if event.get("event") == "playbook_on_task_start" and interrupt_once.acquire(blocking=False):
            threading.Timer(0.5, os.kill, (os.getpid(), number)).start()

    interrupt_once = threading.Lock()
    result = run_playbook(Request(write(waits, after)), interrupt)
    assert result.signalled == number.name
    assert result.code != 0
    assert not (tmp_path / "after").exists()
    assert signal.getsignal(number) == before
    assert not Path(f"/proc/{result.pid}").exists()
