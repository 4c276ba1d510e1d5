# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at every failpoint: the database is wholly old or wholly new, and a second apply() ends what was begun."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.component import LIVE, TARGET, Entry, Place, Version

from tests.unit.module_utils.alembic_sample import (
    AUDIT,
    FIRST,
    NOTE,
    PHONE,
    Sample,
    apply_in_process,
    copy_sample,
    make_sample,
)

ASIDE = [
    "rollback_alembic.copy.before",
    "rollback_alembic.copy.after",
    "rollback_alembic.step.before",
    "rollback_alembic.step.after",
    "rollback_alembic.swap.before",
    "rollback_alembic.swap.within",
    "rollback_alembic.swap.after",
]
PUT_BACK = ["rollback_alembic.swap.before", "rollback_alembic.swap.within", "rollback_alembic.swap.after"]


@pytest.fixture(scope="module", params=["delete", "wal"])
def template(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Sample:
    """A project over a database of each journal mode, big enough that putting a copy in place takes several parts."""
    sample = make_sample(tmp_path_factory.mktemp("template"))
    sample.run(
        f"PRAGMA journal_mode={request.param}",
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) "
        "INSERT INTO orders SELECT i, i, hex(randomblob(400)) FROM n",
    )
    return sample


@pytest.fixture
def sample(tmp_path: Path, template: Sample) -> Sample:
    """A project of one's own."""
    return copy_sample(template, tmp_path)


class Case:
    """A driver, a target, and apply() of the same in a process that is killed."""

    def __init__(self, root: Path, sample: Sample, work: Path, **more: Any) -> None:
        self.root = root
        self.options = {**sample.options, **more}
        work.mkdir(exist_ok=True)
        self.place = {"run": "rb-1", "work": str(work), "reason": "a test"}
        self.driver = AlembicDriver(self.options, Place(run="rb-1", work=work))

    def killed(self, target: Version, failpoint: str) -> None:
        """Call apply() and be killed there."""
        arguments = json.dumps([self.options, self.place, target.to_dict()])
        ended = apply_in_process(self.root, arguments, f"{failpoint}:kill")
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    def entry(self, target: Version) -> Entry:
        """Return the plan's line for going from what is live to the target."""
        live = self.driver.live(exact=True)
        finding = self.driver.check(live, target)
        assert finding.problems == ()
        return Entry("schema", "rollback_alembic", "schema", live, target, "change", finding)

    def state(self, entry: Entry) -> str:
        """Read the component against the plan."""
        return self.driver.state(entry, opened=False)[0]


@pytest.mark.parametrize("failpoint", ASIDE)
def test_aside_the_database_is_old_or_new_and_apply_ends_it(
    root: Path, sample: Sample, tmp_path: Path, failpoint: str
) -> None:
    case = Case(root, sample, tmp_path / "work")
    entry = case.entry(case.driver.resolve(NOTE))
    old = sample.dump()
    case.killed(entry.target, failpoint)
    # Opening it is what an application would do; SQLite itself takes back what was not committed.
    now = sample.dump()
    assert case.state(entry) == (TARGET if failpoint == "rollback_alembic.swap.after" else LIVE)
    assert (now == old) == (failpoint != "rollback_alembic.swap.after")
    case.driver.apply(entry.target)
    assert case.state(entry) == TARGET
    assert sample.columns("customers") == {"id", "name"}
    assert sample.run("SELECT count(*) FROM orders") == [(3994,)]
    assert sample.run("PRAGMA integrity_check") == [("ok",)]
    assert [name for name in sample.beside() if "rollbackctl" in name] == []


# The worst a kill can leave: the migration got half-way through its DDL, and the revision is still the old one.
HALF = 'op.add_column("orders", sa.Column("half", sa.Text))\nimport os, signal\nos.kill(os.getppid(), signal.SIGKILL)'
HALF += "\nimport time\ntime.sleep(60)"


def test_a_kill_within_a_migration_leaves_the_database_as_it_was(root: Path, sample: Sample, tmp_path: Path) -> None:
    case = Case(root, sample, tmp_path / "work", url_environment=None)
    good = sample.file_of(AUDIT).read_text()
    target = case.driver.resolve(PHONE)
    entry = case.entry(target)
    old = sample.dump()
    sample.write(AUDIT, PHONE, downgrade=HALF)
    case.killed(target, "none")
    assert sample.dump() == old
    assert case.state(entry) == LIVE
    sample.file_of(AUDIT).write_text(good)
    case.driver.apply(target)
    assert sample.revision() == [PHONE]
    assert [name for name in sample.beside() if "rollbackctl" in name] == []


def test_alembic_ends_with_the_module_that_started_it(root: Path, sample: Sample, tmp_path: Path) -> None:
    case = Case(root, sample, tmp_path / "work", url_environment=None)
    target = case.driver.resolve(PHONE)
    late = tmp_path / "went-on"
    sample.write(AUDIT, PHONE, downgrade=HALF.replace("sleep(60)", f"sleep(1)\nopen({str(late)!r}, 'w').close()"))
    case.killed(target, "none")
    time.sleep(2)
    assert not late.exists()


@pytest.mark.parametrize("failpoint", PUT_BACK)
def test_putting_the_copy_back_is_all_or_nothing(root: Path, sample: Sample, tmp_path: Path, failpoint: str) -> None:
    case = Case(root, sample, tmp_path / "work")
    kept = tmp_path / "kept"
    kept.mkdir()
    before = sample.dump()
    version = case.driver.record(kept)
    case.driver.apply(case.driver.resolve(FIRST))
    after = sample.dump()
    case.killed(version, failpoint)
    assert sample.dump() == (before if failpoint == "rollback_alembic.swap.after" else after)
    case.driver.apply(version)
    assert sample.dump() == before


def test_every_failpoint_of_the_driver_is_killed_at() -> None:
    killed = {*ASIDE, *PUT_BACK}
    assert set(AlembicDriver.failpoints) - killed == {"rollback_alembic.health.before"}  # nothing is under way there
