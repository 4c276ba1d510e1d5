# SPDX-License-Identifier: GPL-3.0-or-later
"""Running checks: patience, flapping, many at once, deadlines, and no secret in any result."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import check_http
from ansible.module_utils.rollbackctl.check_model import CheckResult, Context
from ansible.module_utils.rollbackctl.check_profile import load_checks
from ansible.module_utils.rollbackctl.checks import judge, run_checks

from tests.unit.module_utils.check_server import Handler, serving

CANARY = "canary-7f3a"


def run(*documents: dict[str, Any], deadline: float = 60, context: Context | None = None) -> list[CheckResult]:
    return run_checks(load_checks(documents), deadline, context or Context())


def http(url: str, name: str = "health", **options: Any) -> dict[str, Any]:
    return {"name": name, "kind": "http", "url": url, "interval": 0.01, **options}


def answers(*statuses: int) -> Any:
    """Return a server's behaviour: these statuses one after another, then the last one for ever."""
    count = 0

    def answer(request: Handler) -> None:
        nonlocal count
        count += 1
        request.reply(statuses[min(count, len(statuses)) - 1])

    return answer


def test_one_good_answer_is_no_verdict() -> None:
    with serving(answers(200)) as server:
        assert run(http(server.url))[0].ok
        assert len(server.asked) == 3


def test_a_service_that_comes_up_late_is_waited_for() -> None:
    with serving(answers(503, 503, 200, 503, 200, 200, 200)) as server:
        (result,) = run(http(server.url))
        assert result.ok
        assert len(server.asked) == 7


def test_a_port_that_opens_late_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opened = threading.Event()

    def open_late() -> None:
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)):
            opened.wait(30)

    thread = threading.Thread(target=open_late)
    thread.start()
    (result,) = run({"name": "port", "kind": "tcp", "host": "127.0.0.1", "port": port})
    opened.set()
    thread.join()
    assert result.ok
    assert result.seconds >= 0.4


def test_a_service_that_flaps_is_not_healthy() -> None:
    with serving(answers(*[200, 200, 500] * 1000)) as server:
        (result,) = run(http(server.url, within=0.5))
    assert not result.ok
    assert not result.unverified
    assert "at best 2 good in a row, expected 3" in result.text


def test_within_zero_is_one_chance() -> None:
    with serving(answers(500, 200, 200, 200)) as server:
        assert not run(http(server.url, within=0))[0].ok
        assert len(server.asked) == 1


def test_a_good_row_that_began_in_time_may_end_later() -> None:
    with serving(answers(200)) as server:
        assert run(http(server.url, within=0, in_a_row=5))[0].ok
        assert len(server.asked) == 5


def test_twenty_slow_checks_take_about_as_long_as_one() -> None:
    def slow(request: Handler) -> None:
        time.sleep(0.3)
        request.reply(200)

    with serving(slow) as server:
        started = time.monotonic()
        results = run(*(http(server.url, name=f"check-{number}", in_a_row=1) for number in range(20)))
        seconds = time.monotonic() - started
    assert all(result.ok for result in results)
    assert [result.name for result in results] == [f"check-{number}" for number in range(20)]
    assert seconds < 0.5 * 20 * 0.3


def test_the_deadline_ends_all_checks() -> None:
    with serving(answers(500)) as server:
        started = time.monotonic()
        results = run(
            http(server.url, within=300),
            {"name": "hangs", "kind": "command", "argv": ["sleep", "300"], "timeout": 200, "within": 300},
            deadline=0.6,
        )
    assert not any(result.ok for result in results)
    assert time.monotonic() - started < 15


def test_a_clean_up_runs_although_the_deadline_has_passed(tmp_path: Path) -> None:
    user = tmp_path / "test-user"
    create = f"open({str(user)!r}, 'w').close(); import time; time.sleep(300)"
    (result,) = run(
        {
            "name": "smoke",
            "kind": "command",
            "argv": [sys.executable, "-c", create],
            "cleanup": ["rm", str(user)],
            "timeout": 20,
        },
        deadline=2,
    )
    assert not result.ok
    assert "killed" in result.text
    assert not user.exists()


def test_what_never_comes_back_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that hangs cannot be interrupted; here the whole request hangs instead."""
    release = threading.Event()

    def hang(options: Any, timeout: float) -> Any:
        del options, timeout
        release.wait(60)
        raise AssertionError

    monkeypatch.setattr(check_http, "ask", hang)
    lost, fine = run(http("http://x/"), {"name": "root", "kind": "file", "path": "/"}, deadline=0.2)
    release.set()
    assert not lost.ok
    assert "did not come back within the 0.2 s" in lost.text
    assert fine.ok


def test_a_check_that_breaks_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: Any, timeout: float) -> Any:
        del options, timeout
        raise RuntimeError(CANARY)

    monkeypatch.setattr(check_http, "ask", broken)
    bad, fine = run(http("http://x/"), {"name": "root", "kind": "file", "path": "/"})
    assert bad.unverified
    assert not bad.ok
    assert bad.text == "the check itself broke (RuntimeError)"
    assert fine.ok


def test_no_result_holds_a_secret() -> None:
    """Neither when the server sends the header back, nor when the command prints its environment."""

    def echo(request: Handler) -> None:
        request.reply(200, b'{"you": "%s"}' % (request.headers["Authorization"] or "").encode(), X_You=CANARY)

    headers = {"Authorization": f"Bearer {CANARY}"}
    shout = [sys.executable, "-c", "import os, sys; sys.exit('refused: ' + os.environ['TOKEN'])"]
    with serving(echo) as server:
        results = run(
            http(server.url, "body", headers=headers, json={"you": "me"}, within=0),
            http(server.url, "header", headers=headers, version={"header": "X-You", "value": "1"}, within=0),
            {"name": "command", "kind": "command", "argv": shout, "environment": {"TOKEN": CANARY}},
        )
    assert not any(result.ok for result in results)
    assert CANARY not in str([result.to_dict() for result in results])
    assert results[2].text == "exit code 1, expected 0: refused: ***"


@pytest.mark.parametrize("before", range(140, 162))
def test_no_text_ends_in_half_a_secret(before: int) -> None:
    """Messages are cut; wherever the cut falls, less than four characters of the secret may be left."""
    secret = "Z9'q7-Z9q7-Z9q7"
    code = f"import os, sys; sys.exit('x' * {before} + os.environ['TOKEN'] + 'y' * 100)"
    argv = [sys.executable, "-S", "-E", "-c", code]
    (result,) = run({"name": "c", "kind": "command", "argv": argv, "environment": {"TOKEN": secret}})
    assert result.text.startswith("exit code 1, expected 0: xxx")
    assert secret[:4] not in result.text


def test_text_is_one_short_line() -> None:
    code = r"import sys; sys.exit('\x1b[31m' + 'x' * 900)"
    (result,) = run({"name": "c", "kind": "command", "argv": [sys.executable, "-c", code]})
    assert len(result.text) <= 300
    assert "\\x1b[31m" in result.text
    assert result.text.isprintable()


def test_the_verdict() -> None:
    def result(name: str, *, ok: bool, unverified: bool = False) -> CheckResult:
        return CheckResult(name, "http", "inside", ok=ok, unverified=unverified, seconds=0.1, text=f"text of {name}")

    fine, broken = result("fine", ok=True), result("broken", ok=False)
    doubtful = result("doubtful", ok=False, unverified=True)
    assert not judge([fine]).failed
    assert judge([fine, broken], allow_unverified=True).failed
    assert judge([fine, doubtful]).failed
    assert not judge([fine, doubtful], allow_unverified=True).failed
    text = judge([fine, broken, doubtful]).text
    assert text.startswith("1 of 3 checks succeeded. broken (inside) failed: text of broken.")
    assert "doubtful (inside) is unverified: text of doubtful." in text
