# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_applied import LAST_APPLIED, kept_by_apply, keys_kept_by_apply
from ansible.module_utils.rollbackctl.kube_objects import Workload, template_of

from tests.unit.module_utils.kube_recorded import recorded

API = Workload("deployment", "api", "shop")


def applied(item: dict[str, Any], file: Any) -> dict[str, Any]:
    item["metadata"]["annotations"] = {LAST_APPLIED: file if isinstance(file, str) else json.dumps(file)}
    return item


def test_what_only_the_target_has_is_kept_unless_it_was_applied_before() -> None:
    item = recorded("deployment")
    target = template_of(item)
    target["spec"]["containers"].append({"name": "logger", "image": "x"})
    target["metadata"].setdefault("annotations", {})["team"] = "shop"
    live = template_of(item)
    said = kept_by_apply(API, applied(item, {"spec": {"template": live}}), target)
    assert "will keep template.metadata.annotations.team, template.spec.containers[logger], which only" in said
    item = applied(recorded("deployment"), {"spec": {"template": target}})
    assert kept_by_apply(API, item, target) == "", "the next apply knows them"


@pytest.mark.parametrize("file", [None, "not JSON", "[]"])
def test_without_a_file_that_was_applied_nothing_is_known(file: str | None) -> None:
    item = recorded("deployment") if file is None else applied(recorded("deployment"), file)
    target = template_of(item)
    target["spec"]["containers"].append({"name": "logger", "image": "x"})
    assert kept_by_apply(API, item, target) == ""
    assert keys_kept_by_apply("configmap/app", item, ["OLD"]) == ""


def test_keys_of_a_config_map() -> None:
    item = applied({"metadata": {}}, {"data": {"LEVEL": "secret value"}, "stringData": {"TOKEN": "x"}})
    said = keys_kept_by_apply("configmap/app", item, ["OLD", "LEVEL", "TOKEN"])
    assert "will keep key OLD, which only" in said
    assert "secret value" not in said
    many = keys_kept_by_apply("configmap/app", item, [f"KEY{number}" for number in range(9)])
    assert "key KEY5 and 3 more, which only" in many
