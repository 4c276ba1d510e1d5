# SPDX-License-Identifier: GPL-3.0-or-later
"""Swapping names: never absent, never overwriting, refused where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import StepFailed
from ansible.module_utils.rollbackctl.exchange import exchange, mounts, move, sync_filesystem


def test_two_directories_swap_their_names(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "who").read_text() == "other"
    assert (tmp_path / "other" / "who").read_text() == "one"


def test_exchange_with_nothing_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_move_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError):
        move(tmp_path / "one", tmp_path / "other")
    move(tmp_path / "one", tmp_path / "third")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "third"]


def test_what_the_kernel_calls_invalid_is_explained(tmp_path: Path) -> None:
    # A file system without RENAME_EXCHANGE answers EINVAL; so does every one to a folder that would be put into itself.
    (tmp_path / "one" / "inner").mkdir(parents=True)
    with pytest.raises(StepFailed, match=r"cannot swap two names.*Nothing was changed") as failure:
        exchange(tmp_path / "one", tmp_path / "one" / "inner")
    assert "ext4" in failure.value.next_step


def test_another_refusal_of_the_kernel_is_passed_on() -> None:
    with pytest.raises(PermissionError):
        exchange(Path("/proc/self/status"), Path("/proc/self/stat"))


def test_reader_in_another_process_never_sees_the_name_absent(tmp_path: Path) -> None:
    for name in ("live", "aside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    code = (
        "import sys\n"
        "print('go', flush=True)\n"
        "seen = set()\n"
        "for _ in range(20000):\n"
        "    seen.add(open(sys.argv[1]).read())\n"
        "print(sorted(seen))\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "live" / "who")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "go\n"
    while reader.poll() is None:
        exchange(tmp_path / "live", tmp_path / "aside")
    output, errors = reader.communicate(timeout=60)
    assert (errors, output) == ("", "['aside', 'live']\n")


def test_mount_points_are_found_at_and_below_a_path() -> None:
    assert "/proc" in mounts(Path("/proc"))
    assert any(point.startswith("/proc") for point in mounts(Path("/")))
    assert mounts(Path("/proc/self/fd")) == []


def test_sync_filesystem_takes_an_open_directory(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    sync_filesystem(handle)
    os.close(handle)
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync_filesystem(handle)
