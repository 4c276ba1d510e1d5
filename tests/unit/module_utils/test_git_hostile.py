# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository is data: nothing that it brings along is started, and no name in it is taken for an option."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import DeadlineExceeded, Refused
from ansible.module_utils.rollbackctl.git_command import Git, git_argv

from tests.unit.module_utils.git_lab import Lab, commit, git

HOOKS = (
    "applypatch-msg",
    "commit-msg",
    "fsmonitor-watchman",
    "post-applypatch",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-rewrite",
    "pre-auto-gc",
    "pre-commit",
    "pre-merge-commit",
    "pre-push",
    "pre-rebase",
    "prepare-commit-msg",
    "push-to-checkout",
    "reference-transaction",
    "sendemail-validate",
)
AUTHOR = ("rollbackctl", "rollbackctl@localhost")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Lab(tmp_path)


def test_hooks_and_commands_of_the_repository_never_run(lab: Lab) -> None:
    canary = lab.folder / "canary"
    script = lab.folder / "script"
    script.write_text(f'#!/bin/sh\necho "$0" >> {canary}\n')
    script.chmod(0o755)
    own = lab.folder / "hooks"
    own.mkdir()
    for folder in (lab.server / ".git" / "hooks", own):
        for name in HOOKS:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(script)
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "diff.external",
        "core.alternateRefsCommand",
        "gpg.program",
    ):
        git(lab.server, "config", key, str(script))
    git(lab.server, "config", "core.hooksPath", str(own))
    git(lab.server, "config", "commit.gpgSign", "true")
    git(lab.server, "config", "log.showSignature", "true")
    git(lab.server, "config", "push.gpgSign", "if-asked")
    git(lab.server, "config", "gc.auto", "1")
    canary.unlink(missing_ok=True)
    for remote in ("origin", None):
        driver = lab.driver(remote=remote, work_tree="update", safety="tag" if remote else "none")
        entry = lab.entry(driver, lab.good if remote else lab.first)
        driver.record(lab.work)
        driver.apply(entry.target)
        driver.finalize()
    assert not canary.exists(), canary.read_text()
    assert (lab.server / "app").read_text() == "v0\n", "and the work was done"
    git(lab.server, "-c", "commit.gpgSign=false", "commit", "--quiet", "--allow-empty", "--message", "by hand")
    assert "reference-transaction" in canary.read_text(), "plain git does start them"


def test_an_address_that_is_a_command_is_not_followed(lab: Lab) -> None:
    canary = lab.folder / "canary"
    for address in (f"ext::sh -c 'touch {canary}'", f"ssh://-oProxyCommand=touch%20{canary}/x", "http://localhost:1/x"):
        git(lab.server, "remote", "set-url", "origin", address)
        git(lab.server, "config", "protocol.ext.allow", "always")
        git(lab.server, "config", "protocol.allow", "always")
        with pytest.raises(Refused, match="ls-remote"):
            lab.driver().live(exact=True)
        assert not canary.exists()


@pytest.mark.parametrize(
    "branch",
    [
        "--upload-pack=touch canary",
        "-d",
        "a..b",
        "a b",
        "a\nb",
        "main:other",
        "+main",
        "refs/heads/",
        "@{-1}",
        "ma*",
        "",
    ],
)
def test_a_branch_that_is_no_branch_name_is_refused(lab: Lab, branch: str) -> None:
    with pytest.raises(Refused, match="no branch"):
        lab.driver(branch=branch).live(exact=True)
    assert not (lab.server / "canary").exists()


def test_a_link_in_the_repository_leads_nowhere(lab: Lab) -> None:
    outside = lab.folder / "outside"
    outside.mkdir()
    (lab.colleague / "escape").symlink_to(outside)
    commit(lab.colleague, "A way out")
    (lab.colleague / "escape").unlink()
    wicked = commit(lab.colleague, "Through it", escape__file="x\n")
    (lab.colleague / "escape" / "file").unlink()
    (lab.colleague / "escape").rmdir()
    (lab.colleague / "escape").symlink_to(outside)
    commit(lab.colleague, "The link again")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    git(lab.server, "pull", "--quiet", "--ff-only")
    driver = lab.driver(work_tree="update")
    driver.apply(driver.resolve(wicked))
    assert (lab.server / "escape" / "file").read_text() == "x\n"
    assert list(outside.iterdir()) == []


def test_messages_cannot_drive_a_terminal(lab: Lab) -> None:
    commit(lab.colleague, "\x1b[2J gone \u202e", app="v3\n")
    git(lab.colleague, "push", "--quiet", "origin", "main")
    text = lab.driver().live(exact=True).text
    assert "\\x1b[2J" in text
    assert text.isprintable()


@pytest.mark.parametrize("secret", ["canary-7c21", "canary@7c21"])
def test_credentials_in_an_address_are_not_shown(lab: Lab, tmp_path: Path, secret: str) -> None:
    """Git leaves them out of its own messages; a server, or what stands before it, says what it likes."""
    git(lab.server, "remote", "set-url", "origin", f"https://deploy:{secret}@localhost:1/x.git")
    with pytest.raises(Refused, match="ls-remote") as refusal:
        lab.driver().live(exact=True)
    assert "7c21" not in refusal.value.message
    server = tmp_path / "refuses"
    server.write_text(f"#!/bin/sh\necho 'moved to https://deploy:{secret}@git.example/x.git' >&2\nexit 1\n")
    server.chmod(0o755)
    git(lab.server, "remote", "set-url", "origin", str(lab.shared))
    git(lab.server, "config", "remote.origin.uploadpack", str(server))
    plain = subprocess.run(
        ["git", "-C", str(lab.server), "ls-remote", "origin"], capture_output=True, text=True, check=False, timeout=60
    )
    assert f"deploy:{secret}@" in plain.stderr, "git itself tells it"
    with pytest.raises(Refused, match="ls-remote") as refusal:
        lab.driver().live(exact=True)
    assert "moved to https://***@git.example/x.git" in refusal.value.message
    assert "7c21" not in refusal.value.message


def test_a_remote_that_never_answers_is_given_up(lab: Lab, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 300\n")
    slow.chmod(0o755)
    git(lab.server, "config", "remote.origin.uploadpack", str(slow))
    with pytest.raises(Refused, match=r"did not end within 0\.5 seconds"):
        lab.driver(timeout=0.5).live(exact=True)
    repository = Git(str(lab.server), author=AUTHOR, seconds=0.5)
    with pytest.raises(DeadlineExceeded, match="read back"):
        repository.write("fetch", "origin")


def test_the_callers_git_variables_do_not_reach_git(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(lab.shared))
    monkeypatch.setenv("GIT_INDEX_FILE", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    environment = Git(str(lab.server), author=AUTHOR, seconds=30).environment()
    assert not {"GIT_DIR", "GIT_INDEX_FILE", "GIT_CONFIG_COUNT"} & set(environment)
    assert environment["GIT_TERMINAL_PROMPT"] == "0"


def test_every_call_has_the_same_settings() -> None:
    argv = git_argv("/srv/x", "status")
    assert argv[:3] == ["git", "-C", "/srv/x"]
    assert argv[-1] == "status"
    for setting in ("core.hooksPath=/dev/null", "core.fsmonitor=false", "protocol.ext.allow=never"):
        assert argv[argv.index(setting) - 1] == "-c"


def test_what_was_put_aside_is_removed(lab: Lab) -> None:
    repository = Git(str(lab.server), author=AUTHOR, seconds=30)
    aside = Path(repository.aside)
    assert aside.stat().st_mode & 0o077 == 0
    del repository
    assert not aside.exists()


def test_what_a_killed_process_put_aside_is_removed_later(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(lab.folder))
    lab.apply_elsewhere(lab.good, "rollback_git.push.before:kill").communicate(timeout=60)
    (left,) = lab.folder.glob("rollbackctl-git-*")
    Git(str(lab.server), author=AUTHOR, seconds=30)
    assert left.exists(), "it might still be somebody's"
    os.utime(left, (1, 1))
    Git(str(lab.server), author=AUTHOR, seconds=30)
    assert not left.exists()
