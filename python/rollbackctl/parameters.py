# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's parameters as command line flags. What there is, of which type, and what it means is read from the guard's
specification (roles/run_guard/meta/argument_specs.yml), and its values are judged by the guard's own functions.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter as Argument
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from ._project import ROOT, controller, names

PREFIX = "rollback_"
# What the wrapper's own arguments say: SERVICE..., RUN and ENVIRONMENT.
BY_ARGUMENT = frozenset({"rollback_services", "rollback_run", "rollback_environment"})
# What is to be reached; a run that is resumed or taken back has that in its plan.
TARGETS = frozenset({
    "rollback_checkpoint",
    "rollback_to",
    "rollback_components",
    "rollback_plan",
    "rollback_accept_unverified_backup",
})  # fmt: skip
# As names.name_a_version writes it.
_NAMED_VERSION = re.compile(r"""-e ('\{"rollback_to": (?:[^']|'"'"')*\}\}')""")
_PANEL = "Parameters of the run"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a run, as the specification has it."""

    name: str
    type: str
    help: str
    choices: tuple[str, ...]
    required: bool

    @property
    def flag(self) -> str:
        """The command line flag: rollback_accept_data_loss_since is --accept-data-loss-since."""
        return flag(self.name)

    @property
    def metavar(self) -> str:
        """What stands for the value in the help text."""
        if self.choices:
            return f"[{'|'.join(self.choices)}]"
        return {"dict": "COMPONENT=VERSION", "list": "NAME", "int": "NUMBER", "float": "NUMBER"}.get(self.type, "TEXT")


def flag(name: str) -> str:
    """Return the command line flag of a parameter."""
    return "--" + name.removeprefix(PREFIX).replace("_", "-")


def in_flags(message: str) -> str:
    """Return a message of the engine in the words of the command line: rollback_plan=X becomes --plan X, and
    -e '{"rollback_to": {"shop-db": "X"}}' becomes --to shop-db=X."""
    message = _NAMED_VERSION.sub(_as_flag, message)
    message = re.sub(r"-e (rollback_\w+)=true\b", lambda found: flag(found[1]), message)
    message = re.sub(r"-e (?=rollback_\w+=)", "", message)
    listed = "|".join(sorted(options(), key=len, reverse=True))
    return re.sub(rf"\b({listed})\b(=?)", lambda found: flag(found[1]) + (" " if found[2] else ""), message)


def _as_flag(found: re.Match[str]) -> str:
    try:
        (words,) = shlex.split(found[1])
        named = json.loads(words)["rollback_to"]
    except (ValueError, KeyError, TypeError):
        return found[0]
    return " ".join(f"{flag('rollback_to')} {shlex.quote(f'{name}={version}')}" for name, version in named.items())


def options(root: Path = ROOT) -> dict[str, Any]:
    """Return the specification of a run's parameters."""
    return controller.role_options(str(root / "roles" / "run_guard"), "main")


def load(without: frozenset[str] = frozenset(), only: frozenset[str] | None = None) -> list[Parameter]:
    """Return the parameters a command takes, in the order of the specification."""
    return [
        Parameter(
            name=name,
            type=str(spec.get("type", "str")),
            help=_help(spec),
            choices=tuple(str(choice) for choice in spec.get("choices", ())),
            required=bool(spec.get("required")),
        )
        for name, spec in options().items()
        if name not in without | BY_ARGUMENT and (only is None or name in only)
    ]


def takes(
    without: frozenset[str] = frozenset(), only: frozenset[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the parameters of a run as flags; it gets those that were used as its argument `given`."""
    listed = load(without, only)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def call(**arguments: Any) -> None:
            used = {each.name: arguments.pop(each.name) for each in listed}
            given = {name: value for name, value in used.items() if value not in (None, False, [], ())}
            command(given=given, **arguments)

        own = signature(command, eval_str=True)
        kept = [argument for argument in own.parameters.values() if argument.name != "given"]
        added = [
            Argument(each.name, Argument.KEYWORD_ONLY, default=_default(each), annotation=_annotation(each))
            for each in listed
        ]
        positional = [argument for argument in kept if argument.kind is not Argument.KEYWORD_ONLY]
        keyword = [argument for argument in kept if argument.kind is Argument.KEYWORD_ONLY]
        call.__signature__ = own.replace(parameters=[*positional, *added, *keyword])  # type: ignore[attr-defined] # inspect's own hook
        call.__annotations__ = {argument.name: argument.annotation for argument in (*kept, *added)}
        call.__doc__ = command.__doc__
        call.__name__ = command.__name__
        return call

    return decorate


def judge(given: Mapping[str, Any], services: Sequence[str], kind: str) -> tuple[dict[str, Any], list[str]]:
    """Return the extra variables of a run and everything that is wrong with them, in the words of the command line.

    :param given: values by parameter name, as the flags gave them (a map is a list of COMPONENT=VERSION).
    :param services: the inventory hosts that were named.
    """
    wrong: list[str] = []
    values = {name: _value(name, value, wrong) for name, value in given.items()}
    services = separate(services)
    if services:
        values["rollback_services"] = services
    wrong += [f"SERVICE {_quoted(name)} is not the name of an inventory host" for name in services if not _may_be(name)]
    wrong += [f"SERVICE {name!r} names no service; say which" for name in services if name in {"all", "ungrouped"}]
    validated, refused = controller.validate(options(), values)
    wrong += [in_flags(message) for message in refused]
    wrong += [in_flags(message) for message in controller.parameter_problems(validated, kind)]
    return values, list(dict.fromkeys(wrong))


def separate(words: Sequence[str]) -> list[str]:
    """Return the names of a list that may be written with commas, as people do: a,b c."""
    return [part.strip(" ") for word in words for part in word.split(",") if part.strip(" ") or "," not in word]


def _may_be(service: str) -> bool:
    return names.is_name(service)


def _quoted(text: str) -> str:
    return repr(names.printable(text)[:80])


def _value(name: str, value: Any, wrong: list[str]) -> Any:
    kind = str(options()[name].get("type"))
    if kind == "list":
        return separate(value)
    if kind != "dict":
        return value
    pairs = [item.partition("=") for item in value]
    wrong += [f"{flag(name)} {_quoted(key)}: write COMPONENT=VERSION" for key, sign, _ in pairs if not sign]
    twice = sorted({key for key, _, _ in pairs if [pair[0] for pair in pairs].count(key) > 1})
    wrong += [f"{flag(name)} names {_quoted(key)} twice" for key in twice]
    return {key: version for key, sign, version in pairs if sign}


def _help(spec: Mapping[str, Any]) -> str:
    described = spec.get("description", "")
    text = " ".join(described) if isinstance(described, list) else str(described)
    # Ansible's markup: C(x), V(x), O(x) and the like.
    return re.sub(r"\b[A-Z]\(([^)]*)\)", r"\1", " ".join(text.split())).replace("[", r"\[")


def _default(parameter: Parameter) -> Any:
    return False if parameter.type == "bool" else None


def _annotation(parameter: Parameter) -> Any:
    kinds: dict[str, Any] = {"bool": bool, "list": list[str] | None, "dict": list[str] | None}
    # One of a list is named as often as several.
    also = ["--component"] if parameter.name == "rollback_components" else []
    option = typer.Option(
        parameter.flag,
        *also,
        help=parameter.help,
        metavar=None if parameter.type == "bool" else parameter.metavar,
        rich_help_panel=_PANEL,
        show_default=False,
    )
    return Annotated[kinds.get(parameter.type, str | None), option]
