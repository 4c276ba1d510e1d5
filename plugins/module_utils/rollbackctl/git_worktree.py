# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing the files of a server checkout to a tree, so that a kill at any moment can be recovered from.

`git checkout` and `git reset` write into the files themselves: a kill leaves half a file. Here new content is written
aside, in the git directory, and renamed into place, so each file is always wholly old or wholly new. The index is
replaced last, while git's own lock on it is held: until then git and we agree on what the files were before.

Nothing is ever overwritten that is not known: a file is replaced only while it equals one of the trees that this run
has to do with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import stat
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

from .durable import sync_directory
from .errors import Refused, StateOther
from .failpoints import failpoint
from .git_command import Git
from .names import printable
from .sqlite_file import mount_type

# File systems on which no file, or every file, is executable.
_WITHOUT_BITS = frozenset(("vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk", "cifs", "smb3", "9p", "vboxsf"))
_UNFINISHED = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "BISECT_LOG")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a checkout holds.

    on: the reference that is checked out; empty when detached.
    commit: the commit of that reference; tree: its tree.
    changed: paths where files or index differ from it; empty when clean.
    bits: paths that have lost the executable bit and where git does not look for it (core.fileMode=false).
    """

    on: str
    commit: str
    tree: str
    changed: tuple[str, ...]
    bits: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Work:
    """What brings a checkout's files to the tree goal: paths to write and paths to delete."""

    goal: str
    write: tuple[str, ...]
    delete: tuple[str, ...]


class WorkTree:
    """The files and the index of a checkout.

    :param mark: names what this run leaves in the git directory (its lock, its files aside).
    """

    def __init__(self, git: Git, mark: str) -> None:
        """Point at the checkout; nothing is read yet."""
        self.git = git
        self.top = git.repository
        self.lock = f"{git.index}.lock"
        self.mine = os.path.join(git.directory, f"rollbackctl-{mark}.lock")
        self.staged = os.path.join(git.directory, f"rollbackctl-{mark}.files")
        self._private = {"GIT_INDEX_FILE": os.path.join(git.aside, "index")}

    # -- reading -----------------------------------------------------------------------------------------------------

    def standing(self) -> Reading:
        """Read which branch and commit the checkout is on, without looking at its files."""
        asked = ("HEAD^{commit}", "HEAD^{tree}", "--symbolic-full-name", "HEAD")
        commit, tree, on = self.git.read("rev-parse", *asked).splitlines()
        return Reading("" if on == "HEAD" else on, commit, tree, ())

    def read(self) -> Reading:
        """Read the checkout; a file whose time changed but whose content did not counts as unchanged."""
        found = self.standing()
        self._copy_index()
        staged = self.git.ask("diff-index", "--cached", "--name-only", "-z", found.tree, env=self._private).names()
        changed = self.unlike(found.tree) | set(staged)
        bits = self._wrong_bits(found.tree, set()) - changed
        return dataclasses.replace(found, changed=tuple(sorted(changed)), bits=tuple(sorted(bits)))

    def index_tree(self) -> str:
        """Return the tree that the index holds; empty while a merge is unfinished."""
        self._copy_index()
        answer = self.git.ask("write-tree", env=self._private)
        return answer.out.strip() if answer.code == 0 else ""

    def unlike(self, tree: str) -> set[str]:
        """Return the paths of tree whose file here is another or missing."""
        self._copy_index()
        self.git.read("read-tree", "--reset", tree, env=self._private)
        self.git.ask("update-index", "-q", "--refresh", env=self._private)
        return set(self.git.ask("diff-files", "--name-only", "-z", env=self._private).names())

    @functools.cached_property
    def _blind(self) -> bool:
        """Whether git does not look at executable bits here (core.fileMode), although this file system has them."""
        off = self.git.ask("config", "--type=bool", "--get", "core.fileMode").out.strip() == "false"
        return off and mount_type(self.top) not in _WITHOUT_BITS

    def _wrong_bits(self, tree: str, changed: set[str]) -> set[str]:
        """Return the files of tree that lack its executable bit or, where another known tree has changed them, have one
        too many, as far as git does not look at it."""
        found = set()
        for line in self.git.read("ls-tree", "-r", "-z", tree).split("\0") if self._blind else ():
            kind, _, path = line.partition("\t")
            wanted = {"100755": True, "100644": False}.get(kind.partition(" ")[0])
            if wanted is None or not (wanted or path in changed) or not self._is_file(path):
                continue
            mode = os.lstat(os.path.join(self.top, path)).st_mode
            if stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR) != wanted:
                found.add(path)
        return found

    def _copy_index(self) -> None:
        # A copy keeps the file times that git recorded, so that only changed files are read again.
        private = self._private["GIT_INDEX_FILE"]
        with self.git.owner.acting():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(private)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(self.git.index, private)
                # By its time git knows which files may have changed in the same second, and reads them.
                status = os.stat(self.git.index)
                os.utime(private, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._look_at_all()

    def _look_at_all(self) -> None:
        """Forget, in the copy, which files git was told not to look at (--assume-unchanged, --skip-worktree)."""
        lines = self.git.read("ls-files", "-v", "-z", env=self._private).split("\0")
        for option, tags in (("--no-skip-worktree", "Ss"), ("--no-assume-unchanged", string.ascii_lowercase)):
            names = "".join(f"{line[2:]}\0" for line in lines if line[:1] in tags and line)
            if names:
                self.git.read("update-index", option, "-z", "--stdin", stdin=names, env=self._private)

    def differences(self, old: str, new: str) -> dict[str, str]:
        """Return the paths in which two trees differ, each with git's letter: A added, D deleted, M or T changed."""
        flat = self.git.read("diff-tree", "-r", "-z", "--no-renames", "--name-status", old, new).split("\0")
        return dict(zip(flat[1::2], flat[0::2]))

    def foreign(self, goal: str, known: Sequence[str]) -> list[str]:
        """Return the paths that stand in the way of bringing this checkout to goal: no known tree has what is there."""
        return self._sort(goal, known)[1]

    def plan(self, goal: str, known: Sequence[str]) -> Work:
        """Return what there is to do to bring the files to the tree goal; known: the trees they may hold, also mixed.

        :raises StateOther: some hold what is in none of these trees.
        """
        work, foreign = self._sort(goal, known)
        if foreign:
            raise StateOther(
                f"{self.top} has files that somebody else changed: {printable(', '.join(foreign[:10]))}. No file of "
                "the checkout was changed.",
                "Commit them or move them away, then resume the run.",
            )
        return work

    def _sort(self, goal: str, known: Sequence[str]) -> tuple[Work, list[str]]:
        letters = {tree: self.differences(tree, goal) for tree in dict.fromkeys(known) if tree != goal}
        wrong = self.unlike(goal)
        gone = {path for changes in letters.values() for path, letter in changes.items() if letter == "D"}
        delete = {path for path in gone if self._is_file(path)}
        odd = {tree: self.unlike(tree) for tree in letters} if wrong or delete else {}

        def holds(tree: str, path: str) -> bool:
            letter = letters[tree].get(path)
            if letter is None:  # this tree has there what goal has, and the file is something else
                return False
            return not self._is_file(path) if letter == "A" else path not in odd[tree]

        foreign = [path for path in sorted(wrong | delete) if not any(holds(tree, path) for tree in letters)]
        foreign += [path for path in sorted(wrong) if path not in foreign and self._is_blocked(path, delete)]
        bits = self._wrong_bits(goal, {path for changes in letters.values() for path in changes})
        return Work(goal, tuple(sorted(wrong | bits)), tuple(sorted(delete))), foreign

    def _is_blocked(self, path: str, delete: set[str]) -> bool:
        """Say whether something that is not ours to delete stands where path or one of its folders must be."""
        folders = path.split("/")[:-1]
        above = ["/".join(folders[: depth + 1]) for depth in range(len(folders))]
        if any(self._is_file(folder) and folder not in delete for folder in above):
            return True
        place = os.path.join(self.top, path)
        if os.path.islink(place) or not os.path.isdir(place):
            return False
        for folder, folders, names in os.walk(place):
            found = (os.path.join(folder, name) for name in (*folders, *names))
            if any(os.path.relpath(p, self.top) not in delete for p in found if os.path.islink(p) or os.path.isfile(p)):
                return True
        return False

    def _is_file(self, path: str) -> bool:
        """Say whether there is a file or link at path that is not reached through a link."""
        place = self.top
        *folders, last = path.split("/")
        for folder in folders:
            place = os.path.join(place, folder)
            if os.path.islink(place) or not os.path.isdir(place):
                return False
        place = os.path.join(place, last)
        return os.path.lexists(place) and (os.path.islink(place) or not os.path.isdir(place))

    def obstacles(self) -> list[str]:
        """Say what keeps the checkout from being updated, whatever its files hold."""
        found = []
        if os.path.lexists(self.lock) and not self._is_mine():
            found.append(
                f"{self.lock} is there: a git process is working in this checkout, or one was killed. "
                "If none is running (ps), remove that file."
            )
        left = [name for name in _UNFINISHED if os.path.lexists(os.path.join(self.git.directory, name))]
        if left:
            found.append(f"A merge, rebase or bisect is unfinished in {self.top} ({', '.join(left)}): end it first.")
        if self.git.ask("config", "--type=bool", "--get", "core.sparseCheckout").out.strip() == "true":
            found.append(f"{self.top} is a sparse checkout, which cannot be updated here: set `work_tree: leave`.")
        return found

    # -- changing ----------------------------------------------------------------------------------------------------

    def _is_mine(self) -> bool:
        try:
            return os.path.samefile(self.lock, self.mine)
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold git's lock on the index. A lock that a killed attempt of this run left is ours to go on with: a hard
        link to a file of ours is the proof.

        :raises Refused: somebody else holds it.
        """
        if not self._is_mine():
            with self.git.owner.acting():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.mine)
                os.close(os.open(self.mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))
                try:
                    os.link(self.mine, self.lock)
                except FileExistsError:
                    os.unlink(self.mine)
                    raise Refused(
                        f"{self.lock} is there: a git process is working in this checkout, or one was killed.",
                        "If no git process is running there (ps), remove that file and repeat the command.",
                    ) from None
        try:
            yield
        finally:
            with self.git.owner.acting(), contextlib.suppress(FileNotFoundError):
                if self._is_mine():
                    os.unlink(self.lock)
                os.unlink(self.mine)

    def update(self, work: Work) -> None:
        """Do what `plan` said, and then replace the index; call both inside `locked`."""
        self._copy_index()
        self.git.read("read-tree", "--reset", work.goal, env=self._private)
        with self.git.owner.acting():
            shutil.rmtree(self.staged, ignore_errors=True)
            os.mkdir(self.staged, 0o700)
        names = "".join(f"{path}\0" for path in work.write)
        self.git.write(
            "checkout-index", "--quiet", "-z", "--stdin", f"--prefix={self.staged}/", stdin=names, env=self._private
        )
        failpoint("rollback_git.files.before")
        with self.git.owner.acting():
            touched = self._place(work.write, work.delete)
            for folder in touched:
                if os.path.isdir(folder):
                    sync_directory(Path(folder))
        failpoint("rollback_git.files.after")
        self.git.ask("update-index", "-q", "--refresh", env=self._private, writing=True)
        self._replace_index()
        with self.git.owner.acting():
            shutil.rmtree(self.staged, ignore_errors=True)

    def _place(self, write: Sequence[str], delete: Sequence[str]) -> set[str]:
        touched = set()
        for path in delete:
            place = os.path.join(self.top, path)
            os.unlink(place)
            folder = os.path.dirname(place)
            touched.add(folder)
            with contextlib.suppress(OSError):  # not empty: other files live there
                while folder != self.top:
                    os.rmdir(folder)
                    folder = os.path.dirname(folder)
                    touched.add(folder)
        for number, path in enumerate(write):
            place, new = os.path.join(self.top, path), os.path.join(self.staged, path)
            if not os.path.islink(new) and not os.path.isfile(new):
                continue  # a submodule: git checks out nothing for it
            if os.path.isdir(place) and not os.path.islink(place):
                for folder, _, _ in os.walk(place, topdown=False):
                    os.rmdir(folder)  # `_is_blocked` saw that no file is in there
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if not os.path.islink(new):
                handle = os.open(new, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)
            os.replace(new, place)
            touched.add(os.path.dirname(place))
            if number == 0:
                failpoint("rollback_git.files.between")
        return touched

    def _replace_index(self) -> None:
        with self.git.owner.acting():
            with open(self._private["GIT_INDEX_FILE"], "rb") as file:
                content = file.read()
            handle = os.open(self.lock, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            failpoint("rollback_git.index.before")
            os.replace(self.lock, self.git.index)
            sync_directory(Path(self.git.directory))
        failpoint("rollback_git.index.after")

    def clean_up(self) -> list[str]:
        """Remove what a killed attempt of this run left in the git directory; return what that was."""
        removed = []
        with self.git.owner.acting():
            if self._is_mine():
                os.unlink(self.lock)
                removed.append(self.lock)
            if os.path.lexists(self.mine):
                os.unlink(self.mine)
                removed.append(self.mine)
            if os.path.isdir(self.staged):
                shutil.rmtree(self.staged)
                removed.append(self.staged)
        return removed
