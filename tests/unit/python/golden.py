# SPDX-License-Identifier: GPL-3.0-or-later
"""The help texts as they are printed, kept in golden/.

After a deliberate change: python -m tests.unit.python.golden.
"""

from __future__ import annotations

from pathlib import Path

from rollbackctl.cli import build
from typer.testing import CliRunner

FOLDER = Path(__file__).parent / "golden"
COMMANDS = [
    "",
    "run",
    "plan",
    "panic",
    "resume",
    "undo",
    "finalize",
    "checkpoint",
    "adopt",
    "verify",
    "status",
    "history",
    "report",
    "doctor",
    "quarantine list",
    "quarantine release",
]
# A fixed terminal: width, no colour, no terminal at all.
TERMINAL = {
    "COLUMNS": "100",
    "TERMINAL_WIDTH": "100",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "_TYPER_FORCE_DISABLE_TERMINAL": "1",
}


def printed(command: str) -> str:
    """Return the help text of a command; an empty command is the application itself."""
    result = CliRunner().invoke(build(), [*command.split(), "--help"], env=TERMINAL, prog_name="rollbackctl")
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.splitlines()) + "\n"


def path(command: str) -> Path:
    """Return where the help text of a command is kept."""
    return FOLDER / f"{command.replace(' ', '-') or 'rollbackctl'}.txt"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in COMMANDS:
        path(name).write_text(printed(name), encoding="utf-8")
