# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `pod_command`: a program's exit code and output, run in one pod that is ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .check_command import last_words
from .check_http import look_up, printable_path
from .check_kube_select import NothingToAsk, Pod, find_groups, namespace_of
from .check_model import Context, Sample, bad, difference, good, shown, unverified
from .errors import RollbackError
from .kube_pod_exec import Ended, execute
from .kube_rollout import is_ready

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Run it once, for timeout seconds at most."""
    if context.check_mode:
        return Sample(ok=False, text="not run, because this is check mode", unverified=True, final=True)
    try:
        groups = find_groups(options, context)
        pods = sorted((pod for group in groups for pod in group.pods if is_ready(pod)), key=_name)
        if not pods:
            return bad(f"no pod of {', '.join(group.what for group in groups)} is ready, so there is none to run it in")
        container = container_of(pods[0], options)
        access = context.cluster.client.access
        ended = execute(access, namespace_of(options, context), _name(pods[0]), container, options["argv"], timeout)
    except NothingToAsk as exc:
        return exc.sample
    except RollbackError as exc:
        return unverified(exc.message)
    return judge(options, ended, f"in pod {_name(pods[0])}", timeout)


def _name(pod: Pod) -> str:
    return str(pod["metadata"]["name"])


def container_of(pod: Pod, options: Mapping[str, Any]) -> str:
    """Return the container that is meant: the one named, or the one that kubectl would take.

    :raises NothingToAsk: the pod has no such container.
    """
    names = [str(one["name"]) for one in pod["spec"]["containers"]]
    default = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER)
    wanted = options.get("container", default if default in names else names[0])
    if wanted not in names:
        raise NothingToAsk(bad(f"pod {_name(pod)} has no container {wanted}; it has {', '.join(names)}"))
    return str(wanted)


def judge(options: Mapping[str, Any], ended: Ended, where: str, timeout: float) -> Sample:
    """Return what is to be said of how it ended and what it wrote."""
    words, wanted = last_words(ended.stdout, ended.stderr), int(options.get("rc", 0))
    if ended.late:
        return bad(f"{where}: did not end within {timeout:g} s, and may still run there{words}")
    if ended.rc is None:
        return unverified(f"{where}: {ended.problem}")
    if ended.rc != wanted:
        return bad(f"{where}: exit code {ended.rc}, expected {wanted}{words}")
    if "stdout_contains" in options and options["stdout_contains"].encode() not in ended.stdout:
        return bad(f"{where}: exit code {ended.rc}, but its output lacks {shown(options['stdout_contains'])}")
    for path, expected in (options.get("json") or {}).items():
        try:
            found = look_up(ended.stdout, path)
        except ValueError as exc:
            return bad(f"{where}: {exc}")
        if unlike := difference(found, expected):
            return bad(f"{where}: {printable_path(path)} {unlike}")
    return good(f"{where}: exit code {ended.rc}")
