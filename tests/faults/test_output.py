# SPDX-License-Identifier: GPL-3.0-or-later
"""A run never ends for its output: nobody reads it any more, the disk that takes it is full, it knows only ASCII.

Each is a real level 3 run of the sample, behind its fence: what it says is lost, what it does is not.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import outside
from tests.faults.shop import wait_for
from tests.faults.test_whole_runs import RUN_SECONDS, Stage, held

ACCEPTED = {"rollback_accept_data_loss_since": "2000-01-01T00:00:00Z", "rollback_reason": "output"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Stage]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    env |= {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    made = Stage(tmp_path_factory.mktemp("output"), root, env, lease_seconds=60)
    yield made
    made.sample.remove()


@pytest.fixture
def full_disk(stage: Stage) -> Iterator[Path]:
    """The folder of the controller's records, on a file system without a free block (needs root)."""
    stage.set_up()
    place = stage.folder / "first" / "records"
    place.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)], check=True, timeout=60)
    with pytest.raises(OSError, match="No space"):
        (place / "ballast").write_bytes(b"x" * 65536)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=60)


def environment(stage: Stage, **more: str) -> dict[str, str]:
    home = stage.folder / "first"
    (home / "records").mkdir(parents=True, exist_ok=True)
    return {
        **stage.env,
        "HOME": str(home),
        "ROLLBACKCTL_RECORDS": str(home / "records"),
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def plain(stage: Stage) -> list[str]:
    argv = [str(stage.root / ".venv/bin/ansible-playbook"), "-i", str(stage.inventory), "-l", "shop"]
    return [*argv, "playbooks/rollback-level3.yml", "-e", json.dumps(ACCEPTED)]


def wrapper(stage: Stage) -> list[str]:
    words = ["run", "3", "shop", "--inventory", str(stage.inventory), "--reason", "output: größer", "--yes"]
    since = ["--accept-data-loss-since", ACCEPTED["rollback_accept_data_loss_since"]]
    return [str(stage.root / ".venv/bin/rollbackctl"), *words, *since]


def done(stage: Stage) -> None:
    """Assert that the run was done and proven, by its record and by the service."""
    assert list((stage.folder / "first" / "records").glob("*.json"))
    record = stage.record("first")
    assert record["outcome"] == "done", record["message"]
    assert stage.word() == outside.NEW
    assert stage.answers()


@pytest.mark.parametrize("caller", [plain, wrapper])
def test_nobody_reads_it_any_more(stage: Stage, caller: object) -> None:
    assert callable(caller)
    stage.set_up()
    with subprocess.Popen(["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as head:
        ended = subprocess.run(
            caller(stage),
            cwd=stage.root,
            env=environment(stage),
            stdin=subprocess.DEVNULL,
            stdout=head.stdin,
            stderr=head.stdin,
            check=False,
            timeout=RUN_SECONDS,
        )
    done(stage)
    assert ended.returncode == 0


@pytest.mark.parametrize("caller", [plain, wrapper])
def test_the_disk_that_takes_it_is_full(stage: Stage, caller: object) -> None:
    assert callable(caller)
    stage.set_up()
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            caller(stage),
            cwd=stage.root,
            env=environment(stage),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            check=False,
            timeout=RUN_SECONDS,
        )
    done(stage)
    assert ended.returncode == 0


def test_it_knows_only_ascii(stage: Stage) -> None:
    stage.set_up()
    ended = subprocess.run(
        wrapper(stage),
        cwd=stage.root,
        env=environment(stage, LC_ALL="C", PYTHONIOENCODING="ascii"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"one and proven" in ended.stdout, ended.stdout
    assert ended.stdout.isascii()
    assert b"Report: " in ended.stderr, ended.stderr
    done(stage)


def test_a_record_and_a_report_that_find_no_room(stage: Stage, full_disk: Path) -> None:
    """How the run ended is told all the same, and that its record could not be kept."""
    ended = subprocess.run(
        wrapper(stage),
        cwd=stage.root,
        env=environment(stage),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "one and proven" in ended.stdout
    assert "No space left on device" in ended.stderr
    assert stage.word() == outside.NEW
    assert [path.name for path in full_disk.iterdir() if path.stat().st_size == 0] == [], "no empty leftovers"


def test_a_terminal_that_closes_ends_the_run_at_a_step_boundary(stage: Stage, tmp_path: Path) -> None:
    """The controller's session gets SIGHUP, and whatever is written from then on fails: the run is taken back."""
    stage.set_up()
    mark = tmp_path / "held"
    ours, theirs = pty.openpty()
    env = environment(stage, ROLLBACKCTL_FAILPOINT=f"restore_sqlite.replace.after:pause={mark}")
    controller = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *plain(stage)],
        cwd=stage.root,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    wait_for(lambda: drained(ours) and held(mark, controller), "the failpoint", RUN_SECONDS)
    os.close(ours)  # the terminal is gone
    mark.unlink()
    controller.wait(RUN_SECONDS)
    record = stage.record("first")
    assert record["outcome"] == "restored", record["message"]
    assert signal.Signals.SIGHUP.name in record["message"]
    assert stage.word() == outside.OLD
    assert stage.answers()


def drained(terminal: int) -> bool:
    """Read what a terminal shows, so that nobody waits for it."""
    os.set_blocking(terminal, False)
    try:
        while os.read(terminal, 65536):
            pass
    except BlockingIOError:
        pass
    return True
