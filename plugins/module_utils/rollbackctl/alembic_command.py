# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the project's alembic: which command, in which environment, for how long, and with what left out of messages.

env.py and migrations are code of the project: they run with the module's own user, a deadline and an environment that
holds nothing but what the component names.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from . import alembic_reader
from .alembic_history import History
from .errors import DeadlineExceeded, Refused
from .names import printable

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWORD = re.compile(r"(://[^:/@\s]*:)([^@\s]+)@")
_TAIL = 1200  # characters of a command's own words in a message

# Ends alembic when the module is killed: a migration must not go on while a resumed run starts another one (prctl(2),
# PR_SET_PDEATHSIG = 1). In a container there is no such parent, and the line does nothing.
_START = """\
import ctypes, json, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
except (OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv[1]):
    raise SystemExit("the process that started alembic is gone")
from alembic.config import main
for arguments in json.loads(sys.argv[2]):
    main(arguments, prog="alembic")
    print("\\x1e", flush=True)
"""
# What stands after the output of each command that succeeded.
_ENDED = "\x1e\n"


@dataclasses.dataclass(frozen=True)
class Ended:
    """A command that ended by itself: exit code (minus the signal's number if one ended it) and what it said last."""

    code: int
    output: str
    tail: str


def where_it_runs(options: Mapping[str, Any]) -> list[str]:
    """Return the beginning of every command that starts the project's Python: here, the one of its environment."""
    return [str(options["python"])]


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
        self.name: str = options["name"]
        self.project = str(options["project"])
        self.config = str(options.get("config") or "alembic.ini")
        self.seconds = float(options.get("timeout") or 120)
        self.given = {str(key): str(value) for key, value in (options.get("environment") or {}).items()}
        self.prefix = where_it_runs(options)

    def history(self) -> History:
        """Read the migrations that are in the project now.

        :raises Refused: when they cannot be read, or one that others build upon is missing.
        """
        self._require_project()
        source = alembic_reader.__loader__.get_source(alembic_reader.__name__)  # type: ignore[union-attr]
        config = os.path.join(self.project, self.config)
        ended = self.run([*self.prefix, "-", config], stdin=source)
        try:
            document = json.loads(ended.output)
        except ValueError:
            document = {"error": ended.tail or f"exit code {ended.code}", "missing": []}
        if "error" not in document:
            return History.from_dicts(document["revisions"], document["heads"])
        error = printable(self.redacted(str(document["error"])))
        if document["missing"]:
            missing = ", ".join(document["missing"])
            raise Refused(
                f"{self.name}: the migration file of revision {missing} is missing in {self.project}, though others "
                "build upon it. Nothing was changed.",
                "Put the code (commit or image) that contains it into the project directory: a downgrade needs the "
                "migrations of the new code.",
            )
        raise Refused(
            f"{self.name}: the migrations in {self.project} cannot be read: {error}. Nothing was changed.",
            f"Try it by hand: cd {self.project} && {' '.join(self.prefix)} -m alembic -c {self.config} history",
        )

    def redacted(self, text: str) -> str:
        """Return text without the values of the component's environment."""
        return redacted(text, self.given)

    def _require_project(self) -> None:
        if not os.path.isfile(os.path.join(self.project, self.config)):
            raise Refused(
                f"{self.name}: there is no {self.config} in {self.project}. Nothing was changed.",
                "Correct the component's 'project' (the directory that holds it) or 'config'.",
            )
        if not os.access(self.prefix[0], os.X_OK):
            raise Refused(
                f"{self.name}: {self.prefix[0]} is missing or not executable. Nothing was changed.",
                "Set the component's 'python' to the interpreter of the environment that has the project's alembic.",
            )

    def alembic(self, *commands: Sequence[str], more: Mapping[str, str] | None = None) -> tuple[Ended, list[str]]:
        """Run alembic commands in the project, in one process until one fails: each start takes half a second.

        :param more: further environment variables.
        :returns: how it ended, and the output of each command that succeeded.
        :raises DeadlineExceeded: when it took longer than the component's timeout; it was killed then.
        """
        words = json.dumps([["-c", self.config, *arguments] for arguments in commands])
        ended = self.run([*self.prefix, "-c", _START, str(os.getpid()), words], more=more)
        return ended, ended.output.split(_ENDED)[:-1]

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
        environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **self.given, **(more or {})}
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=self.project,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                start_new_session=True,
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
        said = self.redacted((errors or output).strip())[-_TAIL:]
        return Ended(process.returncode, output, "\n".join(printable(line) for line in said.splitlines()[-8:]))
