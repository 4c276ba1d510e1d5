# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema went back alone, under the code that fits both revisions: seen by HTTP, sqlite3, git and digests."""

from __future__ import annotations

import contextlib

from lab.sample.build import connect
from lab.sample.proof import Drill

SCHEMA = ("shop.db",)


def columns(drill: Drill) -> list[str]:
    with contextlib.closing(connect(drill.service().databases[0])) as connection:
        return [row[1] for row in connection.execute("PRAGMA table_info(orders)")]


def test_the_column_was_really_there(drill: Drill) -> None:
    assert {len(row) for row in drill.seen("bad").orders["shop"].values()} == {4}
    assert {len(row) for row in drill.seen("good").orders["shop"].values()} == {3}


def test_the_schema_is_the_one_before(drill: Drill) -> None:
    assert drill.service().revision() == "0002"
    assert columns(drill) == ["id", "customer", "cents", "email"]


def test_health_was_asked_after_the_step(drill: Drill) -> None:
    assert (drill.root / "healthy").read_text(encoding="ascii").splitlines() == ["0002"]


def test_no_order_was_lost(drill: Drill) -> None:
    bad, now = drill.seen("bad").orders["shop"], drill.now().orders["shop"]
    assert {number: row[:3] for number, row in bad.items()} == now
    assert {"late-anna", "late-ben", "patient-carl"} <= drill.now().customers()


def test_nothing_else_was_touched(drill: Drill) -> None:
    bad, now = drill.seen("bad"), drill.now()
    assert now.content(*SCHEMA) == bad.content(*SCHEMA)
    assert now.commit == bad.commit


def test_users_are_served(drill: Drill) -> None:
    assert drill.now().health == [200, "1.4.0"]
    assert drill.service().get("/health")[1]["revision"] == "0002"


def test_the_second_run_found_all_in_place(drill: Drill) -> None:
    assert drill.outcomes() == ["done", "already"]
    assert drill.now() == drill.seen("after")
