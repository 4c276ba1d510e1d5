# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence: opened only on a service that is wholly old or wholly new, and proven to be closed until then."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl import registry
from ansible.module_utils.rollbackctl.component import LIVE, TARGET, Entry, Loss, Version

from tests.unit.module_utils.engine_parts import (
    FENCED,
    HALF,
    OPEN,
    OTHER_RUN,
    RUN,
    SINCE,
    DataDriver,
    GateDriver,
    Service,
    text_component,
)
from tests.unit.module_utils.fence_parts import (
    PATIENCE,
    TO,
    content,
    drivers,
    fenced,
    gate,
    opened_by_the_watchdog,
    report,
    service,
    started_by_a_monitor,
    watchdogs,
    watchdogs_end,
    write,
)

__all__ = ["drivers", "service", "watchdogs"]


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


def test_a_run_whose_fence_is_closed_is_not_done(service: Service, watchdogs: Callable[[], None]) -> None:
    """As when somebody skips the task (ansible-playbook --step): everything reads as planned, and is stopped."""
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture", "rollback", "verify")
    ending = service.finish()
    assert (ending["outcome"], ending["next"].splitlines()[0]) == ("resumable", f"rollbackctl resume {RUN}")
    assert "Opening the fence was skipped." in ending["message"]
    watchdogs()
    assert gate(service) == OPEN


def test_what_was_lost_is_counted_also_when_the_run_was_killed_before_it_wrote_down_the_change(
    service: Service, watchdogs: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.lease_seconds = 60.0
    loss = Loss(since=SINCE, text="4 rows")
    monkeypatch.setattr(DataDriver, "lost", lambda *_: loss)
    fenced(service)
    service.go("capture")
    step = os.fork()
    if step == 0:
        real = DataDriver.apply

        def killed(driver: DataDriver, target: Version) -> None:
            real(driver, target)
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(DataDriver, "apply", killed)
        service.phase("rollback")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(step, 0)[1]) == -signal.SIGKILL
    assert content(service, "db") == "v1\n"
    service.open(rollback_run=RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    ending = service.finish()
    assert (ending["outcome"], ending["losses"]["db"]["text"]) == ("done", "4 rows")
    opened = next(event["at"] for event in service.store.journal(RUN).events() if event["event"] == "fence-opening")
    service.components["data"][0]["loss"] = SINCE
    service.open("undo", OTHER_RUN, rollback_run=RUN)
    assert service.plan(dry=True)["plan"]["data_loss_since"] == opened  # not since the backup: that is nobody's loss
    service.finish(failed=True, message="Looked at only.")
    watchdogs()


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


# -- what is restarted and is no fence --------------------------------------------------------------------------------


class WorkerDriver(GateDriver):
    """A program that reads the code and does not write to the data: it is restarted, once for each place."""

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - not about content
        assert self.place.work is not None
        return (TARGET if (self.place.work / "restarted").exists() else LIVE), self.live(exact=True)

    def apply(self, target: Version) -> None:  # noqa: ARG002 - there is one state to be in
        assert self.place.work is not None
        (self.place.work / "restarted").touch()
        self.path.write_text(content_of(self.path, "app"), encoding="utf-8")


def content_of(path: Path, name: str) -> str:
    return path.with_name(f"{name}.txt").read_text(encoding="utf-8")


@pytest.fixture
def with_worker(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setitem(registry.DRIVERS, "worker", WorkerDriver)
    (service.folder / "worker.txt").write_text("bad\n", encoding="utf-8")
    service.components["worker"] = [{"name": "worker", "path": str(service.folder / "worker.txt"), "fence": False}]
    service.lease_seconds = 60.0
    return service


def test_what_is_no_fence_is_restarted_all_the_same(with_worker: Service, watchdogs: Callable[[], None]) -> None:
    fenced(with_worker)
    with_worker.go("capture", "rollback", "verify", "resume")
    assert content(with_worker, "worker") == "good\n"
    assert with_worker.finish()["outcome"] == "done"
    watchdogs()


def test_what_is_no_fence_is_restarted_when_a_run_is_taken_back(
    with_worker: Service, watchdogs: Callable[[], None]
) -> None:
    fenced(with_worker)
    with_worker.go("capture", "rollback", "undo", "resume")
    assert content(with_worker, "worker") == "bad\n"
    assert with_worker.finish(failed=True, message="it failed")["outcome"] == "restored"
    watchdogs()
