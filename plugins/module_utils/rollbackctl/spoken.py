# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of a record as people say them: one line of plain text, durations, moments."""

from __future__ import annotations

import re
from datetime import datetime

from .names import printable

# Longer texts than this are a mistake or an attack; what is shown stays readable.
LIMIT = 4000
# "..., then: rollbackctl resume RUN": the command is what somebody marks and pastes.
_BEFORE_A_COMMAND = re.compile(r"(?<=:) (?=rollbackctl )")


def line(value: object) -> str:
    r"""Return a value of a record as one line of plain text; what could drive a terminal is shown as \xNN."""
    text = "" if value is None else str(value)
    return printable(" ".join(text.split()))[:LIMIT]


def steps(value: object) -> list[str]:
    """Return what to do next as lines of plain text, each command on a line of its own; none where there is nothing."""
    text = "" if value is None else str(value)
    parts = [part for each in text.splitlines() for part in _BEFORE_A_COMMAND.split(each)]
    return [line(part) for part in parts if part.strip()]


def duration(seconds: float) -> str:
    """Return a duration given in seconds as people say it: 12 ms, 6.9 s, 4 min 10 s, 1 h 5 min."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.0995:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 59.95:
        return f"{seconds:.0f} s" if seconds == int(seconds) else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(whole / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def moment(stamp: str) -> str:
    """Return a UTC stamp such as 2026-11-21T09:30:15Z in the form 21 Nov 2026, 09:30:15 UTC; other text unchanged."""
    when = parse_moment(stamp)
    return f"{when.day} {when:%b %Y, %H:%M:%S} UTC" if when else line(stamp)


def parse_moment(stamp: str) -> datetime | None:
    """Return the moment a stamp of a record means, or None when it is not one."""
    try:
        return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
    except ValueError:
        return None


def count(amount: int, one: str, many: str = "") -> str:
    """Return an amount with its noun: 1 check, 2 checks."""
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"
