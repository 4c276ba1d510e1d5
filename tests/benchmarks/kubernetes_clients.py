# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that keeps asking a Service for its version, and what it saw while something changed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Self
from urllib.parse import urlsplit

THREADS = 4
PAUSE_SECONDS = 0.01
TIMEOUT_SECONDS = 3.0
SETTLE_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
STEADY = 200  # answers in a row; a second or so


@dataclass(frozen=True)
class Answer:
    """One request: when its answer came (monotonic seconds), the version; empty when there was none."""

    at: float
    version: str


class Watcher:
    """Several threads that ask, each with a new connection for each request, as users behind many proxies do."""

    def __init__(self, url: str, good: str) -> None:
        """Name the address and the version that is hoped for."""
        place = urlsplit(url)
        self._host, self._path, self._good = place.netloc, place.path, good
        self._answers: list[Answer] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(THREADS)]
        self._began = 0.0

    def __enter__(self) -> Self:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def start(self, bad: str) -> None:
        """Wait until nothing but the bad version answers, and say that the change is asked for now."""
        self._steady(bad)
        self._began = time.monotonic()

    def settle(self) -> None:
        """Go on asking until nothing but the good version answers, and for a moment more."""
        self._steady(self._good)
        time.sleep(SETTLE_SECONDS)

    def _steady(self, version: str) -> None:
        """Wait until the last answers are all of one version: pods of another one are heard for a moment longer."""
        end = time.monotonic() + PATIENCE_SECONDS
        while len(last := self._answers[-STEADY:]) < STEADY or any(one.version != version for one in last):
            if time.monotonic() > end:
                raise TimeoutError(f"not every answer was of version {version} within {PATIENCE_SECONDS:.0f} s")
            time.sleep(PAUSE_SECONDS)

    def _since(self) -> list[Answer]:
        return sorted((one for one in self._answers if one.at >= self._began), key=lambda one: one.at)

    @property
    def total(self) -> int:
        """How many requests were sent."""
        return len(self._since())

    @property
    def failed(self) -> int:
        """How many got no good answer."""
        return sum(1 for one in self._since() if not one.version)

    @property
    def first(self) -> float:
        """Seconds from the start to the first answer of the good version."""
        return next(one.at for one in self._since() if one.version == self._good) - self._began

    @property
    def mixed(self) -> float:
        """Seconds from the first answer of the good version to the last one of another."""
        others = [one.at for one in self._since() if one.version not in ("", self._good)]
        return max(0.0, (others[-1] - self._began if others else 0.0) - self.first)

    @property
    def gap(self) -> float:
        """The longest time, in seconds, between two answers."""
        good = [one.at for one in self._since() if one.version]
        return max(later - sooner for sooner, later in pairwise([self._began, *good]))

    def _ask(self) -> None:
        while not self._ended.is_set():
            version = ""
            connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                body = answer.read()
                version = str(json.loads(body)["version"]) if answer.status == 200 else ""
            except (OSError, ValueError, http.client.HTTPException):
                version = ""
            finally:
                connection.close()
            self._answers.append(Answer(time.monotonic(), version))
            time.sleep(PAUSE_SECONDS)
