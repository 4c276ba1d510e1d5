# SPDX-License-Identifier: GPL-3.0-or-later
"""Alembic as people have it: where its settings stand, who names the database, which command runs it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.component import Finding, Place, Version
from ansible.module_utils.rollbackctl.errors import Refused

from tests.unit.module_utils.alembic_sample import AUDIT, NOTE, PHONE, PYTHON, QUICK, Sample, fresh_sample
from tests.unit.module_utils.engine_parts import OTHER_RUN, Service


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A project of one's own: four revisions, the database at the newest."""
    return fresh_sample(tmp_path)


def env_py(sample: Sample, *changes: tuple[str, str]) -> None:
    """Write env.py with these replacements; without a variable the address stands in it."""
    path = sample.project / "migrations" / "env.py"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def ini(sample: Sample, text: str) -> None:
    (sample.project / "alembic.ini").write_text(textwrap.dedent(text))


def driver(sample: Sample, **more: Any) -> AlembicDriver:
    """Return a driver whose env.py is handed nothing, unless `more` says so."""
    return AlembicDriver({**sample.options, "url_environment": None, **more}, Place(run="rb-1"))


def goes_down_and_up(sample: Sample, tmp_path: Path, **more: Any) -> None:
    """Prove that a checkpoint can be taken, that its revision is reached from above, and that undo leads back up."""
    subject = driver(sample, **more)
    assert subject.ready() == []
    kept = tmp_path / "kept"
    kept.mkdir()
    newest = subject.record(kept)
    target = subject.resolve(PHONE)
    finding = subject.check(subject.live(exact=True), target)
    assert finding.problems == ()
    subject.stage(target)
    assert subject.live(exact=True).identity == {"revision": AUDIT}
    subject.apply(target)
    assert subject.live(exact=True).identity == {"revision": PHONE}
    assert sample.run("SELECT name FROM sqlite_master WHERE name = 'by_total'") == []
    driver(sample, **more).apply(newest)
    assert subject.live(exact=True).identity == {"revision": AUDIT}
    assert sample.run("SELECT count(*) FROM sqlite_master WHERE name = 'by_total'") == [(1,)]
    assert sample.beside() == []


# -- where its settings stand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [True, False])
def test_settings_in_pyproject(sample: Sample, tmp_path: Path, *, beside: bool) -> None:
    if beside:
        ini(sample, "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nhandlers=\n")
    else:
        (sample.project / "alembic.ini").unlink()
    settings = '[project]\nname = "demo"\nversion = "1"\n\n[tool.alembic]\nscript_location = "%(here)s/migrations"\n'
    (sample.project / "pyproject.toml").write_text(settings)
    goes_down_and_up(sample, tmp_path)


def test_another_section(sample: Sample, tmp_path: Path) -> None:
    ini(sample, "[alembic]\nscript_location = nowhere\n[shop]\nscript_location = %(here)s/migrations\n")
    assert driver(sample).ready() != []
    goes_down_and_up(sample, tmp_path, section="shop")


def test_an_address_in_the_configuration(sample: Sample, tmp_path: Path) -> None:
    ini(sample, f"[alembic]\nscript_location = %(here)s/migrations\nsqlalchemy.url = sqlite:///{sample.database}\n")
    env_py(sample, ('os.environ.get("DATABASE_URL") or f"sqlite:///{here}/../../data/shop.sqlite"', "GIVEN"))
    env_py(sample, ("GIVEN", 'context.config.get_main_option("sqlalchemy.url")'))
    goes_down_and_up(sample, tmp_path)


@pytest.mark.parametrize("hands", [True, False])
def test_x_arguments(sample: Sample, tmp_path: Path, *, hands: bool) -> None:
    env_py(sample, ('os.environ.get("DATABASE_URL")', 'context.get_x_argument(as_dictionary=True)["db"]'))
    address = "{url}" if hands else f"sqlite:///{sample.database}"
    assert "KeyError" in " ".join(driver(sample).ready())
    goes_down_and_up(sample, tmp_path, x_arguments={"db": address})


# -- which migrations there are ---------------------------------------------------------------------------------------


def test_several_folders_of_migrations(sample: Sample, tmp_path: Path) -> None:
    more = sample.project / "more"
    more.mkdir()
    sample.file_of(AUDIT).rename(more / "it.py")
    ini(
        sample,
        """\
        [alembic]
        script_location = %(here)s/migrations
        path_separator = os
        version_path_separator = os
        version_locations = %(here)s/migrations/versions:%(here)s/more
        """,
    )
    goes_down_and_up(sample, tmp_path)


@pytest.mark.parametrize("which", ["all", "some"])
@pytest.mark.parametrize("how", ["env.py", "option"])
def test_folders_that_env_py_names(sample: Sample, tmp_path: Path, how: str, which: str) -> None:
    more, versions = sample.project / "more", sample.project / "migrations" / "versions"
    folders = [str(more)] if which == "all" else [str(versions), str(more)]
    if which == "all":
        versions.rename(more)
    else:
        more.mkdir()
        sample.file_of(AUDIT).rename(more / "it.py")
    if how == "env.py":
        env_py(sample, ("here = ", f"context.script.version_locations = {folders!r}\nhere = "))
    goes_down_and_up(sample, tmp_path, **({"version_locations": folders} if how == "option" else {}))


# -- which database ---------------------------------------------------------------------------------------------------


def test_a_version_table_of_its_own(sample: Sample, tmp_path: Path) -> None:
    env_py(sample, ("connection=connection", 'connection=connection, version_table="shop_version"'))
    sample.run("ALTER TABLE alembic_version RENAME TO shop_version")
    with pytest.raises(Refused) as caught:
        driver(sample).live(exact=True)
    assert "version_table: shop_version" in caught.value.next_step
    goes_down_and_up(sample, tmp_path, version_table="shop_version")


def test_a_version_table_that_env_py_does_not_use_is_found_at_the_checkpoint(sample: Sample) -> None:
    env_py(sample, ("connection=connection", 'connection=connection, version_table="shop_version"'))
    assert "Set the component's version_table: shop_version" in " ".join(driver(sample).ready())


def test_a_version_table_in_the_main_schema(sample: Sample, tmp_path: Path) -> None:
    env_py(sample, ("connection=connection", 'connection=connection, version_table_schema="main"'))
    goes_down_and_up(sample, tmp_path)


def test_an_attached_database_is_refused_at_the_checkpoint(sample: Sample, tmp_path: Path) -> None:
    attach = f'connection.exec_driver_sql("ATTACH {str(tmp_path / "other.sqlite")!r} AS other")\n'
    env_py(sample, ("        context.configure(connection", f"        {attach}        context.configure(connection"))
    assert "only one file can be put back" in " ".join(driver(sample).ready())


def test_of_several_databases_only_this_one_is_migrated(sample: Sample) -> None:
    other = sample.database.with_name("second.sqlite")
    shutil.copy(sample.database, other)
    text = (sample.project / "migrations" / "env.py").read_text()
    before, _, after = text.rpartition("    with sa.create_engine(url)")
    loop = f"    for url in [url, 'sqlite:///{other}']:\n"
    text = before + loop + textwrap.indent("    with sa.create_engine(url)" + after, "    ")
    (sample.project / "migrations" / "env.py").write_text(text)
    content = other.read_bytes()
    subject = driver(sample)
    subject.apply(subject.resolve(PHONE))
    assert subject.live(exact=True).identity == {"revision": PHONE}
    assert other.read_bytes() == content
    second = driver(sample, database=str(other))
    assert second.ready() == []
    second.apply(second.resolve(NOTE))
    assert second.live(exact=True).identity == {"revision": NOTE}
    assert subject.live(exact=True).identity == {"revision": PHONE}


_ASYNC = """\
import asyncio, os
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

url = os.environ.get("APP_DB", "sqlite+aiosqlite:///ADDRESS")
assert "+aiosqlite" in url

def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    context.run_migrations()
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("hands", [True, False])
def test_an_async_engine(sample: Sample, tmp_path: Path, *, hands: bool) -> None:
    text = _ASYNC.replace("ADDRESS", str(sample.database))
    (sample.project / "migrations" / "env.py").write_text(text)
    more = {"url_environment": "APP_DB", "url": "sqlite+aiosqlite:///{database}"} if hands else {}
    goes_down_and_up(sample, tmp_path, **more)


def test_a_migration_that_opens_the_database_itself_gets_the_copy(sample: Sample) -> None:
    opens = f"import sqlite3\nc = sqlite3.connect({str(sample.database)!r})\nc.execute('DROP TABLE orders')"
    sample.write(AUDIT, PHONE, downgrade=f"{opens}\nc.close()\nraise ValueError('half-way')")
    before = sample.dump()
    with pytest.raises(Refused, match="half-way"):
        driver(sample).stage(Version({"revision": PHONE}, "phone"))
    assert sample.dump() == before
    with pytest.raises(Refused, match="does not take the database's address"):
        driver(sample, url_environment="DATABASE_URL").stage(Version({"revision": PHONE}, "phone"))
    assert sample.dump() == before


# -- who runs it ------------------------------------------------------------------------------------------------------

_FLASK = """\
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()

def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///ADDRESS"
    db.init_app(app)
    Migrate(app, db)
    return app
"""


def test_flask_migrate(sample: Sample, tmp_path: Path) -> None:
    (sample.project / "shop.py").write_text(_FLASK.replace("ADDRESS", str(sample.database)))
    versions = sample.project / "migrations" / "versions"
    versions.rename(tmp_path / "versions")
    shutil.rmtree(sample.project / "migrations")
    (sample.project / "alembic.ini").unlink()
    argv = [str(PYTHON), "-m", "flask", "--app", "shop", "db", "init"]
    subprocess.run(argv, cwd=sample.project, env=QUICK, check=True, capture_output=True, timeout=60)
    versions.rmdir()
    (tmp_path / "versions").rename(versions)
    goes_down_and_up(sample, tmp_path, config="migrations/alembic.ini", flask_app="shop:create_app")


@pytest.mark.parametrize("told", ["variable", "word"])
def test_a_command_of_the_application_s_own(sample: Sample, tmp_path: Path, told: str) -> None:
    code = """\
        import os, sys
        from alembic import command
        from alembic.config import Config
        if len(sys.argv) > 3:
            os.environ["DATABASE_URL"] = sys.argv[3]
        getattr(command, sys.argv[1])(Config("alembic.ini"), sys.argv[2])
        """
    (sample.project / "manage.py").write_text(textwrap.dedent(code))
    more: dict[str, Any] = {
        f"{verb}_command": [str(PYTHON), "manage.py", verb, "{revision}"] for verb in ("downgrade", "upgrade")
    }
    assert "have to be told which copy" in " ".join(driver(sample, **more).ready())
    if told == "variable":
        more["url_environment"] = "DATABASE_URL"
    else:
        more = {name: [*words, "{url}"] for name, words in more.items()}
    goes_down_and_up(sample, tmp_path, **more)


def test_a_command_that_does_not_take_the_address_is_found_at_the_checkpoint(sample: Sample) -> None:
    argv = [str(PYTHON), "-m", "alembic", "downgrade", "{revision}"]
    before = sample.dump()
    problems = driver(sample, downgrade_command=argv, url_environment="NOBODY_READS_IT").ready()
    assert "does not take the address" in " ".join(problems)
    assert sample.dump() == before


def test_why_the_sql_is_not_shown_is_said_and_no_file_about_it_is_left(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch mode needs the database; what alembic said of that stayed behind in a file that no message named."""
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rooms))
    text = sample.file_of(AUDIT).read_text()
    batch = "def downgrade():\n    with op.batch_alter_table('orders', recreate='always'):\n        pass"
    sample.file_of(AUDIT).write_text(text.replace("def downgrade():", batch))
    notes = " ".join(found(sample, PHONE).notes)
    assert "a migration has to look at the database first" in notes
    assert list(rooms.iterdir()) == []
    argv = [str(PYTHON), "-m", "alembic", "downgrade", "{revision}"]
    more = {"downgrade_command": argv, "url_environment": "DATABASE_URL"}
    notes = " ".join(driver(sample, **more).check(driver(sample).live(exact=True), driver(sample).resolve(PHONE)).notes)
    assert "the SQL cannot be shown beforehand: a command of the application's own goes this way" in notes


def test_an_environment_per_release(sample: Sample, tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    (releases / "1").mkdir(parents=True)
    (releases / "1" / "venv").symlink_to(PYTHON.parents[1])
    (releases / "1" / "app").symlink_to(sample.project)
    (tmp_path / "current").symlink_to(releases / "1")
    more = {"project": str(tmp_path / "current" / "app"), "python": str(tmp_path / "current" / "venv/bin/python")}
    goes_down_and_up(sample, tmp_path, **more)


# -- what cannot be run is refused now --------------------------------------------------------------------------------


def found(sample: Sample, want: str) -> Finding:
    subject = driver(sample)
    return subject.check(subject.live(exact=True), subject.resolve(want))


def test_what_cannot_be_run_is_said_at_the_checkpoint(sample: Sample) -> None:
    assert driver(sample, python="/nonexistent/python").ready() != []
    assert driver(sample, config="other.ini").ready() != []
    sample.stamp("abad1dea0000")
    assert "abad1dea0000" in " ".join(driver(sample).ready())
    sample.stamp(AUDIT)
    env_py(sample, ("shop.sqlite", "other.sqlite"))
    assert "other.sqlite" in " ".join(driver(sample).ready())
    assert "other.sqlite" in " ".join(found(sample, PHONE).problems)
    env_py(sample, ("import os", "import os, no_such_module"))
    assert "no_such_module" in " ".join(driver(sample).ready())
    assert driver(sample, strategy="restore", restored_by="shop-data").ready() == []


def test_a_checkpoint_of_what_cannot_be_run_is_refused(sample: Sample, tmp_path: Path) -> None:
    service = Service(tmp_path, {"rollback_alembic": [driver(sample).options]})  # type: ignore[list-item]
    service.open("checkpoint")
    service.go("checkpoint")
    env_py(sample, ("import os", "import os, no_such_module"))
    service.finish()
    service.open("checkpoint", OTHER_RUN)
    result = service.phase("checkpoint")
    assert result["failed"]
    assert "A rollback would not work now" in result["msg"]
    assert "no_such_module" in result["msg"]
    events = service.store.journal(OTHER_RUN).events()
    assert [event for event in events if event["event"] == "recorded"] == []
