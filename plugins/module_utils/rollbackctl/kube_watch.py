# SPDX-License-Identifier: GPL-3.0-or-later
"""Following a collection of the Kubernetes API: one JSON object per line, for as long as the caller wants.

The server may cut a watch whenever it likes, and a half-open connection says nothing at all. So the stream is opened
anew from the last version seen, every WINDOW seconds at the latest.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from .kube_error import KubeError, status_refusal
from .kube_retry import Patience

WINDOW = 30.0
# How much longer than the server's own timeout to wait for it to end the stream.
GRACE = 2.0
_AGAIN = frozenset({0, 429, 500, 502, 503, 504})

Stream = Callable[[str, float], urllib3.BaseHTTPResponse]


def follow(stream: Stream, verb: str, version: str, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (type, object) until `seconds` have passed; see Client.watch.

    stream: opens a watch from a version, for so many seconds.
    """
    end = time.monotonic() + seconds
    patience = Patience()
    while (left := end - time.monotonic()) > 0:
        window, began = min(left, WINDOW), time.monotonic()
        seen = False
        error: KubeError | None = None
        try:
            answer = stream(version, window)
        except KubeError as exc:
            if exc.status not in _AGAIN or exc.final:
                raise
            error = exc
        else:
            with contextlib.closing(_events(answer, min(began + window + GRACE, end), verb)) as events:
                for kind, thing in events:
                    seen = True
                    version = thing.get("metadata", {}).get("resourceVersion") or version
                    yield kind, thing
        if seen or (error is None and time.monotonic() - began > 1):
            patience = Patience()  # it works: what comes later is a new trouble
        elif not patience.wait(error.retry_after if error else None, end - time.monotonic()):
            raise error or KubeError(
                f"{verb}: the API server ends the watch again and again.", status=200, reason="Cut"
            )


def _events(answer: urllib3.BaseHTTPResponse, end: float, verb: str) -> Generator[tuple[str, dict[str, Any]]]:
    """Yield what one open stream brings, until it ends, breaks or the time is over."""
    rest = b""
    whole = False
    try:
        while (left := end - time.monotonic()) > 0:
            line = getattr(answer.connection, "sock", None)
            if line is not None:
                line.settimeout(left)
            data = answer.read1(1 << 16)
            if not data:
                whole = True
                return
            *lines, rest = (rest + data).split(b"\n")
            for text in lines:
                if text.strip():
                    yield _event(text, verb)
    except (HTTPError, OSError):
        return  # cut, or silent for too long: opened anew by the caller
    finally:
        if not whole:
            answer.close()
        answer.release_conn()


def _event(text: bytes, verb: str) -> tuple[str, dict[str, Any]]:
    try:
        event = json.loads(text)
        kind, thing = event["type"], event["object"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise KubeError(f"{verb}: a line of the watch is not an event.", status=200, reason="NotJson") from None
    if kind == "ERROR":
        raise status_refusal(verb, int(thing.get("code") or 500), thing)
    return kind, thing
