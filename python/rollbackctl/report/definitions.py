# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report consists of. Nothing here knows how it is shown; parse.py makes one from a run record.

All texts are plain text without control characters, all times are seconds, all positions percentages.
"""

from __future__ import annotations

from dataclasses import dataclass

from rollbackctl._project import plan_text

from . import text


@dataclass(frozen=True)
class Bar:
    """One bar of the timeline; left and width are percentages of its axis, times are seconds."""

    name: str
    label: str
    start: float
    seconds: float
    left: float
    width: float
    status: str
    budget: float = 0.0
    service: str = ""
    text: str = ""
    inner: tuple[Bar, ...] = ()

    @property
    def over(self) -> bool:
        """True when the bar is longer than its own budget."""
        return 0 < self.budget < self.seconds

    @property
    def note(self) -> str:
        """The time taken in words, and the budget of the phase where it has one."""
        taken = text.duration(self.seconds)
        return f"{taken} of {text.duration(self.budget)}" if self.budget else taken


@dataclass(frozen=True)
class Timeline:
    """The run as bars on one axis of `seconds`; budget_left is where the budget ends, in percent, if it is in sight."""

    seconds: float
    bars: tuple[Bar, ...]
    budget_left: float | None
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Budget:
    """How the run stands against its time budget (seconds); used is in percent and never more than 100."""

    allowed: float
    taken: float
    over: bool
    strict: bool

    @property
    def used(self) -> float:
        """Share of the budget that was used, for a gauge."""
        return min(100.0, 100 * self.taken / self.allowed) if self.allowed else 0.0

    @property
    def words(self) -> str:
        """The same as a sentence."""
        if not self.allowed:
            return "no time budget was given"
        allowed = text.duration(self.allowed)
        if self.over:
            return f"{text.duration(self.taken - self.allowed)} over the budget of {allowed}"
        share = 100 * self.taken / self.allowed
        return (
            f"{share:.0f} % of the budget of {allowed}" if share >= 1 else f"less than 1 % of the budget of {allowed}"
        )


@dataclass(frozen=True)
class Component:
    """One component: what it was, what it should be, what was read back."""

    name: str
    role: str
    layer: str
    live: str
    target: str
    action: str
    read_back: str
    proven: bool
    seconds: float
    status: str
    text: str
    estimate: float
    worst: float
    notes: tuple[str, ...]
    loss: str

    @property
    def changes(self) -> bool:
        """True when live and target differ."""
        return self.live != self.target

    @property
    def goal(self) -> str:
        """Where the run took it: to the target, unless it was left as it is."""
        return plan_text.action_words("keep") if self.kept else self.target

    @property
    def reading(self) -> str:
        """What was read back, or that nothing was; empty for what was left as it is."""
        return self.read_back or ("" if self.kept else "not read")

    @property
    def kept(self) -> bool:
        """True when the run left it as it is: it has another target, or its plan has none for it."""
        return self.action == "keep" or not (self.action or self.read_back)


@dataclass(frozen=True)
class TableLoss:
    """Rows of one table that differ between live and target."""

    component: str
    table: str
    only_live: int
    only_target: int
    differ: int


@dataclass(frozen=True)
class Check:
    """One check; state is ok, failed or unverified."""

    name: str
    kind: str
    view: str
    state: str
    seconds: float
    text: str


@dataclass(frozen=True)
class Fence:
    """The time during which traffic or writes were kept away."""

    closed: str
    opened: str
    seconds: float
    by: str

    @property
    def words(self) -> str:
        """The same as a sentence."""
        if not self.opened:
            return f"closed since {text.moment(self.closed)}, and not opened by this run"
        by = "by the watchdog on the target" if self.by == "watchdog" else "by the run"
        times = f"{text.clock(self.closed)} to {text.clock(self.opened)} UTC"
        return f"closed for {text.duration(self.seconds)} ({times}), opened {by}"


@dataclass(frozen=True)
class SetAside:
    """Something that was displaced and is kept until finalize."""

    component: str
    path: str
    text: str


@dataclass(frozen=True)
class Service:
    """One service of the run.

    loss_words: the data-loss statement as one sentence; empty where nothing is known: there is no plan, or the run was
        refused before it came to know what would be lost.
    """

    name: str
    outcome: str
    tone: str
    meaning: str
    message: str
    next: str
    planned: bool
    checkpoint: str
    plan_hash: str
    estimate: float
    worst: float
    components: tuple[Component, ...]
    loss_since: str
    loss_words: str
    loss: tuple[str, ...]
    loss_tables: tuple[TableLoss, ...]
    checks: tuple[Check, ...]
    fence: Fence | None
    set_aside: tuple[SetAside, ...]
    quarantined: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def noted(self) -> tuple[str, ...]:
        """What the plan noted of each component, and of the service as a whole."""
        return (*(f"{item.name}: {note}" for item in self.components for note in item.notes), *self.notes)

    def seen_from(self, view: str) -> tuple[Check, ...]:
        """Return the checks made from `inside` the service or from `outside`, the way users come."""
        return tuple(check for check in self.checks if check.view == view)


@dataclass(frozen=True)
class Report:
    """Everything the report of one run says."""

    run: str
    attempt: int
    title: str
    outcome: str
    tone: str
    headline: str
    message: str
    next: str
    reason: str
    operator: str
    controller: str
    version: str
    check_mode: bool
    exit_code: int
    started: str
    ended: str
    when: str
    seconds: float
    component_seconds: float
    overhead_seconds: float
    budget: Budget
    timeline: Timeline
    services: tuple[Service, ...]
