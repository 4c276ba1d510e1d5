# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts that want to be run, followed, shown or swallowed. CANARY stands for a file that must never come into being."""

from __future__ import annotations

from pathlib import Path

MARK = "CANARY"
SHELL = ["; touch CANARY", "$(touch CANARY)", "`touch CANARY`", "| touch CANARY", "x && touch CANARY", "x > CANARY"]
TEMPLATES = [
    "{{ lookup('ansible.builtin.pipe', 'touch CANARY') }}",
    "{% set x = lookup('ansible.builtin.pipe', 'touch CANARY') %}",
    "{# #}{{ lookup('ansible.builtin.file', '/etc/passwd') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ rollback_state }}",
]
OPTIONS = [
    "--upload-pack=touch CANARY",
    "-oProxyCommand=touch CANARY",
    "--help",
    "-e@/etc/passwd",
    "--",
    "-1; touch CANARY",
]
PATHS = ["../../../../etc/passwd", "..", "/etc/passwd", "./x/../../y", "file:///etc/passwd", "~root/.ssh/id_rsa", "a/b"]
CONTROL = [
    "a\x00b",
    "a\nb: touch CANARY",
    "a\r\nb",
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[31m",
    "\x9b31m",
    "a\u202eb",
    "a\u2066b\u2069",
    "a\u2028b",
    "a\udcffb",
]
YAML = [
    "!!python/object/apply:os.system ['touch CANARY']",
    "&a [*a, *a]",
    "*a",
    "<<: {a: b}",
    "{a: b}",
    "[a, b]",
    "a: b",
]
HUGE = ["A" * 65536, "\u00e9" * 65536]
BLANK = ["", " ", "\t"]
ALL = {
    **{f"shell {number}": text for number, text in enumerate(SHELL)},
    **{f"template {number}": text for number, text in enumerate(TEMPLATES)},
    **{f"option {number}": text for number, text in enumerate(OPTIONS)},
    **{f"path {number}": text for number, text in enumerate(PATHS)},
    **{f"control {number}": text for number, text in enumerate(CONTROL)},
    **{f"yaml {number}": text for number, text in enumerate(YAML)},
    **{f"huge {number}": text for number, text in enumerate(HUGE)},
}


def aimed(text: str, canary: Path) -> str:
    """Return a text of the corpus that would make this very file."""
    return text.replace(MARK, str(canary))
