# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkout on a server follows its branch: whole files, nobody's work overwritten, locks respected."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET
from ansible.module_utils.rollbackctl.errors import Refused, StateOther

from tests.unit.module_utils.git_lab import Lab, commit, git, snapshot


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


@pytest.fixture(params=["origin", None], ids=["with remote", "alone"])
def remote(request: pytest.FixtureRequest) -> str | None:
    """The two kinds of checkout: one that follows a remote, one whose branch lives in it."""
    value: str | None = request.param
    return value


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def clean(lab: Lab) -> bool:
    return git(lab.server, "status", "--porcelain") == "" and git(lab.server, "fsck", "--strict") == ""


def content(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in snapshot(folder).items() if not name.startswith(".git/")}


def test_the_checkout_follows(lab: Lab, remote: str | None) -> None:
    driver = lab.driver(remote=remote, work_tree="update")
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET
    assert (lab.server / "app").read_text() == "v1\n"
    assert (lab.server / "old").read_text() == "still here\n"
    assert not (lab.server / "new").exists()
    assert git(lab.server, "rev-parse", "HEAD^{tree}") == lab.tree(lab.good)
    assert git(lab.server, "rev-parse", "HEAD^") == lab.bad
    assert clean(lab)
    assert [p.name for p in (lab.server / ".git").iterdir() if "rollbackctl" in p.name or "lock" in p.name] == []


def test_undo_brings_the_checkout_forward_again(lab: Lab, remote: str | None) -> None:
    driver = lab.driver(remote=remote, work_tree="update")
    files = content(lab.server)
    before = driver.record(lab.work)
    driver.apply(driver.resolve(lab.good))
    driver.apply(before)
    assert driver.matches(driver.live(exact=True), before, exact=True)
    assert content(lab.server) == files
    assert clean(lab)


def test_a_checkout_of_the_branch_without_remote_follows_by_default(lab: Lab) -> None:
    driver = lab.driver(remote=None)
    driver.apply(driver.resolve(lab.good))
    assert (lab.server / "app").read_text() == "v1\n"
    assert clean(lab)


def test_leaving_a_checkout_behind_its_own_branch_is_refused(lab: Lab) -> None:
    driver = lab.driver(remote=None, work_tree="leave")
    assert any("work_tree: update" in problem for problem in lab.entry(driver, lab.good).finding.problems)


def test_looking_does_not_even_refresh_the_index(lab: Lab, remote: str | None) -> None:
    os.utime(lab.server / "app", (1, 1))
    before = snapshot(lab.server)
    driver = lab.driver(within_run=False, remote=remote, work_tree="update")
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    assert driver.state(entry, opened=False)[0] == LIVE
    assert snapshot(lab.server) == before


@pytest.mark.parametrize("how", ["changed", "staged", "deleted", "staged and gone", "mode"])
def test_uncommitted_work_is_refused_and_untouched(lab: Lab, remote: str | None, how: str) -> None:
    path = lab.server / "docs" / "guide"
    if how == "changed":
        path.write_text("half a sentence\n")
    elif how == "deleted":
        path.unlink()
    elif how == "mode":
        path.chmod(0o755)
    else:
        (lab.server / "draft").write_text("draft\n")
        git(lab.server, "add", "draft")
        if how == "staged and gone":
            (lab.server / "draft").unlink()
    before = snapshot(lab.server)
    driver = lab.driver(remote=remote, work_tree="update")
    entry = lab.entry(driver, lab.good)
    assert any("not committed" in problem for problem in entry.finding.problems)
    with pytest.raises(Refused, match="not committed"):
        driver.record(lab.work)
    assert snapshot(lab.server) == before


def test_work_that_appears_after_the_plan_is_untouched(lab: Lab, remote: str | None) -> None:
    driver = lab.driver(remote=remote, work_tree="update")
    entry = lab.entry(driver, lab.good)
    (lab.server / "app").write_text("a quick fix by hand\n")
    before = content(lab.server)
    assert driver.state(entry, opened=False)[0] == OTHER
    with pytest.raises(StateOther, match="somebody else changed: app"):
        driver.apply(entry.target)
    assert content(lab.server) == before
    assert driver.state(entry, opened=False)[0] == OTHER
    assert not (lab.server / ".git" / "index.lock").exists()


@pytest.mark.parametrize("thing", ["file", "folder", "link to a folder", "link in the way"])
def test_an_untracked_thing_in_the_way_is_refused(lab: Lab, remote: str | None, thing: str) -> None:
    git(lab.server, "config", "user.name", "x")
    outside = lab.folder / "outside"
    outside.mkdir()
    place = lab.server / "old"
    if thing == "file":
        place.write_text("my notes\n")
    elif thing == "folder":
        place.mkdir()
        (place / "notes").write_text("my notes\n")
    elif thing == "link to a folder":
        place.mkdir()
        (place / "link").symlink_to(outside)
    else:
        commit(lab.colleague, "No library", lib__core=None)
        git(lab.colleague, "push", "--quiet", "origin", "main")
        git(lab.server, "pull", "--quiet", "--ff-only")
        (lab.server / "lib").symlink_to(outside)
    before = snapshot(lab.server)
    driver = lab.driver(remote=remote, work_tree="update")
    problems = lab.entry(driver, lab.good).finding.problems
    assert any("not in git" in problem for problem in problems)
    assert snapshot(lab.server) == before
    assert list(outside.iterdir()) == []


def test_untracked_files_elsewhere_stay(lab: Lab, remote: str | None) -> None:
    (lab.server / "new" / "upload.bin").write_bytes(b"customer data")
    driver = lab.driver(remote=remote, work_tree="update")
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert (lab.server / "new" / "upload.bin").read_bytes() == b"customer data"
    assert not (lab.server / "new" / "thing").exists()


def test_files_become_folders_links_and_programs_and_back(lab: Lab, remote: str | None) -> None:
    odd = "tab\tand\nnewline ü"
    for path in ("app", "docs/guide"):
        (lab.colleague / path).unlink()
    shutil.rmtree(lab.colleague / "lib")
    (lab.colleague / "app").mkdir()
    (lab.colleague / "app" / "inner").write_text("now a folder\n")
    (lab.colleague / "lib").symlink_to("docs")
    (lab.colleague / "docs").mkdir(exist_ok=True)
    (lab.colleague / "docs" / "run").write_text("#!/bin/sh\n")
    (lab.colleague / "docs" / "run").chmod(0o755)
    (lab.colleague / odd).write_text("odd\n")
    commit(lab.colleague, "Everything differs")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    git(lab.server, "pull", "--quiet", "--ff-only")
    driver = lab.driver(remote=remote, work_tree="update")
    before = driver.record(lab.work)
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert clean(lab)
    assert (lab.server / "lib" / "core").read_text() == "core 1\n"
    driver.apply(before)
    assert clean(lab)
    assert (lab.server / "lib").readlink() == Path("docs")
    assert os.access(lab.server / "docs" / "run", os.X_OK)
    assert (lab.server / odd).read_text() == "odd\n"


def test_line_ends_and_filters_are_those_of_the_checkout(lab: Lab, remote: str | None) -> None:
    good = commit(lab.colleague, "Lines", _DOT_gitattributes="*.bat text eol=crlf\n", start_DOT_bat="one\ntwo\n")
    commit(lab.colleague, "More lines", start_DOT_bat="one\ntwo\nthree\n")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    git(lab.server, "pull", "--quiet", "--ff-only")
    driver = lab.driver(remote=remote, work_tree="update")
    driver.apply(driver.resolve(good))
    assert (lab.server / "start.bat").read_bytes() == b"one\r\ntwo\r\n"
    assert clean(lab)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
@pytest.mark.parametrize("gone", [False, True], ids=["changed", "missing"])
def test_a_file_that_git_was_told_not_to_look_at_is_looked_at(lab: Lab, flag: str, *, gone: bool) -> None:
    """`git status` is clean then; people do that to settings on a server."""
    git(lab.server, "update-index", flag, "app")
    driver = lab.driver(remote=None, work_tree="update")
    healthy = driver.live(exact=True)
    (lab.server / "app").unlink() if gone else (lab.server / "app").write_text("somebody's\n")
    assert git(lab.server, "status", "--porcelain") == ""
    reading = driver.live(exact=True)
    assert reading.artefacts["changed"] == ["app"]
    assert not driver.matches(reading, healthy, exact=True)
    with pytest.raises(Refused, match="not committed"):
        driver.record(lab.work)


def test_a_file_of_the_same_size_and_time_is_read(lab: Lab) -> None:
    """Where git was told to trust less of a file's state than it could."""
    git(lab.server, "config", "core.trustctime", "false")
    git(lab.server, "config", "core.checkStat", "minimal")
    path = lab.server / "app"
    before = path.stat()
    while int(time.time()) <= int(before.st_ctime):  # git counts these in seconds
        time.sleep(0.01)
    path.write_text(path.read_text().swapcase())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert lab.driver(remote=None, work_tree="update").live(exact=True).artefacts["changed"] == ["app"]


def test_commits_that_were_not_pushed_are_refused(lab: Lab) -> None:
    commit(lab.server, "Fixed on the server", local="x\n")
    driver = lab.driver(work_tree="update")
    assert any("not on origin/main" in problem for problem in lab.entry(driver, lab.good).finding.problems)
    assert lab.driver(work_tree="leave").resolve(lab.good).identity["tree"] == lab.tree(lab.good)


def test_a_checkout_that_is_behind_comes_along_and_undo_puts_it_where_it_was(lab: Lab) -> None:
    commit(lab.colleague, "Not deployed yet", app="v3\n")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    driver = lab.driver(work_tree="update")
    before = driver.record(lab.work)
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    assert "the checkout is at" in entry.live.text
    driver.apply(entry.target)
    assert (lab.server / "app").read_text() == "v1\n"
    driver.apply(before)
    assert driver.matches(driver.live(exact=True), before, exact=True)
    assert (lab.server / "app").read_text() == "v2\n"
    assert git(lab.server, "rev-parse", "HEAD") == lab.bad
    assert git(lab.shared, "show", "main:app") == "v3"
    assert clean(lab)


def test_another_branch_is_refused(lab: Lab, remote: str | None) -> None:
    git(lab.server, "checkout", "--quiet", "-b", "experiment")
    driver = lab.driver(remote=remote, work_tree="update")
    assert any(
        "refs/heads/experiment checked out" in problem for problem in lab.entry(driver, lab.good).finding.problems
    )
    git(lab.server, "checkout", "--quiet", "--detach")
    assert any("no branch checked out" in problem for problem in lab.entry(driver, lab.good).finding.problems)


def test_a_lock_that_is_not_ours_is_refused_and_stays(lab: Lab, remote: str | None) -> None:
    lock = lab.server / ".git" / "index.lock"
    lock.write_bytes(b"")
    driver = lab.driver(remote=remote, work_tree="update")
    entry = lab.entry(driver, lab.good)
    assert any(str(lock) in problem for problem in entry.finding.problems)
    with pytest.raises(Refused, match=r"index\.lock is there"):
        driver.apply(entry.target)
    assert lock.exists()
    assert (lab.server / "app").read_text() == "v2\n"
    lock.unlink()
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET


def test_an_unfinished_merge_and_a_sparse_checkout_are_refused(lab: Lab) -> None:
    (lab.server / ".git" / "MERGE_HEAD").write_text(lab.first + "\n")
    git(lab.server, "config", "core.sparseCheckout", "true")
    driver = lab.driver(work_tree="update")
    problems = " ".join(lab.entry(driver, lab.good).finding.problems)
    assert "MERGE_HEAD" in problems
    assert "sparse" in problems


def test_submodules_and_large_files_are_refused_for_a_checkout_only(lab: Lab) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1\n"
    (lab.colleague / "video").write_text(pointer)
    git(lab.colleague, "update-index", "--add", "--cacheinfo", f"160000,{lab.first},vendor")
    git(lab.colleague, "add", "video")
    git(lab.colleague, "commit", "--quiet", "--message", "Heavy")
    git(lab.colleague, "push", "--quiet", "origin", "HEAD:refs/heads/heavy")
    problems = " ".join(lab.entry(lab.driver(work_tree="update"), "heavy").finding.problems)
    assert "Submodules differ and are not updated here: vendor" in problems
    assert "Git LFS differ: video" in problems
    assert lab.entry(lab.driver(), "heavy").finding.problems == ()


@pytest.mark.parametrize("with_remote", [True, False], ids=["remote", "none"])
def test_what_to_type_for_submodules_works(lab: Lab, *, with_remote: bool) -> None:
    module = lab.folder / "module"
    git(lab.folder, "init", "--quiet", "--initial-branch=main", "module")
    commits = [commit(module, f"Module {word}", word=word) for word in ("old", "new")]
    allow = ("-c", "protocol.file.allow=always")
    git(lab.colleague, *allow, "submodule", "--quiet", "add", str(module), "vendor")
    for one in commits:
        git(lab.colleague / "vendor", "checkout", "--quiet", one)
        git(lab.colleague, "commit", "--quiet", "--all", "--message", f"With {one}")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    git(lab.server, *allow, "pull", "--quiet", "--ff-only")
    git(lab.server, *allow, "submodule", "--quiet", "update", "--init")
    old = git(lab.colleague, "rev-parse", "HEAD~1")
    problems = " ".join(
        lab.entry(lab.driver(remote="origin" if with_remote else None, work_tree="update"), old).finding.problems
    )
    assert "Submodules differ and are not updated here: vendor." in problems
    if with_remote:
        words = problems.partition("`deploy: [")[2].partition("]")[0].split(", ")
        assert words[0] == "git"
        driver = lab.driver(work_tree="leave", deploy=words)
        entry = lab.entry(driver, old)
        assert entry.finding.problems == ()
        driver.apply(entry.target)
    else:
        assert "not in git" not in problems
        for line in problems.partition("By hand: ")[2].split(" && "):
            who = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
            who |= {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A"}
            subprocess.run(shlex.split(line), env=os.environ | who | {"GIT_COMMITTER_EMAIL": "a@b"}, check=True)
    assert git(lab.server / "vendor", "rev-parse", "HEAD") == commits[0]
    assert git(lab.server, "rev-parse", "HEAD^{tree}") == git(lab.colleague, "rev-parse", "HEAD~1^{tree}")
    assert git(lab.server, "status", "--porcelain") == ""


def test_an_executable_bit_that_git_does_not_look_at_comes_back(lab: Lab, remote: str | None) -> None:
    (lab.colleague / "run").write_text("#!/bin/sh\n")
    (lab.colleague / "run").chmod(0o755)
    good = commit(lab.colleague, "A program", data="x")
    (lab.colleague / "run").chmod(0o644)
    (lab.colleague / "data").chmod(0o755)
    commit(lab.colleague, "The bit is lost", app="v4\n")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    git(lab.server, "pull", "--quiet", "--ff-only")
    git(lab.server, "config", "core.fileMode", "false")
    driver = lab.driver(remote=remote, work_tree="update")
    entry = lab.entry(driver, good)
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET
    assert os.access(lab.server / "run", os.X_OK)
    assert not os.access(lab.server / "data", os.X_OK)

    (lab.server / "run").chmod(0o644)  # by hand, and git says nothing
    assert git(lab.server, "status", "--porcelain") == ""
    entry = lab.entry(driver, good)
    assert not driver.matches(entry.live, entry.target, exact=True)
    assert entry.finding.problems == ()
    assert "the executable bit comes back: run." in entry.finding.notes
    kept = driver.record(lab.folder)
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET
    assert os.access(lab.server / "run", os.X_OK)
    assert driver.matches(driver.live(exact=True), kept, exact=True), "undo has nothing to take back"


def test_a_linked_work_tree(lab: Lab) -> None:
    git(lab.server, "checkout", "--quiet", "--detach")
    linked = lab.folder / "linked"
    git(lab.server, "worktree", "add", "--quiet", str(linked), "main")
    driver = lab.driver(repository=str(linked), remote=None)
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert (linked / "app").read_text() == "v1\n"
    assert git(linked, "status", "--porcelain") == ""


def test_files_half_way_are_recognised_and_finished(lab: Lab, remote: str | None) -> None:
    driver = lab.driver(remote=remote, work_tree="update")
    entry = lab.entry(driver, lab.good)
    process = lab.apply_elsewhere(entry.target, "rollback_git.files.between:kill", remote=remote, work_tree="update")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert driver.state(entry, opened=False)[0] == BETWEEN
    (lab.server / "docs" / "guide").write_text("somebody else\n")
    assert driver.state(entry, opened=False)[0] == OTHER
    git(lab.server, "cat-file", "blob", f"{lab.bad}:docs/guide")
    (lab.server / "docs" / "guide").write_text("read me\n")
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET
    assert clean(lab)


def test_half_way_can_go_back_too(lab: Lab, remote: str | None) -> None:
    driver = lab.driver(remote=remote, work_tree="update")
    files = content(lab.server)
    before = driver.record(lab.work)
    target = driver.resolve(lab.good)
    process = lab.apply_elsewhere(target, "rollback_git.files.between:kill", remote=remote, work_tree="update")
    process.communicate(timeout=60)
    assert process.returncode == -9
    driver.apply(before)
    assert driver.matches(driver.live(exact=True), before, exact=True)
    assert content(lab.server) == files
    assert clean(lab)


def test_finalize_clears_what_a_killed_attempt_left(lab: Lab) -> None:
    driver = lab.driver(remote=None)
    process = lab.apply_elsewhere(lab.good, "rollback_git.files.between:kill", remote=None)
    process.communicate(timeout=60)
    assert (lab.server / ".git" / "index.lock").exists()
    assert len(driver.finalize()) == 3
    assert not (lab.server / ".git" / "index.lock").exists()


def test_root_works_as_the_owner(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root in somebody else's repository every file stays theirs, and their deploy command does not run as root."""
    if os.geteuid() != 0:
        with pytest.raises(Refused, match="belongs to root"):
            Lab(open_folder).driver(repository="/").live(exact=True)
        return
    uid = 65534
    monkeypatch.setenv("HOME", str(open_folder))
    lab = Lab(open_folder)
    for repository in (lab.shared, lab.server):
        subprocess.run(["chown", "-R", f"{uid}:{uid}", str(repository)], check=True)
    driver = lab.driver(work_tree="update", deploy=["sh", "-c", "id -u > .git/who"])
    entry = lab.entry(driver, lab.good)
    assert entry.finding.problems == ()
    driver.apply(entry.target)
    assert driver.state(entry, opened=False)[0] == TARGET
    strangers = [str(path) for path in lab.server.rglob("*") if path.lstat().st_uid != uid]
    assert strangers == []
    assert (lab.server / ".git" / "who").read_text() == f"{uid}\n"
    assert os.geteuid() == 0
    (lab.folder / "after").touch()
    assert (lab.folder / "after").stat().st_uid == 0
