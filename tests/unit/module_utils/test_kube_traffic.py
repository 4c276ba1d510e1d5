# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence in a real cluster: closed when the pods have ended, opened as everything was, after any kill."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, TARGET, Entry, Version
from ansible.module_utils.rollbackctl.errors import DeadlineExceeded, Refused
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_hold import NOTE
from ansible.module_utils.rollbackctl.kube_traffic import KubeTrafficDriver

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace, token_kubeconfig
from tests.unit.module_utils.traffic_lab import BEHAVIOR, OTHER_RUN, Town, autoscaler, cronjob, until, workload


@pytest.fixture(scope="module")
def town(lab_cluster: Cluster, admin: Client) -> Iterator[Town]:
    """What several tests use without leaving a trace in it: one service of everything, and small ones."""
    with fresh_namespace(admin, "traffic") as name:
        made = Town(lab_cluster, admin, name)
        made.make("deployment", workload("deployment", "api", 3))
        made.make("statefulset", workload("statefulset", "db", 1))
        made.make("deployment", workload("deployment", "zero", 0))
        made.make("deployment", workload("deployment", "free", 1))
        made.make("horizontalpodautoscaler", autoscaler("api", "deployment/api", behavior=BEHAVIOR, minReplicas=2))
        made.make("horizontalpodautoscaler", autoscaler("db", "statefulset/db"))
        made.make("cronjob", cronjob("report", suspend=False))
        made.make("cronjob", cronjob("old", suspend=True))
        made.wait_ready("deployment/api", "statefulset/db", "deployment/free")
        yield made


def entry(driver: KubeTrafficDriver) -> Entry:
    live = driver.live(exact=True)
    target = driver.resolve(live)
    return Entry(driver.name, "stop_kubernetes", driver.layer, live, target, "follow", driver.check(live, target))


def test_everything_is_stopped_and_given_back_byte_for_byte(town: Town) -> None:
    fence = town.fence(all=True, but=["deployment/free"])
    before, planned = town.photograph(), entry(fence)
    assert planned.finding.problems == ()
    assert not fence.closed()
    assert fence.state(planned, opened=False)[0] == TARGET

    fence.close()
    assert fence.closed()
    assert fence.state(planned, opened=False)[0] == BETWEEN
    pods = town.pods()
    assert [name.rsplit("-", 2)[0] for name in pods] == ["free"]
    assert [town.replicas(f"deployment/{name}") for name in ("api", "zero", "free")] == [0, 0, 1]
    # A person can read what it was, on the thing itself.
    note = json.loads(town.get("deployment/api")["metadata"]["annotations"][NOTE])
    assert (note["replicas"], note["for"], note["run"]) == (3, "fence", fence.place.run)
    assert NOTE not in (town.get("deployment/zero")["metadata"].get("annotations") or {})
    held = town.get("horizontalpodautoscaler/api")["spec"]
    assert (held["minReplicas"], held["maxReplicas"]) == (2, 9)
    assert {way["selectPolicy"] for way in held["behavior"].values()} == {"Disabled"}
    assert town.get("cronjob/report")["spec"]["suspend"] is True

    fence.close()
    fence.open()
    assert town.photograph() == before
    assert town.get("deployment/api")["status"]["readyReplicas"] == 3
    assert town.get("cronjob/old")["spec"]["suspend"] is True
    assert fence.state(planned, opened=True)[0] == TARGET
    fence.open()
    assert town.photograph() == before
    assert "somebody" not in fence.live(exact=True).text


# Where it is killed, one after the other; whether the autoscaler is held then, and how many replicas there are.
CLOSING = [
    ("hold.before", (False, 1)),
    ("hold.after", (True, 1)),
    ("scale.before", (True, 1)),
    ("scale.after", (True, 0)),
]
OPENING = [
    ("give_back.before", (True, 0)),
    ("give_back.after", (True, 1)),
    ("release.before", (True, 1)),
    ("release.after", (False, 1)),
]


def seen(town: Town) -> tuple[bool, int]:
    behavior = town.get("horizontalpodautoscaler/db")["spec"].get("behavior") or {}
    return "Disabled" in str(behavior), town.replicas("statefulset/db")


def test_killed_at_every_point_it_goes_on_and_ends_as_it_was(town: Town) -> None:
    words: dict[str, Any] = {"workloads": ["statefulset/db", "deployment/zero"]}
    fence, before = town.fence(**words), town.photograph()

    def close(client: Client) -> None:
        town.fence(client=client, **words).close()

    def reopen(client: Client) -> None:
        town.fence(client=client, **words).open()

    for point, found in CLOSING:
        assert town.forked(close, f"stop_kubernetes.{point}:kill") == -9, point
        assert seen(town) == found, point
    fence.close()
    assert fence.closed()
    for point, found in OPENING:
        assert town.forked(reopen, f"stop_kubernetes.{point}:kill") == -9, point
        assert seen(town) == found, point
    fence.open()
    assert town.photograph() == before
    assert town.get("statefulset/db")["status"]["readyReplicas"] == 1


def test_what_was_deleted_meanwhile_does_not_keep_the_rest_stopped(town: Town) -> None:
    town.make("deployment", workload("deployment", "gone", 0))
    fence = town.fence(workloads=["deployment/free", "deployment/gone"])
    fence.close()
    town.kubectl("delete", "deployment/gone")
    fence.open()
    assert town.replicas("deployment/free") == 1
    with pytest.raises(Refused, match="deployment/gone does not exist"):
        fence.live(exact=True)


def test_what_somebody_scales_meanwhile_is_noticed_and_left(town: Town) -> None:
    fence = town.fence(workloads=["deployment/free"])
    fence.close()
    town.kubectl("scale", "deployment/free", "--replicas=2")
    assert not fence.closed()
    fence.open()
    assert town.replicas("deployment/free") == 2
    assert NOTE not in town.get("deployment/free")["metadata"]["annotations"]
    assert "deployment/free was set to 2 by somebody and left so; it had 1" in fence.live(exact=True).text
    town.kubectl("scale", "deployment/free", "--replicas=1")


def test_what_somebody_scales_is_stopped_again_and_given_back_as_it_was(town: Town) -> None:
    fence, before = town.fence(workloads=["deployment/free"]), town.photograph()
    fence.close()
    town.kubectl("scale", "deployment/free", "--replicas=2")
    assert not fence.closed()
    fence.close()
    assert fence.closed()
    fence.open()
    assert town.photograph() == before


def test_what_another_run_s_fence_holds_is_not_given_back(town: Town) -> None:
    first, second = town.fence(workloads=["deployment/free"]), town.fence(OTHER_RUN, workloads=["deployment/free"])
    first.close()
    assert any("rollbackctl resume" in problem for problem in entry(second).finding.problems)
    second.close()
    second.open()
    assert first.closed()
    first.open()
    assert town.replicas("deployment/free") == 1


def test_after_a_rollback_what_was_shut_down_runs_but_not_after_a_failed_one(town: Town) -> None:
    shutdown, fence = town.shutdown(workloads=["deployment/free"]), town.fence(OTHER_RUN, workloads=["deployment/free"])
    before = town.photograph()
    shutdown.apply(shutdown.resolve("stopped"))
    planned = entry(fence)
    assert planned.finding.problems == ()
    assert "shut down" in " ".join(planned.finding.notes)
    fence.close()
    fence.reached = False
    fence.open()
    assert fence.closed()
    assert fence.state(planned, opened=True)[0] == TARGET
    fence.reached = True
    # A run without a fence gives it back where it restarts things; taken back, it is as before.
    assert fence.state(planned, opened=False)[0] == BETWEEN
    fence.apply(planned.target)
    assert fence.state(planned, opened=False)[0] == TARGET
    assert town.photograph() == before
    fence.apply(planned.live)
    assert fence.closed()
    assert fence.state(planned, opened=False)[0] == TARGET
    fence.open()
    assert town.photograph() == before


def test_names_that_are_not_there_are_refused_with_those_that_are(town: Town) -> None:
    with pytest.raises(Refused, match=r"deployment/apii does not exist \(there are: .*deployment/api,"):
        town.fence(workloads=["deployment/apii", "deployment/api"]).live(exact=True)
    finding = entry(town.fence(all=True, but=["status", "api"])).finding
    assert finding.problems == ()
    assert "except names status, which is not there" in finding.notes


def test_every_missing_right_is_named_at_once(town: Town, tmp_path: Path) -> None:
    rules = [
        {"apiGroups": ["apps"], "resources": ["deployments", "replicasets"], "verbs": ["get", "list"]},
        {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    ]
    kubeconfig = token_kubeconfig(town.lab, town.namespace, rules, tmp_path)
    client = Client(find_access({"kubeconfig": str(kubeconfig)}, {}))
    fence = town.fence(client=client, workloads=["deployment/api"])
    problems = entry(fence).finding.problems
    assert [problem.partition(" may not ")[2].rpartition(" in ")[0] for problem in problems] == [
        "watch replicasets.apps",
        "watch deployments.apps",
        "patch deployments.apps api",
        "get horizontalpodautoscalers.autoscaling api",
        "patch horizontalpodautoscalers.autoscaling api",
    ]
    with pytest.raises(Refused, match=r"may not list cronjobs.*may not list statefulsets|statefulsets.*cronjobs"):
        town.fence(client=client, all=True).live(exact=True)
    client.close()


# -- pods that answer -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(lab_cluster: Cluster, admin: Client) -> Iterator[Town]:
    """Two pods of the sample service behind a Service, and one that does not want to end."""
    image = lab_cluster.image("1.4.0")
    with fresh_namespace(admin, "traffic") as name:
        made = Town(lab_cluster, admin, name)
        probe = {"readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1}}
        made.make("deployment", workload("deployment", "shop", 2, image=image, **probe))
        drains = {"image": image, "env": [{"name": "DRAIN_MS", "value": "60000"}]}
        made.make("deployment", workload("deployment", "slow", 1, **drains))
        port = {"port": 80, "targetPort": 8080}
        made.make("service", {"metadata": {"name": "shop"}, "spec": {"selector": {"app": "shop"}, "ports": [port]}})
        made.wait_ready("deployment/shop", "deployment/slow")
        yield made


class Asking(threading.Thread):
    """A client that keeps asking, each time with a new connection. answers: (time, whether it was answered)."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.answers: list[tuple[float, bool]] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            connection = HTTPConnection(self.address, 80, timeout=1)
            answered = False
            with contextlib.suppress(OSError, HTTPException):
                connection.request("GET", "/version")
                answered = connection.getresponse().status == 200
            connection.close()
            self.answers.append((time.monotonic(), answered))

    def settled(self, since: float, *, answered: bool) -> bool:
        """Whether the last ten attempts, all later than a moment, were so."""
        last = self.answers[-10:]
        return len(last) == 10 and last[0][0] > since and all(one is answered for _, one in last)


def test_a_closed_service_answers_nobody_while_its_pods_stay_warm(shop: Town) -> None:
    fence = shop.fence(by="service", service="shop")
    before, pods = shop.photograph(), shop.pods()
    asking = Asking(str(shop.get("service/shop")["spec"]["clusterIP"]))
    asking.start()
    try:
        until(lambda: asking.settled(0, answered=True), "it answers")
        fence.close()
        assert fence.closed()
        closed = time.monotonic()
        until(lambda: asking.settled(closed, answered=False), "nobody is answered any more")
        assert shop.pods() == pods
        fence.open()
        opened = time.monotonic()
        until(lambda: asking.settled(opened, answered=True), "it answers again")
    finally:
        asking.over.set()
        asking.join()
    assert shop.photograph() == before
    assert shop.pods() == pods
    # One gap, and no answer within it.
    flips = [one for one, other in zip(asking.answers, asking.answers[1:], strict=False) if one[1] is not other[1]]
    assert len(flips) == 2


def test_a_pod_that_does_not_end_is_named_and_nothing_is_forced(shop: Town) -> None:
    fence = shop.fence(workloads=["deployment/slow"], timeout=2)
    with pytest.raises(DeadlineExceeded, match=r"pod slow-\S+ has not ended yet \(it is allowed 30 s\)"):
        fence.close()
    assert not fence.closed()
    assert any(name.startswith("slow-") for name in shop.pods())
    shop.fence(workloads=["deployment/slow"]).open()
    assert shop.replicas("deployment/slow") == 1


def test_a_version_cannot_be_named(town: Town) -> None:
    fence = town.fence(workloads=["deployment/api"])
    with pytest.raises(Refused, match="does not exist"):
        fence.resolve("running")
    assert isinstance(fence.record(None), Version)
