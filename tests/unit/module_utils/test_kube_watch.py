# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches that are cut, grow too old, say nothing, or lie."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import kube_retry, kube_watch
from ansible.module_utils.rollbackctl.kube_client import KubeError

from tests.support.kube_proxy import LatencyProxy
from tests.unit.module_utils.kube_server import (
    Answer,
    Handler,
    busy,
    client_of,
    fine,
    hang_up,
    local,
    one_after_the_other,
    serving,
    silent,
)

PODS = "/api/v1/namespaces/shop/pods"


def event(kind: str, version: str, **more: Any) -> bytes:
    return json.dumps({"type": kind, "object": {"metadata": {"resourceVersion": version}, **more}}).encode() + b"\n"


def lines(*pieces: bytes, end: bool = True) -> Answer:
    return lambda handler: handler.stream(*pieces, end=end)


def versions(events: Iterator[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    return [(kind, thing["metadata"]["resourceVersion"]) for kind, thing in events]


def test_a_watch_puts_lines_together_and_goes_on_from_the_last_version() -> None:
    both = event("MODIFIED", "11") + event("BOOKMARK", "20")

    def first(handler: Handler) -> None:
        handler.stream(event("ADDED", "10")[:9], event("ADDED", "10")[9:] + both[:30], both[30:], end=True)

    def second(handler: Handler) -> None:
        handler.stream(event("DELETED", "21"), b"\n", event("MODIFIED", "22")[:5], end=False)

    with client_of(one_after_the_other(first, second, silent)) as (client, server):
        began = time.monotonic()
        seen = versions(client.watch(PODS, "9", 1.2, fieldSelector="metadata.name=a"))
        assert 1.1 < time.monotonic() - began < 6
    assert seen == [("ADDED", "10"), ("MODIFIED", "11"), ("BOOKMARK", "20"), ("DELETED", "21")]
    assert [one.query["resourceVersion"] for one in server.asked] == ["9", "20", "21"]
    assert server.asked[0].query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "9",
        "timeoutSeconds": "2",
        "fieldSelector": "metadata.name=a",
    }


@pytest.mark.parametrize("how", ["event", "answer"])
def test_a_version_that_is_too_old_is_expired(how: str) -> None:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    told = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
    with client_of(lines(told) if how == "event" else busy(410)) as (client, server):
        with pytest.raises(KubeError) as caught:
            list(client.watch(PODS, "1", 5))
        assert (caught.value.status, caught.value.reason, len(server.asked)) == (410, "Expired", 1)


def test_another_error_in_a_watch_is_raised() -> None:
    status = {"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd is away"}
    with client_of(lines(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")) as (client, _):
        words = "watch pods in shop: the API server answered 500 InternalError: etcd"
        with pytest.raises(KubeError, match=words):
            list(client.watch(PODS, "1", 5))
    with client_of(lines(b"{}\n")) as (client, _), pytest.raises(KubeError, match="is not an event"):
        list(client.watch(PODS, "1", 5))
    with client_of(busy(403)) as (client, _), pytest.raises(KubeError, match="403"):
        list(client.watch(PODS, "1", 5))


def test_a_silent_watch_ends_in_time() -> None:
    def begun(handler: Handler) -> None:
        handler.stream(end=False)
        silent(handler)

    for answer in (silent, begun):
        with client_of(answer) as (client, _):
            began = time.monotonic()
            assert list(client.watch(PODS, "1", 0.7)) == []
            assert 0.6 < time.monotonic() - began < 5


def test_a_half_open_watch_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_watch, "WINDOW", 0.3)
    monkeypatch.setattr(kube_watch, "GRACE", 0.1)

    def answer(handler: Handler) -> None:
        if "watch" not in handler.asked.query:
            fine(handler)
        elif handler.asked.query["resourceVersion"] == "1":
            handler.stream(event("ADDED", "2"), end=False)
            time.sleep(0.1)
            proxy.frozen = True  # from now on nothing passes on this connection, and nobody hangs up
            silent(handler)
        else:
            handler.stream(event("ADDED", "3"), end=False)
            silent(handler)

    with serving(answer) as server, LatencyProxy("127.0.0.1", server.server_port, 0.01) as proxy:
        client = local(proxy.url.replace("https", "http"))
        seen = []
        for kind, thing in client.watch(PODS, "1", 5):
            seen.append((kind, thing["metadata"]["resourceVersion"]))
            if len(seen) == 1:
                threading.Timer(0.3, setattr, (proxy, "frozen", False)).start()
            if len(seen) == 2:
                break
        assert seen == [("ADDED", "2"), ("ADDED", "3")]


def test_a_watch_that_is_cut_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_retry, "TOTAL_SECONDS", 1.0)
    for answer in (hang_up, busy(503), lines(), lines(end=False)):
        with client_of(answer) as (client, server):
            with pytest.raises(KubeError):
                list(client.watch(PODS, "1", 20))
            assert 2 < len(server.asked) < 20


def test_a_watch_that_is_left_early_lets_the_connection_go() -> None:
    def endless(handler: Handler) -> None:
        number = 0
        while not handler.server.over.wait(0.01):
            number += 1
            handler.stream(event("MODIFIED", str(number)), end=False)

    with client_of(endless, threads=1) as (client, _):
        for _ in range(12):  # more than there are connections
            next(client.watch(PODS, "0", 5))


def test_a_watching_thread_can_ask_for_something_else() -> None:
    def answer(handler: Handler) -> None:
        if "watch" in handler.asked.query:
            handler.stream(event("ADDED", "1"), end=False)
            silent(handler)
        else:
            fine(handler)

    with client_of(answer, threads=4) as (client, _):

        def follow(_: int) -> str:
            next(events := client.watch(PODS, "0", 5))
            kind: str = client.get(PODS)["kind"]
            events.close()  # type: ignore[attr-defined]
            return kind

        assert client.each(follow, range(4)) == ["Pod"] * 4
