# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests see every difference in content and none in how it is stored."""

from __future__ import annotations

import marshal
import sqlite3
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.sqlite_check import loss_text
from ansible.module_utils.rollbackctl.sqlite_content import Content, newer_rows, read_content, reading

from tests.unit.module_utils.sqlite_parts import execute, make_database


def content_of(path: Path) -> Content:
    with reading(str(path), seconds=5) as connection:
        return read_content(connection, exact=True)


def test_the_encoding_of_rows_never_changes() -> None:
    """A checkpoint made with one Python is compared with another: marshal's format 2, all five SQLite types."""
    assert marshal.dumps((None, 1, -(2**40), 1.5, "e\u00e9", b"x"), 2).hex() == (
        "28060000004e69010000006cfdffffff00000000000467000000000000f83f750300000065c3a9730100000078"
    )


def test_storage_does_not_matter(tmp_path: Path) -> None:
    one = make_database(tmp_path / "one.db", wal=False, page_size=1024)
    two = make_database(tmp_path / "two.db", page_size=8192)
    execute(two, "DELETE FROM orders WHERE id < 100")
    source = sqlite3.connect(one)
    rows = source.execute("SELECT * FROM orders WHERE id < 100").fetchall()
    source.close()
    target = sqlite3.connect(two)
    target.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", reversed(rows))
    target.commit()
    target.execute("ANALYZE")
    target.execute("VACUUM")
    target.close()
    assert content_of(one) == content_of(two)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE users SET name = name || char(0) || 'hidden' WHERE id = 3",
        "UPDATE orders SET note = CAST(note AS TEXT) WHERE id = 3",
        "UPDATE orders SET total = NULL WHERE id = 3",
        "UPDATE orders SET total = total + 1e-13 WHERE id = 3",
        "UPDATE prices SET cents = cents + 1 WHERE sku = 'sku3'",
        "UPDATE prices SET cents = 3.5 WHERE sku = 'sku3'",
        "DELETE FROM prices WHERE sku = 'sku3'",
        "DROP INDEX orders_by_user",
        "PRAGMA user_version = 9",
        "PRAGMA application_id = 9",
    ],
)
def test_every_difference_matters(tmp_path: Path, change: str) -> None:
    path = make_database(tmp_path / "one.db")
    before = content_of(path)
    execute(path, change)
    assert content_of(path).content != before.content


@pytest.mark.parametrize(
    ("made", "instead"),
    [
        ("CREATE VIEW v AS SELECT 'a  b'", "CREATE VIEW v AS SELECT 'a b'"),
        ("CREATE VIEW v AS SELECT 1 -- one\n, 2", "CREATE VIEW v AS SELECT 1 -- one , 2"),
    ],
)
def test_blanks_may_have_a_meaning(tmp_path: Path, made: str, instead: str) -> None:
    path = make_database(tmp_path / "one.db")
    execute(path, made)
    before = content_of(path)
    execute(path, "DROP VIEW v", instead)
    assert content_of(path).schema != before.schema


def test_row_numbers_by_which_a_full_text_index_finds_its_rows_matter(tmp_path: Path) -> None:
    path = make_database(tmp_path / "one.db")
    execute(path, "CREATE TABLE doc (body)", "CREATE TABLE other (body)")
    execute(path, "CREATE VIRTUAL TABLE search USING fts5(body, content='doc')")
    execute(path, "INSERT INTO doc (rowid, body) VALUES (5, 'a'), (9, 'b')", "INSERT INTO other SELECT body FROM doc")
    before = content_of(path).content
    execute(path, "UPDATE other SET rowid = rowid + 7")
    assert content_of(path).content == before
    execute(path, "UPDATE doc SET rowid = rowid - 4")
    assert content_of(path).content != before


def test_values_of_a_column_that_the_target_lacks_are_counted(tmp_path: Path) -> None:
    """They go with the column; a default that nobody chose does not count."""
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    for path in (one, two):
        execute(
            path,
            "CREATE TABLE person (id INTEGER PRIMARY KEY, name)",
            "CREATE TABLE word (text TEXT COLLATE NOCASE PRIMARY KEY)",
            "INSERT INTO person VALUES (1, 'a'), (2, 'b'), (3, 'c')",
            "INSERT INTO word VALUES ('polish')",
        )
    execute(one, "ALTER TABLE person ADD phone TEXT", "ALTER TABLE person ADD kind TEXT DEFAULT 'plain'")
    assert newer_rows(str(one), str(two)) == {}
    execute(one, "UPDATE person SET phone = '1' WHERE id = 1", "UPDATE person SET kind = 'odd' WHERE id = 2")
    execute(one, "INSERT INTO person VALUES (4, 'd', NULL, NULL)", "UPDATE word SET text = 'Polish'")
    assert newer_rows(str(one), str(two)) == {
        "person": {"only_live": 1, "only_target": 0, "differ": 2},
        "word": {"only_live": 0, "only_target": 0, "differ": 1},
    }


def test_a_column_that_was_renamed_meanwhile_loses_what_was_written_since_only(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    for path in (one, two):
        execute(
            path, "CREATE TABLE person (id INTEGER PRIMARY KEY, name)", "INSERT INTO person VALUES (1, 'a'), (2, 'b')"
        )
    execute(one, "ALTER TABLE person RENAME name TO title")
    assert newer_rows(str(one), str(two)) == {}
    execute(one, "UPDATE person SET title = 'z' WHERE id = 2")
    assert newer_rows(str(one), str(two)) == {"person": {"only_live": 0, "only_target": 0, "differ": 1}}


def test_odd_schemas_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.db"
    execute(
        path,
        'CREATE TABLE "a ""table""" (rowid TEXT, _rowid_ TEXT, "or der" BLOB)',
        "CREATE TABLE taken (rowid TEXT, _rowid_ TEXT, oid TEXT)",
        "CREATE TABLE made (a INTEGER, b AS (a * 2) STORED, c AS (a + 1))",
        "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE VIEW seen AS SELECT * FROM made",
        "INSERT INTO \"a \"\"table\"\"\" VALUES ('x', 'y', x'00ff')",
        "INSERT INTO taken VALUES ('x', CAST(x'ff80' AS TEXT), 'z')",
        "INSERT INTO made (a) VALUES (1), (2)",
        "INSERT INTO counted DEFAULT VALUES",
        "CREATE VIRTUAL TABLE search USING fts5(body)",
        "INSERT INTO search VALUES ('some words')",
    )
    tables = content_of(path).tables
    assert {name: facts["rows"] for name, facts in tables.items() if not name.startswith("search")} == {
        'a "table"': 1,
        "taken": 1,
        "made": 2,
        "counted": 1,
        "sqlite_sequence": 1,
    }
    assert tables["search_content"]["rows"] == 1
    before = content_of(path).content
    execute(path, "UPDATE search SET body = 'other words'")
    assert content_of(path).content != before


def test_differences_are_counted_on_every_kind_of_key(tmp_path: Path) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    for path in (one, two):
        execute(
            path,
            "CREATE TABLE plain (x TEXT COLLATE NOCASE)",
            "CREATE TABLE keyed (a TEXT, b TEXT, x INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID",
            "CREATE TABLE rekeyed (id INTEGER PRIMARY KEY, x)",
            "INSERT INTO plain VALUES ('a'), ('b'), ('c')",
            "INSERT INTO keyed VALUES ('a', 'a', 1), ('a', 'b', 2), ('b', 'a', 3)",
        )
    execute(one, "UPDATE plain SET x = 'A' WHERE x = 'a'", "INSERT INTO plain VALUES ('d')", "CREATE TABLE new (x)")
    execute(
        one,
        "INSERT INTO new VALUES (1), (2)",
        "DELETE FROM keyed WHERE b = 'b'",
        "UPDATE keyed SET x = 0 WHERE a = 'b'",
    )
    execute(two, "CREATE TABLE gone (x)", "INSERT INTO gone VALUES (1)")
    assert newer_rows(str(one), str(two)) == {
        "plain": {"only_live": 1, "only_target": 0, "differ": 1},
        "keyed": {"only_live": 0, "only_target": 1, "differ": 1},
        "new": {"only_live": 2, "only_target": 0, "differ": 0},
        "gone": {"only_live": 0, "only_target": 1, "differ": 0},
    }
    assert newer_rows(str(one), str(one)) == {}


def test_keys_that_only_look_like_numbers_are_counted_one_by_one(tmp_path: Path) -> None:
    """DESC makes a key of its own beside the rowid, and that may be NULL, any number of times."""
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    for path in (one, two):
        execute(
            path,
            "CREATE TABLE backwards (id INTEGER PRIMARY KEY DESC, x)",
            "CREATE TABLE numbered (id INTEGER PRIMARY KEY, x)",
            "CREATE TABLE bare (id INTEGER PRIMARY KEY)",
            "INSERT INTO backwards VALUES (NULL, 1), (2, 2)",
            "INSERT INTO numbered VALUES (1, 1), (2, NULL), (3, '3'), (4, 4)",
            "INSERT INTO bare VALUES (1), (2)",
        )
    execute(
        one, "INSERT INTO backwards VALUES (NULL, 1)", "INSERT INTO bare VALUES (7)", "DELETE FROM bare WHERE id = 1"
    )
    execute(
        one,
        "UPDATE numbered SET x = CAST(x AS INTEGER) WHERE id = 3",
        "UPDATE numbered SET x = 0 WHERE id = 2",
        "UPDATE numbered SET id = 9 WHERE id = 4",
    )
    assert newer_rows(str(one), str(two)) == {
        "backwards": {"only_live": 1, "only_target": 0, "differ": 0},
        "numbered": {"only_live": 1, "only_target": 1, "differ": 2},
        "bare": {"only_live": 1, "only_target": 1, "differ": 0},
    }
    execute(two, "INSERT INTO numbered VALUES (5, 5), (6, 6)", "UPDATE backwards SET id = 3 WHERE id IS NULL")
    assert newer_rows(str(one), str(two)) == {
        "backwards": {"only_live": 1, "only_target": 0, "differ": 1},
        "numbered": {"only_live": 1, "only_target": 3, "differ": 2},
        "bare": {"only_live": 1, "only_target": 1, "differ": 0},
    }


def test_counting_ends_in_time(tmp_path: Path) -> None:
    one = make_database(tmp_path / "one.db", orders=60000)
    two = make_database(tmp_path / "two.db", orders=59000)
    assert newer_rows(str(one), str(two), seconds=0.0)["orders"] == {"unknown": 1}
    assert newer_rows(str(one), str(two))["orders"] == {"only_live": 1000, "only_target": 0, "differ": 0}


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a regular file"):
        content_of(tmp_path)


def test_the_loss_of_a_table_that_is_too_big_to_compare_has_totals() -> None:
    counted = {"orders": {"unknown": 1}, "users": {"only_live": 2}}
    text = loss_text(counted, "2026-11-21T09:00:00Z", {"orders": (12_500_000, 12_000_000), "users": (5, 3)})
    assert "orders: too many to compare in time: 12,500,000 rows now, 12,000,000 in the target" in text
    assert "users: 2 written" in text
