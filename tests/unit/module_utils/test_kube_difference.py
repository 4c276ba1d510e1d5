# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_difference import (
    ADDED,
    GONE,
    OTHER,
    at,
    compare,
    covered,
    shown,
    unit_of,
    without,
    writer,
)

from tests.unit.module_utils.kube_recorded import recorded


def template(**more: Any) -> dict[str, Any]:
    containers = [
        {"name": "api", "image": "a:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
        {"name": "beside", "image": "b:1", "args": ["x", "y"]},
    ]
    return {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": containers, **more}}


def differences(first: Any, second: Any) -> list[tuple[str, str]]:
    return [(one.kind, str(one)) for one in compare(first, second)]


def changed(change: Any) -> dict[str, Any]:
    other = template()
    change(other)
    return other


API, BESIDE = ("spec", "containers", "[api]"), ("spec", "containers", "[beside]")


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (template(), []),
        (template(volumes=[], nodeSelector={}, hostNetwork=None), []),
        (changed(lambda t: t["spec"]["containers"][0].update(image="a:2")), [(OTHER, "spec.containers[api].image")]),
        (
            changed(lambda t: t["spec"]["containers"][0]["env"][1].update(value="3")),
            [(OTHER, "spec.containers[api].env[B].value")],
        ),
        (
            changed(lambda t: t["spec"]["containers"][0]["env"].insert(0, {"name": "C", "value": "3"})),
            [(ADDED, "spec.containers[api].env[C]")],
        ),
        (changed(lambda t: t["spec"]["containers"].pop()), [(GONE, "spec.containers[beside]")]),
        (changed(lambda t: t["spec"]["containers"].reverse()), [(OTHER, "spec.containers")]),
        (changed(lambda t: t["spec"]["containers"][1].update(args=["x"])), [(OTHER, "spec.containers[beside].args")]),
        (template(nodeSelector={"disk": "fast"}), [(ADDED, "spec.nodeSelector.disk")]),
        (template(initContainers=[{"name": "i"}, {"name": "j"}]), [
            (ADDED, "spec.initContainers[i]"), (ADDED, "spec.initContainers[j]")
        ]),
        (changed(lambda t: t["metadata"].update(annotations={"a/b": "1", "c": "2"})), [
            (ADDED, "metadata.annotations.a/b"), (ADDED, "metadata.annotations.c")
        ]),
        (changed(lambda t: t["metadata"].pop("labels")), [(GONE, "metadata.labels.app")]),
        (template(tolerations=[{"key": "x"}]), [(ADDED, "spec.tolerations")]),
    ],
)  # fmt: skip
def test_places_are_called_by_their_names(other: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert differences(template(), other) == [(kind, f"template.{place}") for kind, place in found]


def test_a_place_is_found_and_left_out() -> None:
    image = (*API, "image")
    assert (at(template(), image), at(template(), ("spec", "nothing", "[x]"))) == ("a:1", None)
    assert unit_of((*API, "env", "[A]", "value")) == (*API, "env", "[A]")
    assert (unit_of(image), unit_of(("metadata", "annotations", "x"))) == (API, ("metadata", "annotations", "x"))
    rest = without(template(), [BESIDE, (*API, "env", "[A]"), ("metadata", "labels", "app"), ("spec", "no", "[x]")])
    assert differences(template(), rest) == [
        (GONE, "template.metadata.labels.app"),
        (GONE, "template.spec.containers[api].env[A]"),
        (GONE, "template.spec.containers[beside]"),
    ]
    assert covered(image, [API])
    assert not covered(API, [image])
    assert shown(()) == "template"


def test_who_wrote_a_place_last() -> None:
    item = recorded("deployment")
    below: Any = {"f:image": {}, "f:env": {'k:{"name":"A"}': {".": {}, "f:value": {}}}}
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"api"}': below}}}}}
    item["metadata"]["managedFields"] = [
        {"manager": "early", "time": "2026-12-01T09:00:00Z", "fieldsV1": fields},
        {"manager": "late", "time": "2026-12-01T10:00:00Z", "fieldsV1": fields},
        {"manager": "status", "time": "2026-12-01T11:00:00Z", "subresource": "status", "fieldsV1": fields},
    ]
    found = writer(item, (*API, "env", "[A]", "value"))
    assert str(found) == "late at 2026-12-01T10:00:00Z"
    assert writer(item, (*API, "env", "[B]", "value")) is None
    assert writer(item, ("metadata", "annotations", "x")) is None
