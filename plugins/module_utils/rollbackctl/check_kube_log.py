# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `pod_log`: how many lines of pods' logs match a pattern in the last minutes.

Lines from before the run's change do not count. Of a container that was restarted, the log before is looked into as
well. Only what the node still has can be counted: one file for each (10 MiB, unless it is set otherwise).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .check_kube_events import nobody
from .check_kube_select import NothingToAsk, Pod, containers, find_groups, future, moment, namespace_of
from .check_log import LINE_LIMIT, counted_from
from .check_model import Context, Sample, bad, good, unverified
from .errors import RollbackError
from .kube_client import Client, KubeError

BYTES_PER_POD = 4 * 1024 * 1024
# The kubelet answers 200 and this when a container's log is gone.
_GONE = re.compile(r"\A(unable to retrieve container logs for|failed to try resolving symlinks in path) ")


@dataclass(frozen=True)
class Log:
    """One container's log of one pod; previous: that from before its restart."""

    path: str
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
class Count:
    """The matching lines of one log. doubt: why there may be more."""

    log: Log
    lines: int
    doubt: str = ""


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Count once; what was not read within timeout seconds leaves a doubt."""
    client, deadline = context.cluster.client, time.monotonic() + timeout
    try:
        groups = find_groups(options, context)
        now = client.server_time()
        if odd := future(context.settled, now):
            return odd
        pods = [pod for group in groups for pod in group.pods]
        if not pods:
            return nobody(groups)
        start = counted_from(options, context, now)
        logs = [log for pod in pods for log in logs_of(pod, namespace_of(options, context), start)]
        pattern = re.compile(options["pattern"])
        counts: list[Count] = client.each(lambda log: _count(client, log, pattern, start, deadline), logs)
    except NothingToAsk as exc:
        return exc.sample
    except RollbackError as exc:
        return unverified(exc.message)
    total, limit = sum(count.lines for count in counts), int(options.get("max", 0))
    text = f"{total} matching lines of {len(pods)} pods since {start:%Y-%m-%dT%H:%M:%SZ}"
    if total > limit:
        most = max(counts, key=lambda count: count.lines)
        return bad(f"{text}, expected at most {limit}; most of them ({most.lines}) in {most.log}")
    doubts = [count.doubt for count in counts if count.doubt]
    return unverified(f"{text}, but {doubts[0]}") if doubts else good(text)


def logs_of(pod: Pod, namespace: str, start: datetime) -> list[Log]:
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
    return [Log(path, f"pod {name}", container, previous, share) for container, previous in found]


def _ended_since(state: Mapping[str, Any], start: datetime) -> bool:
    ended = state.get("terminated")
    when = moment(ended.get("finishedAt")) if ended else None
    return bool(ended) and (when is None or when >= start)


def _count(client: Client, log: Log, pattern: re.Pattern[str], start: datetime, deadline: float) -> Count:
    if time.monotonic() > deadline:
        return Count(log, 0, "not all logs could be read in time; set a longer `timeout`")
    query = {"container": log.container, "sinceTime": f"{start:%Y-%m-%dT%H:%M:%SZ}", "limitBytes": str(log.limit)}
    if log.previous:
        query["previous"] = "true"
    try:
        text = client.text(log.path, **query)
    except KubeError as exc:
        if exc.status == 404:
            return Count(log, 0)  # the pod has gone meanwhile
        if exc.status == 400:
            return Count(log, 0, f"{log} is gone")
        raise
    if _GONE.match(text):
        return Count(log, 0, f"{log} is gone")
    lines = sum(pattern.search(line[:LINE_LIMIT]) is not None for line in text.split("\n") if line)
    cut = len(text.encode()) >= log.limit
    return Count(log, lines, f"of {log} only the first {log.limit // 1024} KiB were read" if cut else "")
