# SPDX-License-Identifier: GPL-3.0-or-later
"""How long to wait before asking again: a little more each time, never at the same moment as everybody else."""

from __future__ import annotations

import math
import random
import time

TOTAL_SECONDS = 15.0
FIRST_SECONDS = 0.1
LONGEST_SECONDS = 2.0
RETRY_AFTER_LIMIT = 5.0


class Patience:
    """What is left of the time in which something is tried again."""

    def __init__(self, spent: float = 0.0) -> None:
        self._end = time.monotonic() + TOTAL_SECONDS - spent
        self._pause = FIRST_SECONDS

    @property
    def left(self) -> float:
        """Seconds that are left; never below 0."""
        return max(0.0, self._end - time.monotonic())

    def wait(self, retry_after: str | None = None, at_most: float = math.inf) -> bool:
        """Sleep before the next try, no longer than at_most; say False, at once, when the time would be over then."""
        pause = self._pause * (0.5 + random.random())  # noqa: S311 - jitter is no secret
        self._pause = min(2 * self._pause, LONGEST_SECONDS)
        if retry_after is not None:
            asked = float(retry_after) if retry_after.isdecimal() else 1.0
            pause = min(asked, RETRY_AFTER_LIMIT) + pause / 4
        if pause >= self.left:
            return False
        time.sleep(max(0.0, min(pause, at_most)))
        return True


class Trouble:
    """For how long a server has not been reached, by any thread.

    Fifty objects must not each wait for it, one after the other.
    """

    def __init__(self) -> None:
        self._since = self._last = -math.inf

    def note(self) -> None:
        """The server was not reached."""
        now = time.monotonic()
        if now - self._last > TOTAL_SECONDS:
            self._since = now
        self._last = now

    def over(self) -> None:
        """The server answered."""
        self._last = -math.inf

    def seconds(self) -> float:
        """Return how long it lasts already; 0.0 when there is none, or the last sign of it is old."""
        now = time.monotonic()
        return now - self._since if now - self._last <= TOTAL_SECONDS else 0.0
