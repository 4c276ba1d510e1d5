# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving a branch to a tree: commit, safety mark, push, checkout, deploy; each step can be repeated after a kill.

What is to be done is an *order*, durable before the first change. It fixes parent and date, so that a resumed run makes
the very same commit and recognises its own push when the answer to it was lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import git_history as history
from .component import Place, Version
from .durable import now, parse_time, read_document, write_document
from .errors import AwaitingSomebody, DeadlineExceeded, Refused, StateOther, StepFailed
from .failpoints import failpoint
from .git_branch import Branch, is_protected
from .git_command import Answer, run
from .git_worktree import WorkTree
from .names import printable

STEPS = (
    "commit.before",
    "commit.after",
    "safety.before",
    "safety.after",
    "push.before",
    "push.after",
    "branch.before",
    "branch.after",
    "files.before",
    "files.between",
    "files.after",
    "index.before",
    "index.after",
    "deploy.before",
    "deploy.after",
)


@dataclasses.dataclass(frozen=True)
class Order:
    """What a run last set out to do with a branch.

    tree: the content the branch is to have. parent: the commit it is put on. commit: what was made for that; empty
    until then. date: UTC time of the commit. files: the trees that the checkout's files may be of, wholly or mixed.
    deployed: nothing is left to deploy.
    """

    tree: str
    parent: str
    commit: str
    date: str
    files: tuple[str, ...]
    deployed: bool

    @classmethod
    def read(cls, work: Path | None) -> Order | None:
        """Return the order kept in a run's directory; None when there is none."""
        document = read_document(work / "order.json") if work else None
        return cls(**{**document, "files": tuple(document["files"])}) if document else None

    def keep(self, work: Path) -> Order:
        """Write it down durably and return it."""
        write_document(work / "order.json", dataclasses.asdict(self))
        return self


def tree_from(branch: Branch, recipe: Mapping[str, Any], *, writing: bool) -> str:
    """Return the tree that a recipe (from GitDriver.resolve) describes; with writing, its objects are kept."""
    if recipe["method"] == "restore":
        return history.tree_of(branch.git, str(recipe["good"]))
    if recipe["method"] == "revert":
        return history.reverted(
            branch.git,
            branch.name,
            str(recipe["base"]),
            recipe["commits"],
            mainline=int(recipe["mainline"]),
            writing=writing,
        )
    base, good = str(recipe["base"]), str(recipe["good"])
    return history.with_paths(branch.git, branch.name, base, good, recipe["paths"], writing=writing)


class Change:
    """Bringing one branch to one target within one run."""

    def __init__(
        self, branch: Branch, checkout: WorkTree | None, options: Mapping[str, Any], place: Place, target: Version
    ) -> None:
        """Begin nothing yet.

        :raises Refused: outside a run.
        """
        if place.work is None:
            raise Refused(f"{branch.name}: nothing may be changed outside a run.")
        self.branch, self.git, self.checkout = branch, branch.git, checkout
        self.options, self.place, self.work, self.target = options, place, place.work, target

    def do(self) -> None:
        """Do it all, or what is left of it.

        :raises StepFailed: see GitDriver.apply.
        """
        head = self.branch.head()
        self.branch.have(head)
        order = self._order(head)
        if not order.commit:
            order = self._commit(order)
        self._mark(order.parent)
        if self.branch.remote:
            self._publish(order)
        self._settle(order)
        self._deploy(order)

    def _order(self, head: str) -> Order:
        """Return the order to follow: the one that was begun, or a new one on top of head.

        :raises StateOther: somebody moved the branch to other content since the plan, or since our own last commit.
        """
        tree, before = str(self.target.identity["tree"]), Order.read(self.work)
        if before and before.tree == tree and head in {before.parent, before.commit}:
            return before
        expected = {str(self.target.artefacts.get("onto", head))}
        if before:
            expected = {before.parent, before.commit or before.parent}
        there = history.tree_of(self.git, head)
        if head not in expected:
            known = {tree, *(history.tree_of(self.git, commit) for commit in expected if self.git.has(commit))}
            if there not in known:
                raise self.branch.somebody_pushed(head)
        files = {str(self.target.identity.get("work_tree", tree)), *(before.files if before else ())}
        if self.checkout:
            files.add(self.checkout.standing().tree)
        return Order(
            tree=tree,
            parent=head,
            commit=head if there == tree else "",
            date=now(),
            files=tuple(sorted(files)),
            deployed=not self.options.get("deploy"),
        ).keep(self.work)

    def _commit(self, order: Order) -> Order:
        failpoint("rollback_git.commit.before")
        message = (
            f"Roll {self.branch.branch} back to {self.target.text}\n\n{self.place.reason or 'No reason was given.'}\n\n"
            f"Rollback-Run: {self.place.run}\nRollback-Restores: {self.target.artefacts['commit']}\n"
            f"Rollback-Replaces: {order.parent}\n"
        )
        stamp = f"@{int(parse_time(order.date).timestamp())} +0000"
        dates = {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp}
        call = ("commit-tree", order.tree, "-p", order.parent)
        answer = self.git.ask(*call, stdin=message, env=dates, writing=True)
        if answer.code != 0:  # the tree was seen in the quarantine only
            self._make_tree(order.tree)
            answer = Answer(0, self.git.write(*call, stdin=message, env=dates), "")
        failpoint("rollback_git.commit.after")
        return dataclasses.replace(order, commit=answer.out.strip()).keep(self.work)

    def _make_tree(self, tree: str) -> None:
        recipe = self.target.artefacts.get("recipe") or {"method": "restore", "good": self.target.artefacts["commit"]}
        if recipe["method"] == "restore":
            self.branch.have(str(recipe["good"]))
        if tree_from(self.branch, recipe, writing=True) != tree:
            raise StepFailed(f"{self.branch.name}: the tree of the plan cannot be made again. Nothing was changed.")

    # -- safety mark and push ----------------------------------------------------------------------------------------

    def _safety(self) -> str:
        kind = {"tag": "refs/tags", "branch": "refs/heads"}.get(self.options.get("safety") or "tag", "")
        return f"{kind}/rollbackctl/{self.place.run}/before/{self.branch.name}" if kind else ""

    def _mark(self, parent: str) -> None:
        """Mark what the branch was before this run, once: a second attempt finds the mark and leaves it."""
        reference = self._safety()
        if not reference:
            return
        failpoint("rollback_git.safety.before")
        answer = self.git.ask("update-ref", reference, parent, "0" * len(parent), writing=True)
        if answer.code != 0 and not history.peeled(self.git, reference):
            raise StepFailed(f"{self.branch.name}: {reference} could not be made: {answer.reason()}")
        failpoint("rollback_git.safety.after")

    def _publish(self, order: Order) -> None:
        """Push the commit; whether it arrived is read back, whatever the answer was."""
        branch, safety = self.branch, self._safety()
        refspecs = [f"{order.commit}:{branch.reference}", *([f"{safety}:{safety}"] if safety else [])]
        failpoint("rollback_git.push.before")
        try:
            answer = branch.push(*refspecs)
        except DeadlineExceeded as late:
            answer = Answer(1, "", late.message)
        failpoint("rollback_git.push.after")
        if answer.code == 0:
            return
        head = branch.head()
        if head == order.commit and head != order.parent:
            return
        if head != order.parent:
            raise branch.somebody_pushed(head)
        if is_protected(answer) and (self.options.get("protected") or "branch") == "branch":
            self._ask_for_merge(order.commit)
        lines = [line.strip() for line in f"{answer.out}\n{answer.err}".splitlines()]
        shown = printable("; ".join(line for line in lines if "rejected" in line or line.startswith("remote:")))[:500]
        raise StepFailed(
            f"{branch.name}: {branch.remote} did not take the commit: {shown or answer.reason()}. {branch.branch} is "
            "unchanged.",
            f"Remove what it complains about, then: rollbackctl resume {self.place.run}",
        )

    def _ask_for_merge(self, commit: str) -> None:
        branch, wanted = self.branch, f"rollback/{self.branch.name}-{self.place.run}"
        answer = branch.push(f"{commit}:refs/heads/{wanted}")
        if answer.code != 0:
            raise StepFailed(
                f"{branch.name}: {branch.branch} is protected, and the branch {wanted} could not be pushed either: "
                f"{answer.reason()}. {branch.branch} is unchanged.",
                f"Ask for the right to push one of them, then: rollbackctl resume {self.place.run}",
            )
        raise AwaitingSomebody(
            f"{branch.name}: {branch.branch} is protected on {branch.remote}, so the rollback was pushed as branch "
            f"{wanted}. It is awaiting merge; {branch.branch} is unchanged.",
            f"Merge {wanted} into {branch.branch}, nothing else with it, then: rollbackctl resume {self.place.run}",
        )

    # -- local branch and checkout -----------------------------------------------------------------------------------

    def _settle(self, order: Order) -> None:
        if not self.checkout:
            if not self.branch.remote:
                self._move_branch(order.commit, order.parent)
            return
        goal, commit = str(self.target.identity.get("work_tree", order.tree)), order.commit
        if "work_tree" in self.target.identity:
            commit = str(self.target.artefacts["local"])
        with self.checkout.locked():
            files = self.checkout.standing()
            if files.on != self.branch.reference or files.tree not in order.files:
                raise StateOther(
                    f"{self.checkout.top} was moved by somebody else: it is at {files.commit[:12]}, "
                    f"{files.on or 'on no branch'}. Its files were left as they are.",
                    f"Check out {self.branch.branch} as it was, then: rollbackctl resume {self.place.run}",
                )
            work = self.checkout.plan(goal, order.files)
            self._move_branch(commit, files.commit)
            self.checkout.update(work)

    def _move_branch(self, commit: str, old: str) -> None:
        if commit == old:
            return
        failpoint("rollback_git.branch.before")
        reference, note = self.branch.reference, f"rollbackctl {self.place.run}"
        answer = self.git.ask("update-ref", "-m", note, reference, commit, old, writing=True)
        failpoint("rollback_git.branch.after")
        if answer.code == 0:
            return
        head = history.peeled(self.git, reference)
        if head not in {commit, old}:
            raise self.branch.somebody_pushed(head)
        if head == old:
            raise StepFailed(
                f"{self.branch.name}: {self.branch.branch} could not be moved: {answer.reason()}. It is unchanged.",
                "If a lock file is named and no git process is running (ps), remove that file; then: "
                f"rollbackctl resume {self.place.run}",
            )

    # -- deploy ------------------------------------------------------------------------------------------------------

    def _deploy(self, order: Order) -> None:
        argv = [str(part) for part in self.options.get("deploy") or []]
        if order.deployed or not argv:
            return
        failpoint("rollback_git.deploy.before")
        seconds, where = float(self.options.get("deploy_timeout") or 300), self.git.repository
        moved = f"{self.branch.name}: {self.branch.branch} has its new content, but"
        next_step = f"Run the command by hand in {where} to see why, then: rollbackctl resume {self.place.run}"
        try:
            answer = run(argv, cwd=where, env=self.git.environment(), owner=self.git.owner, stdin="", seconds=seconds)
        except TimeoutError:
            message = f"{moved} deploying did not end within {seconds:g} seconds and was stopped."
            raise DeadlineExceeded(message, next_step) from None
        except OSError as error:
            raise StepFailed(f"{moved} the deploy command cannot be started: {error}.", next_step) from None
        if answer.code != 0:
            message = f"{moved} deploying failed with exit code {answer.code}: {answer.reason()}"
            raise StepFailed(message, next_step)
        failpoint("rollback_git.deploy.after")
        dataclasses.replace(order, deployed=True).keep(self.work)
