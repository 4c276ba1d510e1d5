# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.kube_objects import (
    STAMP,
    Workload,
    cleaned,
    controller_uid,
    differences,
    image_text,
    images,
    made_hash,
    notes_of,
    pack_templates,
    parse_workload,
    template_hash,
    template_of,
    unpack_templates,
    with_images,
)

from tests.unit.module_utils.kube_recorded import listed, recorded

RESTARTED = "kubectl.kubernetes.io/restartedAt"
Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("deployment/api", "/apis/apps/v1/namespaces/shop/deployments/api"),
        ("statefulset/db-0.eu", "/apis/apps/v1/namespaces/shop/statefulsets/db-0.eu"),
        ("daemonset/a", "/apis/apps/v1/namespaces/shop/daemonsets/a"),
    ],
)
def test_a_workload_is_kind_and_name(text: str, path: str) -> None:
    workload = parse_workload(text, "shop")
    assert (str(workload), workload.path) == (text, path)


@pytest.mark.parametrize(
    "text",
    [
        "", "api", "deployment", "deployment/", "/api", "deployments/api", "Deployment/api", "pod/api",
        "replicaset/api", "deployment/API", "deployment/api/scale", "deployment/../secrets/x", "deployment/-api",
        "deployment/a b", "deployment/api?dryRun=All", "deployment/" + "a" * 254,
    ],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(Refused, match="deployment/NAME, statefulset/NAME, daemonset/NAME"):
        parse_workload(text, "shop")


def set_env(template: dict[str, Any]) -> None:
    template["spec"]["containers"][0]["env"][0]["value"] = "1"


def set_image(template: dict[str, Any]) -> None:
    template["spec"]["containers"][0]["image"] += "-fix"


def add_label(template: dict[str, Any]) -> None:
    template["metadata"]["labels"]["tier"] = "web"


def annotate(key: str) -> Change:
    def change(template: dict[str, Any]) -> None:
        template["metadata"].setdefault("annotations", {})[key] = "x"

    return change


def add_hash(template: dict[str, Any]) -> None:
    template["metadata"]["labels"]["pod-template-hash"] = "5786c6c68f"


def add_nothing(template: dict[str, Any]) -> None:
    template["$patch"] = "replace"
    template["metadata"] = {"creationTimestamp": None, "annotations": {}, **template["metadata"]}


@pytest.mark.parametrize(
    ("change", "version", "made"),
    [
        (set_env, "other", "other"),
        (set_image, "other", "other"),
        (add_label, "other", "other"),
        (annotate("example.com/config"), "other", "other"),
        (annotate(RESTARTED), "same", "other"),
        (annotate(STAMP), "same", "other"),
        (add_hash, "same", "same"),
        (add_nothing, "same", "same"),
    ],
)
def test_what_makes_another_version_and_what_other_pods(change: Change, version: str, made: str) -> None:
    template = recorded("deployment")["spec"]["template"]
    changed = copy.deepcopy(template)
    change(changed)
    assert (template_hash(changed) == template_hash(template)) is (version == "same")
    assert (made_hash(changed) == made_hash(template)) is (made == "same")


def test_nothing_is_changed_in_what_is_looked_at() -> None:
    template = recorded("deployment-restarted")["spec"]["template"]
    before = copy.deepcopy(template)
    template_hash(template)
    made_hash(template)
    cleaned(template)
    with_images(template, {"shop": "x"})
    assert template == before


def test_history_has_the_template_of_its_workload() -> None:
    """A ReplicaSet's has a label more, a ControllerRevision's a directive."""
    api = {set_["metadata"]["name"]: set_ for set_ in listed("replicasets")}
    assert template_hash(api["api-5786c6c68f"]["spec"]["template"]) == template_hash(
        template_of(recorded("deployment"))
    )
    found = {
        one["revision"]: one["data"]["spec"]["template"] for one in listed("controllerrevisions") if "db" in str(one)
    }
    assert template_hash(found[1]) == template_hash(template_of(recorded("statefulset")))
    assert "$patch" not in cleaned(found[1])


def test_only_the_controller_says_whose_an_object_is() -> None:
    owners = {item["metadata"]["name"]: controller_uid(item) for item in listed("replicasets")}
    api = recorded("deployment")["metadata"]["uid"]
    assert {name for name, uid in owners.items() if uid == api} == {
        "api-5786c6c68f", "api-79984b66bd", "api-7d88dc44c",
    }  # fmt: skip
    twin = next(item for item in listed("replicasets") if item["metadata"]["name"].startswith("twin"))
    assert twin["spec"]["selector"]["matchLabels"]["app"] == "api", "or this would prove nothing"
    assert controller_uid({"metadata": {}}) == ""
    assert controller_uid({"metadata": {"ownerReferences": [{"uid": "1"}]}}) == "", "an owner that controls nothing"


def test_images_are_those_of_all_containers() -> None:
    template = recorded("deployment")["spec"]["template"]
    template["spec"]["initContainers"] = [{"name": "wait", "image": "registry.example.com:5000/team/wait:1"}]
    assert images(template) == {"wait": "registry.example.com:5000/team/wait:1", "shop": "lab.local/shop:1.4.0"}
    assert image_text(template) == "shop:1.4.0, wait:1"
    other = with_images(template, {"wait": "wait:2"})
    assert images(other) == {"wait": "wait:2", "shop": "lab.local/shop:1.4.0"}
    assert differences(cleaned(template), other) == ["template.spec.initContainers[0].image"]


@pytest.mark.parametrize(
    ("wanted", "found", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["t.a"]),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, ["t.a.b[1].c"]),
        ({"a": [1]}, {"a": [1, 2]}, ["t.a"]),
        ({}, {"b": 1, "a": None}, ["t.b"]),
        ([], {}, ["t"]),
    ],
)
def test_where_two_templates_differ(wanted: Any, found: Any, paths: list[str]) -> None:
    assert differences(wanted, found, "t") == paths


def test_templates_are_packed_small_and_come_back_whole() -> None:
    template = template_of(recorded("deployment"))
    fifty = {f"deployment/api-{number}": template for number in range(50)}
    text = pack_templates(fifty)
    assert unpack_templates(text) == fifty
    assert len(text) < 2 * len(pack_templates({"deployment/api-0": template}))
    assert text == pack_templates(dict(reversed(fifty.items()))), "the same templates are the same text"


def test_no_annotations_are_none() -> None:
    assert notes_of({"metadata": {"annotations": None}}) == {}
    assert Workload("deployment", "a", "shop") < Workload("deployment", "b", "shop")
