# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing one thing with many objects at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(do: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """Do something with each item, several at once; the results have the order of the items.

    All are tried; then the first error (in the order of the items) is raised. What a signal raises in the main thread
    gets through at once, and no further item is begun then. The threads are daemons, because those of an executor keep
    a process that wants to end (the worker of a task that took too long) until their last answer has come.
    """
    if len(items) == 1:
        return [do(items[0])]
    results: dict[int, R] = {}
    errors: dict[int, BaseException] = {}
    waiting = iter(range(len(items)))
    stop, lock = threading.Event(), threading.Lock()

    def work() -> None:
        while not stop.is_set():
            with lock:
                index = next(waiting, None)
            if index is None:
                return
            try:
                results[index] = do(items[index])
            except BaseException as exc:  # noqa: BLE001 - raised in the caller's thread
                errors[index] = exc

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(items)))]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        stop.set()
    if errors:
        raise errors[min(errors)]
    return [results[index] for index in range(len(items))]
