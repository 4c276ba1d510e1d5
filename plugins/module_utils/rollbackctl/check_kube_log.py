# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `pod_log`: how many lines of pods' logs match a pattern in the last minutes.

Lines from before the run's change do not count. Of a container that was restarted, the log before is looked into as
well. Only what the node still has can be counted: one file for each (10 MiB, unless it is set otherwise). Pods without
a log, and workloads that have never logged anything, say nothing: unverified.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .check_kube_events import nobody
from .check_kube_pods import phase
from .check_kube_select import Group, NothingToAsk, Pod, containers, find_groups, future, moment, namespace_of
from .check_log import counted_from
from .check_model import Context, Sample, bad, good, unverified
from .check_search import NotSearched, matching
from .errors import RollbackError
from .kube_client import Client, KubeError

BYTES_PER_POD = 4 * 1024 * 1024
# The kubelet answers 200 and this when a container's log is gone.
_GONE = re.compile(r"\A(unable to retrieve container logs for|failed to try resolving symlinks in path) ")


@dataclass(frozen=True)
class Log:
    """One container's log of one pod; previous: that from before its restart."""

    path: str
    group: str
    pod: str
    container: str
    previous: bool
    limit: int

    def __str__(self) -> str:
        """Return it for a message."""
        return (
            f"{'the log before the restart' if self.previous else 'the log'} of {self.pod}, container {self.container}"
        )


@dataclass(frozen=True)
class Read:
    """The lines of one log. doubt: why there may be more."""

    log: Log
    lines: list[str]
    doubt: str = ""


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Count once; what was not read within timeout seconds leaves a doubt."""
    client, deadline = context.cluster.client, time.monotonic() + timeout
    try:
        groups = find_groups(options, context)
        now = client.server_time()
        if odd := future(context.settled, now):
            return odd
        if empty := [group for group in groups if not group.pods]:
            return nobody(empty)
        start, namespace = counted_from(options, context, now), namespace_of(options, context)
        logs = [log for group in groups for pod in group.pods for log in logs_of(pod, group.what, namespace, start)]
        found: list[Read] = client.each(lambda log: _read(client, log, start, deadline), logs)
        doubts = [one.doubt for one in found if one.doubt]
        doubts += _without_log(groups, logs)
        if not doubts and not options.get("quiet"):
            doubts = _silent(client, [one.what for one in groups], found)
        lines = [(one.log, line) for one in found for line in one.lines]
        hits = [
            lines[at][0]
            for at in matching(options["pattern"], [line for _, line in lines], deadline - time.monotonic())
        ]
    except NothingToAsk as exc:
        return exc.sample
    except NotSearched as exc:
        return unverified(str(exc))
    except RollbackError as exc:
        return unverified(exc.message)
    count = sum(len(group.pods) for group in groups)
    text, limit = (
        f"{len(hits)} matching lines of {count} pods since {start:%Y-%m-%dT%H:%M:%SZ}",
        int(options.get("max", 0)),
    )
    if len(hits) > limit:
        most, times = Counter(hits).most_common(1)[0]
        return bad(f"{text}, expected at most {limit}; most of them ({times}) in {most}")
    return unverified(f"{text}, but {doubts[0]}") if doubts else good(text)


def _without_log(groups: Iterable[Group], logs: Iterable[Log]) -> list[str]:
    """Say which pods have no log that could be looked into, although they are not done."""
    known = {log.pod for log in logs}
    pods = [pod for group in groups for pod in group.pods if phase(pod) not in {"Succeeded", "Failed"}]
    names = [f"pod {pod['metadata']['name']}" for pod in pods]
    return [f"of {name} nothing ran since then, so it has no log" for name in names if name not in known]


def _silent(client: Client, groups: Iterable[str], found: Iterable[Read]) -> list[str]:
    """Say which workloads have never logged a line, as far as the node knows: they do it elsewhere, or not at all."""
    said = {one.log.group for one in found if one.lines}

    def ever(what: str) -> bool:
        logs = [one.log for one in found if one.log.group == what]
        return any(client.text(log.path, container=log.container, tailLines="1") for log in logs)

    return [
        f"{what} has not logged anything; if that is how it looks in good health, set `quiet: true`"
        for what in groups
        if what not in said and not ever(what)
    ]


def logs_of(pod: Pod, group: str, namespace: str, start: datetime) -> list[Log]:
    """Return the logs of a pod that may hold lines from the start on."""
    name = pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
    found = []
    for container in containers(pod):
        state, before = container.get("state") or {}, container.get("lastState") or {}
        if "running" in state or _ended_since(state, start):
            found.append((container["name"], False))
        if _ended_since(before, start):
            found.append((container["name"], True))
    share = BYTES_PER_POD // max(1, len(found))
    return [Log(path, group, f"pod {name}", container, previous, share) for container, previous in found]


def _ended_since(state: Mapping[str, Any], start: datetime) -> bool:
    ended = state.get("terminated")
    when = moment(ended.get("finishedAt")) if ended else None
    return bool(ended) and (when is None or when >= start)


def _read(client: Client, log: Log, start: datetime, deadline: float) -> Read:
    if time.monotonic() > deadline:
        return Read(log, [], "not all logs could be read in time; set a longer `timeout`")
    query = {"container": log.container, "sinceTime": f"{start:%Y-%m-%dT%H:%M:%SZ}", "limitBytes": str(log.limit)}
    if log.previous:
        query["previous"] = "true"
    try:
        text = client.text(log.path, **query)
    except KubeError as exc:
        if exc.status in {400, 404}:  # 404: the pod has gone meanwhile
            return Read(log, [], f"{log} is gone")
        raise
    if _GONE.match(text):
        return Read(log, [], f"{log} is gone")
    cut = len(text.encode()) >= log.limit
    doubt = f"of {log} only the first {log.limit // 1024} KiB were read" if cut else ""
    return Read(log, [line for line in text.split("\n") if line], doubt)
