# SPDX-License-Identifier: GPL-3.0-or-later
"""Stopping one object and giving it back: the patches, and what is found to be otherwise. Nothing is sent here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.errors import StepFailed
from ansible.module_utils.rollbackctl.kube_hold import (
    LABEL,
    NOTE,
    SHUTDOWN,
    Thing,
    giving_back,
    set_going,
    stopping,
)

from tests.unit.module_utils.traffic_lab import BEHAVIOR, RUN, patched, thing

DISABLED = {"scaleUp": {"selectPolicy": "Disabled"}, "scaleDown": {"selectPolicy": "Disabled"}}
VALUES = [
    ("deployment", 5),
    ("statefulset", 1),
    ("cronjob", False),
    ("service", {"app": "api", "track": "stable"}),
    ("horizontalpodautoscaler", BEHAVIOR),
    ("horizontalpodautoscaler", {"scaleUp": {"selectPolicy": "Disabled"}}),
    ("horizontalpodautoscaler", None),
]
STOPPED = [
    ("deployment", 0),
    ("cronjob", True),
    ("service", {"app": "api", LABEL: "true"}),
    ("horizontalpodautoscaler", DISABLED),
]
ids = [f"{kind}-{json.dumps(value)[:24]}" for kind, value in VALUES]


def shown(one: Thing) -> str:
    meta = {key: value for key, value in one.item["metadata"].items() if key != "resourceVersion"}
    return json.dumps({**one.item, "metadata": meta}, sort_keys=True)


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
def test_what_was_stopped_is_given_back_exactly(kind: str, value: Any) -> None:
    before = thing(kind, value)
    stopped = patched(before, stopping(before, RUN, SHUTDOWN))
    assert stopped.stopped
    assert stopped.note is not None
    assert (stopped.note.run, stopped.note.reason, stopped.note.value) == (RUN, SHUTDOWN, value)
    assert stopped.note.ready == 2
    operations, otherwise = giving_back(stopped)
    assert otherwise == ""
    assert shown(patched(stopped, operations)) == shown(before)


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
def test_stopping_again_and_giving_back_again_change_nothing(kind: str, value: Any) -> None:
    before = thing(kind, value, theirs="kept")
    stopped = patched(before, stopping(before, RUN, SHUTDOWN))
    assert stopping(stopped, "rb-another", SHUTDOWN) == []
    back = patched(stopped, giving_back(stopped)[0])
    assert giving_back(back) == ([], "")
    assert shown(back) == shown(before)


@pytest.mark.parametrize(("kind", "value"), STOPPED, ids=[kind for kind, _ in STOPPED])
def test_what_is_stopped_already_is_left_so(kind: str, value: Any) -> None:
    one = thing(kind, value)
    assert one.stopped
    assert stopping(one, RUN, SHUTDOWN) == []
    assert giving_back(one) == ([], "")


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
def test_every_patch_holds_only_for_the_object_that_was_read(kind: str, value: Any) -> None:
    before = thing(kind, value)
    there = stopping(before, RUN, SHUTDOWN)
    back = giving_back(patched(before, there))[0]
    for operations, version in ((there, "7"), (back, "8")):
        assert operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": version}


def set_to(one: Thing, value: Any) -> Thing:
    """Somebody else sets the field meanwhile."""
    spec = {**one.item["spec"], one.kind.field: value}
    return Thing(one.kind, {**one.item, "spec": spec})


@pytest.mark.parametrize(
    ("kind", "value", "meanwhile", "said"),
    [
        ("deployment", 5, 2, "deployment/api was set to 2 by somebody and left so; it had 5"),
        ("deployment", 5, 5, "deployment/api was set going by somebody already"),
        ("cronjob", False, False, "cronjob/api was set going by somebody already"),
        ("service", {"app": "api"}, {"app": "new"}, "service/api was set going by somebody already"),
        ("horizontalpodautoscaler", BEHAVIOR, None, "horizontalpodautoscaler/api was set going by somebody already"),
    ],
)
def test_what_somebody_set_meanwhile_is_left_and_said(kind: str, value: Any, meanwhile: Any, said: str) -> None:
    before = thing(kind, value)
    changed = set_to(patched(before, stopping(before, RUN, SHUTDOWN)), meanwhile)
    operations, otherwise = giving_back(changed)
    assert otherwise == said
    after = patched(changed, operations)
    assert after.value == meanwhile
    assert after.note is None


def test_a_selector_that_somebody_edited_while_it_was_closed_is_opened_with_their_edit() -> None:
    before = thing("service", {"app": "api"})
    changed = set_to(patched(before, stopping(before, RUN, SHUTDOWN)), {"app": "green", LABEL: "true"})
    operations, otherwise = giving_back(changed)
    assert "changed by somebody" in otherwise
    assert patched(changed, operations).value == {"app": "green"}


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
def test_where_somebody_removed_the_note_what_was_recorded_counts(kind: str, value: Any) -> None:
    before = thing(kind, value)
    stopped = patched(before, stopping(before, RUN, SHUTDOWN))
    bare = Thing(stopped.kind, {**stopped.item, "metadata": before.item["metadata"]})
    operations, otherwise = giving_back(bare, value)
    assert "its note was removed by somebody" in otherwise
    assert patched(bare, operations).value == value
    assert giving_back(bare) == ([], "")


@pytest.mark.parametrize("text", ["", "5", "{}", '{"run": "x", "for": "fence", "ready": 1}', '{"run": "x", "repli'])
def test_a_damaged_note_is_an_error_that_says_what_to_do(text: str) -> None:
    with pytest.raises(StepFailed, match="deployment/api: its annotation") as caught:
        giving_back(thing("deployment", 0, **{NOTE: text}))
    assert "Set replicas by hand" in caught.value.next_step


def test_a_stale_note_of_another_run_is_replaced() -> None:
    before = thing("deployment", 5)
    stale = set_to(patched(before, stopping(before, "rb-old", SHUTDOWN)), 3)
    stopped = patched(stale, stopping(stale, RUN, SHUTDOWN))
    assert stopped.note is not None
    assert (stopped.note.run, stopped.note.value) == (RUN, 3)


def test_who_set_it_going_again_is_named() -> None:
    one = thing("deployment", 2)
    fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
    one.item["metadata"]["managedFields"] = [
        {"manager": "kubectl", "time": "2026-11-21T09:00:00Z", "fieldsV1": fields},
        {"manager": "argocd-controller", "time": "2026-11-21T09:30:00Z", "fieldsV1": fields},
        {"manager": "kube-controller-manager", "time": "2026-11-21T09:40:00Z", "fieldsV1": {"f:status": {}}},
    ]
    assert "deployment/api was stopped and is 2 again, set by argocd-controller at" in set_going(one).message
