# SPDX-License-Identifier: GPL-3.0-or-later
"""The API server is killed in the middle of a run, and comes again some seconds later, or much later."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl import kube_retry

from lab.kubernetes.cluster import Cluster
from tests.faults.conftest import THOROUGH
from tests.faults.kubernetes import outside
from tests.faults.kubernetes.cases import Case
from tests.faults.kubernetes.scenes import Bench, Stage, scene_called
from tests.faults.shop import wait_for
from tests.support.hosts import Worker
from tests.support.second_api import START_SECONDS, SecondApiServer

Table = list[tuple[str, ...]]
PHASES = ("preflight", "plan", "stage", "rollback", "verify", "resume", "finish")
PLACES = ("rollback_kubernetes.patch.before", "rollback_kubernetes.patch.after", "rollback_kubernetes.rollout.after")
TRUE_ENDS = {"done", "already", "restored", "resumable", "unknown", "refused"}


@pytest.fixture(scope="module")
def second(lab_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondApiServer]:
    with SecondApiServer(lab_cluster, tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture(scope="module")
def stage(kube_bench: Bench, second: SecondApiServer) -> Stage:
    """A service whose runs go through the second API server; looks at it go through the first."""
    return kube_bench.fresh(scene_called("undo"), lambda _namespace: second.kubeconfig)


class Outage:
    """Kills the API server when it is told to, and starts it again after so many seconds."""

    def __init__(self, server: SecondApiServer, seconds: float) -> None:
        self.server, self.seconds = server, seconds
        self.began = 0.0
        self._worker: Worker | None = None

    def begin(self) -> None:
        self.began = time.monotonic()
        self.server.kill()
        self._worker = Worker(self._end)  # no thread: see far_proxy.py

    def _end(self, _me: Worker) -> None:
        time.sleep(self.seconds)
        self.server.start()

    def over(self) -> None:
        """Wait until the API server is there again."""
        assert self._worker is not None, "the run never came to the place"
        self._worker.result(START_SECONDS)


def check(case: Case, run: str, ending: dict[str, str], outage: Outage) -> tuple[str, str]:
    """Check that the run's word is true, and that going on converges; return how it read and the words."""
    outage.over()
    assert ending["outcome"] in TRUE_ENDS, ending
    read = outside.word(case.parts())
    if ending["outcome"] in {"done", "already"}:
        case.ended_as(outside.NEW)
        case.stage.ended(run)
        return read, str(ending["outcome"])
    if ending["outcome"] == "refused":  # before it had a plan, or changed anything
        assert read == outside.OLD
        return read, "refused"
    if ending["outcome"] == "restored":
        assert read == outside.OLD
    else:
        assert f"rollbackctl resume {run}" in ending["next"], ending
    return read, f"{ending['outcome']}, {case.go_on(run)}"


@pytest.mark.parametrize("phase", PHASES if THOROUGH else ["finish"])
@pytest.mark.parametrize("seconds", [0.5, 25.0] if THOROUGH else [0.5])
def test_before_a_phase(stage: Stage, second: SecondApiServer, table: Table, phase: str, seconds: float) -> None:
    case = Case(stage)
    outage = Outage(second, seconds)
    run = case.run(before={phase: outage.begin})
    ending = run.go()
    read, words = check(case, str(run.run["id"]), ending, outage)
    table.append(("the API server", "kill", f"before {phase}", read, f"{seconds:g} s", words))


@pytest.mark.parametrize("place", PLACES if THOROUGH else PLACES[1:2])
@pytest.mark.parametrize("seconds", [0.5, 25.0] if THOROUGH else [0.5])
def test_in_the_middle_of_a_step(
    stage: Stage, second: SecondApiServer, table: Table, tmp_path: Path, place: str, seconds: float
) -> None:
    case = Case(stage)
    mark, outage = tmp_path / "held", Outage(second, seconds)

    def at_the_place() -> None:
        wait_for(mark.exists, place, 120)
        outage.begin()
        mark.unlink()

    watcher = threading.Thread(target=at_the_place)
    watcher.start()
    run = case.run(failpoint=f"{place}:pause={mark}", only="rollback")
    ending = run.go()
    watcher.join()
    read, words = check(case, str(run.run["id"]), ending, outage)
    table.append(("the API server", "kill", place, read, f"{seconds:g} s", words))


def test_it_stays_away_while_the_run_ends(
    stage: Stage, second: SecondApiServer, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say how the service is: that is what is said, with what to type."""
    patience = kube_retry.TOTAL_SECONDS if THOROUGH else 3.0
    monkeypatch.setattr(kube_retry, "TOTAL_SECONDS", patience)
    case = Case(stage)
    outage = Outage(second, 2 * patience + 5)
    run = case.run(before={"finish": outage.begin})
    ending = run.go()
    assert ending["outcome"] == "unknown", ending
    assert "no answer from https://127.0.0.1" in str(ending)
    assert time.monotonic() - outage.began < 2 * patience + 5
    outage.over()
    words = case.go_on(str(run.run["id"]))
    table.append(("the API server", "kill", "finish", outside.word(case.parts()), "away", f"unknown, {words}"))
