# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full from the start, fill up on the way, or may not be written to."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import outside
from tests.faults.cases import Case
from tests.faults.shop import SCENARIOS, Bench

DATA = next(scenario for scenario in SCENARIOS if scenario.name == "data")
MEBIBYTE = 1024 * 1024
PHASES = ("stage", "fence", "capture", "rollback", "verify", "resume", "finish")
SIZE = 64 * MEBIBYTE  # room for what the roles ask for before they begin
Mount = Callable[[Path, int], None]


@pytest.fixture
def case(bench: Bench) -> Case:
    return Case(bench, DATA)


@pytest.fixture
def small_disk(bench: Bench, tmp_path: Path) -> Iterator[Mount]:
    """Put a small file system (ext4 in a file) under a folder of the shop, with what the folder holds."""
    assert os.geteuid() == 0, "these tests mount file systems: run them as root"
    mounted: list[Path] = []

    def put(folder: Path, size: int) -> None:
        bench.stop()
        image = tmp_path / f"{folder.name}.ext4"
        with image.open("wb") as file:
            file.truncate(size)
        do("mkfs.ext4", "-q", "-m", "0", str(image))
        contents = tmp_path / f"{folder.name}.before"
        shutil.copytree(folder, contents, symlinks=True)
        mode = folder.stat().st_mode
        do("mount", "-o", "loop", str(image), str(folder))
        mounted.append(folder)
        shutil.copytree(contents, folder, symlinks=True, dirs_exist_ok=True)
        folder.chmod(mode)
        bench.control("start")

    yield put
    bench.stop()
    for folder in mounted:
        do("umount", "--lazy", str(folder))


def do(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{argv}: {done.stderr}"


def fill(folder: Path) -> None:
    """Leave not a single block free."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    with pytest.raises(OSError, match="No space left"):
        (folder / "one-more").write_bytes(b"x" * 4096)


def test_a_full_state_store_is_a_refusal(case: Case, small_disk: Mount, table: list[tuple[str, ...]]) -> None:
    small_disk(case.shop.state, SIZE)
    fill(case.shop.state)
    before, process = outside.read(case.shop), outside.running(case.shop)
    ending = case.run().go()
    assert ending["outcome"] == "refused", ending
    assert outside.read(case.shop) == before
    assert outside.running(case.shop) == process
    (case.shop.state / "ballast").unlink()
    ending = case.run().go()
    assert ending["outcome"] == "done", f"{ending}"
    assert case.word() == outside.NEW
    table.append(("state store full", "", "guard", "everything old", "never closed", "refused"))


def test_a_state_store_that_may_not_be_written_is_a_refusal(
    case: Case, bench: Bench, table: list[tuple[str, ...]]
) -> None:
    assert os.geteuid() == 0, "this test mounts a file system: run it as root"
    state = str(case.shop.state)
    before, process = outside.read(case.shop), outside.running(case.shop)
    do("mount", "--bind", state, state)
    try:
        do("mount", "-o", "remount,ro,bind", state)
        ending = case.run().go()
    finally:
        bench.stop()
        do("umount", "--lazy", state)
    assert ending["outcome"] == "refused", ending
    assert "Read-only file system" in ending["message"]
    assert outside.read(case.shop) == before
    assert process
    bench.control("start")
    ending = case.run().go()
    assert ending["outcome"] == "done", f"{ending}"
    table.append(("state store read-only", "", "guard", "everything old", "never closed", "refused"))


def test_a_full_disk_under_the_database_changes_nothing(
    case: Case, small_disk: Mount, table: list[tuple[str, ...]]
) -> None:
    small_disk(case.shop.databases[0].parent, SIZE)
    fill(case.shop.databases[0].parent)
    before = outside.read(case.shop)
    ending = case.run().go()
    assert ending["outcome"] == "refused", ending
    assert outside.read(case.shop) == before
    (case.shop.databases[0].parent / "ballast").unlink()
    ending = case.run().go()
    assert ending["outcome"] == "done", f"{ending}"
    assert case.word() == outside.NEW
    table.append(("database's disk full", "", "preflight", "everything old", "never closed", "refused"))


@pytest.mark.parametrize(("disk", "phase"), [("store", phase) for phase in PHASES] + [("database", "stage")])
def test_a_disk_that_fills_up_on_the_way(
    case: Case, small_disk: Mount, disk: str, phase: str, table: list[tuple[str, ...]]
) -> None:
    folder = case.shop.state if disk == "store" else case.shop.databases[0].parent
    small_disk(folder, SIZE)
    run = case.run(before={phase: lambda: fill(folder)})
    ending = run.go()
    parts = case.parts()
    word, outcome = outside.word(parts), ending["outcome"]
    # What is only prepared changes nothing.
    expected = {"refused"} if phase == "stage" else {"done", "restored", "resumable"}
    assert outcome in expected, f"{ending}"
    if outcome != "resumable":
        assert word == (outside.NEW if outcome == "done" else outside.OLD)
        case.runs_as(word)
    case.nothing_lost()
    assert phase in run.phases, "the run did not come so far"
    (folder / "ballast").unlink()
    (folder / "one-more").unlink(missing_ok=True)
    again = case.go_on(str(run.run["id"])) if outcome != "refused" else case.run().go()["outcome"]
    read = ", ".join(f"{part} {word}" for part, word in parts.items())
    table.append((f"{disk}'s disk filled up", "", f"before {phase}", read, outcome, again))
