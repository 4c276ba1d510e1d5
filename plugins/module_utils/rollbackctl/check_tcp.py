# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `tcp`: something accepts connections on a port."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from .check_model import Context, Sample, bad, good

KEYS = frozenset({"host", "port"})
REQUIRED: tuple[str, ...] = ("host", "port")


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence."""
    found = []
    if not options["host"] or any(mark.isspace() or not mark.isprintable() for mark in options["host"]):
        found.append("`host` must be a name or an address")
    if not 1 <= options["port"] <= 65535:
        found.append("`port` must be between 1 and 65535")
    return found


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Connect once, within timeout seconds, and close again."""
    del context
    place = f"{options['host']}:{options['port']}"
    started = time.monotonic()
    try:
        connect(options["host"], options["port"], started + timeout).close()
    except OSError as exc:
        return bad(f"{place}: {connection_words(exc, timeout)}")
    return good(f"{place} accepts connections, after {1000 * (time.monotonic() - started):.0f} ms")


def connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first of a host's addresses that answers, before `deadline` (a time of time.monotonic).

    Each address has its share of the time: one that is dead must not use up that of the next.

    :raises OSError: none of them did; the last one's reason.
    """
    problem: OSError = socket.timeout("no time was left")
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        line = socket.socket(family, kind, protocol)
        try:
            line.settimeout(left / (len(addresses) - number))
            line.connect(address)
        except OSError as exc:
            line.close()
            problem = exc
        else:
            line.settimeout(max(0.001, deadline - time.monotonic()))
            return line
    raise problem


def connection_words(exc: OSError, timeout: float) -> str:
    """Return in plain words why a connection failed."""
    if isinstance(exc, (socket.timeout, TimeoutError)):
        return f"no answer within {timeout:g} s"
    if isinstance(exc, ConnectionRefusedError):
        return "nothing listens there (connection refused)"
    if isinstance(exc, socket.gaierror):
        return "this name is not known"
    return exc.strerror or type(exc).__name__
