# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments and options that several commands share, and what is checked about them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollbackctl import records
from rollbackctl._project import ROOT, names
from rollbackctl.errors import RecordMissingError
from rollbackctl.records import Record

PLAYBOOKS = {
    "1": "rollback-level1.yml",
    "2": "rollback-level2.yml",
    "3": "rollback-level3.yml",
    "schema": "rollback-schema.yml",
    "shutdown": "shutdown.yml",
}

Level = Annotated[
    str,
    typer.Argument(
        metavar="LEVEL", help="1 application, 2 and configuration, 3 and data; schema; or shutdown.", show_default=False
    ),
]
Environment = Annotated[
    str,
    typer.Argument(
        metavar="ENVIRONMENT", help="The environment, as the services' profiles name it.", show_default=False
    ),
]
Services = Annotated[
    list[str] | None,
    typer.Argument(metavar="SERVICE", help="The services, as inventory host names.", show_default=False),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of the run, such as rb-20261121-093015-4f2a.", show_default=False)
]
Inventories = Annotated[
    list[str] | None,
    typer.Option(
        "--inventory",
        "-i",
        help="The inventory; may be given several times. There is no default.",
        envvar="ROLLBACKCTL_INVENTORY",
        metavar="PATH",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the run record, and nothing else, to stdout.")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not show the plan and ask: the run makes the same checks itself.")
]
OnLevel = Annotated[
    str | None,
    typer.Option("--level", help="Level of the run, where this controller has no record of it.", show_default=False),
]


def inventory_problems(inventories: list[str] | None) -> list[str]:
    """Return what is wrong with the inventories that were named."""
    if not inventories:
        return ["--inventory is missing: name the inventory that holds the service; there is no default"]
    return [
        f"--inventory {names.printable(path)!r} does not exist"
        for path in inventories
        if "," not in path and not Path(path).exists()
    ]


def level_problems(level: str) -> list[str]:
    """Return what is wrong with a level."""
    return [] if level in PLAYBOOKS else [f"LEVEL {names.printable(level)!r} is none of {', '.join(PLAYBOOKS)}"]


def playbook_problems(playbook: str) -> list[str]:
    """Return what is wrong with a playbook of this project."""
    there = Path(playbook).name == playbook and (ROOT / "playbooks" / playbook).is_file()
    return [] if there else [f"there is no playbook {names.printable(playbook)!r} in {ROOT / 'playbooks'}"]


def known(run: str) -> tuple[Record | None, str]:
    """Return the record of a run if this controller has it, else why not."""
    try:
        return records.load(run), ""
    except RecordMissingError as error:
        return None, str(error)
