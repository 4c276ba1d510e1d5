# SPDX-License-Identifier: GPL-3.0-or-later
"""One branch, read where it is decided: at the remote when there is one, else in the repository itself."""

from __future__ import annotations

import dataclasses
import re

from . import git_history as history
from .errors import Refused, StateOther, StepFailed
from .git_command import Answer, Git
from .names import is_name, printable

# GitHub, GitLab and plain hooks say it in these words; a lost race says "fetch first" or "non-fast-forward".
_PROTECTED = re.compile(r"\[remote rejected\].*(hook declined|protected|prohibited|not allowed|denied)", re.IGNORECASE)


def is_protected(answer: Answer) -> bool:
    """Say whether a push was turned down by a rule of the server, not by a race."""
    return _PROTECTED.search(f"{answer.out}\n{answer.err}") is not None


@dataclasses.dataclass(frozen=True)
class Branch:
    """A branch of a repository.

    name: the component's name, for messages. branch: without refs/heads/. remote: a remote's name, or empty.
    """

    git: Git
    name: str
    branch: str
    remote: str

    def __post_init__(self) -> None:
        """Check the names.

        :raises Refused: no such remote, or one that could not be read back; no branch name.
        """
        history.check_branch(self.git, self.name, self.branch)
        if not self.remote:
            return
        known = self.git.read("remote").split()
        if not is_name(self.remote) or self.remote not in known:
            raise Refused(
                f"{self.name}: {self.git.repository} has no remote {printable(self.remote)!r}; it has: "
                f"{', '.join(known) or 'none'}. Nothing was changed.",
                "Correct `remote` in the profile; it is a name, not an address.",
            )
        fetching = self.git.read("remote", "get-url", "--all", self.remote).splitlines()
        pushing = self.git.read("remote", "get-url", "--push", "--all", self.remote).splitlines()
        if len(fetching) != 1 or fetching != pushing:
            raise Refused(
                f"{self.name}: remote {self.remote} is read from one place and pushed to another, so what a push did "
                "could not be read back. Nothing was changed.",
                "Give it one url and no pushurl (git remote -v).",
            )

    @property
    def reference(self) -> str:
        """The branch's full name."""
        return f"refs/heads/{self.branch}"

    def head(self) -> str:
        """Return the id of the newest commit; it can be read then, if need be from the quarantine.

        :raises Refused: there is no such branch, or the remote does not answer.
        """
        if self.remote:
            head = history.remote_references(self.git, self.remote, self.reference).get(self.reference, "")
        else:
            head = history.peeled(self.git, self.reference)
        if not head:
            raise Refused(
                f"{self.name}: {self.remote or self.git.repository} has no branch {self.branch!r}. "
                "Nothing was changed.",
                "Correct `branch` in the profile.",
            )
        if self.remote and not self.git.has(head):
            answer = self.git.fetch(self.remote, self.reference)
            if answer.code != 0 or not self.git.has(head):
                raise Refused(f"{self.name}: cannot read {self.branch} from {self.remote}: {answer.reason()}")
        return head

    def checked_out(self) -> str:
        """Return the reference that the repository's checkout is on; empty when detached."""
        answer = self.git.ask("symbolic-ref", "--quiet", "HEAD")
        return answer.out.strip() if answer.code == 0 else ""

    def have(self, commit: str) -> None:
        """Get a commit into the repository itself; until now it may have been looked at in the quarantine only.

        :raises StepFailed: it cannot be fetched.
        """
        reason = "it is not in the repository"
        for what in (self.reference, commit):
            if self.git.has(commit, writing=True):
                return
            if self.remote:
                reason = self.git.fetch(self.remote, what, writing=True).reason()
        if not self.git.has(commit, writing=True):
            raise StepFailed(f"{self.name}: commit {commit[:12]} cannot be fetched: {reason}")

    def push(self, *refspecs: str, rehearse: bool = False) -> Answer:
        """Push all of the references or none, never forced. rehearse: only ask whether the remote would let us in."""
        options = ["--porcelain", "--atomic", "--no-verify", *(["--dry-run"] if rehearse else [])]
        return self.git.ask("push", *options, "--end-of-options", self.remote, *refspecs, writing=not rehearse)

    def somebody_pushed(self, head: str) -> StateOther:
        """Return what to say when the branch is at a commit that the plan did not know."""
        return StateOther(
            f"{self.name}: somebody pushed {history.describe(self.git, head)} to {self.branch} after the plan was "
            "made. It was not overwritten and the branch is as they left it.",
            "Look at that commit, then plan again: start a new run.",
        )
