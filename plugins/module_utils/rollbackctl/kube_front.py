# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods of a component's workloads as users meet them: which of them a Service chooses, which images really run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .errors import StepFailed
from .kube_answer import await_endpoints, endpoint_pods
from .kube_await import pods_path
from .kube_client import Client
from .kube_objects import Workload, images
from .kube_origin import Origins
from .kube_rollout import container_statuses

Objects = Mapping[Workload, Mapping[str, Any]]
Digests = dict[str, dict[str, list[str]]]
Pods = Mapping[Workload, Sequence[Mapping[str, Any]]]
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


def running_pods(client: Client, namespace: str, items: Objects) -> Pods:
    """Return the pods of each workload that were made from the template that it has, and are not on their way out."""
    origins = origins_of(client, namespace, items)
    pods = [pod for pod in client.list(pods_path(namespace)) if not pod["metadata"].get("deletionTimestamp")]
    return {
        workload: [pod for pod in origins.pods_of([item], pods) if origins.of(pod) == origins.of_item(item)]
        for workload, item in items.items()
    }


def running_digests(items: Objects, pods: Pods) -> Digests:
    """Return which images really run, by digest, for each workload and container of its template, those that run first
    included: a tag may move later. What is injected into pods is no part of the template."""
    found: Digests = {}
    for workload, item in items.items():
        own = images(item["spec"]["template"])
        for status in (one for pod in pods[workload] for one in container_statuses(pod)):
            if status["name"] in own and status.get("imageID"):
                known = found.setdefault(str(workload), {}).setdefault(status["name"], [])
                known += [status["imageID"]] if status["imageID"] not in known else []
    return found


def injected(items: Objects, pods: Pods) -> dict[str, dict[str, str]]:
    """Return the containers that pods have beyond their template, and their images, for each workload: a webhook puts
    them in."""
    found: dict[str, dict[str, str]] = {}
    for workload, item in items.items():
        own = images(item["spec"]["template"])
        more = {name: image for pod in pods[workload] for name, image in images(pod).items() if name not in own}
        if more:
            found[str(workload)] = more
    return found


def injected_notes(recorded: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say what was injected when a version was recorded."""
    return [
        f"{workload}: its pods also had {', '.join(f'{name} ({image})' for name, image in sorted(more.items()))}, "
        "injected by a webhook: that is no part of the version, comes as it is injected today, and is not compared"
        for workload, more in recorded.items()
    ]


def compare_digests(recorded: Mapping[str, Mapping[str, list[str]]], items: Objects, pods: Pods) -> None:
    """Stop when an image that is named by a tag is no longer the one that ran when the version was recorded.

    :raises StepFailed: a tag was moved, or which image runs cannot be told.
    """
    running = running_digests(items, pods)
    for workload, item in items.items():
        own, found = images(item["spec"]["template"]), running.get(str(workload), {})
        for container, known in recorded.get(str(workload), {}).items():
            if container not in own or not pods[workload]:
                continue
            about = f"{workload}, container {container}"
            if not found.get(container):
                raise StepFailed(f"{about}: which image it runs could not be read. It was {known[0]} when recorded.")
            strange = [one for one in found[container] if not _is_one_of(one, known)]
            if strange:
                raise StepFailed(
                    f"{about}: its image's tag has been moved. It runs {strange[0]}, and when this version was "
                    f"recorded it was {known[0]}."
                )


def _is_one_of(image: str, known: Sequence[str]) -> bool:
    """Say whether an image is one of those known. Runtimes give an image's digest in the registry, after an @, or that
    of its configuration: where they are of different kinds nothing can be said."""
    digests = [one.rpartition("@")[2] for one in known if ("@" in one) == ("@" in image)]
    return not digests or image.rpartition("@")[2] in digests
