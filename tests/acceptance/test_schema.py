# SPDX-License-Identifier: GPL-3.0-or-later
"""The staged way down of the runbooks: one migration at a time, looking after each, until the problem is gone."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.component import Place

from tests.unit.module_utils.alembic_sample import NOTE, fresh_sample


def test_one_step_is_repeated_while_the_problem_persists(tmp_path: Path) -> None:
    sample = fresh_sample(tmp_path)

    def persists() -> bool:
        with contextlib.closing(sqlite3.connect(sample.database)) as database:
            return "phone" in [row[1] for row in database.execute("PRAGMA table_info(customers)")]

    steps = 0
    assert persists()
    while persists():
        driver = AlembicDriver({**sample.options}, Place(run=f"rb-{steps}"))
        driver.apply(driver.resolve("-1"))
        steps += 1
    assert steps == 2
    assert sample.revision() == [NOTE]
