# SPDX-License-Identifier: GPL-3.0-or-later
"""One command put four services back, each broken in another way: seen by kubectl and curl."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.kubernetes.scenes import BAD_SETTINGS, SETTINGS
from lab.sample import proof

SERVICES = ("user-service", "catalog-service", "order-service", "payment-service")
BUDGET_SECONDS = 120.0


def test_they_were_really_broken(kube: Drill) -> None:
    answers = kube.seen("bad")["answers"]
    for name in SERVICES[:3]:
        assert answers[name] == {"status": 500, "version": "1.5.0"}
    assert kube.seen("bad")["objects"]["deployment/payment-service-canary"]["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", SERVICES)
def test_users_have_the_good_release_again(kube: Drill, host: Host, name: str) -> None:
    for _ in range(5):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][name])
        assert said.startswith("HTTP/1.1 200"), said
        assert "X-Version: 1.4.0" in said, said


def test_the_canary_is_stopped_and_the_bad_green_stays(kube: Drill) -> None:
    now = kube.objects()
    assert now["deployment/payment-service-canary"]["spec"]["replicas"] == 0
    green = now["deployment/catalog-service-green"]["spec"]
    assert green["replicas"] == 2
    assert green["template"]["spec"]["containers"][0]["image"] == "lab.local/shop:1.5.0-errors"


def test_the_settings_are_those_of_old_and_pods_have_read_them(kube: Drill) -> None:
    name = "configmap/user-service-config"
    assert kube.seen("bad")["objects"][name]["data"] == BAD_SETTINGS
    assert kube.objects()[name] == kube.seen("good")["objects"][name]
    assert kube.ask("user-service")["settings"] == SETTINGS


def test_it_took_less_than_two_minutes(drill: proof.Drill) -> None:
    record = next(one for one in drill.records() if one["kind"] == "panic")
    assert record["budget_seconds"] == BUDGET_SECONDS
    assert record["seconds"] < BUDGET_SECONDS


def test_each_service_was_changed_once_and_nothing_was_left_undone(drill: proof.Drill) -> None:
    record = next(one for one in drill.records() if one["kind"] == "panic")
    assert {name: one["outcome"] for name, one in record["services"].items()} == dict.fromkeys(SERVICES, "done")
    assert [one["problems"] for one in record["services"].values()] == [[]] * 4
    steps = [step for one in record["services"].values() for step in one["steps"] if step["phase"] == "rollback"]
    changed = sorted((step["component"], step["status"]) for step in steps)
    assert changed == [
        ("canary", "changed"),
        ("catalog-service", "changed"),
        ("order-service", "changed"),
        ("settings", "changed"),
        ("user-service", "changed"),
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_the_second_panic_found_all_in_place(drill: proof.Drill, name: str) -> None:
    assert drill.outcomes(name=name) == ["done", "already"]


def test_the_second_panic_changed_nothing(kube: Drill) -> None:
    assert kube.objects() == kube.seen("after")["objects"]
