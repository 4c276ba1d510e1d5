# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wrapper makes of how a playbook ended: the record decides; without one nothing is called a success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rollbackctl import execute
from rollbackctl.cli import build
from rollbackctl.commands import arguments
from rollbackctl.report import parse
from typer.testing import CliRunner, Result

from tests.unit.python import samples

RUNS = """\
- name: A playbook without the engine
  hosts: "{{ rollback_services }}"
  gather_facts: false
  tasks:
    - name: Rollback | Leave a mark
      ansible.builtin.copy:
        content: "{{ rollback_reason }}"
        dest: "{{ inventory_dir }}/mark"
        mode: "0600"
    - name: Rollback | Write what a record says
      ansible.builtin.copy:
        src: "{{ inventory_dir }}/record.json"
        dest: "{{ lookup('ansible.builtin.env', 'ROLLBACKCTL_RECORDS') }}/rb-20261121-093015-4f2a.json"
        mode: "0600"
      when: (inventory_dir ~ '/record.json') is file
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose level 3 is a playbook of two tasks, a service on this machine, an empty records folder."""
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "rollback-level3.yml").write_text(RUNS, encoding="utf-8")
    (tmp_path / "hosts").write_text("shop ansible_connection=local\n", encoding="utf-8")
    (tmp_path / "records").mkdir(mode=0o700)
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(arguments, "ROOT", tmp_path)
    monkeypatch.setenv("ROLLBACKCTL_RECORDS", str(tmp_path / "records"))
    return tmp_path


def call(project: Path, command: str, *more: str) -> Result:
    words = [command, "3", "shop", "-i", str(project / "hosts"), "--reason", "{{ 7 * 7 }}", *more]
    return CliRunner().invoke(build(), words, prog_name="rollbackctl")


def test_a_run_without_a_record_is_unknown(project: Path) -> None:
    result = call(project, "run", "--yes")
    assert result.exit_code == 5
    assert "without a record" in result.stderr
    assert (project / "mark").read_text(encoding="utf-8") == "{{ 7 * 7 }}"


def test_the_same_as_json(project: Path) -> None:
    result = call(project, "run", "--yes", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout) == {"outcome": "unknown", "exit_code": 5}


def test_the_record_of_another_process_is_not_taken_for_this_run(project: Path) -> None:
    (project / "record.json").write_text(json.dumps(samples.record(pid=1)), encoding="utf-8")
    assert call(project, "run", "--yes").exit_code == 5


def test_a_plan_without_a_record_is_a_refusal_and_changes_nothing(project: Path) -> None:
    result = call(project, "plan")
    assert result.exit_code == 2
    assert "Refused, nothing was changed" in result.stderr
    assert not (project / "mark").exists()


def test_a_run_that_may_not_ask_and_was_not_told_yes_changes_nothing(project: Path) -> None:
    assert call(project, "run").exit_code == 2
    assert not (project / "mark").exists()


def test_a_report_that_cannot_be_written_does_not_change_the_outcome(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROLLBACKCTL_RECORDS", str(project / "hosts"))
    record = samples.record()
    execute.keep_report(record, parse(record))
    assert "The report could not be written" in capsys.readouterr().err
