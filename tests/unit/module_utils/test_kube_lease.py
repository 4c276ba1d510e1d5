# SPDX-License-Identifier: GPL-3.0-or-later
"""The Lease in a real cluster: one writer at a time, whoever was killed, froze or lost an answer."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl import kube_lease
from ansible.module_utils.rollbackctl.errors import LeaseHeld, RollbackError
from ansible.module_utils.rollbackctl.kube_lease import LEASE_NOTE
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore
from ansible.module_utils.rollbackctl.step import changing_step
from ansible.module_utils.rollbackctl.store import host_name

from lab.kubernetes.cluster import Cluster
from tests.support.far_proxy import FarProxy, far_proxy
from tests.support.hosts import Worker
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import Fault, FaultProxy, Request
from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN
from tests.unit.module_utils.kube_store_parts import (
    ELSEWHERE,
    STORE_RULES,
    Place,
    place,
    shared_kubeconfig,
    shared_namespace,
    store,
    take,
)

__all__ = ["far_proxy", "place", "shared_kubeconfig", "shared_namespace", "store"]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
ROUNDS = 20


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that stands for a controller."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    yield process
    process.kill()
    process.wait(30)


# -- lease -------------------------------------------------------------------------------------------------------------


def test_nobody_holds_a_new_store(store: KubernetesStore) -> None:
    assert store.lease() is None


def test_every_takeover_raises_the_token(place: Place, store: KubernetesStore) -> None:
    tokens = [take(store).token, take(store, controller="third").token]
    place.expire()
    tokens.append(take(store, OTHER_RUN).token)
    store.release(OTHER_RUN, tokens[-1])
    assert store.lease() is None
    assert place.lease()["spec"]["holderIdentity"] == ""
    tokens.append(take(store).token)
    assert tokens == [1, 2, 3, 4]
    assert place.lease()["spec"]["leaseTransitions"] == 4


def test_the_lease_can_be_read_with_kubectl(place: Place, store: KubernetesStore) -> None:
    take(store, seconds=45)
    said = place.lab.kubectl("--namespace", place.namespace, "get", "lease", f"rollbackctl-{place.service}")
    assert f"{RUN} (ops on {ELSEWHERE})" in said
    spec = place.lease()["spec"]
    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (45, 1)


def test_another_run_is_refused_until_the_lease_ended(place: Place, store: KubernetesStore) -> None:
    take(store)
    with pytest.raises(LeaseHeld, match=f"run {RUN}, held by ops on {ELSEWHERE} .process 1. since .*ends in"):
        take(place.store, OTHER_RUN)
    place.expire()
    assert take(place.store, OTHER_RUN).run == OTHER_RUN


def test_a_lease_ends_by_itself(place: Place, store: KubernetesStore) -> None:
    take(store, seconds=1.5)
    began = time.monotonic()
    with pytest.raises(LeaseHeld):
        take(place.store, OTHER_RUN)
    token = 0
    while not token and time.monotonic() - began < 5:
        with contextlib.suppress(LeaseHeld):
            token = take(place.store, OTHER_RUN).token
    assert token == 2
    assert time.monotonic() - began > 0.4  # the API server's time is known to within a second


def test_the_same_run_goes_on_from_another_controller(place: Place, store: KubernetesStore) -> None:
    take(store)
    assert take(place.store, controller="third").controller == "third"


def test_the_same_run_is_refused_while_its_controller_lives(
    place: Place, store: KubernetesStore, sleeper: subprocess.Popen[bytes]
) -> None:
    take(store, controller=host_name(), pid=sleeper.pid)
    with pytest.raises(LeaseHeld, match="under way"):
        take(place.store, controller=host_name(), pid=os.getpid())
    sleeper.kill()  # from here on a zombie, until it is waited for: dead all the same
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert take(place.store, controller=host_name(), pid=os.getpid()).token == 2


def test_a_controller_that_lives_may_ask_again(place: Place, store: KubernetesStore) -> None:
    take(store, controller=host_name(), pid=os.getpid())
    assert take(place.store, controller=host_name(), pid=os.getpid()).token == 2


def test_renewing_extends_the_lease(place: Place, store: KubernetesStore) -> None:
    lease = take(store, seconds=100)
    place.expire()
    assert store.lease() == lease
    assert store.lease_ends_in(lease) < 0
    store.renew(RUN, lease.token)
    assert 90 < store.lease_ends_in(lease) <= 101


@pytest.mark.parametrize(("run", "token"), [(RUN, 1), (RUN, 0), (RUN, 99), (OTHER_RUN, 2)])
def test_a_writer_that_was_taken_over_cannot_go_on(place: Place, store: KubernetesStore, run: str, token: int) -> None:
    take(store)
    take(place.store, controller="third")
    with pytest.raises(RollbackError, match="does not hold"):
        store.renew(run, token)
    with pytest.raises(LeaseHeld, match="changes nothing more"):
        store.prove()


def test_a_writer_without_any_lease_cannot_start(store: KubernetesStore) -> None:
    with pytest.raises(RollbackError, match="Nobody holds") as refusal:
        store.renew(RUN, 0)
    assert "beginning" in refusal.value.next_step
    with pytest.raises(LeaseHeld):
        store.prove()


def test_only_the_holder_gives_the_lease_back(place: Place, store: KubernetesStore) -> None:
    take(store)
    newer = take(place.store, controller="third")
    store.release(RUN, 1)
    assert store.lease() == newer
    store.release(RUN, newer.token)
    assert store.lease() is None


@pytest.mark.parametrize("text", ["{", "[]", '{"run": "x"}'])
def test_a_damaged_lease_is_said_and_not_taken(place: Place, store: KubernetesStore, text: str) -> None:
    take(store)
    place.admin.merge_patch(place.lease_path, {"metadata": {"annotations": {LEASE_NOTE: text}}})
    with pytest.raises(RollbackError, match="damaged") as refusal:
        take(place.store, OTHER_RUN)
    assert f"kubectl delete lease rollbackctl-{place.service}" in refusal.value.next_step


def test_what_others_write_into_the_lease_stays(place: Place, store: KubernetesStore) -> None:
    lease = take(store)
    place.admin.merge_patch(
        place.lease_path, {"metadata": {"annotations": {"example.com/note": "x"}, "labels": {"team": "shop"}}}
    )
    store.renew(RUN, lease.token)
    store.release(RUN, lease.token)
    meta = place.lease()["metadata"]
    assert (meta["annotations"]["example.com/note"], meta["labels"]["team"]) == ("x", "shop")


def test_a_lease_that_somebody_deleted_is_lost(place: Place, store: KubernetesStore) -> None:
    lease = take(store)
    with store.locked():
        place.admin.delete(place.lease_path)
        with pytest.raises(RollbackError, match="does not hold"):
            store.renew(RUN, lease.token)
    with pytest.raises(LeaseHeld):
        store.prove()


# -- lock --------------------------------------------------------------------------------------------------------------


def hold(store: KubernetesStore, worker: Worker, seconds: float = 60.0) -> None:
    """Be at work on a step until told to stop."""
    with store.locked():
        token = store.acquire(RUN, "ops", host_name(), os.getpid(), seconds).token
        worker.say(token)
        worker.hear()


def test_a_step_keeps_others_out_and_dies_with_its_process(place: Place) -> None:
    with Worker(lambda me: hold(place.store, me)) as worker:
        worker.hear()
        began = time.monotonic()
        with pytest.raises(LeaseHeld, match="still changing"), place.store.locked(0.2):
            pass
        assert time.monotonic() - began < 1.0
        assert worker.kill() == signal.SIGKILL
        with place.store.locked():
            pass


def test_a_step_that_ended_leaves_no_mark(place: Place) -> None:
    with Worker(lambda me: hold(place.store, me)) as worker:
        worker.hear()
        assert f" {worker.pid} " in place.mark
        worker.say("stop")
        worker.result()
    assert place.mark == ""


def test_the_mark_of_a_process_that_was_killed_on_another_host_ends_with_the_lease(place: Place) -> None:
    with Worker(lambda me: hold(place.store, me, 2.0), host="gone-1") as worker:
        worker.hear()
        worker.kill()
    assert place.mark.startswith("gone-1 ")
    began = time.monotonic()
    with pytest.raises(LeaseHeld, match="still changing"), place.store.locked(0.1):
        pass
    store = place.store
    with store.locked(store.wait_for_own(RUN)):
        assert store.acquire(RUN, "ops", ELSEWHERE, 1, 60.0).token == 2
    assert 0.8 < time.monotonic() - began < 4.0


@pytest.mark.parametrize("change", ["pid", "born", "boot"])
def test_a_number_alone_is_no_process(place: Place, store: KubernetesStore, change: str) -> None:
    with store.locked():
        store.acquire(RUN, "ops", ELSEWHERE, 1, 60.0)
        host, boot, pid, born, name = place.mark.split(" ")
    marks = {
        "pid": (f"{host} {boot} {2**22 + 1} {born} {name}", False),
        "born": (f"{host} {boot} {pid} 1 {name}", False),
        "boot": (f"{host} 00000000/1 {pid} {born} {name}", True),
    }
    mark, lives = marks[change]
    place.set_mark(mark)
    if lives:
        with pytest.raises(LeaseHeld, match="still changing"), place.store.locked():
            pass
    else:
        with place.store.locked():
            pass


@pytest.mark.parametrize("mark", ["x", "a b", "a b c d e f g", "é"])
def test_a_mark_that_nobody_understands_ends_with_the_lease(place: Place, store: KubernetesStore, mark: str) -> None:
    take(store)
    place.set_mark(mark)
    with pytest.raises(LeaseHeld, match="still changing"), place.store.locked():
        pass
    place.expire()
    with place.store.locked():
        pass


def test_waiting_for_the_lock_ends_when_it_is_free(place: Place) -> None:
    def work(me: Worker) -> None:
        store = place.store
        with store.locked():
            store.acquire(RUN, "ops", host_name(), os.getpid(), 60.0)
            me.say("held")
            time.sleep(0.4)

    with Worker(work) as worker:
        worker.hear()
        with place.store.locked(60):
            assert place.mark == ""
        worker.result()


def broken_step(store: KubernetesStore) -> None:
    with store.locked():
        store.acquire(RUN, "ops", ELSEWHERE, 1, 60.0)
        raise ZeroDivisionError


def test_the_lock_is_free_again_after_an_error(place: Place, store: KubernetesStore) -> None:
    with pytest.raises(ZeroDivisionError):
        broken_step(store)
    assert place.mark == ""
    with place.store.locked():
        assert store.lease() is not None


def test_a_process_does_not_lock_twice(store: KubernetesStore) -> None:
    with store.locked():
        store.acquire(RUN, "ops", ELSEWHERE, 1, 60.0)
        with pytest.raises(LeaseHeld, match="This process"), store.locked():
            pass
        store.renew(RUN, 1)


def test_steps_that_are_one_keep_others_out_in_between(place: Place) -> None:
    alone = place.store
    with alone.whole():
        token = take(alone).token
        mark, version = place.mark, place.lease()["metadata"]["resourceVersion"]
        assert f" {os.getpid()} " in mark
        with pytest.raises(LeaseHeld, match="still changing"), place.store.locked(0.1):
            pass
        with changing_step(alone, RUN, token) as journal:
            journal.append("begin")
        assert place.lease()["metadata"]["resourceVersion"] == version, "what was renewed a moment ago needs nothing"
        time.sleep(kube_lease.FRESH_SECONDS + 0.1)
        with alone.locked():
            alone.renew(RUN, token)
        assert place.lease()["metadata"]["resourceVersion"] != version
        with pytest.raises(RollbackError, match="does not hold"), alone.locked():
            alone.renew(OTHER_RUN, token)
    assert place.mark == ""
    with alone.locked():
        alone.renew(RUN, token)


def test_steps_that_are_one_find_out_that_they_were_taken_over(place: Place) -> None:
    alone = place.store
    with alone.whole():
        token = take(alone, seconds=1.0).token
        time.sleep(1.5 + kube_lease.FRESH_SECONDS)
        with place.store.locked():
            pass  # the lease has ended, and so has the mark
        take(place.store)
        with pytest.raises(RollbackError, match="does not hold"), changing_step(alone, RUN, token):
            pass
        with pytest.raises(RollbackError):
            alone.prove()
    assert place.lease()["spec"]["leaseTransitions"] == token + 1


def test_a_step_that_loses_the_race_for_the_mark_changes_nothing(place: Place, store: KubernetesStore) -> None:
    """Two controllers of one run, both of which read the Lease while it was free."""
    take(store)
    first, second = place.store, place.store
    with first.locked(), second.locked():
        first.renew(RUN, 1)
        with pytest.raises(LeaseHeld, match="still changing"):
            second.renew(RUN, 1)
        with pytest.raises(LeaseHeld):
            second.prove()
        first.prove()
    assert place.mark == ""


def test_two_that_take_it_at_the_same_moment(place: Place) -> None:
    """Two processes, twenty times: exactly one gets it, and the other is told who did."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(2)

    def work(me: Worker, name: str) -> list[Any]:
        store = place.store
        found: list[Any] = []
        for number in range(ROUNDS):
            run = f"rb-{number}-{name}"
            ready.wait(30)
            try:
                with store.locked(0.8):
                    ready.wait(30)
                    found.append(store.acquire(run, name, name, 1, 60.0).token)
            except LeaseHeld as error:
                found.append(error.message)
            ready.wait(30)
            if isinstance(found[-1], int):
                store.release(run, found[-1])
            ready.wait(30)
        me.say("done")
        return found

    with Worker(lambda me: work(me, "a"), host="a") as one, Worker(lambda me: work(me, "b"), host="b") as other:
        both = [(worker.hear(), worker.result())[1] for worker in (one, other)]
    for number, pair in enumerate(zip(*both, strict=True)):
        won = [answer for answer in pair if isinstance(answer, int)]
        assert won == [number + 1], pair
        refusal = next(answer for answer in pair if isinstance(answer, str))
        assert f"run rb-{number}-" in refusal


# -- a process that slept ----------------------------------------------------------------------------------------------


def sleepy_step(place: Place, me: Worker, seconds: float) -> dict[str, str]:
    """Hold a step, be frozen for a while, and say what can still be done then."""
    store = place.store
    lease = take(store, seconds=seconds, controller=host_name(), pid=os.getpid())
    said = {}
    with changing_step(store, RUN, lease.token) as journal:
        journal.append("begin", component="api")
        me.say(lease.token)
        me.hear()  # frozen meanwhile
        for name, do in {
            "prove": store.prove,
            "append": lambda: journal.append("applied", component="api"),
            "plan": lambda: store.write_plan(RUN, {"late": True}),
            "renew": lambda: store.renew(RUN, lease.token),
            "checkpoint": lambda: store.write_checkpoint({"id": "cp-late", "taken": "", "state": "proven"}),
            "quarantine": lambda: store.write_quarantine([{"id": "late"}]),
            "open": lambda: store.open_journal(RUN),
            "prove again": store.prove,
        }.items():
            try:
                do()
                said[name] = "done"
            except RollbackError as error:
                said[name] = f"{type(error).__name__}: {error.message}"
    return said


@pytest.mark.parametrize("host", ["", "frozen-1"])
def test_who_slept_past_the_lease_changes_nothing_more(place: Place, host: str) -> None:
    with Worker(lambda me: sleepy_step(place, me, 2.0), host=host) as worker:
        assert worker.hear() == 1
        worker.stop()
        heir = place.store
        with heir.locked(5):
            assert heir.acquire(RUN, "ops", ELSEWHERE, 1, 60.0).token == 2
            journal = heir.open_journal(RUN)
            journal.append("opened", token=2)
            worker.go_on()
            worker.say("wake up")
            said = worker.result()
            assert place.mark.startswith(f"{host_name()} ")
    assert said["prove"].startswith("LeaseHeld: The run's lease was not renewed in time")
    for name in ("append", "plan", "open"):
        assert said[name].startswith("RollbackError: Another controller has taken this run over"), said
    assert "does not hold the run's lease" in said["renew"]
    for name in ("checkpoint", "quarantine", "prove again"):
        assert said[name].startswith("LeaseHeld"), said
    look = place.store
    assert [event["event"] for event in look.journal(RUN).events()] == ["begin", "opened"]
    assert look.read_plan(RUN) is None
    assert (look.checkpoints(), look.quarantine()) == ([], [])
    assert place.holder().token == 2


def test_who_slept_while_nobody_came_goes_on(place: Place) -> None:
    """The lease had ended, and nobody took it: the version of the object proves that."""
    with Worker(lambda me: sleepy_step(place, me, 1.0)) as worker:
        worker.hear()
        worker.stop()
        time.sleep(2.0)
        worker.go_on()
        time.sleep(0.6)  # the heart beats
        worker.say("wake up")
        said = worker.result()
    assert set(said.values()) == {"done"}


def test_a_step_lasts_longer_than_the_lease(place: Place, store: KubernetesStore) -> None:
    lease = take(store, seconds=1.2)
    with changing_step(store, RUN, lease.token):
        time.sleep(2.5)
        with pytest.raises(LeaseHeld, match="still changing"), place.store.locked():
            pass
        store.prove()
    assert place.mark == ""


# -- clocks ------------------------------------------------------------------------------------------------------------

CLOCKED = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from ansible import module_utils
module_utils.__path__.append({shared!r})
from ansible.module_utils.rollbackctl.errors import RollbackError
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore
store = KubernetesStore(json.loads({state!r}))
said = dict(now=time.time())
try:
    with store.locked():
        lease = store.acquire({run!r}, "ops", {name!r}, 1, 60.0)
    said["token"] = lease.token
    store.prove()
except RollbackError as error:
    said["error"] = error.message
lease = store.lease()
said["left"] = store.lease_ends_in(lease)
print(json.dumps(said))
"""


def with_clock(place: Place, root: Path, offset: str, run: str) -> dict[str, Any]:
    """Take the lease in a process whose clock is wrong."""
    assert FAKETIME is not None, "libfaketime is missing: apt-get install libfaketime"
    script = CLOCKED.format(
        root=str(root),
        shared=str(root / "plugins" / "module_utils"),
        state=json.dumps(place.state),
        run=run,
        name=f"clock{offset}",
    )
    env = {**os.environ, "LD_PRELOAD": str(FAKETIME), "FAKETIME": offset}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize(("first", "second"), [("-3h", "+400d"), ("+3h", "-3h")])
def test_the_clocks_of_controllers_do_not_matter(
    place: Place, tmp_path: Path, root: Path, first: str, second: str
) -> None:
    document = yaml.safe_load(place.kubeconfig.read_text(encoding="utf-8"))
    # Certificates do know what time it is.
    document["clusters"][0]["cluster"] = {"server": place.lab.server, "insecure-skip-tls-verify": True}
    place.kubeconfig = tmp_path / "kubeconfig"
    place.kubeconfig.write_text(yaml.safe_dump(document), encoding="utf-8")
    one = with_clock(place, root, first, RUN)
    other = with_clock(place, root, second, OTHER_RUN)
    assert abs(one["now"] - other["now"]) > 3600
    assert one["token"] == 1
    assert f"run {RUN}, held by ops" in other["error"]
    assert 50 < other["left"] <= 61
    assert 50 < one["left"] <= 61
    place.expire()
    assert with_clock(place, root, second, OTHER_RUN)["token"] == 2


def test_a_machine_that_slept_does_not_trust_its_lease(store: KubernetesStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop's lid was closed: the clock of durations goes on (CLOCK_BOOTTIME), so the lease has ended."""
    lease = take(store)
    with store.locked():
        store.renew(RUN, lease.token)
        store.prove()
        awake = kube_lease._clock
        monkeypatch.setattr(kube_lease, "_clock", lambda: awake() + 3600)
        with pytest.raises(LeaseHeld, match="not renewed in time"):
            store.prove()
        store.renew(RUN, lease.token)
        store.prove()


# -- answers that are lost, races with strangers, a server that is away ------------------------------------------------


@pytest.fixture
def spoilt(lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path) -> Place:
    """The same place, seen through the fault proxy."""
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    return Place(place.lab, place.admin, place.namespace, place.service, kubeconfig)


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("step", ["create", "renew", "unmark", "release", "take over"])
def test_a_lost_answer_about_the_lease_does_no_harm(
    place: Place, spoilt: Place, fault_proxy: FaultProxy, step: str, drop: str
) -> None:
    store = spoilt.store
    if step != "create":
        take(place.store)
    fault = fault_proxy.add("/leases", "POST|PUT", drop=drop)
    if step in {"create", "take over"}:
        with store.locked():
            lease = store.acquire(RUN, "ops", "third", 1, 60.0)
            assert store.lease() == lease
            store.prove()
        assert lease.token == (1 if step == "create" else 2)
    elif step == "renew":
        store.renew(RUN, 1)
        store.prove()
    elif step == "unmark":
        fault.skip = 1
        with store.locked():
            store.renew(RUN, 1)
            assert place.mark
    else:
        store.release(RUN, 1)
        assert store.lease() is None
    assert fault.met > fault.skip
    assert place.mark == ""
    assert place.holder().token == (2 if step == "take over" else 1)


def test_somebody_who_annotates_the_lease_is_not_a_rival(place: Place, spoilt: Place, fault_proxy: FaultProxy) -> None:
    store = spoilt.store
    note = {"metadata": {"annotations": {"example.com/touched": "yes"}}}
    fault_proxy.add(
        "/leases", "PUT", times=3, call=lambda _request: place.admin.merge_patch(place.lease_path, note) and None
    )
    lease = take(store)
    with store.locked():
        store.renew(RUN, lease.token)
        store.prove()
    store.release(RUN, lease.token)
    assert place.lease()["metadata"]["annotations"]["example.com/touched"] == "yes"


def test_a_rival_in_the_very_moment_wins_or_loses_but_never_both(
    place: Place, spoilt: Place, fault_proxy: FaultProxy
) -> None:
    def rival(_request: Request) -> None:
        take(place.store, OTHER_RUN, controller="rival")

    take(place.store)
    place.expire()
    fault_proxy.add("/leases", "PUT", call=rival)
    with pytest.raises(LeaseHeld, match=f"run {OTHER_RUN}, held by ops on rival"):
        take(spoilt.store, "rb-third")
    assert place.holder().run == OTHER_RUN


def test_a_server_that_is_away_for_seconds_is_waited_for(place: Place, spoilt: Place, fault_proxy: FaultProxy) -> None:
    store = spoilt.store
    lease = take(store, seconds=4.0)
    with changing_step(store, RUN, lease.token) as journal:
        fault = fault_proxy.add(times=None, drop="before")
        threading.Timer(1.5, lambda: setattr(fault, "times", 0)).start()
        journal.append("begin", component="api")
        time.sleep(2.0)  # without a beat that got through, the lease would no longer be relied on
        store.prove()
    assert fault.met > 1
    assert [event["event"] for event in place.store.journal(RUN).events()] == ["begin"]


def wait_for_the_lock(place: Place, seconds: float) -> float:
    """Return how long it took, in a process that does not know what its parent knows."""
    kube_lease._left_behind.clear()
    began = time.monotonic()
    with place.store.locked(seconds):
        return time.monotonic() - began


def test_a_mark_that_could_not_be_taken_away_ends_with_the_lease(
    lab_cluster: Cluster, place: Place, far_proxy: FarProxy, tmp_path: Path
) -> None:
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=far_proxy.url)
    store = Place(place.lab, place.admin, place.namespace, place.service, kubeconfig).store
    lease = take(store, seconds=3.0)
    with store.locked():
        store.renew(RUN, lease.token)
        far_proxy.serve(Fault("/leases", "PUT", times=None, status=403))
    assert place.mark
    with place.store.locked():  # this process knows that its step has ended
        pass
    with Worker(lambda _me: wait_for_the_lock(place, 0.0)) as other:
        assert other.result()["error"] == "LeaseHeld"
    with Worker(lambda _me: wait_for_the_lock(place, 10.0)) as other:
        assert other.result() < 6.0
    assert len(far_proxy.spoilt()) == 1
