# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `file`: a file is there (or is not), holds what it should and is not stale."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Mapping
from typing import Any

from .check_model import Context, Sample, bad, empty_problems, good, shown, unverified

KEYS = frozenset({"path", "exists", "sha256", "contains", "max_age_seconds"})
REQUIRED: tuple[str, ...] = ("path",)
_CHUNK = 1024 * 1024
_CLOCK_SLACK = 60.0


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence."""
    found = []
    if not os.path.isabs(options["path"]):
        found.append("`path` must be absolute")
    if "sha256" in options and re.fullmatch(r"[0-9a-f]{64}", options["sha256"]) is None:
        found.append("`sha256` must be 64 lowercase hexadecimal digits")
    found += empty_problems(options, "contains")
    if not options.get("exists", True) and {"sha256", "contains", "max_age_seconds"} & set(options):
        found.append("a file that must not exist has no content and no age")
    return found


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Look once; reading its content may take timeout seconds."""
    del context
    path = options["path"]
    try:
        # O_NONBLOCK: opening a FIFO would wait for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        if options.get("exists", True):
            return bad(f"{path} is missing")
        if not os.path.isdir(os.path.dirname(path)):
            return unverified(f"{path} is absent, but so is its folder: is it mounted?")
        return good(f"{path} is absent")
    except OSError as exc:
        return bad(f"{path} cannot be read: {exc.strerror}")
    try:
        return _judge(handle, options, timeout)
    except OSError as exc:
        return bad(f"{path} cannot be read: {exc.strerror}")
    finally:
        os.close(handle)


def _age(path: str, written: float, limit: float) -> Sample | None:
    """Return what is to be said of a file's age, or None when it is young enough."""
    age = time.time() - written
    if age < -_CLOCK_SLACK:
        return unverified(f"{path} was last written {-age:.0f} s in the future; which clock is wrong?")
    return bad(f"{path} was last written {age:.0f} s ago, expected at most {limit:g} s") if age > limit else None


def _judge(handle: int, options: Mapping[str, Any], timeout: float) -> Sample:
    path = options["path"]
    if not options.get("exists", True):
        return bad(f"{path} exists, expected it to be absent")
    status = os.fstat(handle)
    if "max_age_seconds" in options and (old := _age(path, status.st_mtime, float(options["max_age_seconds"]))):
        return old
    if not {"sha256", "contains"} & set(options):
        return good(f"{path} exists{'' if status.st_size else ', and is empty'}")
    if not stat.S_ISREG(status.st_mode):
        return bad(f"{path} is not a regular file")
    needle = options.get("contains", "").encode()
    digest, seen, rest = hashlib.sha256(), False, b""
    deadline = time.monotonic() + timeout
    while chunk := os.read(handle, _CHUNK):
        digest.update(chunk)
        rest = rest[-len(needle) :] + chunk if needle else b""
        seen = seen or needle in rest
        if time.monotonic() > deadline:
            return bad(f"{path} could not be read to its end within {timeout:g} s")
    if "contains" in options and not seen:
        return bad(f"{path} lacks the text {shown(options['contains'])}")
    if "sha256" in options and digest.hexdigest() != options["sha256"]:
        return bad(f"{path} has another content than expected (sha256)")
    return good(f"{path} is as expected")
