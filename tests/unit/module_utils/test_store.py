# SPDX-License-Identifier: GPL-3.0-or-later
"""The state store: one writer at a time, whoever was killed, and nothing outside its directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.durable import write_document
from ansible.module_utils.rollbackctl.errors import JournalDamaged, LeaseHeld, Refused, RollbackError
from ansible.module_utils.rollbackctl.store import KINDS, DirectoryStore, Lease, host_name, open_store

from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN, tree_digest
from tests.unit.module_utils.test_names import HOSTILE

ELSEWHERE = "another-controller"
HOLDER = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(120)
"""


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    made = DirectoryStore(str(tmp_path / "state"))
    made.create()
    return made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that stands for a controller."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    yield process
    process.kill()
    process.wait(30)


def take(
    store: DirectoryStore, run: str = RUN, *, pid: int = 1, controller: str = ELSEWHERE, seconds: float = 60.0
) -> Lease:
    with store.locked():
        return store.acquire(run, "ops", controller, pid, seconds)


def expire(store: DirectoryStore) -> None:
    os.utime(store.path / "lease.json", (1000, 1000))


# -- lease ------------------------------------------------------------------------------------------------------------


def test_nobody_holds_a_new_store(store: DirectoryStore) -> None:
    assert store.lease() is None


def test_every_takeover_raises_the_token(store: DirectoryStore) -> None:
    tokens = [take(store).token, take(store, controller="third").token]
    expire(store)
    tokens.append(take(store, OTHER_RUN).token)
    store.release(OTHER_RUN, tokens[-1])
    assert store.lease() is None
    tokens.append(take(store).token)
    assert tokens == [1, 2, 3, 4]


def test_another_run_is_refused_until_the_lease_ended(store: DirectoryStore) -> None:
    take(store)
    with pytest.raises(LeaseHeld, match=f"run {RUN}, held by ops on {ELSEWHERE}"):
        take(store, OTHER_RUN)
    expire(store)
    assert take(store, OTHER_RUN).run == OTHER_RUN


def test_the_same_run_goes_on_from_another_controller(store: DirectoryStore) -> None:
    take(store)
    assert take(store, controller="third").controller == "third"


def test_the_same_run_is_refused_while_its_controller_lives(
    store: DirectoryStore, sleeper: subprocess.Popen[bytes]
) -> None:
    take(store, controller=host_name(), pid=sleeper.pid)
    with pytest.raises(LeaseHeld, match="under way"):
        take(store, controller=host_name(), pid=os.getpid())
    sleeper.kill()  # from here on a zombie, until it is waited for: dead all the same
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert take(store, controller=host_name(), pid=os.getpid()).token == 2


def test_a_controller_that_lives_may_ask_again(store: DirectoryStore) -> None:
    take(store, controller=host_name(), pid=os.getpid())
    assert take(store, controller=host_name(), pid=os.getpid()).token == 2


def test_renewing_extends_the_lease(store: DirectoryStore) -> None:
    lease = take(store, seconds=100)
    expire(store)
    assert store.lease_ends_in(lease) < 0
    store.renew(RUN, lease.token)
    assert 90 < store.lease_ends_in(lease) <= 101


@pytest.mark.parametrize(("run", "token"), [(RUN, 1), (RUN, 0), (RUN, 99), (OTHER_RUN, 2)])
def test_a_writer_that_was_taken_over_cannot_go_on(store: DirectoryStore, run: str, token: int) -> None:
    take(store)
    take(store, controller="third")
    with pytest.raises(RollbackError, match="does not hold"):
        store.renew(run, token)


def test_a_writer_without_any_lease_cannot_start(store: DirectoryStore) -> None:
    with pytest.raises(RollbackError, match="Nobody holds") as refusal:
        store.renew(RUN, 0)
    assert "beginning" in refusal.value.next_step


def test_only_the_holder_gives_the_lease_back(store: DirectoryStore) -> None:
    take(store)
    newer = take(store, controller="third")
    store.release(RUN, 1)
    assert store.lease() == newer
    store.release(RUN, newer.token)
    assert store.lease() is None


def test_a_damaged_lease_is_said_and_not_taken(store: DirectoryStore) -> None:
    take(store)
    (store.path / "lease.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RollbackError, match="damaged"):
        take(store, OTHER_RUN)


# -- kernel lock ------------------------------------------------------------------------------------------------------


def test_the_lock_keeps_others_out_and_dies_with_its_process(store: DirectoryStore) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(store.path / "lock")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LeaseHeld, match="still changing"), store.locked(0.2):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
        with store.locked():
            assert take_fails_inside(store)
    finally:
        holder.kill()
        holder.wait(30)
        if holder.stdout is not None:
            holder.stdout.close()


def take_fails_inside(store: DirectoryStore) -> bool:
    """Say whether the lock, held here, keeps even this process from locking again."""
    try:
        with store.locked():
            return False
    except LeaseHeld:
        return True


def test_waiting_for_the_lock_ends_when_it_is_free(store: DirectoryStore) -> None:
    script = HOLDER.replace("time.sleep(120)", "time.sleep(0.3)")
    holder = subprocess.Popen([sys.executable, "-c", script, str(store.path / "lock")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with store.locked(60):
        assert holder.wait(30) == 0
    holder.stdout.close()


def test_the_lock_is_free_again_after_an_error(store: DirectoryStore) -> None:
    with pytest.raises(ZeroDivisionError), store.locked():
        raise ZeroDivisionError
    with store.locked():
        assert store.lease() is None


# -- names and places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_id_leaves_the_store(store: DirectoryStore, text: str) -> None:
    before = tree_digest(store.path)
    with pytest.raises(Refused, match="not a run id"):
        store.run_directory(text)
    with pytest.raises(Refused, match="not a checkpoint id"):
        store.checkpoint_directory(text)
    with pytest.raises(Refused, match="not a component name"):
        store.kept_directory(RUN, text)
    with pytest.raises(Refused, match="not a run id"):
        store.write_plan(text, {})
    assert tree_digest(store.path) == before


@pytest.mark.parametrize("path", ["", "state", "./state", "../state"])
def test_its_path_is_absolute(path: str) -> None:
    with pytest.raises(Refused, match="absolute"):
        DirectoryStore(path)


@pytest.mark.parametrize("state", [{}, {"kind": "kubernetes"}, {"kind": "Directory", "path": "/x"}])
def test_an_unknown_kind_is_refused(state: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KINDS, "kubernetes", raising=False)  # only a controller knows it: kube_registry.py
    with pytest.raises(Refused, match="known: directory"):
        open_store(state)


def test_what_it_makes_is_the_owner_s(store: DirectoryStore) -> None:
    store.write_plan(RUN, {"run": RUN})
    store.kept_directory(RUN, "app")
    take(store)
    files = [path for path in store.path.rglob("*") if path.is_file()]
    for path in [store.path, store.run_directory(RUN), store.kept_directory(RUN, "app"), *files]:
        assert path.stat().st_mode & 0o077 == 0, path


# -- runs, checkpoints, quarantine ------------------------------------------------------------------------------------


def test_a_plan_comes_back_and_brings_its_journal(store: DirectoryStore) -> None:
    assert store.read_plan(RUN) is None
    store.write_plan(RUN, {"run": RUN, "entries": []})
    assert store.read_plan(RUN) == {"run": RUN, "entries": []}
    assert store.journal(RUN).path.stat().st_size > 0
    assert store.runs() == [RUN]


def checkpoint(identity: str, taken: str, state: str = "proven") -> dict[str, object]:
    return {"id": identity, "state": state, "taken": taken, "components": {}, "exact_keys": {}}


def test_checkpoints_are_newest_first_and_damage_is_listed(store: DirectoryStore) -> None:
    for identity, taken in (
        ("cp-1", "2026-11-21T08:00:00Z"),
        ("cp-3", "2026-11-21T10:00:00Z"),
        ("cp-2", "2026-11-21T09:00:00Z"),
    ):
        store.checkpoint_directory(identity).mkdir()
        store.write_checkpoint(checkpoint(identity, taken))
    path = store.checkpoint_directory("cp-2") / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:-30])
    found = store.checkpoints()
    assert [(document["id"], document["state"]) for document in found] == [
        ("cp-3", "proven"),
        ("cp-1", "proven"),
        ("cp-2", "damaged"),
    ]
    assert "checksum" in found[-1]["message"]


# What a controller whose clock is ten minutes ahead calls its run, and one whose clock is right a minute later.
AHEAD, RIGHT = "rb-20261121-094100-aaaa", "rb-20261121-093200-bbbb"


def open_by(store: DirectoryStore, *runs: str) -> None:
    """Open runs one after another, as the guard does; the lease of each has ended when the next one comes."""
    for run in runs:
        lease = take(store, run)
        store.open_journal(run).append("opened", token=lease.token)
        expire(store)


def test_runs_are_in_the_order_of_the_store_not_of_clocks(store: DirectoryStore) -> None:
    open_by(store, AHEAD, RIGHT)
    assert store.runs() == [AHEAD, RIGHT]
    open_by(store, AHEAD)  # resumed: it is still the older one
    assert store.runs() == [AHEAD, RIGHT]


def test_the_run_that_moved_the_fence_last_is_the_one_that_counts(store: DirectoryStore) -> None:
    """The controller that was ahead stopped behind its fence, after one that was done; then the other way round."""
    open_by(store, RIGHT, AHEAD)
    store.journal(RIGHT).append("fence-closing")
    store.journal(RIGHT).append("fence-opened")
    store.journal(AHEAD).append("fence-closing")
    assert store.behind_closed_fence(set()) == AHEAD
    store.journal(AHEAD).append("fence-opened")
    open_by(store, RIGHT)
    store.journal(RIGHT).append("fence-closing")
    assert store.behind_closed_fence(set()) == RIGHT


def test_the_order_outlives_a_lease_that_was_moved_away(store: DirectoryStore) -> None:
    open_by(store, AHEAD, RIGHT)
    store.write_checkpoint({**checkpoint("cp-1", "2026-11-21T08:00:00Z"), "number": 7})
    (store.path / "lease.json").rename(store.path / "lease.json.damaged")
    assert take(store).token == 8


def test_checkpoints_are_in_the_order_of_the_store_not_of_clocks(store: DirectoryStore) -> None:
    """Those that were taken before there were numbers are older than all others."""
    for number, identity, taken in ((2, "cp-b", "09:00"), (3, "cp-a", "08:50"), (0, "cp-old", "09:30")):
        store.write_checkpoint({**checkpoint(identity, f"2026-11-21T{taken}:00Z"), "number": number})
    assert [document["id"] for document in store.checkpoints()] == ["cp-a", "cp-b", "cp-old"]


@pytest.mark.parametrize("ended", ["", "restored"])
def test_a_damaged_journal_may_hide_a_closed_fence(store: DirectoryStore, ended: str) -> None:
    open_by(store, RUN)
    journal = store.journal(RUN)
    journal.append("fence-closing")
    journal.append("fence-opened")
    if ended:
        journal.append("finished", outcome=ended)
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = lines[1][:-9] + b"damaged!}"
    journal.path.write_bytes(b"\n".join(lines))
    if ended:
        assert store.behind_closed_fence(set()) == ""
        return
    with pytest.raises(JournalDamaged, match="line 2") as refusal:
        store.behind_closed_fence(set())
    aside = refusal.value.next_step.rpartition("  ")[2].split()
    assert aside[0] == "mv"
    subprocess.run(aside, check=True, timeout=60)  # what it says to type works
    assert store.behind_closed_fence(set()) == ""
    assert store.runs() == []


def test_a_lease_of_another_shape_is_damaged(store: DirectoryStore) -> None:
    write_document(store.path / "lease.json", {"run": RUN})
    with pytest.raises(RollbackError, match="damaged"):
        take(store, OTHER_RUN)


def test_a_checkpoint_that_was_never_finished_is_none(store: DirectoryStore) -> None:
    (store.checkpoint_directory("cp-1") / "shop-db").mkdir(parents=True)
    assert store.checkpoints() == []


def test_a_stray_file_among_the_checkpoints_harms_nothing(store: DirectoryStore) -> None:
    (store.path / "checkpoints" / "README").write_text("do not touch", encoding="utf-8")
    store.checkpoint_directory("cp-1").mkdir()
    store.write_checkpoint(checkpoint("cp-1", "2026-11-21T08:00:00Z"))
    assert [document["id"] for document in store.checkpoints()] == ["cp-1"]


def test_the_quarantine_comes_back(store: DirectoryStore) -> None:
    assert store.quarantine() == []
    store.write_quarantine([{"id": "q-1", "combination": {}}])
    assert store.quarantine() == [{"id": "q-1", "combination": {}}]


def test_a_read_only_file_system_is_a_refusal(tmp_path: Path) -> None:
    place = tmp_path / "ro"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(place)], check=True, timeout=60)
    try:
        with pytest.raises(Refused, match="Read-only file system"):
            DirectoryStore(str(place / "state")).create()
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


def test_a_file_in_its_place_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("", encoding="utf-8")
    with pytest.raises(Refused, match="cannot be written"):
        DirectoryStore(str(tmp_path / "state")).create()


def test_a_link_as_lock_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="cannot be written"):
        DirectoryStore(str(tmp_path / "state")).create()
    assert not (tmp_path / "elsewhere").exists()


def test_a_store_that_is_copied_to_another_host_keeps_its_facts(store: DirectoryStore, tmp_path: Path) -> None:
    store.write_plan(RUN, {"run": RUN})
    store.journal(RUN).append("planned")
    shutil.copytree(store.path, tmp_path / "copy")
    copy = DirectoryStore(str(tmp_path / "copy"))
    assert copy.read_plan(RUN) == {"run": RUN}
    assert [event["event"] for event in copy.journal(RUN).events()] == ["planned"]
