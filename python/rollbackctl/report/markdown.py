# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as Markdown, for the incident ticket: every text of the record is escaped, and stays text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from . import text
from .definitions import Component, Report, Service

# Every ASCII punctuation character may be escaped (https://spec.commonmark.org/0.31.2/#backslash-escapes); these are
# the ones that can begin something. < and & become entities, so that also a viewer that passes HTML through shows text.
_SPECIAL = re.compile(r"([\\`*_\[\]#|~$])")
_STATES = {"ok": "holds", "failed": "**does not hold**", "unverified": "**could not be looked at**"}


def escape(plain: str) -> str:
    """Return a plain text as Markdown that shows exactly it, on one line."""
    joined = " ".join(plain.split())
    escaped = _SPECIAL.sub(r"\\\1", joined).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # At the beginning of a line these would begin a list.
    return re.sub(r"^(\d{0,9})([-+.)])(?= |$)", r"\1\\\2", escaped)


def code(plain: str) -> str:
    """Return a plain text as a code span; a longer run of backticks than any inside delimits it."""
    joined = " ".join(plain.split()).replace("|", "¦")  # a pipe would end the table cell, even in a code span
    if not joined:
        return ""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", joined)), default=0) + 1)
    pad = " " if joined.startswith("`") or joined.endswith("`") else ""
    return f"{fence}{pad}{joined}{pad}{fence}"


def render(report: Report) -> str:
    """Return the incident report."""
    parts = [
        f"# {escape(report.title)}",
        f"**{escape(report.headline)}.** {escape(report.message)}".rstrip(),
        _table(("", ""), _facts(report)),
    ]
    if report.next:
        parts += ["## Next", _fenced(report.next)]
    parts += ["## Timeline", _table(("At", "Phase", "Took", "Budget", ""), _timeline(report))]
    for service in report.services:
        parts += _service(service)
    parts.append(f"Written by rollbackctl {escape(report.version)} from the record of run {code(report.run)}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(report: Report) -> list[tuple[str, ...]]:
    attempt = f" (attempt {report.attempt})" if report.attempt > 1 else ""
    facts = [
        ("Why", escape(report.reason)),
        ("Who", f"{escape(report.operator)} on {escape(report.controller)}"),
        ("When", escape(report.when)),
        ("Took", f"{text.duration(report.seconds)}; {escape(report.budget.words)}"),
        ("Run", f"{code(report.run)}{attempt}"),
        ("Outcome", f"{escape(report.outcome)} (exit code {report.exit_code})"),
    ]
    return [(f"**{name}**", value) for name, value in facts]


def _timeline(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for bar in report.timeline.bars:
        budget = text.duration(bar.budget) if bar.budget else ""
        remark = "**over budget**" if bar.over else ""
        if bar.status != "ok":
            remark = f"{escape(bar.status)} {remark}".strip()
        rows.append((f"+{bar.start:.1f} s", f"**{escape(bar.label)}**", text.duration(bar.seconds), budget, remark))
        rows += [
            (f"+{step.start:.1f} s", f"↳ {escape(step.label)}", text.duration(step.seconds), "", escape(step.text))
            for step in bar.inner
        ]
    return rows


def _service(service: Service) -> Iterable[str]:
    yield f"## {escape(service.name)}: {escape(service.meaning)}"
    yield escape(service.message)
    if service.problems:
        yield "### What went wrong"
        yield _list(escape(problem) for problem in service.problems)
    if service.components and not service.planned:
        yield "### Components"
        yield _list(f"{escape(item.name)}: {escape(item.read_back or item.text)}" for item in service.components)
    elif service.components:
        yield "### What was read back"
        yield f"Targets of checkpoint {code(service.checkpoint)}:" if service.checkpoint else ""
        yield _table(("Component", "Layer", "Was", "Target", "Read back"), map(_component, service.components))
    if service.loss_words:
        yield "### Data"
        yield escape(service.loss_words)
    yield _list(escape(loss) for loss in service.loss)
    rows = [
        (escape(loss.component), escape(loss.table), f"{loss.only_live:,}", f"{loss.only_target:,}", f"{loss.differ:,}")
        for loss in service.loss_tables
    ]
    yield _table(("Component", "Table", "Rows only in live", "Rows only in the target", "Rows that differ"), rows)
    if service.set_aside:
        yield "Kept until finalize:"
        yield _list(f"{escape(kept.text)} {code(kept.path)}" for kept in service.set_aside)
    if service.fence:
        yield f"Fence: {escape(service.fence.words)}."
    if service.checks:
        yield "### Checks"
        rows = [
            (escape(check.name), check.view, _STATES[check.state], text.duration(check.seconds), escape(check.text))
            for check in service.checks
        ]
        yield _table(("Check", "Seen from", "", "Took", "What was seen"), rows)
    if service.noted:
        yield "### Noted by the plan"
        yield _list(map(escape, service.noted))
    if service.quarantined:
        yield f"In quarantine, so that it does not come back: {escape(service.quarantined)}."


def _component(component: Component) -> tuple[str, ...]:
    goal = escape(component.goal) if component.kept else code(component.goal)
    read = code(component.read_back) or component.reading
    return escape(component.name), escape(component.layer), code(component.live), goal, read


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines]) if lines else ""


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _fenced(command: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in [*re.findall(r"`+", command), ""]))
    return f"{fence}text\n{command}\n{fence}"
