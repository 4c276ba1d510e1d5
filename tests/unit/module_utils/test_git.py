# SPDX-License-Identifier: GPL-3.0-or-later
"""rollback_git and a shared repository: what it moves, what it refuses, whose work it leaves alone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET, Version
from ansible.module_utils.rollbackctl.errors import DeadlineExceeded, Refused, StateOther, StepFailed

from tests.unit.module_utils.git_lab import RUN, Lab, commit, git, snapshot

SAFETY = f"refs/tags/rollbackctl/{RUN}/before/code"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


def hook(repository: Path, name: str, body: str) -> None:
    """Install a hook that the server of the shared repository runs."""
    path = repository / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


# -- the default: a restore commit -------------------------------------------------------------------------------------


def test_restore_puts_the_good_tree_on_top_and_keeps_all_history(lab: Lab) -> None:
    driver = lab.driver()
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    head = lab.head()
    assert git(lab.shared, "rev-parse", f"{head}^") == lab.bad
    assert git(lab.shared, "rev-parse", f"{head}^{{tree}}") == lab.tree(lab.good)
    message = git(lab.shared, "log", "-1", "--format=%an %B", head)
    assert message.startswith("rollbackctl ")
    for part in ("Checkout fails for every customer", RUN, lab.good, lab.bad):
        assert part in message
    assert driver.state(entry, opened=False)[0] == TARGET
    assert (lab.server / "app").read_text() == "v2\n", "a clone with a remote is only a way to the remote"
    assert git(lab.server, "status", "--porcelain") == ""


def test_the_state_before_is_marked_here_and_at_the_remote(lab: Lab) -> None:
    driver = lab.driver()
    driver.apply(driver.resolve(lab.good))
    assert lab.head(lab.server, SAFETY) == lab.bad
    assert lab.head(lab.shared, SAFETY) == lab.bad


@pytest.mark.parametrize(("safety", "expected"), [("branch", 2), ("none", 1)])
def test_the_mark_may_be_a_branch_or_left_out(lab: Lab, safety: str, expected: int) -> None:
    driver = lab.driver(safety=safety)
    driver.apply(driver.resolve(lab.good))
    assert len(git(lab.shared, "for-each-ref", "--format=%(refname)", "refs/heads").splitlines()) == expected
    assert git(lab.shared, "tag", "--list", "rollbackctl/*") == ""


def test_looking_changes_nothing(lab: Lab) -> None:
    commit(lab.colleague, "Hotfix", hot="fix\n")  # so that the server's clone does not have the newest commit
    git(lab.colleague, "push", "--quiet", "origin", "main")
    before = snapshot(lab.server), snapshot(lab.shared)
    for method, want in (("restore", "v1.4"), ("revert", lab.bad), ("paths", lab.good)):
        driver = lab.driver(within_run=False, method=method, paths=["lib"])
        entry = lab.entry(driver, want)
        assert driver.state(entry, opened=False)[0] == LIVE
    assert (snapshot(lab.server), snapshot(lab.shared)) == before


def test_applying_again_changes_nothing(lab: Lab) -> None:
    driver = lab.driver()
    entry = lab.entry(driver, lab.good)
    driver.apply(entry.target)
    before = lab.head()
    driver.apply(entry.target)
    assert lab.head() == before


def test_going_to_what_is_live_is_already(lab: Lab) -> None:
    driver = lab.driver()
    entry = lab.entry(driver, "main")
    assert driver.matches(entry.live, entry.target, exact=True)


def test_undo_goes_forward_to_exactly_the_tree_before(lab: Lab, tmp_path: Path) -> None:
    driver = lab.driver()
    kept = tmp_path / "kept"
    kept.mkdir()
    before = driver.record(kept)
    driver.apply(driver.resolve(lab.good))
    restored = lab.head()
    driver.apply(before)
    assert git(lab.shared, "rev-parse", f"{lab.head()}^{{tree}}") == lab.tree(lab.bad)
    assert git(lab.shared, "rev-parse", f"{lab.head()}^") == restored
    assert driver.matches(driver.live(exact=True), before, exact=True)
    driver.apply(driver.resolve(lab.good))
    assert git(lab.shared, "rev-parse", f"{lab.head()}^{{tree}}") == lab.tree(lab.good), "and once more"


def test_undo_in_a_run_of_its_own(lab: Lab, tmp_path: Path) -> None:
    driver = lab.driver()
    kept, work = tmp_path / "kept", tmp_path / "work-2"
    kept.mkdir()
    work.mkdir()
    before = Version.from_dict(driver.record(kept).to_dict())
    driver.apply(driver.resolve(lab.good))
    lab.work = work
    later = lab.driver()
    entry = lab.entry(later, before)
    later.apply(entry.target)
    assert git(lab.shared, "rev-parse", f"{lab.head()}^{{tree}}") == lab.tree(lab.bad)


def test_a_bare_repository_without_remote(lab: Lab) -> None:
    driver = lab.driver(repository=str(lab.shared), remote=None)
    entry = lab.entry(driver, "v1.4")
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.good)
    assert git(lab.shared, "rev-parse", "main^") == lab.bad
    driver.apply(entry.target)
    assert git(lab.shared, "rev-parse", "main^") == lab.bad


def test_the_commit_is_the_same_object_after_a_resume(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = lab.driver()
    target = driver.resolve(lab.good)
    monkeypatch.setenv("ROLLBACKCTL_FAILPOINT", "rollback_git.push.after:fail")
    with pytest.raises(OSError, match="failpoint"):
        driver.apply(target)
    pushed = lab.head()
    monkeypatch.delenv("ROLLBACKCTL_FAILPOINT")
    time.sleep(1.1)  # another second on the clock must not make another commit
    lab.driver().apply(target)
    assert lab.head() == pushed


# -- names -------------------------------------------------------------------------------------------------------------


def test_ids_tags_and_branches_become_the_full_id(lab: Lab) -> None:
    git(lab.colleague, "push", "--quiet", "origin", f"{lab.good}:refs/heads/release")
    driver = lab.driver()
    for want in (lab.good, lab.good[:8], "v1.4", "release"):
        assert driver.resolve(want).artefacts["commit"] == lab.good


@pytest.mark.parametrize("want", ["main~10", "HEAD^", "HEAD", "main@{1}", "@", "main@{yesterday}", "v1.4^2", ":/fix"])
def test_names_that_count_from_something_are_refused(lab: Lab, want: str) -> None:
    with pytest.raises(Refused, match="guess") as refusal:
        lab.driver().resolve(want)
    assert lab.bad[:7] in refusal.value.message
    assert "rollback_to" in refusal.value.next_step


@pytest.mark.parametrize("want", ["--upload-pack=touch x", "-f", "a b", "a\nb", "", "x;y", "$(id)"])
def test_what_is_no_name_is_refused(lab: Lab, want: str) -> None:
    with pytest.raises(Refused, match="is no commit id, tag or branch name"):
        lab.driver().resolve(want)


def test_an_unknown_name_lists_the_last_commits(lab: Lab) -> None:
    with pytest.raises(Refused, match="does not exist") as refusal:
        lab.driver().resolve("v9.9")
    assert "Release 1.4" in refusal.value.message


def test_a_short_id_that_fits_two_commits_is_refused(lab: Lab) -> None:
    tree, found = lab.tree(lab.good), dict[str, str]()
    for number in range(10_000):
        made = git(
            lab.server,
            "commit-tree",
            tree,
            "-m",
            "x",
            GIT_AUTHOR_DATE=f"@{number} +0000",
            GIT_COMMITTER_DATE="@1 +0000",
        )
        if made[:4] in found:
            break
        found[made[:4]] = made
    with pytest.raises(Refused, match="ambiguous"):
        lab.driver().resolve(made[:4])


def test_a_tag_that_was_moved_is_refused(lab: Lab) -> None:
    git(lab.colleague, "push", "--quiet", "--force", "origin", f"{lab.bad}:refs/tags/v1.4")
    with pytest.raises(Refused, match="moved"):
        lab.driver().resolve("v1.4")


def test_a_tag_that_only_the_remote_has(lab: Lab) -> None:
    side = git(lab.colleague, "commit-tree", lab.tree(lab.first), "-p", lab.first, "-m", "Side")
    git(lab.colleague, "tag", "-a", "side", "-m", "note", side)
    git(lab.colleague, "push", "--quiet", "origin", "side")
    driver = lab.driver()
    entry = lab.entry(driver, "side")
    assert entry.target.artefacts["commit"] == side
    assert any("not in the history" in note for note in entry.finding.notes)
    driver.stage(entry.target)
    driver.apply(entry.target)
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.first)


def test_a_shallow_clone_that_cannot_get_the_commit_says_so(lab: Lab) -> None:
    shutil.rmtree(lab.server)
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{lab.shared}", lab.server], check=True)
    driver = lab.driver(remote=None, work_tree="update")
    recorded = Version({"tree": lab.tree(lab.good)}, "commit x", "2026-11-21T09:00:00Z", {"commit": lab.good})
    with pytest.raises(Refused, match="shallow") as refusal:
        driver.resolve(recorded)
    typed = refusal.value.next_step
    assert "--unshallow" in typed
    shallow = (lab.server / ".git" / "shallow").read_bytes()
    with_remote = lab.driver()
    with_remote.apply(with_remote.resolve(recorded))
    assert git(lab.shared, "rev-parse", "main^{tree}") == lab.tree(lab.good)
    assert (lab.server / ".git" / "shallow").read_bytes() == shallow
    with pytest.raises(Refused, match="shallow clone") as refusal:
        driver.resolve("v1.4")
    assert refusal.value.next_step == typed
    subprocess.run(shlex.split(typed), check=True)
    assert not (lab.server / ".git" / "shallow").exists()
    assert driver.resolve(recorded).artefacts["commit"] == driver.resolve("v1.4").artefacts["commit"] == lab.good


def test_what_to_type_when_a_commit_is_gone_works(lab: Lab) -> None:
    side = git(lab.colleague, "commit-tree", lab.tree(lab.first), "-p", lab.first, "-m", "Side")
    recorded = Version({"tree": lab.tree(lab.first)}, "commit x", "2026-11-21T09:00:00Z", {"commit": side})
    with pytest.raises(Refused, match="origin does not have it either") as refusal:
        lab.driver().resolve(recorded)
    push = refusal.value.next_step.partition(": ")[2].partition(" (")[0].replace("ADDRESS", str(lab.shared))
    subprocess.run(shlex.split(push), cwd=lab.colleague, check=True, capture_output=True)
    assert lab.driver().resolve(recorded).artefacts["commit"] == side
    without = lab.driver(remote=None, work_tree="update")
    with pytest.raises(Refused, match="never fetched") as refusal:
        without.resolve(recorded)
    subprocess.run(shlex.split(refusal.value.next_step), check=True, capture_output=True)
    assert without.resolve(recorded).artefacts["commit"] == side


def test_a_damaged_record_is_refused(lab: Lab) -> None:
    recorded = Version({"tree": lab.tree(lab.good)}, "commit x", "2026-11-21T09:00:00Z", {"commit": lab.bad})
    with pytest.raises(Refused, match="damaged"):
        lab.driver().resolve(recorded)


def test_missing_content_is_found_before_anything_changes(lab: Lab) -> None:
    blob = git(lab.colleague, "rev-parse", f"{lab.good}:lib/core")
    (lab.shared / "objects" / blob[:2] / blob[2:]).unlink()
    driver = lab.driver(repository=str(lab.shared), remote=None)
    assert any("lib/core" in problem for problem in lab.entry(driver, lab.good).finding.problems)


def test_wrong_places_are_refused(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (lab.server / "inside").mkdir()
    for options, words in (
        ({"repository": str(tmp_path / "nowhere")}, "no directory"),
        ({"repository": "server"}, "absolute path"),
        ({"repository": str(tmp_path / "empty")}, "no git repository"),
        ({"repository": str(lab.server / "inside")}, "no git repository"),
        ({"remote": "upstream"}, "it has: origin"),
        ({"remote": str(lab.shared)}, "no remote"),
        ({"branch": "trunk"}, "no branch 'trunk'"),
        ({"author_name": "x <y>"}, "author_name"),
        ({"repository": str(lab.shared), "remote": None, "work_tree": "update"}, "bare"),
    ):
        with pytest.raises(Refused, match=words):
            lab.driver(**options).live(exact=True)


# -- other people ------------------------------------------------------------------------------------------------------


def test_a_push_after_the_plan_is_never_overwritten(lab: Lab) -> None:
    driver = lab.driver()
    entry = lab.entry(driver, lab.good)
    theirs = commit(lab.colleague, "Colleague's fix", app="v3\n")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    assert driver.state(entry, opened=False)[0] == OTHER
    with pytest.raises(StateOther, match="Colleague's fix"):
        driver.apply(entry.target)
    assert lab.head() == theirs
    assert git(lab.shared, "tag", "--list", "rollbackctl/*") == ""


def test_a_push_between_looking_and_pushing_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    """Two clones: ours stands still right before its push while a colleague's goes through."""
    mark = tmp_path / "paused"
    ours = lab.apply_elsewhere(lab.good, f"rollback_git.push.before:pause={mark}")
    while not mark.exists():
        time.sleep(0.01)
    theirs = commit(lab.colleague, "Colleague's fix", app="v3\n")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    mark.unlink()
    _, errors = ours.communicate(timeout=60)
    assert ours.returncode == 1
    assert "StateOther" in errors
    assert "Colleague's fix" in errors
    assert lab.head() == theirs


def test_the_same_content_pushed_by_somebody_else_counts_as_done(lab: Lab) -> None:
    driver = lab.driver()
    entry = lab.entry(driver, lab.good)
    theirs = git(lab.colleague, "commit-tree", lab.tree(lab.good), "-p", lab.bad, "-m", "By hand")
    git(lab.colleague, "push", "--quiet", "origin", f"{theirs}:refs/heads/main")
    assert driver.state(entry, opened=False)[0] == TARGET
    driver.apply(entry.target)
    assert lab.head() == theirs


def test_a_protected_branch_gets_a_branch_to_merge(lab: Lab) -> None:
    hook(lab.shared, "pre-receive", 'while read a b ref; do [ "$ref" != refs/heads/main ] || exit 1; done')
    driver = lab.driver()
    entry = lab.entry(driver, lab.good)
    with pytest.raises(StepFailed, match="awaiting merge") as failure:
        driver.apply(entry.target)
    wanted = f"rollback/code-{RUN}"
    assert wanted in failure.value.next_step
    assert f"resume {RUN}" in failure.value.next_step
    assert lab.head() == lab.bad
    offered = lab.head(reference=f"refs/heads/{wanted}")
    with pytest.raises(StepFailed, match="awaiting merge"):
        driver.apply(entry.target)
    assert lab.head(reference=f"refs/heads/{wanted}") == offered
    assert driver.state(entry, opened=False)[0] == LIVE
    git(lab.shared, "update-ref", "refs/heads/main", offered)
    assert driver.state(entry, opened=False)[0] == TARGET


def test_a_protected_branch_may_just_fail(lab: Lab) -> None:
    hook(lab.shared, "pre-receive", "echo no direct pushes >&2; exit 1")
    driver = lab.driver(protected="fail")
    with pytest.raises(StepFailed, match="no direct pushes"):
        driver.apply(driver.resolve(lab.good))
    assert git(lab.shared, "for-each-ref", "--format=%(refname)", "refs/heads") == "refs/heads/main"


def test_a_remote_that_is_gone_is_refused(lab: Lab) -> None:
    lab.shared.rename(lab.folder / "gone")
    with pytest.raises(Refused, match="ls-remote"):
        lab.driver().live(exact=True)


def test_a_remote_that_may_not_be_pushed_to_is_found_before(lab: Lab) -> None:
    git(lab.shared, "config", "http.receivepack", "false")
    git(lab.server, "config", "remote.origin.receivepack", "false")
    driver = lab.driver(within_run=False)
    assert any("Pushing to origin would fail" in problem for problem in lab.entry(driver, lab.good).finding.problems)


def test_a_remote_with_another_push_address_is_refused(lab: Lab) -> None:
    git(lab.server, "config", "remote.origin.pushurl", "/elsewhere")
    with pytest.raises(Refused, match="pushed to another"):
        lab.driver().live(exact=True)


# -- deploy ------------------------------------------------------------------------------------------------------------


def test_deploy_runs_once_after_the_push(lab: Lab) -> None:
    script = f'git -C "{lab.shared}" rev-parse main >> "{lab.folder}/deployed"'
    driver = lab.driver(deploy=["sh", "-c", script])
    entry = lab.entry(driver, lab.good)
    driver.apply(entry.target)
    driver.apply(entry.target)
    assert (lab.folder / "deployed").read_text().split() == [lab.head()]


def test_a_failed_deploy_is_half_way_and_can_be_resumed(lab: Lab) -> None:
    door = lab.folder / "door"
    driver = lab.driver(deploy=["sh", "-c", f"test -e {door} || {{ echo door is shut >&2; exit 7; }}"])
    entry = lab.entry(driver, lab.good)
    with pytest.raises(StepFailed, match="exit code 7: door is shut"):
        driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == BETWEEN
    door.touch()
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET


def test_an_endless_deploy_is_stopped_with_its_children(lab: Lab) -> None:
    pid = lab.folder / "pid"
    driver = lab.driver(deploy=["sh", "-c", f"sleep 300 & echo $! > {pid}; wait"], deploy_timeout=0.5)
    with pytest.raises(DeadlineExceeded, match="within 0"):
        driver.apply(driver.resolve(lab.good))
    child = int(pid.read_text())
    for _ in range(100):
        status = Path(f"/proc/{child}/stat")
        if not status.exists() or ") Z " in status.read_text():
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("the deploy command's child is still running")


def test_a_missing_deploy_command_is_found_before(lab: Lab) -> None:
    driver = lab.driver(within_run=False, deploy=["no-such-command"])
    assert any("not installed" in problem for problem in lab.entry(driver, lab.good).finding.problems)


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_kept_objects_survive_a_clean_up_until_finalize(lab: Lab, tmp_path: Path) -> None:
    repository = tmp_path / "alone.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", lab.shared, repository], check=True)
    driver = lab.driver(repository=str(repository), remote=None, safety="none")
    version = driver.record(lab.work)
    git(repository, "update-ref", "refs/heads/main", lab.first)
    git(repository, "tag", "--delete", "v1.4")
    git(repository, "gc", "--quiet", "--prune=now")
    assert driver.resolve(version).artefacts["commit"] == lab.bad
    removed = driver.finalize()
    assert len(removed) == 1
    assert driver.finalize() == []
    git(repository, "gc", "--quiet", "--prune=now")
    with pytest.raises(Refused, match="clean-up"):
        lab.driver(repository=str(repository), remote=None).resolve(version)


def test_finalize_leaves_the_safety_mark(lab: Lab) -> None:
    driver = lab.driver()
    driver.record(lab.work)
    driver.apply(driver.resolve(lab.good))
    driver.finalize()
    assert lab.head(lab.shared, SAFETY) == lab.bad
    assert git(lab.server, "for-each-ref", "refs/rollbackctl") == ""
