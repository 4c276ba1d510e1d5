# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP checks against a real server: slow, broken, lying, redirecting, oversized."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.check_http import BODY_LIMIT, same_version, sample
from ansible.module_utils.rollbackctl.check_model import Context, Sample

from tests.unit.module_utils.check_server import Handler, serving

NOTHING = Context()


def ask(url: str, timeout: float = 5.0, context: Context = NOTHING, **options: Any) -> Sample:
    return sample({"url": url, **options}, context, timeout)


def test_a_healthy_answer() -> None:
    with serving(lambda request: request.reply(200, b"fine")) as server:
        verdict = ask(f"{server.url}/health?deep=1")
        assert verdict.ok
        assert verdict.text.startswith("200 in ")
        assert server.asked == ["/health?deep=1"]


@pytest.mark.parametrize("status", [500, 503, 404, 204])
def test_another_status_is_a_failure(status: int) -> None:
    with serving(lambda request: request.reply(status)) as server:
        verdict = ask(server.url)
    assert not verdict.ok
    assert not verdict.unverified
    assert f"answered {status}, expected 200" in verdict.text


def test_accepted_status_codes_can_be_named() -> None:
    with serving(lambda request: request.reply(401)) as server:
        assert ask(server.url, status=[200, 401]).ok


def test_a_redirect_is_not_followed() -> None:
    with serving(lambda request: request.reply(302, Location="/elsewhere")) as server:
        verdict = ask(f"{server.url}/health")
        assert not verdict.ok
        assert "redirects are not followed" in verdict.text
        assert server.asked == ["/health"]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving(lambda request: request.reply(200)) as server:
        assert ask(server.url).ok


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    verdict = ask(f"http://127.0.0.1:{port}/secret-path")
    assert not verdict.ok
    assert verdict.text == f"127.0.0.1:{port}: nothing listens there (connection refused)"


def test_an_unknown_name() -> None:
    assert "not known" in ask("http://no-such-host.invalid/").text


def test_a_slow_answer_is_given_up() -> None:
    release = threading.Event()

    def late(request: Handler) -> None:
        release.wait(30)
        request.reply(200)

    with serving(late) as server:
        started = time.monotonic()
        verdict = ask(server.url, timeout=0.2)
        release.set()
    assert not verdict.ok
    assert "within 0.2 s" in verdict.text
    assert time.monotonic() - started < 10


def test_an_answer_that_trickles_in_is_given_up() -> None:
    """Each byte begins a socket's timeout anew; the check's own does not."""
    stop = threading.Event()

    def trickle(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        while not stop.wait(0.05):
            request.wfile.write(b".")
            request.wfile.flush()

    with serving(trickle) as server:
        started = time.monotonic()
        verdict = ask(server.url, timeout=0.4)
        stop.set()
    assert not verdict.ok
    assert "no whole answer within 0.4 s" in verdict.text
    assert time.monotonic() - started < 10


def test_an_answer_that_trickles_in_from_the_second_address_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address takes a request and nothing more, so the time is over before there is anything to cut."""
    sent = []

    def trickle(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        for number in range(100):
            sent.append(number)
            request.wfile.write(b".")
            request.wfile.flush()
            time.sleep(0.1)

    with serving(trickle) as server, ExitStack() as stack:
        dead = stack.enter_context(socket.create_server(("127.0.0.2", server.server_port), backlog=0))
        for _ in range(4):  # what waits to be taken fills its queue: the next one is not answered at all
            line = stack.enter_context(socket.socket())
            line.settimeout(0)
            line.connect_ex(dead.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", server.server_port)) for n in (2, 1)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        verdict = ask(f"http://two-addresses.invalid:{server.server_port}/", timeout=1)
        assert len(sent) < 100, "it has waited for the whole answer"
    assert not verdict.ok
    assert "no whole answer within 1 s" in verdict.text


def test_a_version_that_says_nothing_is_none() -> None:
    with serving(lambda request: request.reply(200, X_Version="")) as server:
        verdict = ask(server.url, version={"header": "X-Version", "component": "code"})
    assert not verdict.ok
    assert "with an empty version" in verdict.text


def test_a_connection_that_breaks_in_the_middle() -> None:
    def cut(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"half")
        request.close_connection = True

    with serving(cut) as server:
        verdict = ask(server.url)
    assert not verdict.ok
    assert "not a whole HTTP answer" in verdict.text


def test_something_else_than_http_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def greet() -> None:
            line, _ = other.accept()
            with line:
                line.sendall(b"220 mail ready\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        verdict = ask(f"http://127.0.0.1:{port}/")
        thread.join()
    assert not verdict.ok
    assert "not a whole HTTP answer (BadStatusLine)" in verdict.text


def test_a_big_body_is_not_looked_into_nor_read_to_its_end() -> None:
    body = b'{"status": "ok"' + b" " * (4 * BODY_LIMIT) + b"}"
    with serving(lambda request: request.reply(200, body)) as server:
        assert ask(server.url).ok
        verdict = ask(server.url, json={"status": "ok"})
    assert not verdict.ok
    assert "more than 1024 KiB" in verdict.text


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"status": "ok"}, ""),
        ({"database.pool.1": 7}, ""),
        ({"database.pool.1": {"min": 5, "max": 7}}, ""),
        ({"rate": {"max": 0.01}}, ""),
        ({"nothing": None}, ""),
        ({"status": "degraded"}, "status is 'ok', expected 'degraded'"),
        ({"ready": 1}, "ready is True, expected 1"),
        ({"database.pool.1": {"max": 6}}, "is 7, expected at most 6"),
        ({"rate": {"min": 1}}, "is 0.002, expected at least 1"),
        ({"status": {"min": 1}}, "is 'ok', expected a number"),
        ({"database.pool.2": 7}, "the answer has nothing at 'database.pool.2'"),
        ({"status.deeper": 1}, "the answer has nothing at"),
    ],
)
def test_what_a_json_answer_says(wanted: dict[str, Any], complaint: str) -> None:
    body = {"status": "ok", "ready": True, "database": {"pool": [3, 7]}, "rate": "0.002", "nothing": None}
    with serving(lambda request: request.reply(200, json.dumps(body).encode())) as server:
        verdict = ask(server.url, json=wanted)
    assert verdict.ok == (not complaint)
    assert complaint in verdict.text


@pytest.mark.parametrize("body", [b"<html>", b"", b"[" * 100_000, b'{"a": NaN'])
def test_an_answer_that_is_not_json(body: bytes) -> None:
    with serving(lambda request: request.reply(200, body)) as server:
        verdict = ask(server.url, json={"status": "ok"})
    assert not verdict.ok
    assert "the answer is not JSON" in verdict.text


def test_a_page_must_contain_a_text() -> None:
    with serving(lambda request: request.reply(200, b"<h1>Shop</h1>")) as server:
        assert ask(server.url, contains="Shop").ok
        assert "without the text 'Sold'" in ask(server.url, contains="Sold").text


def test_a_200_of_the_wrong_version_is_a_failure() -> None:
    """An old process, or a cache, answers 200 as well."""
    with serving(lambda request: request.reply(200, b'{"version": "2.0"}', X_Version="2.0")) as server:
        by_header = ask(server.url, version={"header": "X-Version", "value": "1.0"})
        by_body = ask(server.url, version={"json": "version", "value": "1.0"})
        assert by_header.text == by_body.text == "version '2.0' answers, expected '1.0'"
        assert not by_header.ok
        assert not by_body.ok
        assert ask(server.url, version={"header": "x-version", "value": "2.0"}).ok
        assert "without the header" in ask(server.url, version={"header": "X-Release", "value": "1.0"}).text


def test_the_version_of_a_component_comes_from_the_run() -> None:
    version = {"header": "X-Version", "component": "shop-code"}
    with serving(lambda request: request.reply(200, X_Version="4f2a91c")) as server:
        known = Context(expect={"shop-code": ("1.4", "4f2a91c0d3e5f60718293a4b5c6d7e8f90a1b2c3")})
        assert ask(server.url, context=known, version=version).ok
        assert not ask(server.url, context=Context(expect={"shop-code": ("1.3",)}), version=version).ok
        unknown = ask(server.url, context=Context(expect={}), version=version)
        assert ask(server.url, version=version).text.startswith("200; version '4f2a91c'")  # no plan to compare with
    assert unknown.unverified
    assert not unknown.ok


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("20261121", "202611210930", False),  # dates, not commits
        ("1.0", "1.0 ", True),
        ("1.0", "1.0.1", False),
        ("4f2a91c", "4f2a91c0d3", True),
        ("4f2a91", "4f2a91c", False),
    ],
)
def test_which_spellings_name_one_version(one: str, other: str, *, same: bool) -> None:
    assert same_version(one, other) is same


@pytest.mark.parametrize("said", [b"null", b"true", b"{}", b'["2.0"]'])
def test_what_is_neither_text_nor_number_is_no_version(said: bytes) -> None:
    with serving(lambda request: request.reply(200, b'{"version": ' + said + b"}")) as server:
        verdict = ask(server.url, version={"json": "version", "component": "code"})
    assert not verdict.ok
    assert "where a version was expected" in verdict.text


def test_two_versions_in_one_answer_are_none() -> None:
    """A proxy adds its own; whoever asks may see either."""
    with serving(lambda request: request.reply(200, b"", X_Version="2.0", x_version="1.0")) as server:
        verdict = ask(server.url, version={"header": "X-Version", "value": "2.0"})
    assert not verdict.ok
    assert "gave the header 'X-Version' twice: '2.0' and '1.0'" in verdict.text


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"flags": [true]}', {"flags": [1]}),
        (b'{"flags": {"on": 1}}', {"flags": {"on": True}}),
        (b'{"n": 9007199254740993}', {"n": {"max": 9007199254740992}}),
        (b'{"n": "9223372036854775809"}', {"n": {"max": 9223372036854775808}}),
        (b'{"n": "1_0"}', {"n": {"max": 10}}),
        (b'{"status": "bad", "status": "ok"}', {"status": "ok"}),
        (b'{"n": 1e400}', {"n": {"min": 1}}),
        (b'{"n": NaN}', {"n": {"max": 1}}),
    ],
)
def test_what_only_nearly_is_what_was_expected_is_not(body: bytes, wanted: dict[str, Any]) -> None:
    with serving(lambda request: request.reply(200, body)) as server:
        assert not ask(server.url, json=wanted).ok


def test_a_name_given_twice_matters_where_it_is_looked_at() -> None:
    with serving(lambda request: request.reply(200, b'{"a": 1, "a": 2, "b": 3, "c": 4, "c": 4}')) as server:
        assert ask(server.url, json={"b": 3, "c": 4}).ok
        assert "has several values at 'a'" in ask(server.url, json={"a": 2}).text


def test_latency_is_the_95th_percentile() -> None:
    """One slow answer in twenty is within it, two are not."""
    count = 0

    def mostly_quick(request: Handler) -> None:
        nonlocal count
        count += 1
        if count in slow:
            time.sleep(0.4)
        request.reply(200)

    with serving(mostly_quick) as server:
        slow = {5}
        assert ask(server.url, latency={"p95_seconds": 0.3, "samples": 20}).ok
        assert len(server.asked) == 20
        slow = {25, 26}
        verdict = ask(server.url, latency={"p95_seconds": 0.3, "samples": 20})
    assert not verdict.ok
    assert "p95 of 20 requests is 4" in verdict.text
    assert "expected at most 300 ms" in verdict.text


def test_a_metrics_backend_that_is_down_leaves_the_check_unverified() -> None:
    wanted = {"data.result.0.value.1": {"max": 0.001}}

    def answered(status: int, value: object) -> Sample:
        body = json.dumps({"data": {"result": [{"value": [1, value]}] if value is not None else []}}).encode()
        with serving(lambda request: request.reply(status, body)) as server:
            return ask(server.url, source="metrics", json=wanted)

    assert answered(200, "0.0002").ok
    high = answered(200, "0.2")
    assert not high.ok
    assert not high.unverified
    for doubtful in (answered(503, "0"), answered(200, None), answered(200, "NaN")):
        assert doubtful.unverified
        assert not doubtful.ok
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert ask(f"http://127.0.0.1:{port}/", source="metrics", json=wanted).unverified


def test_headers_are_sent_and_a_caches_answer_is_not_wanted() -> None:
    seen: dict[str, str | None] = {}

    def look(request: Handler) -> None:
        seen.update({name.lower(): value for name, value in request.headers.items()})
        request.reply(200)

    with serving(look) as server:
        assert ask(server.url, headers={"Authorization": "Bearer abc", "Host": "shop.example.com"}).ok
    assert seen["authorization"] == "Bearer abc"
    assert seen["host"] == "shop.example.com"
    assert seen["cache-control"] == "no-cache"


def test_a_certificate_must_be_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    with serving(lambda request: request.reply(200)) as server:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(certificate, key)
        server.socket = trust.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.server_port}/"
        assert "its certificate is not trusted" in ask(url).text
        assert ask(url, ca_file=str(certificate)).ok
