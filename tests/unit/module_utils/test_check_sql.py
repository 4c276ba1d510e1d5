# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL checks against real SQLite databases, also ones that are being written."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_model import Context, Sample
from ansible.module_utils.rollbackctl.check_sql import sample

ORPHANS = "SELECT count(*) FROM lines WHERE NOT EXISTS (SELECT 1 FROM orders WHERE orders.id = lines.order_id)"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop with space?.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT)")
        database.execute("CREATE TABLE lines (order_id INTEGER)")
        database.executemany("INSERT INTO orders VALUES (?, 'ann')", [(1,), (2,), (3,)])
        database.executemany("INSERT INTO lines VALUES (?)", [(1,), (2,)])
    database.close()
    return path


def ask(database: Path, query: str, timeout: float = 5.0, **expect: Any) -> Sample:
    return sample({"database": str(database), "query": query, "expect": expect}, Context(), timeout)


def test_counts_and_ranges(shop: Path) -> None:
    count = "SELECT count(*) FROM orders"
    assert ask(shop, count, value=3).ok
    assert ask(shop, count, min=1).ok
    assert ask(shop, count, min=3, max=3).ok
    assert ask(shop, count, max=2).text == "the result is 3, expected at most 2"
    assert ask(shop, count, value=4).text == "the result is 3, expected 4"
    assert ask(shop, "WITH some AS (SELECT 'ann') SELECT * FROM some", value="ann").ok


def test_orphans_are_found(shop: Path) -> None:
    assert ask(shop, ORPHANS, value=0).ok
    with sqlite3.connect(shop) as database:
        database.execute("INSERT INTO lines VALUES (99)")
    database.close()
    assert not ask(shop, ORPHANS, value=0).ok


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("SELECT count(*) FROM customers", "no such table: customers"),
        ("SELECT id FROM orders", "it gave several rows or columns"),
        ("SELECT id FROM orders WHERE id > 9", "it gave no rows or columns"),
        ("SELECT id, customer FROM orders WHERE id = 1", "one row with one value"),
        ("SELECT max(order_id) FROM lines WHERE 0", "is None, expected a number"),
        ("SELECT 1; DELETE FROM orders", "one statement at a time"),
        ("WITH gone AS (SELECT 1) DELETE FROM orders", "readonly database"),
        ("SELECT NULL", "is None, expected a number"),
    ],
)
def test_what_is_no_answer_is_a_failure_and_changes_nothing(shop: Path, query: str, complaint: str) -> None:
    before = shop.read_bytes()
    verdict = ask(shop, query, min=1)
    assert not verdict.ok
    assert complaint in verdict.text
    assert shop.read_bytes() == before


def test_a_missing_database_is_a_failure_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "gone.db"
    verdict = ask(path, "SELECT 1", value=1)
    assert not verdict.ok
    assert "there is no such file" in verdict.text
    assert not path.exists()


def test_an_empty_database_is_nobody_s(tmp_path: Path) -> None:
    """The file is there, as SQLite makes it when somebody opens the wrong path; there are no orphans in it either."""
    for content in (b"", emptied(tmp_path / "made.db")):
        path = tmp_path / "empty.db"
        path.write_bytes(content)
        verdict = ask(path, "SELECT count(*) FROM pragma_foreign_key_check", value=0)
        assert not verdict.ok
        assert "not even a table" in verdict.text


def emptied(path: Path) -> bytes:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE orders (id)")
        database.execute("DROP TABLE orders")
    database.close()
    return path.read_bytes()


def test_a_damaged_database_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(b"not a database at all" * 100)
    assert "not a database" in ask(path, "SELECT count(*) FROM sqlite_master", min=0).text


def test_an_endless_query_is_ended(shop: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    started = time.monotonic()
    verdict = ask(shop, endless, timeout=0.3, min=0)
    assert "no answer within 0.3 s" in verdict.text
    assert time.monotonic() - started < 30


def test_a_database_in_wal_mode_is_read_while_it_is_written(shop: Path) -> None:
    writer = sqlite3.connect(shop, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO orders VALUES (4, 'bob')")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO orders VALUES (5, 'eve')")
    assert ask(shop, "SELECT count(*) FROM orders", value=4).ok
    writer.execute("COMMIT")
    assert ask(shop, "SELECT count(*) FROM orders", value=5).ok
    writer.close()
