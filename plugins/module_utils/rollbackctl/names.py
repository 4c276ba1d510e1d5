# SPDX-License-Identifier: GPL-3.0-or-later
"""What names and free text may look like. Allow-lists, checked before a value is used for anything."""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Iterable
from datetime import datetime, timezone

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Run ids also name Kubernetes objects: lowercase letters, digits, dashes (RFC 1123 label).
RUN_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
TEXT_LIMIT = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_TEMPLATE_MARKS = ("{{", "{%", "{#")


def new_id(prefix: str) -> str:
    """Return a fresh id such as rb-20261121-093015-4f2a, made from UTC time and two random bytes."""
    return f"{prefix}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def is_name(text: str) -> bool:
    """Say whether text may name a service, a component or a checkpoint: never an option, a path or a pattern."""
    return NAME.fullmatch(text) is not None


def is_run_id(text: str) -> bool:
    """Say whether text may be a run id."""
    return RUN_ID.fullmatch(text) is not None


def text_problem(text: str) -> str:
    """Return why a free text (a reason) is refused, or an empty string."""
    if not text.strip():
        return "is empty; say in a few words why"
    if len(text) > TEXT_LIMIT:
        return f"is {len(text)} characters long; {TEXT_LIMIT} is the limit"
    if _CONTROL.search(text):
        return "holds control characters; write one line of plain text"
    return ""


def printable(text: str) -> str:
    r"""Return text with control characters shown as \\xNN, so that it cannot drive a terminal or split a log line."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def has_template(text: str) -> bool:
    """Say whether Ansible would treat text as a template."""
    return any(mark in text for mark in _TEMPLATE_MARKS)


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "; did you mean NAME?" for the known name that is nearest to a word, or an empty string."""
    import difflib  # noqa: PLC0415 - a module on a host starts sooner without it

    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff)
    return f"; did you mean {printable(near[0])}?" if near else ""


def name_a_version(component: str, version: str) -> str:
    """Return what to type to name a component's version, quoted for a shell."""
    return f"-e {shlex.quote(json.dumps({'rollback_to': {component: version}}, ensure_ascii=False))}"
