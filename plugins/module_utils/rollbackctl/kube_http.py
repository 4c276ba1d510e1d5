# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to one API server: kept alive, shared by threads, with credentials that are fetched anew once refused."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util import parse_url

from .errors import Refused
from .kube_auth import Access
from .kube_credentials import Credentials
from .kube_error import KubeError, unreachable
from .kube_tls import trust

AGENT = "rollbackctl"
CONNECT_SECONDS = 5.0
# A peer that is gone without a word is noticed by the kernel after about 12 s, also on a silent watch.
_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]
_EXPIRES_EARLY = 10.0
_FETCH_AT_MOST_EVERY = 30.0
_DATE_WITHIN = timedelta(seconds=2)  # a second that is cut off, and one of the way; beyond, the server's clock was set


class NotSent(NewConnectionError):
    """The connection could not be made, handshake included: the request certainly never left."""


class _Plain(HTTPConnection):
    def connect(self) -> None:
        """Connect, and tell a failure from one after sending."""
        try:
            super().connect()
        except (OSError, HTTPError) as exc:
            raise NotSent(self, str(exc)) from exc


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        """Connect, and tell a failure from one after sending."""
        try:
            super().connect()
        except (OSError, HTTPError) as exc:
            raise NotSent(self, str(exc)) from exc


class Connections:
    """A pool of connections that knows who we are. It survives a fork: the child makes its own."""

    def __init__(self, access: Access, threads: int) -> None:
        self._access = access
        # A thread may hold a watch and ask for something else meanwhile.
        self._size = 2 * threads + 4
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._credentials = Credentials()
        self._fetched = 0.0
        self._generation = 0
        self._pid = 0
        self._clock: tuple[datetime, float] | None = None  # the server's time, and the monotonic time it came at
        self._prefix = (parse_url(access.server).path or "").rstrip("/")

    def send(
        self,
        method: str,
        target: str,
        verb: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, once more with new credentials when the first were refused; the body is still to be read.

        :raises KubeError: no answer came.
        """
        for last_try in (False, True):
            try:
                pool, credentials, generation = self._ready()
                answer = self._request(pool, credentials, method, target, headers, body, timeout)
                self._keep_time(answer)
                if answer.status != 401 or last_try or not self._renew(generation):
                    return answer
            except (HTTPError, OSError) as exc:
                raise unreachable(verb, self._access.server, exc) from None
            except Refused as exc:
                # Not Refused: other changes of the same run may have been made already.
                raise KubeError(
                    f"{verb}: not asked, because {exc}",
                    status=401,
                    reason="Unauthorized",
                    sent=False,
                    final=True,
                    next_step=exc.next_step,
                ) from None
            answer.close()
            answer.release_conn()
        raise AssertionError

    def read(self, answer: urllib3.BaseHTTPResponse, verb: str, timeout: float) -> bytes:
        """Return the body of an answer; three times the timeout bounds it, since each byte begins the socket's anew.

        :raises KubeError: it broke off.
        """
        end = time.monotonic() + 3 * timeout
        data = bytearray()
        whole = False
        try:
            while chunk := answer.read1(1 << 20):
                data += chunk
                if time.monotonic() > end:
                    _too_slow()
            whole = True
        except (HTTPError, OSError) as exc:
            raise unreachable(verb, self._access.server, exc) from None
        finally:
            if not whole:
                answer.close()
            answer.release_conn()
        return bytes(data)

    def time(self) -> datetime | None:
        """Return the server's time (UTC) by its answers, up to a second too early; None before the first."""
        if self._clock is None:
            return None
        at, mark = self._clock
        return at + timedelta(seconds=time.monotonic() - mark)

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.close()

    def _request(
        self,
        pool: urllib3.HTTPConnectionPool,
        credentials: Credentials,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
    ) -> urllib3.BaseHTTPResponse:
        every = urllib3.HTTPHeaderDict(headers)
        every["User-Agent"] = AGENT
        if credentials.token:
            every["Authorization"] = f"Bearer {credentials.token}"
        for name, value in self._access.impersonate:
            every.add(name, value)
        url = self._prefix + target
        if pool.proxy is not None and pool.scheme == "http":
            url = f"{self._access.server}{target}"
        return pool.urlopen(
            method,
            url,
            body=body,
            headers=every,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(connect=min(timeout, CONNECT_SECONDS), read=timeout),
            pool_timeout=math.ceil(timeout),
            preload_content=False,
            decode_content=False,
        )

    def _renew(self, generation: int) -> bool:
        """Fetch the credentials anew, once for all threads that were refused; say whether to try again."""
        with self._lock:
            if generation != self._generation:
                return True  # another thread has just done it
            if not self._access.source.renewable:
                return False
            self._fetch()
            return True

    def _keep_time(self, answer: urllib3.BaseHTTPResponse) -> None:
        try:
            said = parsedate_to_datetime(answer.headers.get("Date", ""))
        except (TypeError, ValueError):
            return
        # The header has whole seconds, cut off: what was known from one of earlier is later, and nearer to the truth.
        # So time does not go back from answer to answer, and a lease that was seen to end does not hold again.
        said, known = said.astimezone(timezone.utc), self.time()
        if known is None or not timedelta(0) <= known - said < _DATE_WITHIN:
            self._clock = (said, time.monotonic())

    def _ready(self) -> tuple[urllib3.HTTPConnectionPool, Credentials, int]:
        with self._lock:
            expires, now = self._credentials.expires, time.time()
            stale = (
                expires is not None and now > expires - _EXPIRES_EARLY and now > self._fetched + _FETCH_AT_MOST_EVERY
            )
            if self._generation == 0 or stale:
                self._fetch()
            if self._pool is None or self._pid != os.getpid():
                self._pool, self._pid = _pool(self._access, self._credentials, self._size), os.getpid()
            return self._pool, self._credentials, self._generation

    def _fetch(self) -> None:
        """Fetch the credentials; another certificate needs other connections."""
        before, self._credentials = self._credentials, self._access.source.fetch()
        self._fetched = time.time()
        self._generation += 1
        if self._credentials.certificate != before.certificate:
            self._pool = None  # not closed: other threads may still be reading from it


def _pool(access: Access, credentials: Credentials, size: int) -> urllib3.HTTPConnectionPool:
    place = parse_url(access.server)
    options: dict[str, Any] = {"maxsize": size, "block": True}
    secure: dict[str, Any] = {}
    if place.scheme == "https":
        secure["ssl_context"] = trust(access, credentials)
        if access.tls_name:
            secure["server_hostname"] = access.tls_name
        if not access.verify:
            secure["assert_hostname"] = False
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # Access.text says it, once
    pool: urllib3.HTTPConnectionPool
    if access.proxy:
        proxy = parse_url(access.proxy)
        said = urllib3.make_headers(proxy_basic_auth=proxy.auth) if proxy.auth else None
        manager = urllib3.ProxyManager(access.proxy, proxy_headers=said, **options, **secure)
        pool = manager.connection_from_host(place.host, place.port, place.scheme)
    elif place.scheme == "https":
        pool = urllib3.HTTPSConnectionPool(str(place.host), place.port, **options, **secure)
    else:
        pool = urllib3.HTTPConnectionPool(str(place.host), place.port, **options)
    pool.ConnectionCls = _Secure if place.scheme == "https" else _Plain
    pool.conn_kw["socket_options"] = [*HTTPConnection.default_socket_options, *_ALIVE]
    return pool


def _too_slow() -> None:
    raise TimeoutError
