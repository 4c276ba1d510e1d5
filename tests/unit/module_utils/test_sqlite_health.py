# SPDX-License-Identifier: GPL-3.0-or-later
"""A healthy database is called healthy, whatever its schema uses, and a damaged one is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.sqlite_content import connect
from ansible.module_utils.rollbackctl.sqlite_health import damage

from tests.unit.module_utils.sqlite_parts import break_it, checkpoint, execute, make_database, make_driver

JSON = (
    "CREATE TABLE events (body, kind AS (json_extract(body, '$.kind')) STORED, at AS (json_extract(body, '$.at')))",
    "CREATE INDEX events_by_at ON events (json_extract(body, '$.at'))",
    """INSERT INTO events (body) VALUES ('{"kind": "paid", "at": "2026-11-21"}')""",
)
OWN = {
    "an index by a function": ("CREATE TABLE own (a)", "CREATE INDEX own_by ON own (shop_key(a))"),
    "a partial index": ("CREATE TABLE own (a)", "CREATE INDEX own_by ON own (a) WHERE shop_key(a) > 1"),
    "a check": ("CREATE TABLE own (a CHECK (shop_key(a) > 0))",),
    "a generated column": ("CREATE TABLE own (a, b AS (shop_key(a)) STORED)",),
    "an order": ("CREATE TABLE own (a)", "CREATE INDEX own_by ON own (a COLLATE shop_order)"),
    "all of it": (
        "CREATE TABLE own (a COLLATE shop_order CHECK (shop_key(a) > 0))",
        "CREATE INDEX own_by ON own (shop_key(a), a)",
    ),
}


def test_a_database_that_uses_json_is_restored(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    execute(path, *JSON)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    execute(path, "DELETE FROM events")
    driver = make_driver(path, tmp_path / "work")
    assert driver.live(exact=True).identity["schema"] != "damaged"
    driver.apply(driver.resolve(good))
    assert driver.matches(driver.live(exact=True), good, exact=True)


def _application(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.create_function("shop_key", 1, lambda value: len(str(value)), deterministic=True)
    connection.create_collation("shop_order", lambda one, other: (one < other) - (one > other))
    return connection


@pytest.mark.parametrize("what", OWN)
def test_what_only_the_application_can_evaluate_is_no_damage(tmp_path: Path, what: str) -> None:
    path = make_database(tmp_path / "shop.db")
    application = _application(path)
    for statement in OWN[what]:
        application.execute(statement)
    application.executemany("INSERT INTO own (a) VALUES (?)", ((f"row {n}",) for n in range(300)))
    application.commit()
    application.close()
    good = checkpoint(path, tmp_path / "checkpoint")
    assert make_driver(path).resolve(good).identity == good.identity
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):  # the first bytes of each page are what SQLite reads it by
        content[page : page + 8] = b"\xff" * 8
    path.write_bytes(content)
    connection = connect(str(path), immutable=True)
    assert damage(connection).endswith(f"(SQLite {sqlite3.sqlite_version})")
    connection.close()


def test_who_judged_is_said(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    connection = connect(str(path), immutable=True)
    assert damage(connection) == ""
    connection.close()
    execute(path, "PRAGMA writable_schema=ON", "UPDATE sqlite_master SET rootpage = 3 WHERE name = 'orders_by_user'")
    with pytest.raises(Refused, match=rf"SQLite {sqlite3.sqlite_version}"):
        checkpoint(path, tmp_path / "checkpoint")


def test_the_schema_of_a_database_reaches_nothing_outside(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    execute(path, "CREATE VIEW odd AS SELECT load_extension('/nowhere')")
    connection = connect(str(path))
    with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited|unsafe"):
        connection.execute("SELECT * FROM odd").fetchall()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM orders")
    connection.close()
