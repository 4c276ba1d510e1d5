# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory comes back by one swap: whole at every instant, also when the process is killed anywhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import Place, Version
from ansible.module_utils.rollbackctl.errors import Refused, StepFailed
from ansible.module_utils.rollbackctl.failpoints import VARIABLE
from ansible.module_utils.rollbackctl.files import FilesDriver

ROOT = Path(__file__).resolve().parents[3]
# What a killed run is: another process that does one step and dies in the middle of it.
STEP = """
import json, sys
from pathlib import Path
from ansible import module_utils
module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.rollbackctl.component import Place, Version
from ansible.module_utils.rollbackctl.files import FilesDriver
order = json.loads(sys.argv[2])
driver = FilesDriver(order["options"], Place(run="rb-1", work=Path(order["work"])))
if order["step"] == "record":
    driver.record(Path(order["work"]))
elif order["step"] == "finalize":
    driver.finalize()
else:
    getattr(driver, order["step"])(Version.from_dict(order["target"]))
"""


class Site:
    """A service's directory, its good version recorded and archived, its bad version live."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "srv" / "module"
        self.backups = root / "backups"
        self.work = root / "work"
        for folder in (self.path / "lib", self.backups, self.work, root / "good", root / "bad"):
            folder.mkdir(parents=True)
        self.options: dict[str, Any] = {
            "name": "module",
            "path": str(self.path),
            "backups": str(self.backups),
            "exclude": ["__pycache__"],
            "timeout": 60,
        }
        self.write("good")
        self.good = self.driver().record(root / "good")
        archive = self.backups / "module-1.4.tar.gz"
        subprocess.run(["tar", "-C", str(self.path.parent), "-czf", str(archive), "module"], check=True)
        line = subprocess.run(["sha256sum", archive.name], cwd=self.backups, check=True, capture_output=True).stdout
        archive.with_name(archive.name + ".sha256").write_bytes(line)
        self.write("bad")
        (self.path / "lib" / "added.py").write_text("bad")
        self.bad = self.driver().record(root / "bad")

    def write(self, word: str) -> None:
        for name in ("app.py", "lib/one.py", "lib/two.py"):
            (self.path / name).write_text(word)

    def driver(self, run: str = "rb-1", **more: Any) -> FilesDriver:
        return FilesDriver({**self.options, **more}, Place(run=run, work=self.work))

    def reads_as(self, version: Version) -> bool:
        driver = self.driver()
        return driver.matches(driver.live(exact=True), version, exact=True)

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir() if path.name != "module")

    def step(self, step: str, failpoint: str = "", target: Version | None = None) -> int:
        order = {
            "options": self.options,
            "work": str(self.work),
            "step": step,
            "target": target.to_dict() if target else None,
        }
        return subprocess.run(
            [sys.executable, "-c", STEP, str(ROOT / "plugins" / "module_utils"), json.dumps(order)],
            env={**os.environ, VARIABLE: failpoint},
            check=False,
            timeout=120,
        ).returncode


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in [root, *root.rglob("*")]:
        info = path.lstat()
        found[str(path)] = (info.st_ino, info.st_mtime_ns)
    return found


def test_preflight_writes_nothing(site: Site) -> None:
    before = snapshot(site.root)
    driver = FilesDriver(site.options, Place())
    live = driver.live(exact=True)
    for want in ("module-1.4.tar.gz", site.good):
        target = driver.resolve(want)
        finding = driver.check(live, target)
        assert finding.problems == ()
        assert driver.matches(target, site.good, exact=True)
    assert snapshot(site.root) == before


@pytest.mark.parametrize("want", ["module-1.4.tar.gz", "checkpoint"])
def test_rollback_then_undo_then_roll_forward_then_finalize(want: str, site: Site) -> None:
    driver = site.driver()
    target = driver.resolve(site.good if want == "checkpoint" else want)
    driver.stage(target)
    assert site.reads_as(site.bad)
    driver.apply(target)
    driver.apply(target)
    assert site.reads_as(site.good)
    assert (site.path / "app.py").read_text() == "good"
    driver.apply(site.bad)
    assert site.reads_as(site.bad)
    assert (site.path / "lib" / "added.py").read_text() == "bad"
    driver.apply(target)
    assert site.reads_as(site.good)
    assert site.beside() == [".module.rollbackctl-rb-1-1"]
    assert driver.finalize() == [str(site.path.parent / ".module.rollbackctl-rb-1-1")]
    assert driver.finalize() == []
    assert site.beside() == []


def test_undo_after_finalize_uses_the_captured_archive(site: Site) -> None:
    site.driver().apply(site.good)
    site.driver().finalize()
    site.driver(run="rb-2").apply(site.bad)
    assert site.reads_as(site.bad)


def test_version_survives_the_journal(site: Site) -> None:
    version = Version.from_dict(json.loads(json.dumps(site.good.to_dict())))
    assert site.driver().resolve(version) == site.good
    assert version.text == "3 files, 12 bytes"


@pytest.mark.parametrize("failpoint", FilesDriver.failpoints)
def test_kill_anywhere_then_the_same_again_converges(failpoint: str, site: Site) -> None:
    step = {"record": "record", "remove": "finalize"}.get(failpoint.split(".")[1], "apply")
    if step == "finalize":
        site.driver().apply(site.good)
    assert site.step(step, f"{failpoint}:kill", site.good) == -signal.SIGKILL
    swapped = failpoint in {"restore_files.exchange.after", "restore_files.remove.before", "restore_files.remove.after"}
    assert site.reads_as(site.good if swapped else site.bad)
    assert site.step(step, "", site.good) == 0
    site.driver().apply(site.good)
    assert site.reads_as(site.good)
    site.driver().apply(site.bad)
    assert site.reads_as(site.bad)
    site.driver().finalize()
    assert site.beside() == []


@pytest.mark.parametrize("failpoint", [name for name in FilesDriver.failpoints if "record" not in name])
def test_failure_anywhere_is_told_and_the_same_again_converges(
    failpoint: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = site.driver()
    monkeypatch.setenv(VARIABLE, f"{failpoint}:fail")

    def run() -> None:
        driver.apply(site.good)
        driver.finalize()

    with pytest.raises(StepFailed, match="whole, as it was or as it should be"):
        run()
    monkeypatch.delenv(VARIABLE)
    driver.apply(site.good)
    assert site.reads_as(site.good)


def test_reader_sees_whole_trees_only_and_never_none(site: Site) -> None:
    """Each look opens the directory once and reads three files from it: all good or all bad."""
    seen: set[tuple[str, ...]] = set()
    faults: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                folder = os.open(site.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError as exc:
                faults.append(str(exc))
                return
            words = []
            for name in ("app.py", "lib/one.py", "lib/two.py"):
                handle = os.open(name, os.O_RDONLY, dir_fd=folder)
                words.append(os.read(handle, 10).decode())
                os.close(handle)
            os.close(folder)
            seen.add(tuple(words))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(10):
        site.driver().apply(site.good)
        site.driver().apply(site.bad)
    stop.set()
    reader.join()
    assert faults == []
    assert seen == {("good",) * 3, ("bad",) * 3}


def test_owner_and_mode_come_back_also_of_the_directory_itself(site: Site) -> None:
    assert os.geteuid() == 0, "run the tests as root: owners are part of what is restored"
    driver = site.driver(run="rb-own")
    site.path.chmod(0o2750)
    os.chown(site.path, 1234, 2345)
    os.chown(site.path / "app.py", 1234, 2345)
    (site.path / "app.py").chmod(0o4711)
    (site.root / "own").mkdir()
    kept = driver.record(site.root / "own")
    site.path.chmod(0o700)
    os.chown(site.path, 0, 0)
    (site.path / "app.py").write_text("changed")
    driver.apply(kept)
    for path, mode in ((site.path, 0o2750), (site.path / "app.py", 0o4711)):
        info = path.stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1234, 2345, mode)


def test_who_owns_what_is_part_of_a_version_for_root(site: Site) -> None:
    os.chown(site.path / "lib" / "one.py", 1234, 2345)
    (site.root / "own").mkdir()
    driver = site.driver(run="rb-own")
    kept = driver.record(site.root / "own")
    for path in (site.path / "lib" / "one.py", site.path):
        os.chown(path, 4321, 5432)
        live = driver.live(exact=True)
        assert live.identity["tree"] == kept.identity["tree"]
        assert not driver.matches(live, kept, exact=True)
        assert "only owners differ, or the mode of the directory itself." in driver.check(live, kept).notes
        driver.apply(kept)
        assert driver.matches(driver.live(exact=True), kept, exact=True)
    assert (site.path.stat().st_uid, (site.path / "lib" / "one.py").stat().st_uid) == (0, 1234)
    site.path.chmod(0o700)
    driver.apply(kept)
    assert site.path.stat().st_mode & 0o777 == 0o755


CHECK = """
import json, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.path.insert(0, sys.argv[1])
from rollbackctl.component import Place, Version
from rollbackctl.files import FilesDriver
order = json.loads(sys.argv[2])
driver = FilesDriver(order["options"], Place())
live, target = driver.live(exact=True), Version.from_dict(order["target"])
finding = driver.check(live, target)
print(json.dumps([driver.matches(live, target, exact=True), finding.problems, finding.notes]))
"""


def _as_nobody(path: Path, target: Version) -> Any:
    order = {"options": {"name": "module", "path": str(path)}, "target": target.to_dict()}
    command = [sys.executable, "-c", CHECK, str(ROOT / "plugins" / "module_utils"), json.dumps(order)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def test_who_cannot_give_owners_or_capabilities_back_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        top.chmod(0o755)
        path = top / "module"
        path.mkdir()
        (path / "app").write_text("good")
        os.chown(path / "app", 1234, 2345)
        (top / "kept").mkdir()
        options = {"name": "module", "path": str(path)}
        driver = FilesDriver(options, Place(run="rb-1"))
        kept = driver.record(top / "kept")
        os.chown(path / "app", 0, 0)
        assert _as_nobody(path, kept)[0], "it does not compare what it could not bring back"
        (path / "app").write_text("bad")
        same, problems, notes = _as_nobody(path, kept)
        assert not same
        assert any("names belong to root (1), user 1234 (1)" in note for note in notes), notes
        assert not any("capabilities" in problem for problem in problems)

        capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service+ep
        os.setxattr(path / "app", "security.capability", capability)
        (top / "capable").mkdir()
        kept = driver.record(top / "capable")
        os.removexattr(path / "app", "security.capability")
        live = driver.live(exact=True)
        assert not driver.matches(live, kept, exact=True)
        assert any("app had capabilities" in problem for problem in _as_nobody(path, kept)[1])
        driver.apply(driver.resolve(kept))
        assert os.getxattr(path / "app", "security.capability") == capability
        assert driver.matches(driver.live(exact=True), kept, exact=True)

        backups = top / "backups"
        backups.mkdir()
        tar = ["tar", "-C", str(path), "--xattrs", "--xattrs-include=*", "-cf", str(backups / "a.tar"), "."]
        subprocess.run(tar, check=True)
        other = FilesDriver({**options, "backups": str(backups), "accept_unverified": True}, Place(run="rb-1"))
        with pytest.raises(Refused, match=r"more rights than its user has \(capabilities\)"):
            other.resolve("a.tar")


def test_a_directory_that_was_deleted_comes_back_and_the_undo_takes_it_away(site: Site) -> None:
    subprocess.run(["rm", "-r", "--", str(site.path)], check=True)
    driver = site.driver()
    live = driver.live(exact=True)
    assert live.text == "no directory"
    gone = driver.record(site.work)
    assert "does not exist now" in " ".join(driver.check(live, site.good).notes)
    driver.apply(site.good)
    assert site.reads_as(site.good)
    driver.apply(gone)
    assert not site.path.exists()
    driver.apply(site.good)
    assert site.reads_as(site.good)


def test_what_is_excluded_is_neither_compared_nor_recorded(site: Site) -> None:
    cache = site.path / "lib" / "__pycache__"
    cache.mkdir()
    (cache / "one.pyc").write_bytes(b"x")
    assert site.reads_as(site.bad)
    site.driver().apply(site.good)
    assert not cache.exists()


def test_a_socket_does_not_stop_anything(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.path)  # a socket's path may have 107 bytes only
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("app.sock")
        assert site.reads_as(site.bad)
        site.driver().apply(site.good)
    assert site.reads_as(site.good)


def test_a_process_working_in_it_is_named(site: Site) -> None:
    sleeper = subprocess.Popen(["sleep", "60"], cwd=site.path / "lib")
    try:
        notes = site.driver().check(site.driver().live(exact=True), site.good).notes
    finally:
        sleeper.kill()
        sleeper.wait()
    assert any(f"sleep ({sleeper.pid})" in note and "restarted" in note for note in notes)


def test_archive_made_from_inside_and_another_folder_name_are_taken_as_they_are(site: Site) -> None:
    for name in ("one.py", "two.py"):
        (site.path / "lib" / name).write_text("good")
    (site.path / "lib" / "added.py").unlink()
    subprocess.run(["tar", "-C", str(site.path), "-cf", str(site.backups / "inside.tar"), "."], check=True)
    subprocess.run(["tar", "-C", str(site.path), "-cf", str(site.backups / "lib.tar"), "lib"], check=True)
    driver = site.driver(accept_unverified=True)
    assert driver.matches(driver.resolve("inside.tar"), driver.live(exact=True), exact=True)
    target = driver.resolve("lib.tar")
    driver.apply(target)
    assert sorted(path.name for path in site.path.iterdir()) == ["lib"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "relative": ({"path": "srv/module"}, "full path"),
    "top": ({"path": "/srv"}, "below another one"),
    "dots": ({"path": "/srv/../etc/x"}, "full path"),
    "no parent": ({"path": "/nonexistent-place/module"}, "does not exist"),
    "too much": ({"max_bytes": 5}, "more than 5 bytes"),
    "too many": ({"max_entries": 2}, "more than 2 names"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_place_is_refused(case: str, site: Site) -> None:
    more, words = REFUSED[case]
    with pytest.raises(Refused, match=words) as refusal:
        site.driver(**more).live(exact=True)
    assert "Nothing was changed" in refusal.value.message


def test_links_files_and_mount_points_are_refused(site: Site) -> None:
    link = site.path.with_name("current")
    link.symlink_to("module")
    with pytest.raises(Refused, match="symbolic link"):
        site.driver(path=str(link)).live(exact=True)
    with pytest.raises(Refused, match="is no directory"):
        site.driver(path=str(site.path / "app.py")).live(exact=True)
    with pytest.raises(StepFailed, match="symbolic link"):
        site.driver(path=str(link)).apply(site.good)
    live, target = Version({"tree": "1"}, "", artefacts={"entries": 1}), Version({"tree": "2"}, "")
    problems = FilesDriver({"name": "x", "path": "/dev/shm"}, Place()).check(live, target).problems
    assert any("/dev/shm is a mount point" in problem for problem in problems)


def test_damaged_unproven_and_empty_backups_are_refused(site: Site) -> None:
    archive = site.backups / "module-1.4.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(Refused, match="does not match its checksum"):
        site.driver().resolve(archive.name)
    archive.with_name(archive.name + ".sha256").unlink()
    with pytest.raises(Refused, match="nothing proves") as refusal:
        site.driver().resolve(archive.name)
    assert "@sha256:" in refusal.value.next_step
    with pytest.raises(Refused, match="cut off"):
        site.driver(accept_unverified=True).resolve(archive.name)
    subprocess.run(["tar", "-cf", str(site.backups / "empty.tar"), "-T", "/dev/null"], check=True)
    with pytest.raises(Refused, match="holds no files"):
        site.driver(accept_unverified=True).resolve("empty.tar")
    recorded = Path(site.good.at, str(site.good.artefacts["file"]))
    recorded.write_bytes(recorded.read_bytes().replace(b"good", b"evil"))
    with pytest.raises(Refused, match="damaged"):
        site.driver().resolve(site.good)
    with pytest.raises(StepFailed, match="damaged"):
        site.driver().apply(site.good)
    assert site.reads_as(site.bad)


def test_backup_changed_after_it_was_chosen_is_not_used(site: Site) -> None:
    driver = site.driver()
    target = driver.resolve("module-1.4.tar.gz")
    archive = site.backups / "module-1.4.tar.gz"
    archive.unlink()
    subprocess.run(["tar", "-C", str(site.path.parent), "-czf", str(archive), "module"], check=True)
    with pytest.raises(StepFailed, match="checksum"):
        driver.apply(target)
    assert site.reads_as(site.bad)
    assert not [name for name in site.beside() if name.endswith("-1")]


def test_finalize_follows_no_link_that_stands_where_a_kept_tree_was(site: Site) -> None:
    precious = site.root / "precious" / "read-only"
    precious.mkdir(parents=True)
    precious.chmod(0o555)
    site.path.with_name(".module.rollbackctl-rb-1-1").symlink_to(precious.parent)
    with pytest.raises(StepFailed, match="could not be tidied up"):
        site.driver().finalize()
    assert precious.stat().st_mode & 0o777 == 0o555


def test_a_full_disk_is_found_in_preflight(site: Site) -> None:
    live = site.driver().live(exact=True)
    huge = Version({"tree": "1"}, "", artefacts={"bytes": 1 << 60, "entries": 1})
    assert any("Make room first" in problem for problem in site.driver().check(live, huge).problems)


def test_a_link_put_in_a_folders_place_is_not_followed(site: Site) -> None:
    """The tree may belong to the application's user, and rollbackctl may be root."""
    secret = site.root / "secret"
    secret.mkdir()
    (secret / "key").write_text("canary-4711")
    subprocess.run(["rm", "-r", "--", str(site.path / "lib")], check=True)
    (site.path / "lib").symlink_to(secret)
    (site.root / "kept").mkdir()
    version = site.driver().record(site.root / "kept")
    assert b"canary-4711" not in Path(version.at, "module.tar").read_bytes()
