# SPDX-License-Identifier: GPL-3.0-or-later
"""From a run record to a report: every decision about what is said is made here.

A record may be written by another version or be cut short by a kill: whatever is missing or of another type is left
empty, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rollbackctl._project import outcome as words
from rollbackctl._project import plan_text

from . import text
from .definitions import Bar, Budget, Check, Component, Fence, Report, Service, SetAside, TableLoss, Timeline

# A budget much longer than the run would squeeze the bars into nothing; then the gauge alone shows it.
_BUDGET_IN_TIMELINE = 1.6

_TONES = {
    words.DONE: "good",
    words.ALREADY: "good",
    words.REFUSED: "calm",
    words.RESTORED: "warn",
    words.RESUMABLE: "warn",
    words.UNKNOWN: "bad",
    words.INTERRUPTED: "bad",
}
_HELD = {"ok", "changed", "already"}
_LEVELS = {1: "application", 2: "application and configuration", 3: "application, configuration and data"}


def parse(record: Mapping[str, Any]) -> Report:
    """Return the report of a run record; a damaged record gives a report with gaps, never an exception."""
    outcome = _word(record.get("outcome"))
    found = _map(record.get("services"))
    message = _message(record, outcome)
    services = tuple(
        _without_repeats(_service(str(name), _map(service), outcome, text.line(record.get("kind"))), message)
        for name, service in found.items()
    )
    budget = Budget(
        allowed=text.number(record.get("budget_seconds")),
        taken=_taken(record),
        over=record.get("over_budget") is True,
        strict=record.get("strict_budget") is True,
    )
    tone = "warn" if budget.over and _TONES[outcome] == "good" else _TONES[outcome]
    check_mode = record.get("check_mode") is True
    started, ended = text.line(record.get("started")), text.line(record.get("ended"))
    return Report(
        run=text.line(record.get("run")),
        attempt=int(text.number(record.get("attempt"))) or 1,
        title=_title(record, [service.name for service in services]),
        outcome=outcome,
        tone=tone,
        headline=_headline(outcome, check_mode=check_mode, over=budget.over),
        message=message,
        next=_next(record, outcome),
        reason=text.line(record.get("reason")),
        operator=text.line(record.get("operator")),
        controller=text.line(record.get("controller")),
        version=text.line(record.get("version")),
        check_mode=check_mode,
        exit_code=int(text.number(record.get("exit_code", words.EXIT_CODES[outcome]))),
        started=started,
        ended=ended,
        when=_when(started, ended),
        seconds=budget.taken,
        component_seconds=text.number(record.get("component_seconds")),
        overhead_seconds=text.number(record.get("overhead_seconds")),
        budget=budget,
        timeline=_timeline(record, budget),
        services=services,
    )


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _word(value: object) -> str:
    word = text.line(value)
    return word if word in words.MEANINGS else words.UNKNOWN


def _title(record: Mapping[str, Any], services: Iterable[str]) -> str:
    kind = text.line(record.get("kind")) or "run"
    level = int(text.number(record.get("level")))
    what = f"{kind.capitalize()} level {level}" if level else kind.capitalize()
    if level in _LEVELS:
        what += f" ({_LEVELS[level]})"
    named = ", ".join(text.line(name) for name in services)
    return f"{what}: {named}" if named else what


def _message(found: Mapping[str, Any], outcome: str) -> str:
    """Return the message, unless it says nothing that the headline does not."""
    message = text.block(found.get("message"))
    if message.strip(" .").lower() in {words.MEANINGS[outcome].lower(), words.CHECKED}:
        return ""
    return message.removeprefix("Refused, nothing was changed: ")


def _next(record: Mapping[str, Any], outcome: str) -> str:
    """Return what to type next; a run that was cut off had no time to say it."""
    said = "\n".join(text.steps(record.get("next")))
    run = text.line(record.get("run"))
    return f"rollbackctl resume {run}" if not said and run and outcome == words.INTERRUPTED else said


def _taken(record: Mapping[str, Any]) -> float:
    """Return how long the run took; one that was cut off took until the last thing it noted."""
    phases = _maps(record.get("phases"))
    ends = [text.number(item.get("offset")) + text.number(item.get("seconds")) for item in phases]
    return text.number(record.get("seconds")) or max(ends, default=0.0)


def _headline(outcome: str, *, check_mode: bool, over: bool) -> str:
    if check_mode and outcome in {words.DONE, words.ALREADY}:
        return "Checked: this would work; nothing was changed"
    meaning = words.MEANINGS[outcome]
    sentence = meaning[0].upper() + meaning[1:]
    return f"{sentence}, but over its time budget" if over and outcome in {words.DONE, words.ALREADY} else sentence


def _when(started: str, ended: str) -> str:
    if not started:
        return ""
    if not ended:
        return f"{text.moment(started)}; no end was recorded"
    same_day = started[:10] == ended[:10]
    until = f"{text.clock(ended)} UTC" if same_day else text.moment(ended)
    since = text.moment(started).removesuffix(" UTC") if same_day else text.moment(started)
    return f"{since} to {until}"


def _timeline(record: Mapping[str, Any], budget: Budget) -> Timeline:
    phases = _maps(record.get("phases"))
    steps = [
        (text.line(name), step)
        for name, service in _map(record.get("services")).items()
        for step in _maps(_map(service).get("steps"))
    ]
    ends = [text.number(item.get("offset")) + text.number(item.get("seconds")) for item in phases]
    axis = max([budget.taken, *ends]) or 1.0
    near = 0 < budget.allowed <= axis * _BUDGET_IN_TIMELINE
    if near:
        axis = max(axis, budget.allowed * 1.04)
    many = len({name for name, _ in steps}) > 1
    bars = []
    for phase in phases:
        name = text.line(phase.get("name"))
        mine = [(service, step) for service, step in steps if _belongs(step, phase, phases)]
        inner = [_step_bar(service, step, axis, many=many) for service, step in mine]
        bars.append(replace(_bar(phase, name, name, axis), inner=tuple(inner)))
    return Timeline(axis, tuple(bars), 100 * budget.allowed / axis if near else None, _ticks(axis))


def _belongs(step: Mapping[str, Any], phase: Mapping[str, Any], phases: Iterable[Mapping[str, Any]]) -> bool:
    """Say whether a step is part of this phase. A phase may come twice: then it is the last one that had begun."""
    named = [each for each in phases if each.get("name") == step.get("phase")]
    ends = text.number(step.get("offset")) + text.number(step.get("seconds"))
    begun = [each for each in named if text.number(each.get("offset")) <= ends]
    return bool(named) and phase is (begun[-1] if begun else named[0])


def _ticks(axis: float) -> tuple[tuple[float, str], ...]:
    """Return round marks for an axis of so many seconds, at most seven, as percentage and label."""
    steps = (scale * unit for unit in (0.01, 0.1, 1, 10, 60, 600, 3600, 36000) for scale in (1, 2, 3, 5))
    step = next((step for step in steps if axis / step <= 6), axis)
    return tuple((100 * step * mark / axis, text.duration(step * mark)) for mark in range(int(axis / step) + 1))


def _bar(item: Mapping[str, Any], name: str, label: str, axis: float) -> Bar:
    start, seconds = text.number(item.get("offset")), text.number(item.get("seconds"))
    left = min(100.0, 100 * start / axis)
    return Bar(
        name=name,
        label=label,
        start=start,
        seconds=seconds,
        left=round(left, 3),
        width=round(min(100.0 - left, 100 * seconds / axis), 3),
        status=text.line(item.get("status")) or "ok",
        budget=text.number(item.get("budget_seconds")),
        text=text.line(item.get("text")),
    )


def _step_bar(service: str, step: Mapping[str, Any], axis: float, *, many: bool) -> Bar:
    component = text.line(step.get("component"))
    label = f"{service} · {component}" if many else component
    return replace(_bar(step, component, label, axis), service=service)


def _service(name: str, found: Mapping[str, Any], of_run: str, kind: str) -> Service:
    # It stays empty until the service's part of the run has ended: then it ended with the run.
    unended = found.get("outcome") == "" and of_run == words.INTERRUPTED
    outcome = of_run if unended else _word(found.get("outcome"))
    plan = _map(found.get("plan"))
    entries, steps = _maps(plan.get("entries")), _maps(found.get("steps"))
    planned = {text.line(entry.get("name")): entry for entry in entries}
    touched = [text.line(step.get("component")) for step in steps]
    every = [*planned, *dict.fromkeys(name for name in touched if name not in planned)]
    losses = [(name, _map(_map(entry.get("finding")).get("loss"))) for name, entry in planned.items()]
    return Service(
        name=text.line(name),
        outcome=outcome,
        tone=_TONES[outcome],
        meaning=words.MEANINGS[outcome],
        message=_message(found, outcome),
        next="\n".join(text.steps(found.get("next"))),
        planned=bool(plan),
        checkpoint=text.line(plan.get("checkpoint")),
        plan_hash=text.line(plan.get("hash")),
        estimate=text.number(plan.get("seconds")),
        worst=text.number(plan.get("worst_seconds")),
        components=tuple(_component(name, planned.get(name, {}), steps, of_service=outcome) for name in every),
        loss_since=text.line(plan.get("data_loss_since")),
        loss_words=plan_text.loss_words(plan, kind, refused=outcome == words.REFUSED) if plan else "",
        loss=tuple(text.line(loss.get("text")) for _, loss in losses if loss.get("text")),
        loss_tables=tuple(_table_loss(name, table) for name, loss in losses for table in _tables(loss)),
        checks=tuple(_check(check) for check in _maps(found.get("checks"))),
        fence=_fence(found.get("fence")),
        set_aside=tuple(
            SetAside(text.line(kept.get("component")), text.line(kept.get("path")), text.line(kept.get("text")))
            for kept in _maps(found.get("set_aside"))
        ),
        quarantined=text.line(found.get("quarantined")),
        notes=_own_notes(plan, entries),
        problems=tuple(text.block(item) for item in found.get("problems") or () if item),
    )


def _own_notes(plan: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what a plan notes beside what it notes of single components."""
    shown = {
        f"{entry.get('name')}: {note}" for entry in entries for note in _map(entry.get("finding")).get("notes") or ()
    }
    return tuple(text.line(note) for note in plan.get("notes") or () if note and note not in shown)


def _without_repeats(service: Service, said: str) -> Service:
    """Leave out of a service what the message of the run says already."""
    problems = tuple(problem for problem in service.problems if problem.lower() not in said.lower())
    return replace(service, message="" if service.message == said else service.message, problems=problems)


def _component(
    name: str, entry: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], *, of_service: str
) -> Component:
    mine = [step for step in steps if text.line(step.get("component")) == name]
    readings = [step for step in mine if step.get("read_back")]
    # That something was read back is no proof: it may read as something else.
    held = bool(readings) and readings[-1].get("status") in _HELD and of_service in {words.DONE, words.ALREADY}
    finding = _map(entry.get("finding"))
    return Component(
        name=name,
        role=text.line(entry.get("role") or (mine[-1].get("role") if mine else "")),
        layer=text.line(entry.get("layer")),
        live=text.line(_map(entry.get("live")).get("text")),
        target=text.line(_map(entry.get("target")).get("text")),
        action=text.line(entry.get("action")),
        read_back=text.line(readings[-1].get("read_back")) if readings else "",
        proven=held,
        seconds=sum(text.number(step.get("seconds")) for step in mine),
        status=text.line(mine[-1].get("status")) if mine else "",
        text=text.line(mine[-1].get("text")) if mine else "",
        estimate=text.number(finding.get("seconds")),
        worst=text.number(finding.get("worst_seconds")),
        notes=tuple(text.line(note) for note in finding.get("notes") or () if note),
        loss=text.line(_map(finding.get("loss")).get("text")),
    )


def _tables(loss: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(text.line(table), _map(rows)) for table, rows in _map(loss.get("tables")).items()]


def _table_loss(component: str, table: tuple[str, Mapping[str, Any]]) -> TableLoss:
    name, rows = table
    amounts = [int(text.number(rows.get(key))) for key in ("only_live", "only_target", "differ")]
    return TableLoss(component, name, *amounts)


def _check(found: Mapping[str, Any]) -> Check:
    held = "ok" if found.get("ok") is True else "failed"
    return Check(
        name=text.line(found.get("name")),
        kind=text.line(found.get("kind")),
        view="outside" if found.get("view") == "outside" else "inside",
        state="unverified" if found.get("unverified") is True else held,
        seconds=text.number(found.get("seconds")),
        text=text.line(found.get("text")),
    )


def _fence(value: object) -> Fence | None:
    found = _map(value)
    if not found.get("closed"):
        return None
    closed, opened, by = (text.line(found.get(key)) for key in ("closed", "opened", "by"))
    return Fence(closed, opened, text.number(found.get("seconds")), by)
