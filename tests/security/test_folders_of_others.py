# SPDX-License-Identifier: GPL-3.0-or-later
"""Root works in folders of a service's user, who swaps names meanwhile: nothing else on the host is read or changed.

What must not change is a canary: a file that only root can read, in a folder that only root can enter.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import Place as RunPlace
from ansible.module_utils.rollbackctl.component import Version
from ansible.module_utils.rollbackctl.env_file import EnvFileDriver
from ansible.module_utils.rollbackctl.errors import Refused, StepFailed
from ansible.module_utils.rollbackctl.files import FilesDriver
from ansible.module_utils.rollbackctl.git import GitDriver
from ansible.module_utils.rollbackctl.safe_path import open_folder, ourselves, worker

from tests.unit.module_utils import sqlite_parts
from tests.unit.module_utils.git_lab import commit, git

HIM = 65534  # the service's user
MODULE_UTILS = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"


class Place:
    """A folder of the service's user, and root's canary. top: root's, and open to everybody, unlike pytest's."""

    def __init__(self, top: Path) -> None:
        top.chmod(0o755)
        self.top, self.his, self.roots = top, top / "his", top / "roots"
        self.state = top / "state"
        for folder, owner, mode in ((self.his, HIM, 0o755), (self.roots, 0, 0o700), (self.state, 0, 0o700)):
            folder.mkdir(mode=mode)
            os.chown(folder, owner, owner)
        self.canary = self.roots / "canary"
        self.canary.write_text("known to root only")
        self.canary.chmod(0o600)

    def look(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Owner, group, mode and content of everything in root's folder, and of the folder."""
        found = {}
        for path in (self.roots, *sorted(self.roots.rglob("*"))):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, content)
        return found

    def give(self, *paths: Path) -> None:
        for path in paths:
            for one in (path, *path.rglob("*")):
                os.chown(one, HIM, HIM, follow_symlinks=False)

    def run(self, command: Sequence[str], failpoint: str, swap: str) -> subprocess.CompletedProcess[str]:
        """Run a command, and where it comes to the failpoint, run Python as the service's user."""
        assert os.geteuid() == 0, "run the tests as root: it is root who must not be misled"
        mark, ended = self.his / "mark", threading.Event()

        def attack() -> None:
            while not mark.exists():
                if ended.wait(0.01):
                    return
            subprocess.run([sys.executable, "-c", swap], user=HIM, group=HIM, extra_groups=[], cwd=self.his, check=True)
            mark.unlink()

        attacker = threading.Thread(target=attack)
        attacker.start()
        try:
            return subprocess.run(
                command,
                env={**os.environ, "ROLLBACKCTL_FAILPOINT": f"{failpoint}:pause={mark}"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            ended.set()
            attacker.join()


@pytest.fixture
def place() -> Iterator[Place]:
    top = Path(tempfile.mkdtemp(prefix="rollbackctl-test-"))
    yield Place(top)
    shutil.rmtree(top)


# -- SQLite ------------------------------------------------------------------------------------------------------------

NEW = f".shop.db.rollbackctl-{sqlite_parts.RUN}.new"
SQLITE_SWAPS = {
    "the new file, before it gets its owner": (
        "replace",
        "restore_sqlite.wal.after",
        f"import os; os.rename({NEW!r}, 'aside'); os.symlink('../roots/canary', {NEW!r})",
    ),
    "the database, before it is replaced": (
        "replace",
        "restore_sqlite.stage.after",
        "import os; os.rename('shop.db', 'aside'); os.symlink('../roots/secret.db', 'shop.db')",
    ),
    "the database, before it is written to": (
        "online",
        "restore_sqlite.stage.after",
        "import os; os.rename('shop.db', 'aside'); os.symlink('../roots/secret.db', 'shop.db')",
    ),
    "what lies beside it": (
        "replace",
        "restore_sqlite.link.after",
        "import os; os.symlink('../roots/canary', 'shop.db-wal')",
    ),
}


@pytest.mark.parametrize("case", SQLITE_SWAPS)
def test_a_database_that_is_swapped_leads_to_no_other_file(place: Place, case: str) -> None:
    method, failpoint, swap = SQLITE_SWAPS[case]
    secret = sqlite_parts.make_database(place.roots / "secret.db")
    secret.chmod(0o600)
    path = sqlite_parts.make_database(place.his / "shop.db")
    place.give(path)
    good = sqlite_parts.checkpoint(path, place.state / "good")
    sqlite_parts.break_it(path)
    place.give(path)
    driver = sqlite_parts.make_driver(path, place.state / "work", method=method)
    before = place.look()
    place.run(sqlite_parts.child_command(driver, driver.resolve(good)), failpoint, swap)
    assert place.look() == before
    assert {file.lstat().st_uid for file in place.his.iterdir()} == {HIM}


def test_a_database_in_his_folder_is_restored_and_stays_his(place: Place) -> None:
    for method in ("replace", "online"):
        path = sqlite_parts.make_database(place.his / f"{method}.db")
        place.give(path)
        good = sqlite_parts.checkpoint(path, place.state / f"good-{method}")
        sqlite_parts.break_it(path)
        driver = sqlite_parts.make_driver(path, place.state / f"work-{method}", method=method)
        driver.stage(driver.resolve(good))
        driver.apply(good)
        assert driver.matches(driver.live(exact=True), good, exact=True)
    assert {file.lstat().st_uid for file in place.his.iterdir()} == {HIM}


def test_a_folder_that_he_made_a_link_is_not_followed(place: Place) -> None:
    sqlite_parts.make_database(place.roots / "shop.db")
    (place.his / "data").symlink_to(place.roots)
    os.chown(place.his / "data", HIM, HIM, follow_symlinks=False)
    before = place.look()
    driver = sqlite_parts.make_driver(place.his / "data" / "shop.db", place.state / "work")
    with pytest.raises(Refused, match="could lead root"):
        driver.live(exact=True)
    assert place.look() == before


def test_a_database_of_root_in_his_folder_is_refused_with_what_to_change(place: Place) -> None:
    path = sqlite_parts.make_database(place.his / "shop.db")
    with pytest.raises(Refused) as refused:
        sqlite_parts.make_driver(path).live(exact=True)
    assert f"{place.his} can be changed by" in refused.value.message
    assert f"chown root {place.his}" in refused.value.next_step


# -- directories and settings ------------------------------------------------------------------------------------------

APPLY = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from rollbackctl.component import Place, Version
from rollbackctl.files import FilesDriver
job = json.loads(sys.argv[2])
place = Place(run="rb-1", work=pathlib.Path(job["work"]))
FilesDriver(job["options"], place).apply(Version.from_dict(job["target"]))
"""


def _directory(place: Place) -> tuple[FilesDriver, Version]:
    """A directory of his, whose checkpoint was taken before it was changed."""
    path, work = place.his / "app", place.state / "work"
    (path / "lib").mkdir(parents=True)
    (path / "lib" / "one.py").write_text("good")
    place.give(path)
    driver = FilesDriver({"name": "app", "path": str(path)}, RunPlace(run="rb-1", work=work))
    for folder in (work, place.state / "good"):
        folder.mkdir()
    good = driver.record(place.state / "good")
    (path / "lib" / "one.py").write_text("bad")
    return driver, good


@pytest.mark.parametrize("failpoint", ["unpack.before", "unpack.after", "settle.before", "exchange.before"])
def test_a_tree_that_is_swapped_while_it_is_unpacked_leads_to_no_other_file(place: Place, failpoint: str) -> None:
    driver, good = _directory(place)
    job = {"options": dict(driver.options), "work": str(driver.place.work), "target": good.to_dict()}
    swap = "import os, glob; new = glob.glob('.app.rollbackctl-*')[0]; "
    swap += "os.rename(new, 'aside'); os.symlink('../roots', new)"
    before = place.look()
    command = [sys.executable, "-c", APPLY, str(MODULE_UTILS), json.dumps(job)]
    place.run(command, f"restore_files.{failpoint}", swap)
    assert place.look() == before
    assert (place.his / "aside").exists(), "the swap was made"


def test_a_directory_below_a_link_of_his_is_refused(place: Place) -> None:
    driver, good = _directory(place)
    (place.roots / "app").mkdir()
    (place.his / "link").symlink_to(place.roots)
    before = place.look()
    for act in ("live", "apply"):
        other = FilesDriver({**driver.options, "path": str(place.his / "link" / "app")}, driver.place)
        with pytest.raises((Refused, StepFailed), match="is reached through the link"):
            other.apply(good) if act == "apply" else other.live(exact=True)
    assert place.look() == before


def test_settings_below_a_link_of_his_are_not_read(place: Place) -> None:
    (place.roots / "shop.env").write_text("KEY=known to root only")
    (place.his / "link").symlink_to(place.roots)
    driver = EnvFileDriver({"name": "env", "path": str(place.his / "link" / "shop.env")}, RunPlace())
    with pytest.raises(Refused, match="is reached through the link"):
        driver.live(exact=True)


# -- git ---------------------------------------------------------------------------------------------------------------

GIT = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from rollbackctl.component import Place, Version
from rollbackctl.git import GitDriver
job = json.loads(sys.argv[2])
place = Place("rb-20261121-093015-4f2a", pathlib.Path(job["work"]), "")
GitDriver(job["options"], place).apply(Version.from_dict(job["target"]))
"""


def _checkout(place: Place, monkeypatch: pytest.MonkeyPatch) -> tuple[GitDriver, Version]:
    """A checkout of his, and the version that it had before its last commit."""
    temporary = place.top / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(temporary))
    app, work = place.his / "app", place.state / "work"
    work.mkdir()
    git(place.his, "init", "--quiet", "--initial-branch=main", "app")
    good = commit(app, "Good", file="good\n")
    commit(app, "Bad", file="bad\n")
    place.give(app)
    options = {"name": "code", "repository": str(app), "branch": "main", "work_tree": "update"}
    driver = GitDriver(options, RunPlace(run="rb-20261121-093015-4f2a", work=work))
    return driver, driver.resolve(good)


def test_an_index_that_is_swapped_discloses_no_other_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, target = _checkout(place, monkeypatch)
    job = {"options": dict(driver.options), "work": str(driver.place.work), "target": target.to_dict()}
    swap = f"import os, glob; found = glob.glob({str(place.top / 'tmp')!r} + '/rollbackctl-git-*/index'); "
    swap += f"[(os.unlink(one), os.symlink({str(place.canary)!r}, one)) for one in found]; open('swapped', 'w')"
    before = place.look()
    place.run([sys.executable, "-c", GIT, str(MODULE_UTILS), json.dumps(job)], "rollback_git.files.after", swap)
    assert (place.his / "swapped").exists()
    assert place.look() == before
    content = b"".join(file.read_bytes() for file in place.his.rglob("*") if file.is_file() and not file.is_symlink())
    assert b"known to root only" not in content


def test_a_repository_of_root_in_his_folder_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    driver, _ = _checkout(place, monkeypatch)
    shutil.move(place.his / "app" / ".git", place.roots / "git")
    os.chown(place.roots / "git", 0, 0)
    (place.his / "app" / ".git").symlink_to(place.roots / "git")
    with pytest.raises(Refused, match=r"belongs to root, but .* can be changed by"):
        GitDriver(driver.options, driver.place).live(exact=True)


# -- as whom -----------------------------------------------------------------------------------------------------------


def test_who_works_where(place: Place) -> None:
    shared = place.top / "shared"
    shared.mkdir()
    os.chown(shared, 0, HIM)
    for folder, mode in ((shared, 0o2775), (place.top, 0o755)):
        (folder / "file").touch()
        os.chown(folder / "file", HIM, HIM)
        folder.chmod(mode)
    assert worker(str(place.his / "new")).uid == HIM, "his folder"
    assert worker(str(shared / "file")).uid == HIM, "a folder of root's that he may write to"
    assert worker(str(place.top / "file")).uid == 0, "his file, where he can change no name"
    assert worker(str(place.roots / "canary")).uid == 0
    with pytest.raises(Refused, match=r"shared can be changed by others than root"):
        worker(str(shared / "new"))
    (place.his / "way").symlink_to(place.top)
    os.chown(place.his / "way", 1234, 1234, follow_symlinks=False)
    with pytest.raises(Refused, match=r"way, which belongs neither to root nor to"):
        worker(str(place.his / "way" / "shared" / "file"))


def test_rights_are_given_up_and_taken_back(place: Place) -> None:
    him = worker(str(place.his / "new"))
    groups, go, seen = os.getgroups(), threading.Event(), []
    other = threading.Thread(target=lambda: seen.append(go.wait(60) and place.canary.exists()))
    other.start()
    with him.acting():
        with pytest.raises(PermissionError):
            place.canary.read_text()
        (place.his / "new").touch()
        go.set()
        other.join()
        status = Path("/proc/thread-self/status").read_text()
        assert set(map(int, status.partition("Groups:")[2].splitlines()[0].split())) == {HIM}
        with ourselves(), him.acting(), ourselves():
            assert place.canary.read_text()
        with pytest.raises(PermissionError):
            place.canary.read_text()
    assert (place.canary.read_text(), os.getgroups(), seen) == ("known to root only", groups, [True])
    assert (place.his / "new").stat().st_uid == HIM


def test_a_folder_is_opened_through_links_of_root_only(place: Place) -> None:
    (place.top / "link").symlink_to(place.roots)
    os.close(open_folder(str(place.top / "link")))
    (place.his / "link").symlink_to(place.roots)
    with pytest.raises(Refused, match="link"):
        open_folder(str(place.his / "link"))
    with pytest.raises(FileNotFoundError):
        open_folder(str(place.top / "none"))
    with pytest.raises(NotADirectoryError):
        open_folder(str(place.canary))
