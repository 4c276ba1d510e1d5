# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed at any of its steps, rollback_git leaves something that it recognises, finishes and can take back."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET, Entry
from ansible.module_utils.rollbackctl.git import GitDriver

from tests.unit.module_utils.git_lab import Lab, git

OPTIONS: dict[str, Any] = {"work_tree": "update", "deploy": ["sh", "-c", "cp app .git/deployed"]}
OLD, NEW = b"v2\n", b"v1\n"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


def plan(lab: Lab, remote: str | None) -> tuple[GitDriver, Entry]:
    driver = lab.driver(remote=remote, **OPTIONS)
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    return driver, entry


def whole(lab: Lab) -> bool:
    """Each file is wholly old or wholly new, and the repositories are sound."""
    for path, contents in {
        "app": {OLD, NEW},
        "lib/core": {b"core 2\n", b"core 1\n"},
        "docs/guide": {b"read me\n"},
    }.items():
        assert (lab.server / path).read_bytes() in contents
    for repository in (lab.server, lab.shared):
        git(repository, "fsck", "--strict")
    return True


def finished(lab: Lab, driver: GitDriver, entry: Entry, remote: str | None) -> None:
    assert driver.state(entry, opened=False)[0] == TARGET
    where = lab.shared if remote else lab.server
    assert git(where, "rev-parse", "main^{tree}") == lab.tree(lab.good)
    assert git(where, "rev-parse", "main^") == lab.bad, "one commit, however often it was tried"
    assert (lab.server / ".git" / "deployed").read_bytes() == NEW
    assert git(lab.server, "status", "--porcelain") == ""


STEPS = [step for step in GitDriver.failpoints if ".push." not in step]
CASES = [("origin", step) for step in GitDriver.failpoints] + [(None, step) for step in STEPS]


@pytest.mark.parametrize(("remote", "step"), CASES)
def test_killed_at_a_step_and_resumed(lab: Lab, remote: str | None, step: str) -> None:
    driver, entry = plan(lab, remote)
    process = lab.apply_elsewhere(entry.target, f"{step}:kill", remote=remote, **OPTIONS)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    assert driver.state(entry, opened=False)[0] in {LIVE, BETWEEN}
    assert whole(lab)
    driver.apply(entry.target)
    finished(lab, driver, entry, remote)


@pytest.mark.parametrize("step", ["push.after", "branch.after", "files.between", "index.after", "deploy.before"])
def test_killed_at_a_step_and_taken_back(lab: Lab, step: str) -> None:
    driver, entry = plan(lab, "origin")
    before = driver.record(lab.work)
    process = lab.apply_elsewhere(entry.target, f"rollback_git.{step}:kill", **OPTIONS)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    driver.apply(before)
    assert driver.matches(driver.live(exact=True), before, exact=True)
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.bad)
    assert (lab.server / ".git" / "deployed").read_bytes() == OLD
    assert git(lab.server, "status", "--porcelain") == ""


@pytest.mark.parametrize("step", ["push.before", "files.between", "deploy.after"])
def test_undo_killed_at_a_step_and_resumed(lab: Lab, step: str) -> None:
    driver, entry = plan(lab, "origin")
    before = driver.record(lab.work)
    driver.apply(entry.target)
    process = lab.apply_elsewhere(before, f"rollback_git.{step}:kill", **OPTIONS)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert driver.state(entry, opened=False)[0] in {TARGET, BETWEEN}
    driver.apply(before)
    assert driver.matches(driver.live(exact=True), before, exact=True)
    assert (lab.server / ".git" / "deployed").read_bytes() == OLD


@pytest.mark.parametrize("remote", ["origin", None])
def test_killed_at_random_moments(lab: Lab, remote: str | None) -> None:
    """Not only at named places: also inside git, which then has to clean up after itself."""
    chance = random.Random(20261121)  # noqa: S311 - moments, not secrets
    driver, entry = plan(lab, remote)
    for _ in range(12):
        process = lab.apply_elsewhere(entry.target, "", remote=remote, **OPTIONS)
        try:
            process.wait(timeout=0.1 + chance.random() * 0.3)
        except subprocess.TimeoutExpired:
            process.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode in {0, -signal.SIGKILL}, errors
        time.sleep(0.05)  # git children end a moment after their parent
        assert driver.state(entry, opened=False)[0] != OTHER
        assert whole(lab)
    driver.apply(entry.target)
    finished(lab, driver, entry, remote)


def test_a_failure_of_the_disk_is_survived(lab: Lab) -> None:
    driver, entry = plan(lab, "origin")
    for step in ("commit.after", "safety.after", "branch.after", "files.before", "index.before"):
        process = lab.apply_elsewhere(entry.target, f"rollback_git.{step}:fail", **OPTIONS)
        process.communicate(timeout=60)
        assert process.returncode == 1
        assert driver.state(entry, opened=False)[0] in {LIVE, BETWEEN}
        assert not (lab.server / ".git" / "index.lock").exists(), "an error, unlike a kill, gives the lock back"
    driver.apply(entry.target)
    finished(lab, driver, entry, "origin")
