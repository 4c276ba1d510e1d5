# SPDX-License-Identifier: GPL-3.0-or-later
"""What could keep a branch from being moved, or a checkout from being updated; nothing is changed by looking."""

from __future__ import annotations

import shutil

from . import git_history as history
from .component import Version
from .git_branch import Branch
from .git_worktree import WorkTree
from .names import printable

_SUBMODULE = "160000"
_LFS_POINTER = "version https://git-lfs.github.com/spec/v1"


def changes(branch: Branch, old: str, new: str) -> list[tuple[str, str, str, str]]:
    """Return new mode, new object, git's letter and path of everything in which two trees differ."""
    flat = branch.git.read("diff-tree", "-r", "-z", "--no-renames", old, new).split("\0")
    found = []
    for meta, path in zip(flat[0::2], flat[1::2]):
        _, mode, _, thing, letter = meta.split(" ")
        found.append((mode, thing, letter, path))
    return found


def branch_problems(branch: Branch, checkout: WorkTree | None, head: str) -> list[str]:
    """Say what is wrong with the place: no right to push, or a checkout that would be left behind."""
    problems = []
    if branch.remote:
        answer = branch.push(f"{head}:{branch.reference}", rehearse=True)
        if answer.code != 0:
            problems.append(f"Pushing to {branch.remote} would fail: {answer.reason()}")
    elif not checkout and not branch.git.bare and branch.checked_out() == branch.reference:
        problems.append(f"{branch.branch} is checked out in {branch.git.repository}: set `work_tree: update`.")
    return problems


def object_problems(branch: Branch, checkout: WorkTree | None, old: str, new: str) -> list[str]:
    """Say which content the target needs and the repository cannot give."""
    added = [change for change in changes(branch, old, new) if change[2] != "D"]
    wanted = {thing: path for mode, thing, _, path in added if mode != _SUBMODULE}
    problems = []
    if wanted:
        report = branch.git.read("cat-file", "--batch-check", stdin="\n".join(wanted) + "\n").splitlines()
        missing = [wanted[line.split()[0]] for line in report if line.endswith(" missing")]
        if missing:
            named = printable(", ".join(missing[:5]))
            problems.append(f"The repository is damaged or partial; the content of these files is missing: {named}.")
        sizes = {line.split()[0]: int(line.split()[2]) for line in report if not line.endswith(" missing")}
        if checkout and shutil.disk_usage(checkout.top).free < 2 * sum(sizes.values()):
            problems.append(f"The disk of {checkout.top} has no room for {sum(sizes.values())} bytes of files, twice.")
        if checkout:
            problems += _large_file_problems(branch, [wanted[t] for t in sizes], new)
    modules = [path for mode, _, _, path in added if mode == _SUBMODULE]
    if checkout and modules:
        problems.append(
            f"Submodules differ and are not updated here: {printable(', '.join(modules[:5]))}. "
            f"{_by_deploy(branch, new)}"
        )
    return problems


def _by_deploy(branch: Branch, new: str) -> str:
    if branch.remote:
        return (
            "Set `work_tree: leave` and let the deploy command bring the checkout along: "
            "`deploy: [git, pull, --ff-only, --recurse-submodules]`."
        )
    steps = (
        ("read-tree", "-u", "--reset", new),
        ("submodule", "update", "--init", "--recursive"),
        ("commit", "-m", "Roll back by hand"),
    )
    return "By hand: " + " && ".join(branch.git.typed(*step) for step in steps)


def _large_file_problems(branch: Branch, paths: list[str], tree: str) -> list[str]:
    """Say which files are in Git LFS: their content is not among the repository's objects and cannot be proven here."""
    few = paths if len(paths) <= 500 else []  # a command line is not endless
    # A pointer is a text of three lines: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    answer = branch.git.ask("grep", "-z", "--name-only", "-F", "-e", _LFS_POINTER, tree, "--", *few)
    pointers = [path for path in (name.split(":", 1)[1] for name in answer.names()) if path in paths]
    if not pointers:
        return []
    named = printable(", ".join(pointers[:5]))
    advice = "Set `work_tree: leave` and update the checkout with git lfs in the deploy command."
    return [f"Files in Git LFS differ: {named}. {advice}"]


def checkout_problems(branch: Branch, checkout: WorkTree, live: Version, target: Version) -> list[str]:
    """Say what is wrong with the checkout: another branch, changes of its own, commits nobody else has."""
    local, on, head = (str(live.artefacts.get(key, "")) for key in ("local", "on", "commit"))
    if on != branch.reference:
        return [f"{checkout.top} has {on or 'no branch'} checked out, not {branch.branch}: check that out first."]
    problems = []
    if branch.remote and not history.is_ancestor(branch.git, local, head):
        problems.append(
            f"{checkout.top} has commits that are not on {branch.remote}/{branch.branch} (up to {local[:12]}): push "
            "them or set them aside first; a rollback would hide them."
        )
    changed = list(live.artefacts.get("changed", []))
    if changed:
        problems.append(
            f"{checkout.top} has changes that are not committed: {printable(', '.join(changed[:10]))}. They are left "
            "as they are: commit or stash them first, or set `work_tree: leave`."
        )
    goal = str(target.identity.get("work_tree", target.identity["tree"]))
    problems += checkout.obstacles()
    if not changed:
        here = history.tree_of(branch.git, local)
        modules = {path for mode, _, _, path in changes(branch, here, goal) if mode == _SUBMODULE}  # told elsewhere
        blocked = [path for path in checkout.foreign(goal, [here]) if path not in modules]
        if blocked:
            problems.append(
                f"{checkout.top} has files that are not in git where the target has some: "
                f"{printable(', '.join(blocked[:10]))}. They are left as they are: move them away first."
            )
    return problems
