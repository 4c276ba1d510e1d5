# SPDX-License-Identifier: GPL-3.0-or-later
"""Every value that the checkpoint holds is there again, and every object of its schema: compared by sqlite3 alone."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from lab.sample.proof import Drill

DESTROYED = ("customer1@example.org", "customer1", "1 Main Street")


def everything(path: Path) -> dict[str, Any]:
    """Return all rows of all tables, and the text of all that the schema has."""
    with tempfile.TemporaryDirectory() as folder:  # opening a database may write beside it
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{path}{suffix}", Path(folder) / f"copy{suffix}")
        with contextlib.closing(sqlite3.connect(Path(folder) / "copy")) as connection:
            objects = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").fetchall()
            names = [name for kind, name, _, _ in objects if kind == "table"]
            rows = {name: connection.execute(f'SELECT rowid, * FROM "{name}" ORDER BY 1').fetchall() for name in names}  # noqa: S608 - a name that SQLite gave
    return {"objects": objects, **rows}


def texts(path: Path) -> set[str]:
    """Return every value of a database as text."""
    return {str(value) for rows in everything(path).values() for row in rows for value in row}


def backup(drill: Drill) -> Path:
    """Return the checkpoint's database."""
    (kept,) = (drill.service().state / "checkpoints").glob("*/shop-db/*.sqlite")
    return kept


def test_it_was_really_destroyed(drill: Drill) -> None:
    """The displaced database, which the run kept, has the orders that came later and nothing of what was destroyed."""
    displaced = [path for path, clients in drill.kept_databases().items() if "patient-carl" in clients]
    assert displaced
    for path in displaced:
        assert not texts(path) & set(DESTROYED)
    assert texts(backup(drill)) >= set(DESTROYED)


def test_every_value_and_object_of_the_checkpoint_is_there_again(drill: Drill) -> None:
    then, now = everything(backup(drill)), everything(drill.service().databases[0])
    assert {name: len(rows) for name, rows in then.items() if name in {"orders", "deliveries"}} == {
        "orders": 50,
        "deliveries": 50,
    }
    assert now == then


def test_the_plan_left_the_schema_to_the_backup_and_said_why(drill: Drill) -> None:
    record = next(one for one in drill.records() if one["playbook"] == "converge.yml")
    plan = record["services"]["shop"]["plan"]
    assert {entry["name"]: entry["action"] for entry in plan["entries"]}["shop-schema"] == "by:shop-db"
    (why,) = (note for note in plan["notes"] if note.startswith("shop-schema: "))
    for lost in ("50 rows of deliveries", "the values of 50 rows of orders"):
        assert lost in why


def test_the_second_run_found_all_in_place(drill: Drill) -> None:
    assert drill.outcomes() == ["done", "already"]
    assert drill.now() == drill.seen("after")
