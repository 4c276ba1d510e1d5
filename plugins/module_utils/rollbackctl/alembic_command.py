# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the project's alembic, or its own command for it: in which environment, for how long, on which copy, and with
what left out of messages.

env.py and migrations are code of the project: they run as its owner, with a deadline and an environment that holds
nothing but what the component names, and they are given a copy of the database, never the database.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import re
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from . import alembic_child, alembic_reader
from .alembic_history import History
from .alembic_owner import cannot_write, runs_as
from .alembic_sqlite import quoted
from .errors import DeadlineExceeded, Refused, RollbackError, StepFailed
from .names import printable
from .safe_path import Owner

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWORD = re.compile(r"(://[^:/@\s]*:)([^@\s]+)@")
_LINE = 400  # characters of a command's own words in a message
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = "╭╮╰╯│─┃━ \t"  # what rich draws around a message


@dataclasses.dataclass(frozen=True)
class Ended:
    """A command that ended by itself: exit code (minus the signal's number if one ended it), stdout, and what it
    said, redacted.
    """

    code: int
    output: str
    said: str


@dataclasses.dataclass(frozen=True)
class Look:
    """What env.py does without a change. problem: why a migration of the database would not work; empty when it would.

    sql: what alembic would send; empty where it cannot say beforehand. untold: why it cannot.
    """

    problem: str
    sql: str
    untold: str = "a migration has to look at the database first (batch mode)"


def why(said: str) -> str:
    """Return the one line of a command's words that says why it failed: of a traceback the exception, else the last."""
    trace = said.rpartition(_TRACEBACK)
    lines = [line for line in trace[2].splitlines() if line.strip(_FRAME)]
    if trace[1]:
        lines = [line for line in lines if not line[0].isspace()][:1] or lines
    return printable(lines[-1].strip(_FRAME))[:_LINE] if lines else ""


def _source(module: ModuleType) -> str:
    return str(module.__loader__.get_source(module.__name__))  # type: ignore[union-attr]


def redacted(text: str, environment: Mapping[str, str]) -> str:
    """Return text without the values of the component's environment, and without passwords in addresses."""
    hidden = set()
    for value in environment.values():
        hidden.add(value)
        for _, password in _PASSWORD.findall(value):
            hidden.update((password, unquote(password)))
    for secret in sorted((value for value in hidden if len(value) >= 4), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1***@", text)


class Command:
    """The commands of one component, from its options."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.name: str = options["name"]
        self.project = str(options["project"])
        self.config = str(options.get("config") or "alembic.ini")
        self.python = str(options["python"])
        self.database = os.path.realpath(str(options.get("database") or ""))
        self.version_table = str(options.get("version_table") or "alembic_version")
        self.seconds = float(options.get("timeout") or 120)
        self.given = {str(key): str(value) for key, value in (options.get("environment") or {}).items()}
        self._owner: Owner | None = None
        self._compiled: tempfile.TemporaryDirectory[str] | None = None
        self._rest = ""
        self.x = {str(key): str(value) for key, value in (options.get("x_arguments") or {}).items()}

    @property
    def owner(self) -> Owner:
        """As whom the project's code runs.

        :raises Refused: see alembic_owner.runs_as.
        """
        if self._owner is None:
            self._owner = runs_as(self.options)
        return self._owner

    @contextlib.contextmanager
    def _empty(self) -> Iterator[Path]:
        """Give the path of a database that is not there yet, in a folder of its own that the project's user has."""
        with tempfile.TemporaryDirectory(prefix="rollbackctl-") as folder:
            if self.owner.drop:
                os.chown(folder, self.owner.uid, self.owner.gid)
            yield Path(folder, "empty.sqlite")

    # -- asking alembic ----------------------------------------------------------------------------------------------

    def history(self, needed: Sequence[str] = ()) -> History:
        """Read the migrations that are in the project now. needed: revisions for which env.py is asked, too.

        :raises Refused: when they cannot be read, or one that others build upon is missing.
        """
        self._require_project()
        with self._empty() as copy:
            document = self._ask(copy, {"do": "history", "needed": list(needed)})[0]
        if "error" not in document:
            return History.from_dicts(document["revisions"], document["heads"])
        if document["missing"]:
            missing = ", ".join(document["missing"])
            raise Refused(
                f"{self.name}: the migration file of revision {missing} is missing in {self.project}, though others "
                "build upon it. Nothing was changed.",
                "Put the code (commit or image) that contains it into the project directory: a downgrade needs the "
                "migrations of the new code.",
            )
        raise Refused(
            f"{self.name}: the migrations in {self.project} cannot be read: {document['error']}. Nothing was changed.",
            f"Try it by hand: cd {self.project} && {self.python} -m alembic -c {self.config} history",
        )

    def look(self, verb: str, here: str, there: str) -> Look:
        """Run env.py on an empty database, to see whether it means ours, and render the SQL where alembic can."""
        if self.own(verb):
            return Look("", "", "a command of the application's own goes this way")
        questions = [{"do": "look"}, {"do": "sql", "verb": verb, "from": here, "to": there}]
        with self._empty() as copy:
            answers = self._ask(copy, *questions)
        if "error" in answers[0]:
            return Look(f"{self.name}: env.py failed: {answers[0]['error']}.", "")
        if "error" in answers[1]:
            self.forget()
        return Look(self._not_ours(answers[0]["seen"], copy), answers[1].get("sql", ""))

    def go(self, verb: str, arrival: str, copy: Path) -> None:
        """Migrate a copy, all steps in one process. verb: upgrade or downgrade.

        :raises StepFailed: the command failed, or did not run on the copy.
        :raises DeadlineExceeded: when it took longer than the component's timeout; it was killed then.
        """
        argv = [self._filled(word, copy, arrival) for word in self.own(verb)]
        if argv:
            ended = self.run(argv, more=self._handed(copy), merge=True)
            if ended.code != 0:
                raise StepFailed(
                    f"{self.name}: {json.dumps(argv)} failed (exit {ended.code}): {self.last_words(ended)}."
                )
            return
        answer = self._ask(copy, {"do": verb, "to": arrival})[0]
        if "error" in answer:
            raise StepFailed(f"{self.name}: 'alembic {verb} {arrival}' failed: {answer['error']}.")
        problem = self._not_ours(answer["seen"], copy)
        if problem:
            raise StepFailed(problem, "Compare the component's 'database' with the address that env.py uses.")

    def try_out(self, here: str) -> str:
        """Run a migration from `here` to `here`, which changes nothing, on an empty database; return what is wrong.

        Nothing is done to the live database, also where the command does not take the address that it is given.
        """
        with self._empty() as copy:
            try:
                self._stamp(copy, here)
                for verb in ["downgrade"] + ["upgrade"] * bool(self.own("upgrade")):
                    self.go(verb, here, copy)
            except RollbackError as error:
                return error.message
            for verb in filter(self.own, ("downgrade", "upgrade")):
                self._stamp(copy, "no such revision")
                with contextlib.suppress(RollbackError):
                    self.go(verb, here, copy)
                    return (
                        f"{self.name}: {json.dumps(self.own(verb))} does not take the address of the database that it "
                        "is given: it works as well where that database holds no revision of this project."
                    )
                self.forget()
        return ""

    def _stamp(self, copy: Path, revision: str) -> None:
        with self.owner.acting(), contextlib.closing(sqlite3.connect(copy)) as connection, connection:
            table = quoted(self.version_table)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - quoted
            connection.execute(f"INSERT INTO {table} VALUES (?)", (revision,))  # noqa: S608 - quoted

    def own(self, verb: str) -> list[str]:
        """Return the application's own command for this verb; empty where it is alembic's."""
        return [str(word) for word in self.options.get(f"{verb}_command") or []]

    def obstacles(self) -> list[str]:
        """Return what in the options cannot work together, and what the project's user may not do."""
        try:
            problem = cannot_write(self.owner, self.database)
        except Refused as refusal:
            return [f"{refusal.message} {refusal.next_step}"]
        if problem:
            return [f"{self.name}: {problem}"]
        words = [*self.own("downgrade"), *self.own("upgrade")]
        told = self.options.get("url_environment") or any("{url}" in word or "{database}" in word for word in words)
        if not words or told:
            return []
        problem = f"{self.name}: its own commands have to be told which copy to migrate: set 'url_environment', or "
        return [problem + "write {url} or {database} where they take it."]

    def _ask(self, copy: Path, *questions: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return alembic's answers; the last one says `error` where a question could not be answered."""
        hands = bool(self.options.get("url_environment")) or any("{" in value for value in self.x.values())
        setup = {
            "reader": _source(alembic_reader),
            "config": self.config,
            "section": str(self.options.get("section") or "alembic"),
            "flask_app": str(self.options.get("flask_app") or ""),
            "x": [f"{key}={self._filled(value, copy)}" for key, value in self.x.items()],
            "version_locations": [str(place) for place in self.options.get("version_locations") or ()],
            "version_table": self.version_table,
            "live": self.database,
            "copy": os.path.realpath(copy),
            "lead": not hands,
            "parent": os.getpid(),
        }
        stdin = json.dumps({"setup": setup, "questions": questions})
        ended = self.run([self.python, "-c", _source(alembic_child)], stdin=stdin, more=self._handed(copy))
        try:
            answers: list[dict[str, Any]] = json.loads(ended.output)
        except ValueError:
            answers = [{"error": f"exit {ended.code}: {why(ended.said)}", "missing": [], "seen": []}]
        for answer in answers:
            if "error" in answer:
                first = self.redacted(str(answer["error"])).strip().splitlines()[:1]
                answer["error"] = self.last_words(ended, *(printable(line)[:_LINE] for line in first))
        return answers

    def _not_ours(self, seen: Sequence[Mapping[str, Any]], copy: Path) -> str:
        """Return why what env.py did was not done to the copy; empty when it was."""
        path = os.path.realpath(copy)
        tables = {str(place["table"]) for place in seen if place["file"] == path}
        if self.version_table in tables:
            return ""
        if tables:
            return (
                f"{self.name}: env.py counts revisions in {', '.join(sorted(tables))}, not in {self.version_table}. "
                f"Set the component's version_table: {min(tables)}"
            )
        others = ", ".join(sorted({str(place["file"] or place["dialect"]) for place in seen})) or "none at all"
        return (
            f"{self.name}: env.py uses another database than {self.database}: {others}. Compare 'database' with the "
            f"address in env.py or {self.config}; where it comes from a variable, name it in 'url_environment'."
        )

    def _handed(self, copy: Path) -> dict[str, str]:
        variable = self.options.get("url_environment")
        return {str(variable): self._filled("{url}", copy)} if variable else {}

    def _filled(self, text: str, copy: Path, revision: str = "") -> str:
        url = str(self.options.get("url") or "sqlite:///{database}")
        text = text.replace("{url}", url).replace("{revision}", revision)
        return text.replace("{database}", os.path.realpath(copy))

    def redacted(self, text: str) -> str:
        """Return text without the values of the component's environment and -x arguments."""
        return redacted(text, {**self.given, **self.x})

    def _require_project(self) -> None:
        places = [os.path.join(self.project, name) for name in (self.config, "pyproject.toml")]
        if not any(os.path.isfile(place) for place in places):
            raise Refused(
                f"{self.name}: there is neither {self.config} nor pyproject.toml in {self.project}. "
                "Nothing was changed.",
                "Correct the component's 'project' (the directory that holds it) or 'config'.",
            )
        if not os.access(self.python, os.X_OK):
            raise Refused(
                f"{self.name}: {self.python} is missing or not executable. Nothing was changed.",
                "Set the component's 'python' to the interpreter of the environment that has the project's alembic.",
            )

    def last_words(self, ended: Ended, line: str = "") -> str:
        """Return the one line that says why a command failed, and the file where all that it said is kept.

        :param line: the line, where it is known.
        """
        line = line or why(ended.said)
        count = len(ended.said.splitlines())
        if count < 2:
            return line
        self.forget()
        handle, self._rest = tempfile.mkstemp(".txt", f"rollbackctl-{self.name}-")
        with open(handle, "w", encoding="utf-8") as rest:
            rest.write(ended.said + "\n")
        return f"{line} (all {count} lines of it: {self._rest})"

    def forget(self) -> None:
        """Remove what was kept of the last failure: it was expected."""
        if self._rest:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._rest)
            self._rest = ""

    def _bytecode(self) -> dict[str, str]:
        """Return what keeps the project's folders as they are. Where its installer compiled nothing, each start would
        compile the whole application again: there, what is compiled stays in a private folder as long as we do."""
        environment = os.path.dirname(os.path.dirname(self.python))
        beside = os.path.join(glob.escape(environment), "lib*/python*/*-packages/alembic/__pycache__/*.pyc")
        if next(glob.iglob(beside), None):
            return {"PYTHONDONTWRITEBYTECODE": "1"}
        if self._compiled is None:
            self._compiled = tempfile.TemporaryDirectory(prefix="rollbackctl-compiled-")
            if self.owner.drop:
                os.chown(self._compiled.name, self.owner.uid, self.owner.gid)
        return {"PYTHONPYCACHEPREFIX": self._compiled.name}

    # -- one command -------------------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        more: Mapping[str, str] | None = None,
        merge: bool = False,
        seconds: float = 0,
    ) -> Ended:
        """Run argv in the project with the component's environment; merge: stderr is part of the output.

        :raises Refused: when it cannot be started.
        :raises DeadlineExceeded: when it was killed, with all its children, after `seconds` (default: timeout).
        """
        seconds = seconds or self.seconds
        environment = {
            "PATH": f"{os.path.dirname(self.python)}:{_PATH}",
            "LC_ALL": "C.UTF-8",
            **self._bytecode(),
            **self.given,
            **(more or {}),
        }
        who: dict[str, Any] = {}
        if self.owner.drop:
            who = {"user": self.owner.uid, "group": self.owner.gid, "extra_groups": self.owner.groups}
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=self.project,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                start_new_session=True,
                **who,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as exc:
            raise Refused(f"{self.name}: {argv[0]} cannot be started: {exc.strerror}.") from exc
        try:
            output, errors = process.communicate(stdin, timeout=seconds)
        except BaseException as exc:  # also the engine's own deadline, which is a signal
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
            raise DeadlineExceeded(
                f"{self.name}: {os.path.basename(argv[0])} took longer than {seconds:g} seconds and was ended.",
                "Find out what it waits for (a lock? a server?), or raise the component's 'timeout'.",
            ) from exc
        return Ended(process.returncode, output, self.redacted((errors or output).strip()))
