# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between a client and a real API server, made to happen.

FaultProxy understands HTTP: it forwards every request (watches and upgraded connections too) and spoils those that a
Fault names. Client certificates cannot pass it, so its clients use a token: kube.token_kubeconfig.
LatencyProxy understands nothing: bytes pass through later, so certificates and TLS work from end to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})


@dataclass(frozen=True)
class Request:
    """A request on its way. path: with its query."""

    method: str
    path: str
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Seen:
    """A request that came, what the client got (0: no answer), and which fault it met."""

    method: str
    path: str
    status: int
    fault: str = ""


@dataclass
class Fault:
    """What to do with the requests whose method and path (with query) match; the first matching Fault counts.

    name: how it is called in the record. skip: matching requests that pass before the first is spoilt. times: how many
    are spoilt; None: all. seconds: wait before anything else. call: done before forwarding, e.g. a concurrent change.
    status: answer this instead of forwarding (reason and retry_after go with it). drop: hang up "before" forwarding, or
    "after" it, so that the answer is lost. events, bytes: hang up after so much of the answer. silent: do not hang up
    there, but say nothing more, as a half-open connection does.
    """

    path: str = ""
    method: str = ""
    name: str = "fault"
    skip: int = 0
    times: int | None = 1
    seconds: float = 0.0
    call: Callable[[Request], None] | None = None
    status: int = 0
    reason: str = ""
    retry_after: str = ""
    drop: str = ""
    events: int | None = None
    bytes: int | None = None
    silent: bool = False
    met: int = field(default=0, init=False)

    def takes(self, request: Request) -> bool:
        """Say whether this request is to be spoilt, and count it. The proxy's lock is held."""
        if not re.search(self.path, request.path) or (self.method and not re.fullmatch(self.method, request.method)):
            return False
        if self.times is not None and self.met >= self.skip + self.times:
            return False
        self.met += 1
        return self.met > self.skip


class FaultProxy:
    """An HTTP proxy on loopback, in front of one API server.

    server: the API server's URL. ca: PEM certificates to know it by. identity: (certificate, key) files with which to
    serve TLS; without, plain HTTP is spoken. latency: seconds that each request waits.
    """

    def __init__(self, server: str, ca: str = "", *, identity: tuple[Path, Path] | None = None) -> None:
        self.latency = 0.0
        self.faults: list[Fault] = []
        self.requests: list[Seen] = []
        self.errors: list[BaseException] = []
        self._server = server
        self._trust = ssl.create_default_context(cadata=ca) if ca else None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._lines: set[socket.socket] = set()
        tls = None
        if identity is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*identity)
        self._listener = _Listener(self, tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=lambda: self._listener.serve_forever(poll_interval=0.02), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._listener.shutdown()
        self._listener.server_close()
        self.cut()
        if self.errors:
            raise self.errors[0]

    def add(self, path: str = "", method: str = "", **what: Any) -> Fault:
        """Add a Fault, and return it: its `met` says how often it matched."""
        fault = Fault(path, method, **what)
        with self._lock:
            self.faults.append(fault)
        return fault

    def cut(self) -> None:
        """Hang up on everybody, now."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            _hang_up(line)

    def count(self, method: str, path: str = "") -> int:
        """Return how many such requests came."""
        return sum(seen.method == method and re.search(path, seen.path) is not None for seen in list(self.requests))

    # What the handlers use.

    def meet(self, request: Request) -> Fault | None:
        """Return the fault that spoils a request."""
        with self._lock:
            return next((fault for fault in self.faults if fault.takes(request)), None)

    def record(self, request: Request, status: int, fault: Fault | None) -> None:
        """Keep what a client got."""
        with self._lock:
            self.requests.append(Seen(request.method, request.path, status, fault.name if fault else ""))

    def hold(self) -> None:
        """Wait until the proxy ends."""
        self._closing.wait()

    def track(self, line: socket.socket, *, gone: bool = False) -> None:
        """Remember a connection of a client."""
        with self._lock:
            (self._lines.discard if gone else self._lines.add)(line)

    def upstream(self) -> http.client.HTTPConnection:
        """Return a new connection to the API server."""
        place = urlsplit(self._server)
        if place.scheme == "http":
            return http.client.HTTPConnection(str(place.hostname), place.port)
        return http.client.HTTPSConnection(str(place.hostname), place.port, context=self._trust)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self.tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection; the handshake is made here, in its own thread."""
        line = self.tls.wrap_socket(request, server_side=True) if self.tls else request
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proxy.track(line)
        try:
            _Handler(line, client_address, self)
        finally:
            self.proxy.track(line, gone=True)
            line.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Hanging up is what this is for; a mistake, e.g. of a test's `call`, must not look like it."""
        del request, client_address
        exc = sys.exception()
        if exc is not None and not isinstance(exc, OSError):
            self.proxy.errors.append(exc)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self._back: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._back is not None:
            self._back.close()
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        proxy = self.server.proxy
        request = Request(self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        fault = proxy.meet(request)
        time.sleep(proxy.latency + (fault.seconds if fault else 0.0))
        if fault and fault.call:
            fault.call(request)
        if fault and fault.status:
            proxy.record(request, fault.status, fault)
            self._refuse(fault)
        elif fault and fault.drop == "before":
            proxy.record(request, 0, fault)
            self._drop()
        elif self.headers.get("Upgrade"):
            proxy.record(request, 101, fault)
            self._tunnel()
        else:
            self._forward(request, fault)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        del format, args

    def _drop(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)

    def _refuse(self, fault: Fault) -> None:
        reason = fault.reason or http.client.responses.get(fault.status, "").replace(" ", "")
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": fault.status}
        body = json.dumps({**status, "reason": reason, "message": "the fault proxy says so"}).encode()
        self.send_response(fault.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if fault.retry_after:
            self.send_header("Retry-After", fault.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def _forward(self, request: Request, fault: Fault | None) -> None:
        proxy = self.server.proxy
        answer = self._ask(request)
        if answer is None or (fault and fault.drop == "after"):
            if answer is not None:
                answer.read()
            proxy.record(request, 0, fault)
            self._drop()
            return
        proxy.record(request, answer.status, fault)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        chunked = answer.length is None and request.method != "HEAD"
        self.send_header(
            *(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(answer.length or 0)))
        )
        self.end_headers()
        self.wfile.flush()
        self._relay(answer, fault, chunked=chunked)

    def _ask(self, request: Request) -> http.client.HTTPResponse | None:
        """Return the API server's answer; None: it is not there."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        if self._back is None:
            self._back = self.server.proxy.upstream()
        for last_try in (False, True):  # a kept connection may have ended meanwhile
            try:
                self._back.request(request.method, request.path, body=request.body or None, headers=headers)
                return self._back.getresponse()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self._back.close()
                if last_try:
                    return None
            except OSError:
                self._back.close()
                return None
        return None

    def _relay(self, answer: http.client.HTTPResponse, fault: Fault | None, *, chunked: bool) -> None:
        size = events = 0
        while data := answer.read1(1 << 16):
            size, events = size + len(data), events + data.count(b"\n")
            over = fault is not None and (
                (fault.bytes is not None and size >= fault.bytes)
                or (fault.events is not None and events >= fault.events)
            )
            if over and fault is not None:
                data = _beginning(data, size, events, fault)
            if data:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
                self.wfile.flush()
            if over and fault is not None:
                if fault.silent:
                    self.server.proxy.hold()
                if self._back is not None:
                    self._back.close()
                self._drop()
                return
        answer.close()  # read1 does not: https://github.com/python/cpython/issues/113199
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _tunnel(self) -> None:
        """Pass an upgraded connection (exec, attach, port-forward) through, byte for byte."""
        back = self.server.proxy.upstream()
        back.connect()
        line = back.sock
        head = f"{self.command} {self.path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in self.headers.items())
        line.sendall(f"{head}\r\n".encode("latin-1"))
        other = threading.Thread(target=_pump, args=(line.recv, self.connection.sendall, self.connection), daemon=True)
        other.start()
        _pump(self.rfile.read1, line.sendall, line)
        other.join()
        back.close()
        self.close_connection = True


def _beginning(data: bytes, size: int, events: int, fault: Fault) -> bytes:
    """Return what of the last piece may still pass."""
    if fault.bytes is not None:
        return data[: len(data) - (size - fault.bytes)]
    lines = data.split(b"\n")
    kept = lines[: len(lines) - 1 - (events - (fault.events or 0))]
    return b"".join(line + b"\n" for line in kept)


def _pump(read: Callable[[int], bytes], write: Callable[[bytes], None], end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := read(1 << 16):
            write(data)
    with contextlib.suppress(OSError):
        socket.socket.shutdown(end, socket.SHUT_WR)


def _hang_up(line: socket.socket) -> None:
    """End a connection in the middle of whatever is said on it. Its own thread closes it."""
    with contextlib.suppress(OSError):
        # Not the TLS object's own: it would say goodbye, or be pulled from under the thread that reads.
        socket.socket.shutdown(line, socket.SHUT_RDWR)


class LatencyProxy:
    """Passes bytes through, `seconds` / 2 later in each direction. `frozen`: nothing passes, nobody is told."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        self.seconds = seconds
        self.frozen = False
        self.port = 0
        self._place = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    def to(cls, server: str, seconds: float) -> Self:
        """Return a proxy to the server of a URL."""
        place = urlsplit(server)
        return cls(str(place.hostname), place.port or 443, seconds)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        listener = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self.port = listener.result(10).sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            back_reader, back_writer = await asyncio.open_connection(*self._place)
            try:
                await asyncio.gather(self._pump(reader, back_writer), self._pump(back_reader, writer))
            finally:
                back_writer.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self._loop.call_later(self.seconds / 2, self._pass, writer, data)
        await asyncio.sleep(self.seconds / 2)
        if writer.can_write_eof():
            writer.write_eof()

    def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not self.frozen and not writer.is_closing():
            writer.write(data)
