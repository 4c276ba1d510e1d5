# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking single commits out and putting single paths back, without touching any work tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import TARGET
from ansible.module_utils.rollbackctl.errors import Refused

from tests.unit.module_utils.git_lab import Lab, commit, git


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


def push(lab: Lab) -> None:
    git(lab.colleague, "push", "--quiet", "origin", "main")


def show(lab: Lab, path: str) -> str:
    return git(lab.shared, "show", f"main:{path}")


def names(lab: Lab) -> list[str]:
    return git(lab.shared, "ls-tree", "-r", "--name-only", "main").splitlines()


def test_reverting_a_commit_keeps_what_came_after(lab: Lab) -> None:
    commit(lab.colleague, "Unrelated", docs__guide="read me twice\n")
    push(lab)
    driver = lab.driver(method="revert")
    entry = lab.entry(driver, lab.bad[:8])
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert (show(lab, "app"), show(lab, "lib/core"), show(lab, "docs/guide")) == ("v1", "core 1", "read me twice")
    assert "old" in names(lab)
    assert "new/thing" not in names(lab)
    assert driver.state(entry, opened=False)[0] == TARGET


def test_reverting_is_idempotent(lab: Lab) -> None:
    driver = lab.driver(method="revert", commits=[lab.bad])
    driver.apply(driver.resolve(lab.bad))
    entry = lab.entry(driver, lab.bad)
    assert driver.matches(entry.live, entry.target, exact=True)


def test_several_commits_are_reverted_newest_first(lab: Lab) -> None:
    second = commit(lab.colleague, "On top of the bad one", app="v3\n")
    push(lab)
    driver = lab.driver(method="revert")
    driver.apply(driver.resolve(f"{lab.bad},{second}"))
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.good)


def test_a_conflict_is_refused_with_its_files(lab: Lab) -> None:
    commit(lab.colleague, "On top of the bad one", app="v3\n")
    push(lab)
    before = lab.head()
    with pytest.raises(Refused, match="conflicts with later changes in: app") as refusal:
        lab.driver(method="revert").resolve(lab.bad)
    assert "method restore" in refusal.value.next_step
    assert lab.head() == before


def merged(lab: Lab) -> str:
    """Merge a feature into main, with later work on main, and return the merge."""
    git(lab.colleague, "checkout", "--quiet", "-b", "feature", lab.good)
    commit(lab.colleague, "Feature", feature="on\n")
    git(lab.colleague, "checkout", "--quiet", "main")
    git(lab.colleague, "merge", "--quiet", "--no-ff", "-m", "Merge feature", "feature")
    merge = git(lab.colleague, "rev-parse", "HEAD")
    commit(lab.colleague, "Later", docs__guide="later\n")
    push(lab)
    return merge


def test_a_merge_is_reverted_along_its_mainline(lab: Lab) -> None:
    merge = merged(lab)
    driver = lab.driver(method="revert")
    driver.apply(driver.resolve(merge))
    assert "feature" not in names(lab)
    assert (show(lab, "app"), show(lab, "docs/guide")) == ("v2", "later")


def test_the_other_side_of_a_merge_can_be_taken_out(lab: Lab) -> None:
    merge = merged(lab)
    driver = lab.driver(method="revert", mainline=2)
    driver.apply(driver.resolve(merge))
    assert show(lab, "feature") == "on"
    assert (show(lab, "app"), show(lab, "docs/guide")) == ("v1", "later")


def test_a_mainline_that_the_merge_does_not_have_is_refused(lab: Lab) -> None:
    merge = merged(lab)
    with pytest.raises(Refused, match="merge of 2 parents; mainline 3"):
        lab.driver(method="revert", mainline=3).resolve(merge)


def test_the_first_commit_of_all_can_be_reverted(lab: Lab) -> None:
    commit(lab.colleague, "Make room", app=None, docs__guide="read me\n")
    git(lab.colleague, "checkout", "--quiet", "--orphan", "fresh")
    only = commit(lab.colleague, "Only", single="1\n")
    git(lab.colleague, "push", "--quiet", "origin", "fresh")
    driver = lab.driver(branch="fresh", method="revert")
    driver.apply(driver.resolve(only))
    assert git(lab.shared, "ls-tree", "-r", "fresh") == ""


def test_a_commit_of_another_branch_is_not_reverted(lab: Lab) -> None:
    git(lab.colleague, "checkout", "--quiet", "-b", "side", lab.first)
    other = commit(lab.colleague, "Side", side="x\n")
    git(lab.colleague, "push", "--quiet", "origin", "side")
    git(lab.server, "fetch", "--quiet")
    with pytest.raises(Refused, match="not in this branch's history"):
        lab.driver(method="revert").resolve(other)


def test_reverting_nothing_is_refused(lab: Lab) -> None:
    with pytest.raises(Refused, match="which commits"):
        lab.driver(method="revert").resolve(",")


def test_the_profile_may_name_the_commits_and_undo_brings_them_back(lab: Lab) -> None:
    driver = lab.driver(method="revert", commits=[lab.bad])
    checkpoint = lab.driver(repository=str(lab.colleague), remote=None, branch="main").resolve(lab.good)
    before = driver.record(lab.work)
    entry = lab.entry(driver, checkpoint)
    assert "without" in entry.target.text
    driver.apply(entry.target)
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.good)
    undo = driver.resolve(before)
    assert undo.identity == before.identity
    driver.apply(undo)
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.bad)


def test_only_the_named_paths_go_back(lab: Lab) -> None:
    driver = lab.driver(method="paths", paths=["lib/", "new", "old"])
    before = driver.record(lab.work)
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert (show(lab, "app"), show(lab, "lib/core"), show(lab, "old")) == ("v2", "core 1", "still here")
    assert "new/thing" not in names(lab)
    driver.apply(driver.resolve(before))
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.bad)


def test_paths_in_a_bare_repository(lab: Lab) -> None:
    driver = lab.driver(repository=str(lab.shared), remote=None, method="paths", paths=["lib/core"])
    driver.apply(driver.resolve(lab.good))
    assert (show(lab, "app"), show(lab, "lib/core")) == ("v2", "core 1")


@pytest.mark.parametrize("path", ["nowhere", "l*", ":(glob)**", "--all"])
def test_a_path_that_neither_side_has_is_refused(lab: Lab, path: str) -> None:
    with pytest.raises(Refused, match="is in neither"):
        lab.driver(method="paths", paths=[path]).resolve(lab.good)


def test_method_paths_needs_paths(lab: Lab) -> None:
    with pytest.raises(Refused, match="needs `paths`"):
        lab.driver(method="paths").resolve(lab.good)
