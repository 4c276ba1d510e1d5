# SPDX-License-Identifier: GPL-3.0-or-later
"""A shutdown and its undo through the engine, with the state store in a real cluster: exact, also after any kill."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import registry, store
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET, Entry, Finding, Version
from ansible.module_utils.rollbackctl.errors import Refused, StateOther
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_hold import NOTE
from ansible.module_utils.rollbackctl.kube_shutdown import KubeShutdownDriver
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore
from ansible.module_utils.rollbackctl.runs import finish_run
from ansible.module_utils.rollbackctl.taken_back import newest_to_take_back

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace
from tests.unit.module_utils.traffic_lab import BEHAVIOR, Run, Town, autoscaler, cronjob, workload

ROLE = "shutdown_kubernetes"
# Killed at its very end, a run has nothing left to do.
ENDED = {"done", "already"}


@pytest.fixture(scope="module")
def town(lab_cluster: Cluster, admin: Client) -> Iterator[Town]:
    with fresh_namespace(admin, "shutdown") as name:
        made = Town(lab_cluster, admin, name)
        made.make("deployment", workload("deployment", "api", 2))
        made.make("deployment", workload("deployment", "zero", 0))
        made.make("horizontalpodautoscaler", autoscaler("api", "deployment/api", behavior=BEHAVIOR))
        made.make("cronjob", cronjob("report", suspend=False))
        made.make("cronjob", cronjob("old", suspend=True))
        made.wait_ready("deployment/api")
        yield made


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DRIVERS, ROLE, KubeShutdownDriver)
    monkeypatch.setitem(store.KINDS, "kubernetes", KubernetesStore)


def test_a_shutdown_stops_everything_and_its_undo_gives_back_every_byte(town: Town) -> None:
    before = town.photograph()
    shutdown = Run(town)
    plan = shutdown.begin()
    (entry,) = plan["entries"]
    assert entry["live"]["identity"]["deployment/api"] == "running"
    assert entry["live"]["artefacts"]["before"]["deployment/api"] == 2
    assert set(entry["target"]["identity"].values()) == {"stopped"}
    shutdown.change()
    assert town.pods() == []
    assert town.get("cronjob/report")["spec"]["suspend"] is True
    assert shutdown.finish() == "done"
    assert shutdown.store.quarantine() == []
    # Again: all of it is stopped already, and that run has nothing to be taken back.
    assert Run(town).whole() == "already"
    assert newest_to_take_back(shutdown.store, "shutdown") == shutdown.id

    assert Run(town, "undo").whole(shutdown.id) == "done"
    assert town.photograph() == before
    assert town.get("deployment/api")["status"]["readyReplicas"] == 2
    assert Run(town, "undo").whole(shutdown.id) == "already"
    with pytest.raises(Refused, match="no shutdown of this service that is still to be taken back"):
        newest_to_take_back(shutdown.store, "shutdown")


def test_killed_at_every_point_a_run_is_gone_on_with(town: Town) -> None:
    words = {"workloads": ["deployment/api", "deployment/zero"], "cronjobs": ["report", "old"]}
    before = town.photograph()
    stopped = killed_everywhere(town, "shutdown", words, ("hold", "scale"))
    assert town.pods() == []
    killed_everywhere(town, "undo", words, ("give_back", "release"), stopped.id)
    assert town.photograph() == before


def killed_everywhere(town: Town, kind: str, words: dict[str, Any], steps: tuple[str, ...], undoes: str = "") -> Run:
    """Kill a run before and after each step, go on with it each time, and bring it to its end."""
    run = Run(town, kind, words)
    run.begin(undoes)
    for point in (f"{step}.{side}" for step in steps for side in ("before", "after")):
        assert town.forked(lambda _, run=run: run.change(), f"{ROLE}.{point}:kill") == -9, point  # type: ignore[misc]
        identity, run = run.id, Run(town, kind, words)
        run.begin(identity)
    run.change()
    assert run.finish() in ENDED
    return run


def test_what_failed_is_put_back_where_that_was_asked_for(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    before = town.photograph()
    shutdown = Run(town)
    shutdown.begin()
    monkeypatch.setenv("ROLLBACKCTL_FAILPOINT", "shutdown_kubernetes.scale.after:fail")
    assert shutdown.phase("rollback").get("failed")
    monkeypatch.delenv("ROLLBACKCTL_FAILPOINT")
    assert not shutdown.phase("undo").get("failed")
    assert town.photograph() == before
    ended = finish_run(shutdown.facts, {}, shutdown.roles, failed=True, message="It failed.")
    assert ended["outcome"] == "restored"


def test_what_was_set_going_by_hand_is_left_and_its_note_goes(town: Town) -> None:
    shutdown = Run(town)
    assert shutdown.whole() == "done"
    town.kubectl("scale", "deployment/api", "--replicas=1")
    with pytest.raises(StateOther, match="deployment/api was stopped and is 1 again, set by kubectl"):
        town.shutdown(shutdown.id, all=True).apply(town.shutdown(all=True).resolve("stopped"))
    undo = Run(town, "undo")
    assert undo.whole(shutdown.id) == "done"
    assert town.replicas("deployment/api") == 1
    assert NOTE not in town.get("deployment/api")["metadata"]["annotations"]
    assert NOTE not in (town.get("horizontalpodautoscaler/api")["metadata"].get("annotations") or {})
    town.kubectl("scale", "deployment/api", "--replicas=2")
    town.wait_ready("deployment/api")


def test_where_somebody_removed_the_note_the_recorded_count_comes_back(town: Town) -> None:
    before = town.photograph()
    shutdown = Run(town, options={"workloads": ["deployment/api"]})
    assert shutdown.whole() == "done"
    town.kubectl("annotate", "deployment/api", f"{NOTE}-")
    undo = Run(town, "undo", shutdown.options)
    assert undo.whole(shutdown.id) == "done"
    assert town.photograph() == before


# -- reading ----------------------------------------------------------------------------------------------------------


def version(**artefacts: Any) -> Version:
    words = artefacts.pop("identity")
    return Version({key.replace("_", "/", 1): word for key, word in words.items()}, "", artefacts=artefacts)


RUNS = version(identity={"deployment_api": "running", "deployment_zero": "stopped"}, before={})
STANDS = version(identity={"deployment_api": "stopped", "deployment_zero": "stopped"})


@pytest.mark.parametrize(
    ("reading", "word"),
    [
        (RUNS, LIVE),
        (STANDS, TARGET),
        (dataclasses.replace(STANDS, artefacts={"ending": ["pod p still runs"]}), BETWEEN),
        (version(identity={}), TARGET),
        (version(identity={"deployment_api": "running", "deployment_zero": "running"}), OTHER),
        (version(identity={"deployment_api": "running", "deployment_new": "running"}), OTHER),
    ],
)
def test_how_a_reading_stands_to_the_plan(
    town: Town, monkeypatch: pytest.MonkeyPatch, reading: Version, word: str
) -> None:
    driver = town.shutdown(all=True)
    monkeypatch.setattr(driver, "live", lambda *, exact: reading if exact else None)
    entry = Entry("all", ROLE, driver.layer, RUNS, STANDS, "change", Finding())
    assert driver.state(entry, opened=False)[0] == word


def test_what_is_still_noted_as_stopped_is_not_back_yet(town: Town) -> None:
    driver = town.shutdown(all=True)
    noted = dataclasses.replace(RUNS, artefacts={"notes": {"deployment/api": "shutdown"}})
    assert not driver.matches(noted, RUNS, exact=True)
    assert driver.matches(noted, noted, exact=True)


def test_only_stopped_can_be_named_and_what_was_recorded_must_be_its_own(town: Town) -> None:
    driver = town.shutdown(all=True)
    with pytest.raises(Refused, match=r"'running' does not exist\. Known: stopped"):
        driver.resolve("running")
    with pytest.raises(Refused, match="is not a state of running things"):
        driver.resolve(Version({"commit": "1"}, "commit 1"))
    assert driver.inherent() == "stopped"
