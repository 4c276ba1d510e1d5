# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the fence share: a service with a fence in front of its data, and its watchdogs."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import fence
from ansible.module_utils.rollbackctl.durable import read_document

from tests.unit.module_utils.engine_parts import OPEN, RUN, Service, register, text_component

TO = {"db": "good", "app": "good"}
PATIENCE = 60.0
THIRD_RUN = "rb-20261121-110000-0002"
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(autouse=True)
def drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    monkeypatch.setattr(fence, "POLL_SECONDS", 0.05)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Data that needs a fence, code, and the gate in front of them."""
    gate = tmp_path / "gate"
    gate.write_text(OPEN, encoding="utf-8")
    return Service(
        tmp_path,
        {
            "data": [text_component(tmp_path, "db", "v2\nrow 1\n", "v1\n", needs_fence=True)],
            "text": [text_component(tmp_path, "app", "bad\n", "good\n")],
            "gate": [{"name": "web", "path": str(gate), "fence": True}],
        },
        lease_seconds=1.0,
    )


@pytest.fixture
def watchdogs() -> Iterator[Callable[[], None]]:
    """Adopt what is forked off, so that its end can be waited for, and end it by its id if it hangs."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def children() -> list[int]:
        return [int(pid) for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text("ascii").split()]

    before = set(children())

    def ended() -> None:
        limit = time.monotonic() + PATIENCE
        while left := set(children()) - before:
            assert time.monotonic() < limit, f"the watchdog {left} does not end"
            for pid in left:
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)

    try:
        yield ended
    finally:
        for pid in set(children()) - before:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def gate(service: Service) -> str:
    return (service.folder / "gate").read_text(encoding="utf-8")


def write(service: Service, name: str, text: str) -> None:
    (service.folder / f"{name}.txt").write_text(text, encoding="utf-8")


def content(service: Service, name: str) -> str:
    return (service.folder / f"{name}.txt").read_text(encoding="utf-8")


def fenced(service: Service) -> Service:
    service.begin(rollback_to=TO)
    service.go("stage", "fence")
    return service


def report(service: Service) -> dict[str, Any] | None:
    return read_document(service.store.run_directory(RUN) / "watchdog.json")


def opened_by_the_watchdog(service: Service) -> None:
    """What the watchdog does inside the lock once a lease has ended; a lease that is renewed after that goes on."""
    journal = service.store.journal(RUN)
    journal.append("fence-opening", word="wholly old", reached=False)
    (service.folder / "gate").write_text(OPEN, encoding="utf-8")
    journal.append("fence-opened", by="watchdog", word="wholly old")


def started_by_a_monitor(service: Service) -> None:
    (service.folder / "gate").write_text(OPEN, encoding="utf-8")


def watchdogs_end(service: Service, watchdogs: Callable[[], None]) -> None:
    """Let the lease of a run that has stopped end, and wait for its watchdogs."""
    os.utime(service.store.path / "lease.json", (0, 0))
    watchdogs()
