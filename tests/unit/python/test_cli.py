# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: help as promised, everything that is wrong said at once, nothing run when something is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from ansible.module_utils.rollbackctl.names import name_a_version
from rollbackctl import parameters
from rollbackctl.cli import build
from typer.testing import CliRunner, Result

from tests.unit.python import golden, samples


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty records folder, a terminal of known width, no inventory from outside."""
    folder = tmp_path / "records"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("ROLLBACKCTL_RECORDS", str(folder))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("ROLLBACKCTL_INVENTORY", raising=False)
    return folder


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("shop:\n", encoding="utf-8")
    return path


@pytest.fixture
def app() -> typer.Typer:
    return build()


def call(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="rollbackctl")


def keep(folder: Path, record: dict[str, Any]) -> None:
    (folder / f"{record['run']}.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize("command", golden.COMMANDS)
def test_help(command: str) -> None:
    assert golden.printed(command) == golden.path(command).read_text(encoding="utf-8")


def test_every_parameter_of_a_run_is_a_flag_of_some_command() -> None:
    shown = " ".join(golden.printed(command) for command in golden.COMMANDS)
    by_argument = parameters.BY_ARGUMENT | {"rollback_release"}
    missing = [name for name in parameters.options() if name not in by_argument and parameters.flag(name) not in shown]
    assert missing == []


def test_version(app: typer.Typer) -> None:
    assert call(app, "--version").output == "rollbackctl 0.1.0\n"


@pytest.mark.parametrize(
    "command",
    [
        ["run", "4"],
        ["plan", "4"],
        ["checkpoint"],
        ["adopt"],
        ["verify"],
        ["quarantine", "list"],
        ["quarantine", "release", "q"],
    ],
)
def test_nothing_is_the_default(app: typer.Typer, command: list[str], records: Path) -> None:
    result = call(app, *command)
    assert result.exit_code == 2
    for said in ("Refused, nothing was changed", "SERVICE is missing", "--inventory is missing"):
        assert said in result.stderr, said
    assert list(records.iterdir()) == []


def test_everything_that_is_wrong_is_said_at_once_in_flags(app: typer.Typer, tmp_path: Path, records: Path) -> None:
    arguments = ["run", "9", "shop", "-i", str(tmp_path / "nowhere"), "--reason", "a\nb", "--on-failure", "panic"]
    arguments += ["--to", "code", "--to", "db=1", "--to", "db=2", "--accept-data-loss-since", "yesterday"]
    result = call(app, *arguments)
    assert result.exit_code == 2
    for said in (
        "LEVEL '9' is none of 1, 2, 3, schema",
        "nowhere' does not exist",
        "--to 'code': write COMPONENT=VERSION",
        "--to names 'db' twice",
        "--on-failure",
        "panic",
        "--reason holds control characters",
        "--accept-data-loss-since",
    ):
        assert said in result.stderr, said
    assert "rollback_" not in result.stderr
    assert list(records.iterdir()) == []


def test_values_are_judged_as_the_guard_judges_them(app: typer.Typer, inventory: Path) -> None:
    arguments = [
        "run",
        "3",
        "shop",
        "-i",
        str(inventory),
        "--checkpoint",
        "../../x",
        "--plan",
        "zz",
        "--to",
        "db=--upload-pack=x",
    ]
    result = call(app, *arguments, "--reason", "a\x1bb", "--accept-data-loss-since", "yesterday")
    assert result.exit_code == 2
    for said in (
        "--reason holds control characters",
        "--checkpoint '../../x' is not a name",
        "--plan 'zz' is not a plan's hash",
        "--to: the version of 'db' starts with a dash",
        "--accept-data-loss-since 'yesterday' is not a time",
    ):
        assert said in result.stderr, said
    assert "\x1b" not in result.stderr


def test_a_reason_is_needed(app: typer.Typer, inventory: Path) -> None:
    result = call(app, "run", "3", "shop", "-i", str(inventory))
    assert result.exit_code == 2
    assert "--reason is empty; say in a few words why" in result.stderr


@pytest.mark.parametrize("service", ["all", "sh*p", "-x", "../x", "shop,sh*p", "$(id)", "a" * 64, "shop\n", "{{ x }}"])
def test_what_is_no_service(app: typer.Typer, inventory: Path, service: str) -> None:
    result = call(app, "run", "3", "-i", str(inventory), "--reason", "x", "--", service)
    assert result.exit_code == 2
    assert "SERVICE" in result.stderr


def test_lists_may_be_written_with_commas() -> None:
    values, wrong = parameters.judge({"rollback_components": ["shop-db,shop-env", "shop-code"]}, ["shop,pay", "x"], "")
    assert wrong == []
    assert values == {
        "rollback_components": ["shop-db", "shop-env", "shop-code"],
        "rollback_services": ["shop", "pay", "x"],
    }


@pytest.mark.parametrize("version", ["v1.4", "it's v1.4", "a b", "$(id)", '"x"', "0003 {{ x }}"])
def test_a_hint_that_names_a_version_can_be_typed_in_both_forms(version: str) -> None:
    plain = name_a_version("shop-db", version)
    option, words = shlex.split(plain)
    assert (option, json.loads(words)) == ("-e", {"rollback_to": {"shop-db": version}})
    said = parameters.in_flags(f"Name one of them: {plain}")
    assert shlex.split(said.removeprefix("Name one of them: ")) == ["--to", f"shop-db={version}"]


def test_hints_in_flags() -> None:
    said = parameters.in_flags("anyway: -e rollback_accept_unverified_backup=true, or rollback_checkpoint=cp-1")
    assert said == "anyway: --accept-unverified-backup, or --checkpoint cp-1"


@pytest.mark.parametrize("command", ["resume", "undo", "finalize"])
@pytest.mark.parametrize("run", ["../../etc/passwd", "RB-1", "x y"])
def test_what_is_no_run(app: typer.Typer, command: str, run: str) -> None:
    result = call(app, command, run, "--reason", "x")
    assert result.exit_code == 2
    assert "is not the id of a run" in result.stderr


@pytest.mark.parametrize("command", ["resume", "undo", "finalize"])
def test_an_unknown_run_needs_service_and_inventory(app: typer.Typer, command: str) -> None:
    result = call(app, command, "rb-20261121-093015-4f2a", "--reason", "x")
    assert result.exit_code == 2
    assert "There is no record of run 'rb-20261121-093015-4f2a'" in result.stderr
    assert "SERVICE" in result.stderr


def test_status_and_history_without_any_run(app: typer.Typer) -> None:
    for command in ("status", "history"):
        result = call(app, command)
        assert result.exit_code == 0
        assert "No run is on record" in result.output


def test_status_prints_the_line_that_resumes_an_interrupted_run(app: typer.Typer, records: Path) -> None:
    keep(records, samples.record(run="rb-20261121-080000-0001", started="2026-11-21T08:00:00Z"))
    keep(records, samples.interrupted())
    result = call(app, "status")
    assert result.exit_code == 0
    lines = [line for line in result.output.splitlines() if "shop" in line]
    assert len(lines) == 1
    assert "interrupted" in lines[0]
    assert "rollbackctl resume rb-20261121-093015-4f2a" in lines[0]


def test_status_names_what_the_run_named_where_a_resume_is_not_the_way(app: typer.Typer, records: Path) -> None:
    following = "rollbackctl finalize rb-20261121-080000-0001"
    keep(records, samples.record() | {"kind": "finalize", "outcome": "resumable", "next": following})
    output = call(app, "status").output
    assert following in output
    assert "rollbackctl resume" not in output


def test_a_run_that_goes_on_is_not_called_interrupted(app: typer.Typer, records: Path, tmp_path: Path) -> None:
    stand_in = tmp_path / "ansible-playbook"
    stand_in.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    with subprocess.Popen([sys.executable, str(stand_in)]) as process:
        try:
            keep(records, samples.interrupted() | {"pid": process.pid, "controller": os.uname().nodename})
            assert "running" in call(app, "status").output
        finally:
            process.kill()
    assert "rollbackctl resume" in call(app, "status").output


def test_history_lists_the_latest_first_and_leaves_out_what_is_no_record(app: typer.Typer, records: Path) -> None:
    keep(records, samples.record())
    keep(records, samples.refused() | {"run": "rb-20261121-100000-0002", "started": "2026-11-21T10:00:00Z"})
    (records / "rb-1.1.json").write_text(
        json.dumps(samples.record(run="rb-1", reason="an earlier attempt")), encoding="utf-8"
    )
    (records / "rb-2.json").write_text('{"cut', encoding="utf-8")
    (records / "rb-3.json").write_text("[]", encoding="utf-8")
    output = call(app, "history").output
    assert output.index("rb-20261121-100000-0002") < output.index("rb-20261121-093015-4f2a")
    assert "refused" in output
    assert "an earlier attempt" not in output
    assert "rb-2" not in output.replace("rb-2026", "")


def test_report_in_each_form(app: typer.Typer, records: Path, tmp_path: Path) -> None:
    keep(records, samples.record())
    run = "rb-20261121-093015-4f2a"
    assert "Done and proven" in call(app, "report", run).output
    assert call(app, "report", run, "--html").output.startswith("<!doctype html>")
    assert call(app, "report", run, "--markdown").output.startswith("# Rollback level 3")
    for name, first in (("a.html", "<!doctype html>"), ("a.md", "# Rollback level 3")):
        assert call(app, "report", run, "--output", str(tmp_path / name)).exit_code == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(first)


def test_report_of_no_run_names_those_there_are(app: typer.Typer, records: Path) -> None:
    keep(records, samples.record())
    result = call(app, "report", "rb-9")
    assert result.exit_code == 2
    assert "rb-20261121-093015-4f2a" in result.stderr


def test_the_project_missing_is_said_plainly(tmp_path: Path) -> None:
    environment = {**os.environ, "ROLLBACKCTL_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "from rollbackctl.cli import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("The playbooks were not found. Set ROLLBACKCTL_HOME")
