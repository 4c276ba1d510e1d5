# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a playbook for a command and brings its record back. The record, not an exit code, says how a run went."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from . import parameters, progress, records
from ._project import ROOT, outcome, profile_errors
from .records import Record
from .report import Report, html, markdown, parse, terminal
from .runner import Request, Result, private_folder, run_playbook

EXIT_REFUSED = outcome.EXIT_CODES[outcome.REFUSED]
EXIT_UNKNOWN = outcome.EXIT_CODES[outcome.UNKNOWN]
_TAIL = 25


@dataclass(frozen=True)
class Order:
    """What a command wants done."""

    playbook: str
    inventories: tuple[str, ...]
    values: Mapping[str, object] = field(default_factory=dict)


def stdout() -> Console:
    """Return the console for results."""
    return Console(soft_wrap=False)


def stderr() -> Console:
    """Return the console for everything that is not a result."""
    return Console(stderr=True)


def refuse(*problems: str) -> NoReturn:
    """Say everything that is wrong, and end with the exit code of a refusal."""
    console = stderr()
    console.print(Text("Refused, nothing was changed:", "bold"))
    for problem in problems:
        console.print(Text(f"  - {problem}"), soft_wrap=True)
    raise typer.Exit(EXIT_REFUSED)


def look(order: Order, *, check: bool = True) -> tuple[Record | None, Result]:
    """Run a playbook that only looks (in check mode); its record is kept nowhere."""
    folder = Path(tempfile.mkdtemp(prefix="rollbackctl-look-"))
    try:
        request = replace(_request(order), check=check, environment={"ROLLBACKCTL_RECORDS": str(folder)})
        with progress.shown(stderr(), only_looking=True) as listener:
            result = run_playbook(request, listener)
        return records.of_process(result.pid, folder), result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def carry_out(order: Order) -> tuple[Record | None, Result]:
    """Run a playbook for real; its record is in the records folder, or shown only where that takes none."""
    with private_folder() as folder:
        request = replace(_request(order), environment={records.SPARE_VARIABLE: str(folder)})
        with progress.shown(stderr()) as listener:
            result = run_playbook(request, listener)
        return records.newer(records.of_process(result.pid), records.of_process(result.pid, folder)), result


def close(record: Record | None, result: Result, *, as_json: bool, keep: bool = True) -> NoReturn:
    """Show how a run ended, keep its report beside the record, and exit with the code of its outcome."""
    if record is None:
        _no_record(result, as_json=as_json)
    report = parse(record)
    if keep:
        keep_report(record, report)
    if as_json:
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    else:
        console = stdout()
        console.print(terminal.render(in_flags(report)))
        if record["outcome"] == outcome.INTERRUPTED:
            say = (
                f"The run was stopped ({result.signalled})"
                if result.signalled
                else "ansible-playbook ended before the run"
            )
            console.print(Text(f"{say}.", "bold"), soft_wrap=True)
            _tail(result)
    raise typer.Exit(report.exit_code)


def keep_report(record: Record, report: Report) -> None:
    """Write the page and the Markdown beside the record. Failing to must not change how a run ended."""
    try:
        records.write_beside(record, ".md", markdown.render(report))
        path = records.write_beside(record, ".html", html.render(report))
    except OSError as error:
        stderr().print(Text(f"The report could not be written: {error}", "yellow"), soft_wrap=True)
    else:
        stderr().print(Text(f"Report: {path}", "dim"), soft_wrap=True)


def in_flags(report: Report) -> Report:
    """Return a report whose messages name the wrapper's flags where the engine names its variables."""
    services = tuple(
        replace(
            service,
            message=parameters.in_flags(service.message),
            problems=tuple(parameters.in_flags(problem) for problem in service.problems),
        )
        for service in report.services
    )
    return replace(report, message=parameters.in_flags(report.message), services=services)


def no_plan(result: Result) -> NoReturn:
    """End a command whose look at the service gave no record: nothing was changed, because nothing was to be."""
    _refuse_unread(result)
    stderr().print(Text("Refused, nothing was changed: the playbook ended before it could look.", "bold"))
    _tail(result)
    raise typer.Exit(EXIT_REFUSED)


def _refuse_unread(result: Result, *, as_json: bool = False) -> None:
    """Refuse where ansible-playbook could not even begin: no play of it was started, so nothing can have changed."""
    said = [line.partition("[ERROR]: ")[2] for line in result.output.splitlines() if "[ERROR]: " in line]
    if result.pid or not result.code or not said or "PLAY [" in result.output:
        return
    if as_json:
        sys.stdout.write(json.dumps({"outcome": outcome.REFUSED, "exit_code": EXIT_REFUSED}) + "\n")
    sources = [line.partition("inventory source ")[2].strip() for line in said]
    refuse(*(profile_errors.file_faults(filter(None, sources)) or map(terminal_line, said)))


def _no_record(result: Result, *, as_json: bool) -> NoReturn:
    _refuse_unread(result, as_json=as_json)
    if as_json:
        sys.stdout.write(json.dumps({"outcome": outcome.UNKNOWN, "exit_code": EXIT_UNKNOWN}) + "\n")
    console = stderr()
    console.print(Text(f"Unknown: ansible-playbook ended (code {result.code}) without a record.", "bold red"))
    console.print(Text("Next: rollbackctl status SERVICE --inventory INVENTORY, which reads the service's own store."))
    _tail(result)
    raise typer.Exit(EXIT_UNKNOWN)


def _tail(result: Result) -> None:
    for line in result.output.splitlines()[-_TAIL:]:
        stderr().print(Text(f"  {terminal_line(line)}", "dim"), soft_wrap=True)


def terminal_line(line: str) -> str:
    """Return a line of a program's output without what could drive a terminal."""
    return "".join(character if character.isprintable() else " " for character in line)


def _request(order: Order) -> Request:
    return Request(ROOT / "playbooks" / order.playbook, order.inventories, order.values)


def is_interactive() -> bool:
    """Say whether there is a person who can be asked."""
    return sys.stdin.isatty() and os.environ.get("TERM", "") != "dumb"
