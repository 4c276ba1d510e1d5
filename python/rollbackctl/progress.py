# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees while a run goes on: the phase, the step, the time against the budget. On stderr, always."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column
from rich.text import Text

from . import records
from .report import text
from .runner import Event

LOOKING = frozenset({"guard", "preflight", "plan", "verify", "status"})


class Listener(Protocol):
    """Takes the events of a run."""

    def __call__(self, event: Event) -> None:
        """Take in one event of ansible-runner."""


def phase_of(event: Event) -> tuple[str, str] | None:
    """Return phase and sentence of a task that begins (its name is `Phase | Sentence`); None for any other event."""
    if event.get("event") != "playbook_on_task_start":
        return None
    phase, bar, sentence = text.line((event.get("event_data") or {}).get("task")).partition(" | ")
    return (phase.lower(), sentence) if bar else None


@contextmanager
def shown(console: Console, *, only_looking: bool = False) -> Iterator[Listener]:
    """Give a listener that shows a run's progress: a live line in a terminal, one line per step elsewhere.

    Ansible also begins tasks that it then skips; where a run only looks, the phases that change are not shown.
    """

    def unless_skipped(listener: Listener) -> Listener:
        def listen(event: Event) -> None:
            step = phase_of(event)
            if step is None or not only_looking or step[0] in LOOKING:
                listener(event)

        return listen

    if not console.is_terminal:
        yield unless_skipped(_Lines(console))
        return
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.fields[phase]}", table_column=Column(min_width=10)),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[clock]}"),
        TextColumn("{task.fields[sentence]}", style="dim", table_column=Column(overflow="ellipsis", no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield unless_skipped(_Live(progress))


class _Lines:
    """One plain line per step, for logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()
        self.last = ("", "")

    def __call__(self, event: Event) -> None:
        step = phase_of(event)
        if step is not None and step != self.last:
            self.last = step
            line = f"{time.monotonic() - self.began:7.1f} s  {step[0]:<10} {step[1]}"
            self.console.print(Text(line), soft_wrap=True)


class _Live:
    """A line that is rewritten: phase, time against the budget of the run, what is being done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.began = time.monotonic()
        self.budget = 0.0
        self.pid = 0
        self.task = progress.add_task("", total=None, phase="start", clock="", sentence="")

    def __call__(self, event: Event) -> None:
        if event.get("event") == "playbook_on_start":
            self.pid = int(event.get("pid") or 0)
        if not self.budget and event.get("event") == "runner_on_ok":
            self._learn_budget()
        taken = time.monotonic() - self.began
        clock = text.duration(round(taken, 1)) + (f" of {text.duration(self.budget)}" if self.budget else "")
        self.progress.update(self.task, completed=taken, total=self.budget or None, clock=clock)
        step = phase_of(event)
        if step is not None:
            self.progress.update(self.task, phase=_plain(step[0]), sentence=_plain(step[1]))

    def _learn_budget(self) -> None:
        record = records.of_process(self.pid) if self.pid else None
        self.budget = text.number(record.get("budget_seconds")) if record else 0.0


def _plain(words: str) -> str:
    # TextColumn reads markup: a bracket in a task's name is to be a bracket.
    return words.replace("[", r"\[")
