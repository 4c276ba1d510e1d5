# SPDX-License-Identifier: GPL-3.0-or-later
"""The git driver: puts a good tree on top of a branch, as a new commit, never forced.

Going back is going forward: `commit-tree <good>^{tree} -p <head>` makes a commit whose content is exactly the good one
and whose history holds everything, so nothing is lost, nothing can conflict, and undo is the same thing again. What
identifies a version is therefore the tree, not the commit.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

from . import git_check
from . import git_history as history
from .component import BETWEEN, OTHER, Driver, Entry, Finding, Version
from .durable import now, write_document
from .errors import Refused
from .git_apply import STEPS, Change, Order, tree_from
from .git_branch import Branch
from .git_command import Git
from .git_worktree import WorkTree
from .names import printable

_AUTHOR = ("rollbackctl", "rollbackctl@localhost")
# Identity keys, only there when a reading is not what its tree says.
_DEPLOY, _FILES, _BITS = "deploy", "work_tree", "executable_bits"


class GitDriver(Driver):
    """One branch of one repository."""

    layer: ClassVar[str] = "application"
    failpoints: ClassVar[tuple[str, ...]] = tuple(f"rollback_git.{step}" for step in STEPS)

    # -- what the options name; looked up when first needed, so that a wrong one is this component's problem only ----

    @functools.cached_property
    def git(self) -> Git:
        """The repository."""
        author = (self.options.get("author_name") or _AUTHOR[0], self.options.get("author_email") or _AUTHOR[1])
        if any(re.search(r"[<>\x00-\x1f]", part) for part in author):
            raise Refused(f"{self.name}: author_name and author_email may not hold <, > or control characters.")
        return Git(self.options["repository"], author=author, seconds=self._patience())

    @functools.cached_property
    def branch(self) -> Branch:
        """The branch."""
        return Branch(self.git, self.name, self.options["branch"], self.options.get("remote") or "")

    @property
    def checkout(self) -> WorkTree | None:
        """The checkout to keep in step with the branch, if there is one."""
        wanted = self.options.get(_FILES)
        if self.git.bare:
            if wanted == "update":
                raise Refused(f"{self.name}: {self.git.repository} is bare: it has no work tree to update.")
            return None
        if not wanted:
            follows = not self.branch.remote and self.branch.checked_out() == self.branch.reference
            wanted = "update" if follows else "leave"
        return WorkTree(self.git, f"{self.place.run}-{self.name}") if wanted == "update" else None

    def _patience(self) -> float:
        return float(self.options.get("timeout") or 60)

    def _method(self) -> str:
        return str(self.options.get("method") or "restore")

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:
        """Read the branch where it is decided and, for a checkout, the files: see Driver."""
        del exact  # a tree is the same whether somebody writes or not
        head = self.branch.head()
        tree = history.tree_of(self.git, head)
        identity: dict[str, Any] = {"tree": tree}
        artefacts: dict[str, Any] = {"commit": head, "branch": self.branch.branch}
        text = f"{history.describe(self.git, head)} on {self.branch.branch}"
        checkout = self.checkout
        if checkout:
            files = checkout.read()
            artefacts["local"], artefacts["on"] = files.commit, files.on
            if files.changed:
                identity[_FILES] = f"changed ({len(files.changed)} paths)"
                artefacts["changed"] = list(files.changed[:20])
                text += f", {len(files.changed)} files changed in the checkout"
            elif files.tree != tree:
                identity[_FILES] = files.tree
                text += f", the checkout is at {files.commit[:7]}"
            if files.bits:
                identity[_BITS] = f"lost ({len(files.bits)} paths)"
                artefacts["bits"] = list(files.bits[:20])
                text += f", {len(files.bits)} files lost their executable bit"
        order = Order.read(self.place.work)
        if order and order.tree == tree and not order.deployed:
            identity[_DEPLOY] = "pending"
            text += ", not deployed yet"
        return Version(identity, text, now(), artefacts)

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:
        """Compare as all drivers do; a version that was recorded with lost executable bits may have them back."""
        if _BITS in version.identity and _BITS not in reading.identity:
            identity = {key: value for key, value in version.identity.items() if key != _BITS}
            version = dataclasses.replace(version, identity=identity)
        return super().matches(reading, version, exact=exact)

    def resolve(self, want: Version | str) -> Version:
        """Return the tree that the branch is to have, from a checkpoint or from a name: see Driver."""
        head = self.branch.head()
        good = head
        if isinstance(want, Version):
            good = self._recorded(want)
        elif self._method() != "revert":
            good = history.commit_named(self.git, self.name, want, head=head, remote=self.branch.remote)
        recipe = self._recipe(want, head, good)
        identity: dict[str, Any] = {"tree": tree_from(self.branch, recipe, writing=False)}
        artefacts: dict[str, Any] = {"commit": good, "onto": head, "recipe": recipe}
        text = history.describe(self.git, good)
        if recipe["method"] == "revert":
            text = f"{self.branch.branch} without {', '.join(commit[:7] for commit in recipe['commits'])}"
        elif recipe["method"] == "paths":
            text = f"{self.branch.branch} with {', '.join(recipe['paths'])} from {text}"
        elif isinstance(want, Version):
            identity, artefacts = dict(want.identity), {**want.artefacts, **artefacts}
        if isinstance(want, Version):
            return Version(identity, text, want.taken, artefacts, want.at)
        return Version(identity, text, "", artefacts)

    def _recorded(self, want: Version) -> str:
        """Return the commit of a recorded version after a look at whether it is whole."""
        commit = str(want.artefacts["commit"])
        needed = [commit, *([str(want.artefacts["local"])] if _FILES in want.identity else [])]
        for one in needed:
            if not self.git.has(one) and self.branch.remote:
                self.git.fetch(self.branch.remote, one)
            if not self.git.has(one):
                raise history.absent(self.git, self.name, f"{want.text} ({one})", one, self.branch.remote)
        recipe = want.artefacts.get("recipe") or {"method": "restore"}
        if recipe["method"] == "restore" and history.tree_of(self.git, commit) != want.identity["tree"]:
            raise Refused(
                f"{self.name}: the record of {want.text} is damaged: its commit has another tree. Nothing was changed.",
                "Name a commit yourself with rollback_to.",
            )
        return commit

    def _recipe(self, want: Version | str, head: str, good: str) -> dict[str, Any]:
        """Return how the target's tree is made, as JSON values: enough to make it again."""
        if self._method() == "paths":
            paths = [str(path) for path in self.options.get("paths") or []]
            if not paths:
                raise Refused(f"{self.name}: method paths needs `paths`. Nothing was changed.", "Name them.")
            return {"method": "paths", "base": head, "good": good, "paths": paths}
        if self._method() == "revert":
            named = [str(commit) for commit in self.options.get("commits") or []]
            if isinstance(want, str):
                named = [part for part in re.split(r"[,\s]+", want) if part]
            if not named:
                raise Refused(
                    f"{self.name}: method revert needs to know which commits. The last ones: "
                    f"{', '.join(history.recent(self.git, head))}. Nothing was changed.",
                    "Name them in the profile (`commits`) or in rollback_to, with commas between them.",
                )
            remote = self.branch.remote
            commits = [history.commit_named(self.git, self.name, one, head=head, remote=remote) for one in named]
            # A recorded version that has these commits in it is what was live before they were reverted: an undo.
            undo = isinstance(want, Version) and any(history.is_ancestor(self.git, one, good) for one in commits)
            if not undo:
                mainline = int(self.options.get("mainline") or 1)
                return {"method": "revert", "base": head, "commits": commits, "mainline": mainline}
        return {"method": "restore", "good": good}

    def check(self, live: Version, target: Version) -> Finding:
        """Prove that the branch can be moved and the checkout updated: see Driver."""
        head, old, new = str(live.artefacts["commit"]), str(live.identity["tree"]), str(target.identity["tree"])
        checkout = self.checkout
        problems = git_check.branch_problems(self.branch, checkout, head)
        problems += git_check.object_problems(self.branch, checkout, old, new)
        if checkout:
            problems += git_check.checkout_problems(self.branch, checkout, live, target)
        deploy = [str(part) for part in self.options.get("deploy") or []]
        if deploy and "/" not in deploy[0] and not shutil.which(deploy[0]):
            problems.append(f"The deploy command {printable(deploy[0])!r} is not installed on this host.")
        good, notes = str(target.artefacts["commit"]), []
        if "bits" in live.artefacts:
            notes.append(f"the executable bit comes back: {printable(', '.join(live.artefacts['bits'][:10]))}.")
        if not history.is_ancestor(self.git, good, head):
            why = ", as far as this shallow clone shows" if history.is_shallow(self.git) else ""
            notes.append(f"{history.describe(self.git, good)} is not in the history of {self.branch.branch}{why}.")
        return Finding(
            tuple(problems),
            seconds=0.5,
            worst_seconds=5 * self._patience() + (float(self.options.get("deploy_timeout") or 300) if deploy else 0),
            notes=tuple(notes),
            facts={"changed_paths": len(git_check.changes(self.branch, old, new))},
        )

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        """Read against the plan. Half-way is: pushed but not deployed, or files each of which is old or new."""
        state, reading = super().state(entry, opened=opened)
        order = Order.read(self.place.work)
        if state != OTHER or order is None:
            return state, reading
        ends = (entry.live, entry.target)
        if reading.identity["tree"] not in {version.identity["tree"] for version in ends}:
            return OTHER, reading
        checkout = self.checkout
        if checkout and _FILES in reading.identity:
            goal = str(entry.target.identity.get(_FILES, entry.target.identity["tree"]))
            known = {goal, *order.files}
            files = checkout.read()
            whole = files.on == self.branch.reference and files.tree in known and checkout.index_tree() in known
            if not whole or checkout.foreign(goal, sorted(known)):
                return OTHER, reading
        return BETWEEN, reading

    # -- changing ----------------------------------------------------------------------------------------------------

    def stage(self, target: Version) -> None:
        """Fetch what the rollback needs."""
        for commit in {self.branch.head(), str(target.artefacts["commit"])}:
            self.branch.have(commit)

    def record(self, into: Path) -> Version:
        """Note what is live; a reference of ours keeps its objects from being cleaned up.

        :raises Refused: the checkout has changes that are not committed: they could not be brought back.
        """
        version = self.live(exact=True)
        if "changed" in version.artefacts:
            raise Refused(
                f"{self.name}: {self.git.repository} has changes that are not committed, which could not be brought "
                f"back: {printable(', '.join(version.artefacts['changed'][:10]))}. Nothing was recorded.",
                "Commit them first, or set `work_tree: leave`.",
            )
        for key in ("commit", "local"):
            commit = str(version.artefacts.get(key, ""))
            if commit:
                self.branch.have(commit)
                self.git.write("update-ref", f"{self._kept()}/{commit[:16]}", commit)
        version = Version(version.identity, version.text, version.taken, version.artefacts, str(into))
        write_document(into / "version.json", version.to_dict())
        return version

    def _kept(self) -> str:
        return f"refs/rollbackctl/kept/{self.place.run or 'none'}/{self.name}"

    def apply(self, target: Version) -> None:
        """Put the tree on top of the branch, bring the checkout along, deploy: see Driver.

        :raises StateOther: somebody else pushed or changed files; theirs was left alone.
        :raises StepFailed: the remote did not take the commit (or it awaits a merge), or deploying failed.
        """
        Change(self.branch, self.checkout, self.options, self.place, target).do()

    def finalize(self) -> list[str]:
        """Remove the references that kept this run's versions, and what a killed attempt left; the safety tag stays."""
        checkout = self.checkout
        removed = checkout.clean_up() if checkout else []
        for reference in self.git.read("for-each-ref", "--format=%(refname)", f"{self._kept()}/").splitlines():
            self.git.write("update-ref", "-d", reference)
            removed.append(reference)
        return removed
