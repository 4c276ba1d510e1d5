# SPDX-License-Identifier: GPL-3.0-or-later
"""A SQLite database of 70 MB is put back by restore_sqlite and by `cp`: under traffic, and after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.component import TARGET, Entry, Place, Version
from ansible.module_utils.rollbackctl.sqlite import SqliteDriver

from tests.benchmarks.rows import row

ROWS = 700_000
READERS = 2
REPEATS = 3
GAP_BAR_SECONDS = 0.05
LARGE_ROWS, LARGE_NOTE = 2_500_000, 500  # 1.25 GB
STEP_BAR, RUN_BAR = 1.5, 3.0  # times what SQLite's own backup takes

READER = """
import json, os, sqlite3, sys, time
path, stop = sys.argv[1:]
errors, reads, longest = {}, 0, 0.0
connection = sqlite3.connect(path, timeout=5, isolation_level=None)
print("ready", flush=True)
while not os.path.exists(stop):
    began = time.monotonic()
    try:
        for key in (1, 350000, 699999):
            connection.execute("SELECT length(note) FROM orders WHERE id = ?", (key,)).fetchone()
        reads += 1
    except sqlite3.Error as error:
        errors[str(error)] = errors.get(str(error), 0) + 1
    longest = max(longest, time.monotonic() - began)
    time.sleep(0.001)
print(json.dumps({"errors": errors, "reads": reads, "longest": longest}))
"""
WRITER = """
import json, os, sqlite3, sys, time
path, stop = sys.argv[1:]
errors, writes, longest = {}, 0, 0.0
connection = sqlite3.connect(path, timeout=30, isolation_level=None)
connection.execute("UPDATE orders SET note = 'broken ' || id WHERE id % 3 = 0")  # the bad release, in the WAL as well
print("ready", flush=True)
while not os.path.exists(stop):
    began = time.monotonic()
    try:
        connection.execute("INSERT INTO visits (at) VALUES (?)", (began,))
        writes += 1
    except sqlite3.Error as error:
        errors[str(error)] = errors.get(str(error), 0) + 1
    longest = max(longest, time.monotonic() - began)
    time.sleep(0.005)
print(json.dumps({"errors": errors, "writes": writes, "longest": longest}))
"""

KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA wal_autocheckpoint=0")
connection.execute("UPDATE orders SET note = 'broken ' || id WHERE id % 3 = 0")
connection.commit()
os.kill(os.getpid(), 9)
"""


def bench() -> list[dict[str, Any]]:
    """Return one line per measurement."""
    ours, usual, stopped = [], [], []
    with tempfile.TemporaryDirectory(prefix="rollbackctl-bench-") as folder:
        good = Path(folder, "good.db")
        _make(good)
        for number in range(REPEATS):
            work = Path(folder, str(number))
            work.mkdir()
            ours.append(_ours(work / "ours", good))
            usual.append(_usual(work / "usual", good))
            stopped.append(_stopped(work / "stopped", good))
            shutil.rmtree(work)
        large = _large(Path(folder, "large"))
    errors, theirs = (sum(one["errors"] for one in runs) for runs in (ours, usual))
    took, took_usual = (statistics.median(one["seconds"] for one in runs) for runs in (ours, usual))
    return [
        row(
            f"SQLite, {ours[0]['bytes'] >> 20} MiB, restored under {READERS} readers and a writer: longest read",
            [one["longest"] for one in ours],
            [one["longest"] for one in usual],
            way="cp over the live file",
            bar_seconds=GAP_BAR_SECONDS,
            bar=f"<= {GAP_BAR_SECONDS:g} s, 0 errors",
            also=errors == 0,
            note=f"readers' errors: {errors} and {theirs}; afterwards: {_states(ours)} and {_states(usual)}; "
            f"duration {took:.2f} s and {took_usual:.2f} s",
            facts=ours,
            usual_facts=usual,
        ),
        *large,
        row(
            "SQLite, restored after its service was killed: time without a database",
            [one["swap"] for one in stopped],
            [one["cp"] for one in stopped],
            way="cp over the file",
            note=f"afterwards: {_states(stopped)} and {_states(stopped, 'cp_state')}; ours folds the WAL in, which "
            "keeps the displaced database readable, and renames",
        ),
    ]


def _large(folder: Path) -> list[dict[str, Any]]:
    """A big database is restored online with nobody in it: the step, and everything that a run does with it."""
    folder.mkdir()
    path, kept, work = folder / "live.db", folder / "checkpoint", folder / "work"
    _make(path, LARGE_ROWS, LARGE_NOTE)
    began = time.monotonic()
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(folder / "b")) as copy:
        source.backup(copy)
    usual = time.monotonic() - began
    for place in (kept, work, folder / "capture"):
        place.mkdir(mode=0o700)
    options = {"name": "live", "path": str(path), "method": "online", "busy_timeout": 30, "timeout": 1800}
    driver = SqliteDriver(options, Place(run="bench", work=work))
    good = driver.record(kept)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE orders SET note = 'broken ' || id WHERE id % 3 = 0")
    began = time.monotonic()
    live, target = driver.live(exact=True), driver.resolve(good)
    finding = driver.check(live, target)
    driver.record(folder / "capture")
    driver.stage(target)
    step = time.monotonic()
    driver.apply(target)
    step = time.monotonic() - step
    entry = Entry("live", "restore_sqlite", "data", live, target, "change", finding)
    reached, _ = driver.state(entry, opened=False)
    whole = time.monotonic() - began
    size = f"SQLite, {path.stat().st_size >> 20} MiB, restored online"
    return [
        row(
            f"{size}: {what}",
            [seconds],
            [usual],
            way="SQLite's .backup",
            bar_seconds=times * usual,
            bar=f"<= {times:g} x",
            also=reached == TARGET,
            note=note,
        )
        for what, seconds, times, note in (
            ("the step", step, STEP_BAR, "keeps the old content, then WAL and database"),
            ("all of a run", whole, RUN_BAR, "read, prove, compare, capture, restore, read back"),
        )
    ]


def _states(results: Sequence[dict[str, Any]], key: str = "state") -> str:
    return " or ".join(sorted({one[key] for one in results}))


def _make(path: Path, rows: int = ROWS, note: int = 0) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT)")
    connection.execute("CREATE TABLE visits (id INTEGER PRIMARY KEY, at REAL)")
    connection.executemany(
        "INSERT INTO orders (note) VALUES (?)", ((f"order {n} " * (note // 12 or 7),) for n in range(rows))
    )
    connection.commit()
    connection.close()


def _prepare(good: Path, folder: Path) -> tuple[SqliteDriver, Version]:
    """Give a folder its own live database and a checkpoint of it."""
    folder.mkdir()
    path, kept, work = folder / "live.db", folder / "checkpoint", folder / "work"
    shutil.copy(good, path)
    kept.mkdir(mode=0o700)
    work.mkdir(mode=0o700)
    options = {"name": "live", "path": str(path), "method": "online", "busy_timeout": 30, "timeout": 120}
    driver = SqliteDriver(options, Place(run="bench", work=work))
    target = driver.record(kept)
    return driver, target


def _under_traffic(path: Path, stop: Path, restore: Callable[[], None]) -> dict[str, Any]:
    jobs = []
    for source in [READER] * READERS + [WRITER]:
        job = subprocess.Popen([sys.executable, "-c", source, str(path), str(stop)], stdout=subprocess.PIPE, text=True)
        assert job.stdout is not None
        job.stdout.readline()
        jobs.append(job)
    try:
        time.sleep(0.3)
        began = time.monotonic()
        restore()
        seconds = time.monotonic() - began
        time.sleep(0.3)
    finally:
        stop.touch()
        results = [json.loads(job.communicate(timeout=60)[0]) for job in jobs]
    return {
        "seconds": seconds,
        "bytes": path.stat().st_size,
        "errors": sum(sum(result["errors"].values()) for result in results[:READERS]),
        "messages": sorted({message for result in results for message in result["errors"]}),
        "longest": max(result["longest"] for result in results[:READERS]),
        "longest_write": results[-1]["longest"],
        "reads": sum(result["reads"] for result in results[:READERS]),
        "state": _state(path),
    }


def _state(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            return "corrupted"
        bad = connection.execute("SELECT count(*) FROM orders WHERE note LIKE 'broken%'").fetchone()[0]
    except sqlite3.DatabaseError:
        return "corrupted"
    finally:
        connection.close()
    return f"{bad:,} bad rows still there" if bad else "whole"


def _ours(folder: Path, good: Path) -> dict[str, Any]:
    driver, target = _prepare(good, folder)
    driver.stage(target)
    return _under_traffic(Path(driver.path), folder / "stop", lambda: driver.apply(target))


def _usual(folder: Path, good: Path) -> dict[str, Any]:
    driver, target = _prepare(good, folder)
    backup = Path(target.at, target.artefacts["file"])
    copy = ["cp", "--", str(backup), driver.path]
    return _under_traffic(Path(driver.path), folder / "stop", lambda: _run(copy))


def _stopped(folder: Path, good: Path) -> dict[str, Any]:
    """The service was killed and left a WAL with the bad rows in it."""
    driver, target = _prepare(good, folder)
    driver = SqliteDriver({**driver.options, "method": "replace"}, driver.place)
    path = Path(driver.path)
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{folder}/usual.db{suffix}")
    driver.stage(target)
    began = time.monotonic()
    driver.apply(target)
    swap = time.monotonic() - began
    began = time.monotonic()
    usual = folder / "usual.db"
    _run(["cp", "--", str(Path(target.at, target.artefacts["file"])), str(usual)])
    handle = os.open(usual, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    return {"swap": swap, "cp": time.monotonic() - began, "state": _state(path), "cp_state": _state(usual)}


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, timeout=120)
