# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `log`: how many lines of the last minutes match a pattern.

Lines written before the run's change do not count: a broken release has filled the log with errors, and that is why it
is being rolled back. A line without a time (a traceback) belongs to the last time seen above it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from .check_model import Context, Sample, bad, good, unverified

KEYS = frozenset({"path", "pattern", "max_lines", "minutes", "time_format", "time_zone"})
REQUIRED: tuple[str, ...] = ("path", "pattern", "time_format")
MINUTES = 5.0
TAIL = 8 * 1024 * 1024
LINE_LIMIT = 8192
# Time zones differ by 15 minutes and more; what a line says and when the file was written do not, unless misread.
ZONE_SLACK = timedelta(minutes=10)
_DIRECTIVES = {
    "Y": r"\d{4}", "m": r"\d{2}", "d": r"[ \d]?\d", "H": r"\d{2}", "M": r"\d{2}", "S": r"\d{2}", "f": r"\d{1,6}",
    "b": r"[A-Za-z]{3}", "y": r"\d{2}", "j": r"\d{3}", "z": r"(?:Z|[+-]\d{2}:?\d{2})", "%": "%",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Tail:
    lines: list[str]
    whole: bool
    written: datetime


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


def pattern_problem(pattern: str) -> str:
    """Return why a pattern cannot be used, or an empty string."""
    try:
        re.compile(pattern)
    except re.error as exc:
        return f"`pattern` is not a regular expression: {exc}"
    return ""


def counted_from(options: Mapping[str, Any], context: Context, now: datetime) -> datetime:
    """Return from when on lines count: the last minutes, and never further back than to the run's change."""
    start = now - timedelta(minutes=float(options.get("minutes", MINUTES)))
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
    """Count once. Unverified when the log is missing, does not reach back far enough or shows no times."""
    del timeout  # Reading is bounded by size.
    path, now = Path(options["path"]), datetime.now(timezone.utc)
    start = counted_from(options, context, now)
    zone = options.get("time_zone", "utc")
    stamp, pattern = stamp_pattern(options["time_format"]), re.compile(options["pattern"])

    def moment(text: str) -> datetime | None:
        return parse_stamp(text, options["time_format"], zone, now)

    try:
        tail = _read_tail(path)
        doubt = ""
        if not _reaches(tail, stamp, moment, start):
            tail, doubt = _with_rotated(path, tail, start)
            if not doubt and not tail.whole and not _reaches(tail, stamp, moment, start):
                doubt = f"only the last {TAIL // 1024 // 1024} MiB were read, and they do not reach back far enough"
    except OSError as exc:
        return unverified(f"{path} cannot be read: {exc.strerror}")
    times = [found.group(1) for found in map(stamp.match, tail.lines) if found]
    if tail.lines and not times:
        return unverified(f"no line of {path} begins with a time like {options['time_format']!r}")
    newest = moment(times[-1]) if times else None
    if newest is not None and abs(newest - tail.written) > ZONE_SLACK:
        return unverified(
            f"the newest line of {path} says {newest:%Y-%m-%dT%H:%M:%SZ}, but the file was written at "
            f"{tail.written:%Y-%m-%dT%H:%M:%SZ}; is time_zone ({zone}) right?",
        )
    count, limit = _count(tail.lines, stamp, pattern, moment, start), int(options.get("max_lines", 0))
    text = f"{count} matching lines since {start:%Y-%m-%dT%H:%M:%SZ}"
    if count > limit:
        return bad(f"{text}, expected at most {limit}")
    return unverified(f"{text}, but {doubt}") if doubt else good(text)


def _count(lines: list[str], stamp: re.Pattern[str], pattern: re.Pattern[str], moment: Any, since: datetime) -> int:
    count, last = 0, None
    for line in lines:
        if found := stamp.match(line):
            last = found.group(1)
        if pattern.search(line):
            said = moment(last) if last is not None else None
            # What has no time at all counts: silence must not look like health.
            count += said is None or said >= since.replace(microsecond=0)
    return count


def _reaches(tail: _Tail, stamp: re.Pattern[str], moment: Any, since: datetime) -> bool:
    """Say whether the first time in the tail lies before `since`."""
    for line in tail.lines:
        if found := stamp.match(line):
            said = moment(found.group(1))
            return said is not None and said <= since
    return False


def _with_rotated(path: Path, tail: _Tail, since: datetime) -> tuple[_Tail, str]:
    """Put the log that was rotated away within the time looked at in front; else say what is missing."""
    rotated = re.compile(re.escape(path.name) + r"[.-]\d[\d-]*(\.(gz|xz|bz2|zst))?")
    recent = [
        other
        for other in path.parent.iterdir()
        if rotated.fullmatch(other.name) and other.stat().st_mtime >= since.timestamp()
    ]
    if not recent or not tail.whole:
        return tail, ""
    first = path.with_name(f"{path.name}.1")
    if recent != [first]:
        names = ", ".join(sorted(other.name for other in recent if other != first))
        return tail, f"it was rotated to {names} meanwhile, which is not looked into"
    older = _read_tail(first)
    return _Tail(older.lines + tail.lines, older.whole, tail.written if tail.lines else older.written), ""


def _read_tail(path: Path) -> _Tail:
    """Return the last lines, 8 MiB at most.

    :raises OSError: it is missing, is no regular file or cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        start = max(0, status.st_size - TAIL)
        file.seek(start)
        content = file.read(TAIL)
    lines = [line[:LINE_LIMIT] for line in content.decode("utf-8", "replace").split("\n")]
    lines = lines[1:] if start else lines
    written = datetime.fromtimestamp(status.st_mtime, timezone.utc)
    return _Tail([line for line in lines if line], start == 0, written)
