# SPDX-License-Identifier: GPL-3.0-or-later
"""Allow-lists for names, limits for text."""

from __future__ import annotations

import pytest
from ansible.module_utils.rollbackctl import names

HOSTILE = {
    "empty": "",
    "space": "a b",
    "shell": "$(reboot)",
    "backtick": "`reboot`",
    "semicolon": "a;reboot",
    "pipe": "a|sh",
    "template": "{{ 7*7 }}",
    "option": "--upload-pack=reboot",
    "short option": "-oProxyCommand=reboot",
    "traversal": "../../etc/passwd",
    "dots": "..",
    "hidden": ".ssh",
    "absolute": "/etc/passwd",
    "inside": "a/b",
    "line feed": "a\n",
    "carriage return": "a\rb",
    "null": "a\x00b",
    "escape": "a\x1b[2J",
    "right to left": "a\u202eb",
    "glob": "*",
    "long": "a" * 65536,
    "foreign letter": "sh\u043ep",  # a Cyrillic o
    "full-width digit": "cp-\uff11",
    "surrogate": "a\udcff",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_neither_name_nor_run_id(text: str) -> None:
    assert not names.is_name(text)
    assert not names.is_run_id(text)


@pytest.mark.parametrize("text", ["shop", "shop-db", "cp-20261121-093015-4f2a", "release_1.4", "A", "a" * 63])
def test_names(text: str) -> None:
    assert names.is_name(text)


def test_a_name_is_63_characters_at_most() -> None:
    assert not names.is_name("a" * 64)
    assert not names.is_run_id("a" * 64)


@pytest.mark.parametrize("text", ["RB-1", "rb_1", "rb.1", "rb-", "-rb"])
def test_a_run_id_names_kubernetes_objects_too(text: str) -> None:
    assert not names.is_run_id(text)


def test_new_ids_are_run_ids_and_differ() -> None:
    fresh = {names.new_id("rb") for _ in range(20)}
    assert all(names.is_run_id(one) and one.startswith("rb-") for one in fresh)
    assert len(fresh) > 10


@pytest.mark.parametrize("text", ["failed migration", "Größe 5 % {{ 7*7 }} $(x)", "x" * 1000])
def test_free_text_that_is_taken(text: str) -> None:
    assert names.text_problem(text) == ""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        (" \u00a0 ", "empty"),
        ("x" * 1001, "1000"),
        ("x" * 65536, "65536"),
        ("a\nb", "control"),
        ("a\x00", "control"),
        ("a\x1b]0;x\x07", "control"),
        ("a\u202eb", "control"),
        ("a\u2028b", "control"),
        ("a\x85b", "control"),
        ("a\udcff", "control"),  # a byte that is no UTF-8, as Python reads a command line: no JSON file can hold it
    ],
    ids=repr,
)
def test_free_text_that_is_refused(text: str, word: str) -> None:
    assert word in names.text_problem(text)


def test_printable_text_drives_no_terminal_and_splits_no_line() -> None:
    assert names.printable("a\x1b[2J\r\nb\u202e\x9b\x7f") == "a\\x1b[2J\\x0d\\x0ab\\x202e\\x9b\\x7f"
    assert names.printable("Größe → ok") == "Größe → ok"


def test_printable_text_can_be_written() -> None:
    assert names.printable("a\udcff").encode("utf-8")


@pytest.mark.parametrize(
    ("text", "template"), [("{{ x }}", True), ("{% x %}", True), ("{# x #}", True), ("{ {x} }", False)]
)
def test_templates(text: str, template: bool) -> None:  # noqa: FBT001 - a table's column
    assert names.has_template(text) is template
