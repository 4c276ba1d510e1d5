# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog that outlives the run and its lease: it opens the fence by the same rule."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import fence
from ansible.module_utils.rollbackctl.errors import LeaseHeld, Refused, RollbackError
from ansible.module_utils.rollbackctl.failpoints import VARIABLE
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.unit.module_utils.engine_parts import (
    FENCED,
    HALF,
    OPEN,
    OTHER_RUN,
    RUN,
    GateDriver,
    Service,
    TextDriver,
)
from tests.unit.module_utils.fence_parts import (
    PATIENCE,
    TO,
    content,
    drivers,
    fenced,
    gate,
    report,
    service,
    watchdogs,
    write,
)

__all__ = ["drivers", "service", "watchdogs"]


# -- by the watchdog --------------------------------------------------------------------------------------------------


def test_the_watchdog_opens_what_is_wholly_old(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    watchdogs()
    assert gate(service) == OPEN
    found = report(service)
    assert found is not None
    assert (found["word"], found["opened"], found["message"]) == ("wholly old", True, "")
    last = service.store.journal(RUN).events()[-1]
    assert (last["event"], last["by"]) == ("fence-opened", "watchdog")


@pytest.mark.parametrize("step", ["_become_daemon", "_begin_anew"])
def test_no_fence_closes_without_its_watchdog(
    service: Service, watchdogs: Callable[[], None], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    service.lease_seconds = 60.0
    service.begin(rollback_to=TO)
    service.go("stage")

    def no_memory(*_arguments: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(fence, step, no_memory)
        answer = service.phase("fence")
    assert answer["failed"]
    assert "The watchdog could not be started" in answer["msg"]
    assert gate(service) == OPEN
    service.go("resume")
    assert service.finish(failed=True, message=answer["msg"])["outcome"] == "restored"
    watchdogs()


def test_a_store_that_became_read_only_does_not_keep_the_service_closed(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    fenced(service)
    store = str(service.store.path)
    subprocess.run(["mount", "--bind", store, store], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", store], check=True)
        watchdogs()
        assert gate(service) == OPEN
        assert report(service) is None
    finally:
        subprocess.run(["umount", store], check=True)


def test_a_damaged_lease_does_not_keep_the_service_closed(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    (service.store.path / "lease.json").write_text("not a lease", encoding="utf-8")
    watchdogs()
    assert gate(service) == OPEN


def test_the_watchdog_opens_what_is_wholly_new(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    service.go("capture", "rollback")
    watchdogs()
    assert gate(service) == OPEN
    found = report(service)
    assert found is not None
    assert found["word"] == "wholly new"


@pytest.mark.parametrize(
    ("db", "app", "word"),
    [(HALF, "bad\n", "neither old nor new"), ("v1\n", "bad\n", "neither old nor new"), ("v9\n", "bad\n", "changed by")],
)
def test_the_watchdog_leaves_closed_what_is_neither(
    service: Service, watchdogs: Callable[[], None], db: str, app: str, word: str
) -> None:
    fenced(service)
    service.go("capture")
    write(service, "db", db)
    write(service, "app", app)
    watchdogs()
    assert gate(service) == FENCED
    found = report(service)
    assert found is not None
    assert word in found["word"]
    following = "run 3 shop --reason REASON" if word == "changed by" else f"resume {RUN}"
    assert (found["opened"], found["message"]) == (False, f"The fence stays closed. Next: rollbackctl {following}")
    assert "fence-opened" not in service.events()


def test_the_watchdog_leaves_closed_what_it_cannot_read(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    (service.folder / "db.txt").unlink()
    watchdogs()
    assert gate(service) == FENCED
    found = report(service)
    assert found is not None
    assert "db: unread" in found["text"]


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), ValueError("no JSON"), Refused("not now")])
@pytest.mark.parametrize("where", ["read", "open", "lease_ends_in"])
def test_the_watchdog_outlives_a_fault_that_passes(
    service: Service,
    watchdogs: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    where: str,
) -> None:
    """Reading, opening and asking for the lease fail twice each, in the process of the watchdog alone."""
    ours, left = os.getpid(), iter([fault, fault])
    owner: Any = DirectoryStore if where == "lease_ends_in" else GateDriver if where == "open" else TextDriver
    name = "state" if where == "read" else where
    real = getattr(owner, name)

    def faulty(*arguments: Any, **named: Any) -> Any:
        if os.getpid() != ours and (error := next(left, None)) is not None:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, faulty)
    fenced(service)
    watchdogs()
    assert gate(service) == OPEN
    found = report(service)
    assert found is not None
    assert (found["word"], found["opened"]) == ("wholly old", True)
    assert service.events().count("fence-opening") == 1  # each try must not fill the journal


def test_the_watchdog_waits_while_the_lease_is_renewed(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    for _ in range(8):  # twice as long as the lease
        time.sleep(0.25)
        service.store.renew(RUN, service.run["token"])
        assert gate(service) == FENCED
    watchdogs()
    assert gate(service) == OPEN


def test_the_watchdog_waits_for_a_step_that_still_works(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    with service.store.locked(5.0):  # the fork of the watchdog holds it for a moment
        os.utime(service.store.path / "lease.json", (0, 0))
        time.sleep(0.5)
        assert gate(service) == FENCED
        write(service, "db", HALF)
    watchdogs()
    assert gate(service) == FENCED


def test_a_resumed_run_goes_on_behind_the_closed_fence(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    service.lease_seconds = 60.0
    service.open(rollback_run=RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    assert gate(service) == OPEN
    assert service.finish()["outcome"] == "done"
    watchdogs()  # both of them


def test_a_new_run_is_refused_while_another_stands_behind_its_closed_fence(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    fenced(service)
    write(service, "db", HALF)  # neither old nor new: the watchdog leaves it closed
    watchdogs()
    assert gate(service) == FENCED
    with pytest.raises(Refused, match="behind a closed fence") as refused:
        service.open(identity=OTHER_RUN)
    assert refused.value.next_step == f"rollbackctl resume {RUN}"
    assert service.open(rollback_run=RUN)["resume"]


def test_a_lease_that_ends_at_this_moment_lets_nobody_pass_a_closed_fence(
    service: Service, watchdogs: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fenced(service)
    write(service, "db", HALF)
    watchdogs()
    with service.store.locked():  # the dead controller's lease, not given back
        service.store.acquire(RUN, "ops", "gone", 1, service.lease_seconds)
    left = iter([0.001])
    monkeypatch.setattr(DirectoryStore, "lease_ends_in", lambda _store, _lease: next(left, -0.001))
    with pytest.raises(LeaseHeld):
        service.open(identity=OTHER_RUN)
    with pytest.raises(Refused, match="behind a closed fence"):
        service.open(identity=OTHER_RUN)


def test_the_watchdog_acts_when_a_run_was_ended_behind_a_closed_fence(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.finish(failed=True, message="it failed")  # gives the lease back: nobody will come
    watchdogs()
    assert gate(service) == OPEN


def test_the_watchdog_outlives_a_killed_module(service: Service, watchdogs: Callable[[], None]) -> None:
    service.begin(rollback_to=TO)
    module = os.fork()
    if module == 0:
        os.environ[VARIABLE] = "fence.close.after:kill"
        service.phase("fence")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(module, 0)[1]) == -signal.SIGKILL
    assert gate(service) == FENCED
    watchdogs()
    assert gate(service) == OPEN


def test_the_watchdog_holds_neither_lock_nor_files_of_its_module(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    service.lease_seconds = 60.0
    before = set(Path("/proc/self/task", str(os.getpid()), "children").read_text("ascii").split())
    fenced(service)
    with service.store.locked():
        children = Path("/proc/self/task", str(os.getpid()), "children").read_text("ascii").split()
        (watchdog,) = set(children) - before
        limit = time.monotonic() + PATIENCE
        while (held := {os.readlink(link) for link in Path("/proc", watchdog, "fd").iterdir()}) != {"/dev/null"}:  # noqa: PTH115
            assert time.monotonic() < limit, held
            time.sleep(0.02)
    assert os.getsid(int(watchdog)) != os.getsid(0)
    service.go("resume")
    watchdogs()


# -- a lease that ends, or is another's, between two phases ------------------------------------------------------------


def test_a_lease_that_ended_between_two_phases_is_renewed_by_the_next(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    """Before the fence nobody watches it. No other run took the service: the next step takes it up again."""
    service.begin(rollback_to=TO)
    for phase in ("stage", "fence"):
        lease = service.store.lease()
        assert lease is not None
        long_ago = time.time() - 10 * lease.seconds
        os.utime(service.store.path / "lease.json", (long_ago, long_ago))
        assert service.store.lease_ends_in(lease) < 0
        service.go(phase)
        assert service.store.lease_ends_in(lease) > 0
    service.go("capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    watchdogs()
    assert report(service) is None


def test_a_change_that_takes_longer_than_the_lease_keeps_it(service: Service, watchdogs: Callable[[], None]) -> None:
    """The heart beats while the change lasts, so no watchdog opens on what is half-way and no other run gets in."""
    service.components["data"][0]["slow"] = 3.0
    fenced(service)
    service.go("capture")
    late: list[str] = []
    held: list[float] = []

    def another() -> None:
        end = time.monotonic() + 2.2  # twice the lease
        while time.monotonic() < end:
            try:
                other = Service(service.folder, service.components, pid=1)
                late.append(str(other.open("rollback", OTHER_RUN, rollback_to=TO)))
            except LeaseHeld:
                held.append(time.monotonic())

    thread = threading.Thread(target=another)
    thread.start()
    service.go("rollback")
    thread.join()
    assert late == []
    assert held[-1] - held[0] > service.lease_seconds
    assert report(service) is None
    assert gate(service) == FENCED
    service.go("verify", "resume")
    assert service.finish()["outcome"] == "done"
    watchdogs()


@pytest.mark.parametrize("phase", ["stage", "fence", "capture", "rollback", "undo", "resume"])
def test_a_step_whose_lease_is_another_run_s_changes_nothing_and_says_what_to_type(
    service: Service, watchdogs: Callable[[], None], phase: str
) -> None:
    """The lease ended in a pause before the fence, a colleague's run took the service and holds it."""
    service.begin(rollback_to=TO)
    lost = service.run
    os.utime(service.store.path / "lease.json", (0, 0))
    service.lease_seconds = 60.0
    service.begin("rollback", OTHER_RUN, rollback_to=TO)
    others, service.run = service.run, lost
    before = (content(service, "db"), content(service, "app"), gate(service), service.events())
    answer = service.phase(phase)
    assert answer["failed"]
    assert f"This step does not hold the run's lease. Lease: run {OTHER_RUN}, held by ops" in answer["msg"]
    assert answer["next_step"] == f"Wait for the end of run {OTHER_RUN}, then: rollbackctl resume {RUN}"
    assert (content(service, "db"), content(service, "app"), gate(service), service.events()) == before
    with pytest.raises(RollbackError, match="does not hold"):  # ending it is the other run's business as well
        service.finish(failed=True, message=answer["msg"])
    with pytest.raises(LeaseHeld, match=f"run {OTHER_RUN}"):
        service.open(rollback_run=RUN)
    service.run = others
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    service.open(rollback_run=RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] in ("done", "already")
    assert (content(service, "db"), content(service, "app"), gate(service)) == ("v1\n", "good\n", OPEN)
    watchdogs()
