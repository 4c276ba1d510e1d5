# SPDX-License-Identifier: GPL-3.0-or-later
"""From what an operator names to an immutable commit, and from commits to the tree that the branch is to have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .component import unknown_target
from .errors import Refused
from .git_command import Git
from .names import name_a_version, printable

_FULL = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT = re.compile(r"[0-9a-f]{4,63}")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,200}")
_RELATIVE = re.compile(r"[~^:]|@\{|\.\.|(?:^|.*_)HEAD$|^@$")
_MERGE_TREE_SINCE = (2, 38)


def check_branch(git: Git, name: str, branch: str) -> None:
    """Refuse what is no branch name, before it gets anywhere near a command line.

    :raises Refused: also for names that git would take for an option.
    """
    bad = branch.startswith("-") or git.ask("check-ref-format", f"refs/heads/{branch}").code != 0
    if bad:
        raise Refused(
            f"{name}: {printable(branch)!r} is no branch name. Nothing was changed.",
            "Correct `branch` in the profile.",
        )


def tree_of(git: Git, commit: str) -> str:
    """Return the id of a commit's tree."""
    return git.read("rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}")


def describe(git: Git, commit: str) -> str:
    """Return one line for people: `commit 4f2a91c (Release 1.4)`."""
    short, _, subject = git.read("log", "-1", "--format=%h%x00%s", "--end-of-options", commit).partition("\0")
    return f"commit {short} ({printable(subject)[:72]})"


def recent(git: Git, head: str) -> list[str]:
    """Return the last ten commits of a history, newest first, as candidates to show."""
    lines = git.read("log", "-10", "--format=%h %cs %s", "--end-of-options", head).splitlines()
    return [printable(line)[:72] for line in lines]


def _before(git: Git, head: str) -> str:
    """Return the short id of the last commit but one, which is a better guess than the one that is live."""
    return (recent(git, head)[:2] or ["COMMIT"])[-1].partition(" ")[0]


def is_ancestor(git: Git, commit: str, head: str) -> bool:
    """Say whether commit is in the history of head."""
    return git.ask("merge-base", "--is-ancestor", commit, head).code == 0


def commit_named(git: Git, name: str, want: str, *, head: str, remote: str) -> str:
    """Return the full id of the commit that want names: a full or short id, a tag or a branch.

    head is the branch's newest commit; remote may be empty.

    :raises Refused: relative, unknown or ambiguous names, and tags that differ between here and the remote.
    """
    shown = printable(want)
    if _RELATIVE.search(want):
        raise Refused(
            f"{name}: {shown!r} counts from something that moves, so it is a guess and no known-good version. "
            f"The last commits: {', '.join(recent(git, head))}. Nothing was changed.",
            f"Name the commit itself: {name_a_version(name, _before(git, head))}",
        )
    if not _PLAIN.fullmatch(want):
        raise Refused(
            f"{name}: {shown!r} is no commit id, tag or branch name. Nothing was changed.",
            f"Name one of: {', '.join(recent(git, head))}",
        )
    found = _by_reference(git, name, want, remote)
    if _SHORT.fullmatch(want) or _FULL.fullmatch(want):
        found |= _by_id(git, want, remote)
    if len(found) > 1:
        raise Refused(
            f"{name}: {shown!r} is ambiguous: {', '.join(describe(git, commit) for commit in sorted(found))}. "
            "Nothing was changed.",
            "Give more digits of the commit id.",
        )
    if not found:
        if is_shallow(git):
            raise absent(git, name, repr(shown), want if _FULL.fullmatch(want) else "", remote)
        raise unknown_target(name, shown, recent(git, head), "commit, tag or branch", _before(git, head))
    return found.pop()


def is_shallow(git: Git) -> bool:
    """Say whether the repository was cloned without all of its history."""
    return git.read("rev-parse", "--is-shallow-repository") == "true"


def absent(git: Git, name: str, what: str, commit: str, remote: str) -> Refused:
    """Return what to say when a commit is not in the repository and the remote did not give it, with what to type.

    what: how it is called in the message; commit: its full id, if that is known.
    """
    remotes = git.read("remote").split()
    source = remote or ("origin" if "origin" in remotes else next(iter(remotes), ""))
    if is_shallow(git):
        why, step = "this is a shallow clone, which lacks the older history", ""
        if source:  # the clone follows one branch only, so that the others are named as well
            everything = f"+refs/heads/*:refs/remotes/{source}/*"
            step = git.typed("fetch", "--unshallow", "--tags", source, everything)
    else:
        why = "it was never fetched, or was removed by a clean-up"
        step = git.typed("fetch", source, commit) if source and not remote else ""
        if remote:
            why += f", and {remote} does not have it either"
    by_hand = f"In a clone that has it: git push ADDRESS {commit or 'COMMIT'}:refs/heads/found-again"
    return Refused(
        f"{name}: {what} is not in {git.repository}: {why}. Nothing was changed.",
        step or f"{by_hand} (ADDRESS: of {remote or git.repository}), or name another version.",
    )


def _by_id(git: Git, want: str, remote: str) -> set[str]:
    listed = git.read("rev-parse", f"--disambiguate={want}").split()
    kinds = git.read("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin="\n".join(listed) + "\n")
    commits = {line.split()[0] for line in kinds.splitlines() if line.endswith(" commit")}
    if not commits and remote and _FULL.fullmatch(want) and git.fetch(remote, want).code == 0 and git.has(want):
        return {want}
    return commits


def _by_reference(git: Git, name: str, want: str, remote: str) -> set[str]:
    places = [f"refs/tags/{want}", f"refs/heads/{want}"]
    here = {place: peeled(git, place) for place in places}
    if not remote:
        return {commit for commit in here.values() if commit}
    there = _remote_references(git, remote, *places, f"refs/tags/{want}^{{}}")
    tag = places[0]
    for place in (tag, places[1]):
        commit = there.get(f"{place}^{{}}", there.get(place, ""))
        if not commit:
            continue
        if place == tag and here[tag] and here[tag] != commit:
            raise Refused(
                f"{name}: tag {want!r} is {here[tag][:12]} here and {commit[:12]} on {remote}: it was moved. "
                "Nothing was changed.",
                "Name the commit id that you mean.",
            )
        if not git.has(commit):
            git.fetch(remote, place)
        here[place] = peeled(git, commit)
    return {commit for commit in here.values() if commit}


def peeled(git: Git, what: str) -> str:
    """Return the id of the commit that what names; empty when there is none."""
    answer = git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{what}^{{commit}}")
    return answer.out.strip() if answer.code == 0 else ""


def _remote_references(git: Git, remote: str, *patterns: str) -> dict[str, str]:
    lines = git.read("ls-remote", "--end-of-options", remote, *patterns).splitlines()
    return {line.split("\t", 1)[1]: line.split("\t", 1)[0] for line in lines}


def remote_references(git: Git, remote: str, *references: str) -> dict[str, str]:
    """Ask the remote what the references point to; those that do not exist are left out."""
    found = _remote_references(git, remote, *references)
    return {reference: found[reference] for reference in references if reference in found}


def parents(git: Git, commit: str) -> list[str]:
    """Return the ids of a commit's parents."""
    return git.read("log", "-1", "--format=%P", "--end-of-options", commit).split()


def reverted(git: Git, name: str, head: str, commits: Sequence[str], *, mainline: int, writing: bool = False) -> str:
    """Return the tree of head with the changes of the commits taken out; no work tree and no index is touched.

    mainline: which parent of a merge is kept, counted from 1 (B30: a merge cannot be reverted without it).

    :raises Refused: conflicts (the files are listed), commits that are not in the history, an old git.
    """
    version = re.search(r"(\d+)\.(\d+)", git.read("version"))
    if not version or (int(version[1]), int(version[2])) < _MERGE_TREE_SINCE:
        raise Refused(
            f"{name}: method revert needs git 2.38 or newer on this host. Nothing was changed.",
            "Use method restore: it needs no merging.",
        )
    run = git.write if writing else git.read
    tree = tree_of(git, head)
    for commit in newest_first(git, commits):
        if not is_ancestor(git, commit, head):
            raise Refused(
                f"{name}: {describe(git, commit)} is not in this branch's history, so there is nothing to revert. "
                "Nothing was changed.",
                f"The last commits are: {', '.join(recent(git, head))}",
            )
        theirs = _tree_without(git, name, commit, mainline, run)
        # `merge-tree --merge-base` came with git 2.40; two commits with a common parent say the same to older ones.
        stamp = {"GIT_AUTHOR_DATE": "@0 +0000", "GIT_COMMITTER_DATE": "@0 +0000"}
        base = run("commit-tree", tree_of(git, commit), stdin="base", env=stamp)
        ours = run("commit-tree", tree, "-p", base, stdin="ours", env=stamp)
        other = run("commit-tree", theirs, "-p", base, stdin="theirs", env=stamp)
        answer = git.ask(
            "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, other, writing=writing
        )
        if answer.code not in {0, 1}:
            raise Refused(f"{name}: {describe(git, commit)} cannot be reverted: {answer.reason()}.")
        tree, *conflicts = answer.names()
        if answer.code == 1:
            raise Refused(
                f"{name}: reverting {describe(git, commit)} conflicts with later changes in: "
                f"{printable(', '.join(sorted(set(conflicts))[:20]))}. Nothing was changed.",
                "Use method restore (the whole tree of a good commit: no conflicts), or revert the later ones too.",
            )
    return tree


def newest_first(git: Git, commits: Sequence[str]) -> list[str]:
    """Sort commits so that each is reverted before those that it was built on; dates do not say that."""
    left, found = list(dict.fromkeys(commits)), []
    while left:
        top = next(one for one in left if not any(is_ancestor(git, one, other) for other in left if other != one))
        found.append(top)
        left.remove(top)
    return found


def _tree_without(git: Git, name: str, commit: str, mainline: int, run: Callable[..., str]) -> str:
    older = parents(git, commit)
    if not older:
        return run("mktree")  # what was there before the first commit: nothing
    kept = mainline if len(older) > 1 else 1
    if not 1 <= kept <= len(older):
        raise Refused(
            f"{name}: {describe(git, commit)} is a merge of {len(older)} parents; mainline {mainline} is none of them. "
            "Nothing was changed.",
            "Set `mainline` to the parent to keep, counted from 1 (1 is the branch that was merged into).",
        )
    return tree_of(git, older[kept - 1])


def with_paths(git: Git, name: str, base: str, good: str, paths: Sequence[str], *, writing: bool = False) -> str:
    """Return the tree of commit base with paths (files or directories) as they are in commit good.

    :raises Refused: a path that neither of them has.
    """
    run = git.write if writing else git.read
    private = {"GIT_INDEX_FILE": f"{git.aside}/index-paths"}
    git.read("read-tree", tree_of(git, base), env=private)
    for path in paths:
        old = git.ask("ls-files", "-z", "--", path, env=private).names()
        new = git.ask("ls-tree", "-r", "-z", "--full-tree", good, "--", path.rstrip("/")).names()
        if not old and not new:
            raise Refused(
                f"{name}: {printable(path)!r} is in neither the branch nor {describe(git, good)}. Nothing was changed.",
                "Correct `paths` in the profile; they are relative to the repository's top folder.",
            )
        gone = "".join(f"0 {'0' * 40}\t{entry}\0" for entry in old)
        git.read("update-index", "-z", "--index-info", stdin=gone + "".join(f"{entry}\0" for entry in new), env=private)
    return run("write-tree", env=private)
