# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `http`: what a URL answers, which version answers, and how fast.

Redirects are not followed, proxies of the environment are not used: the answer comes from the address in the profile.
A 200 alone proves little: a cache or an old process gives it too. So `version` compares what answers with what should
run, and requests ask caches to stand aside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .check_model import (
    Context,
    Sample,
    bad,
    difference,
    empty_problems,
    good,
    is_range,
    number,
    shown,
    text_map_problem,
    unverified,
)
from .check_tcp import connect, connection_words

KEYS = frozenset(
    {"url", "method", "status", "headers", "json", "contains", "version", "latency", "ca_file", "source"},
)
REQUIRED: tuple[str, ...] = ("url",)
BODY_LIMIT = 1024 * 1024
LATENCY_SAMPLES = 10
_CHUNK = 65536
_WHOLE_COMMIT = (40, 64)  # SHA-1 and SHA-256
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


_SEVERAL = object()


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole answer, or the beginning of a large one."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes  # at most BODY_LIMIT + 1 bytes
    seconds: float


class NoAnswer(Exception):
    """No (whole) answer came; the text says why and shows no secret."""


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence that shows no secret."""
    found = []
    if url := url_problem(options["url"]):
        found.append(f"`url` {url}")
    if headers := text_map_problem("headers", options.get("headers", {})):
        found.append(headers)
    found += empty_problems(options, "status", "json", "contains")
    version = options.get("version")
    if version is not None and (("header" in version) == ("json" in version)):
        found.append("`version` is read from either `header` or `json`")
    if version is not None and (("value" in version) == ("component" in version)):
        found.append("`version` is compared with either a `value` or that of a `component`")
    if "component" in (version or {}) and options.get("view") == "outside":
        found.append("`version` can name a component only where the plan is, with view inside; give a `value`")
    latency = options.get("latency")
    if latency is not None and (
        latency["p95_seconds"] <= 0 or not 1 <= latency.get("samples", LATENCY_SAMPLES) <= 1000
    ):
        found.append("`latency` wants p95_seconds above 0 and 1 to 1000 samples")
    if options.get("method") == "HEAD" and ({"json", "contains"} & set(options) or "json" in (version or {})):
        found.append("a HEAD request has no body to look into; use GET")
    return found


def url_problem(url: str) -> str:
    """Return why a URL is refused, or an empty string."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "must be ASCII without spaces; write other characters as %XX"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        return "must look like https://shop.example.com/health"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user or password; put them into `headers`, as Authorization"
    return ""


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Ask once (for `latency`: as often as it says, within timeout seconds each) and judge the answer."""
    times = int(options.get("latency", {}).get("samples", LATENCY_SAMPLES)) if "latency" in options else 1
    metrics = options.get("source") == "metrics"
    seconds: list[float] = []
    verdict = good("")
    for _ in range(times):
        try:
            answer = ask(options, timeout)
        except NoAnswer as exc:
            return unverified(f"the metrics backend: {exc}") if metrics else bad(str(exc))
        seconds.append(answer.seconds)
        verdict = _judge(options, context, answer, metrics=metrics)
        if not verdict.ok:
            return verdict
    if "latency" in options:
        return _judge_latency(seconds, float(options["latency"]["p95_seconds"]))
    return good(f"{verdict.text} in {1000 * seconds[-1]:.0f} ms")


def _judge_latency(seconds: list[float], limit: float) -> Sample:
    """Take the 95th percentile by nearest rank: the smallest time that 95 % of the requests did not exceed."""
    p95 = sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
    text = f"p95 of {len(seconds)} requests is {1000 * p95:.0f} ms"
    return good(text) if p95 <= limit else bad(f"{text}, expected at most {1000 * limit:.0f} ms")


def _judge(options: Mapping[str, Any], context: Context, answer: Answer, *, metrics: bool) -> Sample:
    wanted = options.get("status") or [200]
    if answer.status not in wanted:
        text = f"answered {answer.status}, expected {' or '.join(str(status) for status in wanted)}"
        if 300 <= answer.status < 400:
            text += " (redirects are not followed)"
        return unverified(f"the metrics backend {text}") if metrics else bad(text)
    for judge in (_judge_body, _judge_version):
        verdict = judge(options, context, answer)
        if not verdict.ok:
            return verdict
    return verdict


def _judge_body(options: Mapping[str, Any], context: Context, answer: Answer) -> Sample:
    del context
    paths = options.get("json") or {}
    if not paths and "contains" not in options:
        return good("")
    if len(answer.body) > BODY_LIMIT:
        return bad(f"answered {answer.status} with more than {BODY_LIMIT // 1024} KiB; that is not looked into")
    if "contains" in options and options["contains"].encode() not in answer.body:
        return bad(f"answered {answer.status}, but without the text {shown(options['contains'])}")
    metrics = options.get("source") == "metrics"
    for path, wanted in paths.items():
        try:
            found = look_up(answer.body, path)
        except ValueError as exc:
            return unverified(f"the metrics backend: {exc}") if metrics else bad(str(exc))
        if metrics and is_range(wanted) and number(found) is None:
            return unverified(f"the metrics backend has no number at {shown(path)}")
        if unlike := difference(found, wanted):
            return bad(f"{printable_path(path)} {unlike}")
    return good("")


def _judge_version(options: Mapping[str, Any], context: Context, answer: Answer) -> Sample:
    version = options.get("version")
    if version is None:
        return good(str(answer.status))
    wanted: tuple[str, ...] | None = None  # no plan: whatever runs is what should run
    if "value" in version:
        wanted = (version["value"],)
    elif context.expect is None:
        wanted = None
    elif version["component"] in context.expect:
        wanted = context.expect[version["component"]]
    else:
        return unverified(f"the plan has no component {version['component']} whose version could be expected")
    try:
        found = _version_said(version, answer)
    except ValueError as exc:
        return bad(str(exc))
    if not found.strip():
        return bad(f"answered {answer.status}, but with an empty version")
    if wanted is not None and not any(same_version(found, one) for one in wanted):
        return bad(f"version {shown(found)} answers, expected {' or '.join(shown(one) for one in wanted)}")
    return good(f"{answer.status}; version {shown(found)}")


def _version_said(version: Mapping[str, Any], answer: Answer) -> str:
    """Return the version that an answer gives.

    :raises ValueError: it gives none, or several.
    """
    if "header" in version:
        said = list(dict.fromkeys(answer.headers.get_all(version["header"], [])))
        if not said:
            raise ValueError(f"answered {answer.status}, but without the header {shown(version['header'])}")
        if len(said) > 1:  # a proxy adds its own; which one counts is anybody's guess
            raise ValueError(f"gave the header {shown(version['header'])} twice: {shown(said[0])} and {shown(said[1])}")
        return said[0]
    found = look_up(answer.body, version["json"])
    kinds = (str, int, float)
    if not any(type(found) is kind for kind in kinds):  # not bool, which is an int
        raise ValueError(f"answered with {shown(found)} at {shown(version['json'])}, where a version was expected")
    return str(found)


def same_version(found: str, wanted: str) -> bool:
    """Say whether two spellings name one version: equal, or two commit ids of which one abbreviates the other."""
    one, other = found.strip(), wanted.strip()
    short, long = sorted((one, other), key=len)
    # What has digits alone may be a date or a build's number, and those are not abbreviated.
    commits = len(long) in _WHOLE_COMMIT or not short.isdecimal()
    if commits and _COMMIT.fullmatch(one) and _COMMIT.fullmatch(other):
        return long.startswith(short)
    return one == other


def printable_path(path: str) -> str:
    """Return a JSON path for a message."""
    return shown(path)[1:-1]


def look_up(body: bytes, path: str) -> Any:
    """Return the value at a dotted path ("data.result.0.value.1") of a JSON body.

    :raises ValueError: no JSON, or nothing at that path, or a name on it stands there with several values.
    """
    if len(body) > BODY_LIMIT:
        raise ValueError(f"the answer is larger than {BODY_LIMIT // 1024} KiB; that is not looked into")
    try:
        value = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise ValueError(f"the answer has nothing at {shown(path)}")
        if value is _SEVERAL:
            raise ValueError(f"the answer has several values at {shown(path)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON; readers disagree on which value a name has that stands there twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = _SEVERAL if name in found and difference(found[name], value) else value
    return found


def ask(options: Mapping[str, Any], timeout: float) -> Answer:
    """Send one request; timeout seconds bound it as a whole, also against an answer that trickles in.

    :raises NoAnswer: no (whole) answer; the words name host and port, not the path: it may hold a token.
    """
    parts = urlsplit(options["url"])
    host = str(parts.hostname)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection: http.client.HTTPConnection
    trust: ssl.SSLContext | None = None
    if parts.scheme == "https":
        try:
            trust = ssl.create_default_context(cafile=options.get("ca_file"))
        except OSError as exc:
            raise NoAnswer(f"ca_file cannot be used: {exc.strerror or type(exc).__name__}") from None
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=trust)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    headers = {"user-agent": "rollbackctl", "cache-control": "no-cache", "connection": "close"}
    headers.update({name.lower(): value for name, value in options.get("headers", {}).items()})
    started = time.monotonic()
    expired = threading.Event()
    # A socket's timeout begins anew with each byte; this one does not.
    alarm = threading.Timer(timeout, _cut, (connection, expired))
    alarm.daemon = True
    alarm.start()
    try:
        line = connect(host, port, started + timeout)
        # What time the handshake has is the socket's, for all of it together; nobody else can cut it short.
        connection.sock = trust.wrap_socket(line, server_hostname=host) if trust else line
        if expired.is_set():  # with nothing to cut yet
            raise NoAnswer(f"{host}:{port}: no whole answer within {timeout:g} s")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(options.get("method", "GET"), target, headers=headers)
        response = connection.getresponse()
        body = _read(response)
        if expired.is_set():
            raise NoAnswer(f"{host}:{port}: no whole answer within {timeout:g} s")
        return Answer(response.status, response.headers, body, time.monotonic() - started)
    except (OSError, http.client.HTTPException) as exc:
        if expired.is_set():
            words = f"no whole answer within {timeout:g} s"
        elif isinstance(exc, ssl.SSLCertVerificationError):
            words = f"its certificate is not trusted: {exc.verify_message}"
        elif isinstance(exc, OSError):
            words = connection_words(exc, timeout)
        else:
            words = f"not a whole HTTP answer ({type(exc).__name__})"
        raise NoAnswer(f"{host}:{port}: {words}") from None
    finally:
        alarm.cancel()
        connection.close()


def _read(response: http.client.HTTPResponse) -> bytes:
    body = bytearray()
    while len(body) <= BODY_LIMIT:
        chunk = response.read(min(_CHUNK, BODY_LIMIT + 1 - len(body)))
        if not chunk:
            break
        body += chunk
    # read(n) ends quietly when the connection breaks early: https://github.com/python/cpython/issues/55654
    if len(body) <= BODY_LIMIT and response.length:
        raise http.client.IncompleteRead(bytes(body[:0]), response.length)
    return bytes(body)


def _cut(connection: http.client.HTTPConnection, expired: threading.Event) -> None:
    expired.set()
    line = connection.sock
    if line is not None:
        # Not the SSL socket's own shutdown: it would pull the TLS object from under the reading thread. It may
        # be closed already, when the request ended in the same instant.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(line, socket.SHUT_RDWR)
