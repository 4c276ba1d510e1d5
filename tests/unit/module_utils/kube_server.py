# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HTTP(S) server on loopback that answers as a test says: for what no real API server does on command."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.keys import Authority

Answer = Callable[["Handler"], None]


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, list[str]]
    body: bytes
    user: str  # the common name of the client's certificate; empty without one

    @property
    def token(self) -> str:
        return self.headers.get("authorization", [""])[0].removeprefix("Bearer ")


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the test's function."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Server

    def do_GET(self) -> None:
        self._streaming = False
        place = urlsplit(self.path)
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        subject: Any = (certificate or {}).get("subject", ())
        self.asked = Asked(
            method=self.command,
            path=place.path,
            query={name: values[0] for name, values in parse_qs(place.query).items()},
            headers={name.lower(): self.headers.get_all(name, []) for name in self.headers},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
            user=next((value for part in subject for name, value in part if name == "commonName"), ""),
        )
        self.server.asked.append(self.asked)
        self.server.answer(self)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        del format, args

    def reply(self, status: int = 200, body: Any = None, **headers: str) -> None:
        """Answer; a body that is neither text nor bytes becomes JSON."""
        if not isinstance(body, bytes):
            body = body.encode() if isinstance(body, str) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, reason: str, message: str = "no", **headers: str) -> None:
        """Answer with a Status, as an API server does."""
        self.reply(status, {"kind": "Status", "code": status, "reason": reason, "message": message}, **headers)

    def hang_up(self) -> None:
        """End the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def stream(self, *pieces: bytes, end: bool = True) -> None:
        """Send pieces of a chunked answer. end=False leaves it open: the handler's end cuts it."""
        if not self._streaming:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._streaming = True
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.flush()
        if end:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """asked: the requests in the order in which they came."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[Handler], None], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self.connections = 0
        self._tls = tls
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        line = self._tls.wrap_socket(request, server_side=True) if self._tls else request
        try:
            Handler(line, client_address, self)
        finally:
            line.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up in these tests."""

    def paths(self, method: str = "GET") -> list[str]:
        return [one.path for one in self.asked if one.method == method]


@contextmanager
def serving(answer: Callable[[Handler], None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve as answer says until the block ends."""
    server = Server(answer, tls)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def local(url: str, **options: Any) -> Client:
    """Return a client with a token of the server at an address."""
    return Client(find_access({}, {"K8S_AUTH_HOST": url, "K8S_AUTH_API_KEY": "the-token"}), **options)


@contextmanager
def client_of(answer: Callable[[Handler], None], **options: Any) -> Iterator[tuple[Client, Server]]:
    """Give a client with a token, and the server that it talks to."""
    with serving(answer) as server:
        client = local(server.url, **options)
        yield client, server
        client.close()


class Keys:
    """A certificate authority in a folder, and what a kubeconfig and a server need of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = Authority(folder)

    def make(self, name: str, user: str, hosts: Sequence[str] = ()) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        self._authority.sign(name, user, hosts=hosts)
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def server(self, host: str = "127.0.0.1", *, ask: bool = True) -> ssl.SSLContext:
        """Return what a server needs; ask: it wants a client certificate, and takes none too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.make(f"server-{host}", "server", [host]))
        if ask:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self.ca)
        return context


def kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any], name: str = "lab", **context: Any) -> Path:
    """Write a kubeconfig with one context of that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name} | context}],
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


# -- answers ---------------------------------------------------------------------------------------------------------


def one_after_the_other(*answers: Answer) -> Answer:
    """Give each request the next answer, and all later ones the last."""
    waiting = list(answers)

    def answer(handler: Handler) -> None:
        (waiting.pop(0) if len(waiting) > 1 else waiting[0])(handler)

    return answer


def busy(status: int, **headers: str) -> Answer:
    return lambda handler: handler.refuse(status, "", **headers)


def fine(handler: Handler) -> None:
    handler.reply(200, {"kind": "Pod", "metadata": {"name": "a"}})


def hang_up(handler: Handler) -> None:
    handler.hang_up()


def silent(handler: Handler) -> None:
    handler.server.over.wait(30)
