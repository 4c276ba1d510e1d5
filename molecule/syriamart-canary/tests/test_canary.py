# SPDX-License-Identifier: GPL-3.0-or-later
"""A canary went to 0 and stays; the stable version was not touched: seen by kubectl, curl and a client."""

from __future__ import annotations

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "payment-service"
CANARY = f"deployment/{NAME}-canary"


def test_it_was_really_broken(kube: Drill) -> None:
    asked = kube.asked(NAME)
    assert {(one.status, one.version) for one in asked if one.status} == {(200, "1.4.0"), (500, "1.5.0")}


def test_the_canary_is_at_0_and_is_still_there(kube: Drill) -> None:
    before, now = kube.seen("bad")["objects"], kube.objects()
    assert before[CANARY]["spec"]["replicas"] == 1
    assert now[CANARY]["spec"]["replicas"] == 0
    assert now[CANARY]["spec"]["template"] == before[CANARY]["spec"]["template"]
    assert [name for name in now if name.startswith(f"pod/{NAME}-canary")] == []


def test_nothing_else_was_touched(kube: Drill) -> None:
    good, now = kube.seen("good")["objects"], kube.objects()
    assert {name: item for name, item in now.items() if "-canary" not in name} == good


def test_users_get_the_stable_version_only(kube: Drill, host: Host) -> None:
    for _ in range(10):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][NAME])
        assert said.startswith("HTTP/1.1 200"), said
        assert "X-Version: 1.4.0" in said, said


def test_nobody_was_turned_away_but_by_the_canary(kube: Drill) -> None:
    wrong = [one for one in kube.asked(NAME) if one.status != 200 and one.version != "1.5.0"]
    assert wrong == []


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "already"]
    record = next(one for one in drill.records() if one["playbook"] == "converge.yml")
    actions = {entry["name"]: entry["action"] for entry in record["services"][NAME]["plan"]["entries"]}
    assert actions == {"canary": "change", NAME: "none"}
    assert kube.objects() == kube.seen("after")["objects"]
