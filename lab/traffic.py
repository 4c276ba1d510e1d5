# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of the sample service: they keep reading and ordering, and remember how each request went."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from lab.sample.build import request

# Longer than a restart: a request may wait, but users do not wait for ever.
TIMEOUT_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Request:
    """One request. at: seconds since 1970 when it was sent; seconds: how long it took; status: 0 is no answer.

    customer, number: of an order that was accepted; customers are never the same twice.
    """

    kind: str
    at: float
    seconds: float
    status: int
    customer: str = ""
    number: int = 0

    @property
    def failed(self) -> bool:
        """Say whether the user did not get what was asked for."""
        return not 200 <= self.status < 300


@dataclasses.dataclass(frozen=True)
class Outage:
    """From the first failed request to the first good one after the last failed one; seconds since 1970.

    ended: 0 while it lasts. failed, total: requests sent in it.
    """

    began: float
    ended: float
    failed: int
    total: int

    @property
    def seconds(self) -> float:
        """Return how long it was; 0 while it lasts."""
        return max(0.0, self.ended - self.began)


def outage(requests: Iterable[Request], since: float = 0.0) -> Outage | None:
    """Return what users saw of a failure since a time; None when every request went well."""
    later = sorted((one for one in requests if one.at >= since), key=lambda one: one.at)
    bad = [one for one in later if one.failed]
    if not bad:
        return None
    began, last = bad[0].at, bad[-1].at
    ended = next((one.at for one in later if one.at > last), 0.0)
    inside = [one for one in later if began <= one.at <= last]
    return Outage(began, ended, len(bad), len(inside))


def longest_silence(requests: Iterable[Request], since: float, until: float) -> float:
    """Return the longest time, in seconds, between two good answers within two times (seconds since 1970)."""
    good = sorted(one.at + one.seconds for one in requests if not one.failed)
    inside = [since, *(moment for moment in good if since <= moment <= until), until]
    return max(b - a for a, b in itertools.pairwise(inside))


class Traffic:
    """Sends requests until it is told to stop: `with Traffic(sample.url) as users: ...`."""

    def __init__(self, url: str, per_second: float = 20.0, orders_every: int = 4) -> None:
        """Take the service's address, the rate, and which share of the requests are orders (each nth)."""
        self.url = url
        self.per_second = per_second
        self.orders_every = orders_every
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(4)]

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; waits for requests that are on their way."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS + 1)

    @property
    def requests(self) -> list[Request]:
        """Return the requests that were answered, or not, so far."""
        with self._lock:
            return list(self._requests)

    def writes_accepted(self, since: float, until: float = float("inf")) -> int:
        """Count the orders that were accepted between two times (seconds since 1970)."""
        return sum(1 for one in self.orders() if since <= one.at < until)

    def orders(self) -> list[Request]:
        """Return the orders that were accepted."""
        return [one for one in self.requests if one.number]

    def wait_for(self, good: Callable[[list[Request]], bool], seconds: float = 30.0) -> None:
        """Wait until a condition holds for the requests so far.

        :raises TimeoutError: it does not.
        """
        end = time.monotonic() + seconds
        while not good(self.requests):
            if time.monotonic() > end:
                raise TimeoutError("users did not see what they should have seen")
            time.sleep(0.05)

    def _work(self, worker: int) -> None:
        pause = len(self._threads) / self.per_second
        due = time.monotonic() + pause * worker / len(self._threads)
        for number in itertools.count(worker):
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            # After a slow answer the rate goes on as before; what was missed is not made up for.
            due = max(due + pause, time.monotonic() - pause)
            self._send(number)

    def _send(self, number: int) -> None:
        order: dict[str, Any] | None = None
        answer: dict[str, Any] = {}
        kind, path = "read", f"/orders/{number % 100 + 1}"
        if number // len(self._threads) % self.orders_every == 0:
            kind, path, order = "order", "/orders", {"customer": f"visitor{number}", "cents": 100 + number % 900}
        began, clock = time.time(), time.monotonic()
        try:
            status, answer = request(f"{self.url}{path}", order, TIMEOUT_SECONDS)
        except (OSError, ValueError):  # refused, cut off, or cut off in the middle of its JSON
            status = 0
        done = Request(kind, began, time.monotonic() - clock, status)
        if order is not None and not done.failed:
            done = dataclasses.replace(done, customer=order["customer"], number=int(answer["id"]))
        with self._lock:
            self._requests.append(done)


def utc(moment: float) -> str:
    """Return a time (seconds since 1970) as 2026-11-21T09:30:15Z."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
