# SPDX-License-Identifier: GPL-3.0-or-later
"""A profile's `rollback_checks`: reading them, and running them all at once.

A check waits for a condition, never for a time: it is tried until it has succeeded `in_a_row` times, and given up at the
first failure after `within` seconds. A result that could not be had is `unverified`, which is not success.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from typing import Any, Iterable, Mapping, Protocol

from . import check_command, check_file, check_http, check_log, check_process, check_sql, check_tcp
from .check_model import Check, CheckResult, Context, Sample, one_line
from .errors import Refused
from .names import is_name


class Kind(Protocol):
    """What a module must offer to be a kind of check."""

    KEYS: frozenset[str]
    REQUIRED: tuple[str, ...]

    def problems(self, options: Mapping[str, Any]) -> list[str]: ...  # noqa: D102 - see check_tcp for the smallest one
    def sample(self, options: Mapping[str, Any], context: Context, timeout: float) -> Sample: ...  # noqa: D102


KINDS: Mapping[str, Kind] = {
    "http": check_http,
    "tcp": check_tcp,
    "command": check_command,
    "sql": check_sql,
    "file": check_file,
    "log": check_log,
    "process": check_process,
}
COMMON = frozenset({"name", "kind", "view", "timeout", "in_a_row", "within", "interval"})
VIEWS = ("inside", "outside")
TIMEOUT, INTERVAL, WITHIN, METRICS_WITHIN = 5.0, 0.1, 30.0, 3.0
STEADY = 3
LONGEST_PAUSE = 1.0
AT_ONCE = 32
GRACE = 2.0


def patience(kind: str, options: Mapping[str, Any]) -> tuple[int, float]:
    """Return the default `in_a_row` and `within` (seconds).

    What comes up with a service may take a moment and may flap; asking a command, a table or a log twice gives the same
    answer. A rollback does not wait long for a metrics backend.
    """
    if kind == "http" and options.get("source") == "metrics":
        return 1, METRICS_WITHIN
    if kind in {"http", "tcp"}:
        return (1 if "latency" in options else STEADY), WITHIN
    return 1, WITHIN if kind in {"process", "file"} else 0.0


def load_checks(documents: Iterable[Mapping[str, Any]]) -> list[Check]:
    """Return the checks of a profile (mappings with types already converted; None means not given).

    :raises Refused: with all that is wrong with all of them.
    """
    checks: list[Check] = []
    problems: list[str] = []
    for position, document in enumerate(documents, 1):
        given = {key: value for key, value in document.items() if value is not None}
        found = _problems(given)
        name = str(given.get("name", ""))
        if any(check.name == name for check in checks):
            found.append("its name is used by another check")
        label = f"check {name}" if is_name(name) else f"check number {position}"
        problems += [f"{label}: {problem}" for problem in found]
        if not found:
            checks.append(_make(given))
    if problems:
        raise Refused(
            "rollback_checks cannot be used. "
            + " ".join(f"{problem}." for problem in problems)
            + " Nothing was changed.",
            "Correct rollback_checks in the service's profile.",
        )
    return checks


def _problems(given: Mapping[str, Any]) -> list[str]:
    if not is_name(str(given.get("name", ""))):
        return ["`name` must be letters, digits, dots and dashes, 63 at most"]
    if given.get("kind") not in KINDS:
        return [f"`kind` must be one of {', '.join(KINDS)}"]
    kind = KINDS[given["kind"]]
    found = []
    if given.get("view", "inside") not in VIEWS:
        found.append("`view` must be inside or outside")
    for key, least in (("timeout", 0.01), ("in_a_row", 1), ("within", 0), ("interval", 0)):
        if key in given and not least <= float(given[key]) <= 3600:
            found.append(f"`{key}` must be between {least:g} and 3600")
    if foreign := sorted(set(given) - COMMON - kind.KEYS):
        found.append(
            f"{given['kind']} checks do not know {', '.join(foreign)}; they know {', '.join(sorted(kind.KEYS))}"
        )
    missing = [key for key in kind.REQUIRED if key not in given]
    if missing:
        found.append(f"{given['kind']} checks need {', '.join(missing)}")
    return found or kind.problems(given)


def _make(given: Mapping[str, Any]) -> Check:
    options = {key: value for key, value in given.items() if key not in COMMON}
    in_a_row, within = patience(given["kind"], options)
    return Check(
        name=given["name"],
        kind=given["kind"],
        view=given.get("view", "inside"),
        timeout=float(given.get("timeout", TIMEOUT)),
        in_a_row=int(given.get("in_a_row", in_a_row)),
        within=float(given.get("within", within)),
        interval=float(given.get("interval", INTERVAL)),
        options=options,
    )


def run_check(check: Check, context: Context, deadline: float) -> CheckResult:
    """Run one check to its verdict, or until `deadline` (a time of time.monotonic)."""
    begun = time.monotonic()
    give_up = begun + check.within
    row = best = tries = 0
    pause = check.interval
    sample = Sample(ok=False, text="not tried: the time for all checks together was over")
    while (left := deadline - time.monotonic()) > 0:
        sample = _sample(check, context, min(check.timeout, left))
        tries += 1
        row = row + 1 if sample.ok else 0
        best = max(best, row)
        if row >= check.in_a_row or sample.final:
            break
        ahead = give_up - time.monotonic()
        if not sample.ok and ahead <= 0:
            break
        # A service that is down is asked less and less often, up to once a second.
        pause = check.interval if sample.ok else min(max(LONGEST_PAUSE, check.interval), max(pause, 0.05) * 2)
        time.sleep(max(0.0, min(pause, deadline - time.monotonic(), pause if sample.ok else ahead)))
    ok = row >= check.in_a_row
    text = sample.text if ok else _failure(check, sample, tries, best)
    return CheckResult(
        name=check.name,
        kind=check.kind,
        view=check.view,
        ok=ok,
        unverified=sample.unverified and not ok,
        seconds=round(time.monotonic() - begun, 3),
        text=one_line(text, check.secrets()),
    )


def _failure(check: Check, sample: Sample, tries: int, best: int) -> str:
    if sample.ok:
        return f"good {best} times in a row, expected {check.in_a_row}, when the time for all checks was over"
    if best:
        return f"{sample.text}; {tries} tries, at best {best} good in a row, expected {check.in_a_row}"
    return f"{sample.text}; {tries} tries" if tries > 1 else sample.text


def _sample(check: Check, context: Context, timeout: float) -> Sample:
    try:
        return KINDS[check.kind].sample(check.options, context, timeout)
    except Exception as exc:  # noqa: BLE001 - one broken check must not take the others' results with it
        return Sample(ok=False, text=f"the check itself broke ({type(exc).__name__})", unverified=True, final=True)


def run_checks(checks: Iterable[Check], deadline_seconds: float, context: Context) -> list[CheckResult]:
    """Run all checks at once (32 at a time) and return their results in the same order, within deadline_seconds.

    What does not come back then (a name server that hangs) is reported as failed; clean-ups still get their time.
    """
    todo = list(checks)
    deadline = time.monotonic() + deadline_seconds
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    results: dict[int, CheckResult] = {}
    for position in range(len(todo)):
        waiting.put(position)

    def work() -> None:
        while True:
            try:
                position = waiting.get_nowait()
            except queue.Empty:
                return
            results[position] = run_check(todo[position], context, deadline)

    # Daemons, because nothing can end a thread that waits for a name server.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(todo)))]
    for thread in threads:
        thread.start()
    grace = GRACE + max((check.timeout for check in todo if "cleanup" in check.options), default=0.0)
    for thread in threads:
        thread.join(max(0.0, deadline + grace - time.monotonic()))
    return [results.get(position) or _lost(check, deadline_seconds) for position, check in enumerate(todo)]


def _lost(check: Check, seconds: float) -> CheckResult:
    text = f"did not come back within the {seconds:g} s that all checks have together"
    return CheckResult(check.name, check.kind, check.view, ok=False, unverified=False, seconds=seconds, text=text)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What all checks together say. failed: do not call the service healthy. text: one line per check that is not."""

    failed: bool
    text: str


def judge(results: Iterable[CheckResult], *, allow_unverified: bool = False) -> Verdict:
    """Return the verdict; a check that could not be evaluated counts as failed unless allow_unverified."""
    all_results = list(results)
    failed = [result for result in all_results if not result.ok and not result.unverified]
    doubtful = [result for result in all_results if result.unverified]
    good = len(all_results) - len(failed) - len(doubtful)
    parts = [f"{good} of {len(all_results)} checks succeeded."]
    parts += [f"{result.name} ({result.view}) failed: {result.text}." for result in failed]
    parts += [f"{result.name} ({result.view}) is unverified: {result.text}." for result in doubtful]
    return Verdict(bool(failed) or (bool(doubtful) and not allow_unverified), " ".join(parts))
