# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `events`: what went wrong with pods in the last minutes, by its reason (OOMKilled, BackOff, ...).

A container that was out of memory is no Event in Kubernetes: it is how the container ended, so both are looked into. Of
each container the last two ends are known; of Events that repeat themselves the first and the last time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .check_kube_select import Group, NothingToAsk, Pod, containers, ends, find_groups, future, moment, namespace_of
from .check_log import counted_from
from .check_model import Context, Sample, bad, good, unverified
from .errors import RollbackError

# One thing, told as a container's end and, on some clusters, as an Event.
_SAME = {"OOMKilling": "OOMKilled"}


@dataclass
class Tally:
    """How often something happened to a pod in the time looked at."""

    ended: int = 0
    least: int = 0
    most: int = 0

    def counts(self) -> tuple[int, int]:
        """Return how often at least and at most; what both sources tell counts once."""
        return max(self.ended, self.least), max(self.ended, self.most)


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Count once. The client bounds each request."""
    del timeout
    client = context.cluster.client
    try:
        groups = find_groups(options, context)
        now = client.server_time()
        if odd := future(context.settled, now):
            return odd
        reasons = list(dict.fromkeys(options["reasons"]))
        path = f"/api/v1/namespaces/{namespace_of(options, context)}/events"
        told = client.each(
            lambda reason: client.list(path, fieldSelector=f"involvedObject.kind=Pod,reason={reason}"), reasons
        )
    except NothingToAsk as exc:
        return exc.sample
    except RollbackError as exc:
        return unverified(exc.message)
    pods = [pod for group in groups for pod in group.pods]
    if not pods:
        return nobody(groups)
    start = counted_from(options, context, now)
    tallies = count(pods, [event for found in told for event in found], {_SAME.get(one, one) for one in reasons}, start)
    return judge(tallies, int(options.get("max", 0)), start)


def nobody(groups: Iterable[Group]) -> Sample:
    """Return what is to be said when there is no pod to look at."""
    return unverified(f"there is no pod of {', '.join(group.what for group in groups)}")


def count(
    pods: Iterable[Pod], events: Iterable[Mapping[str, Any]], reasons: set[str], start: datetime
) -> dict[tuple[str, str], Tally]:
    """Return how often each reason was told of each pod since the start, by name of the pod and reason."""
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    names = {}
    for pod in pods:
        names[pod["metadata"]["uid"]] = pod["metadata"]["name"]
        for container in containers(pod):
            for _, end in ends(container):
                reason, when = str(end.get("reason") or ""), moment(end.get("finishedAt"))
                if reason in reasons and when is not None and when >= start:
                    tallies[pod["metadata"]["name"], reason].ended += 1
    for event in events:
        name = names.get((event.get("involvedObject") or {}).get("uid"))
        reason = _SAME.get(str(event.get("reason")), str(event.get("reason")))
        if name is None or reason not in reasons:
            continue
        least, most = times(event, start)
        tally = tallies[name, reason]
        tally.least, tally.most = tally.least + least, tally.most + most
    return {key: tally for key, tally in tallies.items() if tally.counts()[1]}


def times(event: Mapping[str, Any], start: datetime) -> tuple[int, int]:
    """Return how often an Event happened since the start, at least and at most.

    Events come in two spellings: count with firstTimestamp and lastTimestamp, or eventTime with a series.
    """
    series = event.get("series") or {}
    total = int(series.get("count") or event.get("count") or 1)
    made = event["metadata"].get("creationTimestamp")
    first = moment(event.get("firstTimestamp")) or moment(event.get("eventTime")) or moment(made)
    last = moment(series.get("lastObservedTime")) or moment(event.get("lastTimestamp")) or first
    if last is None or last < start:
        return 0, 0
    if first is not None and first >= start:
        return total, total
    return 1, max(1, total - 1)  # the first was before


def judge(tallies: Mapping[tuple[str, str], Tally], limit: int, start: datetime) -> Sample:
    """Return what is to be said of all that was told."""
    least = sum(tally.counts()[0] for tally in tallies.values())
    most = sum(tally.counts()[1] for tally in tallies.values())
    since = f"since {start:%Y-%m-%dT%H:%M:%SZ}"
    listed = [f"{reason} of pod {name}" for name, reason in tallies]
    told = f" ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''})" if listed else ""
    if least > limit:
        return bad(f"{least} times {since}, expected at most {limit}{told}")
    if most > limit:
        return unverified(f"between {least} and {most} times {since}, expected at most {limit}{told}")
    return good(f"{most} times {since}{told}")
