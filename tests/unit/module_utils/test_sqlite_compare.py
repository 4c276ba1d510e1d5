# SPDX-License-Identifier: GPL-3.0-or-later
"""What one database holds and another lacks: rows, values and promises of the schema, told from harmless rewriting."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.sqlite_compare import Difference, compare

ACCOUNT = "CREATE TABLE account (id INTEGER PRIMARY KEY, mail TEXT NOT NULL, balance INTEGER CHECK (balance >= 0))"
ROWS = "INSERT INTO account VALUES (1, 'a@x', 10), (2, 'b@x', 20), (3, 'c@x', NULL)"


def make(path: Path, *statements: str) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return str(path)


def difference(tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...], *, strict: bool = True) -> Difference:
    return compare(make(tmp_path / "a.db", *first), make(tmp_path / "b.db", *second), strict=strict)


BATCH = """CREATE TABLE "account" (id INTEGER NOT NULL, "mail" varchar(9) NOT NULL, balance INTEGER,
    PRIMARY KEY (id), CONSTRAINT c CHECK ( ( balance>=0 ) ))"""

SAME = [
    pytest.param((ACCOUNT, ROWS), id="the same"),
    pytest.param(
        (
            BATCH,
            ROWS,
        ),
        id="as batch mode writes it",
    ),
    pytest.param((ACCOUNT, ROWS, "CREATE TABLE more (x)", "ALTER TABLE account ADD COLUMN nick TEXT"), id="more"),
]


@pytest.mark.parametrize("second", SAME)
def test_what_means_the_same_is_no_difference(tmp_path: Path, second: tuple[str, ...]) -> None:
    assert difference(tmp_path, (ACCOUNT, ROWS), second) == Difference()


@pytest.mark.parametrize(
    ("first", "second", "phrases"),
    [
        ((), ("DELETE FROM account WHERE id > 1",), ["2 rows of account"]),
        ((), ("UPDATE account SET mail = '***' WHERE id < 3",), ["the values of 2 rows of account"]),
        ((), ("UPDATE account SET balance = 0 WHERE id = 3",), ["the values of 1 rows of account"]),
        (
            ("ALTER TABLE account ADD nick TEXT", "UPDATE account SET nick = 'x' WHERE id = 1"),
            (),
            ["1 values of column account.nick", "column account.nick"],
        ),
        (
            (
                "ALTER TABLE account ADD kind TEXT NOT NULL DEFAULT 'plain'",
                "UPDATE account SET kind = 'x' WHERE id = 1",
            ),
            (),
            ["1 values of column account.kind", "column account.kind"],
        ),
        (("CREATE TABLE extra (a)", "INSERT INTO extra VALUES (1), (1)"), (), ["2 rows of extra", "table extra"]),
        # Without a key rows are counted by what is in them: row numbers may be given anew.
        (
            ("CREATE TABLE bag (a)", "INSERT INTO bag VALUES (1), (1), (2)"),
            ("CREATE TABLE bag (a)", "INSERT INTO bag (rowid, a) VALUES (7, 2), (8, 1)"),
            ["1 rows of bag"],
        ),
        (
            ("CREATE TABLE typed (id INTEGER PRIMARY KEY, v)", "INSERT INTO typed VALUES (1, 1)"),
            ("CREATE TABLE typed (id INTEGER PRIMARY KEY, v)", "INSERT INTO typed VALUES (1, '1')"),
            ["the values of 1 rows of typed"],
        ),
        # SQLite lets a key be NULL as often as one likes: it says nothing of which row is which.
        (
            (
                "CREATE TABLE loose (code TEXT PRIMARY KEY, v)",
                "INSERT INTO loose VALUES (NULL, 1), (NULL, 1), (NULL, 2)",
            ),
            ("CREATE TABLE loose (code TEXT PRIMARY KEY, v)", "INSERT INTO loose VALUES (NULL, 1)"),
            ["2 rows of loose"],
        ),
        (
            ("CREATE TABLE pair (a, b, PRIMARY KEY (a, b))", "INSERT INTO pair VALUES (1, NULL), (1, NULL)"),
            ("CREATE TABLE pair (a, b, PRIMARY KEY (a, b))", "INSERT INTO pair VALUES (1, NULL)"),
            ["1 rows of pair"],
        ),
        (
            ("CREATE TABLE alike (code TEXT PRIMARY KEY, v)", "INSERT INTO alike VALUES (NULL, 1), (NULL, 2)"),
            ("CREATE TABLE alike (code TEXT PRIMARY KEY, v)", "INSERT INTO alike VALUES (NULL, 2), (NULL, 1)"),
            [],
        ),
    ],
)
def test_rows_and_values_are_counted(
    tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...], phrases: list[str]
) -> None:
    assert difference(tmp_path, (ACCOUNT, ROWS, *first), (ACCOUNT, ROWS, *second)).phrases() == phrases


def test_a_column_that_changed_its_type_keeps_what_is_in_it(tmp_path: Path) -> None:
    first = ("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)", "INSERT INTO t VALUES (1, 5)")
    second = ("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "INSERT INTO t VALUES (1, '5')")
    assert not difference(tmp_path, first, second, strict=False).data
    (tmp_path / "a.db").unlink()
    (tmp_path / "b.db").unlink()
    assert difference(tmp_path, first, second).changed == {"t": 1}


def test_text_that_became_bytes_is_a_change_whatever_the_columns_type(tmp_path: Path) -> None:
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)"
    first, second = (table, "INSERT INTO t VALUES (1, 'ab')"), (table, "INSERT INTO t VALUES (1, x'6162')")
    assert difference(tmp_path, first, second, strict=False).changed == {"t": 1}


COUNTED = ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v)", "INSERT INTO t VALUES (9, 1), (50, 1)")


@pytest.mark.parametrize(
    "second",
    [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v)", "INSERT INTO t VALUES (9, 1)"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (9, 1)"),
    ],
)
def test_numbers_of_deleted_rows_that_would_be_given_again_are_counted(tmp_path: Path, second: tuple[str, ...]) -> None:
    """Writing a table anew, as batch mode does, forgets the highest number that AUTOINCREMENT gave."""
    found = difference(tmp_path, (*COUNTED, "DELETE FROM t WHERE id = 50"), second)
    assert found.numbers == {"t": 41}
    assert found.data
    assert found.phrases()[0] == "41 numbers of t, which would be given to new rows again"
    assert found.only(found.kinds()) == found


def test_numbers_are_not_asked_of_a_table_that_is_gone_or_counts_on(tmp_path: Path) -> None:
    assert difference(tmp_path, COUNTED, (*COUNTED, "DELETE FROM t")).numbers == {}
    assert compare(str(tmp_path / "a.db"), make(tmp_path / "c.db", ACCOUNT)).numbers == {}


def test_row_numbers_by_which_a_full_text_index_finds_its_rows_count(tmp_path: Path) -> None:
    """Without a key of its own a table may be numbered anew; the index would then answer with other rows."""
    index = ("CREATE TABLE doc (body TEXT)", "CREATE VIRTUAL TABLE search USING fts5(body, content='doc')")
    rows = (*index, "INSERT INTO doc (rowid, body) VALUES (5, 'apple'), (9, 'pear')")
    assert difference(tmp_path, rows, (*rows, "UPDATE doc SET rowid = rowid - 4")).rows == {"doc": 1}


@pytest.mark.parametrize("value", ["'1700000000.12346'", "1700000000.12346"])
def test_a_number_that_lost_its_last_digits_on_the_way_is_a_change(tmp_path: Path, value: str) -> None:
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, at)"
    first, second = (
        (table, "INSERT INTO t VALUES (1, 1700000000.123456)"),
        (table, f"INSERT INTO t VALUES (1, {value})"),  # noqa: S608 - ours
    )
    assert difference(tmp_path, first, second, strict=False).changed == {"t": 1}


@pytest.mark.parametrize(
    ("first", "second", "phrase"),
    [
        (ACCOUNT, "CREATE TABLE account (id INTEGER PRIMARY KEY, mail TEXT NOT NULL, balance INTEGER)", "CHECK ("),
        (
            ACCOUNT,
            "CREATE TABLE account (id INTEGER PRIMARY KEY, mail TEXT, balance INTEGER CHECK (balance >= 0))",
            "NOT NULL of account.mail",
        ),
        ("CREATE TABLE t (a, b, UNIQUE (a, b))", "CREATE TABLE t (a, b, UNIQUE (a))", "UNIQUE t (a, b)"),
        ("CREATE TABLE t (a TEXT COLLATE NOCASE)", "CREATE TABLE t (a TEXT)", "column t.a (it reads otherwise)"),
        ("CREATE TABLE t (a DEFAULT 1)", "CREATE TABLE t (a)", "column t.a (it reads otherwise)"),
        ("CREATE TABLE t (a, b AS (a + 1))", "CREATE TABLE t (a, b AS (a + 2))", "column t.b (it reads otherwise)"),
        ("CREATE TABLE t (a INTEGER)", "CREATE TABLE t (a TEXT)", "column t.a (it reads otherwise)"),
        ("CREATE TABLE t (a PRIMARY KEY)", "CREATE TABLE t (a)", "primary key t (a)"),
        ("CREATE TABLE t (a TEXT PRIMARY KEY NOT NULL)", "CREATE TABLE t (a TEXT PRIMARY KEY)", "NOT NULL of t.a"),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)",
            "CREATE TABLE t (id INTEGER PRIMARY KEY)",
            "AUTOINCREMENT of t",
        ),
        (
            "CREATE TABLE t (a REFERENCES p (id) ON DELETE CASCADE)",
            "CREATE TABLE t (a REFERENCES p (id))",
            "foreign key t (a) -> p (id) ON DELETE CASCADE",
        ),
        (
            "CREATE TABLE t (a UNIQUE ON CONFLICT REPLACE)",
            "CREATE TABLE t (a, UNIQUE (a))",
            "UNIQUE ON CONFLICT REPLACE of t (a)",
        ),
        (
            "CREATE TABLE t (a, b, PRIMARY KEY (a, b) ON CONFLICT IGNORE)",
            "CREATE TABLE t (a, b, PRIMARY KEY (a, b))",
            "PRIMARY KEY ON CONFLICT IGNORE of t (a, b)",
        ),
        (
            "CREATE TABLE t (a NOT NULL ON CONFLICT REPLACE DEFAULT 1)",
            "CREATE TABLE t (a NOT NULL DEFAULT 1)",
            "NOT NULL ON CONFLICT REPLACE of t (a)",
        ),
        (
            "CREATE TABLE t (a REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)",
            "CREATE TABLE t (a REFERENCES p (id) NOT DEFERRABLE INITIALLY DEFERRED)",
            "DEFERRABLE INITIALLY DEFERRED of t (a)",
        ),
        # Only INTEGER PRIMARY KEY gives numbers to new rows; with BIGINT they get NULL.
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY)",
            "CREATE TABLE t (id BIGINT PRIMARY KEY)",
            "numbers for new rows in t.id (INTEGER PRIMARY KEY)",
        ),
        ('CREATE TABLE t (a DEFAULT "Yes")', 'CREATE TABLE t (a DEFAULT "yes")', "column t.a (it reads otherwise)"),
        ("PRAGMA application_id=7", "PRAGMA application_id=8", "application_id 7"),
        ("CREATE VIEW v AS SELECT 1", "CREATE TABLE t (a)", "view v"),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW v AS SELECT 2", "view v (it reads otherwise)"),
    ],
)
def test_what_a_schema_promised_and_does_not_is_named(tmp_path: Path, first: str, second: str, phrase: str) -> None:
    objects = difference(tmp_path, (first,), (second,)).objects
    assert [name for name in objects if name.startswith(phrase)], objects


@pytest.mark.parametrize(
    ("made", "phrase"),
    [
        ("CREATE UNIQUE INDEX mails ON account (lower(mail))", "index mails on account"),
        ("CREATE INDEX rich ON account (balance) WHERE balance > 9", "index rich on account"),
        (
            "CREATE TRIGGER audit AFTER UPDATE OF balance ON account BEGIN SELECT 1; END",
            "trigger audit on account",
        ),
    ],
)
def test_indexes_and_triggers_are_named(tmp_path: Path, made: str, phrase: str) -> None:
    assert difference(tmp_path, (ACCOUNT, made), (ACCOUNT,)).objects == (phrase,)
    other = made.replace("CREATE", "create").replace("account", '"account"')
    again = compare(str(tmp_path / "a.db"), make(tmp_path / "c.db", ACCOUNT, other))
    assert again.objects == ()


@pytest.mark.parametrize(
    ("made", "instead", "phrase"),
    [
        (
            "CREATE TRIGGER search_ai AFTER INSERT ON account BEGIN SELECT 1; END",
            "SELECT 1",
            "trigger search_ai on account",
        ),
        ("CREATE INDEX search_mail ON account (mail)", "SELECT 1", "index search_mail on account"),
        ("CREATE VIEW search_view AS SELECT 1", "SELECT 1", "view search_view"),
        ("CREATE TABLE search_log (a NOT NULL)", "CREATE TABLE search_log (a)", "NOT NULL of search_log.a"),
    ],
)
def test_what_is_only_named_like_a_virtual_tables_content_counts(
    tmp_path: Path, made: str, instead: str, phrase: str
) -> None:
    there = (ACCOUNT, "CREATE VIRTUAL TABLE search USING fts5(body)")
    assert difference(tmp_path, (*there, made), (*there, instead)).objects == (phrase,)


def test_a_virtual_table_that_is_gone_is_named_once(tmp_path: Path) -> None:
    first = (ACCOUNT, "CREATE VIRTUAL TABLE search USING fts5(body)", "CREATE VIRTUAL TABLE old USING fts4(body)")
    assert difference(tmp_path, first, (ACCOUNT,)).objects == ("virtual table search", "virtual table old")


def test_what_is_neither_there_nor_got_again_is_what_two_differences_share() -> None:
    down = Difference(rows={"old_name": 3}, values={("t", "full_name"): 5, ("t", "note"): 2}, changed={"t": 4})
    back = Difference(values={("t", "note"): 2})
    assert down.also_in(back) == Difference(values={("t", "note"): 2})


def test_what_is_not_compared_in_time_is_not_called_equal(tmp_path: Path) -> None:
    many = (
        "INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 50000) SELECT x, x FROM n"
    )
    table = "CREATE TABLE t (id INTEGER PRIMARY KEY, v)"
    paths = [make(tmp_path / f"{name}.db", table, many) for name in "ab"]
    found = compare(*paths, seconds=0)
    assert found.unknown == ("t",)
    assert found.data
