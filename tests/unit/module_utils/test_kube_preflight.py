# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client, Rule
from ansible.module_utils.rollbackctl.kube_objects import Workload, template_of
from ansible.module_utils.rollbackctl.kube_preflight import (
    image_findings,
    missing_rights,
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
