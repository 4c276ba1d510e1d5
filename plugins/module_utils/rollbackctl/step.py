# SPDX-License-Identifier: GPL-3.0-or-later
"""The bracket around everything that changes a service: lease proven and kept alive, kernel lock held, deadline set."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import DeadlineExceeded, RollbackError
from .journal import Journal
from .store import Store

# A survivor of a killed controller may still be at work: wait for its end rather than refuse at once.
LOCK_WAIT_SECONDS = 30.0


@contextmanager
def changing_step(store: Store, run: str, token: int) -> Iterator[Journal]:
    """Hold the service for one changing step and give its journal.

    The lease is renewed at the start and while the step lasts. The kernel lock ends with the process, so a takeover
    that holds it knows that no step is under way.

    :raises RollbackError: the run does not hold the lease (so `--start-at-task` cannot skip the guard).
    """
    with store.locked(LOCK_WAIT_SECONDS):
        store.renew(run, token)
        with beating(store, run, token):
            yield store.journal(run)


@contextmanager
def beating(store: Store, run: str, token: int) -> Iterator[None]:
    """Renew the lease, which was renewed just now, while the body lasts."""
    ended = threading.Event()
    lease = store.lease()
    period = (lease.seconds if lease else 60.0) / 4
    heart = threading.Thread(target=_beat, args=(store, run, token, period, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """End the body after so many seconds.

    :raises DeadlineExceeded: time is up; whether the change took effect is unknown until it is read back.
    """

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise DeadlineExceeded(f"{what} took longer than its deadline of {seconds:.0f} s.")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _beat(store: Store, run: str, token: int, period: float, ended: threading.Event) -> None:
    """Renew again and again. What does not work now (a server that is away) may work at the next beat; a lease that was
    lost is never renewed, and the step itself finds out."""
    while not ended.wait(period):
        with contextlib.suppress(OSError, RollbackError):
            store.renew(run, token)
