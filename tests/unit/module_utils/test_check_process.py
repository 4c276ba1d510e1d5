# SPDX-License-Identifier: GPL-3.0-or-later
"""Process checks on real processes: how many, which, and started when."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_model import Context, Sample
from ansible.module_utils.rollbackctl.check_process import in_unit, sample, started

SLEEP = "import time; time.sleep(300)"
ROOT = Path(__file__).resolve().parents[3]
SHARED = f"from ansible import module_utils; module_utils.__path__.append({str(ROOT / 'plugins/module_utils')!r})\n"


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
    before, after = Context(loaded=now - timedelta(minutes=1)), Context(loaded=now + timedelta(seconds=5))
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


def test_a_number_that_another_program_has_by_now_proves_nothing(
    two: list[subprocess.Popen[bytes]], mark: str, tmp_path: Path
) -> None:
    """Whoever wrote the file ran already; a number is given again after a while."""
    note = tmp_path / "shop.pid"
    note.write_text(f"{two[0].pid}\n")
    assert count(pid_file=str(note)).ok
    os.utime(note, (time.time() - 3600, time.time() - 3600))
    recycled = count(pid_file=str(note))
    assert recycled.unverified
    assert "was started after" in recycled.text
    assert count(pid_file=str(note), argument=mark).ok


def test_nothing_running_is_never_good_whether_something_was_changed_or_not(mark: str, tmp_path: Path) -> None:
    """At a checkpoint nothing was changed; a process that is not there is missing all the same."""
    for known in (Context(), Context(loaded=datetime.now(UTC))):
        verdict = count(known, process="python", argument=mark, started_after="run")
        assert not verdict.ok
        assert verdict.text.startswith("0 processes of 'python' run, expected at least 1")
        missing = count(known, pid_file=str(tmp_path / "shop.pid"), started_after="run")
        assert not missing.ok
        assert "shop.pid cannot be read: No such file" in missing.text


def test_the_check_does_not_find_itself(mark: str) -> None:
    """It runs in a Python program, started by another."""
    look = (
        "from ansible.module_utils.rollbackctl import check_process, check_model\n"
        f"print(check_process.sample({{'process': 'python', 'argument': '{mark}'}}, check_model.Context(), 5).text)\n"
    )
    again = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {(SHARED + look)!r}, '{mark}'], check=True)"
    python = Path(sys.executable).with_name("python")
    done = subprocess.run([python, "-c", again, mark], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("0 processes of 'python' run"), done.stdout


@contextmanager
def running(*words: str, folder: Path, name: str = "") -> Iterator[int]:
    """A real Python program in a folder, whose process has those arguments."""
    argv = [name or sys.executable, "-c", SLEEP, *words]
    process = subprocess.Popen(argv, executable=sys.executable, cwd=folder)
    try:
        wait_for_arguments(process.pid, words[-1])
        yield process.pid
    finally:
        process.kill()
        process.wait()


def wait_for_arguments(pid: int, word: str) -> None:
    """Until exec has happened, a process's arguments are the test's own."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and word not in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"):
        time.sleep(0.005)


def test_another_service_of_the_same_program_is_told_apart(mark: str, tmp_path: Path) -> None:
    """Two services started as `NAME -c app`, in folders of their own: which one is meant must be said."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    with running("app.py", mark, folder=one, name=mark) as first, running("app.py", mark, folder=two, name=mark):
        for options in ({}, {"argument": "app.py"}, {"argument": "app.py", "min_count": 2}):
            verdict = count(process=mark, **options)
            assert verdict.unverified, verdict.text
            assert "say which is meant" in verdict.text
            assert str(one) in verdict.text
        assert count(process=mark, folder=str(one)).text == f"1 processes of '{mark}' run"
        assert count(process=mark, folder=str(two), user=str(os.getuid())).ok
        assert not count(process=mark, folder=str(tmp_path)).ok
        assert not count(process=mark, user=str(os.getuid() + 1)).ok
        note = tmp_path / "one.pid"
        note.write_text(f"{first}\n")
        assert count(pid_file=str(note), folder=str(one)).ok
        assert not count(pid_file=str(note), folder=str(two)).ok


def test_several_programs_of_one_name_are_one_service_only_when_that_is_said(mark: str, tmp_path: Path) -> None:
    """Four of one program, on ports of their own, as supervisor's numprocs starts them."""
    with (
        running("--port", "1", mark, folder=tmp_path, name=mark),
        running("--port", "2", mark, folder=tmp_path, name=mark),
    ):
        assert count(process=mark, min_count=2).unverified
        assert count(process=mark, argument=mark, min_count=2).ok
        assert count(process=mark, folder=str(tmp_path), min_count=2).ok


def test_a_service_s_own_children_are_no_strangers(mark: str, tmp_path: Path) -> None:
    """Workers change their folder, as daemons do."""
    program = f"import os, time; os.fork() or os.chdir('/'); time.sleep(300)  # {mark}"
    process = subprocess.Popen([mark, "-c", program], executable=sys.executable, cwd=tmp_path, start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not count(process=mark, min_count=2).ok:
            time.sleep(0.01)
        assert count(process=mark, min_count=2).text == f"2 processes of '{mark}' run"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("title", "name", "argument"),
    [
        ("node /srv/MARK/app.js", "node", "/srv/MARK/app.js"),
        ("gunicorn: master [MARK]", "gunicorn", "master [MARK]"),
        ("gunicorn: master [MARK]", "gunicorn", "[MARK]"),
    ],
)
def test_a_process_that_gave_itself_a_title_is_found(mark: str, title: str, name: str, argument: str) -> None:
    """As node (`process.title`) and setproctitle do it: one text over the place of all arguments."""
    text, argument = title.replace("MARK", mark), argument.replace("MARK", mark)
    process = subprocess.Popen([text], executable="/bin/cat", stdin=subprocess.PIPE)
    try:
        wait_for_arguments(process.pid, mark)
        assert count(process=name, argument=argument).ok
        assert not count(process=name, argument=f"{argument}x").ok
        assert not count(process="other", argument=argument).ok
    finally:
        process.kill()
        process.communicate()


def test_units_of_systemd_are_read_from_control_groups() -> None:
    """As cgroups(7) shows them; there is no systemd where these tests run."""
    assert in_unit("0::/system.slice/shop.service\n", "shop")
    assert in_unit("0::/system.slice/shop.service/worker\n", "shop.service")
    assert in_unit("12:pids:/system.slice/shop@1.service\n1:name=systemd:/\n", "shop@1")
    assert not in_unit("0::/system.slice/workshop.service\n", "shop")
    assert not in_unit("", "shop")
