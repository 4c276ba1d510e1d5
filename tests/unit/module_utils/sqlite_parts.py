# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of restore_sqlite share: a sample database, a driver, a plan's entry, a driver in another process."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.component import Entry, Finding, Place, Version
from ansible.module_utils.rollbackctl.sqlite import SqliteDriver

ROOT = Path(__file__).resolve().parents[3]
RUN = "rb-20261121-093015-4f2a"
SCHEMA = """
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id), total REAL, note BLOB);
CREATE INDEX orders_by_user ON orders (user_id);
CREATE TABLE prices (sku TEXT, day TEXT, cents INTEGER, PRIMARY KEY (sku, day)) WITHOUT ROWID;
INSERT INTO alembic_version VALUES ('4f2a');
"""


def make_database(path: Path, *, wal: bool = True, orders: int = 500, page_size: int = 4096) -> Path:
    """A shop's database."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size={page_size}")
    if wal:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(SCHEMA)
    connection.executemany("INSERT INTO users (name) VALUES (?)", [(f"user {n}",) for n in range(20)])
    connection.executemany(
        "INSERT INTO orders (user_id, total, note) VALUES (?, ?, ?)",
        [(n % 20 + 1, n / 7, bytes([n % 256]) * 50) for n in range(orders)],
    )
    connection.executemany("INSERT INTO prices VALUES (?, ?, ?)", [(f"sku{n}", "2026-11-21", n) for n in range(30)])
    connection.commit()
    connection.close()
    return path


def execute(path: Path, *statements: str) -> None:
    """Change the database and close it properly."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def value(path: Path, query: str) -> Any:
    """The first value of a query."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchone()[0]
    finally:
        connection.close()


def break_it(path: Path) -> None:
    """What the bad release did: rows gone, rows wrong, rows new, a migration."""
    execute(
        path,
        "DELETE FROM orders WHERE id <= 10",
        "UPDATE orders SET total = -1 WHERE id BETWEEN 11 AND 15",
        "INSERT INTO orders (id, user_id, total) VALUES (900001, 1, 1.0), (900002, 1, 1.0), (900003, 1, 1.0)",
        "ALTER TABLE users ADD COLUMN nickname TEXT",
        "CREATE TABLE audit (id INTEGER PRIMARY KEY)",
        "UPDATE alembic_version SET version_num = 'bad1'",
    )


def make_driver(path: Path, work: Path | None = None, **options: Any) -> SqliteDriver:
    """The driver of the component shop-db; work: the run's private directory, made when it does not exist."""
    if work is not None:
        work.mkdir(mode=0o700, exist_ok=True)
    return SqliteDriver({"name": "shop-db", "path": str(path), **options}, Place(run=RUN, work=work))


def checkpoint(path: Path, into: Path, **options: Any) -> Version:
    """Take a backup of path as the engine does."""
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    return make_driver(path, **options).record(into)


def entry_for(driver: SqliteDriver, target: Version) -> Entry:
    """The plan's line for going from what is live to target."""
    return Entry("shop-db", "restore_sqlite", "data", driver.live(exact=True), target, "change", Finding())


def beside(path: Path) -> list[str]:
    """Every name that begins as the database's does: companions, kept and staged files."""
    return sorted(file.name for file in path.parent.iterdir() if path.name in file.name and file != path)


CHILD = """
import json, sys
from pathlib import Path
from ansible import module_utils
module_utils.__path__.append(sys.argv[1] + "/plugins/module_utils")
from ansible.module_utils.rollbackctl.component import Place, Version
from ansible.module_utils.rollbackctl.sqlite import SqliteDriver
job = json.loads(sys.argv[2])
driver = SqliteDriver(job["options"], Place(run=job["run"], work=Path(job["work"])))
target = Version.from_dict(job["target"])
print("ready", flush=True)
driver.stage(target)
driver.apply(target)
"""


def child_command(driver: SqliteDriver, target: Version) -> list[str]:
    """The command that says "ready", stages and applies in a process of its own."""
    job = {
        "options": dict(driver.options),
        "run": driver.place.run,
        "work": str(driver.place.work),
        "target": target.to_dict(),
    }
    return [sys.executable, "-c", CHILD, str(ROOT), json.dumps(job)]


def apply_in_child(driver: SqliteDriver, target: Version, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    """Stage and apply in a process of its own, stopped at a failpoint (name:action)."""
    return subprocess.run(
        child_command(driver, target),
        env={**os.environ, "ROLLBACKCTL_FAILPOINT": failpoint},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
