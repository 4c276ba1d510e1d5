# SPDX-License-Identifier: GPL-3.0-or-later
"""Calling git so that a repository cannot make it do anything else, and so that reading changes nothing.

* What a repository's own configuration could start (hooks, a file system monitor, `ext::` remotes) is switched off:
  https://git-scm.com/docs/git#Documentation/git.txt-codeGITALLOWPROTOCOLcode and gitsecurity in the same manual.
* Reads put every object they need or make into a directory of their own (git calls this a quarantine), so that even
  fetching and merging leave the repository as it was: https://git-scm.com/docs/git-receive-pack#_quarantine_environment
* A root process works as the repository's owner: the files keep their owner, and the owner's scripts get no more power.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence

from .errors import DeadlineExceeded, Refused, StepFailed
from .names import printable
from .safe_path import Owner, user_name

_ASIDE = "rollbackctl-git-"
_ABANDONED_SECONDS = 3600
PROTOCOLS = "file:https:ssh"
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.fsync=all",  # default leaves references and loose objects to the kernel: a power cut could lose them
    "core.quotePath=false",
    "core.trustctime=true",  # a file counts as unchanged without being read only when all of its state is as it was
    "core.checkStat=default",
    "core.alternateRefsCommand=",
    "protocol.ext.allow=never",
    "safe.bareRepository=all",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.writeCommitGraph=false",
    "submodule.recurse=false",
    "push.recurseSubmodules=no",
    "push.followTags=false",
    "push.gpgSign=false",
    "commit.gpgSign=false",
    "log.showSignature=false",
    "i18n.commitEncoding=UTF-8",
)
# What git and ssh need from the caller's surroundings to reach a remote; nothing else is handed on.
_INHERITED = (
    "PATH",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "KRB5CCNAME",
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s']+@")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def git_argv(repository: str, *args: str) -> list[str]:
    """Return the command line of every git call: the settings above, then args, in repository (an absolute path)."""
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    return ["git", "-C", repository, *settings, *args]


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code, output and error output (credentials in addresses blotted out)."""

    code: int
    out: str
    err: str

    def reason(self) -> str:
        """Return the last lines of the error output as one printable line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return printable("; ".join(lines[-4:]))[:600] or f"exit code {self.code}"

    def names(self) -> list[str]:
        """Return the NUL-separated names in the output."""
        return [name for name in self.out.split("\0") if name]


def _sweep(owner: Owner) -> None:
    """Remove the quarantines of processes that were killed more than an hour ago."""
    for entry in os.scandir(tempfile.gettempdir()):
        pid = entry.name[len(_ASIDE) :].partition("-")[0]
        if not entry.name.startswith(_ASIDE) or not pid.isdigit() or os.path.exists(f"/proc/{pid}"):
            continue
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            ours = status.st_uid in {os.geteuid(), owner.uid}
            if ours and status.st_mtime < time.time() - _ABANDONED_SECONDS:
                _remove(entry.path, Owner.named(status.st_uid, status.st_gid))


def _remove(path: str, owner: Owner) -> None:
    with owner.acting():
        shutil.rmtree(path, ignore_errors=True)


def _die_with_parent() -> None:
    # SIGTERM, not SIGKILL: git removes its lock files when it is asked to stop (lockfile.h, tempfile.c).
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run(argv: Sequence[str], *, cwd: str, env: Mapping[str, str], owner: Owner, stdin: str, seconds: float) -> Answer:
    """Run a command as owner, without a terminal, for at most so many seconds.

    :raises TimeoutError: when it did not end in time; it and its children were stopped.
    :raises FileNotFoundError: when there is no such command.
    """
    who = {"user": owner.uid, "group": owner.gid, "extra_groups": list(owner.groups)} if owner.drop else {}
    process = subprocess.Popen(  # type: ignore[call-overload]  # the keys of `who` are known, mypy sees a dict
        list(argv),
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - it makes one system call and takes no lock
        **who,
    )
    try:
        out, err = process.communicate(os.fsencode(stdin), timeout=seconds)
    except subprocess.TimeoutExpired:
        for sign, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=patience)
                break
        raise TimeoutError from None
    text = (blob.decode("utf-8", "surrogateescape") for blob in (out, err))
    return Answer(process.returncode, *(_CREDENTIALS.sub("***@", part) for part in text))


class Git:
    """One repository, as one run of one component sees it.

    :param repository: absolute path, bare or with a work tree.
    :param author: name and e-mail address of the commits made here.
    :param seconds: how long one call may take.
    """

    def __init__(self, repository: str, *, author: tuple[str, str], seconds: float) -> None:
        """Look at the repository; nothing is written into it.

        :raises Refused: no such repository, not ours to work in, or no git.
        """
        self.repository = repository
        self._author = author
        self._seconds = seconds
        if not os.path.isabs(repository) or not os.path.isdir(repository):
            raise Refused(
                f"{repository!r} is no directory on this host; the absolute path of a git repository was expected. "
                "Nothing was changed.",
                "Correct `repository` in the profile.",
            )
        inner = os.path.join(repository, ".git")
        self.owner = Owner.of(inner if os.path.exists(inner) else repository)
        _sweep(self.owner)
        with self.owner.acting():  # a chown by name could be led to another file
            self.aside = tempfile.mkdtemp(prefix=f"{_ASIDE}{os.getpid()}-")
            os.mkdir(os.path.join(self.aside, "objects"))
        self._cleanup = weakref.finalize(self, _remove, self.aside, self.owner)
        self._quarantine: dict[str, str] = {}
        self._seen: set[str] = set()
        asked = (
            "rev-parse",
            "--is-bare-repository",
            "--absolute-git-dir",
            "--git-path",
            "objects",
            "--git-path",
            "index",
        )
        answer = self.ask(*asked)
        if answer.code != 0:
            raise Refused(
                f"{repository} is no git repository that this user can read: {answer.reason()}. Nothing was changed.",
                "Correct `repository` in the profile.",
            )
        bare, self.directory, objects, index = answer.out.splitlines()
        self.bare = bare == "true"
        self.index = os.path.join(repository, index)
        quoted = os.path.join(repository, objects).replace("\\", "\\\\").replace('"', '\\"')
        self._quarantine = {
            "GIT_OBJECT_DIRECTORY": os.path.join(self.aside, "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"',
        }

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of every command: little of the caller's, no prompt, plain English messages."""
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        name, email = self._author
        env.update(
            HOME=self.owner.home,
            LC_ALL="C.UTF-8",
            GIT_TERMINAL_PROMPT="0",
            GIT_ALLOW_PROTOCOL=PROTOCOLS,
            GIT_LITERAL_PATHSPECS="1",
            GIT_NO_REPLACE_OBJECTS="1",  # what an id names is what it is the digest of
            GIT_CEILING_DIRECTORIES=os.path.dirname(os.path.realpath(self.repository)),
            GIT_AUTHOR_NAME=name,
            GIT_AUTHOR_EMAIL=email,
            GIT_COMMITTER_NAME=name,
            GIT_COMMITTER_EMAIL=email,
        )
        env.update(extra or {})
        return env

    def typed(self, *args: str) -> str:
        """Return a git command for people to type: it works when the repository is somebody else's, too."""
        command = shlex.join(["git", "-C", self.repository, *args])
        return f"sudo -u {user_name(self.owner.uid)} {command}" if self.owner.drop else command

    def ask(self, *args: str, stdin: str = "", env: Mapping[str, str] | None = None, writing: bool = False) -> Answer:
        """Run git and return how it ended, whatever that was. Unless writing, the repository cannot change.

        :raises Refused: a read did not end in time, or there is no git.
        :raises DeadlineExceeded: a write did not end in time.
        """
        extra = dict(env or {})
        if not writing:
            extra = {**self._quarantine, "GIT_OPTIONAL_LOCKS": "0", **extra}
        try:
            return run(
                git_argv(self.repository, *args),
                cwd="/",
                env=self.environment(extra),
                owner=self.owner,
                stdin=stdin,
                seconds=self._seconds,
            )
        except TimeoutError:
            message = f"`git {args[0]}` in {self.repository} did not end within {self._seconds:g} seconds"
            if writing:
                raise DeadlineExceeded(f"{message}; whether it took effect is read back.") from None
            raise Refused(f"{message}.", "Is the remote reachable from this host? Try `git ls-remote` there.") from None
        except FileNotFoundError:
            raise Refused("There is no `git` on this host. Nothing was changed.", "Install git on it.") from None

    def read(self, *args: str, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run a git command that reads and return its output without the last newline.

        :raises Refused: when it failed.
        """
        answer = self.ask(*args, stdin=stdin, env=env)
        if answer.code != 0:
            raise Refused(f"`git {args[0]}` in {self.repository} failed: {answer.reason()}")
        return answer.out.rstrip("\n")

    def write(self, *args: str, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run a git command that may change the repository and return its output without the last newline.

        :raises StepFailed: when it failed.
        """
        answer = self.ask(*args, stdin=stdin, env=env, writing=True)
        if answer.code != 0:
            hint = ""
            if ".lock" in answer.err:
                hint = (
                    "If no git process is running there (ps), remove the lock file named above and repeat the command."
                )
            raise StepFailed(f"`git {args[0]}` in {self.repository} failed: {answer.reason()}", hint)
        return answer.out.rstrip("\n")

    def has(self, commit: str, *, writing: bool = False) -> bool:
        """Say whether the commit's object is there; with writing, in the repository itself."""
        if commit in self._seen:
            return True
        if self.ask("cat-file", "-e", f"{commit}^{{commit}}", writing=True).code == 0:
            self._seen.add(commit)
            return True
        return not writing and self.ask("cat-file", "-e", f"{commit}^{{commit}}").code == 0

    def fetch(self, remote: str, what: str, *, writing: bool = False) -> Answer:
        """Get what (a full reference or commit id) from the remote: objects only, no reference moves."""
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=")
        return self.ask("fetch", *options, "--end-of-options", remote, what, writing=writing)
