# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore under readers and writers: no reader sees an error or a mixture, and no write gets lost unkept."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl import sqlite_backup
from ansible.module_utils.rollbackctl.component import LIVE, TARGET
from ansible.module_utils.rollbackctl.errors import StepFailed
from ansible.module_utils.rollbackctl.sqlite_health import damage

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

# Reads until told to stop. Both sums change in one transaction, in the restore too: a mixture would show.
READER = """
import json, os, sqlite3, sys, time
path, stop = sys.argv[1:]
errors, mixtures, reads, longest, seen = [], 0, 0, 0.0, set()
c = sqlite3.connect(path, timeout=0, isolation_level=None)
print("ready", flush=True)
last = time.monotonic()
while not os.path.exists(stop):
    try:
        row = c.execute("SELECT max(total), min(total) FROM orders WHERE id IN (1, 9999)").fetchone()
        mixtures += row[0] != row[1]
        seen.add(row[0])
        reads += 1
    except sqlite3.Error as exc:
        errors.append(str(exc))
    now = time.monotonic()
    longest, last = max(longest, now - last), now
print(json.dumps({"errors": errors, "mixtures": mixtures, "reads": reads, "longest": longest, "seen": sorted(seen)}))
"""
WRITER = """
import json, os, sqlite3, sys, time
path, stop = sys.argv[1:]
errors, done = [], 0
c = sqlite3.connect(path, timeout=20, isolation_level=None)
print("ready", flush=True)
while not os.path.exists(stop):
    try:
        c.execute("INSERT INTO users (name) VALUES ('written by the service')")
        done += 1
    except sqlite3.Error as exc:
        errors.append(str(exc))
    time.sleep(0.002)
print(json.dumps({"errors": errors, "done": done}))
"""


def start(source: str, path: Path, stop: Path) -> subprocess.Popen[str]:
    job = subprocess.Popen([sys.executable, "-c", source, str(path), str(stop)], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    job.stdout.readline()
    return job


def test_readers_and_writers_go_on(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", orders=30000)
    execute(path, "UPDATE orders SET total = 100 WHERE id IN (1, 9999)")
    good = checkpoint(path, tmp_path / "checkpoint")
    execute(path, "UPDATE orders SET total = 666 WHERE id IN (1, 9999)", "DELETE FROM orders WHERE id > 20000")
    stop = tmp_path / "stop"
    jobs = [start(source, path, stop) for source in (READER, READER, WRITER)]
    try:
        driver = make_driver(path, tmp_path / "work", method="online", busy_timeout=20)
        entry = entry_for(driver, driver.resolve(good))
        finding = driver.check(entry.live, entry.target)
        assert finding.problems == ()
        assert not finding.needs_fence
        assert driver.state(entry, opened=False)[0] == LIVE
        driver.record(tmp_path / "work")
        driver.stage(entry.target)
        driver.apply(entry.target)
        state, reading = driver.state(entry, opened=False)
        assert state == TARGET
        assert reading.identity["schema"] == good.identity["schema"]
    finally:
        stop.touch()
        results = [json.loads(job.communicate(timeout=30)[0]) for job in jobs]
    for reader in results[:2]:
        assert reader["errors"] == []
        assert reader["mixtures"] == 0
        assert reader["seen"] == [100, 666]
        assert reader["longest"] < 5
    assert results[2]["errors"] == []
    assert value(path, "SELECT count(*) FROM orders") == 30000
    assert value(path, "PRAGMA integrity_check") == "ok"
    kept = path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old")
    written = "SELECT count(*) FROM users WHERE name = 'written by the service'"
    assert value(kept, written) + value(path, written) == results[2]["done"]


def test_it_counts_as_restored_although_writers_went_on(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    execute(path, "DELETE FROM orders")
    driver = make_driver(path, tmp_path / "work", method="online")
    entry = entry_for(driver, driver.resolve(good))
    assert driver.state(entry, opened=False)[0] == LIVE
    driver.apply(entry.target)
    execute(path, "INSERT INTO users (name) VALUES ('written since')")
    state, reading = driver.state(entry, opened=False)
    assert state == TARGET
    assert reading.identity["content"] != good.identity["content"]
    execute(path, "CREATE TABLE somebody_elses (x)")
    assert driver.state(entry, opened=False)[0] != TARGET


def test_writes_after_the_restore_are_not_thrown_away_by_the_same_run(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online")
    bad = driver.record(tmp_path / "work")
    driver.apply(driver.resolve(good))
    execute(path, "INSERT INTO users (name) VALUES ('written since')")
    with pytest.raises(StepFailed, match="was written to after this run restored it"):
        driver.apply(driver.resolve(bad))
    assert value(path, "SELECT count(*) FROM users WHERE name = 'written since'") == 1
    asked_for = make_driver(path, tmp_path / "another run", method="online")
    asked_for.apply(asked_for.resolve(bad))
    assert asked_for.matches(asked_for.live(exact=True), bad, exact=True)


def test_an_unfinished_restore_does_not_count(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online", busy_timeout=0.2)
    entry = entry_for(driver, driver.resolve(good))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StepFailed):
        driver.apply(entry.target)
    holder.close()
    assert driver.state(entry, opened=False)[0] == LIVE


def test_the_wal_is_emptied_afterwards(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", orders=20000)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    service = sqlite3.connect(path, isolation_level=None)
    service.execute("SELECT * FROM users").fetchall()
    driver = make_driver(path, tmp_path / "work", method="online")
    driver.apply(driver.resolve(good))
    assert path.with_name("shop.db-wal").stat().st_size == 0
    assert service.execute("SELECT count(*) FROM orders").fetchone()[0] == 20000
    service.close()


def test_a_reader_that_stays_in_keeps_its_view(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    execute(path, "DELETE FROM orders WHERE id <= 100")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM orders").fetchone()[0] == 400
    driver = make_driver(path, tmp_path / "work", method="online", busy_timeout=0.3)
    driver.apply(driver.resolve(good))
    assert reader.execute("SELECT count(*) FROM orders").fetchone()[0] == 400
    reader.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM orders").fetchone()[0] == 500
    reader.close()


def test_the_backup_is_written_from_where_it_is(tmp_path: Path) -> None:
    """No copy of it is made beside the database: that is a third of what an online restore would write."""
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online")
    target = driver.resolve(good)
    driver.stage(target)
    assert not [name for name in beside(path) if name.endswith(".new")]
    backup = Path(target.at, target.artefacts["file"])
    content = backup.read_bytes()
    backup.write_bytes(content[:-1] + b"x")
    with pytest.raises(StepFailed, match="changed since"):
        driver.apply(target)
    backup.write_bytes(content)
    driver.apply(target)
    assert driver.matches(driver.live(exact=True), good, exact=True)


def test_a_backup_whose_bytes_were_found_whole_is_not_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    assert good.artefacts["sqlite"] == sqlite3.sqlite_version
    asked: list[sqlite3.Connection] = []

    def ask(connection: sqlite3.Connection) -> str:
        asked.append(connection)
        return damage(connection)

    monkeypatch.setattr(sqlite_backup, "damage", ask)
    assert make_driver(path).resolve(good).identity == good.identity
    assert asked == []
    make_driver(path).resolve(str(tmp_path / "checkpoint" / "shop-db.sqlite"))
    assert len(asked) == 1, "a file that is named is"
