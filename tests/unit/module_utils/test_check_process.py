# SPDX-License-Identifier: GPL-3.0-or-later
"""Process checks on real processes: how many, which, and started when."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_model import Context, Sample
from ansible.module_utils.rollbackctl.check_process import sample, started

SLEEP = "import time; time.sleep(300)"


@pytest.fixture
def mark() -> str:
    return f"probe-{secrets.token_hex(6)}"


@pytest.fixture
def two(mark: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two real processes that carry the mark, started just now."""
    processes = [subprocess.Popen([sys.executable, "-c", SLEEP, mark]) for _ in range(2)]
    deadline = time.monotonic() + 20  # until exec has happened, their arguments are the test's own
    while time.monotonic() < deadline and not all(
        mark in Path(f"/proc/{process.pid}/cmdline").read_text(encoding="utf-8") for process in processes
    ):
        time.sleep(0.005)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def count(context: Context | None = None, **options: Any) -> Sample:
    return sample(options, context or Context(), 5)


def test_processes_are_counted(two: list[subprocess.Popen[bytes]], mark: str) -> None:
    name = Path(sys.executable).name
    assert count(process=name, argument=mark, min_count=2).text == f"2 processes of '{name}' run"
    assert count(process=sys.executable, argument=mark, min_count=2).ok
    verdict = count(process=name, argument=mark, min_count=3)
    assert not verdict.ok
    assert verdict.text == f"2 processes of '{name}' run, expected at least 3"
    two[0].kill()
    os.waitid(os.P_PID, two[0].pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert not count(process=name, argument=mark, min_count=2).ok
    assert not count(process=name[:-1], argument=mark).ok
    assert not count(process=name, argument=mark[:-1]).ok


def test_a_process_that_was_not_restarted_is_found(two: list[subprocess.Popen[bytes]], mark: str) -> None:
    del two
    name = Path(sys.executable).name
    now = datetime.now(UTC)
    before, after = Context(changed=now - timedelta(minutes=1)), Context(changed=now + timedelta(seconds=5))
    assert count(before, process=name, argument=mark, started_after="run").ok
    verdict = count(after, process=name, argument=mark, started_after="run")
    assert not verdict.ok
    assert "not restarted" in verdict.text
    assert count(process=name, argument=mark, started_after="run").ok  # nothing was changed
    assert not count(process=name, argument=mark, started_after="2099-01-01T00:00:00Z").ok


def test_the_start_time_is_right() -> None:
    before = time.time()
    process = subprocess.Popen(["sleep", "300"])
    assert before - 1 < started(process.pid) < time.time() + 1
    process.kill()
    process.wait()
    assert started(process.pid) == float("inf")


def test_pid_files(two: list[subprocess.Popen[bytes]], mark: str, tmp_path: Path) -> None:
    note = tmp_path / "shop.pid"
    assert "cannot be read" in count(pid_file=str(note)).text
    note.write_text("none\n")
    assert "does not hold the number" in count(pid_file=str(note)).text
    note.write_text(f"{two[0].pid}\n")
    assert count(pid_file=str(note), argument=mark).ok
    two[0].kill()
    two[0].wait()
    assert not count(pid_file=str(note)).ok
