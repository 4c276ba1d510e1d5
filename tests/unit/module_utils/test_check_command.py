# SPDX-License-Identifier: GPL-3.0-or-later
"""Command checks with real processes: exit codes, clean-ups, and that nothing is left running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_command import MARK, sample
from ansible.module_utils.rollbackctl.check_model import Context, Sample

# Leaves a child behind (in its own session when asked to), writes its number to the file, and goes on as told.
SPAWN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=sys.argv[2] == "own")
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(float(sys.argv[3]))
"""


def run(argv: list[str], timeout: float = 20.0, **options: Any) -> Sample:
    return sample({"argv": argv, **options}, Context(), timeout)


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def gone(pid: int) -> bool:
    """Say whether a process ends within a generous time (a zombie that nobody reaped has ended)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in {"Z", "X"}:
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_exit_codes() -> None:
    assert run(["true"]).ok
    assert run(python("raise SystemExit(3)"), rc=3).ok
    failed = run(python("import sys; print('first', file=sys.stderr); sys.exit('no database')"))
    assert not failed.ok
    assert failed.text == "exit code 1, expected 0: no database"


def test_output_is_looked_into() -> None:
    assert run(["echo", "12 orders"], stdout_contains="12 orders").ok
    assert "lacks '13 orders'" in run(["echo", "12 orders"], stdout_contains="13 orders").text


def test_much_output_neither_blocks_nor_fills_the_memory() -> None:
    verdict = run(python("import sys\nfor _ in range(200): sys.stdout.write('x' * 65536)\nsys.exit('the end')"))
    assert verdict.text == "exit code 1, expected 0: the end"


def test_the_shell_does_not_read_arguments(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert run(["echo", f"; touch {mark} $(touch {mark})"]).ok
    assert not mark.exists()


def test_a_missing_program_leaves_the_check_unverified() -> None:
    verdict = run(["no-such-program-here"])
    assert verdict.unverified
    assert not verdict.ok
    assert "'no-such-program-here' cannot be run" in verdict.text


def test_a_missing_directory_is_named() -> None:
    assert "'/no/such/place' cannot be run" in run(["true"], chdir="/no/such/place").text


@pytest.mark.parametrize("session", ["same", "own"])
def test_what_runs_too_long_is_killed_with_all_it_started(tmp_path: Path, session: str) -> None:
    note = tmp_path / "pid"
    started = time.monotonic()
    verdict = run(python(SPAWN, str(note), session, "300"), timeout=1.5)
    assert not verdict.ok
    assert "did not end within 1.5 s" in verdict.text
    assert time.monotonic() - started < 60
    assert gone(int(note.read_text(encoding="utf-8")))


@pytest.mark.parametrize("session", ["same", "own"])
def test_a_background_process_does_not_outlive_a_check_that_succeeds(tmp_path: Path, session: str) -> None:
    note = tmp_path / "pid"
    assert run(python(SPAWN, str(note), session, "0")).ok
    assert gone(int(note.read_text(encoding="utf-8")))


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    """Also those of another check, which carry another mark."""
    other = subprocess.Popen(["sleep", "300"], env={**os.environ, MARK: "0123456789abcdef"})
    try:
        assert run(python(SPAWN, str(tmp_path / "pid"), "own", "0")).ok
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_clean_up_runs_after_success_failure_and_timeout(tmp_path: Path) -> None:
    user = tmp_path / "test-user"
    cleanup = ["rm", str(user)]
    assert run(["touch", str(user)], cleanup=cleanup).ok
    assert not user.exists()
    create = f"open({str(user)!r}, 'w').close(); "
    assert not run(python(create + "raise SystemExit(1)"), cleanup=cleanup).ok
    assert not user.exists()
    assert not run(python(create + "import time; time.sleep(300)"), cleanup=cleanup, timeout=2).ok
    assert not user.exists()


def test_a_failing_clean_up_fails_the_check_for_good() -> None:
    verdict = run(["true"], cleanup=python("import sys; sys.exit('user 7 is locked')"))
    assert not verdict.ok
    assert verdict.final
    assert "the clean-up failed, so what the check created may still be there; remove it by hand" in verdict.text
    assert "user 7 is locked" in verdict.text
    assert "cannot be run" in run(["true"], cleanup=["no-such-program-here"]).text
    assert "not done within" in run(["true"], cleanup=["sleep", "300"], timeout=0.3).text


def test_the_environment_is_small_and_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD", "canary")
    code = "import os, sys; sys.exit(os.environ.get('ANSIBLE_VAULT_PASSWORD') or os.environ['PROBE'])"
    assert run(python(code), environment={"PROBE": "given"}).text.endswith(": given")


def test_check_mode_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    options = {"argv": ["touch", str(mark)], "cleanup": ["touch", str(mark)]}
    verdict = sample(options, Context(check_mode=True), 5)
    assert verdict.unverified
    assert "check mode" in verdict.text
    assert not mark.exists()
