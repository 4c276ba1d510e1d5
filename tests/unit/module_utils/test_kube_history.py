# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.kube_history import Revision, find, revisions, split_wanted
from ansible.module_utils.rollbackctl.kube_objects import image_text, images, template_hash, template_of

from tests.unit.module_utils.kube_recorded import listed, recorded


def api(item: str = "deployment-second") -> list[Revision]:
    return revisions(recorded(item), listed("replicasets"))


def test_a_history_is_the_workload_s_own_newest_first() -> None:
    """Another application shares the label: its ReplicaSet is none of ours."""
    history = api()
    assert [revision.number for revision in history] == [3, 2, 1]
    assert [image_text(revision.template) for revision in history] == ["shop:1.5.0", "shop:1.5.0", "shop:1.4.0"]
    assert [revision.cause for revision in history] == ["release 1.5.0", "release 1.5.0", "release 1.4.0"]
    assert [revision.live for revision in history] == [True, True, False], "a restart makes no other version"
    assert str(history[-1]).startswith("revision:1 (shop:1.4.0, 20")
    assert str(history[0]).endswith("Z, release 1.5.0, live)")


@pytest.mark.parametrize(("name", "numbers", "live"), [("statefulset-rolling", [3, 2, 1], 3), ("daemonset", [2, 1], 1)])
def test_controller_revisions_are_a_history_too(name: str, numbers: list[int], live: int) -> None:
    history = revisions(recorded(name), listed("controllerrevisions"))
    assert [revision.number for revision in history] == numbers
    assert [revision.number for revision in history if revision.live] == [live]
    assert "$patch" not in history[0].template


def test_after_an_undo_the_old_version_has_a_new_number() -> None:
    sets = listed("replicasets")
    for item in sets:
        if item["metadata"]["name"] == "api-5786c6c68f":
            item["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "4"
    history = revisions(recorded("deployment"), sets)
    assert [(revision.number, revision.live) for revision in history] == [(4, True), (3, False), (2, False)]


@pytest.mark.parametrize(
    ("want", "found"),
    [
        ("revision:2", {"deployment/api": "revision:2", "deployment/worker": "revision:2"}),
        (" version:1.4.0 ", {"deployment/api": "version:1.4.0", "deployment/worker": "version:1.4.0"}),
        ("image:shop=shop:1", {"deployment/api": "image:shop=shop:1", "deployment/worker": "image:shop=shop:1"}),
        (
            "deployment/api=revision:2, deployment/worker=image:shop=r.example.com/a/shop@sha256:00",
            {"deployment/api": "revision:2", "deployment/worker": "image:shop=r.example.com/a/shop@sha256:00"},
        ),
    ],
)
def test_one_form_for_all_or_one_for_each(want: str, found: dict[str, str]) -> None:
    assert split_wanted(want, ["deployment/api", "deployment/worker"]) == found


@pytest.mark.parametrize(
    "want",
    [
        "deployment/api=revision:2",
        "deployment/api=revision:2,deployment/other=revision:1",
        "deployment/api=revision:2,deployment/worker=revision:1,deployment/more=1",
        "deployment/api=revision:2,revision:1",
        "revision:2,revision:1",
        ",",
    ],
)
def test_a_workload_without_a_form_is_refused(want: str) -> None:
    with pytest.raises(Refused, match=r"must say for each workload .* Workloads: deployment/api, deployment/worker"):
        split_wanted(want, ["deployment/api", "deployment/worker"])


def look(form: str, item: dict[str, Any] | None = None) -> tuple[str, str]:
    template, cause = find("deployment/api", item or recorded("deployment-second"), api(), form)
    return ", ".join(images(template).values()), cause


@pytest.mark.parametrize(
    ("form", "image", "cause"),
    [
        ("revision:1", "lab.local/shop:1.4.0", "release 1.4.0"),
        ("1", "lab.local/shop:1.4.0", "release 1.4.0"),
        ("revision:3", "lab.local/shop:1.5.0", "release 1.5.0"),
        ("version:1.4.0", "lab.local/shop:1.4.0", "release 1.4.0"),
        ("image:lab.local/shop:1.4.0", "lab.local/shop:1.4.0", "release 1.4.0"),
        ("image:shop=lab.local/shop:1.4.0", "lab.local/shop:1.4.0", "release 1.4.0"),
        # Nobody knows the cause of a version that is not in the history; the bad one's would be wrong.
        ("version:1.3.9", "lab.local/shop:1.3.9", ""),
        ("image:other.example.com:5000/shop@sha256:" + "0" * 64, "other.example.com:5000/shop@sha256:" + "0" * 64, ""),
    ],
)
def test_what_a_form_names(form: str, image: str, cause: str) -> None:
    assert look(form) == (image, cause)


def test_a_revision_is_its_whole_template() -> None:
    template, _ = find("deployment/api", recorded("deployment-second"), api(), "revision:1")
    assert template_hash(template) == template_hash(template_of(recorded("deployment")))


@pytest.mark.parametrize(
    ("reference", "image"),
    [
        ("shop", "shop:1.4.0"),
        ("shop:1.5.0", "shop:1.4.0"),
        ("registry:5000/shop", "registry:5000/shop:1.4.0"),
        ("registry:5000/a/shop:1.5.0@sha256:" + "0" * 64, "registry:5000/a/shop:1.4.0"),
    ],
)
def test_a_version_is_another_tag_of_the_same_image(reference: str, image: str) -> None:
    item = recorded("deployment-second")
    item["spec"]["template"]["spec"]["containers"][0]["image"] = reference
    assert look("version:1.4.0", item)[0] == image


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("revision:9", r"there is no revision:9\. Known: revision:3 .*revision:1 \(shop:1\.4\.0"),
        ("revision:0", "there is no revision:0"),
        ("-1", r"names no version; write revision:NUMBER, .*History: revision:3 .*; revision:1"),
        ("previous", "names no version"),
        ("revision:", "names no version"),
        ("image:", "names no version"),
        ("version:", "names no version"),
        ("version:1.4.0 --all", "names no version"),
        ("version:../x", "names no version"),
        ("image:--help", "is not an image"),
        ("image:a b", "is not an image"),
        ("image:{{ x }}", "is not an image"),
        ("image:sidecar=x:1", "there is no container 'sidecar'; there are shop"),
    ],
)
def test_anything_else_is_refused_with_what_there_is(form: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        look(form)


def test_with_several_containers_the_one_that_is_meant_is_named() -> None:
    item = recorded("deployment-second")
    item["spec"]["template"]["spec"]["containers"].append({"name": "proxy", "image": "proxy:1"})
    for form in ("version:1.4.0", "image:lab.local/shop:1.4.0"):
        with pytest.raises(Refused, match=r"does not say which container; write image:CONTAINER=REFERENCE with one of"):
            look(form, item)
    assert look("image:proxy=proxy:2", item)[0] == "lab.local/shop:1.5.0, proxy:2"
    item["spec"]["template"]["spec"]["containers"][0]["name"] = "api"  # as the workload is called: that one is meant
    assert look("version:1.4.0", item)[0] == "lab.local/shop:1.4.0, proxy:1"


def test_no_history_is_said() -> None:
    with pytest.raises(Refused, match=r"there is no revision:1\. Known: none"):
        find("deployment/api", recorded("deployment"), [], "revision:1")
