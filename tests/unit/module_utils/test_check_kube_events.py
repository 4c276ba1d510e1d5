# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `events` against a real cluster: a container out of memory, and Events; and how repeated ones count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_kube_events import count, judge, times
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube_service import KubeService
from tests.unit.module_utils.check_lab import SECOND, ask, one, time_of

START = time_of("2026-11-21T09:30:00Z")
BEFORE, AFTER = "2026-11-21T09:29:00Z", "2026-11-21T09:31:00Z"


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    return KubeService(lab_cluster, admin, namespace)


def test_out_of_memory_is_how_a_container_ended(service: KubeService) -> None:
    """The runbook looks for it among Events, where it is not."""
    limits = {"resources": {"limits": {"memory": "48Mi"}}}
    service.make(env={"MODE": "leak"}, container=limits, wait=False)
    name = service.until(lambda: [pod["metadata"]["name"] for pod in service.pods() if _killed(pod)])[0]
    found = ask(
        service,
        {"name": "memory", "kind": "events", "reasons": ["OOMKilled", "OOMKilling"], "minutes": 5},
        {"name": "three", "kind": "events", "selector": "app=api", "reasons": ["OOMKilled"], "max": 3},
        {"name": "made", "kind": "events", "reasons": ["Scheduled"], "max": 0},
        {"name": "other", "kind": "events", "reasons": ["Evicted"]},
        {"name": "nobody", "kind": "events", "selector": "app=none", "reasons": ["OOMKilled"]},
    )
    memory = found["memory"]
    assert not memory.ok
    assert not memory.unverified
    assert f"expected at most 0 (OOMKilled of pod {name})" in memory.text
    assert found["three"].ok
    assert "1 times since" in found["made"].text
    assert found["made"].ok is False
    assert found["other"].ok
    assert (found["nobody"].ok, found["nobody"].unverified) == (False, True)
    # What a pod went through before the run's change had ended is the bad version's.
    assert one(service, kind="events", reasons=["OOMKilled"], settled=datetime.now(UTC) + SECOND).ok


def _killed(pod: dict[str, Any]) -> bool:
    (container,) = pod["status"].get("containerStatuses") or [{}]
    ends = [(container.get(field) or {}).get("terminated") or {} for field in ("state", "lastState")]
    return any(end.get("reason") == "OOMKilled" for end in ends)


# What Events say.


def event(reason: str = "BackOff", uid: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"creationTimestamp": BEFORE},
        "reason": reason,
        "involvedObject": {"kind": "Pod", "uid": uid},
        **more,
    }


def pod(*ends: tuple[str, str]) -> dict[str, Any]:
    containers = [
        {"name": "c", "lastState": {"terminated": {"reason": reason, "finishedAt": when}}} for reason, when in ends
    ]
    return {"metadata": {"name": "api-1", "uid": "1"}, "status": {"containerStatuses": containers}}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (event(firstTimestamp=BEFORE, lastTimestamp=BEFORE, count=7), (0, 0)),
        (event(firstTimestamp=AFTER, lastTimestamp=AFTER, count=7), (7, 7)),
        (event(firstTimestamp=BEFORE, lastTimestamp=AFTER, count=7), (1, 6)),
        (event(firstTimestamp=BEFORE, lastTimestamp=AFTER, count=1), (1, 1)),
        (event(firstTimestamp=None, eventTime=f"{AFTER[:-1]}.123456Z"), (1, 1)),
        (event(eventTime=BEFORE, series={"count": 4, "lastObservedTime": AFTER}), (1, 3)),
    ],
)
def test_events_that_repeat_themselves(told: dict[str, Any], expected: tuple[int, int]) -> None:
    assert times(told, START) == expected


def test_what_both_sources_tell_counts_once() -> None:
    told = [event("OOMKilling", firstTimestamp=AFTER, lastTimestamp=AFTER)]
    tallies = count([pod(("OOMKilled", AFTER), ("OOMKilled", BEFORE), ("Error", AFTER))], told, {"OOMKilled"}, START)
    assert [(key, tally.counts()) for key, tally in tallies.items()] == [(("api-1", "OOMKilled"), (1, 1))]
    assert not count([pod()], [event(uid="2", firstTimestamp=AFTER)], {"BackOff"}, START), "another pod's"


def test_between_the_limits_nothing_is_known() -> None:
    told = [event(firstTimestamp=BEFORE, lastTimestamp=AFTER, count=9)]
    tallies = count([pod()], told, {"BackOff"}, START)
    doubt = judge(tallies, 3, START)
    assert (doubt.ok, doubt.unverified) == (False, True)
    assert doubt.text == "between 1 and 8 times since 2026-11-21T09:30:00Z, expected at most 3 (BackOff of pod api-1)"
    assert not judge(tallies, 0, START).unverified
    assert judge(tallies, 8, START).ok
