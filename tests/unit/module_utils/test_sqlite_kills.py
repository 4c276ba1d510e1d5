# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed or failed anywhere, the database is wholly old or wholly new, and doing it again ends at the target."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, TARGET
from ansible.module_utils.rollbackctl.sqlite import SqliteDriver

from tests.unit.module_utils.sqlite_parts import (
    ROOT,
    apply_in_child,
    beside,
    break_it,
    checkpoint,
    child_command,
    entry_for,
    execute,
    make_database,
    make_driver,
    value,
)

STAGE = [name for name in SqliteDriver.failpoints if ".stage." in name]
ONLINE = [name for name in SqliteDriver.failpoints if ".online." in name or ".truncate." in name]
# wal.middle is reached only with a damaged database: see below.
REPLACE = [name for name in SqliteDriver.failpoints if name not in {*STAGE, *ONLINE, "restore_sqlite.wal.middle"}]
PLACES = [("replace", name, wal) for name in STAGE + REPLACE for wal in (True, False)]
PLACES += [("online", name, True) for name in STAGE + ONLINE]

# The service is killed and leaves a WAL with committed rows, or a journal with an unfinished transaction.
DYING = """
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA wal_autocheckpoint=0")
c.execute("PRAGMA cache_size=2")
c.execute("UPDATE orders SET total = total - 1")
c.execute("BEGIN")
c.execute("UPDATE orders SET total = 12345")
os.kill(os.getpid(), 9)
"""


def test_every_failpoint_in_the_source_is_listed() -> None:
    sources = sorted((ROOT / "plugins/module_utils/rollbackctl").glob("sqlite*.py"))
    used = {name for file in sources for name in re.findall(r'failpoint\("([^"]+)"\)', file.read_text())}
    assert used == set(SqliteDriver.failpoints)


@pytest.mark.parametrize("action", ["kill", "fail"])
@pytest.mark.parametrize(("method", "failpoint", "wal"), PLACES)
def test_stopped_at_a_failpoint(tmp_path: Path, method: str, failpoint: str, action: str, *, wal: bool) -> None:
    path = make_database(tmp_path / "shop.db", wal=wal, orders=3000)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    subprocess.run([sys.executable, "-c", DYING, str(path)], check=False, timeout=30)
    driver = make_driver(path, tmp_path / "work", method=method)
    entry = entry_for(driver, driver.resolve(good))

    stopped = apply_in_child(driver, entry.target, f"{failpoint}:{action}")

    assert stopped.returncode == (-signal.SIGKILL if action == "kill" else 1)
    reading = driver.live(exact=True)
    assert driver.matches(reading, entry.live, exact=True) or driver.matches(reading, entry.target, exact=True)
    assert value(path, "PRAGMA integrity_check") == "ok"
    reading = driver.live(exact=True)
    assert driver.matches(reading, entry.live, exact=True) or driver.matches(reading, entry.target, exact=True)

    again = apply_in_child(driver, entry.target)
    assert again.returncode == 0, again.stderr
    assert driver.state(entry, opened=False)[0] == TARGET
    assert value(path, "PRAGMA integrity_check") == "ok"
    driver.finalize()
    assert beside(path) == []


@pytest.mark.parametrize(
    "failpoint", [f"restore_sqlite.{step}" for step in ("link.after", "wal.middle", "wal.after", "replace.after")]
)
def test_a_damaged_database_stays_whole_somewhere(tmp_path: Path, failpoint: str) -> None:
    """SQLite cannot fold the WAL of what it cannot read: it is moved aside, and only then the file is replaced."""
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    subprocess.run([sys.executable, "-c", DYING, str(path)], check=False, timeout=30)
    wal = path.with_name("shop.db-wal")
    content, journal = b"overwritten by something" * 2000, wal.read_bytes()
    path.write_bytes(content)
    wal.write_bytes(journal[:32] + b"\0" * 24 + journal[56:])  # not one frame of it is valid: nothing repairs the file
    journal = wal.read_bytes()
    driver = make_driver(path, tmp_path / "work")
    entry = entry_for(driver, driver.resolve(good))
    assert entry.live.identity["schema"] == "damaged"
    assert apply_in_child(driver, entry.target, f"{failpoint}:kill").returncode == -signal.SIGKILL
    assert driver.state(entry, opened=False)[0] in {BETWEEN, TARGET}
    again = apply_in_child(driver, entry.target)
    assert again.returncode == 0, again.stderr
    assert driver.state(entry, opened=False)[0] == TARGET
    kept = path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old")
    assert kept.read_bytes() == content
    assert kept.with_name(kept.name + "-wal").read_bytes() == journal


@pytest.mark.parametrize("method", ["replace", "online"])
def test_killed_at_random_moments(tmp_path: Path, method: str) -> None:
    path = make_database(tmp_path / "shop.db", orders=3000)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method=method)
    entry = entry_for(driver, driver.resolve(good))
    bad = driver.record(tmp_path / "work")
    rng = random.Random(7)  # noqa: S311 - a seed makes a failure repeatable
    for _ in range(12):
        with subprocess.Popen(child_command(driver, entry.target), stdout=subprocess.PIPE) as job:
            assert job.stdout is not None
            job.stdout.readline()
            time.sleep(rng.uniform(0, 0.06))
            job.kill()
        state, _ = driver.state(entry, opened=False)
        assert state in {LIVE, BETWEEN, TARGET}
        reading = driver.live(exact=True)
        assert driver.matches(reading, entry.target, exact=True) or driver.matches(reading, entry.live, exact=True)
        if state == TARGET:
            driver.apply(bad)
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB (mounting it takes root)."""
    image, point = tmp_path / "disk", tmp_path / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)], check=True, timeout=30)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, timeout=30)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, timeout=30)


@pytest.mark.parametrize("method", ["replace", "online"])
def test_a_full_disk_leaves_the_old_database(small_disk: Path, tmp_path: Path, method: str) -> None:
    path = make_database(small_disk / "shop.db", orders=8000)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(b"x" * max(0, free - (300 << 10)))
    driver = make_driver(path, tmp_path / "work", method=method)
    entry = entry_for(driver, driver.resolve(good))
    assert any("MiB are needed" in problem for problem in driver.check(entry.live, entry.target).problems)
    failed = apply_in_child(driver, entry.target)
    assert {"replace": "No space left", "online": "disk is full"}[method] in failed.stderr
    assert driver.matches(driver.live(exact=True), entry.live, exact=True)
    assert not [name for name in beside(path) if name.endswith(".new")]
    (small_disk / "ballast").unlink()
    again = apply_in_child(driver, entry.target)
    assert again.returncode == 0, again.stderr
    assert driver.state(entry, opened=False)[0] == TARGET


def test_the_disk_fills_while_the_transaction_is_written(small_disk: Path, tmp_path: Path) -> None:
    path = make_database(small_disk / "shop.db", orders=9000)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    driver = make_driver(path, tmp_path / "work", method="online")
    entry = entry_for(driver, driver.resolve(good))
    driver.stage(entry.target)
    free = shutil.disk_usage(small_disk).free
    size = path.stat().st_size
    (small_disk / "ballast").write_bytes(b"x" * (free - size - (200 << 10)))
    failed = apply_in_child(driver, entry.target)
    assert "wholly old" in failed.stderr
    assert driver.matches(driver.live(exact=True), entry.live, exact=True)
    (small_disk / "ballast").unlink()
    assert apply_in_child(driver, entry.target).returncode == 0
    assert driver.state(entry, opened=False)[0] == TARGET


def test_a_write_just_before_the_lock_is_in_what_is_kept(tmp_path: Path) -> None:
    """Written after the run's own copy was taken; the engine cannot have it, the kept file does."""
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online")
    driver.record(tmp_path / "work")
    execute(path, "INSERT INTO users (name) VALUES ('the last one')")
    driver.apply(driver.resolve(good))
    kept = path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old")
    assert value(kept, "SELECT count(*) FROM users WHERE name = 'the last one'") == 1
    assert kept.stat().st_mode & 0o777 == 0o600
    assert value(kept, "PRAGMA integrity_check") == "ok"
