# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds after a kill, whatever was killed: the invariants, the fence's rule, and that going on converges."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.durable import read_document
from ansible.module_utils.rollbackctl.fence import FAILPOINTS
from ansible.module_utils.rollbackctl.journal import fence_is_closed
from ansible.module_utils.rollbackctl.registry import DRIVERS
from ansible.module_utils.rollbackctl.status import describe
from ansible.module_utils.rollbackctl.store import DirectoryStore

from lab.sample.build import git
from tests.faults import outside
from tests.faults.harness import Died, Run
from tests.faults.shop import PATIENCE_SECONDS, SCENARIOS, Bench, Scenario, wait_for

ALL_FAILPOINTS = (
    *FAILPOINTS,
    *(name for driver in DRIVERS.values() if driver.store_kind == "directory" for name in driver.failpoints),
)
# Which scenario passes a failpoint: the longest beginning counts. One that is not passed where it should be fails.
WHERE = {
    "fence.": "data",
    "restart_service.": "online",
    "restart_service.close.": "data",
    "restart_service.open.": "data",
    "restore_env.": "data",
    "restore_files.": "data",
    "restore_files.remove.": "finalize",
    "restore_sqlite.": "data",
    "restore_sqlite.online.": "online",
    "restore_sqlite.truncate.": "online",
    "restore_sqlite.wal.after": "damaged",
    "restore_sqlite.wal.middle": "damaged",
    "rollback_alembic.": "downgrade",
    "rollback_alembic.health.": "staged",
    "rollback_git.": "restore",
}
# What a watchdog says of a component that looks old or new from outside and is neither.
UNFINISHED = ("not deployed yet", "between (damaged database")


def scenario_of(failpoint: str) -> Scenario:
    """Return the scenario in which a failpoint is passed."""
    beginnings = [one for one in WHERE if failpoint.startswith(one)]
    assert beginnings, f"no scenario for {failpoint}: add one to WHERE"
    name = WHERE[max(beginnings, key=len)]
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


class Case:
    """One broken shop, and what is true of it."""

    def __init__(self, bench: Bench, scenario: Scenario) -> None:
        bench.place(scenario)
        self.bench, self.shop, self.scenario = bench, bench.shop, scenario
        self.profile = bench.profile(scenario)
        self.old, self.new = bench.sides[scenario.name]
        self.store = DirectoryStore(str(self.shop.state))
        # Runs whose watchdog has decided that the fence stays closed: nobody decides again until it is closed anew.
        self.kept_closed: set[str] = set()

    def run(self, **how: Any) -> Run:
        """Return a run of this shop; see harness.Run."""
        run = Run(self.profile, **how)
        named = str(how.get("named") or "")
        if named:
            run.just_before("preflight", lambda: self._forget_report(named))
            run.just_before("fence", lambda: self.kept_closed.discard(named))
        return run

    def report_of(self, run: str) -> Path:
        """Return where a run's watchdog says what it did."""
        return self.store.run_directory(run) / "watchdog.json"

    def _forget_report(self, run: str) -> None:
        """Take away what an earlier watchdog said. Called after the guard: from then on, until the lease ends, no
        watchdog acts, so what is there later is about the death that comes."""
        if (said := read_document(self.report_of(run))) is not None:
            self._note_decision(run, said)
            self.report_of(run).unlink()

    def _note_decision(self, run: str, said: Mapping[str, Any]) -> None:
        if not said["opened"]:
            self.kept_closed.add(run)

    def parts(self) -> dict[str, str]:
        """Return what was read from outside, after checking what must hold at every instant."""
        now = outside.read(self.shop)
        wrong = outside.broken(now, self.old, self.new)
        assert not wrong, wrong
        git(self.shop.origin, "fsck", "--no-dangling", "--no-progress")
        git(self.shop.app, "fsck", "--no-dangling", "--no-progress")
        return outside.judge(now, self.old, self.new)

    def word(self) -> str:
        return outside.word(self.parts())

    def lose_controller(self, run: str) -> None:
        """Let the lease of a run end: as if its time had passed without a renewal."""
        lease = self.store.lease()
        if lease is None:
            return  # given back: the run has ended
        assert lease.run == run
        long_ago = (self.store.path / "lease.json").stat().st_mtime - 2 * lease.seconds
        os.utime(self.store.path / "lease.json", (long_ago, long_ago))

    def lose_controller_if_any(self) -> None:
        """As lose_controller, for a run that was killed before it had a plan (or even a lease)."""
        lease = self.store.lease()
        if lease is not None:
            self.lose_controller(lease.run)

    def rule_eleven(self, died: Died, *, armed: bool = True) -> str:
        """Wait for the watchdog and check what it did; return that in one word.

        armed: a fence that is closed has its watchdog for sure (a random kill may hit before it is there).
        """
        said = {run["run"]: run for run in describe(self.profile["state"])["runs"]}[died.run]
        if self.store.read_plan(died.run) is not None and said["outcome"] == "interrupted":
            assert said["next"] == f"rollbackctl resume {died.run}"
        events = self.store.journal(died.run).events()
        if not fence_is_closed(events):
            return "never closed"
        word = self.word()
        report = self.report_of(died.run)
        self.lose_controller(died.run)
        if not armed and outside.running(self.shop):
            return "still open"
        if not armed and word == outside.NEITHER:
            return "kept closed"  # maybe decided before: nothing was changed since, so nobody decides again
        if not armed and died.run in self.kept_closed:
            return "kept closed"  # decided before, and this controller died before it had a watchdog of its own
        wait_for(report.exists, "the watchdog")
        with self.store.locked(PATIENCE_SECONDS):  # it ends after its report
            pass
        said = read_document(report) or {}
        # A deployment is unfinished until it is over, and a damaged database is without the log that lay beside it: not
        # for a watchdog.
        unfinished = any(words in said["text"] for words in UNFINISHED)
        assert said["opened"] == (word in {outside.OLD, outside.NEW} and not unfinished), (word, said)
        assert bool(outside.running(self.shop)) == said["opened"], (word, said)
        report.unlink()
        self._note_decision(died.run, said)
        if not said["opened"]:
            assert f"resume {died.run}" in said["message"]
            return "kept closed"
        assert not fence_is_closed(self.store.journal(died.run).events())
        self.runs_as(word)
        return f"opened, {word}"

    def runs_as(self, word: str) -> None:
        """Check that the service runs with the code and settings of one side."""
        side = self.new if word == outside.NEW else self.old
        started = outside.running(self.shop)
        assert started, "the service does not run"
        assert started["settings"] == side.settings
        assert outside.hashed_file(self.shop.app / "VERSION", 0o111) == side.files["VERSION"]
        assert started["version"] == (self.shop.app / "VERSION").read_text(encoding="ascii")

    def go_on(self, run: str, **how: Any) -> str:
        """Resume as a second controller; return the outcome after checking that it says the truth."""
        ending = self.resume(run, **how)
        assert ending["outcome"] in {"done", "already", "restored"}, ending
        word = self.word()
        assert word == (outside.OLD if ending["outcome"] == "restored" else outside.NEW), ending
        self.runs_as(word)
        self.nothing_lost()
        return str(ending["outcome"])

    def resume(self, run: str, **how: Any) -> dict[str, Any]:
        """Resume as a second controller and return the ending."""
        ending: dict[str, Any] = wait_for(lambda: self._unless_busy(run, **how), "whoever still works on the service")
        return ending

    def _unless_busy(self, run: str, **how: Any) -> dict[str, Any]:
        """Resume; nothing when a survivor (a watchdog, mostly) holds the service: who is told so tries again."""
        ending = self.run(named=run, controller="second", **how).go()
        busy = ending["outcome"] == "refused" and "still changing this service" in ending["message"]
        return {} if busy else ending

    def nothing_lost(self) -> None:
        """Check that what was there before can still be had: commits, and every write that was acknowledged."""
        trees = git(self.shop.origin, "log", "--format=%T", "refs/heads/main").split()
        assert self.old.branch in trees
        lost = outside.lost_writes(self.shop)
        assert not lost, f"{len(lost)} acknowledged writes are gone"

    def take_back(self, run: str) -> None:
        """Undo the run: what was kept brings back exactly what was there."""
        ending = self.run(kind="undo", named=run, controller="third").go()
        assert ending["outcome"] == "done", ending
        assert self.word() == outside.OLD
        self.runs_as(outside.OLD)
        self.nothing_lost()
