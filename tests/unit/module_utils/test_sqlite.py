# SPDX-License-Identifier: GPL-3.0-or-later
"""restore_sqlite brings a real database back, tells what that loses, and takes itself back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET, Place, Version
from ansible.module_utils.rollbackctl.errors import Refused, StepFailed
from ansible.module_utils.rollbackctl.sqlite import SqliteDriver
from ansible.module_utils.rollbackctl.sqlite_file import lock, mount_type, on_network

from tests.unit.module_utils.sqlite_parts import (
    beside,
    break_it,
    checkpoint,
    entry_for,
    execute,
    make_database,
    make_driver,
    value,
)


@pytest.mark.parametrize(("method", "wal"), [("replace", True), ("replace", False), ("online", True)])
def test_a_bad_release_is_undone_and_redone(tmp_path: Path, method: str, *, wal: bool) -> None:
    path = make_database(tmp_path / "shop.db", wal=wal)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method=method)
    target = driver.resolve(good)
    entry = entry_for(driver, target)
    assert driver.state(entry, opened=False)[0] == LIVE
    finding = driver.check(entry.live, target)
    assert finding.problems == ()
    assert finding.needs_fence is (method == "replace")
    bad = driver.record(tmp_path / "work")

    driver.stage(target)
    assert driver.state(entry, opened=False)[0] == LIVE
    driver.apply(target)
    assert driver.state(entry, opened=False)[0] == TARGET
    assert value(path, "SELECT version_num FROM alembic_version") == "4f2a"
    assert value(path, "PRAGMA journal_mode") == ("wal" if wal else "delete")

    driver.apply(driver.resolve(bad))
    assert driver.matches(driver.live(exact=True), bad, exact=True)
    assert value(path, "SELECT count(*) FROM orders WHERE id > 900000") == 3
    assert driver.finalize() != []
    assert beside(path) == []


def test_applying_again_changes_nothing(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work")
    driver.apply(good)
    before = path.stat()
    driver.apply(good)
    assert path.stat() == before
    assert beside(path) == [f"shop.db.rollbackctl-{driver.place.run}.old"]


def test_the_displaced_database_can_be_opened(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work")
    driver.apply(good)
    kept = path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old")
    assert value(kept, "SELECT version_num FROM alembic_version") == "bad1"


def test_what_is_lost_is_counted_by_key(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    execute(path, "INSERT INTO prices VALUES ('new', 'today', 1)", "UPDATE prices SET cents = 0 WHERE sku = 'sku7'")
    driver = make_driver(path)
    loss = driver.check(driver.live(exact=True), driver.resolve(good)).loss
    assert loss is not None
    assert loss.since == good.taken
    assert loss.tables == {
        "orders": {"only_live": 3, "only_target": 10, "differ": 5},
        "prices": {"only_live": 1, "only_target": 0, "differ": 1},
    }
    assert "orders: 3 written, 5 changed, 10 deleted" in loss.text


def test_nothing_is_lost_when_contents_are_equal(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    execute(path, "DELETE FROM users WHERE id = 1", "INSERT INTO users VALUES (1, 'user 0')", "ANALYZE")
    driver = make_driver(path)
    assert driver.check(driver.live(exact=True), good).loss is None


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    before = (sorted(tmp_path.iterdir()), path.stat())
    driver = make_driver(path)
    driver.check(driver.live(exact=True), driver.resolve(good))
    assert (sorted(tmp_path.iterdir()), path.stat()) == before


def test_a_checkpoint_has_what_is_still_in_the_wal(tmp_path: Path) -> None:
    """B9: `cp app.db` keeps 0 of these rows."""
    path = make_database(tmp_path / "shop.db")
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.executemany("INSERT INTO users (name) VALUES (?)", [(f"late {n}",) for n in range(1000)])
    writer.commit()
    version = checkpoint(path, tmp_path / "checkpoint")
    copied = shutil.copy(path, tmp_path / "cp.db")
    writer.close()
    assert value(Path(copied), "SELECT count(*) FROM users") == 20
    assert value(tmp_path / "checkpoint" / "shop-db.sqlite", "SELECT count(*) FROM users") == 1020
    assert version.artefacts["tables"]["users"]["rows"] == 1020
    assert (tmp_path / "checkpoint" / "shop-db.sqlite").stat().st_mode & 0o777 == 0o600
    assert version.text.startswith(f"backup of {version.taken}, 4 tables, 1,551 rows, revision 4f2a")


LEAVE_WAL = """
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("PRAGMA wal_autocheckpoint=0")
c.execute("UPDATE orders SET total = -5")
c.execute("DELETE FROM users WHERE id > 2")
c.commit()
os.kill(os.getpid(), 9)
"""


def test_a_stale_wal_is_never_played_back(tmp_path: Path) -> None:
    """B8: after `cp backup app.db` the bad rows came back from the -wal that the killed service had left."""
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    subprocess.run([sys.executable, "-c", LEAVE_WAL, str(path)], check=False, timeout=30)
    assert path.with_name("shop.db-wal").stat().st_size > 0
    driver = make_driver(path, tmp_path / "work")
    driver.apply(driver.resolve(good))
    assert driver.matches(driver.live(exact=True), good, exact=True)
    assert value(path, "SELECT count(*) FROM orders WHERE total < 0") == 0
    kept = path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old")
    assert value(kept, "SELECT count(*) FROM orders WHERE total = -5") == 500


def test_a_wal_that_appears_again_with_the_old_file_is_not_played_back(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", wal=False)
    good = checkpoint(path, tmp_path / "checkpoint")
    path.write_bytes(b"not a database at all" * 500)
    path.with_name("shop.db-wal").write_bytes(b"rubbish" * 1000)
    path.with_name("shop.db-journal").write_bytes(b"rubbish" * 1000)
    driver = make_driver(path, tmp_path / "work")
    driver.apply(driver.resolve(good))
    assert driver.matches(driver.live(exact=True), good, exact=True)
    kept = path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old")
    assert kept.read_bytes() == b"not a database at all" * 500
    assert kept.with_name(kept.name + "-wal").read_bytes() == b"rubbish" * 1000


LEAVE_JOURNAL = """
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size=2")
c.execute("BEGIN")
c.execute("UPDATE orders SET total = -5")
os.kill(os.getpid(), 9)
"""


def test_a_transaction_of_a_killed_service_is_read_as_undone_and_never_played_back(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", wal=False, orders=5000)
    good = checkpoint(path, tmp_path / "checkpoint")
    subprocess.run([sys.executable, "-c", LEAVE_JOURNAL, str(path)], check=False, timeout=30)
    journal = path.with_name("shop.db-journal")
    before = (path.read_bytes(), journal.read_bytes())
    driver = make_driver(path, tmp_path / "work")
    assert driver.matches(driver.live(exact=True), good, exact=True)
    assert (path.read_bytes(), journal.read_bytes()) == before
    driver.apply(driver.resolve(good))
    assert not journal.exists()
    assert driver.matches(driver.live(exact=True), good, exact=True)


def test_owner_permissions_and_labels_are_kept(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    path.chmod(0o640)
    os.setxattr(path, "user.team", b"shop")
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    before = path.stat()
    make_driver(path, tmp_path / "work").apply(good)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert os.getxattr(path, "user.team") == b"shop"


HOLD = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM users').fetchall(); "
HOLD += "print('open', flush=True); time.sleep(60)"


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "journal"])
def test_an_open_database_is_not_replaced(tmp_path: Path, *, wal: bool) -> None:
    path = make_database(tmp_path / "shop.db", wal=wal)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            driver = make_driver(path, tmp_path / "work")
            live = driver.live(exact=True)
            assert any(str(holder.pid) in note for note in driver.check(live, good).notes)
            with pytest.raises(StepFailed, match=rf"is in use.*pid {holder.pid}"):
                driver.apply(good)
            assert driver.matches(driver.live(exact=True), live, exact=True)
        finally:
            holder.kill()
    driver.apply(good)
    assert driver.matches(driver.live(exact=True), good, exact=True)


def test_a_damaged_database_is_kept_byte_by_byte_and_can_be_put_back(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    content = bytearray(path.read_bytes())
    for page in range(1, 10):
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(content)
    driver = make_driver(path, tmp_path / "work")
    live = driver.live(exact=True)
    assert live.identity["schema"] == "damaged"
    loss = driver.check(live, good).loss
    assert loss is not None
    assert "cannot be counted" in loss.text
    with pytest.raises(Refused, match="not taken as a checkpoint"):
        make_driver(path).record(tmp_path / "checkpoint")
    bad = driver.record(tmp_path / "work")
    driver.apply(driver.resolve(good))
    assert driver.matches(driver.live(exact=True), good, exact=True)
    driver.apply(driver.resolve(bad))
    assert path.read_bytes() == bytes(content)
    assert driver.matches(driver.live(exact=True), bad, exact=True)


def test_a_missing_database_comes_back_with_its_owner_and_permissions(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    path.chmod(0o640)
    good = checkpoint(path, tmp_path / "checkpoint")
    path.unlink()
    path.with_name("shop.db-wal").write_bytes(b"left over" * 100)
    driver = make_driver(path, tmp_path / "work")
    entry = entry_for(driver, good)
    assert driver.check(entry.live, driver.resolve(good)).problems == ()
    driver.apply(good)
    assert driver.state(entry, opened=False)[0] == TARGET
    assert path.stat().st_mode & 0o777 == 0o640


def test_somebody_elses_change_is_seen(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work")
    entry = entry_for(driver, good)
    execute(path, "DROP TABLE audit")
    assert driver.state(entry, opened=False)[0] == OTHER


def test_a_run_that_was_killed_before_the_rename_reads_as_between(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work")
    entry = entry_for(driver, good)
    os.link(path, path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old"))
    assert driver.state(entry, opened=False)[0] == BETWEEN
    assert driver.check(entry.live, good).problems == ()
    driver.apply(good)
    assert driver.state(entry, opened=False)[0] == TARGET


def test_links_and_second_names_are_refused(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(Refused, match="symbolic link"):
        make_driver(tmp_path / "link.db").live(exact=True)
    os.link(path, tmp_path / "other.db")
    driver = make_driver(path)
    assert "hard links" in " ".join(driver.check(driver.live(exact=True), good).problems)


def test_a_directory_that_is_a_link_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = make_database(tmp_path / "real" / "shop.db")
    (tmp_path / "current").symlink_to("real")
    assert make_driver(tmp_path / "current" / "shop.db").path == str(path)


def test_problems_are_found_before_anything_changes(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", page_size=8192)
    good = checkpoint(path, tmp_path / "checkpoint")
    path.unlink()
    make_database(path)
    break_it(path)
    driver = make_driver(path, method="online")
    live = driver.live(exact=True)
    assert "page sizes differ" in " ".join(driver.check(live, good).problems)
    huge = Version(good.identity, "", good.taken, {**good.artefacts, "bytes": 1 << 60}, good.at)
    assert "MiB are needed" in " ".join(driver.check(live, huge).problems)
    with pytest.raises(StepFailed, match="wholly old"):
        make_driver(path, tmp_path / "work", method="online").apply(good)
    assert driver.matches(driver.live(exact=True), live, exact=True)
    make_driver(path, tmp_path / "work").apply(good)
    assert driver.matches(driver.live(exact=True), good, exact=True)


def test_readers_of_a_database_in_journal_mode_are_not_locked_out(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", wal=False)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online")
    live = driver.live(exact=True)
    assert "is not in WAL mode" in " ".join(driver.check(live, good).problems)
    with pytest.raises(StepFailed, match="is not in WAL mode"):
        driver.apply(good)
    assert driver.matches(driver.live(exact=True), live, exact=True)


def test_file_systems_are_told_apart() -> None:
    assert mount_type("/proc/self") == "proc"
    assert not on_network(mount_type("/proc/self"))
    assert all(on_network(kind) for kind in ("nfs", "nfs4", "cifs", "9p", "fuse.sshfs"))
    assert not any(on_network(kind) for kind in ("ext4", "xfs", "btrfs", "overlay", "tmpfs", "fuse.ntfs"))


def test_a_lock_that_proc_does_not_show_is_noticed(tmp_path: Path) -> None:
    """A process of another PID namespace, say: here the locks of a child are asked for without looking into /proc."""
    path = make_database(tmp_path / "shop.db")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with path.open("r+b") as file:
            assert not lock(file.fileno())
        holder.kill()
    with path.open("r+b") as file:
        assert lock(file.fileno())


def test_finalize_removes_only_this_run(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    make_driver(path, tmp_path / "work").apply(good)
    other = SqliteDriver({"name": "shop-db", "path": str(path)}, Place(run="rb-other"))
    assert other.finalize() == []
    assert len(beside(path)) == 1


def test_a_long_writer_does_not_keep_the_restore_waiting_for_ever(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online", busy_timeout=0.5)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StepFailed, match="held the write lock"):
        driver.apply(good)
    assert time.monotonic() - began < 30
    writer.execute("COMMIT")
    writer.close()
    assert value(path, "SELECT version_num FROM alembic_version") == "bad1"


def test_what_a_restore_itself_brought_back_is_nobody_s_loss_when_it_is_taken_back(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good, kept = tmp_path / "good", tmp_path / "kept"
    good.mkdir()
    kept.mkdir()
    backup = checkpoint(path, good)
    execute(path, "DELETE FROM orders WHERE id <= 10", "UPDATE orders SET total = 0 WHERE id = 11")
    driver = make_driver(path, tmp_path / "work")
    bad = driver.record(kept)
    driver.apply(backup)
    live = driver.live(exact=True)
    claimed = driver.check(live, bad).loss
    assert claimed is not None
    assert driver.lost_since(live, backup, claimed) is None
    execute(path, "UPDATE orders SET total = 7 WHERE id IN (20, 21)")
    live = driver.live(exact=True)
    claimed = driver.check(live, bad).loss
    assert claimed is not None
    written = driver.lost_since(live, backup, claimed)
    assert written is not None
    assert written.tables == {"orders": {"only_live": 0, "only_target": 0, "differ": 2}}
    assert "orders: 2 changed" in written.text
