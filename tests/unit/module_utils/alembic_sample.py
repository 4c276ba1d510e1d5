# SPDX-License-Identifier: GPL-3.0-or-later
"""A real alembic project over a real SQLite file, for the tests of the alembic driver."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST, NOTE, PHONE, AUDIT = "1a10000000aa", "2b20000000bb", "3c30000000cc", "3c40000000dd"
SECRET = "hunter2-canary"
PYTHON = Path(__file__).resolve().parents[3] / ".venv" / "bin" / "python"

# Nobody compiled the project's environment, so keep what its Python compiles: each start is a second shorter.
QUICK = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": tempfile.mkdtemp(prefix="alembic-compiled-")}
atexit.register(shutil.rmtree, QUICK["PYTHONPYCACHEPREFIX"], ignore_errors=True)

_INI = """\
[alembic]
script_location = %(here)s/migrations
prepend_sys_path = .
"""

_ENV = """\
import os
import sqlalchemy as sa
from alembic import context

here = os.path.dirname(os.path.abspath(__file__))
url = os.environ.get("DATABASE_URL") or f"sqlite:///{here}/../../data/shop.sqlite"
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with sa.create_engine(url).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""

_MIGRATION = '''\
"""{text}

Revision ID: {id}
Create Date: {created}
"""
from alembic import op
import sqlalchemy as sa

revision = {id!r}
down_revision = {down!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''

_SCHEMA = {
    FIRST: (
        "first tables",
        (
            'op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True), sa.Column("total", sa.Integer))\n'
            'op.create_table("customers", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))'
        ),
        'op.drop_table("customers")\nop.drop_table("orders")',
    ),
    NOTE: (
        "orders have a note",
        'op.add_column("orders", sa.Column("note", sa.Text))',
        'op.drop_column("orders", "note")',
    ),
    PHONE: (
        "customers have a phone",
        'with op.batch_alter_table("customers") as batch:\n    batch.add_column(sa.Column("phone", sa.Text))',
        'with op.batch_alter_table("customers") as batch:\n    batch.drop_column("phone")',
    ),
    AUDIT: ("an index", 'op.create_index("by_total", "orders", ["total"])', 'op.drop_index("by_total", "orders")'),
}


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


@dataclasses.dataclass(frozen=True)
class Sample:
    """A project directory with its database."""

    project: Path
    database: Path

    @property
    def options(self) -> dict[str, Any]:
        """The component's options, as the role hands them on; migrated aside."""
        return {
            "name": "schema",
            "project": str(self.project),
            "python": str(PYTHON),
            "config": "alembic.ini",
            "database": str(self.database),
            "url_environment": "DATABASE_URL",
            "strategy": "propose",
            "statement_timeout": 5,
            "timeout": 60,
            "environment": QUICK,
        }

    def write(
        self,
        revision: str,
        down: str | tuple[str, ...] | None,
        *,
        upgrade: str = "pass",
        downgrade: str = "pass",
        text: str = "a migration",
        created: str = "2026-01-02 03:04:05",
    ) -> Path:
        """Write a migration file."""
        path = self.project / "migrations" / "versions" / f"{revision}_it.py"
        content = _MIGRATION.format(
            id=revision,
            down=down,
            text=text,
            created=created,
            upgrade=_indented(upgrade),
            downgrade=_indented(downgrade),
        )
        path.write_text(content)
        return path

    def file_of(self, revision: str) -> Path:
        """Return a migration's file."""
        return self.project / "migrations" / "versions" / f"{revision}_it.py"

    def upgrade(self, revision: str = "head") -> None:
        """Bring the database up with alembic itself."""
        argv = [str(PYTHON), "-m", "alembic", "upgrade", revision]
        subprocess.run(argv, cwd=self.project, env=QUICK, check=True, capture_output=True, timeout=60)

    def run(self, *statements: str) -> list[Any]:
        """Run SQL in the database; the rows of the last statement."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            rows: list[Any] = []
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            connection.commit()
            return rows

    def stamp(self, revision: str) -> None:
        """Write a revision into alembic_version, as `alembic stamp` does."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
            connection.commit()

    def dump(self) -> list[str]:
        """Return everything in the database."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return list(connection.iterdump())

    def columns(self, table: str) -> set[str]:
        """Return the columns of a table."""
        return {row[1] for row in self.run(f"PRAGMA table_info({table})")}

    def revision(self) -> list[str]:
        """Return what alembic_version holds."""
        return [row[0] for row in self.run("SELECT version_num FROM alembic_version")]

    def beside(self) -> list[str]:
        """Return what lies beside the database."""
        return sorted(path.name for path in self.database.parent.iterdir() if path != self.database)


def copy_sample(template: Sample, folder: Path) -> Sample:
    """Make another one of a sample that nobody has changed (alembic takes a second for each start)."""
    shutil.copytree(template.project, folder / "app")
    shutil.copytree(template.database.parent, folder / "data")
    return Sample(folder / "app", folder / "data" / "shop.sqlite")


def make_sample(folder: Path) -> Sample:
    """Make the project with four revisions, and its database at the newest with some rows in it."""
    (folder / "app" / "migrations" / "versions").mkdir(parents=True)
    (folder / "data").mkdir()
    sample = Sample(folder / "app", folder / "data" / "shop.sqlite")
    (sample.project / "alembic.ini").write_text(_INI)
    (sample.project / "migrations" / "env.py").write_text(_ENV)
    down = None
    for month, (revision, (text, upgrade, downgrade)) in enumerate(_SCHEMA.items(), start=1):
        created = f"2026-0{month}-01 10:00:00"
        sample.write(revision, down, upgrade=upgrade, downgrade=downgrade, text=text, created=created)
        down = revision
    sample.upgrade()
    sample.run(
        "INSERT INTO orders (id, total, note) VALUES (1, 10, 'gift'), (2, 20, NULL), (3, 30, 'call')",
        "INSERT INTO customers (id, name, phone) VALUES (1, 'Ada', NULL), (2, 'Bob', NULL)",
    )
    return sample


@functools.cache
def _template() -> Sample:
    folder = tempfile.mkdtemp(prefix="alembic-template-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_sample(Path(folder))


def fresh_sample(folder: Path) -> Sample:
    """Return a project of one's own in the folder."""
    return copy_sample(_template(), folder)


_APPLY = """\
import json, sys
from pathlib import Path
from ansible import module_utils
module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.component import Place, Version
options, place, target = json.loads(sys.argv[2])
place["work"] = Path(place["work"])
AlembicDriver(options, Place(**place)).apply(Version.from_dict(target))
"""


def apply_in_process(
    root: Path, arguments: str, failpoint: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Call apply() in a process of its own, stopped at a failpoint (name:action). arguments: options, place, target."""
    return subprocess.run(
        [sys.executable, "-c", _APPLY, str(root / "plugins" / "module_utils"), arguments],
        env={"PATH": os.environ["PATH"], "ROLLBACKCTL_FAILPOINT": failpoint, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
