# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that only look: status, history, report, doctor."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rollbackctl import doctor as diagnosis
from rollbackctl import execute, parameters, records
from rollbackctl._project import names, outcome
from rollbackctl.errors import RecordMissingError
from rollbackctl.execute import Order
from rollbackctl.records import Record
from rollbackctl.report import html, markdown, parse, terminal, text

from . import arguments
from .arguments import AsJson, Inventories, Run, Services

# Columns from which on a table shows the time of a run beside its id.
_WIDE = 110


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("status")(status)
    app.command("history")(history)
    app.command("report")(report)
    app.command("doctor")(doctor)


def status(services: Services = None, *, inventory: Inventories = None, as_json: AsJson = False) -> None:
    """Say how each service's last run ended, and what to type where one did not.

    Reads the records of this controller. With SERVICE and --inventory it reads the service's own store, which knows the
    runs of every controller.
    """
    if services and inventory:
        _status_of_store(services, inventory, as_json=as_json)
        return
    last: dict[str, Record] = {}
    for record in records.every():
        for service in record.get("services", {}):
            last.setdefault(service, record)
    found = {name: record for name, record in last.items() if not services or name in services}
    if as_json:
        shown = {
            name: {key: record.get(key) for key in ("run", "outcome", "started", "next")}
            for name, record in found.items()
        }
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return
    console = execute.stdout()
    if not found:
        console.print(Text(f"No run is on record in {records.directory()}."), soft_wrap=True)
        return
    table = _table("service", "last run", "when", "outcome", "what to type")
    for name, record in sorted(found.items()):
        word, style, following = _state(record)
        cells = (text.line(name), text.line(record.get("run")), _when(record))
        table.add_row(*map(Text, cells), Text(word, style), following)
    console.print(table)


def history(
    *,
    service: Annotated[
        list[str] | None, typer.Option("--service", metavar="NAME", help="Only runs of these.", show_default=False)
    ] = None,
    ended: Annotated[
        list[str] | None,
        typer.Option(
            "--outcome", metavar="WORD", help="Only those that ended so: done, refused, ...", show_default=False
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="WORD", help="Only these: rollback, undo, checkpoint, ...", show_default=False),
    ] = None,
    since: Annotated[
        str,
        typer.Option("--since", metavar="TIME", help="Only those since 2026-11-21, or of the last 7d or 12h."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, and nothing else, to stdout.")] = False,
) -> None:
    """List the runs of this controller, the latest first."""
    every = records.every()
    moment, wrong = _moment(since)
    known = {name for record in every for name in record.get("services", {})}
    wrong += _unknown("--service", service, known)
    wrong += _unknown("--outcome", ended, set(outcome.MEANINGS))
    wrong += _unknown("--kind", kind, {str(record.get("kind")) for record in every})
    if wrong:
        execute.refuse(*wrong)
    wanted = {key: set(parameters.separate(words or [])) for key, words in (("outcome", ended), ("kind", kind))}
    services = set(parameters.separate(service or []))
    found = [
        record
        for record in every
        if all(not words or record.get(key) in words for key, words in wanted.items())
        and (not services or services & set(record.get("services", {})))
        and str(record.get("started", "")) >= moment
    ]
    if as_json:
        sys.stdout.write(json.dumps([_summary(record) for record in found], indent=2) + "\n")
    elif not found:
        what = "No such run" if every else "No run"
        execute.stdout().print(Text(f"{what} is on record in {records.directory()}."), soft_wrap=True)
    else:
        _print_history(found)


def _unknown(flag: str, words: list[str] | None, known: set[str]) -> list[str]:
    listed = ", ".join(sorted(known)) or "none"
    return [
        f"{flag} {names.printable(word)!r} is not known; there are {listed}{names.did_you_mean(word, known)}"
        for word in parameters.separate(words or [])
        if word not in known
    ]


def _moment(since: str) -> tuple[str, list[str]]:
    """Return a time as records write it, of a time, a day, or how long ago (7d, 12h), and what is wrong with it."""
    ago = re.fullmatch(r"(\d{1,4})([dh])", since)
    if ago:
        passed = timedelta(days=int(ago[1])) if ago[2] == "d" else timedelta(hours=int(ago[1]))
        return f"{datetime.now(UTC) - passed:%Y-%m-%dT%H:%M:%SZ}", []
    when = text.parse_moment(since) if since else None
    if since and when is None:
        return "", [f"--since {names.printable(since)!r} is no time; write 2026-11-21, 2026-11-21T09:30:15Z, 7d or 12h"]
    return (f"{when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if when else ""), []


def _summary(record: Record) -> dict[str, Any]:
    keys = ("run", "kind", "level", "outcome", "exit_code", "reason", "operator", "started", "ended", "seconds")
    more = {key: record.get(key) for key in ("over_budget", "message", "next")}
    services = {name: service.get("outcome") for name, service in record.get("services", {}).items()}
    return {**{key: record.get(key) for key in keys}, "services": services, **more}


def _print_history(found: list[Record]) -> None:
    console = execute.stdout()
    # The id of a run begins with its time, so that is what a narrow terminal does without.
    wide = console.width >= _WIDE
    table = _table(*["when"] * wide, "run", "what", "services", "outcome", "took", "why")
    for record in found:
        told = parse(record)
        word, style, _ = _state(record)
        level = f" {record.get('level')}" if record.get("level") else ""
        cells = [_when(record)] * wide + [told.run, f"{text.line(record.get('kind'))}{level}"]
        cells.append(", ".join(service.name for service in told.services))
        took = Text(text.duration(told.seconds), "yellow" if told.budget.over else "")
        table.add_row(*map(Text, cells), Text(word, style), took, Text(told.reason))
    console.print(table)


def report(
    run: Run,
    *,
    as_html: Annotated[
        bool, typer.Option("--html", help="Print the page: one file, nothing loaded from elsewhere.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for an incident ticket.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file instead.", show_default=False, dir_okay=False),
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Write the page beside the record and open it in a browser.")
    ] = False,
) -> None:
    """Tell how a run went: in the terminal, as a page or as Markdown."""
    if as_html and as_markdown:
        execute.refuse("--html and --markdown: choose one")
    try:
        record = records.load(run)
    except RecordMissingError as error:
        execute.refuse(str(error))
    told = parse(record)
    if show:
        typer.launch(str(records.write_beside(record, ".html", html.render(told))))
    elif as_html or as_markdown or output:
        wants_markdown = as_markdown or (output is not None and not as_html and output.suffix == ".md")
        content = markdown.render(told) if wants_markdown else html.render(told)
        if output is None:
            sys.stdout.write(content)
        else:
            output.write_text(content, encoding="utf-8")
    else:
        execute.stdout().print(terminal.render(execute.in_flags(told)))


def doctor(services: Services = None, *, inventory: Inventories = None) -> None:
    """Find out whether this controller could roll these services back now: asks them, changes nothing."""
    findings = diagnosis.examine(services or [], inventory or [])
    table = _table("", "checked", "found")
    for finding in findings:
        mark = Text("✓", "green") if finding.ok else Text("✗", "bold red")
        table.add_row(mark, Text(finding.name), Text(finding.text))
    execute.stdout().print(table)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else execute.EXIT_REFUSED)


def _status_of_store(services: list[str], inventory: list[str], *, as_json: bool) -> None:
    values, wrong = parameters.judge({}, services, "status")
    wrong += arguments.inventory_problems(inventory) + arguments.playbook_problems("status.yml")
    if wrong:
        execute.refuse(*wrong)
    record, result = execute.look(Order("status.yml", tuple(inventory), values), check=False)
    if record is None:
        execute.no_plan(result)
    if as_json:
        execute.close(record, result, as_json=True, keep=False)
    console = execute.stdout()
    for name, service in record["services"].items():
        for part in _store(name, service.get("status") or {}):
            console.print(part, soft_wrap=isinstance(part, Text))
        for problem in service.get("problems") or []:
            console.print(Text(f"  {text.line(problem)}", "red"), soft_wrap=True)
    if record["outcome"] not in {outcome.DONE, outcome.ALREADY}:
        console.print(Text(parameters.in_flags(text.block(record.get("message"))), "red"), soft_wrap=True)
    raise typer.Exit(parse(record).exit_code)


def _store(name: str, found: dict[str, Any]) -> Iterable[RenderableType]:
    yield Text.assemble((text.line(name), "bold"), f" on {text.line(found.get('host'))}" if found.get("host") else "")
    for damage in found.get("damaged") or []:
        yield Text(f"  {text.line(damage)}", "red")
    lease = found.get("lease")
    if lease:
        yield Text(f"  Held by run {text.line(lease.get('run'))} of {text.line(lease.get('holder'))}.", "yellow")
    if found.get("runs"):
        table = _table("run", "what", "outcome", "fence", "what to type")
        for run in found["runs"]:
            word = text.line(run.get("outcome"))
            level = f" {run.get('level')}" if run.get("level") else ""
            cells = (text.line(run.get("run")), f"{text.line(run.get('kind'))}{level}")
            ends = (
                Text(word, _style(word)),
                Text(text.line(run.get("fence"))),
                Text("\n".join(text.steps(run.get("next"))), "bold"),
            )
            table.add_row(*map(Text, cells), *ends)
        yield table
    for kept in found.get("checkpoints") or []:
        taken = text.moment(str(kept.get("taken")))
        yield Text(f"  checkpoint {text.line(kept.get('id'))}: {text.line(kept.get('state'))}, taken {taken}")
    for bad in found.get("quarantine") or []:
        since = text.moment(str(bad.get("since")))
        yield Text(f"  quarantined {text.line(bad.get('id'))} since {since}: {text.line(bad.get('reason'))}")


def _state(record: Record) -> tuple[str, str, Text]:
    """Return a run's word, its colour, and what to type next."""
    word = text.line(record.get("outcome"))
    run = text.line(record.get("run"))
    if records.is_running(record):
        return "running", "cyan", Text(f"runs now, process {record.get('pid')}", "dim")
    if word in {outcome.INTERRUPTED, outcome.RESUMABLE}:
        following = text.steps(record.get("next")) or [f"rollbackctl resume {run}"]
        return word, _style(word), Text("\n".join(following), "bold")
    return word, _style(word), Text("\n".join(text.steps(record.get("next"))))


def _style(word: str) -> str:
    return terminal.STYLES[parse({"outcome": word}).tone]


def _when(record: Record) -> str:
    return text.moment(str(record.get("started", "")))


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 1))
    for head in heads:
        # A command must be on one line, to be copied.
        table.add_column(head, header_style="dim", overflow="fold", no_wrap=head in {"what to type", "run", "last run"})
    return table
