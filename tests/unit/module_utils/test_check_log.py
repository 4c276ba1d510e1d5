# SPDX-License-Identifier: GPL-3.0-or-later
"""Log checks on logs written now: windows, changes, rotation, wrong time zones."""

from __future__ import annotations

import gzip
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import check_log
from ansible.module_utils.rollbackctl.check_log import parse_stamp, sample, stamp_pattern
from ansible.module_utils.rollbackctl.check_model import Context, Sample
from ansible.module_utils.rollbackctl.check_profile import load_checks
from ansible.module_utils.rollbackctl.check_search import pattern_problem
from ansible.module_utils.rollbackctl.checks import run_checks

FORMAT = "%Y-%m-%d %H:%M:%S"
NOW = datetime.now(UTC)


def line(seconds_ago: float, text: str, *, form: str = FORMAT, shift: timedelta = timedelta()) -> str:
    return f"{datetime.now(UTC) - timedelta(seconds=seconds_ago) + shift:{form}} {text}\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "shop.log"


def count(path: Path, context: Context | None = None, **options: Any) -> Sample:
    given = {"path": str(path), "pattern": "ERROR", "time_format": FORMAT, **options}
    return sample(given, context or Context(), 5)


def test_only_the_last_minutes_count(log: Path) -> None:
    lines = [(4000, "INFO"), (900, "ERROR old"), (30, "ERROR new"), (20, "INFO"), (10, "ERROR new")]
    log.write_text("".join(line(*one) for one in lines))
    assert count(log, max_lines=2).ok
    verdict = count(log, max_lines=1)
    assert not verdict.ok
    assert not verdict.unverified
    assert verdict.text.startswith("2 matching lines since ")
    assert verdict.text.endswith("expected at most 1")
    assert count(log, max_lines=3, minutes=60).ok
    assert not count(log, max_lines=2, minutes=60).ok


def test_what_was_logged_before_the_change_does_not_count(log: Path) -> None:
    """The bad release filled the log; that is why it was rolled back."""
    log.write_text("".join(line(60, "ERROR broken release") for _ in range(50)) + line(0, "INFO started"))
    assert not count(log).ok
    assert count(log, Context(settled=datetime.now(UTC) - timedelta(seconds=20))).ok


def test_lines_without_a_time_belong_to_the_last_one_seen(log: Path) -> None:
    log.write_text(line(900, "crash") + "  ERROR of long ago\n" + line(10, "crash") + "  ERROR of now\n")
    assert count(log, max_lines=1).ok
    assert not count(log, max_lines=0).ok


def test_a_missing_or_timeless_log_is_unverified(log: Path) -> None:
    missing = count(log)
    assert missing.unverified
    assert not missing.ok
    log.write_text("no time here\n")
    assert "begins with a time" in count(log).text
    assert count(log).unverified
    assert count(log.parent).unverified


@pytest.mark.parametrize("text", ["", "INFO of long ago"])
def test_a_log_to_which_nothing_is_written_says_nothing(log: Path, text: str) -> None:
    """The service may write somewhere else by now."""
    log.write_text(line(900, text) if text else "")
    long_ago = (datetime.now(UTC) - timedelta(seconds=900)).timestamp()
    os.utime(log, (long_ago, long_ago))
    os.utime(log.parent, (long_ago, long_ago))
    verdict = count(log)
    assert verdict.unverified
    assert "no sign of life" in verdict.text
    assert "quiet: true" in verdict.text
    assert count(log, quiet=True).ok
    assert not count(log, quiet=True, minutes=60, pattern="INFO").ok or not text


def test_a_service_that_was_silent_since_the_change_was_not_before(log: Path) -> None:
    """What the bad version wrote is a sign of life, for as long as the run takes."""
    log.write_text(line(700, "INFO") + line(500, "ERROR of the bad version"))
    at = (datetime.now(UTC) - timedelta(seconds=500)).timestamp()
    os.utime(log, (at, at))
    changed, settled = (datetime.now(UTC) - timedelta(seconds=seconds) for seconds in (400, 10))
    assert count(log, Context(changed=changed, settled=settled)).ok
    assert count(log, Context(changed=changed + timedelta(seconds=300), settled=settled)).unverified


def test_what_is_written_without_a_time_after_the_change_is_not_old(log: Path) -> None:
    """The version that was put back logs in another format: its errors are not of the last time of the bad one."""
    log.write_text(line(400, "INFO") + line(60, "INFO") + '{"level": "ERROR"}\n')
    verdict = count(log, Context(settled=datetime.now(UTC) - timedelta(seconds=30)))
    assert verdict.unverified
    assert "begins with no time" in verdict.text


def test_a_line_is_searched_to_its_end(log: Path) -> None:
    """A request with a long query, an object in one line: what matters may stand at the end."""
    log.write_text(line(400, "INFO") + line(5, f"{'x' * 100_000} ERROR"))
    assert not count(log).ok


def test_a_pattern_that_goes_back_for_ever_is_given_up(log: Path) -> None:
    """Each more letter doubles the time that `re` takes, with all threads waiting for it."""
    log.write_text(line(400, "INFO") + line(5, "a" * 60 + "!"))
    started = time.monotonic()
    verdict = sample({"path": str(log), "pattern": "(a+)+$", "time_format": FORMAT}, Context(), 0.5)
    assert verdict.unverified
    assert "the pattern took longer than 0.5 s" in verdict.text
    assert time.monotonic() - started < 60


def test_checks_with_a_pattern_that_goes_back_for_ever_end_with_the_others(log: Path) -> None:
    log.write_text(line(400, "INFO") + line(5, "a" * 60 + "!"))
    given = {"kind": "log", "path": str(log), "time_format": FORMAT, "timeout": 60}
    checks = load_checks(
        [{**given, "name": "slow", "pattern": "(a+)+$"}, {**given, "name": "quick", "pattern": "ERROR"}]
    )
    started = time.monotonic()
    slow, quick = run_checks(checks, 1.0, Context())
    assert quick.ok
    assert slow.unverified
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("pattern", ["(", "", "a{99999999999999}", "(" * 5000 + ")" * 5000])
def test_patterns_that_are_none_are_refused(pattern: str) -> None:
    assert pattern_problem(pattern).startswith("`pattern` is ")


def test_a_wrong_time_zone_is_noticed(log: Path) -> None:
    """Read as UTC, errors of this minute would look five hours old."""
    log.write_text(line(5, "ERROR now", shift=timedelta(hours=-5)))
    verdict = count(log)
    assert verdict.unverified
    assert "is time_zone (utc) right?" in verdict.text


def test_a_rotated_log_is_read_as_well(log: Path) -> None:
    log.write_text(line(5, "INFO after rotation"))
    log.with_name("shop.log.1").write_text(line(900, "INFO") + line(60, "ERROR before rotation"))
    assert count(log, max_lines=1).ok
    assert not count(log).ok


def test_an_empty_log_after_rotation_is_not_silence(log: Path) -> None:
    log.touch()
    log.with_name("shop.log.1").write_text(line(900, "INFO") + line(60, "ERROR before rotation"))
    assert not count(log).ok


@pytest.mark.parametrize(
    "name",
    ["shop.log.1", "shop.log-20261201", "shop.log.2026-12-01_10", "shop-2026-12-01.log", "shop.1.log", "shop.log.old",
     "shop_20261201T1030.log", "20261201-shop.log", "shop.log.2026-12-01T10:30:15.123", "shop.old.log"],
)  # fmt: skip
def test_a_log_rotated_under_any_name_is_read_as_well(log: Path, name: str) -> None:
    log.write_text(line(5, "INFO after rotation"))
    log.with_name(name).write_text(line(900, "INFO") + line(60, "ERROR before rotation"))
    assert count(log, max_lines=1).ok
    assert not count(log).ok


def test_a_log_rotated_several_times_is_read_as_a_whole(log: Path) -> None:
    log.write_text(line(5, "INFO"))
    for name, content in (("shop.log.1", line(60, "ERROR")), ("shop.log.2", line(900, "INFO") + line(90, "ERROR"))):
        log.with_name(name).write_text(content)
    at = (datetime.now(UTC) - timedelta(seconds=60)).timestamp()
    os.utime(log.with_name("shop.log.2"), (at, at))
    assert count(log, max_lines=2).ok
    assert not count(log, max_lines=1).ok


def test_a_log_whose_beginning_was_moved_away_is_unverified(log: Path) -> None:
    """To another folder, or under a name that nobody can guess."""
    log.write_text(line(900, "INFO") + line(60, "ERROR before rotation"))
    (log.parent / "archive").mkdir()
    log.rename(log.parent / "archive" / "first")
    log.write_text(line(40, "INFO after rotation") + line(5, "INFO"))
    verdict = count(log)
    assert verdict.unverified
    assert "where it was rotated to meanwhile is not known" in verdict.text
    assert count(log, minutes=0.5).ok


def test_other_files_beside_a_log_are_not_taken_for_it(log: Path) -> None:
    log.write_text(line(900, "INFO") + line(5, "INFO"))
    log.with_name("shop-access.log").write_text(line(60, "ERROR of another log"))
    log.with_name("shop.log.pos").write_text("1234\n")
    log.with_name("shop.err").write_text(line(60, "ERROR"))
    log.with_name("shop.log.1").symlink_to(log)
    assert count(log).ok


def test_a_log_that_is_a_link_to_the_dated_one_is_read_with_the_one_before(log: Path) -> None:
    """As cronolog and rotatelogs -l write it."""
    log.with_name("shop-20261201.log").write_text(line(5, "INFO"))
    log.symlink_to("shop-20261201.log")
    log.with_name("shop-20261130.log").write_text(line(900, "INFO") + line(60, "ERROR"))
    assert not count(log).ok
    assert count(log, max_lines=1).ok


def test_a_rotated_log_that_cannot_be_read_leaves_the_check_unverified(log: Path) -> None:
    log.write_text(line(5, "INFO after rotation"))
    log.with_name("shop.log.1.gz").write_bytes(gzip.compress(line(60, "ERROR").encode()))
    verdict = count(log)
    assert verdict.unverified
    assert "shop.log.1.gz" in verdict.text
    long_ago = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    os.utime(log.with_name("shop.log.1.gz"), (long_ago, long_ago))
    os.utime(log.parent, (long_ago, long_ago))
    assert count(log).ok


def test_of_a_huge_log_only_the_end_is_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_log, "TAIL", 4096)
    log.write_text(line(900, "INFO") + line(60, "ERROR") + "".join(line(50, "INFO") for _ in range(500)))
    verdict = count(log)
    assert verdict.unverified
    assert "do not reach back far enough" in verdict.text
    log.write_text("".join(line(900, "ERROR") for _ in range(500)) + line(1, "INFO"))
    assert count(log).ok


@pytest.mark.parametrize(
    ("time_format", "text"),
    [
        ("%Y-%m-%dT%H:%M:%S.%fZ", "2026-11-21T09:30:15.250Z"),
        ("%Y-%m-%d %H:%M:%S,%f", "2026-11-21 09:30:15,250"),
        ("%Y-%m-%dT%H:%M:%S.%f%z", "2026-11-21T10:30:15.250+01:00"),
        ("%d/%b/%Y:%H:%M:%S.%f %z", "21/Nov/2026:04:30:15.250 -0500"),
        ('{"time": "%Y-%m-%dT%H:%M:%S.%f', '{"time": "2026-11-21T09:30:15.250'),
        ("%b %d %H:%M:%S.%f", "Nov 21 09:30:15.250"),
    ],
)
def test_times_as_programs_write_them(time_format: str, text: str) -> None:
    now = datetime(2026, 11, 21, 9, 31, tzinfo=UTC)
    for start in ("", "["):
        found = stamp_pattern(time_format).match(f"{start}{text}] GET / 200")
        assert found is not None
        assert parse_stamp(found.group(1), time_format, "utc", now) == datetime(
            2026, 11, 21, 9, 30, 15, 250_000, tzinfo=UTC
        )


def test_a_missing_year_is_the_last_possible_one() -> None:
    now = datetime(2027, 1, 1, 0, 0, 5, tzinfo=UTC)
    said = parse_stamp("Dec 31 23:59:59", "%b %d %H:%M:%S", "utc", now)
    assert said == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("time_format", ["", "%Y", "%Q %d %H:%M", "%H:%M:%S", "%d %H:%M %"])
def test_formats_that_say_no_time_are_refused(time_format: str) -> None:
    with pytest.raises(ValueError, match=r"must hold|is not one"):
        stamp_pattern(time_format)
