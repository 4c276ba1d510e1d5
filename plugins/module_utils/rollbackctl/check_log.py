# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `log`: how many lines of the last minutes match a pattern.

Lines written before the run's change do not count: a broken release has filled the log with errors, and that is why it
is being rolled back. A line without a time (a traceback) belongs to the last time seen above it. A log to which nothing
is written says nothing, and neither does one whose beginning was moved away: unverified.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from .check_model import Context, Sample, bad, good, unverified
from .check_search import NotSearched, matching, pattern_problem

KEYS = frozenset({"path", "pattern", "max_lines", "minutes", "time_format", "time_zone", "quiet"})
REQUIRED: tuple[str, ...] = ("path", "pattern", "time_format")
MINUTES = 5.0
TAIL = 8 * 1024 * 1024
# Time zones differ by 15 minutes and more; what a line says and when the file was written do not, unless misread.
ZONE_SLACK = timedelta(minutes=10)
_PACKED = frozenset({".gz", ".xz", ".bz2", ".zst", ".lz4", ".zip", ".Z"})
_DATE = r"\d[\dT:_.\-]*"
_DIRECTIVES = {
    "Y": r"\d{4}", "m": r"\d{2}", "d": r"[ \d]?\d", "H": r"\d{2}", "M": r"\d{2}", "S": r"\d{2}", "f": r"\d{1,6}",
    "b": r"[A-Za-z]{3}", "y": r"\d{2}", "j": r"\d{3}", "z": r"(?:Z|[+-]\d{2}:?\d{2})", "%": "%",
}  # fmt: skip


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence."""
    found = []
    if not os.path.isabs(options["path"]):
        found.append("`path` must be absolute")
    if problem := pattern_problem(options["pattern"]):
        found.append(problem)
    try:
        stamp_pattern(options["time_format"])
    except ValueError as exc:
        found.append(f"`time_format` {exc}")
    if options.get("max_lines", 0) < 0 or options.get("minutes", MINUTES) <= 0:
        found.append("`max_lines` must not be negative, `minutes` must be above 0")
    return found


def window(options: Mapping[str, Any]) -> timedelta:
    """Return how far back to look."""
    return timedelta(minutes=float(options.get("minutes", MINUTES)))


def counted_from(options: Mapping[str, Any], context: Context, now: datetime) -> datetime:
    """Return from when on lines count: the last minutes, and never further back than to the run's change."""
    start = now - window(options)
    if context.settled:
        # The second of the change itself may still hold what the bad version wrote.
        start = max(start, context.settled.replace(microsecond=0) + timedelta(seconds=1))
    return start


def stamp_pattern(time_format: str) -> re.Pattern[str]:
    """Return the expression that finds a time of this strptime format at the start of a line (a "[" may precede it).

    :raises ValueError: a directive that is not known, or none for the time of day.
    """
    pattern, given = "", set()
    for literal, directive in re.findall(r"([^%]+)|%(.?)", time_format):
        if literal:
            pattern += re.escape(literal)
        elif directive in _DIRECTIVES:
            pattern += _DIRECTIVES[directive]
            given.add(directive)
        else:
            raise ValueError(f"knows {' '.join('%' + known for known in sorted(_DIRECTIVES))}; %{directive} is not one")
    if not {"H", "M"} <= given or not ({"d", "j"} & given):
        raise ValueError("must hold the day, %H and %M at least, for example '%Y-%m-%d %H:%M:%S'")
    return re.compile(r"\[?(" + pattern + ")")


def parse_stamp(text: str, time_format: str, zone: str, now: datetime) -> datetime | None:
    """Return the time (UTC) that text says; None when there is no such time. A missing year is the latest possible."""
    try:
        if "%Y" in time_format or "%y" in time_format:
            moment = datetime.strptime(text, time_format)  # noqa: DTZ007 - the zone is added below
        else:
            moment = datetime.strptime(f"{now.year} {text}", f"%Y {time_format}")  # noqa: DTZ007 - the same
            if moment.replace(tzinfo=moment.tzinfo or timezone.utc) > now + timedelta(days=1):
                moment = moment.replace(year=now.year - 1)
    except ValueError:
        return None
    if moment.tzinfo is None and zone == "utc":
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc)  # without a zone, Python takes this host's


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Count once, within timeout seconds. Unverified when the log is missing, does not reach back far enough, shows no
    times, or when nothing was written to it lately."""
    deadline = time.monotonic() + timeout
    path, now = Path(options["path"]), datetime.now(timezone.utc)
    clock = Clock(options["time_format"], options.get("time_zone", "utc"), now)
    start = counted_from(options, context, now)
    try:
        tail, doubt = _read_back(path, clock, start)
    except OSError as exc:
        return unverified(f"{path} cannot be read: {exc.strerror}")
    newest = clock.last(tail.lines)
    if tail.lines and newest is None:
        return unverified(f"no line of {path} begins with a time like {options['time_format']!r}")
    if newest is not None and abs(newest - tail.written) > ZONE_SLACK:
        return unverified(
            f"the newest line of {path} says {newest:%Y-%m-%dT%H:%M:%SZ}, but the file was written at "
            f"{tail.written:%Y-%m-%dT%H:%M:%SZ}; is time_zone ({clock.zone}) right?",
        )
    try:
        found = matching(options["pattern"], tail.lines, deadline - time.monotonic())
    except NotSearched as exc:
        return unverified(f"{path}: {exc}")
    count, limit = clock.since(start, tail.lines, found), int(options.get("max_lines", 0))
    text = f"{count} matching lines since {start:%Y-%m-%dT%H:%M:%SZ}"
    if count > limit:
        return bad(f"{text}, expected at most {limit}")
    doubt = doubt or _silence(options, clock, tail, newest, start, (context.changed or now) - window(options))
    return unverified(f"{text}, but {doubt}") if doubt else good(text)


def _silence(
    options: Mapping[str, Any], clock: Clock, tail: Tail, newest: datetime | None, start: datetime, lately: datetime
) -> str:
    """Return why a log in which nothing was found says nothing; empty when it does say something."""
    if newest is not None and newest < start <= tail.written - timedelta(seconds=1) and not clock.find(tail.lines[-1]):
        return f"what was written to {options['path']} since then begins with no time"
    if options.get("quiet") or (newest is not None and newest >= lately.replace(microsecond=0)):
        return ""
    seen = f"its last line is of {newest:%Y-%m-%dT%H:%M:%SZ}" if newest is not None else "it is empty"
    return f"{options['path']} shows no sign of life: {seen}; if that is how it looks in good health, set `quiet: true`"


@dataclasses.dataclass(frozen=True)
class Clock:
    """How the times at the start of lines are read."""

    time_format: str
    zone: str
    now: datetime

    @cached_property
    def _stamp(self) -> re.Pattern[str]:
        return stamp_pattern(self.time_format)

    def find(self, line: str) -> str:
        """Return the time that a line begins with, as it stands there; empty when there is none."""
        found = self._stamp.match(line)
        return found.group(1) if found else ""

    def read(self, text: str) -> datetime | None:
        """Return the time (UTC) that a text from find says."""
        return parse_stamp(text, self.time_format, self.zone, self.now)

    def first(self, lines: Iterable[str]) -> datetime | None:
        """Return the first time in the lines."""
        text = next(filter(None, map(self.find, lines)), "")
        return self.read(text) if text else None

    def last(self, lines: Sequence[str]) -> datetime | None:
        """Return the last one."""
        return self.first(reversed(lines))

    def since(self, start: datetime, lines: Sequence[str], which: Sequence[int]) -> int:
        """Return how many of some lines, given by their positions, are not from before the start.

        A line without a time belongs to the last one seen above it; what has no time at all counts: silence must not
        look like health.
        """
        wanted, count, last = set(which), 0, ""
        for number, line in enumerate(lines):
            last = self.find(line) or last
            if number in wanted:
                said = self.read(last) if last else None
                count += said is None or said >= start.replace(microsecond=0)
        return count


@dataclasses.dataclass(frozen=True)
class Tail:
    """The last lines of a log. whole: that is all of them. written: when something was written to it last. file: which
    file it is (device and number), whatever it is called by now."""

    lines: list[str]
    whole: bool
    written: datetime
    file: tuple[int, int]


def _read_back(path: Path, clock: Clock, since: datetime) -> tuple[Tail, str]:
    """Return the log as far back as that time, what was rotated away put in front; and what of it is missing.

    :raises OSError: it cannot be read.
    """
    tail = _read_tail(path)
    for other in _rotated(path, tail.file, since):
        if _reaches(tail, clock, since) or not tail.whole:
            break
        if other.suffix in _PACKED:
            return tail, f"it was rotated to {other.name} meanwhile, which is not looked into"
        older = _read_tail(other)
        if clock.first(older.lines) is not None:
            tail = Tail(older.lines + tail.lines, older.whole, max(older.written, tail.written), tail.file)
        elif any(mark in line for line in older.lines for mark in "\0\ufffd"):
            return tail, f"it was rotated to {other.name} meanwhile, which is no text"
    if _reaches(tail, clock, since):
        return tail, ""
    if not tail.whole:
        return tail, f"only the last {TAIL // 1024 // 1024} MiB were read, and they do not reach back far enough"
    # A folder in which no file was made, renamed or removed since then has rotated nothing.
    if path.parent.stat().st_mtime >= since.timestamp() and tail.lines:
        begins = clock.first(tail.lines) or tail.written
        return tail, (
            f"{path} begins at {begins:%Y-%m-%dT%H:%M:%SZ} only, and where it was rotated to meanwhile is not known; "
            "if it is new, wait or set `minutes` lower"
        )
    return tail, ""


def _reaches(tail: Tail, clock: Clock, since: datetime) -> bool:
    """Say whether the first time in the tail lies before that time."""
    said = clock.first(tail.lines)
    return said is not None and said <= since


def _rotated(path: Path, own: tuple[int, int], since: datetime) -> list[Path]:
    """Return what may have been the same log and was written to since, the newest first.

    logrotate, log4j, Python and the like all put something behind the name, before its suffix, or a date in front.
    """
    full, stem, suffix = (re.escape(part) for part in (path.name, path.stem, path.suffix))
    names = re.compile(
        rf"{full}.+|{stem}[-._]?({_DATE}|old|bak|backup|prev|previous){suffix}(\..+)?|{_DATE}[-._]?{full}(\..+)?"
    )
    found = []
    for other in path.parent.iterdir():
        if not names.fullmatch(other.name):
            continue
        status = other.stat()
        same = (status.st_dev, status.st_ino) == own
        if stat.S_ISREG(status.st_mode) and not same and status.st_mtime >= since.timestamp():
            found.append((status.st_mtime, other))
    return [other for _, other in sorted(found, reverse=True)]


def _read_tail(path: Path) -> Tail:
    """Return the last lines, 8 MiB at most.

    :raises OSError: it is missing, is no regular file or cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        start = max(0, status.st_size - TAIL)
        file.seek(start)
        content = file.read(TAIL)
    lines = content.decode("utf-8", "replace").split("\n")
    lines = lines[1:] if start else lines
    written = datetime.fromtimestamp(status.st_mtime, timezone.utc)
    return Tail([line for line in lines if line], start == 0, written, (status.st_dev, status.st_ino))
