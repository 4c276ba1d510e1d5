# SPDX-License-Identifier: GPL-3.0-or-later
"""Searching with a profile's own pattern, in a process of its own that ends in time.

Python's `re` may try a text in more ways than a life is long, and holds all threads meanwhile: only the kernel can end
it.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence

# What is inherited may ignore or block the alarm. Its default action ends the process without Python's help, also when
# nobody waits for it any more.
_PROGRAM = """
import json, re, signal, sys
asked = json.load(sys.stdin)
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
signal.setitimer(signal.ITIMER_REAL, asked["seconds"])
found = re.compile(asked["pattern"])
json.dump([number for number, line in enumerate(asked["lines"]) if found.search(line)], sys.stdout)
"""
_START_SECONDS = 10.0
_LEAST_SECONDS = 0.01


class NotSearched(Exception):
    """The search did not end in time, or at all; the text says why."""


def pattern_problem(pattern: str) -> str:
    """Return why a pattern cannot be used, or an empty string."""
    if not pattern:
        return "`pattern` is empty"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as exc:
        return f"`pattern` is not a regular expression: {exc}"
    return ""


def matching(pattern: str, lines: Sequence[str], seconds: float) -> list[int]:
    """Return the positions of the lines in which a pattern is found.

    :raises NotSearched: it took longer than so many seconds, or Python could not be started.
    """
    if not lines:
        return []
    asked = json.dumps({"pattern": pattern, "lines": lines, "seconds": max(seconds, _LEAST_SECONDS)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=asked.encode(),
            capture_output=True,
            check=False,
            timeout=seconds + _START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise NotSearched(f"the pattern took longer than {seconds:.3g} s") from None
    except OSError as exc:
        raise NotSearched(f"{sys.executable or 'Python'} cannot be started: {exc.strerror}") from None
    if done.returncode == -signal.SIGALRM:
        raise NotSearched(f"the pattern took longer than {seconds:.3g} s; write one that need not go back")
    if done.returncode != 0:
        raise NotSearched(f"the search ended with {done.returncode}")
    found: list[int] = json.loads(done.stdout)
    return found
