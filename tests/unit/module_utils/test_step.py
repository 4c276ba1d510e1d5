# SPDX-License-Identifier: GPL-3.0-or-later
"""The bracket around every change: lease, lock, heart, deadline."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import DeadlineExceeded, LeaseHeld, RollbackError
from ansible.module_utils.rollbackctl.step import changing_step, deadline
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    made = DirectoryStore(str(tmp_path / "state"))
    made.create()
    with made.locked():
        made.acquire(RUN, "ops", "controller", 1, 60.0)
    made.write_plan(RUN, {"run": RUN})
    return made


def test_it_holds_the_lock_and_gives_the_journal(store: DirectoryStore) -> None:
    with changing_step(store, RUN, 1) as journal:
        journal.append("begin", component="app")
        with pytest.raises(LeaseHeld), store.locked():
            pass
    assert [event["event"] for event in store.journal(RUN).events()] == ["begin"]
    with store.locked():
        assert store.lease() is not None


@pytest.mark.parametrize(("run", "token"), [(RUN, 0), (RUN, 2), (OTHER_RUN, 1)])
def test_without_the_lease_nothing_begins(store: DirectoryStore, run: str, token: int) -> None:
    began = []
    with pytest.raises(RollbackError, match="does not hold"), changing_step(store, run, token):
        began.append(1)
    assert began == []


def test_the_lease_outlives_a_step_that_is_longer_than_it(store: DirectoryStore) -> None:
    with store.locked():
        lease = store.acquire(RUN, "ops", "controller", 1, 0.4)
    with changing_step(store, RUN, lease.token):
        time.sleep(1.0)  # without renewal it would have ended 0.6 s ago
        assert store.lease_ends_in(lease) > 0


def test_after_the_step_nobody_renews(store: DirectoryStore) -> None:
    with store.locked():
        lease = store.acquire(RUN, "ops", "controller", 1, 0.2)
    with changing_step(store, RUN, lease.token):
        pass
    os.utime(store.path / "lease.json", (0, 0))
    time.sleep(0.3)
    assert store.lease_ends_in(lease) < 0


def test_a_deadline_ends_what_hangs() -> None:
    with pytest.raises(DeadlineExceeded, match="app, phase rollback took longer"), deadline(0.1, "app, phase rollback"):
        time.sleep(60)


def test_a_deadline_that_held_leaves_no_alarm_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(60, "app"):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_step_that_ran_out_of_time_frees_the_lock(store: DirectoryStore) -> None:
    with pytest.raises(DeadlineExceeded), changing_step(store, RUN, 1), deadline(0.05, "app"):
        time.sleep(60)
    with store.locked():
        assert store.lease() is not None
