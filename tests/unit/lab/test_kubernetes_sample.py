# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster's sample service says which version it is, and breaks in the way it is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from lab.kubernetes import build

PATIENCE_SECONDS = 20.0


class Shop:
    """The sample service on a loopback port."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "settings").mkdir(exist_ok=True)
        self.environment = {"LISTEN": f"127.0.0.1:{self.port}", "SETTINGS": str(folder / "settings"), **settings}
        self.log = folder / "log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen([build.sample()], env=self.environment, stdout=log)

    def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, Any], str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer.getheader("X-Version", "")
        finally:
            connection.close()

    def run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [build.sample(), *words], env=self.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def begin(**settings: str) -> Shop:
        shops.append(Shop(tmp_path, settings))
        end = time.monotonic() + PATIENCE_SECONDS
        while not shops[-1].listens() and shops[-1].process.poll() is None:
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.01)
        return shops[-1]

    yield begin
    for shop in shops:
        shop.process.kill()
        shop.process.wait()


def test_it_says_who_it_is_and_what_it_was_given(start: Callable[..., Shop], tmp_path: Path) -> None:
    shop = start(VERSION="1.4.0", SHOP_CURRENCY="EUR", SHOP_PORT_80_TCP="of a Service called shop", OTHER="no")
    (tmp_path / "settings" / "greeting").write_text("hello\n", encoding="utf-8")
    (tmp_path / "settings" / "..data").mkdir()
    given = {"SHOP_CURRENCY": "EUR", "greeting": "hello\n"}
    assert shop.ask("/version") == (
        200, {"version": "1.4.0", "pod": socket.gethostname(), "settings": given}, "1.4.0",
    )  # fmt: skip
    assert shop.ask("/settings") == (200, given, "1.4.0")
    assert shop.ask("/health") == shop.ask("/ready") == (200, {"status": "ok", "version": "1.4.0"}, "1.4.0")


def test_errors_reach_users_and_the_log_while_the_probes_stay_green(start: Callable[..., Shop]) -> None:
    shop = start(MODE="errors")
    assert shop.ask("/version")[0] == shop.ask("/settings")[0] == 500
    assert shop.ask("/ready")[0] == shop.ask("/health")[0] == 200
    assert shop.said().count("ERROR") == 2
    assert shop.ask("/break?mode=ok", "POST")[0] == 200
    assert shop.ask("/version")[0] == 200


def test_not_ready_still_answers_users(start: Callable[..., Shop]) -> None:
    shop = start()
    assert shop.run("check")[0] == 0
    shop.ask("/break?mode=notready", "POST")
    assert shop.ask("/ready")[0] == shop.ask("/health")[0] == 503
    assert shop.ask("/version")[0] == 200
    code, text = shop.run("check")
    assert code == 1
    assert text.startswith("503 ")
    assert text.count("\n") == 1
    assert shop.run("get", f"http://127.0.0.1:{shop.port}/version")[0] == 0


def test_slow_answers_late_until_it_is_told_otherwise(start: Callable[..., Shop]) -> None:
    shop = start(MODE="slow", SLOW_MS="400")
    for path in ("/version", "/health"):
        began = time.monotonic()
        assert shop.ask(path)[0] == 200
        assert time.monotonic() - began >= 0.4
    assert shop.ask("/break?mode=ok", "POST")[0] == 200
    assert shop.ask("/version")[0] == 200


def test_an_unknown_mode_is_refused(start: Callable[..., Shop]) -> None:
    shop = start()
    status, answer, _ = shop.ask("/break?mode=fire", "POST")
    assert status == 400
    assert "known: ok, errors, slow" in answer["error"]
    assert shop.ask("/version")[0] == 200


@pytest.mark.parametrize("at_the_start", [True, False])
def test_crash_ends_it_with_a_word(start: Callable[..., Shop], *, at_the_start: bool) -> None:
    shop = start(**({"MODE": "crash"} if at_the_start else {}))
    if not at_the_start:
        shop.ask("/break?mode=crash", "POST")
    assert shop.process.wait(PATIENCE_SECONDS) == 1
    assert "ERROR crash" in shop.said()


def test_leak_takes_memory_until_it_is_told_otherwise(start: Callable[..., Shop]) -> None:
    shop = start()

    def megabytes() -> int:
        pages = Path(f"/proc/{shop.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20

    assert megabytes() < 50
    shop.ask("/break?mode=leak", "POST")
    end = time.monotonic() + PATIENCE_SECONDS
    while megabytes() < 100:
        assert time.monotonic() < end
        time.sleep(0.02)
    shop.ask("/break?mode=ok", "POST")
    assert shop.ask("/version")[0] == 200


def test_it_serves_for_a_while_after_it_was_told_to_stop(start: Callable[..., Shop]) -> None:
    shop = start(DRAIN_MS="700")
    began = time.monotonic()
    shop.process.send_signal(signal.SIGTERM)
    assert shop.ask("/version")[0] == 200
    assert shop.process.wait(PATIENCE_SECONDS) == 0
    assert time.monotonic() - began >= 0.7


def test_pause_waits_until_it_is_told_to_stop() -> None:
    with subprocess.Popen([build.sample(), "pause"]) as pause:
        time.sleep(0.2)
        assert pause.poll() is None
        pause.terminate()
        assert pause.wait(PATIENCE_SECONDS) == 0
