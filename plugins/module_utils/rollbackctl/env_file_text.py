# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a .env file, line by line, so that changing one variable leaves every other byte as it was.

There is no standard; what is read here is what python-dotenv, Node's dotenv, Docker Compose and `. ./.env` have in
common: `NAME=value`, `export NAME=value`, quotes that may span lines, comments, and a bare `NAME`. Values are compared
as they are written, never interpreted: quotes and `${...}` mean different things to different readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_ASSIGNMENT = re.compile(rb"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*(.*)", re.DOTALL)
_HARMLESS = re.compile(rb"[ \t]*(?:#.*|(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_.-]*[ \t]*)?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Part:
    """One line, or the lines of one value. name: empty for what sets no variable. body + end: the bytes in the file.

    The bytes are secrets: they are in no repr.
    """

    name: str
    body: bytes = field(repr=False)
    end: bytes = field(repr=False)


@dataclass(frozen=True)
class EnvText:
    """A parsed file; the joined parts are its bytes. faults: what is wrong, by line number, without the text."""

    parts: tuple[Part, ...]
    faults: tuple[str, ...]

    def names(self) -> list[str]:
        """Return the variables, in order, each once."""
        return list(dict.fromkeys(part.name for part in self.parts if part.name))

    def bodies(self, name: str) -> list[bytes]:
        """Return all assignments of a variable as they are written: one, none, or several. A carriage return at the end
        is part of it: the shell takes it into the value."""
        return [part.body + part.end[:-1] for part in self.parts if part.name == name]

    def disputed(self, name: str) -> list[bytes]:
        """Return what else may set or unset a variable: lines of which some reader, the shell for one, makes more than
        one assignment, and a line before its own that goes on in it."""
        sets = re.compile(rb"(?:^|[\s;&|])(?:%b\s*(?:\+?=|:)|unset\s[^;&|]*\b%b\b)" % (2 * (re.escape(name.encode()),)))
        others = [part.body for part in self.parts if part.name != name and sets.search(_loose(part.body))]
        into = [one.body for one, two in zip(self.parts, self.parts[1:]) if two.name == name and _goes_on(one)]
        return others + [body for body in into if body not in others]


@dataclass(frozen=True)
class Difference:
    """Names of variables that going from one file to another changes, adds and removes."""

    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


def _loose(body: bytes) -> bytes:
    """Return what is in a line besides texts in quotes and comments."""
    bare = re.sub(rb"\"(?:\\.|[^\"\\])*\"|'[^']*'", b"''", body, flags=re.DOTALL)
    return re.sub(rb"(?:^|(?<=\s))#[^\n]*", b"", bare)


def _goes_on(part: Part) -> bool:
    return not part.body.lstrip().startswith(b"#") and part.body.endswith(b"\\") and not part.body.endswith(b"\\\\")


def is_variable(name: str) -> bool:
    """Say whether name may be a variable's."""
    return _NAME.fullmatch(name) is not None


def parse(content: bytes) -> EnvText:
    """Read a .env file. Never fails: what is not understood is kept as it is and listed in `faults`."""
    lines = _LINE.findall(content)
    parts: list[Part] = []
    faults = ["it holds NUL bytes, so it is no text"] if b"\0" in content else []
    index = 0
    while index < len(lines):
        count = 1
        line = lines[index][len(_BOM) :] if index == 0 and lines[0].startswith(_BOM) else lines[index]
        body, _ = _split(line)
        match = _ASSIGNMENT.fullmatch(body)
        if match is not None:
            count = _lines_of_value(match.group(2), lines, index)
            if count == 0:
                faults.append(f"the quote opened in line {index + 1} is never closed")
                count = 1
        elif not _HARMLESS.fullmatch(body):
            faults.append(f"line {index + 1} is neither NAME=value nor a comment")
        name = match.group(1).decode() if match is not None else ""
        skipped = len(lines[index]) - len(line)
        if skipped:
            parts.append(Part("", lines[index][:skipped], b""))
        parts.append(Part(name, *_split(b"".join([line, *lines[index + 1 : index + count]]))))
        index += count
    return EnvText(tuple(parts), tuple(faults))


def _split(line: bytes) -> tuple[bytes, bytes]:
    for end in (b"\r\n", b"\n"):
        if line.endswith(end):
            return line[: -len(end)], end
    return line, b""


def _lines_of_value(value: bytes, lines: list[bytes], index: int) -> int:
    """Return how many lines an assignment takes: more than one when a quote is open at its end; 0: never closed."""
    quote = value[:1]
    if quote not in {b'"', b"'", b"`"} or _closes(value[1:], quote):
        return 1
    for count, line in enumerate(lines[index + 1 :], start=2):
        if _closes(line, quote):
            return count
    return 0


def _closes(text: bytes, quote: bytes) -> bool:
    """A backslash hides a double quote from everybody, a single quote only from some: for that, the shell decides."""
    return quote in text if quote == b"'" else quote in re.sub(rb"\\.", b"", text, flags=re.DOTALL)


def differences(live: EnvText, target: EnvText, names: Iterable[str] | None = None) -> Difference:
    """Compare two files, or only some of their variables."""
    considered = list(dict.fromkeys([*live.names(), *target.names()])) if names is None else list(names)
    changed: list[str] = []
    added: list[str] = []
    removed: list[str] = []
    for name in considered:
        before, after = live.bodies(name), target.bodies(name)
        if before == after and live.disputed(name) == target.disputed(name):
            continue
        (changed if (before and after) or before == after else added if after else removed).append(name)
    return Difference(tuple(changed), tuple(added), tuple(removed))


def with_variables(live: EnvText, target: EnvText, names: Iterable[str]) -> bytes:
    """Return the live file with some variables as they are in the target; all other bytes stay.

    A changed variable stays in its place, one that the target lacks goes, one that live lacks comes to the end.
    """
    different = {name for name in names if live.bodies(name) != target.bodies(name)}
    written: set[str] = set()
    out: list[bytes] = []
    for part in live.parts:
        if part.name not in different:
            out.append(part.body + part.end)
        elif part.name not in written:
            written.add(part.name)
            bodies = target.bodies(part.name)
            last = b"\n" if part.end or (bodies and bodies[-1].endswith(b"\r")) else b""
            out.append(b"\n".join(bodies) + last if bodies else b"")
    for name in names:
        if name in different - written:
            written.add(name)
            text = b"".join(out)
            out = [text, b"\n" if text and not text.endswith(b"\n") else b""]
            out += [body + b"\n" for body in target.bodies(name)]
    return b"".join(out)
