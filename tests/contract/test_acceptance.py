# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/acceptance.md has every row of the five runbooks and every known failure in Kubernetes once; what it calls done
has tests that exist."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.project import ROOT, load, options, roles

PAGE = ROOT / "docs" / "acceptance.md"
ROWS = {"S0": 88, "S1": 97, "S2": 65, "S3": 60, "S4": 86}
DEFECTS = 33
FAILURES = [*(f"K{number}" for number in range(1, 23)), "X14"]
DASH = "-"
DONE, PART, NOT_SOFTWARE = "done", "part", "not software"
# A part that is named has to be one that is planned: a typing error would hide a row from whoever counts what is left.
PARTS = {
    "application settings", "compose", "data migrations", "docs and templates", "drills schedule", "event schema",
    "evidence", "frontends", "gate", "kubernetes", "notify", "panic", "postgresql", "pull requests", "redis",
    "sql migrations", "trigger rules", "vault", "watch",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of the page. tests: as written, without the code marks."""

    name: str
    text: str
    status: str
    where: str
    tests: tuple[str, ...]

    @property
    def word(self) -> str:
        return self.status.partition(":")[0]


def parse(page: str) -> list[Row]:
    """Return every row of the page's tables. What looks like a row and is none is an error."""
    rows = []
    for line in page.splitlines():
        if not re.match(r"\|\s*[A-Z]\d", line) or re.match(r"\| S\d \|", line):
            continue  # a head, a line under it, or the summary
        cells = [cell.strip() for cell in line.split("|")]
        assert len(cells) == 7, f"not five cells: {line}"
        assert cells[0] == cells[-1] == "", f"not between bars: {line}"
        tests = () if cells[5] == DASH else tuple(cells[5].split("<br>"))
        assert all(re.fullmatch(r"`[^`]+`", test) for test in tests), f"tests are `so`, with <br> between: {line}"
        rows.append(Row(cells[1], cells[2], cells[3], cells[4], tuple(test.strip("`") for test in tests)))
    return rows


def problems(rows: list[Row]) -> list[str]:
    """Return all that is wrong with the rows, each in a sentence."""
    wanted = [f"{book}.{number}" for book, count in ROWS.items() for number in range(1, count + 1)]
    wanted += [*(f"B{number}" for number in range(1, DEFECTS + 1)), *FAILURES]
    count = Counter(row.name for row in rows)
    found = [f"{name} is missing" for name in wanted if not count[name]]
    found += [f"{name} is there {n} times" for name, n in count.items() if n > 1]
    found += [f"{name} is no row of this page" for name in count if name not in wanted]
    for row in rows:
        found += [f"{row.name}: {problem}" for problem in _problems(row)]
    return found


def _problems(row: Row) -> list[str]:
    found = [] if row.text and row.where else ["an empty cell"]
    known = {DONE, NOT_SOFTWARE, *(f"{PART}: {part}" for part in PARTS)}
    if row.status not in known:
        found.append(f"unknown status {row.status!r}")
    if row.status == DONE and not row.tests:
        found.append("done without a test")
    if row.status != DONE and row.tests:
        found.append("tests of what is not done")
    found += [f"there is no {place}" for place in places(row.where) if row.status == DONE and not is_there(place)]
    return found + [f"there is no test {test}" for test in row.tests if not exists(test)]


def places(where: str) -> list[str]:
    """Return the roles, variables and files that a cell names."""
    words = [word for span in re.findall(r"`([^`]+)`", where) for word in re.findall(r"[\w./-]+", span)]
    return [word for word in words if re.fullmatch(r"(rollback|restore|restart|run)_\w+|[\w/-]+\.(yml|py)", word)]


def is_there(place: str) -> bool:
    """Say whether a role, a variable or a file exists."""
    if "." in place:
        return any(
            (ROOT / folder / place).is_file() for folder in (".", "playbooks", "plugins/module_utils/rollbackctl")
        )
    return place in _names()


@functools.cache
def _names() -> frozenset[str]:
    """Return what a profile or a run can name: roles, parameters, variables of the profile."""
    guard = load(ROOT / "roles" / "run_guard" / "meta" / "argument_specs.yml")["argument_specs"]
    found = {*roles(), *options("run_verify", "all")}
    return frozenset(found.union(*(entry["options"] for entry in guard.values())))


def exists(test: str) -> bool:
    """Say whether a test exists: `path::function`, or `molecule: scenario` with tests of its own."""
    scenario = re.fullmatch(r"molecule: ([a-z0-9-]+)", test)
    if scenario:
        folder = ROOT / "molecule" / scenario[1]
        return (folder / "molecule.yml").is_file() and any(_functions(path) for path in folder.glob("tests/test_*.py"))
    named = re.fullmatch(r"(tests/[\w/]+\.py)::(test_\w+)", test)
    if not named or not (ROOT / named[1]).is_file():
        return False
    return named[2] in _functions(ROOT / named[1])


@functools.cache
def _functions(path: Path) -> frozenset[str]:
    """Return the test functions at the top of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def summary(rows: list[Row]) -> dict[str, Counter[str]]:
    """Return how many rows of each runbook have which status word."""
    counts: dict[str, Counter[str]] = {book: Counter() for book in ROWS}
    for row in rows:
        book = row.name.partition(".")[0]
        if book in counts:
            counts[book][row.word] += 1
    return counts


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_row_is_there_once_and_what_is_done_has_its_tests(page: str) -> None:
    rows = parse(page)
    assert sum(ROWS.values()) == 396
    assert problems(rows) == []
    for book, counts in summary(rows).items():
        print(book, ", ".join(f"{word} {counts[word]}" for word in (DONE, PART, NOT_SOFTWARE)))  # noqa: T201


def test_the_page_s_own_summary_is_right(page: str) -> None:
    rows = parse(page)
    said = {line.split(" | ")[0][2:]: line for line in page.splitlines() if re.match(r"\| S\d \|", line)}
    total = Counter[str]()
    for book, counts in summary(rows).items():
        limited = sum(row.status == DONE and "SQLite" in row.where for row in rows if row.name.startswith(f"{book}."))
        numbers = [sum(counts.values()), counts[DONE], limited, counts[PART], counts[NOT_SOFTWARE]]
        assert said[book] == f"| {book} | {' | '.join(map(str, numbers))} |"
        total += counts
    assert f"| **all** | **396** | **{total[DONE]}** |" in page


GOOD = "| S0.51 | ten timed requests | done | checks | `tests/acceptance/test_health.py::test_ten_timed_requests` |"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (GOOD, ""),
        (GOOD.replace("S0.51", "S0.89"), "S0.89 is no row of this page"),
        (f"{GOOD}\n{GOOD}", "S0.51 is there 2 times"),
        (GOOD.replace("done", "ready"), "S0.51: unknown status 'ready'"),
        (GOOD.replace("done", "part: everything"), "S0.51: unknown status 'part: everything'"),
        (GOOD.replace("done", "part: notify"), "S0.51: tests of what is not done"),
        (re.sub(r"`tests.*`", DASH, GOOD), "S0.51: done without a test"),
        (
            GOOD.replace("timed_requests`", "timed_answers`"),
            "there is no test tests/acceptance/test_health.py::test_ten",
        ),
        (GOOD.replace("test_health.py", "test_speed.py"), "there is no test tests/acceptance/test_speed.py"),
        (GOOD.replace("test_ten_timed_requests", "one"), "there is no test tests/acceptance/test_health.py::one"),
        (re.sub(r"`tests.*`", "`molecule: demo-level9`", GOOD), "there is no test molecule: demo-level9"),
        (re.sub(r"`tests.*`", "`molecule: demo-level1`", GOOD), ""),
        (GOOD.replace("| checks |", "|  |"), "S0.51: an empty cell"),
        (GOOD.replace("checks |", "`rollback_checks` in `playbooks/verify.yml` |"), ""),
        (GOOD.replace("checks |", "`rollback_chekcs` |"), "S0.51: there is no rollback_chekcs"),
        (GOOD.replace("checks |", "`verifies.yml` |"), "S0.51: there is no verifies.yml"),
        ("| S0.52 | is | another | row | - |", "S0.51 is missing"),
    ],
)
def test_what_is_wrong_with_a_row_is_noticed(line: str, complaint: str) -> None:
    found = problems(parse(line))
    about = [problem for problem in found if not problem.endswith("is missing") or problem.startswith("S0.51 ")]
    assert any(complaint in problem for problem in about) if complaint else about == []


def test_a_row_that_cannot_be_read_is_an_error() -> None:
    for line in ("| S0.51 | three | cells |", "| S0.51 | a | done | where | tests/a.py::test_b |"):
        with pytest.raises(AssertionError):
            parse(line)
