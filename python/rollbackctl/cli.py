# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: validates everything first, then runs the playbooks that ansible-playbook would run as well."""

from __future__ import annotations

import sys
from errno import EPIPE
from io import TextIOWrapper
from typing import Annotated

import typer

from . import __version__
from .errors import ProjectMissingError


def build() -> typer.Typer:
    """Return the application. Raises ProjectMissingError where the playbooks are not found."""
    from .commands import look, runs, state  # noqa: PLC0415 - they need the project, and a missing one must be said well

    app = typer.Typer(
        name="rollbackctl",
        help="Puts a broken service back, and proves it.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,
    )

    @app.callback()
    def common(
        *,
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
        ] = False,
    ) -> None:
        del version  # its callback has printed it

    runs.register(app)
    look.register(app)
    state.register(app)
    return app


def _version(*, asked: bool) -> None:
    if asked:
        sys.stdout.write(f"rollbackctl {__version__}\n")
        raise typer.Exit


def main() -> None:
    """Run the command line; the exit code is that of the run's outcome."""
    try:
        app = build()
    except ProjectMissingError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    from ._project import output  # noqa: PLC0415 - as in build

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows only ASCII
    failures = output.be_patient()
    try:
        app()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if failures and failures[-1].errno != EPIPE:  # who pipes into head wants no more
            sys.stderr.write(f"Not all that was to be shown could be written: {failures[-1].strerror}\n")
