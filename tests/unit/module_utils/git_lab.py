# SPDX-License-Identifier: GPL-3.0-or-later
"""Real repositories for the tests and benchmarks of rollback_git: a shared one, the server's clone, a colleague's."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.component import Entry, Place, Version
from ansible.module_utils.rollbackctl.git import GitDriver

RUN = "rb-20261121-093015-4f2a"
MODULE_UTILS = Path(__file__).resolve().parents[3] / "plugins" / "module_utils"
_APPLY = """
import json, pathlib, sys
from rollbackctl.component import Place, Version
from rollbackctl.errors import RollbackError
from rollbackctl.git import GitDriver
call = json.loads(sys.argv[1])
place = Place("rb-20261121-093015-4f2a", pathlib.Path(call["work"]), "Checkout fails for every customer")
try:
    GitDriver(call["options"], place).apply(Version.from_dict(call["target"]))
except RollbackError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


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


@functools.cache
def _template() -> Path:
    """Make the three repositories once; copying them is faster than making them for every test."""
    folder = Path(tempfile.mkdtemp(prefix="rollbackctl-git-lab-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "shared.git")
    git(folder, "clone", "--quiet", "shared.git", "colleague")
    colleague = folder / "colleague"
    git(colleague, "checkout", "--quiet", "-b", "main")
    commit(colleague, "First", app="v0\n", docs__guide="read me\n")
    commit(colleague, "Release 1.4", app="v1\n", lib__core="core 1\n", old="still here\n")
    git(colleague, "tag", "v1.4")
    commit(colleague, "Release 1.5", app="v2\n", lib__core="core 2\n", new__thing="x\n", old=None)
    git(colleague, "push", "--quiet", "origin", "main", "v1.4")
    git(folder, "clone", "--quiet", "shared.git", "server")
    return folder


class Lab:
    """A shared repository, a clone of it on the server and a colleague's clone; main is good, better, bad."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared.git"
        self.server = folder / "server"
        self.colleague = folder / "colleague"
        template = _template()
        for place in (self.shared, self.server, self.colleague):
            shutil.copytree(template / place.name, place, symlinks=True)
        for clone in (self.server, self.colleague):
            git(clone, "remote", "set-url", "origin", str(self.shared))
            git(clone, "update-index", "--refresh")
        self.first, self.good, self.bad = git(self.colleague, "rev-list", "--reverse", "main").split()
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

    def apply_elsewhere(self, want: Version | str, failpoint: str, **options: Any) -> subprocess.Popen[str]:
        """Apply in another process, as a module does, with a failpoint; exit code 1 and the error's name on failure."""
        driver = self.driver(**options)
        target = driver.resolve(want) if isinstance(want, str) else want
        call = {"options": dict(driver.options), "work": str(self.work), "target": target.to_dict()}
        return subprocess.Popen(
            [sys.executable, "-c", _APPLY, json.dumps(call)],
            env=os.environ
            | {"ROLLBACKCTL_FAILPOINT": failpoint, "PYTHONPATH": str(MODULE_UTILS), "TMPDIR": str(self.folder)},
            stderr=subprocess.PIPE,
            text=True,
        )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, git directory included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
