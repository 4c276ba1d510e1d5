# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog of a service in Kubernetes: a process of the controller's host, which outlives the controller.

It applies the rule when the lease has ended without a successor; when its host is gone as well, the next holder does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import fence
from ansible.module_utils.rollbackctl.errors import LeaseHeld, Refused
from ansible.module_utils.rollbackctl.kube_store import WATCHDOG_KEY
from ansible.module_utils.rollbackctl.status import describe
from ansible.module_utils.rollbackctl.store import host_name
from ansible.module_utils.rollbackctl.worker import die_with_the_controller

from lab.kubernetes.cluster import Cluster
from tests.support.far_proxy import PROCESSES, FarProxy, far_proxy
from tests.support.hosts import Worker
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import Fault, Request
from tests.unit.module_utils.engine_parts import FENCED, OPEN, OTHER_RUN, RUN
from tests.unit.module_utils.kube_engine_parts import HALF, MapService, register
from tests.unit.module_utils.kube_store_parts import (
    STORE_RULES,
    Place,
    place,
    shared_kubeconfig,
    shared_namespace,
    take,
)

__all__ = ["far_proxy", "place", "shared_kubeconfig", "shared_namespace"]
PATIENCE = 60.0
LEASE_SECONDS = 2.0
PR_SET_CHILD_SUBREAPER = 36
Watchdogs = Callable[[], None]


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    monkeypatch.setattr(fence, "CLUSTER_POLL_SECONDS", 0.2)


@pytest.fixture
def service(place: Place) -> MapService:
    made = MapService(place, lease_seconds=LEASE_SECONDS)
    made.make()
    return made


def children() -> list[int]:
    found = Path("/proc/self/task", str(os.getpid()), "children").read_text("ascii").split()
    return [int(pid) for pid in found if int(pid) not in PROCESSES]


@pytest.fixture
def watchdogs() -> Iterator[Watchdogs]:
    """Adopt what is forked off, so that its end can be waited for, and end it by its id if it hangs."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    before = set(children())

    def ended() -> None:
        limit = time.monotonic() + PATIENCE
        while left := set(children()) - before:
            assert time.monotonic() < limit, f"the watchdog {left} does not end"
            for pid in left:
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)

    try:
        yield ended
    finally:
        for pid in set(children()) - before:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def fenced(service: MapService) -> MapService:
    service.begin()
    service.go("stage", "fence")
    assert service.get("gate") == FENCED
    return service


def report(service: MapService) -> dict[str, Any] | None:
    item = service.place.admin.get(service.place.object(f"run-{RUN}"))
    text = item["data"].get(WATCHDOG_KEY)
    return json.loads(text) if text else None


def wait_for(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


# -- while the run goes on ---------------------------------------------------------------------------------------------


def test_a_whole_run_closes_and_opens_and_the_watchdog_ends(service: MapService, watchdogs: Watchdogs) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture", "rollback", "verify")
    assert service.get("gate") == FENCED
    service.go("resume")
    assert service.get("gate") == OPEN
    assert service.finish()["outcome"] == "done"
    watchdogs()
    assert report(service) is None
    assert service.place.holder().token == 1


def test_it_waits_while_the_lease_is_renewed(service: MapService, watchdogs: Watchdogs) -> None:
    service.lease_seconds = 5.0  # a busy machine may take two of them for one renewal
    fenced(service)
    end = time.monotonic() + 2 * service.lease_seconds
    while time.monotonic() < end:
        time.sleep(LEASE_SECONDS / 4)
        service.place.store.renew(RUN, service.run["token"])
        assert service.get("gate") == FENCED
    watchdogs()
    assert service.get("gate") == OPEN


def test_it_asks_gently(
    lab_cluster: Cluster,
    service: MapService,
    watchdogs: Watchdogs,
    far_proxy: FarProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fence, "CLUSTER_POLL_SECONDS", 1.5)
    service.lease_seconds = 60.0
    service.place.kubeconfig = token_kubeconfig(
        lab_cluster, service.place.namespace, STORE_RULES, tmp_path, server=far_proxy.url
    )
    fenced(service)
    far_proxy.serve()
    time.sleep(6)
    asked = far_proxy.seen()
    assert 2 <= len(asked) <= 3 * 5
    assert {seen.method for seen in asked} == {"GET"}
    service.go("resume")
    watchdogs()


def test_it_shares_neither_connections_nor_the_death_of_its_worker(service: MapService, watchdogs: Watchdogs) -> None:
    """The worker dies with its controller (prctl), its watchdog does not; the worker's sockets are not its own."""
    service.lease_seconds = 4.0
    service.begin()
    context = multiprocessing.get_context("fork")

    def worker(pipe: Any) -> None:
        die_with_the_controller()
        service.go("stage", "fence")
        pipe.send((os.getpid(), sorted(sockets(os.getpid()))))
        time.sleep(PATIENCE)

    def controller(me: Worker) -> None:
        here, there = context.Pipe()
        context.Process(target=worker, args=(there,)).start()
        me.say(here.recv())
        me.hear()

    before = set(children())
    with Worker(controller) as me:
        pid, theirs = me.hear()
        assert theirs
        me.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or pid in children())
    with contextlib.suppress(ChildProcessError):
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    (watchdog,) = set(children()) - before
    assert service.get("gate") == FENCED
    assert not sockets(watchdog) & set(theirs)
    assert os.getsid(watchdog) not in {os.getsid(0), pid}
    watchdogs()
    assert service.get("gate") == OPEN


def sockets(pid: int) -> set[str]:
    """Return the sockets that a process holds."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            name = str(link.readlink())
            found |= {name} if name.startswith("socket:") else set()
    return found


# -- when the controller is gone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("db", "app", "opened"),
    [
        ("v2\nrow 1\n", "bad\n", True),
        ("v1\n", "good\n", True),
        ("v1\n", "bad\n", False),
        (HALF, "bad\n", False),
        ("v2\nrow 1\nrow 2\n", "bad\n", False),  # written to inside the fence: not what was kept
        ("v9\n", "good\n", False),
    ],
    ids=["old", "new", "half new", "half-way", "old but written to", "strange"],
)
def test_it_opens_by_the_rule(
    service: MapService,
    watchdogs: Watchdogs,
    db: str,
    app: str,
    opened: bool,  # noqa: FBT001 - a table's column
) -> None:
    fenced(service)
    service.go("capture")
    service.set("db", db)
    service.set("app", app)
    watchdogs()
    assert (service.get("gate") == OPEN) is opened
    found = report(service)
    assert found is not None
    assert found["opened"] is opened
    assert service.place.mark == ""
    assert service.place.store.lease() is None  # given back: whoever resumes need not wait
    if opened:
        last = service.place.store.journal(RUN).events()[-1]
        assert (last["event"], last["by"]) == ("fence-opened", "watchdog")
        return
    assert "fence-opened" not in service.events()
    if "changed by somebody else" in (found["word"], found["text"]):
        assert found["message"] == "The fence stays closed. Next: rollbackctl run 3 shop --reason REASON"
        assert service.open(OTHER_RUN)["takes_over"] == RUN
        return
    assert found["message"] == f"The fence stays closed. Next: rollbackctl resume {RUN}"
    with pytest.raises(Refused, match="behind a closed fence") as refusal:
        service.open(OTHER_RUN)
    assert refusal.value.next_step == f"rollbackctl resume {RUN}"


def test_it_looks_again_at_what_may_be_about_to_become_whole(
    service: MapService, watchdogs: Watchdogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a rollout does that the killed controller had begun."""
    monkeypatch.setattr(fence, "CLUSTER_POLL_SECONDS", 1.0)
    fenced(service)
    service.go("capture")
    service.set("db", HALF)
    service.set("app", "good\n")
    wait_for(lambda: service.place.holder().controller == f"{host_name()} (watchdog)")
    time.sleep(0.5)  # it has looked once
    service.set("db", "v1\n")
    watchdogs()
    assert service.get("gate") == OPEN
    found = report(service)
    assert found is not None
    assert found["word"] == "wholly new"


def test_it_outlives_a_killed_worker(service: MapService, watchdogs: Watchdogs) -> None:
    service.begin()

    def work(_me: Worker) -> None:
        service.phase("fence")

    with Worker(work, failpoint="fence.close.after:kill") as worker:
        assert worker.end() == signal.SIGKILL
    assert service.get("gate") == FENCED
    watchdogs()
    assert service.get("gate") == OPEN


def test_it_acts_when_a_run_was_ended_behind_a_closed_fence(service: MapService, watchdogs: Watchdogs) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.finish(failed=True, message="it failed")  # gives the lease back: nobody will come
    watchdogs()
    assert service.get("gate") == OPEN


def test_it_acts_for_a_second_controller_that_was_gone_before_it_had_one(
    service: MapService, watchdogs: Watchdogs
) -> None:
    fenced(service)
    take(service.place.store, controller="second", seconds=LEASE_SECONDS)
    watchdogs()
    assert service.get("gate") == OPEN
    assert service.events()[-1] == "fence-opened"


def test_it_leaves_the_service_to_another_run(
    service: MapService, watchdogs: Watchdogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "CLUSTER_POLL_SECONDS", 3.0)  # the other run is faster
    service.lease_seconds = 60.0
    fenced(service)
    service.place.expire()
    take(service.place.store, OTHER_RUN)
    watchdogs()
    assert service.get("gate") == FENCED


def test_it_waits_for_a_step_that_still_works(service: MapService, watchdogs: Watchdogs) -> None:
    service.lease_seconds = 3.0
    fenced(service)
    store = service.place.store
    with store.locked(5.0):
        store.renew(RUN, service.run["token"])
        time.sleep(1.0)
        assert service.get("gate") == FENCED
        service.set("db", HALF)
    watchdogs()
    assert service.get("gate") == FENCED


def test_it_leaves_closed_what_it_cannot_read(service: MapService, watchdogs: Watchdogs) -> None:
    fenced(service)
    path = f"/api/v1/namespaces/{service.place.namespace}/configmaps/{service.place.service}"
    service.place.admin.merge_patch(path, {"data": {"db": None}})
    watchdogs()
    assert service.get("gate") == FENCED
    found = report(service)
    assert found is not None
    assert "db: unread" in found["text"]


def test_a_resume_waits_until_it_has_opened(service: MapService, watchdogs: Watchdogs) -> None:
    service.gate_options = {"slow": 3.0}
    fenced(service)
    wait_for(lambda: service.place.holder().controller == f"{host_name()} (watchdog)")
    with pytest.raises(LeaseHeld, match="still changing"):
        service.open(OTHER_RUN)
    assert service.open(rollback_run=RUN)["resume"]
    assert service.get("gate") == OPEN
    assert service.events()[-2:] == ["fence-opened", "opened"]
    watchdogs()


def test_a_server_that_does_not_answer_is_no_reason_to_give_up(
    lab_cluster: Cluster, service: MapService, watchdogs: Watchdogs, far_proxy: FarProxy, tmp_path: Path
) -> None:
    service.place.kubeconfig = token_kubeconfig(
        lab_cluster, service.place.namespace, STORE_RULES, tmp_path, server=far_proxy.url
    )
    fenced(service)
    far_proxy.serve(Fault(times=None, status=401))  # is not asked again by the client, so each look fails at once
    time.sleep(LEASE_SECONDS + 1.0)
    assert service.get("gate") == FENCED
    assert len(far_proxy.spoilt()) > 3
    far_proxy.serve()
    watchdogs()
    assert service.get("gate") == OPEN
    assert service.events()[-1] == "fence-opened"


class EveryOther(Fault):
    """Spoils every second one of the first ten writes that come."""

    def takes(self, request: Request) -> bool:
        if request.method == "GET":
            return False
        self.met += 1
        return self.met <= 10 and self.met % 2 == self.skip


@pytest.mark.parametrize("number", [0, 1])
def test_any_of_its_writes_may_go_wrong(
    lab_cluster: Cluster,
    service: MapService,
    watchdogs: Watchdogs,
    far_proxy: FarProxy,
    tmp_path: Path,
    number: int,
) -> None:
    service.place.kubeconfig = token_kubeconfig(
        lab_cluster, service.place.namespace, STORE_RULES, tmp_path, server=far_proxy.url
    )
    fenced(service)
    far_proxy.serve(EveryOther(skip=number, status=500))
    watchdogs()
    assert len(far_proxy.spoilt()) > 2
    assert service.get("gate") == OPEN
    assert service.events()[-1] == "fence-opened"


# -- when its host is gone too -----------------------------------------------------------------------------------------


def test_the_next_holder_does_it_when_the_whole_host_is_gone(service: MapService, watchdogs: Watchdogs) -> None:
    before = set(children())

    def work(me: Worker) -> None:
        service.begin()
        service.go("stage", "fence")
        me.say("fenced")
        me.hear()

    with Worker(work, host="gone-1") as worker:
        worker.hear()
        worker.kill()
    for pid in set(children()) - before:  # the host's power is cut
        os.kill(pid, signal.SIGKILL)
    watchdogs()
    time.sleep(LEASE_SECONDS + 1.0)  # the API server tells the time in whole seconds
    assert service.get("gate") == FENCED
    with pytest.raises(Refused, match=f"Run {RUN} stopped behind a closed fence") as refusal:
        service.open(OTHER_RUN)
    assert refusal.value.next_step == f"rollbackctl resume {RUN}"
    said = {run["run"]: run for run in describe(service.place.state)["runs"]}[RUN]
    assert (said["fence"], said["outcome"], said["next"]) == ("closed", "interrupted", f"rollbackctl resume {RUN}")
    service.open(rollback_run=RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.get("gate") == OPEN
    assert service.finish()["outcome"] == "done"
    watchdogs()
