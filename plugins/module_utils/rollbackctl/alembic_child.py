# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a project's alembic inside the project's own Python: one process for all that one phase asks of it.

Standard library and alembic only, and no relative import: on the other side there is nothing else. Which project it is
and the questions come as one JSON document on stdin; the answers, up to the first error, go as one to stdout. What
env.py and migrations print goes to stderr.

Only a copy is ever migrated. Where no variable hands its address to env.py, connections to the live file are led to the
copy; a connection that reaches the live file all the same is an error before anything runs on it.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import signal
import sqlite3
import sys
import traceback
from typing import Any
from urllib.parse import quote, unquote, urlsplit


def die_with(parent: int) -> None:
    """End with the module that asks: a migration must not go on while a resumed run starts another one (prctl(2))."""
    import ctypes  # noqa: PLC0415 - not every Python has it

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise SystemExit("the process that started alembic is gone")


def instead(database: Any, live: str, copy: str) -> Any:
    """Return what to connect to in place of `database`: the copy if that means the live file, else itself."""
    if not isinstance(database, (str, bytes, os.PathLike)):
        return database
    text = os.fsdecode(database)
    address = urlsplit(text) if text.startswith("file:") else None
    path = unquote(address.path) if address else text
    if path in ("", ":memory:") or os.path.realpath(path) != live:
        return database
    return f"file:{quote(copy)}?{address.query}" if address else copy


def keep_off(live: str, copy: str, *, lead: bool) -> None:
    """Make this process unable to open the live database through sqlite3; lead: take it to the copy instead."""
    connect = sqlite3.connect

    def to_copy(database: Any, *args: Any, **kwargs: Any) -> Any:
        return connect(instead(database, live, copy), *args, **kwargs)

    def refuse(event: str, args: Any) -> None:
        if event == "sqlite3.connect" and instead(args[0], live, copy) is not args[0]:
            raise RuntimeError(f"env.py or a migration does not take the database's address, it opens {live} itself")

    if lead:
        sqlite3.connect = sqlite3.dbapi2.connect = to_copy
    sys.addaudithook(refuse)


class Project:
    """The project as alembic knows it. setup: see alembic_command.Command."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup = setup
        self.reader: dict[str, Any] = {"__name__": "alembic_reader"}
        exec(compile(setup["reader"], "alembic_reader.py", "exec"), self.reader)  # noqa: S102 - our own file
        self.goes = False
        self.seen: list[dict[str, Any]] = []
        self.application: Any = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Do what was asked: history, look (which databases does env.py mean?), sql, upgrade or downgrade."""
        what = question["do"]
        if what == "history":
            return self.history(question["needed"])
        from alembic import command  # noqa: PLC0415 - only there on the project's side

        self.watch()
        self.goes = what in ("upgrade", "downgrade")
        shown = io.StringIO()
        config = self.config(shown)
        self.directory(config)
        if what == "look":
            command.current(config)
        elif what == "sql":
            getattr(command, question["verb"])(config, f"{question['from']}:{question['to']}", sql=True)
        else:
            getattr(command, what)(config, question["to"])
        return {"seen": self.seen, "sql": shown.getvalue()}

    def config(self, shown: Any = None) -> Any:
        """Return the configuration, as `alembic -c -n -x` or Flask-Migrate makes it."""
        from alembic.config import CommandLine, Config  # noqa: PLC0415 - only there on the project's side

        x = self.setup["x"]
        if self.setup["flask_app"]:
            config = self.flask().extensions["migrate"].migrate.get_config(x_arg=x)
        else:
            words = ["-c", self.setup["config"], "-n", self.setup["section"]]
            options = CommandLine(prog="alembic").parser.parse_args([*words, *(f"-x{pair}" for pair in x), "current"])
            toml = os.path.basename(self.setup["config"]) == "pyproject.toml"
            more: dict[str, Any] = (
                {"toml_file": "pyproject.toml"} if "toml_file" in inspect.signature(Config).parameters else {}
            )
            ini = "alembic.ini" if toml else self.setup["config"]
            config = Config(ini, ini_section=self.setup["section"], cmd_opts=options, **more)
        config.output_buffer = shown
        if self.setup["version_locations"]:
            config.set_main_option("version_path_separator", "os")
            config.set_main_option("path_separator", "os")
            places = os.pathsep.join(self.setup["version_locations"])
            config.set_main_option("version_locations", places.replace("%", "%%"))
        return config

    def flask(self) -> Any:
        """Return the Flask application, with its context open as `flask db` has it."""
        if self.application is None:
            from flask.cli import ScriptInfo  # noqa: PLC0415 - only there on the project's side

            self.application = ScriptInfo(app_import_path=self.setup["flask_app"]).load_app()
            self.application.app_context().push()
        return self.application

    def history(self, needed: list[str]) -> dict[str, Any]:
        """Return heads and revisions; as env.py sees them where alembic's own configuration does not know them all."""
        read: Any = self.reader["read_revisions"]
        found: dict[str, Any] = read(self.directory)
        if "error" in found and not found["missing"]:
            return found
        known = {revision["id"] for revision in found.get("revisions", ())}
        if known.issuperset(needed) and known:
            return found
        more: dict[str, Any] = read(self.directory_of_env)
        knows_more = len(more.get("revisions", ())) > len(known)
        return more if knows_more or not (known or found.get("missing")) else found

    def directory(self, config: Any = None) -> Any:
        """Return the migrations, none of them loaded yet. Root does not load what belongs to somebody else."""
        from alembic.script import ScriptDirectory  # noqa: PLC0415 - only there on the project's side

        script = ScriptDirectory.from_config(config or self.config())
        if os.geteuid() == 0:
            folders = [script.dir, *(self.setup["version_locations"] or script.version_locations or ())]
            files = [
                os.path.join(top, name) for folder in folders for top, _, names in os.walk(folder) for name in names
            ]
            for path in [*folders, *files]:
                owner = os.stat(path).st_uid if os.path.exists(path) else 0
                if owner:
                    raise RuntimeError(f"{path} belongs to user {owner}: set the component's 'user'")
        return script

    def directory_of_env(self) -> Any:
        """Return the migrations as they are once env.py has run: it may name their folders itself."""
        from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415 - only there on the project's side

        self.watch()
        config = self.config(io.StringIO())
        script = self.directory(config)
        with EnvironmentContext(config, script, fn=lambda _revision, _context: [], dont_mutate=True):
            script.run_env()
        return script

    def watch(self) -> None:
        """Let migrations run on the copy alone: what env.py does with other databases is noted and left out."""
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - only there on the project's side

        run = MigrationContext.run_migrations
        if getattr(run, "watched", False):
            return

        def run_migrations(context: Any, **more: Any) -> None:
            if context.as_sql:
                run(context, **more)
                return
            place = describe(context)
            self.seen.append(place)
            ours = place["file"] == self.setup["copy"] and place["table"] == self.setup["version_table"]
            if ours and place["attached"]:
                raise RuntimeError(f"env.py attaches {', '.join(place['attached'])}: only one file can be put back")
            if ours and self.goes:
                run(context, **more)

        run_migrations.watched = True  # type: ignore[attr-defined]
        setattr(MigrationContext, "run_migrations", run_migrations)  # noqa: B010 - no type fits what takes its place


def describe(context: Any) -> dict[str, Any]:
    """Return which database a migration context works on: file ("" when it is none), attached files, version table."""
    place = {"file": "", "attached": [], "table": context.version_table, "dialect": context.dialect.name}
    if context.dialect.name == "sqlite":
        # With the driver's own cursor: SQLAlchemy would begin a transaction for it.
        cursor = context.connection.connection.cursor()
        cursor.execute("PRAGMA database_list")
        files = {name: path for _, name, path in cursor.fetchall()}
        cursor.close()
        place["file"] = files.pop("main")
        files.pop("temp", None)
        place["attached"] = sorted(files.values())
    return place


def main() -> None:
    """Answer the questions, in order, up to the first that cannot be answered."""
    document = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a migration that prints must not spoil the answers
    setup = document["setup"]
    die_with(setup["parent"])
    keep_off(setup["live"], setup["copy"], lead=setup["lead"])
    project = Project(setup)
    given: list[dict[str, Any]] = []
    try:
        given.extend(map(project.answer, document["questions"]))
    except BaseException as exc:  # noqa: BLE001 - env.py may raise anything, SystemExit too
        traceback.print_exc()
        given.append({"error": f"{type(exc).__name__}: {exc}", "missing": [], "seen": project.seen})
    with answers:
        json.dump(given, answers)


if __name__ == "__main__":
    main()
