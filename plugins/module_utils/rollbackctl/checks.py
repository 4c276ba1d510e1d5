# SPDX-License-Identifier: GPL-3.0-or-later
"""Running checks, all at once, each to its verdict.

A check waits for a condition, never for a time: it is tried until it has succeeded `in_a_row` times, and given up at
the first failure after `within` seconds. A result that could not be had is `unverified`, which is not success.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Iterable

from .check_model import Check, CheckResult, Context, Sample, one_line
from .check_profile import KINDS

LONGEST_PAUSE = 1.0
AT_ONCE = 32
GRACE = 2.0


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
