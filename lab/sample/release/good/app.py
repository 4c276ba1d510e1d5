# SPDX-License-Identifier: GPL-3.0-or-later
"""shop: a small web service that takes orders. It is what the lab's drills break and put back.

It reads its code, version and settings once, at the start, as real services do: putting files back is not enough.

    GET /health  /version  /orders/count  /orders/<id>  /static/<file>        POST /orders {"customer", "cents"}
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
VERSION = (HERE / "VERSION").read_text(encoding="ascii").strip()
log = logging.getLogger("shop")


def read_settings(path: str) -> dict[str, str]:
    """Return NAME=value lines of a .env file; raise when a setting is not usable."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    if settings.get("SHOP_CURRENCY") not in {"EUR", "USD"}:
        settings["problem"] = "SHOP_CURRENCY must be EUR or USD"
    return settings


class Shop(BaseHTTPRequestHandler):
    """Answers requests; a connection to the database per request, so that a database that is swapped is noticed."""

    settings: ClassVar[dict[str, str]] = {}
    databases: ClassVar[list[str]] = []
    static: ClassVar[Path] = HERE
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        """Answer a reading request."""
        self.answer(self.read)

    def do_POST(self) -> None:
        """Answer a writing request."""
        self.answer(self.write)

    def answer(self, work: Callable[[], tuple[int, Any]]) -> None:
        """Send what work returns, as JSON; 500 and a line in the log when it raises."""
        try:
            status, document = work()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets an answer
            status, document = 500, {"status": "error", "error": str(exc), "version": VERSION}
            log.error("%s %s failed: %s", self.command, self.path, exc)  # noqa: TRY400 - a line, for the checks that count lines
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if raw is document else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(raw)
        self.close_connection = True

    def read(self) -> tuple[int, Any]:
        """Do a GET."""
        if self.path == "/version":
            return 200, {"version": VERSION}
        if self.path == "/health":
            return self.health()
        if self.path.startswith("/static/"):
            return 200, (self.static / Path(self.path).name).read_bytes()
        if self.path == "/orders/count":
            with self.database() as connection:
                return 200, {"count": connection.execute("SELECT count(*) FROM orders").fetchone()[0]}
        with self.database() as connection:
            row = self.order(connection, int(self.path.removeprefix("/orders/")))
        return (200, row) if row else (404, {"error": "no such order"})

    def write(self) -> tuple[int, Any]:
        """Do a POST: an order is written to every database of the service."""
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        numbers = []
        for path in self.databases:
            with self.database(path) as connection, connection:
                numbers.append(self.insert(connection, order))
        return 201, {"id": numbers[0]}

    def health(self) -> tuple[int, Any]:
        """Say whether this code can work with these settings and this schema."""
        if "problem" in self.settings:
            raise ValueError(self.settings["problem"])
        for path in self.databases:
            with self.database(path) as connection:
                self.order(connection, 1)
                revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        return 200, {"status": "ok", "version": VERSION, "revision": revision}

    @contextlib.contextmanager
    def database(self, path: str = "") -> Iterator[sqlite3.Connection]:
        """Give a connection that is closed afterwards."""
        uri = Path(path or self.databases[0]).as_uri() + "?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection

    def order(self, connection: sqlite3.Connection, number: int) -> dict[str, Any] | None:
        """Return an order."""
        row = connection.execute("SELECT id, customer, email, cents FROM orders WHERE id = ?", [number]).fetchone()
        return dict(row) if row else None

    def insert(self, connection: sqlite3.Connection, order: dict[str, Any]) -> int | None:
        """Write an order; return its number."""
        values = [order["customer"], f"{order['customer']}@example.org", int(order["cents"])]
        return connection.execute("INSERT INTO orders (customer, email, cents) VALUES (?, ?, ?)", values).lastrowid

    def log_message(self, *_arguments: object) -> None:
        """Log no successes."""


def main() -> None:
    """Serve until the process manager says stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    for name in ("--env-file", "--log", "--static"):
        parser.add_argument(name, required=True)
    parser.add_argument("databases", nargs="+")
    options = parser.parse_args()
    logging.basicConfig(filename=options.log, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    Shop.settings = read_settings(options.env_file)
    Shop.databases = options.databases
    Shop.static = Path(options.static)
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 128
    # As a pool does: one connection stays open, so SQLite does not tidy up the WAL after each request.
    kept = [sqlite3.connect(path) for path in options.databases]
    for connection in kept:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    with ThreadingHTTPServer(("127.0.0.1", options.port), Shop) as server:
        log.info("version %s listens", VERSION)
        server.serve_forever()


if __name__ == "__main__":
    main()
