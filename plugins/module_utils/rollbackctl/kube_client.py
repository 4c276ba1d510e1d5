# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the Kubernetes API: fixed paths, JSON in and out, no discovery.

Reads are repeated within bounds when the server is busy or does not answer. A write is repeated only when it certainly
was not taken (429, 503 with Retry-After, no connection); when its answer is lost, status 0 says that the outcome is not
known, and the caller reads back.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3

from .kube_auth import Access
from .kube_error import EXPIRED, KubeError, refusal, warned, what
from .kube_http import Connections
from .kube_retry import Patience, Trouble
from .kube_threads import each
from .kube_watch import follow
from .names import printable

__all__ = ["Client", "KubeError", "Rule"]

T = TypeVar("T")
R = TypeVar("R")
Objects = list[dict[str, Any]]  # inside the class, `list` is its method
PAGE = "500"
_BUSY = frozenset({429, 500, 502, 503, 504})
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One right: to do verb with a resource. namespace "" is the whole cluster, name "" every object."""

    verb: str
    resource: str
    group: str
    namespace: str
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        """Return it for a message: patch deployments.apps/scale in production."""
        kind = self.resource + (f".{self.group}" if self.group else "")
        kind += f"/{self.subresource}" if self.subresource else ""
        name = f" {self.name}" if self.name else ""
        return printable(f"{self.verb} {kind}{name}{f' in {self.namespace}' if self.namespace else ''}")


class Client:
    """Talks to one API server. Threads may share it; `each` is how they are started."""

    def __init__(self, access: Access, *, timeout: float = 10.0, threads: int = 16) -> None:
        self.access = access
        self._timeout = timeout
        self._threads = threads
        self._connections = Connections(access, threads)
        self._trouble = Trouble()
        self._known: dict[str, bytes | KubeError] = {}  # what `ahead` was answered

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Return one object."""
        return self._json("GET", path, query)

    def find(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return one object, or None when there is none."""
        try:
            return self.get(path, **query)
        except KubeError as exc:
            if exc.status == 404:
                return None
            raise

    def list(self, path: str, **query: str) -> Objects:
        """Return all objects of a collection; each has apiVersion and kind, which the server leaves out in lists."""
        return self.list_at(path, **query)[0]

    def list_at(self, path: str, **query: str) -> tuple[Objects, str]:
        """Return all objects of a collection, and the resourceVersion from which to watch it."""
        items, version, kind = self._pages(path, query, _JSON)
        for item in items:
            item.setdefault("apiVersion", kind[0])
            item.setdefault("kind", kind[1].removesuffix("List"))
        return items, version

    def names(self, path: str, **query: str) -> Objects:
        """Return the objects of a collection with nothing but their metadata."""
        return self._pages(path, query, _METADATA)[0]

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST an object to its collection."""
        return self._json("POST", path, {}, body)

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """PUT an object; with its resourceVersion inside, only onto that version."""
        return self._json("PUT", path, {}, body)

    def json_patch(
        self,
        path: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        dry_run: bool = False,
        warnings: builtins.list[str] | None = None,
    ) -> dict[str, Any]:
        """Apply JSON patch operations (RFC 6902); a failed `test` answers 422 Invalid.

        :param warnings: takes what the API server warns of.
        """
        query = {"dryRun": "All"} if dry_run else {}
        return self._json("PATCH", path, query, list(operations), "application/json-patch+json", warnings)

    def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Apply a JSON merge patch (RFC 7386)."""
        return self._json("PATCH", path, {}, body, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete one object."""
        self._json("DELETE", path, {})

    def text(self, path: str, **query: str) -> str:
        """Return an answer that is no JSON, e.g. a log."""
        return self._whole("GET", path, query, accept="*/*").decode(errors="replace")

    def watch(
        self, path: str, resource_version: str, seconds: float, **query: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ("ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK", object) for `seconds`; a cut connection is re-opened.

        :raises KubeError: reason Expired: the version is too old, list again.
        """
        verb = what("watch", path)

        def stream(version: str, timeout: float) -> urllib3.BaseHTTPResponse:
            asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
            asked["timeoutSeconds"] = str(math.ceil(timeout))
            target = f"{path}?{urlencode(asked)}"
            headers = {"Accept": "application/json"}
            timeout = min(timeout, self._timeout)
            answer = self._connections.send("GET", target, verb, headers=headers, timeout=timeout)
            if answer.status >= 300:
                raise refusal(verb, answer.status, self._connections.read(answer, verb, timeout), answer.headers)
            return answer

        return follow(stream, verb, resource_version, seconds)

    def each(self, do: Callable[[T], R], items: Sequence[T]) -> builtins.list[R]:
        """Do something with each item, several at once; the results have the order of the items.

        All are tried; then the first error (in the order of the items) is raised. A signal's exception gets through.
        """
        return each(do, items, self._threads)

    @contextmanager
    def ahead(
        self, *, objects: Sequence[str] = (), lists: Sequence[tuple[str, Mapping[str, str]]] = ()
    ) -> Iterator[None]:
        """Ask side by side for objects (by path) and lists (path, query), which the body takes by `find` and `list`
        instead of asking: each once. What could not be had is asked for again there, where its error belongs."""
        targets = [*objects, *(_target(path, {"limit": PAGE, **query}) for path, query in lists)]
        answers = self.each(self._in_advance, targets)
        self._known = {target: answer for target, answer in zip(targets, answers) if answer is not None}
        try:
            yield
        finally:
            self._known = {}

    def _in_advance(self, target: str) -> bytes | KubeError | None:
        try:
            return self._whole("GET", target, {})
        except KubeError as exc:
            return exc if exc.status == 404 else None

    def allowed(self, rules: Sequence[Rule]) -> builtins.list[Rule]:
        """Return those of the rules that we may NOT do, by asking the server."""
        rules = list(dict.fromkeys(rules))
        answers = self.each(self._may, rules)
        return [rule for rule, allowed in zip(rules, answers) if not allowed]

    def server_time(self) -> datetime:
        """Return the API server's time (UTC), within a second."""
        if self._connections.time() is None:
            try:
                self.get("/version")
            except KubeError as exc:
                if exc.status == 0:
                    raise
        now = self._connections.time()
        if now is None:
            raise KubeError("read the time: the API server's answers have no Date.", status=200, reason="NoDate")
        return now

    def close(self) -> None:
        """Close the connections; the client may still be used and then makes others."""
        self._connections.close()

    def _may(self, rule: Rule) -> bool:
        asked = {key: value for key, value in dataclasses.asdict(rule).items() if value}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        # A POST that changes nothing may be repeated like a read.
        body = json.dumps(review).encode()
        verb = f"ask whether we may {rule}"
        answer = self._whole("POST", _REVIEWS, {}, body=body, content="application/json", safe=True, verb=verb)
        return _parsed(answer, verb).get("status", {}).get("allowed") is True

    def _pages(self, path: str, query: Mapping[str, str], accept: str) -> tuple[Objects, str, tuple[str, str]]:
        verb = what("list", path)
        for last_try in (False, True):
            items: Objects = []
            following = ""
            try:
                while True:
                    asked = {"limit": PAGE, **query, **({"continue": following} if following else {})}
                    page = _parsed(self._whole("GET", path, asked, accept=accept, verb=verb), verb)
                    items += page.get("items") or []
                    metadata = page.get("metadata", {})
                    following = metadata.get("continue", "")
                    if not following:
                        kind = (page.get("apiVersion", ""), page.get("kind", ""))
                        return items, metadata.get("resourceVersion", ""), kind
            except KubeError as exc:
                # The list grew too old between two pages: once more from its beginning.
                if exc.reason != EXPIRED or not following or last_try:
                    raise
        raise AssertionError

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        content: str = "application/json",
        warnings: builtins.list[str] | None = None,
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        verb = what(_VERBS[method], path)
        answer = self._whole(method, path, query, body=data, content=content, verb=verb, warnings=warnings)
        return _parsed(answer, verb)

    def _whole(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: bytes | None = None,
        content: str = "",
        accept: str = _JSON,
        safe: bool = False,
        verb: str = "",
        warnings: builtins.list[str] | None = None,
    ) -> bytes:
        """Send a request, again where that does no harm, and return the whole body of a good answer."""
        target = _target(path, query)
        asks = method == "GET" and accept == _JSON
        if asks and (known := self._known.pop(target, None)) is not None:
            if isinstance(known, KubeError):
                raise known
            return known
        verb = verb or what(_VERBS[method], path)
        headers = {"Accept": accept, **({"Content-Type": content} if body is not None else {})}
        safe = safe or method == "GET"
        patience = Patience(self._trouble.seconds())
        while True:
            timeout = min(self._timeout, max(1.0, patience.left))
            try:
                answer = self._connections.send(method, target, verb, headers=headers, body=body, timeout=timeout)
                data = self._connections.read(answer, verb, timeout)
                self._trouble.over()
                if answer.status < 300:
                    if warnings is not None:
                        warnings += warned(answer.headers.getlist("Warning"))
                    return data
                error = refusal(verb, answer.status, data, answer.headers)
            except KubeError as exc:
                error = exc
                if exc.status == 0:
                    self._trouble.note()
            if not _worth_it(error, safe=safe) or not patience.wait(error.retry_after):
                raise error


def _target(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


_VERBS = {"GET": "read", "POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}


def _worth_it(error: KubeError, *, safe: bool) -> bool:
    """Say whether to ask again. safe: doing it twice does no harm."""
    if error.status == 0:
        return not error.final and (safe or not error.sent)
    not_taken = error.status == 429 or (error.status == 503 and error.retry_after is not None)
    return not error.final and (not_taken or (safe and error.status in _BUSY))


def _parsed(data: bytes, verb: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise KubeError(f"{verb}: the answer is not JSON; is this address an API server?", status=200, reason="NotJson")
    return document
