# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker is ended at every named place of every driver in Kubernetes, and its controller with it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.conftest import THOROUGH
from tests.faults.harness import Died, passed
from tests.faults.kubernetes import outside
from tests.faults.kubernetes.cases import Case
from tests.faults.kubernetes.scenes import ALL_FAILPOINTS, SCENES, Bench, Scene, Stage
from tests.support.hosts import Worker

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
Table = list[tuple[str, ...]]


def row(died: Died, failpoint: str, parts: dict[str, str], fence: str, outcome: str) -> tuple[str, ...]:
    read = outside.word(parts)
    if read == outside.NEITHER:
        read = ", ".join(f"{part} {word}" for part, word in parts.items())
    return failpoint, signal.Signals(died.signal).name[3:].lower(), died.phase, read, fence, outcome


def stage_of(bench: Bench, failpoint: str) -> Stage:
    """Return a stage on which a failpoint is passed."""
    for stage in bench.stages():
        if failpoint in stage.passed:
            return stage
    raise AssertionError(f"no scene passes {failpoint}: add one to scenes.py")


def own(bench: Bench, scene: Scene) -> list[str]:
    """Return the failpoints that are passed in a scene and in none before it."""
    known: set[str] = set()
    for stage in bench.stages():
        if stage.scene is scene:
            return [name for name in stage.passed if name not in known]
        known.update(stage.passed)
    return []


def test_every_failpoint_is_passed_in_some_scene(kube_bench: Bench) -> None:
    known = {name for stage in kube_bench.stages() for name in stage.passed}
    missing = set(ALL_FAILPOINTS) - known
    assert not missing, f"no scene passes {sorted(missing)}: add one to scenes.py"


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_each_controller_dies_a_step_further_and_the_last_one_gets_through(
    kube_bench: Bench, table: Table, scene: Scene
) -> None:
    """One run of many controllers: each goes on where the one before was killed, until one is left alone."""
    stage = kube_bench.stage(scene)
    case = Case(stage)
    run, rows = "", []
    for number, failpoint in enumerate(stage.passed if THOROUGH else own(kube_bench, scene)):
        action = ("kill", "term")[number % 2]
        controller = f"controller-{number}"
        died = case.dies_at(failpoint, action, named=run, controller=controller)
        if died is None:  # the one before had come too far: what is there already is not done again
            case.spoil()
            died = case.dies_at(failpoint, action, controller=controller)
        assert died is not None
        assert died.signal == SIGNALS[action]
        rows.append(row(died, failpoint, case.after(died), "", ""))
        run = died.run
    outcome = case.go_on(run)
    table.extend((*one[:5], outcome) for one in rows)


@pytest.mark.parametrize(
    ("failpoint", "action"),
    [(name, action) for name in ALL_FAILPOINTS for action in SIGNALS]
    if THOROUGH
    else [("rollback_kubernetes.scale.after", "kill")],
)
def test_worker_and_controller_are_gone_and_a_second_controller_goes_on(
    kube_bench: Bench, table: Table, failpoint: str, action: str
) -> None:
    case = Case(stage_of(kube_bench, failpoint))
    died = case.dies_at(failpoint, action)
    assert died is not None
    assert died.signal == SIGNALS[action]
    parts = case.after(died)
    fence = case.rule_eleven(died) if action == "kill" else "not waited for"
    outcome = case.go_on(died.run)
    assert outcome in {"done", "already"}
    if THOROUGH and not case.scene.inherent:
        case.take_back(died.run)
    table.append(row(died, failpoint, parts, fence, outcome))


@pytest.mark.parametrize(
    "scene", [scene for scene in SCENES if scene.name.startswith("fence")], ids=lambda one: one.name
)
def test_the_watchdog_opens_what_is_wholly_old_or_wholly_new(kube_bench: Bench, table: Table, scene: Scene) -> None:
    stage = kube_bench.stage(scene)
    wanted = {"fence.close.after": "opened, old", "map.write.after": "kept closed", "fence.open.before": "opened, new"}
    for failpoint, expected in list(wanted.items())[0 if THOROUGH else 1 :]:
        case = Case(stage)
        died = case.dies_at(failpoint, "kill")
        assert died is not None
        parts = case.after(died)
        fence = case.rule_eleven(died)
        assert fence == expected
        outcome = case.go_on(died.run)
        table.append(row(died, failpoint, parts, fence, outcome))


@pytest.mark.parametrize("scene", SCENES[: None if THOROUGH else 1], ids=lambda scene: scene.name)
def test_taking_back_is_killed_everywhere(kube_bench: Bench, table: Table, tmp_path: Path, scene: Scene) -> None:
    stage = kube_bench.stage(scene)
    case = Case(stage)
    ending = case.run(trace=tmp_path, break_after="verify").go()
    assert ending["outcome"] == "restored", ending
    case.ended_as(outside.OLD)
    places = [name for phase, name in passed(tmp_path) if phase == "undo"]
    assert places, "what is taken back passes no failpoint"
    for failpoint in places if THOROUGH else places[-1:]:
        died = None
        try:
            case.run(failpoint=f"{failpoint}:kill", only="undo", break_after="verify").go()
        except Died as death:
            died = death
        assert died is not None
        parts = case.parts(fenced=True)
        outcome = case.go_on(died.run)
        assert outcome == "restored"
        table.append(row(died, failpoint, parts, "", outcome))


@pytest.mark.parametrize("failpoint", ALL_FAILPOINTS if THOROUGH else ["rollback_kubernetes.patch.after"])
def test_worker_is_gone_and_its_controller_takes_back(kube_bench: Bench, table: Table, failpoint: str) -> None:
    case = Case(stage_of(kube_bench, failpoint))
    run = case.run(failpoint=f"{failpoint}:kill", survives=True)
    ending = run.go()
    assert run.died is not None
    begun = any(event["event"] == "begin" for event in case.store.journal(str(run.run["id"])).events())
    assert ending["outcome"] in {"restored", "resumable"} or (ending["outcome"] == "refused" and not begun), ending
    parts = case.parts(fenced=True)
    outcome = str(ending["outcome"])
    if outcome != "resumable":
        case.ended_as(outside.OLD)
    else:
        assert ending["next"].startswith(f"rollbackctl resume {run.run['id']}")
        outcome = f"resumable, {case.go_on(str(run.run['id']))}"
    table.append(row(run.died, failpoint, parts, "", outcome))


def test_the_whole_host_of_the_controller_is_gone(kube_bench: Bench, table: Table) -> None:
    """The mark of its step stays; another run is refused at once, a resume waits until the lease has ended."""
    failpoint = "rollback_kubernetes.patch.after"
    stage = stage_of(kube_bench, failpoint)
    case = Case(stage)

    def controller(_me: Worker) -> list[str]:
        run = case.run(failpoint=f"{failpoint}:kill", controller="gone-1")
        run.run["lease_seconds"] = 4
        try:
            return [str(run.go())]
        except Died as died:
            return [died.phase, died.run]

    with Worker(controller, host="gone-1") as worker:
        phase, run = worker.result(120)
    died = Died(phase, signal.SIGKILL, run)
    parts = case.after(died)
    ending = case.run(controller="other").go()
    assert (ending["outcome"], "still changing" in ending["message"]) == ("refused", True), ending
    assert f"run {run}" in ending["message"]
    outcome = case.go_on(run)
    table.append(row(died, f"{failpoint}, host gone", parts, "", outcome))
