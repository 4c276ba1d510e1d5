# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence: opened only on a service that is wholly old or wholly new, by the run or the watchdog that outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import fence
from ansible.module_utils.rollbackctl.durable import read_document
from ansible.module_utils.rollbackctl.errors import LeaseHeld, Refused, RollbackError
from ansible.module_utils.rollbackctl.failpoints import VARIABLE
from ansible.module_utils.rollbackctl.status import describe
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
    register,
    text_component,
)

TO = {"db": "good", "app": "good"}
PATIENCE = 60.0
THIRD_RUN = "rb-20261121-110000-0002"
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    monkeypatch.setattr(fence, "POLL_SECONDS", 0.05)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Data that needs a fence, code, and the gate in front of them."""
    gate = tmp_path / "gate"
    gate.write_text(OPEN, encoding="utf-8")
    return Service(
        tmp_path,
        {
            "data": [text_component(tmp_path, "db", "v2\nrow 1\n", "v1\n", needs_fence=True)],
            "text": [text_component(tmp_path, "app", "bad\n", "good\n")],
            "gate": [{"name": "web", "path": str(gate), "fence": True}],
        },
        lease_seconds=1.0,
    )


@pytest.fixture
def watchdogs() -> Iterator[Callable[[], None]]:
    """Adopt what is forked off, so that its end can be waited for, and end it by its id if it hangs."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def children() -> list[int]:
        return [int(pid) for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text("ascii").split()]

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


def gate(service: Service) -> str:
    return (service.folder / "gate").read_text(encoding="utf-8")


def write(service: Service, name: str, text: str) -> None:
    (service.folder / f"{name}.txt").write_text(text, encoding="utf-8")


def content(service: Service, name: str) -> str:
    return (service.folder / f"{name}.txt").read_text(encoding="utf-8")


def fenced(service: Service) -> Service:
    service.begin(rollback_to=TO)
    service.go("stage", "fence")
    return service


def report(service: Service) -> dict[str, Any] | None:
    return read_document(service.store.run_directory(RUN) / "watchdog.json")


# -- by the run -------------------------------------------------------------------------------------------------------


def test_a_whole_run_closes_and_opens(service: Service, watchdogs: Callable[[], None]) -> None:
    service.lease_seconds = 60.0
    result = None
    service.begin(rollback_to=TO)
    service.go("stage", "fence")
    assert gate(service) == FENCED
    service.go("capture", "rollback", "verify")
    assert gate(service) == FENCED
    result = service.phase("resume")
    assert not result.get("failed")
    assert gate(service) == OPEN
    assert result["rollbackctl"]["fence"]["by"] == "run"
    words = service.events()
    assert words.index("fence-closing") < words.index("fence-closed") < words.index("captured")
    assert words[-1] == "fence-opened"
    assert service.finish()["outcome"] == "done"
    watchdogs()  # it sees that the fence is open and ends by itself
    assert report(service) is None


def test_a_plan_that_needs_no_fence_closes_none(service: Service, watchdogs: Callable[[], None]) -> None:
    write(service, "db", "v1\n")
    fenced(service)
    assert gate(service) == OPEN
    assert "fence-closing" not in service.events()
    watchdogs()


def test_closing_twice_says_so(service: Service, watchdogs: Callable[[], None]) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    result = service.phase("fence")
    assert [step["status"] for step in result["rollbackctl"]["steps"]] == ["already"]
    assert service.events().count("fence-closing") == 1
    service.go("capture", "rollback", "resume")
    watchdogs()


@pytest.mark.parametrize(
    ("db", "app", "opened"),
    [
        ("v2\nrow 1\n", "bad\n", True),
        ("v1\n", "good\n", True),
        ("v1\n", "bad\n", False),
        ("v2\nrow 1\n", "good\n", False),
        (HALF, "bad\n", False),
        ("v2\nrow 1\nrow 2\n", "bad\n", False),  # written to inside the fence: not what was kept
        ("v9\n", "good\n", False),
    ],
    ids=["old", "new", "half new", "half old", "half-way", "old but written to", "strange"],
)
def test_the_run_opens_by_the_rule(
    service: Service,
    watchdogs: Callable[[], None],
    db: str,
    app: str,
    opened: bool,  # noqa: FBT001 - a table's column
) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    write(service, "db", db)
    write(service, "app", app)
    result = service.phase("resume")
    assert (gate(service) == OPEN) is opened
    if not opened:
        assert result["failed"]
        assert "stays closed" in result["msg"]
        assert result["next_step"] == f"rollbackctl resume {RUN}"
        assert "fence-opened" not in service.events()
        ending = service.finish(failed=True, message=result["msg"])
        assert ending["outcome"] in ("resumable", "unknown")
        way = "run 3 shop --reason REASON" if "changed by somebody else" in result["msg"] else f"resume {RUN}"
        assert ending["next"].endswith(f"rollbackctl {way}")
        write(service, "db", "v1\n")
        write(service, "app", "good\n")
    watchdogs()


def test_a_wholly_old_service_behind_a_closed_fence_is_not_restored_yet(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    fenced(service)
    service.go("capture")
    ending = service.finish(failed=True, message="it failed")
    assert (ending["outcome"], ending["next"]) == ("resumable", f"rollbackctl resume {RUN}")
    assert "The fence is closed" in ending["message"]
    watchdogs()


def test_opening_needs_the_lease(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    old = dict(service.run)
    service.open(rollback_run=RUN)
    service.run = old
    assert "does not hold" in service.phase("resume")["msg"]
    assert gate(service) == FENCED
    watchdogs()  # the successor never came to arm one of its own: the first one applies the rule
    assert gate(service) == OPEN


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


# -- the fence between closing and opening ----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["rollback", "undo"])
def test_nothing_is_changed_or_taken_back_once_the_fence_was_opened(
    service: Service, phase: str, watchdogs: Callable[[], None]
) -> None:
    fenced(service)
    if phase == "undo":
        service.go("capture", "rollback")
    opened_by_the_watchdog(service)
    before = content(service, "db"), content(service, "app")
    answer = service.phase(phase)
    assert answer["failed"]
    assert "The fence is open (the watchdog opened it at " in answer["msg"]
    assert (content(service, "db"), content(service, "app")) == before
    watchdogs()


@pytest.mark.parametrize("phase", ["rollback", "undo"])
def test_a_fence_that_is_opened_while_a_step_waits_for_the_lock_is_seen(
    service: Service, phase: str, watchdogs: Callable[[], None]
) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    if phase == "undo":
        service.go("capture", "rollback")
    before = content(service, "db"), content(service, "app")
    lock = service.store.path / "lock"
    reads, writes = os.pipe()
    begins, begin = os.pipe()
    step = os.fork()
    if step == 0:
        os.read(begins, 1)  # forked before the lock is taken: a fork shares it
        os.write(writes, service.phase(phase).get("msg", "it went on").encode())
        os._exit(0)
    with service.store.locked(PATIENCE):
        os.write(begin, b".")
        limit = time.monotonic() + PATIENCE
        while str(lock) not in {os.readlink(link) for link in Path("/proc", str(step), "fd").iterdir()}:  # noqa: PTH115
            assert time.monotonic() < limit, "it never came to the lock"
            time.sleep(0.02)
        opened_by_the_watchdog(service)
    assert os.waitpid(step, 0)[1] == 0
    assert b"The fence is open (the watchdog opened it at " in os.read(reads, 65536)
    for descriptor in (reads, writes, begins, begin):
        os.close(descriptor)
    assert (content(service, "db"), content(service, "app")) == before
    watchdogs()


@pytest.mark.parametrize("phase", ["rollback", "undo"])
def test_what_is_started_behind_the_fence_is_stopped_again_before_anything_changes(
    service: Service, phase: str, watchdogs: Callable[[], None]
) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    if phase == "undo":
        service.go("rollback")
    started_by_a_monitor(service)
    answer = service.phase(phase)
    assert not answer.get("failed"), answer
    (step,) = [
        step for step in answer["rollbackctl"]["steps"] if step["component"] == "web" and "again" in step["text"]
    ]
    assert "was started behind the closed fence by somebody else than this run" in step["text"]
    assert gate(service) == FENCED
    assert (content(service, "db"), content(service, "app")) == (
        ("v1\n", "good\n") if phase == "rollback" else ("v2\nrow 1\n", "bad\n")
    )
    service.go("resume")
    watchdogs()


def test_what_was_written_behind_the_fence_before_the_first_change_is_kept_as_well(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    started_by_a_monitor(service)
    write(service, "db", "v2\nrow 1\nrow 2\n")
    service.go("rollback")
    kept = service.store.run_directory(RUN) / "kept" / "db" / "before-2" / "content"
    assert kept.read_text(encoding="utf-8") == "v2\nrow 1\nrow 2\n"
    service.go("verify", "resume")
    assert gate(service) == OPEN
    watchdogs()


def test_what_is_started_between_two_changes_and_writes_stops_the_run(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    service.lease_seconds = 60.0
    other = text_component(service.folder, "db2", "v2\n", "v1\n", needs_fence=True)
    service.components["data"].append(other)
    service.begin(rollback_to={**TO, "db2": "good"})
    service.go("stage", "fence", "capture")
    service.run["only"] = "db"
    service.go("rollback")
    service.run["only"] = ""
    started_by_a_monitor(service)
    write(service, "db", "v1\nby the bad code\n")
    answer = service.phase("rollback")
    assert answer["failed"]
    assert "web: somebody started it behind the closed fence, and it wrote to db" in answer["msg"]
    assert (content(service, "db2"), content(service, "app"), gate(service)) == ("v2\n", "bad\n", FENCED)
    watchdogs_end(service, watchdogs)


def test_what_opens_was_started_after_the_last_change(service: Service, watchdogs: Callable[[], None]) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture", "rollback")
    started_by_a_monitor(service)
    answer = service.phase("resume")
    assert not answer.get("failed"), answer
    assert [step["text"].partition(";")[0] for step in answer["rollbackctl"]["steps"]] == [
        "was started behind the closed fence by somebody else than this run",
        "opened",
    ]
    assert service.events()[-3:] == ["fence-found-open", "fence-opening", "fence-opened"]
    watchdogs()


def test_what_was_started_behind_the_fence_and_wrote_is_not_opened(
    service: Service, watchdogs: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture", "rollback")

    def writes_when_stopped(driver: GateDriver) -> None:  # what it has in memory, as it ends
        write(service, "db", "v1\nby the bad code\n")
        driver.path.write_text(FENCED, encoding="utf-8")

    started_by_a_monitor(service)
    monkeypatch.setattr(GateDriver, "close", writes_when_stopped)
    answer = service.phase("resume")
    assert answer["failed"]
    assert "The fence stays closed" in answer["msg"]
    assert gate(service) == FENCED
    watchdogs_end(service, watchdogs)


@pytest.mark.parametrize("phase", ["rollback", "undo", "resume"])
def test_who_starts_it_again_and_again_is_told_of(
    service: Service, phase: str, watchdogs: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    if phase != "rollback":
        service.go("rollback")
    before = content(service, "db")
    monkeypatch.setattr(GateDriver, "closed", lambda _driver: False)
    answer = service.phase(phase)
    assert answer["failed"]
    assert "somebody starts it behind the closed fence as often as it is stopped" in answer["msg"]
    assert answer["next_step"].endswith(f"then: rollbackctl resume {RUN}")
    assert (content(service, "db"), gate(service)) == (before, FENCED)
    watchdogs_end(service, watchdogs)


def test_the_watchdog_opens_with_a_start_of_its_own(service: Service, watchdogs: Callable[[], None]) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture", "rollback")
    started_by_a_monitor(service)
    os.utime(service.store.path / "lease.json", (0, 0))
    watchdogs()
    assert service.events()[-3:] == ["fence-found-open", "fence-opening", "fence-opened"]
    assert gate(service) == OPEN


def test_what_users_still_write_to_is_not_kept_as_what_was_there(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    """Kept before the fence closes, the copy would lack what is written until then."""
    service.lease_seconds = 60.0
    service.begin(rollback_to=TO)
    service.go("stage")
    answer = service.phase("capture")
    assert answer["failed"]
    assert "The fence is open (closing it was skipped)" in answer["msg"]
    assert "captured" not in service.events()
    watchdogs_end(service, watchdogs)


def test_a_profile_without_its_fence_changes_nothing(service: Service, watchdogs: Callable[[], None]) -> None:
    service.lease_seconds = 60.0
    fenced(service)
    service.components["gate"][0]["fence"] = False
    answer = service.phase("rollback")
    assert answer["failed"]
    assert "the profile names none any more" in answer["msg"]
    assert "Set `fence: true` again" in answer["next_step"]
    assert (content(service, "db"), content(service, "app")) == ("v2\nrow 1\n", "bad\n")
    watchdogs_end(service, watchdogs)


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


# -- what somebody else changed behind the fence ----------------------------------------------------------------------


def stranded(service: Service) -> dict[str, Any]:
    """A run that stopped behind its closed fence: the code was to follow the data, and somebody else changed it."""
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    service.run["only"] = "db"
    service.go("rollback")
    service.run["only"] = ""
    write(service, "app", "hotfix\n")
    failure = service.phase("rollback")
    assert failure["failed"]
    assert service.phase("resume")["failed"]
    return service.finish(failed=True, message=failure["msg"])


def following(service: Service, run: str = RUN) -> str:
    """What the status says to type next for a run."""
    return str(next(one for one in describe(service.state)["runs"] if one["run"] == run)["next"])


def test_a_run_that_cannot_go_on_names_the_one_command_that_does(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    ending = stranded(service)
    assert ending["outcome"] == "unknown"
    assert ending["next"] == "Find out who did, then: rollbackctl run 3 shop --reason REASON"
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    service.open(rollback_run=RUN)
    failure = service.phase("preflight")
    assert failure["failed"]
    assert service.finish(failed=True, message=failure["msg"])["next"] == ending["next"]
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    assert gate(service) == FENCED
    watchdogs()


def test_a_new_run_takes_the_closed_fence_over_and_opens_it(service: Service, watchdogs: Callable[[], None]) -> None:
    stranded(service)
    plan = service.begin("rollback", OTHER_RUN, rollback_to=TO)
    assert (plan["takes_over"], plan["fence_of"], plan["fence"], plan["on_failure"]) == (RUN, RUN, True, "hold")
    assert {entry["name"]: entry["live"]["text"] for entry in plan["entries"]}["app"] == "version hotfix"
    assert following(service) == ""
    assert following(service, OTHER_RUN) == f"rollbackctl resume {OTHER_RUN}"
    with pytest.raises(Refused, match=f"was taken over by run {OTHER_RUN}"):
        service.open(rollback_run=RUN)
    service.go("stage", "fence", "capture", "rollback", "verify")
    assert gate(service) == FENCED
    service.go("resume")
    assert service.finish()["outcome"] == "done"
    assert (content(service, "db"), content(service, "app"), gate(service)) == ("v1\n", "good\n", OPEN)
    assert (following(service), following(service, OTHER_RUN)) == ("", "")
    watchdogs()


def test_taking_it_back_takes_the_fence_over_and_goes_to_before_the_first_run(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    stranded(service)
    write(service, "app", "bad\n")  # whoever changed it has put it back
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert (content(service, "db"), content(service, "app"), gate(service)) == ("v2\nrow 1\n", "bad\n", OPEN)
    watchdogs()


def test_an_undo_of_a_run_that_took_over_goes_back_to_before_both(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    stranded(service)
    service.begin("rollback", OTHER_RUN, rollback_to=TO)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    service.finish()
    with pytest.raises(Refused, match="was taken over") as refused:
        service.open("undo", THIRD_RUN, rollback_run=RUN)
    assert refused.value.next_step == f"rollbackctl undo {OTHER_RUN}"
    service.begin("undo", THIRD_RUN, rollback_run=OTHER_RUN)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert content(service, "db") == "v2\nrow 1\n"
    watchdogs()


def test_a_run_that_took_over_never_opens_what_it_found(service: Service, watchdogs: Callable[[], None]) -> None:
    """Half-way behind a closed fence is no state to go back to."""
    stranded(service)
    service.components["text"][0]["fail"] = "good"
    service.begin("rollback", OTHER_RUN, rollback_to=TO)
    service.go("stage", "fence", "capture")
    failure = service.phase("rollback")
    answer = service.phase("resume")
    assert "The fence stays closed" in answer["msg"]
    assert gate(service) == FENCED
    ending = service.finish(failed=True, message=failure["msg"])
    assert (ending["outcome"], ending["next"]) == ("resumable", f"rollbackctl resume {OTHER_RUN}")
    watchdogs()
    assert gate(service) == FENCED
    service.components["text"][0]["fail"] = ""
    service.open(rollback_run=OTHER_RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert gate(service) == OPEN
    watchdogs()


def test_a_new_run_opens_what_was_put_right_by_hand(service: Service, watchdogs: Callable[[], None]) -> None:
    stranded(service)
    write(service, "app", "good\n")
    plan = service.begin("rollback", OTHER_RUN, rollback_to=TO)
    assert {entry["action"] for entry in plan["entries"]} == {"none"}
    service.go("verify", "resume")
    assert service.finish()["outcome"] == "already"
    assert gate(service) == OPEN
    watchdogs()


def test_the_watchdog_names_the_run_that_works(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    service.go("capture")
    write(service, "app", "hotfix\n")
    watchdogs()
    said = report(service)
    assert said is not None
    assert said["message"] == "The fence stays closed. Next: rollbackctl run 3 shop --reason REASON"
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    assert service.open(identity=OTHER_RUN, rollback_to=TO)["takes_over"] == RUN


def test_what_was_only_written_to_behind_the_fence_is_resumed(service: Service, watchdogs: Callable[[], None]) -> None:
    """Rows, not a version of somebody else's: the resume keeps them too and goes on; undoing it brings them back."""
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    write(service, "db", "v2\nrow 1\nrow 2\n")
    stopped = service.finish(failed=True, message="Stopped.")
    assert (stopped["outcome"], stopped["next"]) == ("resumable", f"rollbackctl resume {RUN}")
    assert "written to since it was kept" in stopped["message"]
    assert following(service) == f"rollbackctl resume {RUN}"
    watchdogs_end(service, watchdogs)
    said = report(service)
    assert said is not None
    assert said["message"] == f"The fence stays closed. Next: rollbackctl resume {RUN}"
    assert gate(service) == FENCED
    service.open(rollback_run=RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert (content(service, "db"), content(service, "app"), gate(service)) == ("v1\n", "good\n", OPEN)
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert content(service, "db") == "v2\nrow 1\nrow 2\n"
    watchdogs()


def test_a_run_that_is_refused_leaves_the_fence_to_the_one_that_closed_it(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    stranded(service)
    service.open(identity=OTHER_RUN, rollback_to={"db": "good", "app": "nonsense"})
    problems = service.plan()["problems"]
    ending = service.finish(failed=True, message="; ".join(problems))
    assert ending["outcome"] == "refused"
    assert ending["message"].endswith(f"The service is still stopped, behind the fence of run {RUN}.")
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    assert gate(service) == FENCED
    watchdogs()


def test_nothing_is_finalized_while_a_fence_is_closed(service: Service, watchdogs: Callable[[], None]) -> None:
    stranded(service)
    with pytest.raises(Refused, match="may need what was kept"):
        service.open("finalize", OTHER_RUN, rollback_run=RUN)
    watchdogs()


def opened_by_the_watchdog(service: Service) -> None:
    """What the watchdog does inside the lock once a lease has ended; a lease that is renewed after that goes on."""
    journal = service.store.journal(RUN)
    journal.append("fence-opening", word="wholly old", reached=False)
    (service.folder / "gate").write_text(OPEN, encoding="utf-8")
    journal.append("fence-opened", by="watchdog", word="wholly old")


def started_by_a_monitor(service: Service) -> None:
    (service.folder / "gate").write_text(OPEN, encoding="utf-8")


def watchdogs_end(service: Service, watchdogs: Callable[[], None]) -> None:
    """Let the lease of a run that has stopped end, and wait for its watchdogs."""
    os.utime(service.store.path / "lease.json", (0, 0))
    watchdogs()
