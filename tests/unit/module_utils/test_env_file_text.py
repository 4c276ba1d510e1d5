# SPDX-License-Identifier: GPL-3.0-or-later
"""A .env file's text: every byte that is not asked for stays; what readers of such files agree on is understood."""

from __future__ import annotations

import random
import subprocess

import pytest
from ansible.module_utils.rollbackctl.env_file_text import differences, is_variable, parse, with_variables

RICH = (
    b"\xef\xbb\xbf# settings\r\n"
    b"A=1\r\n"
    b"\r\n"
    b"  export B = 'two words' # why\r\n"
    b'KEY="-----BEGIN-----\nabc=\n\\"quoted\\"\n-----END-----"\r\n'
    b"BARE\r\n"
    b"export BARE2\n"
    b"A=again\n"
    b"not an assignment\n"
    b"URL=postgres://u:p@h/db?x=y#z\n"
    b"EMPTY=\n"
    b"dotted.name-x=1"
)

FILES = [
    b"",
    b"\n",
    b"A=1",
    RICH,
    b"A='it\\'s'\nB=2\n",
    b'A="never closed\nB=2\n',
    b"\0\xff\xfe",
    b"=x\n==\n'\n\"\n",
    b"A=`multi\nline`\r\nB=1\r\n",
]


@pytest.mark.parametrize("content", FILES)
def test_parts_are_the_bytes(content: bytes) -> None:
    assert b"".join(part.body + part.end for part in parse(content).parts) == content


def test_any_bytes_are_kept() -> None:
    dice = random.Random(7)  # noqa: S311 - a table of inputs, no secret
    letters = [
        b"A",
        b"B_1",
        b"=",
        b'"',
        b"'",
        b"`",
        b"\\",
        b"\n",
        b"\r\n",
        b" ",
        b"#",
        b"export ",
        b"x",
        b"\xc3\xbc",
        b"\0",
    ]
    for _ in range(2000):
        content = b"".join(dice.choices(letters, k=dice.randrange(1, 40)))
        text = parse(content)
        assert b"".join(part.body + part.end for part in text.parts) == content
        assert with_variables(text, text, text.names()) == content


def test_names_and_faults_of_a_rich_file() -> None:
    text = parse(RICH)
    assert text.names() == ["A", "B", "KEY", "URL", "EMPTY", "dotted.name-x"]
    assert text.bodies("A") == [b"A=1\r", b"A=again"]
    assert text.bodies("KEY")[0].endswith(b'-----END-----"\r')
    assert text.faults == ("line 12 is neither NAME=value nor a comment",)


def test_a_quote_that_is_never_closed_is_a_fault_and_hides_nothing() -> None:
    text = parse(b'A="open\nB=2\n')
    assert text.names() == ["A", "B"]
    assert text.faults == ("the quote opened in line 1 is never closed",)


def test_single_quotes_end_where_the_shell_ends_them() -> None:
    content = b"A='C:\\'\nB='x'\n"
    assert parse(content).names() == ["A", "B"]
    shell = subprocess.run(["sh", "-c", content.decode() + 'printf %s "$A|$B"'], check=True, capture_output=True)
    assert shell.stdout == b"C:\\|x"


def test_only_the_chosen_lines_change() -> None:
    live = b"# top\nA=bad\n\nB=stays # here\nC=bad\nNEW=bad\nA=twice\n"
    good = b'A=good\nC="two\nlines"\nB=other\nLATE=1\n'
    assert with_variables(parse(live), parse(good), ["A", "C", "NEW", "LATE"]) == (
        b'# top\nA=good\n\nB=stays # here\nC="two\nlines"\nLATE=1\n'
    )


def test_a_line_end_of_its_own_is_part_of_what_a_variable_is() -> None:
    """`. ./.env` makes a carriage return the last character of the value."""
    live, target = parse(b"A=1\r\nB=2\r\nC=3"), parse(b"A=1\nB=new\nD=4\n")
    assert differences(live, target, ["A"]).changed == ("A",)
    assert with_variables(live, target, ["B", "D"]) == b"A=1\r\nB=new\nC=3\nD=4\n"
    assert with_variables(target, live, ["A", "C"]) == b"A=1\r\nB=new\nD=4\nC=3\n"


@pytest.mark.parametrize(
    "line",
    [
        "B=1; A=5",
        "B=1 A=5",
        "export B=1 A=5",
        "A+=2",
        "A: 5",
        "unset A",
        "unset B A",
        "B='1' A=5 # why",
        "C=1\\\nA=1",
    ],
)
def test_a_line_that_may_set_a_variable_besides_its_own_is_part_of_it(line: str) -> None:
    """The shell and other readers disagree about these; nobody here can tell what the value is."""
    live, target = parse(f"A=1\n{line}\n".encode()), parse(b"A=1\n")
    assert live.disputed("A")
    assert differences(live, target, ["A"]).changed == ("A",)


@pytest.mark.parametrize(
    "line", ["B=$A", "B=${A}", "# A=5", "B='x; A=5'", 'B="A=5"', "BA=5", "A_B=1", "B=1 # A=5", "URL=x?A=5"]
)
def test_a_line_that_only_names_a_variable_is_none_of_it(line: str) -> None:
    assert not parse(f"A=1\n{line}\n".encode()).disputed("A")


def test_a_variable_that_is_equal_is_not_touched() -> None:
    live = b"  A=1  \nB=2\n"
    assert with_variables(parse(live), parse(b"B=3\n  A=1  "), ["A"]) == live


@pytest.mark.parametrize("content", FILES)
def test_taking_all_variables_from_a_file_makes_them_equal(content: bytes) -> None:
    names = list(dict.fromkeys([*parse(content).names(), *parse(RICH).names()]))
    mixed = parse(with_variables(parse(RICH), parse(content), names))
    assert {name: mixed.bodies(name) for name in names} == {name: parse(content).bodies(name) for name in names}


def test_differences_are_names() -> None:
    found = differences(parse(b"A=1\nB=2\nC=3\n"), parse(b"C=4\nA=1\nD=5\n"))
    assert (found.changed, found.added, found.removed) == (("C",), ("D",), ("B",))
    only = differences(parse(b"A=1\nB=2\n"), parse(b"A=2\n"), ["A"])
    assert (only.changed, only.added, only.removed) == (("A",), (), ())


def test_no_value_is_in_a_repr() -> None:
    assert "two words" not in repr(parse(RICH))


@pytest.mark.parametrize(
    ("name", "is_one"), [("A", True), ("a.b-c", True), ("1A", False), ("A B", False), ("", False), ("A\n", False)]
)
def test_names_of_variables(name: str, is_one: bool) -> None:  # noqa: FBT001 - a table
    assert is_variable(name) is is_one
