# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client, Rule
from ansible.module_utils.rollbackctl.kube_objects import Workload, template_of
from ansible.module_utils.rollbackctl.kube_preflight import (
    image_findings,
    missing_rights,
    quantity,
    quota_problems,
    strategy_problem,
    targets_text,
    workload_rules,
)

from tests.unit.module_utils.kube_recorded import recorded
from tests.unit.module_utils.kube_server import Handler, client_of

API = Workload("deployment", "api", "shop")
DB = Workload("statefulset", "db", "shop")


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}, ""),
        ({"type": "OnDelete"}, "statefulset/db has the update strategy OnDelete: its pods change only when"),
        (
            {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
            "statefulset/db has a partition of 1: only some",
        ),
    ],
)
def test_a_template_that_would_not_reach_its_pods(strategy: dict[str, Any], words: str) -> None:
    item = recorded("statefulset")
    item["spec"]["updateStrategy"] = strategy
    assert strategy_problem(DB, item).startswith(words)
    assert bool(strategy_problem(DB, item)) is bool(words)


def test_what_is_being_deleted_is_not_put_back() -> None:
    item = recorded("deployment")
    item["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    assert strategy_problem(API, item) == "deployment/api is being deleted"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"), ("900", "900"), ("100m", "0.1"), ("1.5", "1.5"), ("2k", "2000"), ("1Ki", "1024"),
        ("64Mi", "67108864"), ("1G", "1000000000"),
        ("1Gi", "1073741824"), ("1Pi", str(2**50)), ("2E", str(2 * 10**18)), ("1e3", "1000"),
        ("5n", "0.000000005"), ("3u", "0.000003"), (2, "2"), ("what", "0"), ("1Zi", "0"), ("", "0"),
    ],
)  # fmt: skip
def test_quantities(text: Any, number: str) -> None:
    assert quantity(text) == Decimal(number)


@contextlib.contextmanager
def having(*items: dict[str, Any], status: int = 200) -> Iterator[Client]:
    """A client of a server whose every list is this one."""

    def answer(handler: Handler) -> None:
        if status != 200:
            handler.refuse(status, "Forbidden")
        else:
            handler.reply(200, {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": list(items)})

    with client_of(answer) as (client, _server):
        yield client


def quota(hard: dict[str, str], used: dict[str, str], **spec: Any) -> dict[str, Any]:
    item = recorded("resourcequota")
    item["spec"], item["status"] = {"hard": hard, **spec}, {"hard": hard, "used": used}
    return item


def deployment(replicas: int = 4, cpu: str = "500m", **strategy: Any) -> dict[str, Any]:
    item = recorded("deployment")
    item["spec"]["replicas"] = replicas
    item["spec"]["strategy"] = strategy or {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}
    container = item["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": cpu}, "limits": {"cpu": "1", "memory": "64Mi"}}
    return item


RECREATE = {"type": "Recreate"}
HALF = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}
ONE = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}


@pytest.mark.parametrize(
    ("hard", "used", "whole", "strategy", "words"),
    [
        ({"pods": "8"}, {"pods": "4"}, True, {}, ""),
        ({"pods": "7"}, {"pods": "4"}, True, {}, "quota small lets no 4 more pods in (4 of 7 are used)"),
        ({"pods": "5"}, {"pods": "4"}, False, {}, ""),
        ({"pods": "4"}, {"pods": "4"}, False, {}, "quota small lets no 1 more pods in (4 of 4 are used)"),
        ({"pods": "4"}, {"pods": "4"}, False, ONE, ""),
        ({"pods": "4"}, {"pods": "4"}, False, HALF, ""),
        ({"pods": "4"}, {"pods": "4"}, False, RECREATE, ""),
        ({"count/pods": "4"}, {"count/pods": "4"}, False, {}, "quota small lets no 1 more count/pods in"),
        ({"requests.cpu": "2100m"}, {"requests.cpu": "2"}, False, {}, "lets no 0.5 more requests.cpu in (2 of 2100m"),
        ({"cpu": "4"}, {"cpu": "2"}, True, {}, ""),
        ({"limits.memory": "300Mi"}, {"limits.memory": "256Mi"}, False, {}, "more limits.memory in"),
        ({"requests.memory": "1Ki"}, {"requests.memory": "0"}, False, {}, "more requests.memory in"),
        ({"services": "0"}, {"services": "9"}, True, {}, ""),
        ({"pods": "1Ti"}, {"pods": "4"}, True, {}, ""),
    ],
)
def test_whether_quotas_let_the_new_pods_in(
    hard: dict[str, str],
    used: dict[str, str],
    whole: bool,  # noqa: FBT001 - a table
    strategy: dict[str, Any],
    words: str,
) -> None:
    with having(quota(hard, used)) as client:
        found = quota_problems(client, "shop", {API: deployment(**strategy), DB: recorded("statefulset")}, whole=whole)
    assert len(found) == bool(words)
    assert words in "".join(found)


def test_a_quota_that_counts_only_some_pods_or_cannot_be_read_forbids_nothing() -> None:
    full: dict[str, Any] = {"hard": {"pods": "4"}, "used": {"pods": "4"}}
    with having(quota(**full, scopes=["BestEffort"]), quota(**full, scopeSelector={"matchExpressions": []})) as client:
        assert quota_problems(client, "shop", {API: deployment()}, whole=True) == []
    with having(quota(**full), status=403) as client:
        assert quota_problems(client, "shop", {API: deployment()}, whole=True) == []


def with_image(image: str, policy: str = "IfNotPresent") -> dict[str, Any]:
    template = template_of(recorded("deployment"))
    template["spec"]["containers"][0].update(image=image, imagePullPolicy=policy)
    return template


@pytest.mark.parametrize(
    ("image", "policy", "problem", "note"),
    [
        ("lab.local/shop:1.4.0", "Never", False, False),
        ("lab.local/shop:9.9.9", "Never", True, False),
        ("lab.local/shop:9.9.9", "IfNotPresent", False, True),
        ("shop:1", "Never", False, False),  # a node calls it docker.io/library/shop:1
        ("team/shop", "Never", False, False),  # and this one docker.io/team/shop:latest
    ],
)
def test_whether_the_nodes_have_an_image(image: str, policy: str, problem: bool, note: bool) -> None:  # noqa: FBT001
    node = recorded("node")
    node["status"]["images"] += [{"names": ["docker.io/library/shop:1"]}, {"names": ["docker.io/team/shop:latest"]}]
    with having(node) as client:
        problems, notes = image_findings(client, {API: with_image(image, policy)})
    assert (len(problems), len(notes)) == (problem, note)
    assert all(image in text for text in [*problems, *notes])


def test_of_a_node_that_lists_only_its_largest_images_nothing_is_concluded() -> None:
    node = recorded("node")
    node["status"]["images"] = [{"names": [f"large:{number}"]} for number in range(50)]
    with having(node) as client:
        problems, notes = image_findings(client, {API: with_image("lab.local/shop:9.9.9", "Never")})
    assert problems == []
    assert "no node has lab.local/shop:9.9.9 yet" in notes[0]
    with having(status=403) as client:
        problems, notes = image_findings(client, {API: with_image("lab.local/shop:9.9.9", "Never")})
    assert (problems, notes) == ([], ["whether the nodes have the images could not be looked at (Forbidden)"])


def test_rights_for_all_objects_are_asked_once_and_by_name_only_where_they_are_lacking() -> None:
    asked: list[dict[str, Any]] = []

    def answer(handler: Handler) -> None:
        wanted = json.loads(handler.asked.body)["spec"]["resourceAttributes"]
        asked.append(wanted)
        allowed = wanted["resource"] == "deployments" or wanted.get("name") == "db-1"
        handler.reply(201, {"status": {"allowed": allowed}})

    named = [Workload("deployment", f"api-{number}", "shop") for number in range(50)]
    named += [Workload("statefulset", f"db-{number}", "shop") for number in range(3)]
    with client_of(answer) as (client, _server):
        rules = [Rule("list", "pods", "", "shop"), Rule("get", "services", "", "shop", "api:http", "proxy")]
        found = missing_rights(client, rules, workload_rules(named, "patch"))
    assert found == [
        "the credentials may not list pods in shop",
        "the credentials may not get services/proxy api:http in shop",
        "the credentials may not patch statefulsets.apps db-0 in shop",
        "the credentials may not patch statefulsets.apps db-2 in shop",
    ]
    assert sum(one["resource"] == "deployments" for one in asked) == 1


def test_many_workloads_are_counted_by_their_version() -> None:
    good, bad = with_image("r/shop:1"), with_image("r/shop:2")
    assert targets_text({API: good}) == "deployment/api shop:1"
    many = {Workload("deployment", f"api-{number}", "shop"): bad if number else good for number in range(50)}
    assert targets_text(many) == "50 workloads: 49 of shop:2, 1 of shop:1"
