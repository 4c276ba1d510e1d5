# SPDX-License-Identifier: GPL-3.0-or-later
"""rollback_git against real repositories: what it moves, what it refuses, what it leaves alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET, Entry, Place, Version
from ansible.module_utils.rollbackctl.errors import DeadlineExceeded, Refused, StateOther, StepFailed
from ansible.module_utils.rollbackctl.git import GitDriver
from ansible.module_utils.rollbackctl.git_command import git_argv

RUN = "rb-20261121-093015-4f2a"


def git(where: Path, *args: str, **more: str) -> str:
    """Run git as a colleague would and return its output."""
    who = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.org"}
    who |= {"GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "ann@example.org", "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(
        ["git", "-C", str(where), *args], check=True, capture_output=True, text=True, env=os.environ | who | more
    )
    return done.stdout.strip()


def commit(where: Path, message: str, **files: str | None) -> str:
    """Commit files (`__` stands for a slash, `_DOT_` for a dot; None deletes) and return the commit's id."""
    for key, content in files.items():
        path = where / key.replace("__", "/").replace("_DOT_", ".")
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    git(where, "add", "--all")
    git(where, "commit", "--quiet", "--message", message)
    return git(where, "rev-parse", "HEAD")


class Lab:
    """A shared repository, a clone of it on the server and a colleague's clone; main is good, better, bad."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared.git"
        self.server = folder / "server"
        self.colleague = folder / "colleague"
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", self.shared], check=True)
        subprocess.run(["git", "clone", "--quiet", self.shared, self.colleague], check=True, capture_output=True)
        git(self.colleague, "checkout", "--quiet", "-b", "main")
        self.first = commit(self.colleague, "First", app="v0\n", docs__guide="read me\n")
        self.good = commit(self.colleague, "Release 1.4", app="v1\n", lib__core="core 1\n", old="still here\n")
        git(self.colleague, "tag", "v1.4")
        self.bad = commit(self.colleague, "Release 1.5", app="v2\n", lib__core="core 2\n", new__thing="x\n", old=None)
        git(self.colleague, "push", "--quiet", "origin", "main", "v1.4")
        subprocess.run(["git", "clone", "--quiet", self.shared, self.server], check=True)
        self.work = folder / "work"
        self.work.mkdir(mode=0o700)

    def driver(self, *, within_run: bool = True, **options: Any) -> GitDriver:
        """The driver of the server's clone, pushing to the shared repository unless options say otherwise."""
        chosen = {"name": "code", "repository": str(self.server), "branch": "main", "remote": "origin"} | options
        place = Place(run=RUN, work=self.work if within_run else None, reason="Checkout fails for every customer")
        return GitDriver({key: value for key, value in chosen.items() if value is not None}, place)

    def head(self, where: Path | None = None, reference: str = "refs/heads/main") -> str:
        return git(where or self.shared, "rev-parse", "--verify", reference)

    def tree(self, what: str) -> str:
        return git(self.colleague, "rev-parse", "--verify", f"{what}^{{tree}}")

    def entry(self, driver: GitDriver, want: Version | str) -> Entry:
        """Plan as the engine does: outside a run, nothing written."""
        live = driver.live(exact=True)
        target = driver.resolve(want)
        return Entry("code", "rollback_git", "application", live, target, "change", driver.check(live, target))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, git directory included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- the default: a restore commit ---------------------------------------------------------------------------------------


def test_restore_puts_the_good_tree_on_top_and_keeps_all_history(lab: Lab) -> None:
    driver = lab.driver()
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    head = lab.head()
    assert git(lab.shared, "rev-parse", f"{head}^") == lab.bad
    assert git(lab.shared, "rev-parse", f"{head}^{{tree}}") == lab.tree(lab.good)
    message = git(lab.shared, "log", "-1", "--format=%B", head)
    assert "Checkout fails for every customer" in message
    assert RUN in message
    assert lab.good in message
    assert driver.state(entry, opened=False)[0] == TARGET
    assert (lab.server / "app").read_text() == "v2\n", "a clone with a remote is only a way to the remote"
    assert git(lab.server, "status", "--porcelain") == ""
