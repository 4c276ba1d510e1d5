# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal in a ConfigMap: durable, in order, by the holder of the run alone, and true when answers are lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.durable import digest
from ansible.module_utils.rollbackctl.errors import JournalDamaged, RollbackError
from ansible.module_utils.rollbackctl.kube_journal import COUNT_NOTE, FENCE_LABEL, LARGE_BYTES, TOKEN_NOTE, KubeJournal
from ansible.module_utils.rollbackctl.kube_store import OPENED_NOTE, KubernetesStore

from lab.kubernetes.cluster import Cluster
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import FaultProxy, Request
from tests.unit.module_utils.engine_parts import RUN
from tests.unit.module_utils.kube_store_parts import (
    STORE_RULES,
    Place,
    place,
    shared_kubeconfig,
    shared_namespace,
    store,
    take,
)

__all__ = ["place", "shared_kubeconfig", "shared_namespace", "store"]


def words(store: KubernetesStore) -> list[str]:
    return [event["event"] for event in store.journal(RUN).events()]


def opened(store: KubernetesStore, *events: str) -> KubeJournal:
    """Return the journal of a run whose lease the store holds, with some events in it."""
    take(store)
    journal = store.journal(RUN)
    for event in events:
        journal.append(event)
    return journal


def run_object(place: Place) -> dict[str, Any]:
    return place.admin.get(place.object(f"run-{RUN}"))


def test_a_run_that_never_was_has_no_events(store: KubernetesStore) -> None:
    assert store.journal(RUN).events() == []
    with pytest.raises(RollbackError, match="is not there"):
        store.journal(RUN).append("begin")


def test_events_come_back_in_order(place: Place, store: KubernetesStore) -> None:
    journal = opened(store)
    said = [journal.append("begin", component="api", number=number, text='"ü\n{{ x }}') for number in range(12)]
    assert place.store.journal(RUN).events() == said
    assert said[0]["at"].endswith("Z")
    assert [event["number"] for event in said] == list(range(12))


def test_each_event_has_its_checksum(place: Place, store: KubernetesStore) -> None:
    opened(store, "begin")
    sealed = json.loads(run_object(place)["data"]["event-00000"])
    assert sealed["sha256"] == digest(sealed["entry"])


def test_an_event_that_was_written_meanwhile_is_not_overwritten(place: Place, store: KubernetesStore) -> None:
    """A request of a killed process of this same run may arrive after the next one has read the journal."""
    journal = opened(store, "opened")
    late = place.store
    late._token = 1
    late.journal(RUN).append("late")
    assert journal.append("begin")["event"] == "begin"
    assert words(place.store) == ["opened", "late", "begin"]
    assert [event["event"] for event in journal.events()] == ["opened", "late", "begin"]


def test_an_older_controller_cannot_write(place: Place, store: KubernetesStore) -> None:
    journal = opened(store, "opened")
    take(place.store, controller="second")
    with pytest.raises(RollbackError, match="has taken this run over") as refusal:
        journal.append("begin")
    assert refusal.value.next_step == "rollbackctl status"
    assert words(place.store) == ["opened"]


def test_an_older_controller_cannot_take_the_journal_back(place: Place, store: KubernetesStore) -> None:
    """It slept between taking the lease and opening the journal."""
    with store.locked():
        store.acquire(RUN, "ops", "first", 1, 60.0)
        place.expire()
    heir = place.store
    take(heir, controller="second")
    with pytest.raises(RollbackError, match="has taken this run over"):
        store.open_journal(RUN)
    heir.journal(RUN).append("begin")
    assert words(place.store) == ["begin"]


def test_opening_it_again_keeps_what_is_in_it(place: Place, store: KubernetesStore) -> None:
    opened(store, "opened", "begin")
    store.write_plan(RUN, {"run": RUN})
    take(place.store, controller="second")
    assert words(place.store) == ["opened", "begin"]
    assert place.store.read_plan(RUN) == {"run": RUN}
    assert run_object(place)["metadata"]["annotations"] == {TOKEN_NOTE: "2", OPENED_NOTE: "1", COUNT_NOTE: "2"}


def damaged(place: Place, number: int) -> None:
    """Assert that nobody reads or writes the journal, that the event is named, and that the others are still told."""
    heir = place.store
    take(heir, controller="second")
    key = f"event-{number:05d}"
    for do in (heir.journal(RUN).events, lambda: heir.journal(RUN).append("four")):
        with pytest.raises(JournalDamaged, match=f"run-{RUN}, key {key},") as refusal:
            do()
    assert "kubectl" in refusal.value.next_step
    known, damage = place.store.journal(RUN).readable()
    assert damage is not None
    assert [event["event"] for event in known] == [
        word for index, word in enumerate(("one", "two", "three")) if index != number
    ]
    assert "four" not in json.dumps(run_object(place)["data"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_event_is_named_and_nothing_is_written_over_it(
    place: Place, store: KubernetesStore, number: int
) -> None:
    """Nothing is half written here, so the last event is no exception."""
    opened(store, "one", "two", "three")
    place.flip(f"run-{RUN}", "data", f"event-0000{number}")
    damaged(place, number)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"sha256": "x", "at": "nowhere"}', "\N{SNOWMAN}", None])
def test_what_is_no_event_or_is_gone_is_named(place: Place, store: KubernetesStore, text: str | None) -> None:
    opened(store, "one", "two", "three")
    place.admin.merge_patch(place.object(f"run-{RUN}"), {"data": {"event-00001": text}})
    damaged(place, 1)


def test_the_fence_is_a_label_in_step_with_the_events(place: Place, store: KubernetesStore) -> None:
    journal = opened(store, "opened")
    assert FENCE_LABEL not in run_object(place)["metadata"]["labels"]
    journal.append("fence-closing", components=["web"])
    assert run_object(place)["metadata"]["labels"][FENCE_LABEL] == "closed"
    journal.append("fence-closed")
    assert run_object(place)["metadata"]["labels"][FENCE_LABEL] == "closed"
    journal.append("fence-opened", by="run")
    assert run_object(place)["metadata"]["labels"][FENCE_LABEL] == "open"


def test_an_event_larger_than_an_object_may_hold_goes_beside_it(place: Place, store: KubernetesStore) -> None:
    journal = opened(store, "opened")
    large = {"templates": "".join(digest(number) for number in range(40_000))}  # 2.5 MB that do not compress well
    said = journal.append("captured", component="api", version=large)
    journal.append("begin", component="api")
    assert place.store.journal(RUN).events()[1] == said
    assert words(place.store) == ["opened", "captured", "begin"]
    assert max(map(len, run_object(place)["data"].values())) < LARGE_BYTES
    pieces = [
        item["metadata"]["name"]
        for item in place.admin.names(f"/api/v1/namespaces/{place.namespace}/configmaps")
        if f"run-{RUN}-event-00001" in item["metadata"]["name"]
    ]
    assert len(pieces) >= 3
    assert place.store.runs() == [RUN]  # pieces are no runs
    place.admin.delete(f"/api/v1/namespaces/{place.namespace}/configmaps/{pieces[-1]}")
    with pytest.raises(JournalDamaged, match="key event-00001"):
        words(place.store)


def test_many_events_fit(place: Place, store: KubernetesStore) -> None:
    journal = opened(store)
    for number in range(40):
        journal.append("begin", component=f"component-{number}", text="x" * 10_000)
    assert len(place.store.journal(RUN).events()) == 40


# -- answers that are lost --------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path) -> KubernetesStore:
    """A store behind the fault proxy, which holds the lease."""
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    made = Place(place.lab, place.admin, place.namespace, place.service, kubeconfig).store
    take(made)
    return made


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_event_whose_answer_is_lost_is_written_once(
    place: Place, spoilt: KubernetesStore, fault_proxy: FaultProxy, number: int, drop: str
) -> None:
    fault = fault_proxy.add("/configmaps/", "PATCH", skip=number, drop=drop)
    journal = spoilt.journal(RUN)
    for event in ("one", "fence-closing", "three"):
        journal.append(event)
    assert words(place.store) == ["one", "fence-closing", "three"]
    assert fault.met > number
    assert run_object(place)["metadata"]["annotations"][COUNT_NOTE] == "3"


def test_a_repeated_request_changes_nothing(place: Place, spoilt: KubernetesStore, fault_proxy: FaultProxy) -> None:
    sent: list[Request] = []
    fault_proxy.add("/configmaps/", "PATCH", times=None, call=sent.append)
    journal = spoilt.journal(RUN)
    journal.append("one")
    journal.append("two")
    for request in sent:
        with pytest.raises(RollbackError, match="422 Invalid"):
            place.admin.json_patch(place.object(f"run-{RUN}"), request.json())
    assert words(place.store) == ["one", "two"]


def test_a_refusal_is_said_and_nothing_is_written(
    place: Place, spoilt: KubernetesStore, fault_proxy: FaultProxy
) -> None:
    fault_proxy.add("/configmaps/", "PATCH", status=403)
    with pytest.raises(RollbackError, match="403 Forbidden"):
        spoilt.journal(RUN).append("one")
    assert words(place.store) == []


# -- several events, and the plan, as one -----------------------------------------------------------------------------


def test_what_belongs_together_is_one_request(place: Place, spoilt: KubernetesStore, fault_proxy: FaultProxy) -> None:
    with spoilt.locked():
        spoilt.renew(RUN, 1)
        journal = spoilt.journal(RUN)
        before = fault_proxy.count("PATCH", "/configmaps/")
        with journal.together():
            spoilt.write_plan(RUN, {"run": RUN})
            journal.append("planned")
            journal.append("fence-closing")
            assert [event["event"] for event in journal.events()] == ["planned", "fence-closing"]
            assert (words(place.store), place.store.read_plan(RUN)) == ([], None)
        assert fault_proxy.count("PATCH", "/configmaps/") == before + 1
    assert (words(place.store), place.store.read_plan(RUN)) == (["planned", "fence-closing"], {"run": RUN})
    assert run_object(place)["metadata"]["annotations"][COUNT_NOTE] == "2"
    assert run_object(place)["metadata"]["labels"][FENCE_LABEL] == "closed"
    journal.append("begin")
    assert words(place.store) == ["planned", "fence-closing", "begin"]


def test_nothing_is_written_when_what_belongs_together_breaks_off(place: Place, store: KubernetesStore) -> None:
    journal = opened(store, "opened")

    def breaks_off() -> None:
        with journal.together():
            journal.append("captured")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks_off()
    assert words(store) == words(place.store) == ["opened"]
    with journal.together():
        pass
    journal.append("begin")
    assert words(place.store) == ["opened", "begin"]


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_plan_with_its_event_whose_answer_is_lost_is_written_once(
    place: Place, spoilt: KubernetesStore, fault_proxy: FaultProxy, drop: str
) -> None:
    fault = fault_proxy.add("/configmaps/", "PATCH", drop=drop)
    with spoilt.locked():
        spoilt.renew(RUN, 1)
        journal = spoilt.journal(RUN)
        with journal.together():
            spoilt.write_plan(RUN, {"run": RUN})
            journal.append("planned")
    assert fault.met == 1
    assert (words(place.store), place.store.read_plan(RUN)) == (["planned"], {"run": RUN})
    assert run_object(place)["metadata"]["annotations"][COUNT_NOTE] == "1"


def test_an_older_controller_writes_neither_plan_nor_event(place: Place, store: KubernetesStore) -> None:
    journal = opened(store, "opened")
    take(place.store, controller="second")

    def writes() -> None:
        with journal.together():
            journal.write_plan({"plan.json.gz": ""})
            journal.append("planned")

    with pytest.raises(RollbackError, match="has taken this run over"):
        writes()
    assert (words(place.store), place.store.read_plan(RUN)) == (["opened"], None)
