# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against servers that are busy, break off, say nothing, or lie; the same against a real API server is in
test_kube_client_cluster.py.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import kube_retry
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError, Rule

from tests.support.kube_proxy import FaultProxy
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
API = "/apis/apps/v1/namespaces/shop/deployments/api"


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_retry, "TOTAL_SECONDS", 1.0)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# Asking again.


@pytest.mark.parametrize("trouble", [busy(429), busy(500), busy(502), busy(503), busy(504), hang_up])
def test_a_read_is_repeated(trouble: Answer) -> None:
    with client_of(one_after_the_other(trouble, trouble, fine)) as (client, server):
        assert client.get(PODS)["kind"] == "Pod"
        assert len(server.asked) == 3


def test_retry_after_is_honoured() -> None:
    with client_of(one_after_the_other(busy(429, Retry_After="1"), fine)) as (client, _):
        began = time.monotonic()
        client.get(PODS)
        assert 1 <= time.monotonic() - began < 10


@pytest.mark.parametrize("trouble", [busy(429, Retry_After="86400"), busy(503), hang_up])
@pytest.mark.usefixtures("little_patience")
def test_patience_ends(trouble: Answer) -> None:
    with client_of(trouble) as (client, server):
        began = time.monotonic()
        with pytest.raises(KubeError):
            client.get(PODS)
        assert time.monotonic() - began < 10
        assert len(server.asked) < 20


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422, 501])
def test_what_asking_again_cannot_change_is_raised_at_once(status: int) -> None:
    with client_of(busy(status)) as (client, server):
        with pytest.raises(KubeError) as caught:
            client.get(PODS)
        assert (caught.value.status, len(server.asked)) == (status, 1)


@pytest.mark.parametrize("trouble", [busy(429), busy(429, Retry_After="0"), busy(503, Retry_After="0")])
def test_a_write_that_was_not_taken_is_repeated(trouble: Answer) -> None:
    with client_of(one_after_the_other(trouble, fine)) as (client, server):
        client.json_patch(API, [{"op": "remove", "path": "/spec/paused"}])
        assert [one.method for one in server.asked] == ["PATCH", "PATCH"]
        assert server.asked[0].body == server.asked[1].body


@pytest.mark.parametrize("trouble", [busy(500), busy(502), busy(503), busy(504)])
def test_a_write_that_may_have_been_taken_is_not_repeated(trouble: Answer) -> None:
    with client_of(one_after_the_other(trouble, fine)) as (client, server):
        with pytest.raises(KubeError):
            client.replace(API, {})
        assert len(server.asked) == 1


def test_a_lost_answer_to_a_write_means_that_the_outcome_is_unknown() -> None:
    writes: dict[str, Callable[[Client], object]] = {
        "POST": lambda client: client.create(PODS, {}),
        "PUT": lambda client: client.replace(API, {}),
        "PATCH": lambda client: client.merge_patch(API, {}),
        "DELETE": lambda client: client.delete(API),
    }
    with serving(fine) as server, FaultProxy(server.url) as proxy:
        client = local(proxy.url)
        client.get(PODS)  # the connection is a kept one
        for method, write in writes.items():
            proxy.add(method=method, drop="after")
            with pytest.raises(KubeError, match="whether it took effect is not known") as caught:
                write(client)
            assert (caught.value.status, caught.value.reason, caught.value.sent) == (0, "Unreachable", True)
            assert [one.method for one in server.asked].count(method) == 1


def test_half_an_answer_to_a_write_is_a_lost_one() -> None:
    def half(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"kind":')
        handler.close_connection = True

    with client_of(half) as (client, server):
        with pytest.raises(KubeError, match="is not known") as caught:
            client.create(PODS, {})
        assert (caught.value.status, len(server.asked)) == (0, 1)


def test_a_write_that_never_left_is_repeated() -> None:
    port = unused_port()
    client = local(f"http://127.0.0.1:{port}")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def appear() -> None:
        time.sleep(0.3)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        line, _ = listener.accept()
        line.recv(65536)
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    threading.Thread(target=appear, daemon=True).start()
    with listener:
        assert client.create(PODS, {}) == {}


@pytest.mark.usefixtures("little_patience")
def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    asks: list[Callable[[Client], object]] = [lambda client: client.get(PODS), lambda client: client.create(PODS, {})]
    for ask in asks:
        with pytest.raises(KubeError) as caught:
            ask(local(url))
        assert (caught.value.status, caught.value.sent) == (0, False)
        assert caught.value.message.endswith(f"pods in shop: no answer from {url} (nothing listens there).")


@pytest.mark.usefixtures("little_patience")
def test_a_server_that_says_nothing_costs_no_more_than_the_timeout() -> None:
    with client_of(silent, timeout=0.3) as (client, server):
        began = time.monotonic()
        with pytest.raises(KubeError, match="it took too long") as caught:
            client.create(PODS, {})
        assert (caught.value.sent, len(server.asked)) == (True, 1)
        assert time.monotonic() - began < 5
        with pytest.raises(KubeError, match="it took too long"):
            client.get(PODS)
        assert time.monotonic() - began < 10


@pytest.mark.usefixtures("little_patience")
def test_many_requests_do_not_wait_for_a_silent_server_one_after_the_other() -> None:
    with client_of(silent, timeout=0.4, threads=2) as (client, server):
        began = time.monotonic()
        with pytest.raises(KubeError, match="it took too long"):
            client.each(lambda _: client.get(PODS), range(12))
        assert time.monotonic() - began < 12 * 1.0 / 2
        server.answer = fine
        assert client.get(PODS)["kind"] == "Pod"
        assert client._trouble.seconds() == 0


@pytest.mark.usefixtures("little_patience")
def test_an_answer_that_trickles_in_is_not_waited_for() -> None:
    def trickle(handler: Handler) -> None:
        while not handler.server.over.wait(0.1):
            handler.stream(b" ", end=False)

    with client_of(trickle, timeout=0.3) as (client, _):
        began = time.monotonic()
        with pytest.raises(KubeError, match="it took too long"):
            client.get(PODS)
        assert time.monotonic() - began < 10


def test_connections_are_kept() -> None:
    with client_of(fine) as (client, server):
        for _ in range(5):
            client.get(PODS)
        server.answer = busy(404)
        assert client.find(PODS) is None
        server.answer = fine
        client.get(PODS)
        assert server.connections == 1
        client.each(lambda _: client.get(PODS), range(100))
        assert server.connections <= 16


# What is sent and what comes back.


def test_requests_are_what_the_api_wants() -> None:
    with client_of(fine) as (client, server):
        client.json_patch(API, [{"op": "test", "path": "/a", "value": 1}], dry_run=True)
        client.merge_patch(API, {"a": None})
        client.find(API, resourceVersion="0")
        client.delete(API)
        dry, merge, find, delete = server.asked
    assert (dry.method, dry.query) == ("PATCH", {"dryRun": "All"})
    assert dry.headers["content-type"] == ["application/json-patch+json"]
    assert json.loads(dry.body) == [{"op": "test", "path": "/a", "value": 1}]
    assert (merge.headers["content-type"], merge.body) == (["application/merge-patch+json"], b'{"a": null}')
    assert (find.query, find.token, find.headers["user-agent"]) == (
        {"resourceVersion": "0"},
        "the-token",
        ["rollbackctl"],
    )
    assert (delete.method, delete.path, delete.body) == ("DELETE", API, b"")


def page(names: str, following: str = "") -> Answer:
    items = [{"metadata": {"name": name}} for name in names]
    metadata = {"resourceVersion": "7", "continue": following}
    return lambda handler: handler.reply(
        200, {"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items}
    )


def test_a_list_is_followed_to_its_end() -> None:
    with client_of(one_after_the_other(page("ab", "next/1"), page("c"))) as (client, server):
        items, version = client.list_at(PODS, labelSelector="app=api,!canary")
        assert ([item["metadata"]["name"] for item in items], version) == (["a", "b", "c"], "7")
        assert {(item["apiVersion"], item["kind"]) for item in items} == {("v1", "Pod")}
        first, second = server.asked
        assert first.query == {"limit": "500", "labelSelector": "app=api,!canary"}
        assert second.query["continue"] == "next/1"


def test_a_list_that_grew_too_old_is_begun_anew() -> None:
    answers = [page("ab", "1"), busy(410), page("xy", "2"), page("z")]
    with client_of(one_after_the_other(*answers)) as (client, server):
        assert [item["metadata"]["name"] for item in client.list(PODS)] == ["x", "y", "z"]
        assert "continue" not in server.asked[2].query
    with client_of(one_after_the_other(page("ab", "1"), busy(410), page("ab", "1"), busy(410))) as (client, _):
        with pytest.raises(KubeError) as caught:
            client.list(PODS)
        assert caught.value.reason == "Expired"


def test_names_asks_for_metadata_only() -> None:
    with client_of(page("ab")) as (client, server):
        assert client.names(PODS) == [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]
        assert "PartialObjectMetadataList" in server.asked[0].headers["accept"][0]


def test_find_is_none_only_where_nothing_is() -> None:
    with client_of(one_after_the_other(busy(404), busy(403))) as (client, _):
        assert client.find(API) is None
        with pytest.raises(KubeError):
            client.find(API)


def test_what_was_asked_ahead_is_taken_once() -> None:
    refused = {"/gone": busy(404), "/odd": busy(403)}

    def answer(handler: Handler) -> None:
        refused.get(handler.path, page("ab") if "limit" in handler.path else fine)(handler)

    with client_of(answer) as (client, server):
        with client.ahead(objects=[API, "/gone", "/odd"], lists=[(PODS, {"labelSelector": "a=b"})]):
            assert len(server.asked) == 4
            assert client.get(API)["kind"] == "Pod"
            assert client.find("/gone") is None
            assert len(client.list(PODS, labelSelector="a=b")) == 2
            assert len(server.asked) == 4, "all of it was known"
            with pytest.raises(KubeError, match="403"):
                client.get("/odd")
            client.get(API)
            client.names(PODS, labelSelector="a=b")
            assert len(server.asked) == 7, "an error is heard where it belongs, and nothing is taken twice"
        with client.ahead(objects=[API]):
            pass
        client.get(API)
        assert len(server.asked) == 9, "what was not taken is forgotten"


def test_text() -> None:
    with client_of(lambda handler: handler.reply(200, b"one\n\xff two\n", Content_Type="text/plain")) as (client, _):
        assert client.text(f"{PODS}/a/log", tailLines="2") == "one\n\ufffd two\n"


def test_an_answer_that_is_not_json() -> None:
    for body in ("<html>login</html>", "[1]", ""):
        with client_of(lambda handler, body=body: handler.reply(200, body)) as (client, _):  # type: ignore[misc]
            with pytest.raises(KubeError, match="is this address an API server") as caught:
                client.get(PODS)
            assert (caught.value.status, caught.value.reason) == (200, "NotJson")


# What a refusal says.


def refused(status: int, **document: Any) -> KubeError:
    body = {"kind": "Status", "code": status, **document}
    with client_of(lambda handler: handler.reply(status, body)) as (client, _):
        with pytest.raises(KubeError) as caught:
            client.json_patch(API, [])
        return caught.value


def test_a_refusal_is_one_printable_line() -> None:
    error = refused(403, reason="Forbidden", message="deployments.apps is forbidden:\n exceeded quota \x1b[31m")
    assert str(error) == (
        "patch deployments/api in shop: the API server answered 403 Forbidden: "
        "deployments.apps is forbidden: exceeded quota \\x1b[31m"
    )
    assert (error.status, error.reason) == (403, "Forbidden")
    assert "missing right" in error.next_step


def test_an_invalid_object_is_not_quoted_but_its_fields_are_named() -> None:
    quoted = 'Invalid value: core.PodTemplateSpec{Env:[]core.EnvVar{core.EnvVar{Value:"hunter2"}}}: field is immutable'
    newer = 'Invalid value: {"spec":{"env":[{"value":"hunter2"}]}}: field is immutable'
    causes = [{"field": "spec.template", "message": quoted}, {"field": "spec.selector", "message": newer}]
    error = refused(
        422,
        reason="Invalid",
        message=f'Job.batch "a" is invalid: spec.template: {quoted}',
        details={"name": "a", "causes": causes},
    )
    assert str(error).endswith(
        "422 Invalid: a is invalid: spec.template: Invalid value: field is immutable; "
        "spec.selector: Invalid value: field is immutable"
    )
    assert error.causes[0] == ("spec.template", "Invalid value: field is immutable")
    assert "hunter2" not in repr(refused(422, reason="Invalid", message=f"spec.template: {quoted}"))
    kept = 'spec.containers[0].image: Invalid value: "A B": must not have spaces'
    assert kept in str(refused(422, reason="Invalid", message=kept))


def test_a_long_message_is_cut() -> None:
    assert len(str(refused(400, reason="BadRequest", message="x" * 5000))) < 800


@pytest.mark.parametrize(
    ("status", "reason"), [(410, "Expired"), (404, "NotFound"), (418, "Status418"), (409, "Conflict")]
)
def test_a_load_balancers_refusal_has_a_reason_too(status: int, reason: str) -> None:
    with client_of(lambda handler: handler.reply(status, "<html>", Content_Type="text/html")) as (client, _):
        with pytest.raises(KubeError) as caught:
            client.get("/apis/apps/v1/deployments")
        assert caught.value.reason == reason
        assert "<html>" not in str(caught.value)
        assert str(caught.value).startswith(f"read deployments: the API server answered {status}")


def test_gone_is_called_expired() -> None:
    assert refused(410, reason="Gone", message="too old").reason == "Expired"


def test_an_error_can_be_handed_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(refused(409, reason="AlreadyExists", message="x")))  # noqa: S301 - its own
    assert (error.status, error.reason) == (409, "AlreadyExists")


# Many at once.


def test_each_keeps_the_order_and_is_bounded() -> None:
    running: list[int] = []
    most = 0
    lock = threading.Lock()

    def work(number: int) -> int:
        nonlocal most
        with lock:
            running.append(number)
            most = max(most, len(running))
        time.sleep(0.01)
        with lock:
            running.remove(number)
        return number * number

    client = local("http://127.0.0.1:1", threads=4)
    assert client.each(work, range(30)) == [number * number for number in range(30)]
    assert most == 4
    assert client.each(work, []) == []
    assert client.each(work, [3]) == [9]


def test_each_tries_all_and_raises_the_first_error() -> None:
    tried = []

    def work(number: int) -> None:
        tried.append(number)
        if number in {3, 7}:
            time.sleep(0.1 if number == 3 else 0)
            raise KubeError(f"number {number}")

    with pytest.raises(KubeError, match="number 3"):
        local("http://127.0.0.1:1", threads=4).each(work, range(20))
    assert sorted(tried) == list(range(20))


def test_a_signal_gets_through_while_many_are_waited_for() -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    with client_of(silent, threads=4) as (client, server):
        before = signal.signal(signal.SIGALRM, ring)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            began = time.monotonic()
            with pytest.raises(Alarm):
                client.each(lambda _: client.create(PODS, {}), range(20))
            assert time.monotonic() - began < 10
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        server.over.set()  # the four get their (lost) answers now
        time.sleep(0.3)
        assert len(server.asked) == 4  # and nothing more was begun


def ask_in_child(client: Client, found: Any) -> None:
    found.put([one["kind"] for one in client.each(lambda _: client.get(PODS), range(8))])


def test_it_works_in_a_forked_process_also_when_made_before() -> None:
    with client_of(fine) as (client, server):
        client.get(PODS)
        context = multiprocessing.get_context("fork")
        found = context.Queue()
        child = context.Process(target=ask_in_child, args=(client, found))
        child.start()
        assert found.get(timeout=20) == ["Pod"] * 8
        child.join(20)
        assert child.exitcode == 0
        client.get(PODS)  # the parent's own connection is untouched
        assert [one.method for one in server.asked] == ["GET"] * 10


# Rights and time.


def test_allowed_returns_what_is_not() -> None:
    def review(handler: Handler) -> None:
        asked = json.loads(handler.asked.body)["spec"]["resourceAttributes"]
        if handler.server.asked[-1] is handler.asked and asked["verb"] == "get" and asked not in seen:
            seen.append(asked)
            handler.refuse(503, "ServiceUnavailable")  # asking changes nothing, so it may be asked again
        else:
            handler.reply(201, {"kind": "SelfSubjectAccessReview", "status": {"allowed": asked["verb"] != "patch"}})

    seen: list[Any] = []
    read = Rule("get", "deployments", "apps", "shop", name="api")
    patch = Rule("patch", "deployments", "apps", "shop", subresource="scale")
    nodes = Rule("list", "nodes", "", "")
    with client_of(review) as (client, server):
        assert client.allowed([read, patch, nodes, patch]) == [patch]
        assert {one.path for one in server.asked} == {"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"}
    assert seen == [{"verb": "get", "resource": "deployments", "group": "apps", "namespace": "shop", "name": "api"}]
    assert [str(rule) for rule in (read, patch, nodes)] == [
        "get deployments.apps api in shop",
        "patch deployments.apps/scale in shop",
        "list nodes",
    ]


def test_time_does_not_go_back_from_one_answer_to_the_next() -> None:
    """The header has whole seconds: a lease that ended would hold again. A clock that was set is followed."""
    there = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)

    def says(handler: Handler) -> None:
        handler.date_time_string = lambda *_: format_datetime(there, usegmt=True)  # type: ignore[method-assign]
        handler.refuse(403, "Forbidden")

    def ask(client: Client) -> datetime:
        with pytest.raises(KubeError):
            client.get("/version")
        return client.server_time()

    with client_of(says) as (client, _):
        first = ask(client)
        time.sleep(0.3)
        assert (ask(client) - first).total_seconds() >= 0.3
        there += timedelta(seconds=1)
        assert 0 <= (ask(client) - there).total_seconds() < 0.3
        there -= timedelta(minutes=5)
        assert 0 <= (ask(client) - there).total_seconds() < 0.3


def test_the_time_is_the_servers() -> None:
    there = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)

    def late(handler: Handler) -> None:
        handler.date_time_string = lambda *_: format_datetime(there, usegmt=True)  # type: ignore[method-assign]
        handler.refuse(403, "Forbidden")

    with client_of(late) as (client, server):
        assert abs((client.server_time() - there).total_seconds()) <= 1
        assert server.paths() == ["/version"]
        first = client.server_time()
        time.sleep(0.2)
        assert 0.15 < (client.server_time() - first).total_seconds() < 1
        assert server.paths() == ["/version"]
