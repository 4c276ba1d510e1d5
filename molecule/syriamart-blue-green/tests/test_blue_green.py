# SPDX-License-Identifier: GPL-3.0-or-later
"""A Service went back to blue: seen by a client that kept asking through it, kubectl and curl."""

from __future__ import annotations

from datetime import datetime

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "catalog-service"
INSTANT_SECONDS = 10.0


def switched_at(drill: proof.Drill) -> float:
    """Return when the phase began in which the Service was switched, in seconds since 1970."""
    (record,) = [one for one in drill.records() if one["services"][NAME]["outcome"] == "done" and one["level"] == 1]
    (phase,) = [one for one in record["phases"] if one["name"] == "rollback"]
    assert phase["seconds"] < INSTANT_SECONDS
    return datetime.fromisoformat(phase["started"]).timestamp()


def test_it_was_really_broken(kube: Drill) -> None:
    answer = kube.seen("bad")["answers"][NAME]
    assert (answer["version"], answer["settings"]) == ("1.5.0", {"SHOP_CURRENCY": "XXX"})


def test_the_switch_took_seconds(kube: Drill, drill: proof.Drill) -> None:
    began = switched_at(drill)
    asked = kube.asked(NAME)
    assert [one for one in asked if one.at < began and one.version == "1.5.0"]
    last_bad = max(one.at + one.seconds for one in asked if one.version == "1.5.0")
    first_good = min(one.at + one.seconds for one in asked if one.version == "1.4.0")
    assert last_bad - began < INSTANT_SECONDS
    assert first_good - began < INSTANT_SECONDS


def test_nobody_was_turned_away(kube: Drill) -> None:
    asked = kube.asked(NAME)
    assert len(asked) > 50
    assert [one for one in asked if one.status != 200] == []


def test_only_blue_gets_requests(kube: Drill, host: Host) -> None:
    blue = host.check_output(
        "kubectl --namespace %s get pods --selector version=blue --output 'jsonpath={.items[*].metadata.name}'",
        kube.namespace,
    )
    endpoints = host.check_output(
        "kubectl --namespace %s get endpointslices --output 'jsonpath={.items[*].endpoints[*].targetRef.name}'",
        kube.namespace,
    )
    assert sorted(endpoints.split()) == sorted(blue.split())
    for _ in range(10):
        assert "X-Version: 1.4.0" in host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][NAME])


def test_nothing_but_the_selector_was_changed_and_the_bad_green_stays(kube: Drill) -> None:
    bad, now = kube.seen("bad")["objects"], kube.objects()
    assert bad["service/catalog-service"]["spec"].pop("selector") == {"app": NAME, "version": "green"}
    assert now["service/catalog-service"]["spec"].pop("selector") == {"app": NAME, "version": "blue"}
    assert now == bad
    green = now["deployment/catalog-service-green"]["spec"]
    assert green["replicas"] == 2
    assert green["template"]["spec"]["containers"][0]["image"] == "lab.local/shop:1.5.0"


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "already"]
    assert kube.objects() == kube.seen("after")["objects"]
