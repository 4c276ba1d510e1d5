# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods of a component's workloads as users meet them: which of them a Service chooses, which images really run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .errors import StepFailed
from .kube_answer import await_endpoints, endpoint_pods
from .kube_await import pods_path
from .kube_client import Client
from .kube_objects import Workload
from .kube_origin import Origins
from .kube_rollout import is_ready

Objects = Mapping[Workload, Mapping[str, Any]]
Digests = dict[str, dict[str, list[str]]]
_SHOWN = 3


def origins_of(client: Client, namespace: str, workloads: Iterable[Workload]) -> Origins:
    """Return where pods come from, with the history of these workloads read at once."""
    kinds = {workload.kind for workload in workloads}
    return Origins(client, namespace).load(deployments="deployment" in kinds, others=bool(kinds - {"deployment"}))


def service_problem(client: Client, namespace: str, service: str, own: Objects, others: Objects) -> str:
    """Return why a Service could never be proven to serve one version of these workloads; empty when it can.

    :param others: the workloads of the service's other components: they may share the Service.
    """
    behind = endpoint_pods(client, namespace, service)
    if behind is None:
        return f"there is no service {service} in namespace {namespace} that chooses pods"
    pods = [pod for pod in client.list(pods_path(namespace)) if behind.get(pod["metadata"]["uid"])]
    origins = origins_of(client, namespace, [*own, *others])
    known = {pod["metadata"]["uid"] for pod in origins.pods_of([*own.values(), *others.values()], pods)}
    strange = sorted(pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] not in known)
    if not strange:
        return ""
    more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
    return (
        f"service {service} also sends requests to {', '.join(strange[:_SHOWN])}{more}, of workloads that no component "
        "of this service names: users might still get another version. Name those workloads, or take the pods out"
    )


def await_served(client: Client, namespace: str, service: str, items: Objects, seconds: float) -> str:
    """Wait until a Service chooses pods that were made from the templates that the workloads have, and no others."""
    wanted = {Origins(client, namespace).of_item(item) for item in items.values()}
    right: set[str] = set()
    wrong: set[str] = set()

    def right_ones(uids: Collection[str]) -> Collection[str]:
        if set(uids) - right - wrong:
            origins = origins_of(client, namespace, items)
            for pod in client.list(pods_path(namespace)):
                (right if origins.of(pod) in wanted else wrong).add(pod["metadata"]["uid"])
        return right

    return await_endpoints(client, namespace, service, right_ones, seconds)


def running_digests(client: Client, namespace: str, items: Objects) -> Digests:
    """Return which images really run, by digest, for each workload and container: a tag may move later."""
    found: Digests = {}
    origins = origins_of(client, namespace, items)
    pods = [pod for pod in client.list(pods_path(namespace)) if is_ready(pod)]
    for workload, item in items.items():
        for pod in origins.pods_of([item], pods):
            if origins.of(pod) != origins.of_item(item):
                continue
            for status in (pod.get("status") or {}).get("containerStatuses") or []:
                known = found.setdefault(str(workload), {}).setdefault(status["name"], [])
                if status.get("imageID") and status["imageID"] not in known:
                    known.append(status["imageID"])
    return found


def compare_digests(recorded: Mapping[str, Any], running: Digests) -> None:
    """Stop when an image that is named by a tag is no longer the one that ran when the version was recorded.

    :raises StepFailed: a tag was moved.
    """
    for workload, containers in recorded.items():
        for container, known in containers.items():
            found = running.get(workload, {}).get(container, [])
            strange = [one for one in found if not _is_one_of(one, known)]
            if strange:
                raise StepFailed(
                    f"{workload}, container {container}: its image's tag has been moved. It runs {strange[0]}, and "
                    f"when this version was recorded it was {known[0]}."
                )


def _is_one_of(image: str, known: Sequence[str]) -> bool:
    """Say whether an image is one of those known. Runtimes give an image's digest in the registry, after an @, or that
    of its configuration: where they are of different kinds nothing can be said."""
    digests = [one.rpartition("@")[2] for one in known if ("@" in one) == ("@" in image)]
    return not digests or image.rpartition("@")[2] in digests
