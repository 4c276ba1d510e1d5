# SPDX-License-Identifier: GPL-3.0-or-later
"""The state store in a real namespace: plans, checkpoints, quarantine, and who may write them."""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.errors import LeaseHeld, Refused, RollbackError
from ansible.module_utils.rollbackctl.kube_client import KubeError
from ansible.module_utils.rollbackctl.kube_journal import TOKEN_NOTE
from ansible.module_utils.rollbackctl.kube_shelf import read_shelf
from ansible.module_utils.rollbackctl.kube_store import RUN_LABEL, WATCHDOG_KEY, KubernetesStore
from ansible.module_utils.rollbackctl.runs import _take_lease
from ansible.module_utils.rollbackctl.status import describe
from ansible.module_utils.rollbackctl.store import KINDS, host_name

from lab.kubernetes.cluster import Cluster
from tests.support.hosts import Worker
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import Fault, FaultProxy, Request
from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN
from tests.unit.module_utils.kube_store_parts import (
    STORE_RULES,
    Place,
    place,
    shared_kubeconfig,
    shared_namespace,
    store,
    take,
)
from tests.unit.module_utils.test_names import HOSTILE

__all__ = ["place", "shared_kubeconfig", "shared_namespace", "store"]
LONGEST = "s" * 63
Write = Callable[[KubernetesStore], Any]


@pytest.fixture(autouse=True)
def _kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "kubernetes", KubernetesStore)


def run_of(place: Place, identity: str = RUN, **changed: Any) -> dict[str, Any]:
    """A run as the guard hands it to the engine."""
    run = {
        "id": identity,
        "kind": "rollback",
        "level": 1,
        "state": place.state,
        "holder": "ops",
        "controller": host_name(),
        "pid": os.getpid(),
        "lease_seconds": 60.0,
    }
    return {**run, **changed}


def guard(place: Place, run: dict[str, Any], named: str = "") -> int:
    """Open a run, as the guard does; return its token."""
    return _take_lease(place.store, run, {"id": run["id"], "takes_over": ""}, named)


def names(place: Place, folder: str = "configmaps") -> list[str]:
    """Return the names of the service's objects, without what all of them begin with."""
    prefix = f"rollbackctl-{place.service}-"
    found = place.admin.names(f"/api/v1/namespaces/{place.namespace}/{folder}")
    return sorted(
        item["metadata"]["name"].removeprefix(prefix) for item in found if item["metadata"]["name"].startswith(prefix)
    )


# -- two runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "second-1"])
def test_a_second_run_is_refused_within_a_second(place: Place, host: str) -> None:
    guard(place, run_of(place))

    def second(_me: Worker) -> float:
        began = time.monotonic()
        with pytest.raises(LeaseHeld, match=f"run {RUN}, held by ops on .* since 20.*Z, ends in") as refusal:
            guard(place, run_of(place, OTHER_RUN, controller=host_name(), pid=os.getpid()))
        assert refusal.value.next_step.endswith(f"rollbackctl resume {RUN}")
        return time.monotonic() - began

    with Worker(second, host=host) as worker:
        assert worker.result() < 1.0
    assert place.holder().run == RUN
    assert names(place) == [f"run-{RUN}"]


def test_a_second_run_is_refused_within_a_second_also_during_a_step(place: Place) -> None:
    def step(me: Worker) -> None:
        token = guard(place, run_of(place, pid=os.getpid()))
        held = place.store
        with held.locked():
            held.renew(RUN, token)
            me.say(token)
            me.hear()

    with Worker(step) as worker:
        assert worker.hear() == 1
        began = time.monotonic()
        with pytest.raises(LeaseHeld, match=f"still changing this service. Lease: run {RUN}"):
            guard(place, run_of(place, OTHER_RUN))
        assert 0.8 <= time.monotonic() - began < 2.0


def test_a_resume_waits_for_what_a_host_that_is_gone_has_left(place: Place) -> None:
    """The mark of a step that was killed there ends with the lease, and the resume is waiting for that."""

    def step(me: Worker) -> None:
        token = guard(place, run_of(place, controller=host_name(), pid=os.getpid(), lease_seconds=3.0))
        held = place.store
        with held.locked():
            held.renew(RUN, token)
            held.write_plan(RUN, {"run": RUN})
            me.say(token)
            me.hear()

    with Worker(step, host="gone-1") as worker:
        assert worker.hear() == 1
        worker.kill()
    began = time.monotonic()
    with pytest.raises(LeaseHeld, match="ends in"):
        guard(place, run_of(place, OTHER_RUN))
    assert time.monotonic() - began < 2.0
    assert guard(place, run_of(place), named=RUN) == 2
    assert 1.0 < time.monotonic() - began < 6.0


def test_a_resume_while_the_controller_lives_on_this_host_is_refused_at_once(place: Place) -> None:
    def controller(me: Worker) -> None:
        token = guard(place, run_of(place, pid=os.getpid()))
        held = place.store
        with held.locked():
            held.renew(RUN, token)
            me.say(token)
            me.hear()

    with Worker(controller) as worker:
        assert worker.hear() == 1
        began = time.monotonic()
        with pytest.raises(LeaseHeld, match="still changing"):
            guard(place, run_of(place), named=RUN)
        assert time.monotonic() - began < 2.0


def test_who_cannot_open_its_journal_gives_the_lease_back(
    lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    direct = place.kubeconfig
    place.kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    fault_proxy.add("/configmaps", "POST", status=403)
    with pytest.raises(KubeError, match="403"):
        guard(place, run_of(place))
    place.kubeconfig = direct
    assert place.store.lease() is None
    assert guard(place, run_of(place, OTHER_RUN)) == 2


def test_a_run_that_ended_leaves_the_service_free(place: Place) -> None:
    token = guard(place, run_of(place))
    place.store.release(RUN, token)
    assert guard(place, run_of(place, OTHER_RUN)) == 2
    assert place.store.runs() == [RUN, OTHER_RUN]


# -- names and places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_id_leaves_the_store(place: Place, store: KubernetesStore, text: str) -> None:
    for refused, match in (
        (lambda: store.journal(text), "not a run id"),
        (lambda: store.open_journal(text), "not a run id"),
        (lambda: store.read_plan(text), "not a run id"),
        (lambda: store.write_plan(text, {}), "not a run id"),
        (lambda: store.write_watchdog(text, {}), "not a run id"),
        (lambda: store.kept_shelf(text, "api", "before-1"), "not a run id"),
        (lambda: store.checkpoint_shelf(text, "api"), "not a checkpoint id"),
        (lambda: store.write_checkpoint({"id": text}), "not a checkpoint id"),
        (lambda: store.kept_shelf(RUN, text, "before-1"), "not a component name"),
        (lambda: store.checkpoint_shelf("cp-1", text), "not a component name"),
    ):
        with pytest.raises(Refused, match=match):
            refused()
    assert names(place) == []


@pytest.mark.parametrize("service", ["", "Shop", "shop.api", "shop_api", "-shop", "shop-", "s" * 64, "../shop", "a b"])
def test_a_service_whose_name_cannot_name_objects_is_refused(place: Place, service: str) -> None:
    with pytest.raises(Refused, match="cannot name objects"):
        KubernetesStore({**place.state, "service": service})


def test_without_a_namespace_it_is_refused(place: Place) -> None:
    with pytest.raises(Refused, match="namespace is missing"):
        KubernetesStore({**place.state, "namespace": ""})


def test_the_longest_names_work(place: Place) -> None:
    place.service = f"{place.service[5:]}{LONGEST}"[:63]
    run, checkpoint, component = "r" * 63, "c" * 63, "C" * 63
    store = place.store
    token = take(store, run).token
    store.write_plan(run, {"run": run})
    store.journal(run).append("fence-closing")
    store.write_checkpoint({"id": checkpoint, "state": "proven", "taken": ""})
    store.write_quarantine([{"id": "q"}])
    large = {"text": noise(1.2)}
    places = [store.kept_shelf(run, component, "before-100"), store.checkpoint_shelf(checkpoint, component)]
    for shelf in places:
        assert read_shelf(store.client, place.namespace, shelf.save(large)) == large
    look = place.store
    assert (look.runs(), look.read_plan(run)) == ([run], {"run": run})
    assert [document["id"] for document in look.checkpoints()] == [checkpoint]
    assert look.behind_closed_fence(set()) == run
    store.remove_kept(run)
    store.release(run, token)


def test_two_services_of_one_namespace_do_not_meet(place: Place, store: KubernetesStore) -> None:
    other = Place(place.lab, place.admin, place.namespace, f"{place.service}-2", place.kubeconfig).store
    for one, run in ((store, RUN), (other, OTHER_RUN)):
        take(one, run)
        one.write_plan(run, {"run": run})
        one.write_checkpoint({"id": f"cp-{run}", "state": "proven", "taken": ""})
        one.write_quarantine([{"id": run}])
        one.kept_shelf(run, "api", "before-1").save({"run": run})
    assert (store.runs(), other.runs()) == ([RUN], [OTHER_RUN])
    assert [document["id"] for document in other.checkpoints()] == [f"cp-{OTHER_RUN}"]
    assert store.quarantine() == [{"id": RUN}]
    store.remove_kept(RUN)
    kept = other.kept_shelf(OTHER_RUN, "api", "before-1").name
    assert read_shelf(other.client, place.namespace, kept) == {"run": OTHER_RUN}


def test_the_namespace_is_proven_by_its_uid(place: Place, admin: Any) -> None:
    uid = admin.get(f"/api/v1/namespaces/{place.namespace}")["metadata"]["uid"]
    store = KubernetesStore({**place.state, "kubeconfig": str(place.lab.kubeconfig)})
    store.check_namespace(uid)
    with pytest.raises(Refused, match=f"has the UID {uid}, the profile expects 1234"):
        store.check_namespace("1234")
    gone = KubernetesStore({**place.state, "namespace": "nowhere", "kubeconfig": str(place.lab.kubeconfig)})
    with pytest.raises(Refused, match="Is this the right cluster"):
        gone.check_namespace(uid)


# -- plans -------------------------------------------------------------------------------------------------------------


def noise(megabytes: float, seed: int = 1) -> str:
    """Text that hardly compresses."""
    return base64.b64encode(random.Random(seed).randbytes(int(megabytes * 750_000))).decode()  # noqa: S311


def test_a_plan_comes_back(place: Place, store: KubernetesStore) -> None:
    assert store.read_plan(RUN) is None
    take(store)
    assert store.read_plan(RUN) is None
    store.write_plan(RUN, {"run": RUN, "entries": []})
    assert place.store.read_plan(RUN) == {"run": RUN, "entries": []}
    assert place.store.runs() == [RUN]


def plan_of_many(workloads: int) -> dict[str, Any]:
    """A plan in which each workload has a template of its own, of some kilobytes."""
    dice = random.Random(7)  # noqa: S311
    templates = {
        f"deployment/w{number:03}": {
            "containers": [
                {
                    "name": "main",
                    "image": f"registry.example.com/team/w{number:03}@sha256:{dice.randbytes(32).hex()}",
                    "env": [{"name": f"SETTING_{n}", "value": dice.randbytes(24).hex()} for n in range(30)],
                }
            ]
        }
        for number in range(workloads)
    }
    return {"run": RUN, "entries": [{"name": "all", "live": templates, "target": templates}]}


def test_a_plan_of_two_hundred_workloads(place: Place, store: KubernetesStore) -> None:
    plan = plan_of_many(200)
    assert len(json.dumps(plan)) > 1_000_000
    take(store)
    store.write_plan(RUN, plan)
    journal = store.journal(RUN)
    journal.append("captured", component="all", version=plan["entries"][0]["live"])
    journal.append("begin", component="all")
    assert place.store.read_plan(RUN) == plan
    assert [event["event"] for event in place.store.journal(RUN).events()] == ["captured", "begin"]
    assert place.store.runs() == [RUN]


def test_a_plan_that_one_object_cannot_hold(place: Place, store: KubernetesStore) -> None:
    plan = {"run": RUN, "entries": [{"name": "all", "text": noise(1.5)}]}
    take(store)
    store.write_plan(RUN, plan)
    store.journal(RUN).append("planned")
    assert place.store.read_plan(RUN) == plan
    assert f"run-{RUN}-plan" in names(place)
    place.flip(f"run-{RUN}-plan", "binaryData", "piece")
    with pytest.raises(RollbackError, match="damaged"):
        place.store.read_plan(RUN)


def test_a_damaged_plan_is_said(place: Place, store: KubernetesStore) -> None:
    take(store)
    store.write_plan(RUN, {"run": RUN})
    place.flip(f"run-{RUN}", "binaryData", "plan.json.gz")
    with pytest.raises(RollbackError, match=f"The plan of run {RUN} is damaged") as refusal:
        place.store.read_plan(RUN)
    assert "Do not edit" in refusal.value.next_step


def test_an_older_controller_cannot_write_the_plan(place: Place, store: KubernetesStore) -> None:
    take(store)
    take(place.store, controller="second")
    with pytest.raises(RollbackError, match="has taken this run over"):
        store.write_plan(RUN, {"late": True})
    assert place.store.read_plan(RUN) is None


@pytest.mark.parametrize("token", ["", "x", "-1"])
def test_a_token_that_somebody_spoilt_lets_nobody_write(place: Place, store: KubernetesStore, token: str) -> None:
    take(store)
    place.admin.merge_patch(place.object(f"run-{RUN}"), {"metadata": {"annotations": {TOKEN_NOTE: token}}})
    with pytest.raises(RollbackError, match="has taken this run over"):
        store.journal(RUN).append("begin")
    heir = place.store
    assert take(heir, controller="second").token == 2
    heir.journal(RUN).append("begin")


def test_the_watchdog_s_report_is_kept(place: Place, store: KubernetesStore) -> None:
    take(store)
    store.journal(RUN).append("fence-closing")
    store.write_watchdog(RUN, {"word": "wholly old", "opened": True})
    data = place.admin.get(place.object(f"run-{RUN}"))["data"]
    assert json.loads(data[WATCHDOG_KEY]) == {"word": "wholly old", "opened": True}
    assert [event["event"] for event in place.store.journal(RUN).events()] == ["fence-closing"]


def test_what_a_run_kept_is_removed_and_nothing_else(place: Place, store: KubernetesStore) -> None:
    take(store)
    store.kept_shelf(RUN, "settings", "before-1").save({"a": 1})
    store.kept_shelf(RUN, "settings", "before-1").save({"a": 1}, secret=True)
    store.kept_shelf(RUN, "api", "before-2").save({"large": noise(1.2)})
    store.kept_shelf(OTHER_RUN, "api", "before-1").save({"a": 2})
    store.checkpoint_shelf("cp-1", "api").save({"a": 3})
    store.write_plan(RUN, {"run": RUN})
    store.remove_kept(RUN)
    assert names(place) == [f"{'cp-1'}-api-recorded", f"{OTHER_RUN}-api-before-1", f"run-{RUN}"]
    assert names(place, "secrets") == []
    store.remove_kept(RUN)
    assert place.store.read_plan(RUN) == {"run": RUN}


def test_runs_are_in_the_order_of_the_store_not_of_clocks(place: Place, store: KubernetesStore) -> None:
    """An id has the time of its controller's clock, which may be wrong; the API server counts in seconds."""
    late = [f"rb-20200101-00000{9 - number}-0000" for number in range(5)]
    take(store)
    for run in late:
        place.expire()
        take(place.store, run)
    assert store.runs() == [RUN, *late]
    place.expire()
    take(place.store)  # resumed: it is still the oldest
    assert place.store.runs() == [RUN, *late]


def test_the_order_outlives_a_lease_that_was_deleted(place: Place, store: KubernetesStore) -> None:
    """As its own message says to do when it is damaged; a run that is resumed then is not taken for an older one."""
    take(store)
    place.expire()
    token = take(place.store, OTHER_RUN).token
    place.admin.delete(place.lease_path)
    assert take(place.store).token == token + 1
    assert place.store.runs() == [RUN, OTHER_RUN]


def test_checkpoints_within_one_second_are_in_the_order_of_the_store(place: Place, store: KubernetesStore) -> None:
    """Their ids have the time of controllers' clocks, one of which is ten minutes ahead."""
    take(store)
    names = [f"cp-20261121-09{9 - number}000-aaaa" for number in range(5)]
    for number, name in enumerate(names):
        store.write_checkpoint({**checkpoint(name, "2026-11-21T09:00:00Z"), "number": number + 1})
    assert [document["id"] for document in place.store.checkpoints()] == names[::-1]


# -- the fence that a run left closed ----------------------------------------------------------------------------------


def fenced(place: Place, run: str, *events: str) -> None:
    store = place.store
    take(store, run)
    for event in events:
        store.journal(run).append(event)
    place.expire()
    time.sleep(1.1)


def test_a_run_behind_its_closed_fence_is_found(place: Place, store: KubernetesStore) -> None:
    assert store.behind_closed_fence(set()) == ""
    fenced(place, "rb-1", "fence-closing", "fence-closed", "fence-opening", "fence-opened")
    assert store.behind_closed_fence({"rb-9"}) == ""
    fenced(place, "rb-2", "fence-closing", "fence-closed")
    assert store.behind_closed_fence({"", "rb-9"}) == "rb-2"
    assert store.behind_closed_fence({"rb-2", "rb-9"}) == ""
    fenced(place, "rb-3")
    assert store.behind_closed_fence({"rb-9"}) == "rb-2"
    assert store.behind_closed_fence({"rb-3"}) == ""  # it was begun knowing of the other, to take it back
    fenced(place, "rb-4", "fence-closing", "fence-opened")
    assert store.behind_closed_fence({"rb-9"}) == ""  # what the service is now is the last run's doing


def test_a_fence_that_closes_while_a_run_begins_is_seen(place: Place, store: KubernetesStore) -> None:
    with store.ahead():  # what is asked here is older than the lock, for which a run may have to wait
        fenced(place, "rb-1", "fence-closing", "fence-closed")
        assert store.behind_closed_fence({"rb-9"}) == "rb-1"


def test_a_new_run_is_refused_and_status_says_what_to_type(place: Place) -> None:
    fenced(place, RUN, "fence-closing", "fence-closed")
    with pytest.raises(Refused, match=f"Run {RUN} stopped behind a closed fence") as refusal:
        guard(place, run_of(place, OTHER_RUN))
    assert refusal.value.next_step == f"rollbackctl resume {RUN}"
    store = place.store
    take(store)
    store.write_plan(RUN, {"run": RUN})
    store.journal(RUN).append("finished", outcome="resumable", message="")
    said = describe(place.state)
    assert [(run["fence"], run["next"]) for run in said["runs"]] == [("closed", f"rollbackctl resume {RUN}")]
    assert said["lease"]["run"] == RUN


# -- checkpoints and quarantine ----------------------------------------------------------------------------------------


def checkpoint(identity: str, taken: str, state: str = "proven") -> dict[str, Any]:
    return {"id": identity, "state": state, "taken": taken, "components": {}, "exact_keys": {}}


def test_checkpoints_are_newest_first_and_damage_is_listed(place: Place, store: KubernetesStore) -> None:
    take(store)
    # By the API server's clock; that of the controller who took the last one is wrong.
    for identity, taken in (
        ("cp-1", "2026-11-21T08:00:00Z"),
        ("cp-3", "2026-11-21T10:00:00Z"),
        ("cp-2", "2001-01-01T00:00:00Z"),
    ):
        store.write_checkpoint(checkpoint(identity, taken))
        time.sleep(1.1)
    place.flip("checkpoint-cp-3", "binaryData", "checkpoint.json.gz")
    found = place.store.checkpoints()
    assert [(document["id"], document["state"]) for document in found] == [
        ("cp-2", "proven"),
        ("cp-3", "damaged"),
        ("cp-1", "proven"),
    ]
    assert "damaged" in found[1]["message"]


def test_a_checkpoint_is_promoted_in_place(place: Place, store: KubernetesStore) -> None:
    take(store)
    store.write_checkpoint(checkpoint("cp-1", "2026-11-21T08:00:00Z", "candidate"))
    store.write_checkpoint(checkpoint("cp-1", "2026-11-21T08:00:00Z"))
    assert [document["state"] for document in place.store.checkpoints()] == ["proven"]


def test_a_process_that_does_a_run_alone_reads_the_checkpoints_once(
    lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    store = Place(place.lab, place.admin, place.namespace, place.service, kubeconfig).store
    take(store)
    store.write_checkpoint(checkpoint("cp-1", "2026-11-21T08:00:00Z", "candidate"))
    with store.whole():
        before = fault_proxy.count("GET", "kind%3Dcheckpoint")
        assert store.checkpoints() == store.checkpoints()
        assert fault_proxy.count("GET", "kind%3Dcheckpoint") == before + 1
        store.write_checkpoint(checkpoint("cp-1", "2026-11-21T08:00:00Z"))
        assert [document["state"] for document in store.checkpoints()] == ["proven"]
    place.admin.delete(place.object("checkpoint-cp-1"))
    assert store.checkpoints() == []


def test_a_checkpoint_that_one_object_cannot_hold(place: Place, store: KubernetesStore) -> None:
    take(store)
    document = {**checkpoint("cp-1", "2026-11-21T08:00:00Z"), "large": noise(1.5)}
    store.write_checkpoint(document)
    assert place.store.checkpoints() == [document]
    place.admin.delete(place.object("checkpoint-cp-1-checkpoint-1"))
    assert [one["state"] for one in place.store.checkpoints()] == ["damaged"]


def test_a_checkpoint_that_was_never_finished_is_none(store: KubernetesStore) -> None:
    store.checkpoint_shelf("cp-1", "api").save({"a": 1})
    assert store.checkpoints() == []


def test_somebody_else_s_objects_harm_nothing(place: Place, store: KubernetesStore) -> None:
    take(store)
    store.write_checkpoint(checkpoint("cp-1", "2026-11-21T08:00:00Z"))
    labels = place.admin.get(place.object("checkpoint-cp-1"))["metadata"]["labels"]
    without = {key: value for key, value in labels.items() if key != RUN_LABEL}
    for number, data in enumerate(({}, {"data": {"a": "b"}}, {"binaryData": {"checkpoint.json.gz": "eA=="}})):
        body = {"metadata": {"name": f"x-{place.service}-{number}", "labels": without}, **data}
        place.admin.create(f"/api/v1/namespaces/{place.namespace}/configmaps", body)
    assert {one["id"]: one["state"] for one in store.checkpoints()} == {
        "cp-1": "proven",
        f"x-{place.service}-2": "damaged",
    }
    runs = {**without, "rollbackctl.io/kind": "run"}
    body = {"metadata": {"name": f"x-{place.service}-run", "labels": runs}}
    place.admin.create(f"/api/v1/namespaces/{place.namespace}/configmaps", body)
    assert store.runs() == [RUN]


def test_the_quarantine_comes_back(place: Place, store: KubernetesStore) -> None:
    assert store.quarantine() == []
    take(store)
    store.write_quarantine([{"id": "q-1", "combination": {}}])
    assert place.store.quarantine() == [{"id": "q-1", "combination": {}}]
    store.write_quarantine([])
    assert place.store.quarantine() == []
    place.flip("quarantine", "binaryData", "quarantine.json.gz")
    with pytest.raises(RollbackError, match="The quarantine list is damaged"):
        place.store.quarantine()


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.write_checkpoint(checkpoint("cp-1", "")),
        lambda store: store.write_quarantine([{"id": "q-1"}]),
    ],
)
def test_the_ledger_is_written_by_who_holds_the_lease(place: Place, store: KubernetesStore, write: Write) -> None:
    with pytest.raises(LeaseHeld):
        write(store)
    assert names(place) == []


# -- answers that are lost ---------------------------------------------------------------------------------------------


def life(place: Place) -> None:
    """Everything that is written in the life of a service, by two controllers."""
    store = place.store
    token = take(store).token
    with store.locked():
        store.renew(RUN, token)
        store.write_plan(RUN, {"run": RUN})
        store.journal(RUN).append("planned")
    take(store := place.store, controller="second")
    with store.locked():
        store.renew(RUN, token + 1)
        store.kept_shelf(RUN, "api", "before-1").save({"kept": 1})
        store.journal(RUN).append("begin")
        store.checkpoint_shelf("cp-1", "api").save({"recorded": 1}, secret=True)
        for state in ("candidate", "proven"):
            store.write_checkpoint(checkpoint("cp-1", "2026-11-21T08:00:00Z", state))
        store.write_quarantine([{"id": "q-1"}])
        store.write_quarantine([{"id": "q-2"}])
        store.remove_kept(RUN)
        store.journal(RUN).append("finished")
        store.release(RUN, token + 1)


def looks(place: Place) -> dict[str, Any]:
    """What is there after a life."""
    store = place.store
    return {
        "lease": store.lease(),
        "mark": place.mark,
        "token": place.lease()["spec"]["leaseTransitions"],
        "runs": store.runs(),
        "plan": store.read_plan(RUN),
        "events": [event["event"] for event in store.journal(RUN).events()],
        "checkpoints": store.checkpoints(),
        "quarantine": store.quarantine(),
        "names": names(place) + names(place, "secrets"),
    }


class EveryOther(Fault):
    """Spoils every second write that comes."""

    def takes(self, request: Request) -> bool:
        if request.method == "GET":
            return False
        self.met += 1
        return self.met % 2 == self.skip


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("first", [0, 1])
def test_any_answer_may_be_lost(
    lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path, drop: str, first: int
) -> None:
    """Each write of a life: its request never comes, or its answer does not."""
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    life(Place(place.lab, place.admin, place.namespace, place.service, kubeconfig))
    wanted = looks(place)
    assert (wanted["events"], wanted["mark"], wanted["lease"]) == (["planned", "begin", "finished"], "", None)
    fault_proxy.faults.append(EveryOther(drop=drop, skip=first))
    other = Place(place.lab, place.admin, place.namespace, f"{place.service}-2", kubeconfig)
    life(other)
    assert looks(other) == wanted
    lost = [seen for seen in fault_proxy.requests if seen.fault]
    assert len(lost) > 8
