# SPDX-License-Identifier: GPL-3.0-or-later
"""A module process is ended at every named place of every role, and its controller with it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.durable import read_document
from ansible.module_utils.rollbackctl.status import describe

from lab.sample.build import publish
from tests.faults import outside
from tests.faults.cases import ALL_FAILPOINTS, Case, scenario_of
from tests.faults.conftest import THOROUGH
from tests.faults.harness import Died, Killer, Run, passed
from tests.faults.shop import SCENARIOS, Bench, wait_for

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
# The short matrix kills at all places and terminates at half of them. Starting alembic takes a second, a dozen times a
# run: its places have their turn there, and all of them in tests/unit/module_utils/test_alembic_kills.py.
MATRIX = [
    (failpoint, action)
    for number, failpoint in enumerate(ALL_FAILPOINTS)
    for action in SIGNALS
    if THOROUGH or (number % 2 == 0 if "alembic" in failpoint else action == "kill" or number % 2)
    if THOROUGH or action == "kill" or "alembic" not in failpoint
]
EVERY = 1 if THOROUGH else 5
Table = list[tuple[str, ...]]


def expect_death(run: Run, action: str) -> Died:
    """Run until the failpoint ends it."""
    with pytest.raises(Died) as caught:
        run.go()
    assert caught.value.signal == SIGNALS[action]
    return caught.value


def run_to_be_killed(case: Case, failpoint: str, action: str, **how: bool) -> Run:
    """Return the run of the case's scenario in which the failpoint is passed."""
    scenario = case.scenario
    armed = f"{failpoint}:{action}"
    if scenario.last:
        before = case.run()
        assert before.go()["outcome"] == "done"
        return case.run(kind=scenario.last, named=str(before.run["id"]), failpoint=armed, **how)
    if scenario.prelude:
        died = expect_death(case.run(failpoint=f"{scenario.prelude}:kill"), "kill")
        return case.run(named=died.run, controller="another", failpoint=armed, **how)
    return case.run(failpoint=armed, **how)


@pytest.mark.parametrize(("failpoint", "action"), MATRIX)
def test_module_and_controller_are_gone_and_a_second_controller_goes_on(
    bench: Bench, table: Table, failpoint: str, action: str
) -> None:
    case = Case(bench, scenario_of(failpoint))
    run = run_to_be_killed(case, failpoint, action)
    died = expect_death(run, action)
    parts = case.parts()
    # After a SIGKILL the lease runs out first; after a SIGTERM the next controller is there before that.
    fence = case.rule_eleven(died) if action == "kill" else "not waited for"
    if case.scenario.last:
        case.lose_controller(died.run)  # it is a run of its own: the next one has to wait for its lease to end
        again = case.run(kind=case.scenario.last, named=str(run.asked["rollback_run"]), controller="second")
        assert again.go()["outcome"] == "done"
        assert case.word() == outside.NEW
        outcome = "done"
    else:
        outcome = case.go_on(died.run)
        assert outcome in {"done", "already"}
        if THOROUGH:
            case.take_back(died.run)
    read = ", ".join(f"{part} {word}" for part, word in parts.items())
    table.append((failpoint, action, died.phase, read, fence, outcome))


@pytest.mark.parametrize("failpoint", [name for name in ALL_FAILPOINTS if THOROUGH or "alembic" not in name][::EVERY])
def test_module_is_gone_and_its_controller_takes_back(bench: Bench, table: Table, failpoint: str) -> None:
    case = Case(bench, scenario_of(failpoint))
    if case.scenario.last:
        return  # taking back is for what changes the service
    run = run_to_be_killed(case, failpoint, "kill", survives=True)
    ending = run.go()
    assert run.died is not None
    assert run.died.signal == signal.SIGKILL
    assert ending["outcome"] in {"restored", "resumable", "refused"}, f"{ending}"
    touched = {"begin", "fence-closing"} & {event["event"] for event in case.store.journal(run.run["id"]).events()}
    assert bool(touched) is (ending["outcome"] != "refused"), f"{ending}"
    parts = case.parts()
    if ending["outcome"] in {"restored", "refused"}:
        assert outside.word(parts) == outside.OLD
        case.runs_as(outside.OLD)
        case.nothing_lost()
        outcome = str(ending["outcome"])
    else:
        assert ending["next"].startswith(f"rollbackctl resume {run.run['id']}")
        outcome = f"resumable, {case.go_on(str(run.run['id']))}"
    read = ", ".join(f"{part} {word}" for part, word in parts.items())
    table.append((failpoint, "kill", f"{run.died.phase}, rescue", read, "", outcome))


@pytest.mark.timeout(3600)
def test_taking_back_is_killed_everywhere(bench: Bench, table: Table, tmp_path: Path) -> None:
    scenario = next(one for one in SCENARIOS if one.breaks)
    ending = Case(bench, scenario).run(trace=tmp_path, break_after=scenario.breaks).go()
    assert ending["outcome"] == "restored", ending
    places = [name for phase, name in passed(tmp_path) if phase == "undo"]
    assert len(places) > 10, "what is taken back passes hardly any failpoint"
    for failpoint in places[::EVERY]:
        case = Case(bench, scenario)
        died = expect_death(case.run(failpoint=f"{failpoint}:kill", only="undo", break_after=scenario.breaks), "kill")
        parts = case.parts()
        fence = case.rule_eleven(died)
        outcome = go_on_taking_back(case, died.run, fence)
        read = ", ".join(f"{part} {word}" for part, word in parts.items())
        table.append((failpoint, "kill", "undo", read, fence, outcome))


def go_on_taking_back(case: Case, run: str, fence: str) -> str:
    """Resume a run that was being taken back. Where the watchdog had opened a service that was wholly new, there were
    writes, which nothing automatic throws away: then it says so, and taking back is said aloud."""
    ending = case.resume(run)
    if ending["outcome"] == "restored":
        assert case.word() == outside.OLD
        case.runs_as(outside.OLD)
        case.nothing_lost()
        return "restored"
    assert (ending["outcome"], fence) == ("resumable", "opened, new"), f"{ending}"
    assert f"rollbackctl undo {run}" in ending["next"]
    assert case.word() == outside.NEW
    case.runs_as(outside.NEW)
    case.take_back(run)
    return "resumable, undone"


@pytest.mark.parametrize("scenario", ["rows", "data"])
@pytest.mark.parametrize("phase", ["rollback", "verify", "resume"])
def test_a_run_that_was_taken_back_can_still_be_carried_out(bench: Bench, scenario: str, phase: str) -> None:
    case = Case(bench, next(one for one in SCENARIOS if one.name == scenario))
    run = case.run(break_after=phase)
    ending = run.go()
    if ending["outcome"] == "resumable":
        assert phase == "resume", ending  # by then there were writes, which nothing automatic throws away
        assert case.word() == outside.NEW
    else:
        assert ending["outcome"] == "restored", ending
        assert case.word() == outside.OLD
        case.runs_as(outside.OLD)
    assert case.go_on(str(run.run["id"])) in {"done", "already"}


@pytest.mark.parametrize("times", [1, 2])
def test_what_was_reached_but_not_written_down_is_known_by_reading_it(bench: Bench, times: int) -> None:
    case = Case(bench, next(one for one in SCENARIOS if one.name == "alone"))
    died = expect_death(case.run(failpoint="restore_sqlite.sync.after:kill"), "kill")
    assert case.rule_eleven(died) == "opened, new"
    visits = len(outside.tokens(case.shop.databases[0]))
    wait_for(lambda: len(outside.tokens(case.shop.databases[0])) > visits, "new writes")
    for _again in range(times):
        assert case.go_on(died.run) in {"done", "already"}
    assert len(outside.tokens(case.shop.databases[0])) > visits


@pytest.mark.parametrize(
    ("failpoint", "fence"), [("fence.close.after", "opened, old"), ("restore_sqlite.replace.after", "kept closed")]
)
def test_a_second_controller_that_is_gone_at_once_leaves_the_watchdog(bench: Bench, failpoint: str, fence: str) -> None:
    case = Case(bench, scenario_of(failpoint))
    died = expect_death(case.run(failpoint=f"{failpoint}:kill"), "kill")

    def gone() -> None:
        raise died

    with pytest.raises(Died):
        case.run(named=died.run, controller="second", before={"preflight": gone}).go()
    assert case.rule_eleven(died) == fence
    assert case.go_on(died.run) in {"done", "already"}


def test_a_stranger_s_change_behind_a_half_done_migration_has_one_way_out(bench: Bench) -> None:
    """A migrated copy is left beside the database, and somebody publishes a commit meanwhile: a resume does not
    overwrite that, and the new run that is named clears the copy away and goes on."""
    failpoint = "rollback_alembic.step.after"
    case = Case(bench, scenario_of(failpoint))
    died = expect_death(case.run(failpoint=f"{failpoint}:kill"), "kill")
    (case.shop.app / "VERSION").write_text("1.5.1\n", encoding="ascii")
    publish(case.shop.app, "Hotfix")
    case.lose_controller(died.run)
    wait_for(case.report_of(died.run).exists, "the watchdog")
    with case.store.locked(30.0):  # it ends after its report
        pass
    following = "rollbackctl run 3 shop --reason REASON"
    assert (read_document(case.report_of(died.run)) or {})["message"] == f"The fence stays closed. Next: {following}"
    resumed = case.resume(died.run)
    assert (resumed["outcome"], resumed["next"].endswith(following)) == ("unknown", True), resumed
    assert not outside.running(case.shop)
    assert {one["run"]: one["next"] for one in describe(case.profile["state"])["runs"]}[died.run] == following
    ending = case.run(controller="third").go()
    assert ending["outcome"] == "done", ending
    case.runs_as(outside.NEW)
    assert case.word() == outside.NEW
    assert not list(case.shop.databases[0].parent.glob("*rollbackctl-aside*"))


def die_just_before(case: Case, run: str, phase: str) -> Died:
    """Resume as a second controller that is killed as soon as a phase begins."""
    second = case.run(named=run, controller="second")

    def kill_it() -> None:
        second.killer = Killer(0.0, group=False)

    second.just_before(phase, kill_it)
    died = expect_death(second, "kill")
    assert died.phase == phase
    return died


@pytest.mark.parametrize("failpoint", ["index.after", "deploy.before", "deploy.after"])
def test_what_was_decided_stays_so_until_somebody_goes_on(bench: Bench, failpoint: str) -> None:
    """The tree is the good one, its deployment is not over: the fence stays closed. A second controller that dies
    before it changes anything changes nothing of that."""
    case = Case(bench, scenario_of(f"rollback_git.{failpoint}"))
    died = expect_death(case.run(failpoint=f"rollback_git.{failpoint}:kill"), "kill")
    assert (case.word(), case.rule_eleven(died)) == (outside.NEW, "kept closed")
    again = die_just_before(case, died.run, "preflight")
    assert case.rule_eleven(again, armed=False) == "kept closed"
    assert not outside.running(case.shop)
    assert case.go_on(died.run) in {"done", "already"}


def test_a_fence_that_is_closed_again_has_a_watchdog_again(bench: Bench) -> None:
    """The first one has opened it and said so; what the second one does is its own doing."""
    case = Case(bench, scenario_of("restart_service.open.after"))
    died = expect_death(case.run(failpoint="restart_service.open.after:kill"), "kill")
    assert case.rule_eleven(died, armed=False) == "still open"
    wait_for(case.report_of(died.run).exists, "the first watchdog")
    again = die_just_before(case, died.run, "capture")
    assert not outside.running(case.shop)
    assert case.rule_eleven(again) == "opened, new"
    assert case.go_on(died.run) in {"done", "already"}
