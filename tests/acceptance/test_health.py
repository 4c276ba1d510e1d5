# SPDX-License-Identifier: GPL-3.0-or-later
"""What the runbooks check by hand after a rollback, as a profile says it: real servers, databases and programs."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_model import CheckResult, Context
from ansible.module_utils.rollbackctl.check_profile import load_checks
from ansible.module_utils.rollbackctl.checks import run_checks

from tests.unit.module_utils.check_server import Handler, Server, serving

# A program with a user list: register, log in, remove; smoke registers and logs in.
USERS = """
import hashlib, sqlite3, sys
action, path, user = sys.argv[1:]
secret = hashlib.sha256(b"probe").hexdigest()
with sqlite3.connect(path) as database:
    if action in {"register", "smoke"}:
        database.execute("INSERT INTO users VALUES (?, ?)", (user, secret))
        database.commit()
    if action == "remove":
        database.execute("DELETE FROM users WHERE name = ?", (user,))
    if action in {"login", "smoke"}:
        if not database.execute("SELECT 1 FROM users WHERE name = ? AND secret = ?", (user, secret)).fetchone():
            sys.exit(f"{user} cannot log in")
"""


def ask(*checks: dict[str, Any]) -> dict[str, CheckResult]:
    """Run checks of a profile; return their results by name."""
    patience = {"within": 0.5, "interval": 0.01}
    documents = [{**patience, **check} if check["kind"] in {"http", "tcp"} else check for check in checks]
    return {result.name: result for result in run_checks(load_checks(documents), 60, Context())}


def one(**check: Any) -> CheckResult:
    return ask({"name": "check", **check})["check"]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database with a header of two hours ago, one of now, and a line of each."""
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE headers (id INTEGER PRIMARY KEY, created_at TEXT NOT NULL)")
        database.execute("CREATE TABLE lines (header_id INTEGER REFERENCES headers (id))")
        database.execute("CREATE TABLE users (name TEXT PRIMARY KEY, secret TEXT)")
        for number, hours in ((1, 2), (2, 0)):
            created = f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%d %H:%M:%S}"
            database.execute("INSERT INTO headers VALUES (?, ?)", (number, created))
            database.execute("INSERT INTO lines VALUES (?)", (number,))
        yield database


@pytest.fixture
def sql(tmp_path: Path, shop: sqlite3.Connection) -> dict[str, Any]:
    del shop
    return {"kind": "sql", "engine": "sqlite", "database": str(tmp_path / "shop.db")}


def test_rows_of_the_last_hour_are_there(shop: sqlite3.Connection, sql: Mapping[str, Any]) -> None:
    query = "SELECT count(*) FROM headers WHERE created_at > datetime('now', '-1 hour')"
    assert one(**sql, query=query, expect={"min": 1, "max": 1}).ok
    shop.execute("DELETE FROM headers WHERE id = 2")
    assert not one(**sql, query=query, expect={"min": 1}).ok


def test_critical_tables_are_counted(shop: sqlite3.Connection, sql: Mapping[str, Any]) -> None:
    counts = [
        {**sql, "name": table, "query": f"SELECT count(*) FROM {table}", "expect": {"min": 1}}  # noqa: S608 - of this file
        for table in ("headers", "lines", "users")
    ]
    results = ask(*counts)
    assert [name for name, result in results.items() if not result.ok] == ["users"]
    shop.execute("INSERT INTO users VALUES ('ann', '')")
    assert all(result.ok for result in ask(*counts).values())


def test_rows_without_their_header_are_found(shop: sqlite3.Connection, sql: Mapping[str, Any]) -> None:
    query = "SELECT count(*) FROM lines WHERE header_id NOT IN (SELECT id FROM headers)"
    assert one(**sql, query=query, expect={"value": 0}).ok
    shop.execute("DELETE FROM headers WHERE id = 1")
    assert not one(**sql, query=query, expect={"value": 0}).ok


def test_a_database_is_whole_and_has_its_tables(shop: sqlite3.Connection, sql: Mapping[str, Any]) -> None:
    checks: tuple[dict[str, Any], ...] = (
        {**sql, "name": "whole", "query": "SELECT * FROM pragma_integrity_check", "expect": {"value": "ok"}},
        {
            **sql,
            "name": "tables",
            "query": "SELECT count(*) FROM sqlite_master WHERE name IN ('headers', 'lines', 'users')",
            "expect": {"value": 3},
        },
    )
    assert all(result.ok for result in ask(*checks).values())
    shop.execute("DROP TABLE users")
    page_size = shop.execute("PRAGMA page_size").fetchone()[0]
    with Path(sql["database"]).open("r+b") as file:
        file.seek(page_size)
        file.write(b"\xff" * page_size)
    assert not any(result.ok for result in ask(*checks).values())


def answering(status: int) -> Callable[[Handler], None]:
    return lambda request: request.reply(status)


@contextmanager
def four_services(broken: str = "") -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(serving(answering(500 if name == broken else 200)))
            for name in ("web", "orders", "routes", "bills")
        }


def test_every_endpoint_is_asked_and_each_failure_is_said() -> None:
    for broken in ("", "routes"):
        with four_services(broken) as servers:
            results = ask(
                *({"name": name, "kind": "http", "url": f"{server.url}/health"} for name, server in servers.items())
            )
        assert [name for name, result in results.items() if not result.ok] == [broken] * bool(broken)
        assert all(server.asked for server in servers.values())


def test_ten_timed_requests() -> None:
    with serving(lambda request: request.reply(200)) as server:
        check = {"kind": "http", "url": f"{server.url}/api/transactions/rentals/"}
        assert one(**check, latency={"p95_seconds": 5.0}).ok
        assert len(server.asked) == 10
        late = one(**check, latency={"p95_seconds": 0.000001})
    assert not late.ok
    assert "p95 of 10 requests" in late.text


def prometheus(values: Mapping[str, str]) -> Any:
    """Return a server's behaviour: a metrics backend that answers each query as documented, with a vector.

    https://prometheus.io/docs/prometheus/latest/querying/api/#instant-vectors
    """

    def answer(request: Handler) -> None:
        value = values.get(request.path.partition("query=")[2])
        vector = [] if value is None else [{"metric": {}, "value": [1763719815.0, value]}]
        document = {"status": "success", "data": {"resultType": "vector", "result": vector}}
        request.reply(200, json.dumps(document).encode())

    return answer


GOOD_METRICS = {"error_rate": "0.0004", "connections": "12", "memory": "512000000", "p95": "0.08", "up": "1"}
BAD_METRICS = {"error_rate": "0.06", "connections": "97", "memory": "2000000000", "p95": "5.2", "up": "0"}


@pytest.mark.parametrize("metric", GOOD_METRICS)
def test_metrics_are_within_the_profile_s_limits(metric: str) -> None:
    limits = {
        "error_rate": {"max": 0.001},
        "connections": {"min": 1, "max": 40},
        "memory": {"max": 1e9},
        "p95": {"max": 0.1},
        "up": {"min": 1},
    }

    def look(values: Mapping[str, str]) -> dict[str, CheckResult]:
        with serving(prometheus(values)) as server:
            return ask(
                *(
                    {
                        "name": name,
                        "kind": "http",
                        "source": "metrics",
                        "url": f"{server.url}/api/v1/query?query={name}",
                        "json": {"data.result.0.value.1": limit},
                    }
                    for name, limit in limits.items()
                )
            )

    assert all(result.ok for result in look(GOOD_METRICS).values())
    bad = look({**GOOD_METRICS, metric: BAD_METRICS[metric]})
    assert [name for name, result in bad.items() if not result.ok] == [metric]
    assert not bad[metric].unverified
    without = look({name: value for name, value in GOOD_METRICS.items() if name != metric})
    assert [name for name, result in without.items() if result.unverified] == [metric]


def test_a_test_user_registers_logs_in_and_is_gone_afterwards(
    tmp_path: Path, shop: sqlite3.Connection, sql: Mapping[str, Any]
) -> None:
    program = tmp_path / "users.py"
    program.write_text(USERS, encoding="utf-8")

    def step(action: str, user: str) -> list[str]:
        return [sys.executable, str(program), action, sql["database"], user]

    smoke = {"kind": "command", "argv": step("smoke", "probe"), "cleanup": step("remove", "probe")}
    assert one(**smoke, timeout=30).ok
    assert shop.execute("SELECT count(*) FROM users").fetchone() == (0,)
    shop.execute("ALTER TABLE users RENAME COLUMN secret TO password")  # the next release's schema: log-in is broken
    assert not one(**smoke, timeout=30).ok
    assert not one(kind="command", argv=step("login", "probe"), timeout=30).ok
    assert shop.execute("SELECT count(*) FROM users").fetchone() == (0,)
