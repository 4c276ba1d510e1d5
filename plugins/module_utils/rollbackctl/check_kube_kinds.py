# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of what is in Kubernetes, as far as a profile goes: their options and what may be wrong with them.

They are asked from the controller only: check_kube.py installs how. A module on a host reads this file, nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .check_log import MINUTES
from .check_model import Context, Sample, empty_problems, unverified
from .check_search import pattern_problem

_WHICH = frozenset({"namespace", "selector", "workload"})
PODS = _WHICH | {"ready", "max_restarts"}
EVENTS = _WHICH | {"reasons", "max", "minutes"}
POD_LOG = _WHICH | {"pattern", "max", "minutes", "quiet"}
POD_COMMAND = _WHICH | {"container", "argv", "rc", "stdout_contains", "json"}
WORKLOADS = ("deployment", "statefulset", "daemonset")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_WORKLOAD = re.compile(rf"({'|'.join(WORKLOADS)})/[a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?")
_SELECTOR = re.compile(r"[A-Za-z0-9._/=!(), -]{1,1000}")
_REASON = re.compile(r"[A-Za-z0-9]{1,128}")


def name_problem(key: str, options: Mapping[str, Any]) -> str:
    """Return why an option cannot name a namespace, a Service or a container; empty when it can or is not given."""
    if key in options and not _LABEL.fullmatch(options[key]):
        return f"`{key}` must be lowercase letters, digits and dashes, 63 at most"
    return ""


def _which_problems(options: Mapping[str, Any]) -> list[str]:
    found = [problem for problem in (name_problem("namespace", options),) if problem]
    if ("selector" in options) == ("workload" in options):
        found.append("either `selector` or `workload` says which pods are meant")
    if "selector" in options and (not _SELECTOR.fullmatch(options["selector"]) or not options["selector"].strip()):
        found.append("`selector` must be a label selector such as app=api,tier!=test")
    if "workload" in options:
        wrong = [one for one in options["workload"] if not _WORKLOAD.fullmatch(one)]
        if wrong or not options["workload"]:
            found.append(
                f"`workload` must be one of {', '.join(f'{kind}/NAME' for kind in WORKLOADS)}, or a list of them"
            )
    return found


def _window_problems(options: Mapping[str, Any]) -> list[str]:
    if options.get("max", 0) < 0 or options.get("minutes", MINUTES) <= 0:
        return ["`max` must not be negative, `minutes` must be above 0"]
    return []


def pods(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a check of kind `pods`."""
    found = _which_problems(options)
    if options.get("ready", 1) < 1:
        found.append("`ready` must be at least 1: no pod at all would be enough")
    if options.get("max_restarts", 0) < 0:
        found.append("`max_restarts` must not be negative")
    return found


def events(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a check of kind `events`."""
    found = _which_problems(options) + _window_problems(options)
    if not options["reasons"] or not all(_REASON.fullmatch(reason) for reason in options["reasons"]):
        found.append("`reasons` must be a list of words such as OOMKilled or BackOff")
    return found


def pod_log(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a check of kind `pod_log`."""
    problem = pattern_problem(options["pattern"])
    return _which_problems(options) + _window_problems(options) + ([problem] if problem else [])


def pod_command(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a check of kind `pod_command`."""
    found = _which_problems(options)
    if problem := name_problem("container", options):
        found.append(problem)
    found += empty_problems(options, "stdout_contains", "json")
    words = options["argv"]
    if not words or not words[0] or any("\0" in word for word in words):
        found.append("`argv` must be a list: the program, then each of its arguments")
    return found


def elsewhere(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Say that this process cannot ask."""
    del options, context, timeout
    return unverified("this is asked from the controller only")


def needs_cluster(kind: str, options: Mapping[str, Any]) -> bool:
    """Say whether a check asks the API server of the cluster that the service's state is in."""
    return kind in {"pods", "events", "pod_log", "pod_command"} or (kind == "prometheus" and "service" in options)
