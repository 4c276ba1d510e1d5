# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at sample services from outside, with nothing of rollbackctl: what they are made of now, and were before."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from lab.sample.build import ABOUT, Sample, connect, git, load

# Of what Sample.inspect tells, these belong to the running process and to git's history, not to what the service holds.
NOT_CONTENT = ("supervisor", "git ")


@dataclasses.dataclass(frozen=True)
class Look:
    """What one service was made of at one moment.

    parts: a digest by part, Sample.inspect(); orders: by database's name and order's number, the order's columns.
    commit, tree: of git, in the server's checkout. health: status and version that /health said; status 0 is no answer.
    """

    parts: dict[str, Any]
    orders: dict[str, dict[str, list[Any]]]
    commit: str
    tree: str
    health: list[Any]

    @classmethod
    def at(cls, sample: Sample) -> Look:
        """Look at a service now."""
        orders = {}
        for path in sample.databases:
            with contextlib.closing(connect(path)) as connection:
                rows = connection.execute("SELECT * FROM orders ORDER BY id").fetchall()
            orders[path.stem] = {str(row[0]): list(row[1:]) for row in rows}
        health: list[Any] = [0, ""]
        with contextlib.suppress(OSError):
            status, document = sample.get("/health")
            health = [status, document.get("version")]
        # As it comes back from a file, so that two looks can be compared.
        parts = json.loads(json.dumps(sample.inspect()))
        return cls(parts, orders, sample.commit(), git(sample.app, "rev-parse", "HEAD^{tree}"), health)

    def content(self, *without: str) -> dict[str, Any]:
        """Return the digests of databases, files and settings; not of parts whose names begin as one of `without`."""
        left_out = (*NOT_CONTENT, *without)
        return {name: digest for name, digest in self.parts.items() if not name.startswith(left_out)}

    def customers(self, database: str = "shop") -> set[str]:
        """Return the customers in a database."""
        return {row[0] for row in self.orders[database].values()}


@dataclasses.dataclass(frozen=True)
class Drill:
    """A drill's services, all below one folder, the root; lab/sample/drill.py says what else is there."""

    root: Path

    def services(self) -> list[Sample]:
        """Return all services, in the order of their names."""
        return [load(path.parent) for path in sorted(self.root.glob(f"*/{ABOUT}"))]

    def service(self, name: str = "shop") -> Sample:
        """Return a service."""
        return load(self.root / name)

    def now(self, name: str = "shop") -> Look:
        """Look at a service now."""
        return Look.at(self.service(name))

    def seen(self, label: str, name: str = "shop") -> Look:
        """Return what was seen of a service: "good", "bad" before the run, "after" the first run."""
        document = json.loads((self.root / "looks" / f"{label}.json").read_text(encoding="utf-8"))
        return Look(**document[name])

    def records(self) -> list[dict[str, Any]]:
        """Return the run records, oldest first; a run that was gone on with has one for each time."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in (self.root / "records").glob("rb-*.json")]
        return sorted(found, key=lambda record: (str(record["run"]), int(record["attempt"])))

    def outcomes(self, playbook: str = "converge.yml", name: str = "shop") -> list[str]:
        """Return how a playbook's runs ended for a service, oldest first; plans that were only looked at do not count.

        playbook: converge.yml is the one that the drill is about.
        """
        mine = [one for one in self.records() if one["playbook"] == playbook and not one["check_mode"]]
        return [str(record["services"][name]["outcome"]) for record in mine]

    def kept(self, text: bytes, name: str = "shop") -> list[Path]:
        """Return the files that hold a text and are not what the service lives on: what runs and checkpoints keep."""
        sample = self.service(name)
        live = (*sample.databases, sample.env_file, sample.static, sample.app, sample.origin, sample.log.parent)
        files = (path for path in sample.root.rglob("*") if path.is_file() and not path.is_symlink())
        return sorted(
            path
            for path in files
            if not any(path.is_relative_to(part) or path.name.startswith(f"{part.name}-") for part in live)
            and text in path.read_bytes()
        )

    def kept_clients(self, name: str = "shop") -> set[str]:
        """Return whom the orders are from in all databases that are kept."""
        return set().union(*self.kept_databases(name).values())

    def kept_databases(self, name: str = "shop") -> dict[Path, set[str]]:
        """Return, for each database that is kept, whom its orders are from, whatever its schema is."""
        found = {}
        for path in self.kept(b"SQLite format 3\0", name):
            with tempfile.TemporaryDirectory() as folder:  # opening a database may write beside it
                for part in path.parent.glob(f"{path.name}*"):
                    shutil.copy(part, folder)
                with contextlib.closing(sqlite3.connect(Path(folder) / path.name)) as connection:
                    columns = {row[1] for row in connection.execute("PRAGMA table_info(orders)")}
                    column = "client" if "client" in columns else "customer"
                    found[path] = {row[0] for row in connection.execute(f"SELECT {column} FROM orders")}  # noqa: S608 - one of two words
        return found


def is_ahead(sample: Sample, commit: str) -> bool:
    """Say whether a commit is in the history of origin's main: a push that was forced would have thrown it away."""
    return commit in git(sample.origin, "rev-list", "main").splitlines()
