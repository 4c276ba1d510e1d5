# SPDX-License-Identifier: GPL-3.0-or-later
"""A profile's `rollback_checks`, read: the kinds there are, what each needs, and what is wrong with an entry.

Types and descriptions are in roles/run_verify/meta/argument_specs.yml; here is what no argument spec can say: which
option belongs to which kind, and what values make sense.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from . import (
    check_command,
    check_file,
    check_http,
    check_kube_kinds,
    check_log,
    check_process,
    check_prometheus,
    check_sql,
    check_tcp,
)
from .check_model import SECRET_OPTIONS, Check, Context, Sample
from .errors import Refused
from .names import is_name


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of check: the options it knows, those it needs, what may be wrong with them, and one try."""

    keys: frozenset[str]
    required: tuple[str, ...]
    problems: Callable[[Mapping[str, Any]], list[str]]
    sample: Callable[[Mapping[str, Any], Context, float], Sample]


# The controller puts in how the last ones are asked (check_kube.py).
KINDS: dict[str, Kind] = {
    "http": Kind(check_http.KEYS, check_http.REQUIRED, check_http.problems, check_http.sample),
    "tcp": Kind(check_tcp.KEYS, check_tcp.REQUIRED, check_tcp.problems, check_tcp.sample),
    "command": Kind(check_command.KEYS, check_command.REQUIRED, check_command.problems, check_command.sample),
    "sql": Kind(check_sql.KEYS, check_sql.REQUIRED, check_sql.problems, check_sql.sample),
    "file": Kind(check_file.KEYS, check_file.REQUIRED, check_file.problems, check_file.sample),
    "log": Kind(check_log.KEYS, check_log.REQUIRED, check_log.problems, check_log.sample),
    "process": Kind(check_process.KEYS, check_process.REQUIRED, check_process.problems, check_process.sample),
    "prometheus": Kind(
        check_prometheus.KEYS, check_prometheus.REQUIRED, check_prometheus.problems, check_prometheus.sample
    ),
    "pods": Kind(check_kube_kinds.PODS, (), check_kube_kinds.pods, check_kube_kinds.elsewhere),
    "events": Kind(check_kube_kinds.EVENTS, ("reasons",), check_kube_kinds.events, check_kube_kinds.elsewhere),
    "pod_log": Kind(check_kube_kinds.POD_LOG, ("pattern",), check_kube_kinds.pod_log, check_kube_kinds.elsewhere),
    "pod_command": Kind(
        check_kube_kinds.POD_COMMAND, ("argv",), check_kube_kinds.pod_command, check_kube_kinds.elsewhere
    ),
}
COMMON = frozenset({"name", "kind", "view", "timeout", "in_a_row", "within", "interval"})
HINT = "Correct rollback_checks in the service's profile; roles/run_verify/README.md shows how a check is written."
VIEWS = ("inside", "outside")
TIMEOUT, INTERVAL, WITHIN, METRICS_WITHIN = 5.0, 0.1, 30.0, 3.0
STEADY = 3


def patience(kind: str, options: Mapping[str, Any]) -> tuple[int, float]:
    """Return the default `in_a_row` and `within` (seconds).

    What comes up with a service may take a moment and may flap; asking a command, a table or a log twice gives the same
    answer. A rollback does not wait long for a metrics backend.
    """
    if kind == "prometheus" or (kind == "http" and options.get("source") == "metrics"):
        return 1, METRICS_WITHIN
    if kind in {"http", "tcp"}:
        return (1 if "latency" in options else STEADY), WITHIN
    return 1, WITHIN if kind in {"process", "file", "pods"} else 0.0


def load_checks(documents: Iterable[Mapping[str, Any]]) -> list[Check]:
    """Return the checks of a profile (mappings with types already converted; None means not given).

    :raises Refused: with all that is wrong with all of them.
    """
    checks: list[Check] = []
    problems: list[str] = []
    for position, document in enumerate(documents, 1):
        given = _given(document)
        found = _problems(given)
        name = str(given.get("name", ""))
        if any(check.name == name for check in checks):
            found.append("its name is used by another check")
        label = f"check {name}" if is_name(name) else f"check number {position}"
        problems += [f"{label}: {problem}" for problem in found]
        if not found:
            checks.append(_make(given))
    if problems:
        raise Refused(
            "rollback_checks cannot be used. "
            + " ".join(f"{problem}." for problem in problems)
            + " Nothing was changed.",
            HINT,
        )
    return checks


def _given(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given: an argument spec fills in None for the rest (in `json`, null is a value like others)."""
    given = {key: value for key, value in document.items() if value is not None}
    for key in ("version", "latency", "expect"):
        if isinstance(given.get(key), Mapping):
            given[key] = {name: value for name, value in given[key].items() if value is not None}
    return given


def _problems(given: Mapping[str, Any]) -> list[str]:
    if not is_name(str(given.get("name", ""))):
        return ["`name` must be letters, digits, dots and dashes, 63 at most"]
    if given.get("kind") not in KINDS:
        return [f"`kind` must be one of {', '.join(KINDS)}"]
    kind = KINDS[given["kind"]]
    found = []
    if given.get("view", "inside") not in VIEWS:
        found.append("`view` must be inside or outside")
    if foreign := sorted(set(given) - COMMON - kind.keys):
        found.append(
            f"{given['kind']} checks do not know {', '.join(foreign)}; they know {', '.join(sorted(kind.keys))}"
        )
    missing = [key for key in kind.required if key not in given]
    if missing:
        found.append(f"{given['kind']} checks need {', '.join(missing)}")
    try:
        found += [
            f"`{key}` must be between {least:g} and 3600"
            for key, least in (("timeout", 0.01), ("in_a_row", 1), ("within", 0), ("interval", 0))
            if key in given and not least <= float(given[key]) <= 3600
        ]
        return found or kind.problems(given)
    except (AttributeError, KeyError, TypeError, ValueError):
        # Not met after the argument spec, which converts types; the words must not show a value.
        return ["one of its options has the wrong type"]


def _make(given: Mapping[str, Any]) -> Check:
    options = {key: value for key, value in given.items() if key not in COMMON}
    in_a_row, within = patience(given["kind"], options)
    return Check(
        name=given["name"],
        kind=given["kind"],
        view=given.get("view", "inside"),
        timeout=float(given.get("timeout", TIMEOUT)),
        in_a_row=int(given.get("in_a_row", in_a_row)),
        within=float(given.get("within", within)),
        interval=float(given.get("interval", INTERVAL)),
        options=options,
    )


def take_secrets(documents: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split each document in two: what may be logged, and headers and environment."""
    taken = [dict(document) for document in documents]
    secrets = [
        {key: document.pop(key) for key in SECRET_OPTIONS if document.get(key) is not None} for document in taken
    ]
    return taken, secrets


def give_secrets(
    documents: Iterable[Mapping[str, Any]],
    secrets: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Put together again what take_secrets took apart."""
    return [{**document, **secret} for document, secret in zip(documents, secrets)]
