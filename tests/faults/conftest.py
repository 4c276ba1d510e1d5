# SPDX-License-Identifier: GPL-3.0-or-later
"""The shop that all fault tests share, and the table that `make faults` prints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.faults.shop import Bench

# `make faults` sets it: everything, every order, every phase. Without it the same tests take fewer cases.
THOROUGH = os.environ.get("FAULTS_THOROUGH") == "1"
# What a test reports its rows as: it may run in a process of its own.
ROW = "killed"
HEADER = ("killed at", "signal", "phase", "read back", "fence", "resumed")


@pytest.fixture(scope="session")
def thorough() -> bool:
    """Whether there is time for all of it."""
    return THOROUGH


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The one place where shops are put and killed."""
    made = Bench(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Iterator[list[tuple[str, ...]]]:
    """Rows to print at the end: see HEADER."""
    rows: list[tuple[str, ...]] = []
    yield rows
    for row in rows:
        record_property(ROW, row)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table where somebody looks: `make faults`, and `pytest -s`."""
    if not THOROUGH and terminalreporter.config.getoption("capture") != "no":
        return
    reports = [report for found in terminalreporter.stats.values() for report in found]
    ended = [report for report in reports if getattr(report, "when", "") == "teardown"]
    rows = [value for report in ended for name, value in report.user_properties if name == ROW]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    terminalreporter.section("what was killed, and what came of it")
    for row in (HEADER, *rows):
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
