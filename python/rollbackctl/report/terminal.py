# SPDX-License-Identifier: GPL-3.0-or-later
"""The report in a terminal. Texts are Text objects, never markup: a name cannot colour or move anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rollbackctl._project import plan_text

from . import text
from .definitions import Bar, Report, Service, Timeline

STYLES = {"good": "green", "calm": "blue", "warn": "yellow", "bad": "red"}
PLAN_STYLES = {"title": "bold", "head": "bold", "bad": "red", "warn": "yellow", "dim": "dim", "": ""}
_STATES = {"ok": Text("✓", "green"), "failed": Text("✗", "red"), "unverified": Text("?", "yellow")}
_BAR_CELLS = 32
_BAD = {"failed", "refused"}
# Steps shorter than this share of the run, in percent, are in the page only.
_WORTH_A_LINE = 3


def render(report: Report) -> RenderableType:
    """Return the summary of a run."""
    return Group(*_parts(report))


def plan(record: Mapping[str, Any], width: int, in_words: Callable[[str], str]) -> RenderableType:
    """Return the plans of a run that only looked: the lines that plain ansible-playbook prints as well, in colour.

    :param width: columns of the terminal.
    :param in_words: puts a message into the words of the command line.
    """
    shown = Text()
    for name, service in record["services"].items():
        for line in plan_text.plan_lines(name, service, str(record["kind"]), width, in_words):
            shown.append(f"{line.text}\n", PLAN_STYLES[line.tone])
    return shown


def _parts(report: Report) -> Iterator[RenderableType]:
    style = STYLES[report.tone]
    banner = Text.assemble((report.headline, f"bold {style}"))
    if report.message:
        banner.append(f"\n{report.message}")
    banner.append(f"\n{text.duration(report.seconds)}: {report.budget.words}", "dim")
    yield Panel(banner, title=Text(report.title), title_align="left", border_style=style)
    yield _timeline(report.timeline)
    for service in report.services:
        yield Text()
        yield from _service(service)
    if report.next:
        yield Text.assemble("\nNext: ", (report.next.replace("\n", "\n      "), "bold"))


def _timeline(timeline: Timeline) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for bar in timeline.bars:
        table.add_row(Text(bar.label), _cells(bar), Text(bar.note), Text(_remark(bar), "yellow"))
        for step in (step for step in bar.inner if step.width >= _WORTH_A_LINE or step.status in _BAD):
            row = (Text(f"  {step.label}", "dim"), _cells(step, "▪"), Text(text.duration(step.seconds), "dim"))
            table.add_row(*row, Text(_remark(step), "yellow"))
    return table


def _remark(bar: Bar) -> str:
    over = ["over its budget"] if bar.over else []
    return ", ".join([bar.status] * (bar.status not in {"ok", "changed", "already"}) + over)


def _cells(bar: Bar, glyph: str = "█") -> Text:
    start = min(_BAR_CELLS - 1, round(bar.left * _BAR_CELLS / 100))
    length = min(_BAR_CELLS - start, max(1, round(bar.width * _BAR_CELLS / 100)))
    bad = bar.status in _BAD
    style = "red" if bad else ("yellow" if bar.over else ("cyan" if glyph == "█" else "blue"))
    return Text(" " * start + glyph * length + " " * (_BAR_CELLS - start - length), style)


def _service(service: Service) -> Iterator[RenderableType]:
    yield Text.assemble((service.name, "bold"), ": ", (service.meaning, STYLES[service.tone]))
    for problem in service.problems:
        yield Padding(Text(problem, "red"), (0, 0, 0, 2))
    if service.components and not service.planned:
        table = Table(box=None, padding=(0, 1), show_header=False)
        for item in service.components:
            table.add_row(Text(item.name), Text(item.read_back or item.text))
        yield table
    elif service.components:
        table = Table(box=None, padding=(0, 1))
        for head in ("component", "was", "target", "read back"):
            table.add_column(head, header_style="dim", overflow="fold")
        for item in service.components:
            read = Text(item.reading, "" if item.read_back else "dim")
            table.add_row(Text(item.name), Text(item.live), Text(item.goal), read)
        yield table
    for check in service.checks:
        seen = Text(f" {check.name} ({check.view}, {text.duration(check.seconds)}): {check.text}")
        yield Padding(Text.assemble(_STATES[check.state], seen), (0, 0, 0, 1))
    yield from _data(service)
    if service.fence:
        yield Text(f" Fence {service.fence.words}.")
    if service.quarantined:
        yield Text(f" In quarantine: {service.quarantined}.")


def _data(service: Service) -> Iterator[RenderableType]:
    style = "bold yellow" if service.loss_since else ""
    if service.planned:
        yield Text(f" {service.loss_words}", style)
    for loss in service.loss:
        yield Text(f" {loss}", style)
    for kept in service.set_aside:
        yield Text.assemble(f" Kept: {kept.text} ", (kept.path, "dim"))
