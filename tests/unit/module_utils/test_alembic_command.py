# SPDX-License-Identifier: GPL-3.0-or-later
"""What a project's command leaves behind: its last words, its compiled files, and how long it took."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.alembic_command import Command, why
from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.errors import StepFailed

from tests.unit.module_utils.alembic_sample import PHONE, PYTHON, Sample, fresh_sample


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A project of one's own: four revisions, the database at the newest."""
    return fresh_sample(tmp_path)


# -- last words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        ("no such revision", "no such revision"),
        ("Usage: it\n╭─ Error ───╮\n│ No such option: -x │\n╰───────────╯\n", "No such option: -x"),
        (
            'Traceback (most recent call last):\n  File "a.py", line 1\n    b()\nE: no such table\n[SQL: x]\n(See y)',
            "E: no such table",
        ),
    ],
)
def test_the_line_that_says_why(said: str, line: str) -> None:
    assert why(said) == line


def test_a_traceback_is_its_exception_and_where_the_rest_is(sample: Sample) -> None:
    program = (
        "import sqlalchemy as sa; sa.create_engine('sqlite://').connect().execute(sa.text('SELECT * FROM nowhere'))"
    )
    own = {"downgrade_command": [str(PYTHON), "-c", program, "{url}"]}
    with pytest.raises(StepFailed) as caught:
        Command({**sample.options, **own}).go("downgrade", PHONE, sample.database)
    message = caught.value.message
    assert "OperationalError: (sqlite3.OperationalError) no such table: nowhere (all " in message
    assert "\n" not in message
    assert "\\x0a" not in message
    kept = Path(re.findall(r" lines of it: (\S+)\)", message)[0])
    try:
        assert "Traceback" in kept.read_text()
        assert "[SQL: SELECT * FROM nowhere]" in kept.read_text()
        assert kept.stat().st_mode & 0o777 == 0o600
    finally:
        kept.unlink()


def test_a_migration_s_exception_is_one_line(sample: Sample) -> None:
    env = sample.project / "migrations" / "env.py"
    env.write_text('raise ValueError("first\\nsecond")\n')
    with pytest.raises(StepFailed) as caught:
        Command(sample.options).go("downgrade", PHONE, sample.database)
    assert "failed: ValueError: first (all " in caught.value.message
    Path(re.findall(r" lines of it: (\S+)\)", caught.value.message)[0]).unlink()


def test_an_expected_failure_leaves_nothing(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]);"
        "[v] = d.execute('SELECT version_num FROM alembic_version').fetchone(); assert v == sys.argv[2]"
    )
    own = {"downgrade_command": [str(PYTHON), "-c", program, "{database}", "{revision}"]}
    assert Command({**sample.options, **own}).try_out(PHONE) == ""
    assert list(tmp_path.glob("rollbackctl-*")) == []


# -- compiled files ---------------------------------------------------------------------------------------------------


def bytecode_seen(sample: Sample, python: Path) -> tuple[dict[str, Any], Command]:
    own = "import json, sys; print(json.dumps([sys.dont_write_bytecode, sys.pycache_prefix]))"
    command = Command({**sample.options, "python": str(python), "environment": {}})
    written, prefix = json.loads(command.run([str(python), "-c", own]).output)
    return {"dont": written, "prefix": prefix}, command


def test_an_environment_without_bytecode_is_compiled_once_and_in_private(sample: Sample, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    site = next(bare.glob("lib/python*/site-packages"))
    (site / "application.py").write_text("")
    seen, command = bytecode_seen(sample, bare / "bin" / "python")
    assert seen["dont"] is False
    command.run([str(bare / "bin" / "python"), "-c", "import application"])
    prefix = Path(seen["prefix"])
    assert list(prefix.rglob("application.*.pyc")) != []
    assert prefix.stat().st_mode & 0o777 == 0o700
    assert not (site / "__pycache__").exists()
    del command
    assert not prefix.exists()


def test_bytecode_of_the_installer_is_used(sample: Sample, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    (bare / "bin").mkdir(parents=True)
    (bare / "bin" / "python").symlink_to(sys.executable)
    compiled = bare / "lib" / "python3.11" / "site-packages" / "alembic" / "__pycache__"
    compiled.mkdir(parents=True)
    (compiled / "op.cpython-311.pyc").write_bytes(b"")
    assert bytecode_seen(sample, bare / "bin" / "python")[0] == {"dont": True, "prefix": None}


# -- how long it takes ------------------------------------------------------------------------------------------------


def test_the_estimate_is_what_was_measured_on_a_copy(sample: Sample) -> None:
    def seconds(**more: Any) -> float:
        driver = AlembicDriver({**sample.options, **more}, Place(run="rb-1"))
        finding = driver.check(driver.live(exact=True), driver.resolve(PHONE))
        assert finding.problems == ()
        return finding.seconds

    env = sample.project / "migrations" / "env.py"
    env.write_text("import time\ntime.sleep(3)\n" + env.read_text())
    assert seconds() >= 3
