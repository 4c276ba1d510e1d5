# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API server refused, in one line for people, and never with a secret in it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from urllib3.exceptions import ConnectTimeoutError, EmptyPoolError, NewConnectionError, ProxyError, ReadTimeoutError

from .errors import RollbackError
from .names import printable

_READS = ("read", "list", "watch", "ask")
UNREACHABLE, EXPIRED = "Unreachable", "Expired"
LIMIT = 600
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: EXPIRED,
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
# A refused object is quoted whole, with the values of its environment variables: core.PodTemplateSpec{...}: why.
_QUOTED_OBJECT = re.compile(r"(Invalid value|Unsupported value|Duplicate value): [^\"\s]*[{\[].*[}\]]: ", re.DOTALL)
_WARNING = re.compile(r'[0-9]{3} \S+ "((?:[^"\\]|\\.)*)"')
_NEXT = {
    401: "Log in to the cluster again (a new token or certificate), then type the same command once more.",
    403: "Ask for the missing right, then type the same command again.",
}


class KubeError(RollbackError):
    """The API server said no, or nothing.

    status: the HTTP status; 0 when no answer came: then a write may have taken effect, read back before repeating it.
    reason: Kubernetes' word, e.g. "NotFound", "Conflict", "AlreadyExists", "Invalid", "Forbidden", "TooManyRequests",
        "Expired" (also for Gone), or "Unreachable".
    sent: False when the request certainly never reached the API server.
    final: asking again cannot help (an untrusted certificate, credentials that cannot be fetched).
    retry_after: what the server's header of that name says; None without one.
    causes: (field, message) pairs of an invalid object.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = UNREACHABLE,
        sent: bool = True,
        final: bool = False,
        retry_after: str | None = None,
        causes: tuple[tuple[str, str], ...] = (),
        next_step: str = "",
    ) -> None:
        super().__init__(message, next_step or _NEXT.get(status, ""))
        self.status = status
        self.reason = reason
        self.sent = sent
        self.final = final
        self.retry_after = retry_after
        self.causes = causes


def what(verb: str, path: str) -> str:
    """Return a request for people: patch deployments/api in production."""
    parts = [part for part in path.split("/") if part]
    if len(parts) < 3 or parts[0] not in {"api", "apis"}:
        return printable(f"{verb} {path}")
    parts = parts[2 if parts[0] == "api" else 3 :]
    where = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        where, parts = f" in {parts[1]}", parts[2:]
    return printable(f"{verb} {'/'.join(parts)}{where}")


def unreachable(verb: str, server: str, exc: BaseException) -> KubeError:
    """Return the error for a request that got no (whole) answer."""
    sent = not isinstance(exc, (NewConnectionError, ProxyError, EmptyPoolError))
    lost = "" if not sent or verb.split(" ", 1)[0] in _READS else "; whether it took effect is not known"
    untrusted = next((one for one in _chain(exc) if isinstance(one, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        words = f"its certificate is not trusted: {untrusted.verify_message}"
    elif isinstance(exc, EmptyPoolError):
        words = "all connections are in use"
    else:
        # The innermost error knows best: urllib3 calls every failure to connect a timeout.
        words = next((text for text in map(_words, reversed(list(_chain(exc)))) if text), "the connection broke")
    text = f"{verb}: no answer from {server} ({printable(words)}){lost}."
    return KubeError(text, sent=sent, final=untrusted is not None)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was made from, the innermost last."""
    while exc is not None:
        yield exc
        inside = next((one for one in exc.args if isinstance(one, BaseException)), None)
        exc = inside or exc.__cause__ or exc.__context__


def _words(exc: BaseException) -> str:
    if isinstance(exc, (ReadTimeoutError, ConnectTimeoutError, TimeoutError, socket.timeout)):
        return "it took too long"
    if isinstance(exc, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(exc, socket.gaierror):
        return "its name is not known"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed: {exc.reason or 'unknown reason'}"
    if isinstance(exc, OSError) and not isinstance(exc, http.client.HTTPException):
        return exc.strerror or str(exc)  # a proxy's refusal has no strerror
    return ""


def refusal(verb: str, status: int, body: bytes, headers: Mapping[str, str]) -> KubeError:
    """Return the error for an answer above 299; verb: with its object, e.g. "patch deployments/api in production"."""
    document = _status_document(body)
    retry_after = headers.get("Retry-After")
    if document is not None:
        return status_refusal(verb, status, document, retry_after)
    words = _REASONS.get(status, "")
    if headers.get("Content-Type", "").startswith("text/plain") and body.strip():
        words = (
            f"{words}: {_short(body.decode(errors='replace').strip())}"
            if words
            else _short(body.decode(errors="replace"))
        )
    return KubeError(
        f"{verb}: the API server answered {status}{f' {words}' if words else ''}.",
        status=status,
        reason=_REASONS.get(status, f"Status{status}"),
        retry_after=retry_after,
    )


def status_refusal(verb: str, status: int, document: Mapping[str, Any], retry_after: str | None = None) -> KubeError:
    """Return the error for a Status object."""
    reason = str(document.get("reason") or _REASONS.get(status, f"Status{status}"))
    if status == 410 or reason == "Gone":
        reason = EXPIRED
    details = document.get("details")
    listed = details.get("causes") if isinstance(details, dict) else None
    causes = tuple(
        (str(cause.get("field", "")), _without_objects(str(cause.get("message", ""))))
        for cause in (listed if isinstance(listed, list) else [])
        if isinstance(cause, dict)
    )
    message = str(document.get("message") or "no reason given")
    if status == 422 and causes:
        name = str((details or {}).get("name", ""))
        message = f"{name} is invalid: " if name else ""
        message += "; ".join(f"{field}: {text}" if field else text for field, text in causes)
    return KubeError(
        f"{verb}: the API server answered {status} {reason}: {_short(_without_objects(message))}",
        status=status,
        reason=reason,
        causes=causes,
        retry_after=retry_after,
    )


def warned(headers: Iterable[str]) -> list[str]:
    """Return the texts of Warning headers (RFC 7234, 5.5): 299 - "text"."""
    texts = [_WARNING.match(header) for header in headers]
    return [_short(re.sub(r"\\(.)", r"\1", found[1])) for found in texts if found]


def _status_document(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and document.get("kind") == "Status" else None


def _without_objects(message: str) -> str:
    return _QUOTED_OBJECT.sub(r"\1: ", message)


def _short(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= LIMIT else f"{text[: LIMIT - 4]} ..."
