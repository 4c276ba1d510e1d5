# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts of a record as a person may see them: no control characters, durations and sizes of things in words."""

from __future__ import annotations

from rollbackctl._project import names, spoken

LIMIT = spoken.LIMIT
count = spoken.count
duration = spoken.duration
line = spoken.line
moment = spoken.moment
parse_moment = spoken.parse_moment
steps = spoken.steps


def block(value: object) -> str:
    """Return a value of a record as plain text that keeps its line breaks."""
    text = "" if value is None else str(value)
    return "\n".join(names.printable(part.rstrip().replace("\t", "    ")) for part in text.strip().split("\n"))[:LIMIT]


def number(value: object) -> float:
    """Return a number of a record; whatever is not one, or negative, counts as 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return max(0.0, float(value))


def clock(stamp: str) -> str:
    """Return only the time of day of a UTC stamp, as 09:30:15; other text unchanged."""
    when = parse_moment(stamp)
    return f"{when:%H:%M:%S}" if when else line(stamp)
