# SPDX-License-Identifier: GPL-3.0-or-later
"""Log checks on logs written now: windows, changes, rotation, wrong time zones."""

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import check_log
from ansible.module_utils.rollbackctl.check_log import parse_stamp, sample, stamp_pattern
from ansible.module_utils.rollbackctl.check_model import Context, Sample

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
    log.write_text(line(900, "ERROR old") + line(30, "ERROR new") + line(20, "INFO") + line(10, "ERROR new"))
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


def test_an_empty_log_is_a_quiet_one(log: Path) -> None:
    log.touch()
    assert count(log).ok


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


def test_a_rotated_log_that_cannot_be_read_leaves_the_check_unverified(log: Path) -> None:
    log.write_text(line(5, "INFO after rotation"))
    log.with_name("shop.log.1.gz").write_bytes(gzip.compress(line(60, "ERROR").encode()))
    verdict = count(log)
    assert verdict.unverified
    assert "shop.log.1.gz" in verdict.text
    long_ago = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    os.utime(log.with_name("shop.log.1.gz"), (long_ago, long_ago))
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
