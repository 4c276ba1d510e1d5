# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands on what a service's store remembers beside its runs: the quarantine."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from rollbackctl import execute, parameters
from rollbackctl.execute import Order
from rollbackctl.report import text

from . import arguments
from .arguments import AsJson, Inventories, Services


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(help="Combinations that must not come back.", no_args_is_help=True)
    group.command("list")(listed)
    group.command("release")(parameters.takes(only=frozenset({"rollback_reason", "rollback_confirm"}))(release))
    app.add_typer(group, name="quarantine")


def listed(services: Services = None, *, inventory: Inventories = None, as_json: AsJson = False) -> None:
    """List what is quarantined on a service."""
    order = _order("status.yml", {}, services, inventory, "status")
    record, result = execute.look(order, check=False)
    if record is None:
        execute.no_plan(result)
    if as_json:
        execute.close(record, result, as_json=True, keep=False)
    console = execute.stdout()
    for name, service in record["services"].items():
        bad = (service.get("status") or {}).get("quarantine") or []
        console.print(Text(text.line(name), "bold") if bad else Text(f"{text.line(name)}: nothing is quarantined"))
        for each in bad:
            what = ", ".join(f"{key} {value}" for key, value in (each.get("combination") or {}).items())
            since = f"{text.line(each.get('id'))} since {text.line(each.get('since'))}: {text.line(each.get('reason'))}"
            console.print(Text(f"  {since} ({text.line(what)})"), soft_wrap=True)
    raise typer.Exit(int(record.get("exit_code", execute.EXIT_UNKNOWN)))


def release(
    combination: Annotated[
        str, typer.Argument(metavar="COMBINATION", help="Its id, as `quarantine list` shows it.", show_default=False)
    ],
    services: Services = None,
    *,
    given: dict[str, Any],
    inventory: Inventories = None,
    as_json: AsJson = False,
) -> None:
    """Allow a quarantined combination again."""
    order = _order("quarantine.yml", {**given, "rollback_release": combination}, services, inventory, "quarantine")
    execute.close(*execute.carry_out(order), as_json=as_json)


def _order(
    playbook: str, given: dict[str, Any], services: list[str] | None, inventory: list[str] | None, kind: str
) -> Order:
    values, wrong = parameters.judge(given, services or [], kind)
    problems = arguments.playbook_problems(playbook) + arguments.inventory_problems(inventory)
    if not services:
        problems.append("SERVICE is missing: name the services; there is no default")
    if problems + wrong:
        execute.refuse(*problems, *wrong)
    return Order(playbook, tuple(inventory or ()), values)
