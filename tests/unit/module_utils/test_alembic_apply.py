# SPDX-License-Identifier: GPL-3.0-or-later
"""The alembic driver on a real alembic project and a real SQLite file: going there, step by step, and back."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET, Entry, Finding, Place, Version
from ansible.module_utils.rollbackctl.errors import Refused, StateOther, StepFailed

from tests.unit.module_utils.alembic_sample import (
    AUDIT,
    FIRST,
    NOTE,
    PHONE,
    QUICK,
    SECRET,
    Sample,
    fresh_sample,
)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A project of one's own: four revisions, the database at the newest."""
    return fresh_sample(tmp_path)


def driver(sample: Sample, **more: Any) -> AlembicDriver:
    """Return a driver as the engine makes one."""
    return AlembicDriver({**sample.options, **more}, Place(run="rb-1"))


def kept(tmp_path: Path) -> Path:
    """Make a directory to record into."""
    path = tmp_path / "kept"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def entry_of(live: Version, target: Version, finding: Finding) -> Entry:
    return Entry("schema", "rollback_alembic", "schema", live, target, "change", finding)


def find(sample: Sample, want: str, **more: Any) -> tuple[Version, Version, Finding]:
    """Do what preflight does."""
    subject = driver(sample, **more)
    live, target = subject.live(exact=True), subject.resolve(want)
    return live, target, subject.check(live, target)


# -- going there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["DATABASE_URL", None])
def test_apply_goes_down_and_keeps_the_rest(sample: Sample, variable: str | None) -> None:
    live, target, finding = find(sample, "-2", url_environment=variable)
    subject = driver(sample, url_environment=variable)
    entry = entry_of(live, target, finding)
    assert subject.state(entry, opened=False)[0] == LIVE
    subject.apply(target)
    assert subject.state(entry, opened=False)[0] == TARGET
    assert sample.revision() == [NOTE]
    assert sample.columns("customers") == {"id", "name"}
    assert sample.run("SELECT id, total, note FROM orders") == [(1, 10, "gift"), (2, 20, None), (3, 30, "call")]
    assert sample.beside() == []
    before = sample.dump()
    subject.apply(target)
    assert sample.dump() == before


def test_a_revision_on_the_way_is_between_and_another_is_not(sample: Sample) -> None:
    live, target, finding = find(sample, NOTE)
    subject = driver(sample)
    sample.stamp(PHONE)
    assert subject.state(entry_of(live, target, finding), opened=False)[0] == BETWEEN
    sample.stamp(FIRST)
    assert subject.state(entry_of(live, target, finding), opened=False)[0] == OTHER


@pytest.mark.parametrize("variable", ["DATABASE_URL", None])
def test_a_failing_second_step_leaves_a_whole_database(sample: Sample, variable: str | None) -> None:
    sample.write(
        PHONE, NOTE, downgrade='op.add_column("orders", sa.Column("half", sa.Text))\nop.drop_column("no", "no")'
    )
    before = sample.dump()
    subject = driver(sample, url_environment=variable)
    with pytest.raises(StepFailed, match=f"downgrade {NOTE}' failed") as caught:
        subject.apply(subject.resolve(NOTE))
    assert "half" not in sample.columns("orders")
    assert sample.beside() == []
    assert sample.dump() == before
    assert "the database itself was not touched" in caught.value.message


def test_stage_finds_a_failing_step_before_anything_is_changed(sample: Sample) -> None:
    subject = driver(sample)
    target = subject.resolve(FIRST)
    before = sample.dump()
    subject.stage(target)
    assert sample.dump() == before
    sample.write(NOTE, FIRST, downgrade='op.drop_column("orders", "nonesuch")')
    with pytest.raises(Refused, match="Nothing was changed"):
        driver(sample).stage(target)
    assert sample.dump() == before
    assert sample.beside() == []


def test_a_writer_during_the_migration_stops_it(sample: Sample) -> None:
    writes = f"import sqlite3; c = sqlite3.connect({str(sample.database)!r})"
    writes += "; c.execute('DELETE FROM orders'); c.commit()"
    another = f'import subprocess, sys\nsubprocess.run([sys.executable, "-c", "{writes}"], check=True)'
    sample.write(AUDIT, PHONE, downgrade=f'{another}\nop.drop_index("by_total", "orders")')
    subject = driver(sample)
    with pytest.raises(StateOther, match="somebody wrote"):
        subject.apply(subject.resolve(PHONE))
    assert sample.revision() == [AUDIT]
    assert sample.run("SELECT count(*) FROM orders") == [(0,)]


def test_a_locked_database_is_left_alone_in_time(sample: Sample) -> None:
    subject = driver(sample, statement_timeout=0.5)
    target = subject.resolve(PHONE)
    sample.write(AUDIT, PHONE, downgrade='op.drop_index("by_total", "orders")')
    holder = sqlite3.connect(sample.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StepFailed, match="is unchanged"):
        subject.apply(target)
    holder.execute("ROLLBACK")
    holder.close()
    assert sample.revision() == [AUDIT]
    subject.apply(target)
    assert sample.revision() == [PHONE]


def test_a_hanging_migration_is_ended(sample: Sample) -> None:
    sample.write(AUDIT, PHONE, downgrade="import time\ntime.sleep(600)")
    subject = driver(sample, timeout=3)
    before = sample.dump()
    with pytest.raises(StepFailed, match="longer than 3 seconds"):
        subject.apply(Version({"revision": PHONE}, "phone"))
    assert sample.dump() == before


# -- step by step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["DATABASE_URL", None])
def test_staged_stops_at_the_first_step_that_is_not_healthy(
    sample: Sample, variable: str | None, tmp_path: Path
) -> None:
    # Healthy only while the customers have a phone: the step to NOTE is one too many.
    code = f"import sqlite3; c = sqlite3.connect({str(sample.database)!r})"
    code += "; c.execute('SELECT phone FROM customers')"
    log = tmp_path / "health"
    code += f"; open({str(log)!r}, 'a').write('healthy ')"
    more = {"staged": True, "health": [sample.options["python"], "-c", code], "url_environment": variable}
    live, target, finding = find(sample, FIRST, **more)
    assert finding.problems == ()
    with pytest.raises(StepFailed, match=f"after the step to revision {NOTE} the health check"):
        driver(sample, **more).apply(target)
    assert log.read_text() == "healthy "
    assert sample.revision() == [NOTE]
    assert driver(sample, **more).state(entry_of(live, target, finding), opened=False)[0] == BETWEEN
    more["health"] = [sample.options["python"], "-c", ""]
    driver(sample, **more).apply(target)
    assert sample.revision() == [FIRST]


def test_staged_without_a_health_command_is_a_problem(sample: Sample) -> None:
    _, _, finding = find(sample, PHONE, staged=True)
    assert "'staged' needs 'health'" in finding.problems[0]


# -- and back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["DATABASE_URL", None])
def test_undo_puts_the_copy_back_where_values_were_thrown_away(
    sample: Sample, tmp_path: Path, variable: str | None
) -> None:
    subject = driver(sample, url_environment=variable)
    before = sample.dump()
    version = subject.record(kept(tmp_path))
    subject.apply(subject.resolve(FIRST))
    assert sample.columns("orders") == {"id", "total"}
    finding = subject.check(subject.live(exact=True), subject.resolve(version))
    assert finding.problems == ()
    assert finding.loss is None
    assert finding.facts["direction"] == "put_back"
    sample.run("INSERT INTO orders (id, total) VALUES (4, 40)")
    finding = subject.check(subject.live(exact=True), version)
    assert finding.loss is not None
    assert finding.loss.since == version.taken
    # No time to compare with that of the decision: an undo asks since the rollback, the copy is older.
    assert finding.loss.text == f"1 rows of orders that the copy of {version.taken} does not hold"
    assert finding.notes == (f"an upgrade would not bring all of it back: the copy of {version.taken} is put back",)
    subject.apply(version)
    assert sample.dump() == before


def test_undo_upgrades_and_keeps_new_rows_where_nothing_was_thrown_away(sample: Sample, tmp_path: Path) -> None:
    subject = driver(sample)
    version = Version.from_dict(subject.record(kept(tmp_path)).to_dict())
    subject.apply(subject.resolve(NOTE))
    sample.run("INSERT INTO orders (id, total) VALUES (4, 40)")
    finding = subject.check(subject.live(exact=True), version)
    assert finding.problems == ()
    assert finding.loss is None
    assert finding.facts["direction"] == "upgrade"
    subject.apply(version)
    assert sample.revision() == [AUDIT]
    assert sample.run("SELECT count(*) FROM orders") == [(4,)]


def test_undo_waits_for_the_code_that_has_the_migrations(sample: Sample, tmp_path: Path) -> None:
    subject = driver(sample)
    version = subject.record(kept(tmp_path))
    subject.apply(subject.resolve(PHONE))
    sample.file_of(AUDIT).unlink()
    old_code = driver(sample)
    finding = old_code.check(old_code.live(exact=True), version)
    assert finding.problems == ()
    assert any("code has to be put forward first" in note for note in finding.notes)
    with pytest.raises(Refused, match="are not in"):
        old_code.apply(version)
    assert sample.revision() == [PHONE]


def test_undo_says_that_an_upgrade_could_not_be_tried_out_where_the_code_is_the_old_one(
    sample: Sample, tmp_path: Path
) -> None:
    """Whether an upgrade brings all back is not known then: the plan said that it would not."""
    text = sample.file_of(AUDIT).read_text()
    sample.file_of(AUDIT).write_text(text.replace("def downgrade():", "def downgrade():\n    op.execute('SELECT 1')"))
    subject = driver(sample)
    version = subject.record(kept(tmp_path))
    subject.apply(subject.resolve(PHONE))
    sample.file_of(AUDIT).unlink()
    old_code = driver(sample)
    finding = old_code.check(old_code.live(exact=True), version)
    assert finding.facts["direction"] == "put_back"
    assert "would not bring" not in finding.notes[0]
    assert f"the migrations up to {AUDIT} are not in {sample.options['project']} now" in finding.notes[0]
    assert "newest release" in finding.notes[0]


def test_a_checkpoint_is_gone_back_to_by_its_migrations_and_keeps_newer_rows(sample: Sample, tmp_path: Path) -> None:
    subject = driver(sample)
    subject.apply(subject.resolve(NOTE))
    checkpoint = subject.record(kept(tmp_path))
    sample.upgrade()
    sample.run("INSERT INTO orders (id, total) VALUES (4, 40)", "UPDATE customers SET phone = '1' WHERE id = 1")
    finding = subject.check(subject.live(exact=True), subject.resolve(checkpoint))
    assert finding.problems == ()
    assert finding.loss is not None
    assert finding.loss.since == checkpoint.taken
    assert finding.loss.tables == {"customers": {"only_live": 1}}
    subject.apply(checkpoint)
    assert sample.revision() == [NOTE]
    assert sample.run("SELECT count(*) FROM orders") == [(4,)]


def test_a_damaged_copy_is_refused(sample: Sample, tmp_path: Path) -> None:
    version = driver(sample).record(kept(tmp_path))
    path = Path(version.at) / version.artefacts["copy"]["file"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Refused, match="missing or damaged"):
        driver(sample).resolve(version)
    moved = dataclasses.replace(version, at=str(tmp_path / "gone"))
    with pytest.raises(Refused, match="missing or damaged"):
        driver(sample).resolve(moved)


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_no_value_of_the_environment_is_shown(sample: Sample) -> None:
    environment = {**QUICK, "APP_DSN": f"postgresql://shop:{SECRET}@db/shop", "TOKEN": f"t-{SECRET}"}
    env = sample.project / "migrations" / "env.py"
    leak = 'import os\nprint(os.environ["APP_DSN"], os.environ["TOKEN"], os.environ["APP_DSN"].split(":")[2])\n'
    fail = 'import os\nraise ValueError(os.environ["APP_DSN"] + os.environ["APP_DSN"].split(":")[2])\n'
    original = env.read_text()
    env.write_text(leak + original)
    live, target, finding = find(sample, PHONE, environment=environment)
    assert finding.problems == ()
    assert SECRET not in repr(entry_of(live, target, finding).to_dict())
    env.write_text(fail + original)
    _, _, finding = find(sample, PHONE, environment=environment)
    assert "ValueError" in finding.problems[0]
    assert SECRET not in repr(finding)
    with pytest.raises(StepFailed) as caught:
        driver(sample, environment=environment).apply(target)
    assert "ValueError" in caught.value.message
    assert SECRET not in caught.value.message + caught.value.next_step


def test_alembic_gets_nothing_of_the_callers_environment(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setenv("CALLERS_OWN", "yes")
    env = sample.project / "migrations" / "env.py"
    env.write_text('import os\nraise ValueError(" ".join(sorted(os.environ)))\n')
    _, _, finding = find(sample, PHONE, environment={"MINE": "1"})
    shown = finding.problems[0]
    assert "DATABASE_URL LC_ALL MINE PATH PYTHON" in shown
    assert "CALLERS_OWN" not in shown
