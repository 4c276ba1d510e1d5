# SPDX-License-Identifier: GPL-3.0-or-later
"""A bad release on a shared branch is taken back by rollback_git and by `git revert`, pushes included."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.git import GitDriver

from tests.benchmarks.rows import row

FILES = 2_000
CHANGED = 200
REPEATS = 9
PUSH_BAR_SECONDS = 0.1
WAY = "git pull, git revert --no-edit, git push"
RUN = "rb-20261121-093015-4f2a"


def bench() -> list[dict[str, Any]]:
    """Return one line per measurement."""
    with tempfile.TemporaryDirectory(prefix="rollbackctl-bench-") as folder:
        base = Path(folder, "base")
        good, bad = _make(base)
        push, checkout, usual = [], [], []
        for number in range(REPEATS):  # taken in turns, so that a busy machine is busy for all of them
            push.append(_ours(_copy(base, number, "a"), good, work_tree="leave"))
            checkout.append(_ours(_copy(base, number, "b"), good, work_tree="update"))
            usual.append(_revert(_copy(base, number, "c"), bad)[0])
        bad_day = _revert(_copy(base, REPEATS, "d"), bad, later=True)
    return [
        row(
            "git, commit and push",
            push,
            usual,
            way=WAY,
            bar_seconds=PUSH_BAR_SECONDS,
            note="ours: from reading the remote to the pushed commit and safety tag; no work tree is touched. With a "
            f"later commit on the same lines git revert {'works' if bad_day[1] else 'ends in a conflict'}",
        ),
        row(
            f"git, commit, push and a checkout of {FILES} files, {CHANGED} of them different",
            checkout,
            usual,
            way=WAY,
            note="both move a checkout; ours replaces each file whole and syncs it to the disk",
        ),
    ]


def _ours(place: Path, good: str, *, work_tree: str) -> float:
    options = {"name": "code", "repository": str(place / "server"), "branch": "main", "remote": "origin"}
    work = place / "work"
    work.mkdir(mode=0o700)
    driver = GitDriver({**options, "work_tree": work_tree}, Place(run=RUN, work=work, reason="benchmark"))
    target = driver.resolve(good)
    began = time.monotonic()
    driver.apply(target)
    seconds = time.monotonic() - began
    if not driver.matches(driver.live(exact=True), target, exact=True):
        raise RuntimeError("the restore did not work")
    return seconds


def _revert(place: Path, bad: str, *, later: bool = False) -> tuple[float, bool]:
    """Return the seconds and whether it went through. later: somebody built on the bad commit."""
    server = place / "server"
    if later:
        (server / "src" / "1.py").write_text("value = 'built on it'\n")
        _git(server, "commit", "--quiet", "--all", "--message", "Later")
        _git(server, "push", "--quiet", "origin", "main")
    began = time.monotonic()
    _git(server, "pull", "--quiet", "--ff-only")
    done = subprocess.run(
        ["git", "-C", str(server), "revert", "--no-edit", bad], check=False, capture_output=True, env=_environment()
    )
    if done.returncode == 0:
        _git(server, "push", "--quiet", "origin", "main")
    return time.monotonic() - began, done.returncode == 0


def _make(base: Path) -> tuple[str, str]:
    """Make a shared repository and a server's clone with a good and a bad release; return the commits' ids."""
    base.mkdir()
    _git(base, "init", "--quiet", "--bare", "--initial-branch=main", "shared.git")
    _git(base, "clone", "--quiet", "shared.git", "server")
    server = base / "server"
    _git(server, "remote", "set-url", "origin", "../shared.git")  # so that copies belong together
    _git(server, "checkout", "--quiet", "-b", "main")
    (server / "src").mkdir()
    for number in range(FILES):
        (server / "src" / f"{number}.py").write_text(f"value = {number}\n" * 20)
    commits = []
    for message in ("Release 1.4", "Release 1.5"):
        _git(server, "add", "--all")
        _git(server, "commit", "--quiet", "--message", message)
        commits.append(_git(server, "rev-parse", "HEAD"))
        for number in range(CHANGED):
            (server / "src" / f"{number}.py").write_text(f"value = {-number}\n" * 20)
    _git(server, "checkout", "--quiet", "--", ".")
    _git(server, "push", "--quiet", "--set-upstream", "origin", "main")
    return commits[0], commits[1]


def _copy(base: Path, number: int, letter: str) -> Path:
    place = base.with_name(f"{letter}{number}")
    shutil.copytree(base, place, symlinks=True)
    _git(place / "server", "update-index", "--refresh")
    return place


def _environment() -> dict[str, str]:
    who = {f"GIT_{role}_{key}": "bench" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return {**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null"}


def _git(where: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *args], check=True, capture_output=True, text=True, env=_environment()
    )
    return done.stdout.strip()
