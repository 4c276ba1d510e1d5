# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan as it is shown to people: the same lines from `rollbackctl plan`, from plain ansible-playbook and in AWX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

from . import outcome
from .spoken import duration, line, moment, steps

WIDTH = 80
_NAME_WIDTH = 24
_REFUSED = "Refused, nothing was changed: "
# What somebody copies stays on one line.
_COMMAND = re.compile(r"-e '[^']*'|-e \S+|--[a-z-]+ \S+|rollbackctl(?: [\w.-]+)+")
_HARD_SPACE = "\xa0"
_ACTIONS = {
    "change": "change",
    "none": "already there",
    "follow": "restart",
    "keep": "kept as it is",
    "remove": "removed for good",
}
# What changes nothing has no second version to show.
_STAYS = ("none", "keep")


class Line(NamedTuple):
    """One line. tone: how it may be coloured; one of title, head, bad, warn, dim, or empty."""

    tone: str
    text: str


def action_words(action: object) -> str:
    """Return what is done to a component, in words: "change", "brought along by shop-db"."""
    word = line(action)
    return f"brought along by {word[3:]}" if word.startswith("by:") else _ACTIONS.get(word, word)


def plan_lines(
    service: str,
    found: Mapping[str, Any],
    kind: str,
    width: int = WIDTH,
    in_words: Callable[[str], str] = str,
) -> list[Line]:
    """Return the plan of one service: each component's action, from what to what, the loss, the time it takes.

    :param service: its name.
    :param found: the service's part of a run record.
    :param kind: the run's kind, as its record says it.
    :param width: columns of the terminal; nothing that can be broken is wider.
    :param in_words: puts a message into the words of who reads it: the command line has flags.
    """
    plan = found.get("plan") or {}
    problems = [in_words(line(problem)) for problem in found.get("problems") or () if problem]
    entries = list(plan.get("entries") or ())
    lines = [Line("title", _heading(service, plan, kind))]
    for problem in problems:
        lines += _wrapped("bad", problem, "  - ", width)
    if entries:
        lines += _table(entries, width, in_words)
    said = {f"{entry['name']}: {note}" for entry in entries for note in entry["finding"]["notes"]}
    for note in plan.get("notes") or ():
        if note not in said:
            lines += _wrapped("warn", in_words(line(note)), "  ", width)
    if plan:
        lines += _after(plan, kind, width, refused=bool(problems))
    return lines


def _heading(service: str, plan: Mapping[str, Any], kind: str) -> str:
    words = line(service)
    if plan and kind == "finalize":
        words += f": what run {line(plan.get('undoes'))} kept"
    elif plan.get("undoes"):
        words += f": back to before run {line(plan['undoes'])}"
    elif plan.get("checkpoint"):
        words += f": to checkpoint {line(plan['checkpoint'])}"
    return f"{words}, plan {line(plan['hash'])[:12]}" if plan.get("hash") else words


def _table(entries: list[Mapping[str, Any]], width: int, in_words: Callable[[str], str]) -> Iterator[Line]:
    column = min(_NAME_WIDTH, max([len("component"), *(len(line(entry["name"])) for entry in entries)]))
    yield Line("dim", f"  {'component':<{column}}  action")
    for entry in entries:
        stays = entry["action"] in _STAYS
        finding = entry["finding"]
        words = f"{action_words(entry['action'])} ({line(entry['layer'])})"
        if entry["action"] in ("change", "follow"):
            takes = duration(float(finding["seconds"]))
            words += f", about {takes}, at most {duration(float(finding['worst_seconds']))}"
        name = f"  {line(entry['name']):<{column}}  "
        yield from _wrapped("dim" if stays else "head", words, name, width, indent=column + 4)
        indent = " " * (column + 4)
        live, target = line(entry["live"]["text"]), line(entry["target"]["text"])
        yield from _wrapped("dim" if stays else "", live, f"{indent}{'is     ' if stays else 'from   '}", width)
        if not stays:
            yield from _wrapped("", target, f"{indent}to     ", width)
        for note in finding["notes"]:
            yield from _wrapped("dim", in_words(line(note)), f"{indent}note   ", width)


def _after(plan: Mapping[str, Any], kind: str, width: int, *, refused: bool) -> Iterator[Line]:
    losses = [line((entry["finding"].get("loss") or {}).get("text")) for entry in plan.get("entries") or ()]
    tone = "warn" if plan.get("data_loss_since") or kind == "finalize" else ""
    words = loss_words(plan, kind, refused=refused)
    if words:
        yield from _wrapped(tone, words, "  ", width)
    for text in losses:
        if text:
            yield from _wrapped("warn", text, "  - ", width)
    if any(entry["action"] in ("change", "follow") for entry in plan.get("entries") or ()):
        fence = "; nobody can write meanwhile (fence)" if plan.get("fence") else ""
        takes, worst = (duration(float(plan.get(key) or 0)) for key in ("seconds", "worst_seconds"))
        yield from _wrapped("", f"Takes about {takes}, at most {worst}{fence}.", "  ", width)


def ending_lines(document: Mapping[str, Any], path: str, width: int = WIDTH) -> list[Line]:
    """Return how a run ended: the outcome, the run, what is known of it where, and what to type next.

    :param document: the run record.
    :param path: where that is; empty where none is kept.
    :param width: as in plan_lines.
    """
    word, run = line(document["outcome"]), line(document["run"])
    succeeded = word in (outcome.DONE, outcome.ALREADY)
    words = _meaning(document, word)
    level = f" level {document['level']}" if document.get("level") else ""
    took = f"{duration(document['seconds'])}" + (", over its budget" if document.get("over_budget") else "")
    lines = [*_wrapped("title", f"{words[0].upper()}{words[1:]}", "", width)]
    lines += [Line("", f"  run      {run} ({line(document['kind'])}{level}, {took})")]
    services = document["services"]
    for name, found in services.items():
        meaning = _meaning(document, found["outcome"])
        if len(services) > 1:
            lines += _wrapped("head", meaning, f"  {line(name)}: ", width)
        if succeeded and found.get("message") not in (None, "", meaning):
            lines += _wrapped("warn", line(found["message"]), "  but      ", width)
        if found.get("checkpoint"):
            lines += _wrapped("", line(found["checkpoint"]), "  checkpoint  ", width)
    if not succeeded:
        lines += _wrapped("bad", line(document["message"]).replace(_REFUSED, "", 1), "  because  ", width)
    if path:
        lines += [Line("", f"  record   {path}"), Line("", f"  report   rollbackctl report {run}")]
    following = [steps(document.get("next"))]
    if word == outcome.DONE and document["kind"] in ("rollback", "panic") and not document.get("check_mode"):
        following += [[f"rollbackctl undo {run} --reason 'it was the wrong thing'"]]
        following += [["some days later, which removes what was kept:", f"rollbackctl finalize {run}"]]
    # A command stays on one line, alone, to be copied.
    for said in following:
        lines += [Line("head", f"  {'' if number else 'next':<7}  {text}") for number, text in enumerate(said)]
    return lines


def _meaning(document: Mapping[str, Any], word: str) -> str:
    if document.get("check_mode") and word in (outcome.DONE, outcome.ALREADY):
        return outcome.CHECKED
    return outcome.MEANINGS.get(word, word)


def loss_words(plan: Mapping[str, Any], kind: str, *, refused: bool) -> str:
    """Return what would be lost as one sentence; a refused plan says nothing of what it did not come to know."""
    if kind == "finalize":
        return f"After this, run {line(plan.get('undoes'))} cannot be taken back."
    if plan.get("data_loss_since"):
        return f"What was written after {moment(line(plan['data_loss_since']))} is not in the target."
    return "" if refused else "Nothing that was written is lost."


def _wrapped(tone: str, text: str, first: str, width: int, indent: int = 0) -> Iterator[Line]:
    """Break a text into lines; a command in it stays whole."""
    rest = " " * (indent or len(first))
    broken = textwrap.wrap(
        _COMMAND.sub(lambda found: found[0].replace(" ", _HARD_SPACE), text),
        max(width, len(rest) + 24),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for part in broken or [first.rstrip()]:
        yield Line(tone, part.replace(_HARD_SPACE, " "))
