# SPDX-License-Identifier: GPL-3.0-or-later
"""A .env file comes back in one step and no value of it is ever seen."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import Finding, Place, Version
from ansible.module_utils.rollbackctl.env_file import EnvFileDriver
from ansible.module_utils.rollbackctl.env_file_io import fingerprint
from ansible.module_utils.rollbackctl.errors import Refused, RollbackError, StateOther, StepFailed
from ansible.module_utils.rollbackctl.failpoints import VARIABLE

ROOT = Path(__file__).resolve().parents[3]
CANARY_GOOD, CANARY_BAD = "canary-good-4711", "canary-bad-0815"
GOOD = f"# settings\nSTRIPE_SECRET_KEY={CANARY_GOOD}\nDATABASE_URL='postgres://{CANARY_GOOD}@db/shop'\nPORT=8000\nPIN=4711\n"
BAD = f"# settings\nSTRIPE_SECRET_KEY={CANARY_BAD}\nPORT=9000\nENABLE_NEW_PAYMENT_FLOW=true\nPIN=0815\n"
STEP = """
import json, sys
from pathlib import Path
from ansible import module_utils
module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.rollbackctl.component import Place, Version
from ansible.module_utils.rollbackctl.env_file import EnvFileDriver
order = json.loads(sys.argv[2])
driver = EnvFileDriver(order["options"], Place(run="rb-1", work=Path(order["work"])))
if order["step"] == "record":
    driver.record(Path(order["work"]))
else:
    driver.apply(Version.from_dict(order["target"]))
"""


class Site:
    """A .env file with the bad content live, the good one in a checkpoint and in a named backup."""

    def __init__(self, root: Path, variables: list[str] | None = None) -> None:
        self.root = root
        self.path = root / "srv" / ".env"
        self.backups, self.work = root / "backups", root / "work"
        for folder in (self.path.parent, self.backups, self.work, root / "good", root / "bad"):
            folder.mkdir(parents=True)
        self.options: dict[str, Any] = {
            "name": "settings",
            "path": str(self.path),
            "variables": variables or [],
            "backups": str(self.backups),
            "timeout": 30,
        }
        self.path.write_text(GOOD)
        self.path.chmod(0o640)
        (self.backups / ".env.backup").write_text(GOOD)
        self.good = self.driver().record(root / "good")
        self.path.write_text(BAD)
        self.bad = self.driver().record(root / "bad")

    def driver(self, **more: Any) -> EnvFileDriver:
        return EnvFileDriver({**self.options, **more}, Place(run="rb-1", work=self.work))

    def reads_as(self, version: Version) -> bool:
        return self.driver().matches(self.driver().live(exact=True), version, exact=True)

    def check(self, want: Version | str, **more: Any) -> Finding:
        driver = self.driver(**more)
        return driver.check(driver.live(exact=True), driver.resolve(want))

    def backup(self, content: str) -> str:
        (self.backups / "other.env").write_text(content)
        return "other.env"

    def step(self, step: str, failpoint: str) -> int:
        order = {"options": self.options, "work": str(self.work), "step": step, "target": self.good.to_dict()}
        return subprocess.run(
            [sys.executable, "-c", STEP, str(ROOT / "plugins" / "module_utils"), json.dumps(order)],
            env={**os.environ, VARIABLE: failpoint},
            check=False,
            timeout=120,
        ).returncode


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def single(tmp_path: Path) -> Site:
    return Site(tmp_path, ["STRIPE_SECRET_KEY", "DATABASE_URL", "ENABLE_NEW_PAYMENT_FLOW"])


@pytest.mark.parametrize("want", [".env.backup", "checkpoint"])
def test_whole_file_comes_back_and_goes_again(want: str, site: Site) -> None:
    driver = site.driver()
    target = driver.resolve(site.good if want == "checkpoint" else want)
    driver.apply(target)
    driver.apply(target)
    assert site.path.read_text() == GOOD
    assert site.reads_as(site.good)
    driver.apply(site.bad)
    assert site.path.read_text() == BAD
    assert sorted(path.read_text() for path in site.work.glob("displaced-*.env")) == sorted([GOOD, BAD])


def test_single_variables_come_back_and_everything_else_stays(single: Site) -> None:
    driver = single.driver()
    driver.apply(driver.resolve(".env.backup"))
    assert single.path.read_text() == (
        f"# settings\nSTRIPE_SECRET_KEY={CANARY_GOOD}\nPORT=9000\nPIN=0815\n"
        f"DATABASE_URL='postgres://{CANARY_GOOD}@db/shop'\n"
    )
    assert single.reads_as(single.good)
    single.path.write_text(single.path.read_text().replace("PORT=9000", "PORT=9001"))
    assert single.reads_as(single.good)
    driver.apply(single.bad)
    assert single.reads_as(single.bad)
    assert "PORT=9001" in single.path.read_text()


def test_preflight_writes_nothing_and_names_what_changes(site: Site) -> None:
    before = {path: path.lstat().st_mtime_ns for path in site.root.rglob("*")}
    driver = EnvFileDriver(site.options, Place())
    finding = driver.check(driver.live(exact=True), driver.resolve(".env.backup"))
    assert finding.problems == ()
    assert finding.notes[:3] == (
        "changes STRIPE_SECRET_KEY, PORT, PIN.",
        "adds DATABASE_URL.",
        "removes ENABLE_NEW_PAYMENT_FLOW.",
    )
    assert {path: path.lstat().st_mtime_ns for path in site.root.rglob("*")} == before


def test_owner_mode_and_attributes_are_kept(site: Site) -> None:
    assert os.geteuid() == 0, "run the tests as root: owners are part of what is kept"
    os.chown(site.path, 1234, 2345)
    site.path.chmod(0o604)
    os.setxattr(site.path, "user.note", b"mine")
    site.driver().apply(site.good)
    info = site.path.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1234, 2345, 0o604)
    assert os.getxattr(site.path, "user.note") == b"mine"


def test_copies_are_private(site: Site) -> None:
    site.driver().apply(site.good)
    copies = [*site.work.iterdir(), *(site.root / "good").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in copies} == {0o600}


@pytest.mark.parametrize("failpoint", EnvFileDriver.failpoints)
def test_kill_anywhere_then_the_same_again_converges(failpoint: str, site: Site) -> None:
    step = "record" if ".record." in failpoint else "apply"
    assert site.step(step, f"{failpoint}:kill") == -signal.SIGKILL
    assert site.path.read_text() == (GOOD if failpoint == "restore_env.replace.after" else BAD)
    assert site.step(step, "") == 0
    site.driver().apply(site.good)
    assert site.path.read_text() == GOOD
    site.driver().finalize()
    assert [path.name for path in site.path.parent.iterdir()] == [".env"]


def test_what_a_killed_run_left_is_private_and_removed_by_finalize(site: Site) -> None:
    site.step("apply", "restore_env.replace.before:kill")
    left = site.path.with_name(".env.rollbackctl-rb-1")
    assert left.stat().st_mode & 0o777 == 0o640  # the file's own mode, so nobody reads more than before
    assert site.driver().finalize() == [str(left)]
    assert site.driver().finalize() == []


@pytest.mark.parametrize("failpoint", [name for name in EnvFileDriver.failpoints if ".record." not in name])
def test_failure_anywhere_is_told_and_leaves_a_whole_file(
    failpoint: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"{failpoint}:fail")
    with pytest.raises(StepFailed, match="whole, as it was or as it should be"):
        site.driver().apply(site.good)
    assert site.path.read_text() in {GOOD, BAD}
    assert [path.name for path in site.path.parent.iterdir()] == [".env"]


def test_reader_sees_whole_files_only(site: Site) -> None:
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(site.path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(5):
        site.driver().apply(site.good)
        site.driver().apply(site.bad)
    stop.set()
    reader.join()
    assert seen == {GOOD, BAD}


def test_a_writer_in_the_last_moment_is_not_overwritten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = site.root / "paused"
    monkeypatch.setenv(VARIABLE, f"restore_env.replace.before:pause={mark}")

    def write() -> None:
        while not mark.exists():
            pass
        site.path.write_text("SOMEBODY=else\n")
        mark.unlink()

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(StateOther, match="somebody else wrote"):
        site.driver().apply(site.good)
    writer.join()
    assert site.path.read_text() == "SOMEBODY=else\n"


def test_wrong_files_are_refused(site: Site) -> None:
    link = site.path.with_name("link.env")
    link.symlink_to(".env")
    pipe = site.path.with_name("pipe.env")
    os.mkfifo(pipe)
    big = site.path.with_name("big.env")
    big.write_bytes(b"A=1\n" * 300_000)
    for path, words in {
        str(link): "symbolic link",
        str(pipe): "no plain file",
        str(big): "bigger than 1 MB",
        str(site.path.parent): "no plain file",
        str(site.path.with_name("none")): "does not exist",
        ".env": "no full path",
    }.items():
        with pytest.raises(Refused, match=words) as refusal:
            site.driver(path=path).live(exact=True)
        assert "Nothing was changed" in refusal.value.message
    with pytest.raises(Refused, match="no variable's name"):
        site.driver(variables=["A B"]).live(exact=True)


@pytest.mark.parametrize(
    ("content", "words", "may_be_accepted"),
    [
        ("", "sets no variable at all", False),
        ("# all gone\n", "sets no variable at all", False),
        ("PORT=1\n", "3 of 4 variables would disappear", True),
        (GOOD + "<html>\n", "line 6 is neither NAME=value nor a comment", True),
        (GOOD + 'A="open\n', "quote opened in line 6 is never closed", True),
        (GOOD + "\0", "NUL", True),
    ],
)
def test_a_backup_that_looks_wrong_is_refused(content: str, words: str, may_be_accepted: bool, site: Site) -> None:  # noqa: FBT001 - a table
    want = site.backup(content)
    finding = site.check(want)
    assert any(re.search(words, problem) for problem in finding.problems)
    assert (site.check(want, accept_unverified=True).problems == ()) is may_be_accepted


def test_a_variable_set_nowhere_is_refused_as_misspelt(single: Site) -> None:
    assert "STRIPE_KEY is set neither now" in site_problems(single, variables=["STRIPE_KEY", "PORT"])


def site_problems(site: Site, **more: Any) -> str:
    return " ".join(site.check(".env.backup", **more).problems)


def test_single_variables_are_not_picked_from_a_file_with_an_open_quote(single: Site) -> None:
    single.path.write_text(BAD + 'A="open\n')
    assert "Restore the whole file" in site_problems(single)
    assert site_problems(single, variables=[]) == ""


def test_a_variable_that_another_line_sets_too_is_neither_there_already_nor_put_back(single: Site) -> None:
    """Its own line is as it was, and the shell gives it another value."""
    single.path.write_text(GOOD + "OTHER=1; STRIPE_SECRET_KEY=5\n")
    live, target = single.driver().live(exact=True), single.driver().resolve(single.good)
    assert live.identity != target.identity
    problems = single.driver().check(live, target).problems
    assert "another line may set STRIPE_SECRET_KEY too" in " ".join(problems)


def test_a_mounted_file_is_refused() -> None:
    path = next(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/proc" in line)
    driver = EnvFileDriver({"name": "x", "path": path}, Place())
    assert any("is mounted" in problem for problem in driver._place_problems(Path(path).stat()))


def test_a_changed_backup_or_copy_is_not_used(site: Site) -> None:
    target = site.driver().resolve(".env.backup")
    (site.backups / ".env.backup").write_text(GOOD.replace("8000", "8001"))
    with pytest.raises(StepFailed, match="is not what it was when it was chosen"):
        site.driver().apply(target)
    Path(site.good.at, "settings.env").write_text(GOOD.replace("8000", "8001"))
    with pytest.raises(Refused, match="is not what it was when it was chosen"):
        site.driver().resolve(site.good)
    assert site.driver(accept_unverified=True).resolve(site.good).text == "4 variables"
    assert site.path.read_text() == BAD


def test_a_checkpoint_serves_the_variables_named_today(site: Site) -> None:
    driver = site.driver(variables=["PORT"])
    target = driver.resolve(site.good)
    driver.apply(target)
    assert site.path.read_text() == BAD.replace("PORT=9000", "PORT=8000")
    assert driver.matches(driver.live(exact=True), target, exact=True)


def test_the_shown_digest_is_slow_salted_and_no_plain_digest(site: Site, tmp_path: Path) -> None:
    shown = {str(site.good.identity["content"]), str(site.good.artefacts["whole"])}
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        assert hashlib.new(algorithm, GOOD.encode()).hexdigest() not in shown
    assert fingerprint(tmp_path / "a", b"1") != fingerprint(tmp_path / "b", b"1")
    assert fingerprint(tmp_path / "a", b"1") == fingerprint(tmp_path / "a", b"1")


@pytest.mark.parametrize("variables", [[], ["STRIPE_SECRET_KEY", "DATABASE_URL"]])
def test_no_canary_in_anything_that_is_shown(
    variables: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    site = Site(tmp_path, variables)
    driver = site.driver()
    target = driver.resolve(".env.backup")
    finding = driver.check(driver.live(exact=True), target)
    shown = [repr(value) + str(value) for value in (site.good, site.bad, target, finding, driver.live(exact=True))]
    shown += [json.dumps(value.to_dict()) for value in (site.good, site.bad, target)]
    for failpoint in ("restore_env.keep.before", "restore_env.replace.before", "restore_env.replace.after"):
        monkeypatch.setenv(VARIABLE, f"{failpoint}:fail")
        shown.append(error_text(driver, target))
        monkeypatch.delenv(VARIABLE)
        driver.apply(site.bad)
    (site.backups / ".env.backup").write_text(f"{CANARY_GOOD}\n")
    shown += [repr(site.check(site.backup(f"{CANARY_GOOD}\nA='{CANARY_BAD}\n"))), error_text(driver, target)]
    shown += [*capfd.readouterr()]
    text = "\n".join(shown)
    assert "STRIPE_SECRET_KEY" in text or "settings" in text
    for canary in (CANARY_GOOD, CANARY_BAD):
        assert canary not in text
        assert hashlib.sha256(canary.encode()).hexdigest() not in text


def error_text(driver: EnvFileDriver, target: Version) -> str:
    try:
        driver.apply(target)
    except RollbackError as error:
        return "".join(traceback.format_exception(error)) + repr(error) + error.message + error.next_step
    raise AssertionError("this was to fail")
