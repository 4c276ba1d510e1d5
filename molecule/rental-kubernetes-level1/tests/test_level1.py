# SPDX-License-Identifier: GPL-3.0-or-later
"""A Deployment went back to a revision by its number, and to the newest proven checkpoint: seen by kubectl and curl."""

from __future__ import annotations

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "rental-api"


def test_it_was_really_broken(kube: Drill) -> None:
    assert kube.seen("bad")["answers"][NAME] == {"status": 500, "version": "1.5.0"}
    assert "deployment/rental-api shop:1.5.1-notready; not rolled out" in live_of(kube, -2)


def live_of(kube: Drill, number: int) -> str:
    """Return what a run's plan said was live; the last run is the one that found all in place."""
    record = proof.Drill(kube.root).records()[number]
    return str(record["services"][NAME]["plan"]["entries"][0]["live"]["text"])


def test_a_revision_that_is_named_is_gone_to(kube: Drill, drill: proof.Drill) -> None:
    assert kube.seen("revision")["answers"][NAME]["version"] == "1.3.0"
    assert drill.outcomes("rollback-level1.yml", NAME) == ["done"]


def test_the_plan_shows_the_history(drill: proof.Drill) -> None:
    plan = next(one for one in drill.records() if one["playbook"] == "rollback-level1.yml")["services"][NAME]["plan"]
    (history,) = [note for note in plan["notes"] if "history of deployment/rental-api" in note]
    assert history.index("revision:3 (shop:1.5.0-errors") < history.index("revision:2 (shop:1.4.0")
    assert history.index("revision:2 (shop:1.4.0") < history.index("revision:1 (shop:1.3.0")
    assert "release 1.5.0, live" in history


def test_users_have_the_good_release_again(kube: Drill, host: Host) -> None:
    for _ in range(10):
        said = host.check_output("curl -sS -i --max-time 5 %s/version", kube.about["urls"][NAME])
        assert said.startswith("HTTP/1.1 200"), said
        assert "X-Version: 1.4.0" in said, said


def test_the_pods_are_those_of_the_good_release(kube: Drill, host: Host) -> None:
    listed = host.check_output(
        "kubectl --namespace %s get pods --selector app=rental-api --field-selector status.phase=Running "
        "--output 'jsonpath={.items[?(@.status.containerStatuses[0].ready==true)].spec.containers[0].image}'",
        kube.namespace,
    )
    assert listed.split() == ["lab.local/shop:1.4.0"] * 2


def test_only_the_template_and_its_cause_were_changed(kube: Drill) -> None:
    good, now = kube.seen("good")["objects"], kube.objects()
    before, after = good["deployment/rental-api"], now["deployment/rental-api"]
    for one in (before, after):
        one["metadata"].pop("generation")
        one["metadata"]["annotations"].pop("deployment.kubernetes.io/revision")
    assert after == before
    assert now["service/rental-api"] == good["service/rental-api"]


def test_the_bad_release_stays_in_the_history(kube: Drill, host: Host) -> None:
    history = host.check_output("kubectl --namespace %s rollout history deployment/rental-api", kube.namespace)
    causes = [line.split(maxsplit=1)[1].strip() for line in history.splitlines() if line[:1].isdigit()]
    assert causes == ["release 1.5.0", "release 1.3.0", "release 1.5.1", "release 1.4.0"]


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "already"]
    assert kube.objects() == kube.seen("after")["objects"]
