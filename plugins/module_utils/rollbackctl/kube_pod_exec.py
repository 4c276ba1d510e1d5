# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a program in a container of a pod: no shell, no terminal, nothing to read; its exit code is what counts.

The API server speaks WebSocket for this (subprotocols v5 and v4.channel.k8s.io): the first byte of each message says
what it is, 1 stdout, 2 stderr, 3 how it ended. The connection is made here, with the same credentials, certificates and
proxy as all other requests, because the official client's can take certificates from files only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import urllib3

from .kube_auth import Access
from .kube_credentials import Credentials
from .kube_error import KubeError, refusal, unreachable
from .kube_http import AGENT
from .kube_tls import trust
from .names import printable

STDOUT, STDERR, ERROR = 1, 2, 3
PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
STDOUT_LIMIT = 1024 * 1024
STDERR_LIMIT = 64 * 1024
CLOSING_SECONDS = 1.0


@dataclass
class Ended:
    """What came of it. rc: the exit code; None when none came, and problem says why. late: the time was over."""

    rc: int | None = None
    problem: str = ""
    late: bool = False
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)


def execute(access: Access, namespace: str, pod: str, container: str, argv: Sequence[str], timeout: float) -> Ended:
    """Run argv to its end or for timeout seconds; what runs longer goes on in the container, nobody can end it there.

    :raises KubeError: the API server does not let us, or does not answer.
    """
    import websocket  # noqa: PLC0415 - costs 50 ms, and hardly anything needs it

    end = time.monotonic() + timeout
    verb = f"run a command in pod {printable(pod)} in {printable(namespace)}"
    query = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in argv)]
    place = urlsplit(access.server)
    path = f"{place.path.rstrip('/')}/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(query)}"
    credentials = access.source.fetch()
    try:
        line = _connect(access, credentials, timeout)
        talk: Any = websocket.WebSocket(skip_utf8_validation=True)
        with contextlib.closing(line):
            talk.connect(
                f"{'wss' if place.scheme == 'https' else 'ws'}://{place.netloc}{path}",
                socket=line,
                header=_headers(access, credentials),
                subprotocols=PROTOCOLS,
                suppress_origin=True,
                redirect_limit=0,
            )
            return _listen(talk, end)
    except websocket.WebSocketBadStatusException as exc:
        headers = urllib3.HTTPHeaderDict(exc.resp_headers or {})
        raise refusal(verb, exc.status_code, exc.resp_body or b"", headers) from None
    except (OSError, http.client.HTTPException, websocket.WebSocketException) as exc:
        raise unreachable(verb, access.server, exc) from None


def _connect(access: Access, credentials: Credentials, timeout: float) -> socket.socket:
    """Return a connection to the API server, through the proxy where there is one, TLS included."""
    place = urlsplit(access.server)
    host, port = str(place.hostname), place.port or (443 if place.scheme == "https" else 80)
    if access.proxy:
        proxy = urlsplit(access.proxy)
        if proxy.scheme != "http":
            raise KubeError(
                "a command in a pod cannot be run through a proxy that itself speaks TLS (proxy-url: https://).",
                sent=False,
                final=True,
            )
        line = http.client.HTTPConnection(str(proxy.hostname), proxy.port or 80, timeout=timeout)
        secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}" if proxy.username else None
        line.set_tunnel(host, port, urllib3.make_headers(proxy_basic_auth=secret) if secret else {})
    else:
        line = http.client.HTTPConnection(host, port, timeout=timeout)
    line.connect()
    plain: socket.socket = line.sock
    if place.scheme != "https":
        return plain
    try:
        return trust(access, credentials).wrap_socket(plain, server_hostname=access.tls_name or host)
    except BaseException:
        plain.close()
        raise


def _headers(access: Access, credentials: Credentials) -> list[str]:
    found = [f"User-Agent: {AGENT}"]
    if credentials.token:
        found.append(f"Authorization: Bearer {credentials.token}")
    return found + [f"{name}: {value}" for name, value in access.impersonate]


def _listen(talk: Any, end: float) -> Ended:
    """Collect what comes until the other side closes; how it ended may come before its last words."""
    from websocket import ABNF, WebSocketConnectionClosedException, WebSocketTimeoutException  # noqa: PLC0415 - see above

    ended = Ended(problem="the connection broke before it had ended")
    told = False
    while (left := end - time.monotonic()) > 0:
        talk.settimeout(min(left, CLOSING_SECONDS) if told else left)
        try:
            code, frame = talk.recv_data_frame(control_frame=True)
        except WebSocketTimeoutException:
            break
        except (WebSocketConnectionClosedException, OSError):
            return ended
        if code == ABNF.OPCODE_CLOSE:
            return ended
        if code not in {ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT} or not frame.data:
            continue
        channel, content = frame.data[0], bytes(frame.data[1:])
        if channel == STDOUT:
            ended.stdout = (ended.stdout + content)[:STDOUT_LIMIT]
        elif channel == STDERR:
            ended.stderr = (ended.stderr + content)[-STDERR_LIMIT:]
        elif channel == ERROR:
            ended.rc, ended.problem = _verdict(content)
            told = True
    ended.late = not told
    return ended


def _verdict(content: bytes) -> tuple[int | None, str]:
    """Return the exit code that a Status tells, or why there is none."""
    try:
        status: dict[str, Any] = json.loads(content)
        if status["status"] == "Success":
            return 0, ""
        for cause in (status.get("details") or {}).get("causes") or []:
            if cause.get("reason") == "ExitCode":
                return int(cause["message"]), ""
        # A program that cannot be started is told through several layers, each with words of its own before it.
        words = str(status.get("message") or status.get("reason"))
        return None, printable(words.rpartition("unable to start container process: ")[2])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, "the API server did not say how it ended"
