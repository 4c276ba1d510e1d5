# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `pods`: enough pods are ready, none of them is stuck, and none was restarted since the run's change.

A Deployment that is "available" may still have a pod that crashes now and then, or one that cannot pull its image.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .check_kube_select import Group, NothingToAsk, Pod, containers, ends, find_groups, future, moment
from .check_model import Context, Sample, bad, clip, good, unverified
from .errors import RollbackError
from .kube_rollout import is_ready

# What a container waits for while all goes well.
_STARTING = frozenset({"ContainerCreating", "PodInitializing", ""})
_CRASHED = "CrashLoopBackOff"
WORDS = 120


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Look once. The client bounds each request."""
    del timeout
    try:
        groups = find_groups(options, context)
        if context.changed and (odd := future(context.changed, context.cluster.client.server_time())):
            return odd
    except NothingToAsk as exc:
        return exc.sample
    except RollbackError as exc:
        return unverified(exc.message)
    verdicts = [judge(group, options, context.changed) for group in groups]
    for unlike in (
        [one for one in verdicts if not one.ok and not one.unverified],
        [one for one in verdicts if not one.ok],
    ):
        if unlike:
            more = f"; and {len(unlike) - 1} more of {len(verdicts)} workloads" if len(unlike) > 1 else ""
            return Sample(ok=False, text=unlike[0].text + more, unverified=unlike[0].unverified)
    return good("; ".join(one.text for one in verdicts))


def judge(group: Group, options: Mapping[str, Any], changed: datetime | None) -> Sample:
    """Return what is to be said of one workload's pods."""
    if group.behind:
        return bad(f"{group.what}: its controller has not seen its last change yet")
    running = [pod for pod in group.pods if phase(pod) not in {"Succeeded", "Failed"}]
    ready = [pod for pod in running if is_ready(pod)]
    wanted = int(options.get("ready", max(1, len(running) if group.wanted is None else group.wanted)))
    count = f"{group.what}: {len(ready)} of {max(len(running), group.wanted or 0)} pods ready"
    least = f"{count}, expected {'at least ' if 'ready' in options else ''}{wanted}"
    stuck = [words for pod in group.pods if (words := trouble(pod, changed))]
    if stuck:
        return bad(f"{count if len(ready) >= wanted else least}; {_first(stuck)}")
    if len(ready) < wanted:
        reasons = [unready(pod) for pod in running if not is_ready(pod)]
        return bad(f"{least}{'; ' if reasons else ''}{_first(reasons)}")
    return _judge_restarts(running, int(options.get("max_restarts", 0)), changed, count)


def _judge_restarts(pods: list[Pod], limit: int, changed: datetime | None, count: str) -> Sample:
    if changed is None:
        return good(count)
    doubt = ""
    for pod in pods:
        least, most, words = restarts(pod, changed)
        if least > limit:
            return bad(f"{count}, but {words}, expected at most {limit}")
        if most > limit:
            doubt = f"{count}, but {words}; how many of them since the change at {_shown(changed)} is not known"
    return unverified(doubt) if doubt else good(f"{count}, none restarted more than {limit} times")


def restarts(pod: Pod, changed: datetime) -> tuple[int, int, str]:
    """Return how often the pod's containers were restarted since the change, at least and at most, and that in words.

    The API server counts a container's restarts, but has the time of the last one only.
    """
    made = moment(pod["metadata"].get("creationTimestamp"))
    least = most = 0
    told = ""
    for container in containers(pod):
        count = int(container.get("restartCount") or 0)
        ended = [when for _, end in ends(container) if (when := moment(end.get("finishedAt")))]
        if made is not None and made >= changed:
            known, possible = count, count
        elif count and any(when >= changed for when in ended):
            known, possible = 1, count
        else:
            continue
        least, most = least + known, most + possible
        if known and not told:
            told = f"pod {pod['metadata']['name']}: container {container['name']} was restarted {count} times"
            told += _last_end(container)
    return least, most, told


def phase(pod: Pod) -> str:
    """Return the pod's phase."""
    return str((pod.get("status") or {}).get("phase") or "")


def trouble(pod: Pod, changed: datetime | None) -> str:
    """Return why a pod is stuck or has failed, with its name, the reason and how it last ended; empty if it is not."""
    status = pod.get("status") or {}
    if phase(pod) == "Succeeded" or (phase(pod) == "Failed" and status.get("reason")):
        return ""  # done, or thrown out by its node (Evicted, NodeShutdown): its controller has made another one
    for container in containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        about = f"pod {pod['metadata']['name']}: container {container['name']}"
        if reason not in _STARTING:
            message = "" if reason == _CRASHED else clip(str(waiting.get("message") or ""), WORDS)
            return f"{about} is in {reason}{message and f' ({message})'}{_last_end(container)}"
        ended = (container.get("state") or {}).get("terminated")
        if ended and int(ended.get("exitCode") or 0) != 0:
            when = moment(ended.get("finishedAt"))
            if phase(pod) != "Failed" or changed is None or when is None or when >= changed:
                return f"{about} has ended{_how(ended)}"
    return ""


def _last_end(container: Mapping[str, Any]) -> str:
    for field, end in ends(container):
        if field == "lastState":
            return f", last ended{_how(end)}"
    return ""


def _how(end: Mapping[str, Any]) -> str:
    when = moment(end.get("finishedAt"))
    at = f" at {_shown(when)}" if when else ""
    return f" with exit code {end.get('exitCode')} ({end.get('reason') or 'no reason'}){at}"


def unready(pod: Pod) -> str:
    """Return in words why a pod that is not stuck is not ready."""
    conditions = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or []}
    for name in ("PodScheduled", "Ready"):
        said = conditions.get(name) or {}
        if said.get("status") == "False" and said.get("message"):
            reason = said.get("reason") or "not ready"
            return f"pod {pod['metadata']['name']}: {reason} ({clip(str(said['message']), WORDS)})"
    return f"pod {pod['metadata']['name']} is {phase(pod) or 'not ready'}"


def _first(words: list[str]) -> str:
    return f"{words[0]}{f'; and {len(words) - 1} more' if len(words) > 1 else ''}" if words else ""


def _shown(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
