# SPDX-License-Identifier: GPL-3.0-or-later
"""What a health check is and what comes out of one; the words and comparisons that all kinds of checks share."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .names import printable

TEXT_LIMIT = 300
SHOWN_VALUE = 60
# Shorter values ("1", "en") stand in too many places to be blanked out; nothing this short is a secret.
SHORTEST_SECRET = 4
HIDDEN = "***"
CUT = "..."
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")


@dataclasses.dataclass(frozen=True)
class Check:
    """One entry of a profile's `rollback_checks`, validated.

    view: "inside" (from the service's own host; what is in Kubernetes is asked from the controller) or "outside" (from
        the controller, the way users come).
    timeout: seconds for one try. in_a_row: good tries wanted one after another.
    within: seconds in which that must have begun to succeed; 0 is one chance. interval: seconds between tries.
    options: what only this kind knows.
    """

    name: str
    kind: str
    view: str
    timeout: float
    in_a_row: int
    within: float
    interval: float
    options: Mapping[str, Any]

    def secrets(self) -> list[str]:
        """Return what must not be shown: header and environment values, and the words in them, longest first."""
        values = [str(value) for key in SECRET_OPTIONS for value in self.options.get(key, {}).values()]
        words = [word for value in values for word in value.split()]
        quoted = [repr(text)[1:-1] for text in values + words]
        found = {text for text in values + words + quoted if len(text) >= SHORTEST_SECRET}
        return sorted(found, key=len, reverse=True)


SECRET_OPTIONS = ("headers", "environment")


@dataclasses.dataclass(frozen=True)
class Context:
    """What a run knows and a check may need.

    changed: when the first change began (UTC). None: no change.
    loaded: since when a process can have loaded all that was changed; one that was started before it still runs the bad
        version, or half of it. None: no change.
    settled: when the last change had ended (UTC); what was logged before it is the bad version's noise.
    expect: component name to the spellings of the version that should run now (a commit, a release); None: no plan.
    check_mode: commands are not run.
    cluster: what checks of things in Kubernetes ask (check_kube_select.Cluster); None on a host.
    """

    changed: datetime | None = None
    loaded: datetime | None = None
    settled: datetime | None = None
    expect: Mapping[str, tuple[str, ...]] | None = None
    check_mode: bool = False
    cluster: Any = None


@dataclasses.dataclass(frozen=True)
class Sample:
    """The outcome of one try. unverified: nothing can be said. final: trying again is of no use or does harm."""

    ok: bool
    text: str
    unverified: bool = False
    final: bool = False


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The verdict on one check. unverified (then ok is false): it could not be evaluated. text: one line, no secret."""

    name: str
    kind: str
    view: str
    ok: bool
    unverified: bool
    seconds: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return dataclasses.asdict(self)


def good(text: str) -> Sample:
    """Return a sample that says healthy."""
    return Sample(ok=True, text=text)


def bad(text: str) -> Sample:
    """Return a sample that says not healthy."""
    return Sample(ok=False, text=text)


def unverified(text: str) -> Sample:
    """Return a sample of which nothing can be said: what the check itself needs is missing."""
    return Sample(ok=False, text=text, unverified=True)


def one_line(text: str, secrets: list[str]) -> str:
    """Return text without the secrets, without control characters, and short enough for a report."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
        if CUT in text:  # perhaps in the middle of the secret
            for length in range(len(secret) - 1, SHORTEST_SECRET - 2, -1):
                text = text.replace(secret[:length] + CUT, HIDDEN + CUT)
    return clip(printable(text), TEXT_LIMIT)


def clip(text: str, limit: int) -> str:
    """Return text, cut to limit characters; the cut is marked, and one_line finds half a secret before the mark."""
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def shown(value: Any) -> str:
    """Return a value as it may stand in a message: quoted, on one line, cut after 60 characters."""
    return clip(printable(repr(str(value)) if isinstance(value, str) else str(value)), SHOWN_VALUE)


def number(value: Any) -> float | int | None:
    """Return value as a finite number, also when it is one written as text (as Prometheus does); otherwise None.
    A whole number stays exact."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and "_" in value:  # Python alone reads that as a number
        return None
    if isinstance(value, int) or (isinstance(value, str) and _WHOLE.fullmatch(value)):
        return int(value)
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def is_range(wanted: Any) -> bool:
    """Say whether what is wanted is a range: a mapping of `min`, `max` or both."""
    return isinstance(wanted, Mapping) and bool(wanted) and set(wanted) <= {"min", "max"}


def range_problem(wanted: Any) -> str:
    """Return what is wrong with a range itself, or an empty string."""
    if not is_range(wanted) or any(number(limit) is None for limit in wanted.values()):
        return "wants `min`, `max` or both, as numbers"
    return ""


def expect_problem(wanted: Mapping[str, Any]) -> str:
    """Return what is wrong with an `expect` (a `value` or a range), or an empty string."""
    if ("value" in wanted) == bool({"min", "max"} & set(wanted)):
        return "`expect` wants either `value`, or `min` and `max` (one of them or both)"
    problem = "" if "value" in wanted else range_problem(wanted)
    return f"`expect` {problem}" if problem else ""


def difference(found: Any, wanted: Any) -> str:
    """Return how found differs from what is wanted (a value, or a range), or an empty string when it does not."""
    if not is_range(wanted):
        return "" if _same(found, wanted) else f"is {shown(found)}, expected {shown(wanted)}"
    value = number(found)
    if value is None:
        return f"is {shown(found)}, expected a number"
    low, high = (number(wanted.get(limit)) for limit in ("min", "max"))
    if low is not None and value < low:
        return f"is {_digits(value)}, expected at least {_digits(low)}"
    if high is not None and value > high:
        return f"is {_digits(value)}, expected at most {_digits(high)}"
    return ""


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _same(found: Any, wanted: Any) -> bool:
    """Compare as JSON does: True == 1 in Python, but not in anything that a check reads, however deep."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(_same(value, wanted[name]) for name, value in found.items())
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def empty_problems(options: Mapping[str, Any], *keys: str) -> list[str]:
    """Return which options are given but ask for nothing: what is empty would be found everywhere."""
    return [f"`{key}` is empty, so everything would be as expected" for key in keys if options.get(key) in ("", {}, [])]


def text_map_problem(key: str, value: Any) -> str:
    """Return why a mapping of secrets (headers, environment) is refused, never showing a value; or an empty string.

    http.client's own complaint about a header quotes its value, so nothing it would refuse may reach it.
    """
    if not isinstance(value, Mapping):
        return f"`{key}` must be a mapping of names to texts"
    for name, text in value.items():
        if not isinstance(name, str) or not name.isascii() or not name or not name.isprintable():
            return f"`{key}` has a name that is not plain text"
        if set(name) & set(' :=()<>@,;\\"/[]?{}'):
            return f"`{key}`: the name {shown(name)} holds a character that a name cannot have"
        if not isinstance(text, str):
            return f"`{key}`: the value of {name} must be text; put it in quotes"
        if not text.isascii() or not all(mark.isprintable() for mark in text):
            return f"`{key}`: the value of {name} must be one line of ASCII text (a trailing line break?)"
    return ""
