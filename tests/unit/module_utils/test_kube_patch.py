# SPDX-License-Identifier: GPL-3.0-or-later
"""The patches are applied by the API server itself, in trial (dry run), to a paused Deployment: it starts no pod."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError
from ansible.module_utils.rollbackctl.kube_objects import STAMP
from ansible.module_utils.rollbackctl.kube_patch import FAST, HELD, Patch, held, pointer

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace
from tests.support.kube_service import CAUSE, GOOD, OTHERS, KubeService

Item = dict[str, Any]
USUAL = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}
OURS = f"{HELD}-not"


@pytest.fixture(scope="module")
def service(lab_cluster: Cluster, admin: Client) -> Iterator[KubeService]:
    with fresh_namespace(admin, "patch") as namespace:
        found = KubeService(lab_cluster, admin, namespace)
        found.make(replicas=3, spec={"paused": True, "strategy": USUAL}, cause="bad", wait=False)
        plain = {"paused": True, "strategy": {"type": "Recreate"}}
        found.make("deployment/plain", spec=plain, wait=False)
        found.edit("deployment/plain", {"op": "remove", "path": "/metadata/annotations"})
        found.serve()
        yield found


def other(item: Mapping[str, Any]) -> Item:
    template: Item = copy.deepcopy(item["spec"]["template"])
    template["spec"]["containers"][0]["image"] += "-old"
    return template


def having(item: Item, *path: str, value: Any) -> Item:
    """Return an object with a value at a path; None: without it."""
    changed = copy.deepcopy(item)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = value
    return changed


def note(item: Item, value: str | None, key: str = HELD) -> Item:
    return having(item, "metadata", "annotations", key, value=value)


def with_template(item: Item) -> Item:
    return having(item, "spec", "template", value=other(item))


HOLDING = json.dumps({"strategy": USUAL}, sort_keys=True)
BOTH = json.dumps({"replicas": 3, "strategy": USUAL}, sort_keys=True)

# What is asked of the patch, and what the object is to be then.
CASES: dict[str, tuple[Callable[[Item], Patch], Callable[[Item], Item]]] = {
    "nothing": (Patch, lambda item: item),
    "template": (lambda item: Patch(item).template(other(item)), with_template),
    "the same template": (lambda item: Patch(item).template(item["spec"]["template"]), lambda item: item),
    "template and cause": (
        lambda item: Patch(item).template(other(item), cause="release 1.3"),
        lambda item: note(with_template(item), "release 1.3", CAUSE),
    ),
    "no cause": (
        lambda item: Patch(item).template(other(item), cause=""),
        lambda item: note(with_template(item), None, CAUSE),
    ),
    "stamp": (
        lambda item: Patch(item).template(item["spec"]["template"], stamp="s1"),
        lambda item: having(item, "spec", "template", "metadata", "annotations", value={STAMP: "s1"}),
    ),
    "go on": (lambda item: Patch(item).paused(wanted=False), lambda item: having(item, "spec", "paused", value=None)),
    "stay paused": (lambda item: Patch(item).paused(wanted=True), lambda item: item),
    "surge": (
        lambda item: Patch(item).surge(),
        lambda item: note(having(item, "spec", "strategy", value=FAST), HOLDING),
    ),
    "scale": (
        lambda item: Patch(item).scale(0),
        lambda item: note(having(item, "spec", "replicas", value=0), json.dumps({"replicas": 3})),
    ),
    "scale and surge": (
        lambda item: Patch(item).scale(0).surge(),
        lambda item: note(having(having(item, "spec", "replicas", value=0), "spec", "strategy", value=FAST), BOTH),
    ),
    "replicas for good": (lambda item: Patch(item).replicas(1), lambda item: having(item, "spec", "replicas", value=1)),
    "nothing to give back": (lambda item: Patch(item).give_back(), lambda item: item),
}  # fmt: skip


def tried(service: KubeService, patch: Patch, workload: str = "deployment/api") -> Item:
    if not patch.operations:
        return dict(patch.item)
    return service.admin.json_patch(service.path(workload), patch.operations, dry_run=True)


def compared(item: Mapping[str, Any]) -> Item:
    """Everything but what the server counts and notes by itself."""
    found: Item = copy.deepcopy(dict(item))
    for name in ("generation", "resourceVersion", "managedFields"):
        found["metadata"].pop(name, None)
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_patch_changes_what_was_asked_and_nothing_else(service: KubeService, name: str) -> None:
    ask, becomes = CASES[name]
    item = service.get()
    before = copy.deepcopy(item)
    assert compared(tried(service, ask(item))) == compared(becomes(item))
    assert item == before, "what was read stays as it is"


@pytest.mark.parametrize("name", ["surge", "scale", "scale and surge"])
def test_what_was_held_is_given_back_byte_for_byte(service: KubeService, name: str) -> None:
    item = service.get()
    made = tried(service, CASES[name][0](item))
    assert held(made) != {}
    # The trial's result was never stored: the way back is tried as one patch with the way there.
    there, back = CASES[name][0](item).operations, Patch(made).give_back().operations[1:]
    done = service.admin.json_patch(service.path("deployment/api"), [*there, *back], dry_run=True)
    assert compared(done) == compared(item)


def test_what_is_held_first_stays_what_is_given_back() -> None:
    item = {
        "metadata": {"resourceVersion": "1", "annotations": {HELD: HOLDING}},
        "spec": {"strategy": FAST, "replicas": 2},
    }
    operations = Patch(item).surge().scale(0).operations
    (kept,) = [json.loads(one["value"]) for one in operations if one["path"].endswith("held")]
    assert kept == {"strategy": USUAL, "replicas": 2}


def test_an_object_without_annotations_gets_some(service: KubeService) -> None:
    item = service.get("deployment/plain")
    item["metadata"].pop("annotations", None)
    made = tried(service, Patch(item).template(other(item), cause="x").surge(), "deployment/plain")
    assert made["metadata"]["annotations"][CAUSE] == "x"
    assert held(made) == {"strategy": {"type": "Recreate"}}


@pytest.mark.parametrize(
    ("key", "text"), [("a/b", "a~1b"), ("a~b", "a~0b"), ("~1", "~01"), ("a.example.com/b~", "a.example.com~1b~0")]
)
def test_keys_in_pointers(key: str, text: str) -> None:
    assert pointer(key) == text


def test_a_service_selects_others(service: KubeService) -> None:
    item = service.get("services/api")
    made = tried(service, Patch(item).select({"app": "api", "version": "blue"}), "services/api")
    assert compared(made) == compared(having(item, "spec", "selector", value={"app": "api", "version": "blue"}))


def test_nothing_is_sent_onto_what_somebody_else_has_written_meanwhile(service: KubeService) -> None:
    item = service.get()
    service.edit("deployment/api", {"op": "add", "path": "/metadata/labels", "value": {"theirs": "1"}})
    with pytest.raises(KubeError) as caught:
        tried(service, Patch(item).template(other(item)))
    assert (caught.value.status, caught.value.causes) == (422, ())
    assert service.get()["metadata"]["labels"] == {"theirs": "1"}
    assert service.get()["metadata"]["annotations"].items() >= {**OTHERS, CAUSE: "bad"}.items()
    assert service.get()["spec"]["template"]["spec"]["containers"][0]["image"].endswith(GOOD)


def test_nothing_held_is_nothing() -> None:
    assert held({"metadata": {}}) == {}
    assert held({"metadata": {"annotations": {OURS: "{}"}}}) == {}
