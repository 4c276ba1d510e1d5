# SPDX-License-Identifier: GPL-3.0-or-later
"""What migrations destroy without a word in their downgrade(): seen by the plan, restored where that is possible, and
otherwise a loss that somebody has to accept. Three databases of one service, each with two real migrations."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bench import Bench, Ran

_INI = "[alembic]\nscript_location = %(here)s/migrations\n"
_ENV = """\
import os
from alembic import context
from sqlalchemy import create_engine, event, pool

engine = create_engine(os.environ["DATABASE_URL"], poolclass=pool.NullPool)


@event.listens_for(engine, "connect")
def enforce(connection, _record):
    connection.execute("PRAGMA foreign_keys=ON")


if context.is_offline_mode():
    context.configure(url=os.environ["DATABASE_URL"], literal_binds=True)
    context.run_migrations()
else:
    with engine.connect() as connection:
        context.configure(connection=connection, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
"""
_MIGRATION = '''\
"""{text}

Create Date: 2026-11-0{number} 10:00:00
"""
import sqlalchemy as sa
from alembic import op

revision = "{number}"
down_revision = {down!r}


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
'''
_WITHOUT = 'with op.batch_alter_table("{0}", recreate="always") as batch:\n        batch.drop_column("{1}")'

_MASK = """op.execute("UPDATE page SET text = '***'")"""

# name -> (first upgrade, rows, second upgrade, second downgrade)
PROJECTS = {
    # Writing the parent table anew deletes its rows first, and with them those that refer to them.
    "shelf": (
        [
            "CREATE TABLE shelf (id INTEGER PRIMARY KEY, label TEXT NOT NULL)",
            "CREATE TABLE book (id INTEGER PRIMARY KEY, shelf INTEGER REFERENCES shelf (id) ON DELETE CASCADE, t TEXT)",
        ],
        ["INSERT INTO shelf VALUES (1, 'low'), (2, 'high')", "INSERT INTO book VALUES (1, 1, 'a'), (2, 2, 'b')"],
        'op.add_column("shelf", sa.Column("width", sa.Integer))',
        _WITHOUT.format("shelf", "width"),
    ),
    # Writing a table anew leaves behind what SQLAlchemy does not reflect.
    "purse": (
        [
            "CREATE TABLE purse (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, coins INTEGER CHECK (coins >= 0))",
            "CREATE TABLE moved (id INTEGER PRIMARY KEY, purse_id INTEGER, was INTEGER)",
            "CREATE TRIGGER purse_moved AFTER UPDATE OF coins ON purse BEGIN INSERT INTO moved VALUES (1, 2, 3); END",
            "CREATE UNIQUE INDEX purse_owner ON purse (lower(owner))",
        ],
        ["INSERT INTO purse VALUES (1, 'Ada', 5), (2, 'Bob', 7)"],
        'op.add_column("purse", sa.Column("colour", sa.Text))',
        _WITHOUT.format("purse", "colour"),
    ),
    # What the upgrade destroyed the downgrade cannot give again, whatever it adds.
    "diary": (
        ["CREATE TABLE page (id INTEGER PRIMARY KEY, text TEXT NOT NULL, mood TEXT)"],
        ["INSERT INTO page VALUES (1, 'rain', 'low'), (2, 'sun', 'high')"],
        f"{_MASK}\n    {_WITHOUT.format('page', 'mood')}",
        'op.add_column("page", sa.Column("mood", sa.Text))',
    ),
}


class Project:
    """One database with its migrations."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make it at revision 1, with its rows."""
        first, rows, upgrade, downgrade = PROJECTS[name]
        self.app, self.database = folder / name, folder / f"{name}.db"
        (self.app / "migrations" / "versions").mkdir(parents=True)
        (self.app / "alembic.ini").write_text(_INI, encoding="ascii")
        (self.app / "migrations" / "env.py").write_text(_ENV, encoding="ascii")
        begin = "\n    ".join(f"op.execute({statement!r})" for statement in first)
        self._write(1, None, begin, "pass")
        self._write(2, "1", upgrade, downgrade)
        self.upgrade("1")
        self.run(*rows)
        self.component = {
            "name": f"{name}-schema",
            "project": str(self.app),
            "python": sys.executable,
            "database": str(self.database),
            "url_environment": "DATABASE_URL",
        }

    def _write(self, number: int, down: str | None, upgrade: str, downgrade: str) -> None:
        text = _MIGRATION.format(number=number, down=down, text="a step", upgrade=upgrade, downgrade=downgrade)
        (self.app / "migrations" / "versions" / f"{number}_step.py").write_text(text, encoding="utf-8")

    def upgrade(self, revision: str) -> None:
        """Bring the database up with alembic itself, as a deployment does."""
        argv = [sys.executable, "-m", "alembic", "upgrade", revision]
        environment = {**os.environ, "DATABASE_URL": f"sqlite:///{self.database}"}
        subprocess.run(argv, cwd=self.app, env=environment, check=True, capture_output=True, timeout=120)

    def run(self, *statements: str) -> list[Any]:
        """Run SQL in the database; the rows of the last statement."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            return [connection.execute(statement).fetchall() for statement in statements][-1]

    def dump(self) -> list[str]:
        """Return everything in the database."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return list(connection.iterdump())


class Service:
    """The lab's service with these databases instead of its own: checkpointed at revision 1, now at revision 2."""

    def __init__(self, folder: Path) -> None:
        """Make it."""
        self.bench = Bench(folder)
        self.projects = {name: Project(folder, name) for name in PROJECTS}
        components = [project.component for project in self.projects.values()]
        components[-1]["restored_by"] = "diary-db"
        self.hosts = self.bench.profile(
            "destroyed",
            rollback_alembic=components,
            restore_sqlite=[{"name": "diary-db", "path": str(self.projects["diary"].database)}],
        )
        self.good = {name: project.dump() for name, project in self.projects.items()}
        taken = self.bench.play("checkpoint.yml", hosts=self.hosts, rollback_reason="before")
        assert taken.record.get("outcome") == "done", taken.output
        for project in self.projects.values():
            project.upgrade("2")

    def play(self, *components: str, playbook: str = "rollback-level3.yml", **values: Any) -> Ran:
        """Run a playbook for some components."""
        values = {"rollback_reason": "it destroys", "rollback_components": list(components), **values}
        return self.bench.play(playbook, hosts=self.hosts, **values)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return the service; each test is about a database of its own."""
    made = Service(tmp_path_factory.mktemp("destroyed"))
    yield made
    made.bench.sample.remove()


def since(ran: Ran) -> str:
    return str(ran.record["services"]["shop"]["plan"]["data_loss_since"])


def actions(ran: Ran) -> dict[str, str]:
    return {entry["name"]: entry["action"] for entry in ran.record["services"]["shop"]["plan"]["entries"]}


@pytest.mark.parametrize("playbook", ["rollback-level3.yml", "rollback-schema.yml"])
def test_rows_that_a_cascade_takes_along_are_a_loss(service: Service, playbook: str) -> None:
    shelf = service.projects["shelf"]
    before = shelf.dump()
    ran = service.play("shelf-schema", playbook=playbook, rollback_to={"shelf-schema": "1"})
    assert ran.record["outcome"] == "refused", ran.output
    assert "the downgrade throws away 2 rows of book" in ran.said
    assert shelf.dump() == before


def test_a_loss_that_was_accepted_is_counted_behind_the_fence(service: Service) -> None:
    """A row that came after the plan is lost too, and is counted."""
    shelf = service.projects["shelf"]
    planned = service.play("shelf-schema")
    shelf.run("INSERT INTO book VALUES (3, 2, 'c')")
    done = service.play("shelf-schema", rollback_accept_data_loss_since=since(planned))
    assert done.record["outcome"] == "done", done.output
    (entry,) = (one for one in done.record["services"]["shop"]["plan"]["entries"] if one["name"] == "shelf-schema")
    assert "3 rows of book" in entry["finding"]["loss"]["text"]
    assert shelf.run("SELECT * FROM book") == []


def test_a_trigger_a_check_and_an_index_that_do_not_come_back_are_a_loss(service: Service) -> None:
    purse = service.projects["purse"]
    before = purse.dump()
    ran = service.play("purse-schema")
    assert ran.record["outcome"] == "refused", ran.output
    for name in ("trigger purse_moved on purse", "CHECK (coins >= 0) of purse", "index purse_owner on purse"):
        assert name in ran.said
    assert purse.dump() == before


def test_what_an_upgrade_destroyed_is_restored_where_that_is_possible(service: Service) -> None:
    diary = service.projects["diary"]
    planned = service.play("diary-schema", "diary-db")
    assert planned.record["outcome"] == "refused", planned.output
    assert {"diary-schema": "by:diary-db", "diary-db": "change"}.items() <= actions(planned).items()
    done = service.play("diary-schema", "diary-db", rollback_accept_data_loss_since=since(planned))
    assert done.record["outcome"] == "done", done.output
    assert diary.dump() == service.good["diary"]
