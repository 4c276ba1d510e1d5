# SPDX-License-Identifier: GPL-3.0-or-later
"""A project of another user: what he wrote into env.py or a migration runs with his rights, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.errors import Refused

from tests.unit.module_utils.alembic_sample import AUDIT, PHONE, Sample, fresh_sample

HIM, HER = 65534, 65533


@pytest.fixture
def sample() -> Iterator[Sample]:
    """A project, and a folder for canaries: env.py and a migration write there as whom they run."""
    assert os.geteuid() == 0, "run the tests as root: it is root who must not run it"
    top = Path(tempfile.mkdtemp(prefix="env-py-"))  # root's, and open to everybody, unlike pytest's
    top.chmod(0o755)
    sample = fresh_sample(top)
    (top / "canary").mkdir()
    (top / "canary").chmod(0o777)
    env = sample.project / "migrations" / "env.py"
    for path in (env, sample.file_of(AUDIT)):
        line = f"import os; open({str(top / 'canary' / path.stem)!r} + str(os.getuid()), 'w').close()\n"
        path.write_text(line + path.read_text())
    yield sample
    shutil.rmtree(top)


def give(owner: int, *paths: Path) -> None:
    for path in paths:
        for one in (path, *path.rglob("*")):
            os.chown(one, owner, owner)


def ran_as(sample: Sample) -> set[str]:
    canaries = {path.name for path in (sample.project.parent / "canary").iterdir()}
    return {name.removeprefix("env").removeprefix(f"{AUDIT}_it") for name in canaries}


def driver(sample: Sample, **more: Any) -> AlembicDriver:
    return AlembicDriver({**sample.options, "environment": {}, **more}, Place(run="rb-1"))


@pytest.mark.parametrize("code", [HIM, 0])
def test_it_runs_as_the_user_of_project_and_database(sample: Sample, tmp_path: Path, code: int) -> None:
    give(code, sample.project)
    give(HIM, sample.database.parent)
    subject = driver(sample)
    assert subject.ready() == []
    before, kept = sample.dump(), tmp_path / "kept"
    kept.mkdir()
    newest = subject.record(kept)
    finding = subject.check(subject.live(exact=True), subject.resolve(PHONE))
    assert finding.problems == ()
    subject.apply(subject.resolve(PHONE))
    assert sample.revision() == [PHONE]
    subject.apply(newest)
    assert sample.dump() == before
    assert ran_as(sample) == {str(HIM)}
    assert sample.beside() == []
    assert sample.database.stat().st_uid == HIM


def test_one_who_cannot_write_the_database_is_said_at_the_checkpoint(sample: Sample) -> None:
    give(HIM, sample.project)
    before = sample.dump()
    problems = driver(sample).ready()
    assert "who may not write" in " ".join(problems)
    with pytest.raises(Refused):
        driver(sample).stage(driver(sample).resolve(PHONE))
    assert ran_as(sample) <= {str(HIM)}
    assert sample.dump() == before


@pytest.mark.parametrize("part", ["migrations", "migrations/env.py", f"migrations/versions/{AUDIT}_it.py"])
def test_root_runs_no_part_of_somebody_else(sample: Sample, part: str) -> None:
    give(HIM, sample.project / part)
    assert f"belongs to user {HIM}" in " ".join(driver(sample).ready())
    with pytest.raises(Refused, match=f"belongs to user {HIM}"):
        driver(sample).resolve(PHONE)
    assert ran_as(sample) == set()


def test_several_owners_need_a_user(sample: Sample) -> None:
    give(HIM, sample.database.parent, sample.project)
    give(HER, sample.project / "alembic.ini")
    os.chown(sample.project, HIM, HIM)
    assert "belong to several users" in " ".join(driver(sample).ready())
    assert "root does not run it" in " ".join(driver(sample, user="root").ready())
    assert driver(sample, user="nobody").ready() == []
    assert ran_as(sample) == {str(HIM)}
