# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that run a playbook."""

from __future__ import annotations

import shlex
import sys
from typing import Any, NoReturn

import typer
from rich.text import Text

from rollbackctl import execute, parameters
from rollbackctl._project import names, outcome
from rollbackctl.execute import Order
from rollbackctl.records import Record
from rollbackctl.report import parse, terminal

from . import arguments
from .arguments import AsJson, Environment, Inventories, Level, OnLevel, Run, Services, Yes

NOT_IN_ROLLBACK = frozenset({"rollback_release"})
NOT_WHEN_RESUMED = NOT_IN_ROLLBACK | parameters.TARGETS
ABOUT_STATE = frozenset({"rollback_reason", "rollback_components", "rollback_confirm"})
_QUESTIONS = {"undo": "Take the run back so?", "finalize": "Remove this for good?"}
TO_ADOPT = ABOUT_STATE | {"rollback_to", "rollback_accept_unverified_backup"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application; their flags are made from the specification here."""
    app.command("run")(parameters.takes(NOT_IN_ROLLBACK)(run))
    app.command("plan")(parameters.takes(NOT_IN_ROLLBACK)(plan))
    app.command("panic")(parameters.takes(only=frozenset({"rollback_reason"}))(panic))
    app.command("resume")(parameters.takes(NOT_WHEN_RESUMED)(resume))
    app.command("undo")(parameters.takes(NOT_WHEN_RESUMED)(undo))
    app.command("finalize")(parameters.takes(only=ABOUT_STATE)(finalize))
    app.command("checkpoint")(parameters.takes(only=ABOUT_STATE)(checkpoint))
    app.command("adopt")(parameters.takes(only=TO_ADOPT)(adopt))
    app.command("verify")(parameters.takes(only=frozenset({"rollback_components"}))(verify))


def run(
    level: Level,
    services: Services = None,
    *,
    given: dict[str, Any],
    inventory: Inventories = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put services back: show the plan, ask, carry it out, prove it."""
    problems = arguments.level_problems(level)
    order = _order(arguments.PLAYBOOKS.get(level, ""), services, inventory, given, "rollback", problems)
    if not yes:
        order = _approved(order, given)
    execute.close(*execute.carry_out(order), as_json=as_json)


def plan(
    level: Level,
    services: Services = None,
    *,
    given: dict[str, Any],
    inventory: Inventories = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do, and what it would lose; change nothing."""
    problems = arguments.level_problems(level)
    given.setdefault("rollback_reason", "plan")
    order = _order(arguments.PLAYBOOKS.get(level, ""), services, inventory, given, "rollback", problems)
    record, result = execute.look(order)
    if record is None:
        execute.no_plan(result)
    if as_json:
        execute.close(record, result, as_json=True, keep=False)
    _show_plan(record, given)
    raise typer.Exit(parse(record).exit_code)


def panic(
    environment: Environment,
    *,
    given: dict[str, Any],
    inventory: Inventories = None,
    as_json: AsJson = False,
) -> None:
    """Take every service of an environment to its last known good, at once and without questions.

    What is broken does not keep the others waiting; the table at the end says what could not be done.
    """
    given["rollback_environment"] = environment
    problems = arguments.inventory_problems(inventory)
    values, wrong = parameters.judge(given, [], "panic")
    if problems + wrong:
        execute.refuse(*problems, *wrong)
    order = Order("panic.yml", tuple(inventory or ()), values)
    execute.close(*execute.carry_out(order), as_json=as_json)


def resume(
    run: Run,
    services: Services = None,
    *,
    given: dict[str, Any],
    inventory: Inventories = None,
    level: OnLevel = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was interrupted, from where the service stands.

    SERVICE, --inventory and --level are needed where this controller has no record of the run.
    """
    record, why = arguments.known(run)
    problems = arguments.level_problems(level) if level else []
    playbook = arguments.PLAYBOOKS.get(level or "", "")
    if record is not None:
        playbook = playbook or str(record.get("playbook"))
        if record.get("reason"):
            given.setdefault("rollback_reason", record["reason"])
    elif not (services and inventory and level):
        problems.append(f"{why} To resume it from here, say SERVICE, --inventory and --level")
    kind = str(record.get("kind")) if record else "rollback"
    _on_run(run, record, playbook, kind, services, inventory, given, problems, as_json=as_json)


def undo(
    run: Run,
    services: Services = None,
    *,
    given: dict[str, Any],
    inventory: Inventories = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take a run back: show the plan and its loss, ask, go forward again to where the service was."""
    _later(run, "roll-forward.yml", "undo", services, inventory, given, yes=yes, as_json=as_json)


def finalize(
    run: Run,
    services: Services = None,
    *,
    given: dict[str, Any],
    inventory: Inventories = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show what a run kept, ask, and remove it. After that the run cannot be taken back."""
    _later(run, "finalize.yml", "finalize", services, inventory, given, yes=yes, as_json=as_json)


def checkpoint(
    services: Services = None, *, given: dict[str, Any], inventory: Inventories = None, as_json: AsJson = False
) -> None:
    """Record what runs now as a candidate to go back to; it is proven when it held for the profile's soak time."""
    order = _order("checkpoint.yml", services, inventory, given, "checkpoint", [])
    execute.close(*execute.carry_out(order), as_json=as_json)


def adopt(
    services: Services = None, *, given: dict[str, Any], inventory: Inventories = None, as_json: AsJson = False
) -> None:
    """Make a checkpoint out of versions and a backup that exist already: name them with --to.

    It is a candidate: a run goes back to it only when it is named.
    """
    order = _order("adopt.yml", services, inventory, given, "adopt", [])
    execute.close(*execute.carry_out(order), as_json=as_json)


def verify(
    services: Services = None, *, given: dict[str, Any], inventory: Inventories = None, as_json: AsJson = False
) -> None:
    """Read the service and its checks; change nothing."""
    order = _order("verify.yml", services, inventory, given, "verify", [])
    execute.close(*execute.look(order, check=False), as_json=as_json, keep=False)


def _order(
    playbook: str,
    services: list[str] | None,
    inventory: list[str] | None,
    given: dict[str, Any],
    kind: str,
    problems: list[str],
) -> Order:
    """Return what is to be run, or refuse with everything that is wrong with it."""
    if playbook:
        problems += arguments.playbook_problems(playbook)
    if not services:
        problems.append("SERVICE is missing: name the services; there is no default")
    problems += arguments.inventory_problems(inventory)
    values, wrong = parameters.judge(given, services or [], kind)
    if problems + wrong:
        execute.refuse(*problems, *wrong)
    return Order(playbook, tuple(inventory or ()), values)


def _approved(order: Order, given: dict[str, Any], question: str = "Carry out this plan?") -> Order:
    """Show the plan and ask. The order that comes back carries out the plan that was shown, or none."""
    record, result = execute.look(order)
    if record is None:
        execute.no_plan(result)
    _show_plan(record, given)
    if record["outcome"] not in {outcome.DONE, outcome.ALREADY}:
        raise typer.Exit(parse(record).exit_code)
    if not execute.is_interactive():
        execute.refuse("nobody is there to be asked whether to go on; with --yes the run does not ask")
    try:
        said = typer.confirm(question, err=True)
    except typer.Abort:
        said = False
    if not said:
        execute.refuse("the answer was no")
    plans = {name: (service.get("plan") or {}).get("hash") for name, service in record["services"].items()}
    if not plans or not all(plans.values()):
        execute.refuse("the plan that was shown has no hash, so it cannot be proven that it is the one that is run")
    shown = ",".join(f"{name}={digest}" for name, digest in plans.items())
    return Order(order.playbook, order.inventories, {**order.values, "rollback_plan": shown})


def _show_plan(record: Record, given: dict[str, Any]) -> None:
    report = execute.in_flags(parse(record))
    console = execute.stderr()
    console.print(Text(report.headline, f"bold {terminal.STYLES[report.tone]}"))
    if report.message and not any(service.get("problems") for service in record["services"].values()):
        console.print(Text(report.message), soft_wrap=True)
    console.print(terminal.plan(record, console.width, parameters.in_flags), soft_wrap=True, end="")
    losses = sorted(service.loss_since for service in report.services if service.loss_since)
    accepted = str(given.get("rollback_accept_data_loss_since", ""))
    if losses and (not accepted or accepted > losses[0]):
        flag = parameters.flag("rollback_accept_data_loss_since")
        again = shlex.join(["rollbackctl", *sys.argv[1:], flag, losses[0]])
        console.print(Text.assemble("To accept that loss and go on: ", (again, "bold")), soft_wrap=True)


def _later(
    run: str,
    playbook: str,
    kind: str,
    services: list[str] | None,
    inventory: list[str] | None,
    given: dict[str, Any],
    *,
    yes: bool,
    as_json: bool,
) -> NoReturn:
    record, why = arguments.known(run)
    problems: list[str] = []
    if record is None and not (services and inventory):
        problems.append(f"{why} To do it from here, say SERVICE and --inventory")
    question = "" if yes else _QUESTIONS[kind]
    _on_run(run, record, playbook, kind, services, inventory, given, problems, question=question, as_json=as_json)


def _on_run(
    run: str,
    record: Record | None,
    playbook: str,
    kind: str,
    services: list[str] | None,
    inventory: list[str] | None,
    given: dict[str, Any],
    problems: list[str],
    *,
    question: str = "",
    as_json: bool,
) -> NoReturn:
    """Carry out a playbook for a run that there was; what was not said again is taken from its record.

    question: what is asked once the plan was shown; nothing is shown or asked without one.
    """
    if not names.is_run_id(run):
        execute.refuse(f"RUN {names.printable(run)!r} is not the id of a run")
    if record is not None:
        services = services or sorted(record.get("services", {}))
        inventory = inventory or list(record.get("inventory", []))
    given["rollback_run"] = run
    order = _order(playbook, services, inventory, given, kind, problems)
    if question:
        order = _approved(order, given, question)
    execute.close(*execute.carry_out(order), as_json=as_json)
