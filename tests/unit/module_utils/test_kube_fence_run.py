# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of the engine behind the fence: data is changed while no pod is left. What was held is given back by the run, by
a resume, or by the watchdog.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import registry, store
from ansible.module_utils.rollbackctl.component import Driver, Finding, Version
from ansible.module_utils.rollbackctl.errors import StepFailed
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore
from ansible.module_utils.rollbackctl.kube_traffic import KubeTrafficDriver
from ansible.module_utils.rollbackctl.runs import finish_run
from ansible.module_utils.rollbackctl.status import describe

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace
from tests.unit.module_utils.traffic_lab import BEHAVIOR, Run, Town, autoscaler, cronjob, until, workload

API = "deployment/api"


class RowsDriver(Driver):
    """Data that nobody may write while it is put back: a ConfigMap. It refuses to be changed while a pod is there."""

    layer = "data"
    store_kind = "kubernetes"

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.place.cluster.namespace}/configmaps/rows"

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - it costs nothing here
        return self._version(self.place.cluster.client.get(self.path)["data"]["rows"])

    def _version(self, rows: str) -> Version:
        return Version({"rows": rows}, f"rows {rows}")

    def inherent(self) -> Version | str | None:
        return "good"

    def resolve(self, want: Version | str) -> Version:
        return self._version(want) if isinstance(want, str) else want

    def check(self, live: Version, target: Version) -> Finding:  # noqa: ARG002 - it can always be done
        return Finding(needs_fence=True)

    def record(self, into: Any) -> Version:  # noqa: ARG002 - it is its own copy
        return self.live(exact=True)

    def apply(self, target: Version) -> None:
        namespace = self.place.cluster.namespace
        if self.place.cluster.client.list(f"/api/v1/namespaces/{namespace}/pods"):
            raise StepFailed("Somebody may be writing.")
        self.place.cluster.client.merge_patch(self.path, {"data": dict(target.identity)})


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DRIVERS, "stop_kubernetes", KubeTrafficDriver)
    monkeypatch.setitem(registry.DRIVERS, "rows", RowsDriver)
    monkeypatch.setitem(store.KINDS, "kubernetes", KubernetesStore)


@pytest.fixture(scope="module")
def town(lab_cluster: Cluster, admin: Client) -> Iterator[Town]:
    with fresh_namespace(admin, "fence") as name:
        made = Town(lab_cluster, admin, name)
        made.make("deployment", workload("deployment", "api", 2))
        made.make("horizontalpodautoscaler", autoscaler("api", API, behavior=BEHAVIOR))
        made.make("cronjob", cronjob("report", suspend=False))
        made.wait_ready(API)
        yield made


@pytest.fixture
def run(town: Town) -> Run:
    """A rollback of rows that are bad now."""
    path = f"/api/v1/namespaces/{town.namespace}/configmaps"
    if town.admin.find(f"{path}/rows") is None:
        town.admin.create(path, {"metadata": {"name": "rows"}, "data": {"rows": "bad"}})
    town.admin.merge_patch(f"{path}/rows", {"data": {"rows": "bad"}})
    others = [{"role": "rows", "components": [{"name": "rows"}]}]
    return Run(town, "rollback", {"all": True, "fence": True}, others, "stop_kubernetes", lease_seconds=5)


def rows(town: Town) -> str:
    return str(town.admin.get(f"/api/v1/namespaces/{town.namespace}/configmaps/rows")["data"]["rows"])


def go(run: Run, *phases: str) -> None:
    for phase in phases:
        result = run.phase(phase)
        assert not result.get("failed"), result


def test_data_is_changed_while_nobody_is_there_and_everything_comes_back(town: Town, run: Run) -> None:
    before = town.photograph()
    plan = run.begin()
    assert plan["fence"] is True
    assert [entry["action"] for entry in plan["entries"]] == ["change", "follow"]
    go(run, "stage", "fence")
    assert town.pods() == []
    go(run, "capture", "rollback", "verify", "resume")
    assert run.finish() == "done"
    assert rows(town) == "good"
    assert town.photograph() == before


def test_a_resume_gives_back_what_a_killed_run_held(town: Town, run: Run) -> None:
    before = town.photograph()
    run.begin()

    def whole(_: Client) -> None:
        go(run, "stage", "fence", "capture", "rollback", "verify", "resume")

    assert town.forked(whole, "stop_kubernetes.give_back.before:kill") == -9
    again = Run(town, run.kind, run.options, run.others, run.role)
    again.begin(run.id)
    go(again, "stage", "fence", "capture", "rollback", "verify", "resume")
    assert again.finish() in {"done", "already"}
    assert rows(town) == "good"
    assert town.photograph() == before


def test_when_nobody_comes_back_the_watchdog_gives_it_back(town: Town, run: Run) -> None:
    before = town.photograph()
    run.begin()
    assert town.forked(lambda _: go(run, "stage", "fence"), "fence.close.after:kill") == -9
    assert town.pods() == []
    until(lambda: run.store.behind_closed_fence(set()) == "", "the watchdog does not open the fence")
    assert town.photograph() == before
    assert town.get(API)["status"]["readyReplicas"] == 2
    assert rows(town) == "bad"


def test_a_new_run_takes_over_what_a_stranger_changed_and_gives_back_what_the_first_run_held(
    town: Town, run: Run
) -> None:
    """The rows are a stranger's; what the first run noted of the workloads that it stopped, the second gives back."""
    run.lease_seconds = 60
    before = town.photograph()
    run.begin()
    go(run, "stage", "fence", "capture")
    town.admin.merge_patch(f"/api/v1/namespaces/{town.namespace}/configmaps/rows", {"data": {"rows": "a stranger's"}})
    failure = run.phase("rollback")
    assert "Somebody else changed it" in failure["msg"]
    assert "The fence stays closed" in run.phase("resume")["msg"]
    ended = finish_run(run.facts, {}, run.roles, failed=True, message=failure["msg"])
    following = "rollbackctl run schema shop --reason REASON"  # that is how level 0 is typed
    assert (ended["outcome"], ended["next"]) == ("unknown", f"Find out who did, then: {following}")
    assert {one["run"]: one["next"] for one in describe(run.state)["runs"]}[run.id] == following
    again = Run(town, run.kind, run.options, run.others, run.role, lease_seconds=60)
    plan = again.begin()
    assert (plan["takes_over"], plan["fence_of"], plan["on_failure"]) == (run.id, run.id, "hold")
    assert plan["entries"][0]["live"]["text"] == "rows a stranger's"
    go(again, "stage", "fence", "capture", "rollback", "verify")
    assert town.pods() == []
    go(again, "resume")
    assert again.finish() == "done"
    assert rows(town) == "good"
    assert town.photograph() == before


def test_a_service_that_was_shut_down_stays_so_when_its_rollback_fails(town: Town, run: Run) -> None:
    before = town.photograph()
    shutdown = town.shutdown("rb-before", all=True)
    shutdown.apply(shutdown.resolve("stopped"))
    for good in (False, True):
        town.admin.merge_patch(f"/api/v1/namespaces/{town.namespace}/configmaps/rows", {"data": {"rows": "bad"}})
        again = Run(town, run.kind, run.options, run.others, run.role)
        plan = again.begin()
        assert any("shut down" in note for note in plan["notes"])
        go(again, "stage", "fence", "capture", "rollback")
        if not good:
            again.facts["after_failure"] = True
            go(again, "fence", "undo")
        go(again, "resume")
        assert (town.pods() == []) is not good
        assert rows(town) == ("good" if good else "bad")
        ended = finish_run(again.facts, {}, again.roles, failed=not good, message="It failed.")
        assert ended["outcome"] == ("done" if good else "restored")
    assert town.photograph() == before
