# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback plugin in real ansible-playbook processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

PLAY = """
- name: A play of the engine
  hosts: localhost
  gather_facts: false
  vars:
    run_kind: rollback
    run_level: 3
    run_roles: []
  tasks:
    - name: Wait
      ansible.builtin.wait_for:
        path: "{{ playbook_dir }}/go"
        timeout: 120
        sleep: 1
"""


@pytest.fixture
def arguments(ansible_env: dict[str, str], root: Path, tmp_path: Path) -> dict[str, Any]:
    """What a playbook process of this project is started with; its records go to a folder of the test."""
    (tmp_path / "play.yml").write_text(PLAY, encoding="utf-8")
    env = {**ansible_env, "ROLLBACKCTL_RECORDS": str(tmp_path / "records")}
    env["ANSIBLE_CALLBACK_PLUGINS"] = str(root / "plugins" / "callback")
    return {"env": env, "cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def command(tmp_path: Path, *more: str) -> list[str]:
    return ["ansible-playbook", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml"), *more]


def records(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "records").glob("*.json")]


def waiting(tmp_path: Path) -> None:
    """Return when the play's record is there."""
    limit = time.monotonic() + 60
    while not list((tmp_path / "records").glob("*.json")):
        assert time.monotonic() < limit
        time.sleep(0.05)


def end(process: subprocess.Popen[str]) -> None:
    """End a playbook with its workers, by the ids of its own process group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ('rollback_reason=\'{{ lookup("pipe", "touch RAN") }}\'', "rollback_reason holds template marks"),
        ('{"rollback_to": {"app": ["{{ x }}"]}}', "rollback_to holds template marks"),
        ("run_kind=verify", "run_kind belongs to the playbooks"),
    ],
)
def test_a_template_is_refused_before_anything_runs(
    arguments: dict[str, Any], tmp_path: Path, extra: str, word: str
) -> None:
    ran = tmp_path / "ran"
    ended = subprocess.run(
        command(tmp_path, "-e", extra.replace("RAN", str(ran))), check=False, timeout=120, **arguments
    )
    assert ended.returncode == 2
    assert not ran.exists()
    assert word in ended.stderr
    assert "TASK" not in ended.stdout
    (record,) = records(tmp_path)
    assert record["outcome"] == "refused"
    assert word in record["message"]


def test_a_killed_run_leaves_a_true_record(arguments: dict[str, Any], tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path, "-e", "rollback_reason=drill"), start_new_session=True, **arguments)
    try:
        waiting(tmp_path)
    finally:
        end(process)
    (record,) = records(tmp_path)
    assert (record["outcome"], record["exit_code"], record["reason"]) == ("interrupted", 5, "drill")
    assert (record["playbook"], record["kind"], record["level"], record["pid"]) == (
        "play.yml",
        "rollback",
        3,
        process.pid,
    )


def test_a_run_says_where_why_and_when_before_anything_is_done(arguments: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    (tmp_path / "staging").write_text("localhost ansible_connection=local\n", encoding="ascii")
    argv = ["ansible-playbook", "-i", "staging", "-l", "localhost", "play.yml"]
    reason = "rollback_reason='it broke\x1b[2J'"
    ended = subprocess.run([*argv, "-e", reason], check=False, timeout=120, **arguments)
    (record,) = records(tmp_path)
    what = f"rollback, level 3, of localhost of {tmp_path}/staging: it broke\\x1b[2J"
    before, said, _ = ended.stdout.partition(f"{record['started']} {record['run']}: {what}")
    assert said, ended.stdout
    assert "TASK" not in before


def test_a_first_signal_waits_for_the_step_a_second_does_not(arguments: dict[str, Any], tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path), start_new_session=True, **arguments)
    try:
        waiting(tmp_path)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.returncode != 0
    finally:
        end(process)


def test_a_playbook_of_others_gets_no_record(arguments: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text("- hosts: localhost\n  gather_facts: false\n  tasks: []\n", encoding="utf-8")
    ended = subprocess.run(command(tmp_path), check=False, timeout=120, **arguments)
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "records").exists()


def test_a_play_whose_services_nobody_matched_is_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(PLAY.replace("hosts: localhost", "hosts: nobody"), encoding="utf-8")
    subprocess.run(command(tmp_path), check=False, timeout=120, **arguments)
    (record,) = records(tmp_path)
    assert (record["outcome"], record["exit_code"]) == ("refused", 2)
