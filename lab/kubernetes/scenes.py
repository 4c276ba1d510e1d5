# SPDX-License-Identifier: GPL-3.0-or-later
"""What each drill finds in the cluster, by inventory: objects as they were before the bad release, and the place.

The profiles are the shipped ones. The place is all that is put in: namespace, addresses, and which of the sample
service's paths stand for the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.kubernetes.objects import (
    Object,
    autoscaler,
    config_map,
    cron_job,
    deployment,
    secret,
    service,
    tiny,
)

EARLIER, GOOD, BAD = "1.3.0", "1.4.0", "1.5.0"
SETTINGS, BAD_SETTINGS = {"SHOP_CURRENCY": "EUR", "SHOP_LIMIT": "100"}, {"SHOP_CURRENCY": "USD", "SHOP_LIMIT": "100"}
API_KEY, BAD_API_KEY = "key-of-the-good-release-47114", "key-of-the-bad-release-08154"
FIFTY = 50
COLOURS = ("blue", "green")


@dataclass(frozen=True)
class Scene:
    """objects: in the order in which they are made. services: by host, the Service that its users come by."""

    inventory: str
    objects: Sequence[Object]
    services: Mapping[str, str]


def rental(version: str = GOOD) -> Scene:
    """Return one Deployment."""
    name = "rental-api"
    return Scene("rental", [deployment(name, version), service(name)], {name: name})


def catalytic() -> Scene:
    """Return one Deployment whose pods read a ConfigMap and a Secret, its autoscaler, and two jobs."""
    name, settings, keys = "catalytic-saas-api", "catalytic-saas-config", "catalytic-saas-secrets"
    reads = [{"configMapRef": {"name": settings}}, {"secretRef": {"name": keys}}]
    objects = [
        *catalytic_settings(good=True),
        deployment(name, GOOD, env_from=reads),
        service(name),
        autoscaler(name, 2, 5),
        cron_job("usage-report", suspend=False),
        cron_job("old-export", suspend=True),
    ]
    return Scene("catalytic", objects, {name: name})


def catalytic_settings(*, good: bool) -> list[Object]:
    """Return what the pods of catalytic read when they start."""
    return [
        config_map("catalytic-saas-config", SETTINGS if good else BAD_SETTINGS),
        secret("catalytic-saas-secrets", {"SHOP_API_KEY": API_KEY if good else BAD_API_KEY}),
    ]


def syriamart(*names: str) -> Scene:
    """Return some of the four services, or all of them."""
    chosen = names or ("user-service", "catalog-service", "order-service", "payment-service")
    objects = [syriamart_settings(name, good=True) for name in chosen]
    for name in chosen:
        if name == "catalog-service":
            objects += [
                deployment(f"{name}-{colour}", version, labels={"app": name, "version": colour})
                for colour, version in zip(COLOURS, (GOOD, EARLIER), strict=True)
            ]
            objects.append(service(name, {"app": name, "version": COLOURS[0]}))
        else:
            labels = {"app": name, "version": "stable"} if name == "payment-service" else {"app": name}
            reads = [{"configMapRef": {"name": f"{name}-config"}}]
            objects += [deployment(name, GOOD, labels=labels, env_from=reads), service(name)]
    return Scene("syriamart", objects, {name: name for name in chosen})


def syriamart_settings(name: str, *, good: bool) -> Object:
    """Return what the pods of one service read when they start."""
    return config_map(f"{name}-config", SETTINGS if good else BAD_SETTINGS)


def fifty(version: str = GOOD) -> Scene:
    """Return fifty Deployments."""
    objects = [tiny(f"worker-{number:02}", version, {"part-of": "fifty"}) for number in range(FIFTY)]
    return Scene("", objects, {"fifty": ""})


SCENES = {"rental": rental, "catalytic": catalytic, "syriamart": syriamart, "fifty": fifty}


def place(
    scene: Scene, host: str, url: str, *, namespace: str, uid: str, kubeconfig: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the variables of one host: where it is, and what of the sample service stands for what.

    more: further variables of the place, without the inventory's name before them.
    """
    if not scene.inventory:
        return profile_of_fifty(namespace, uid, kubeconfig)
    of = scene.inventory
    common = {
        f"{of}_namespace": namespace,
        f"{of}_namespace_uid": uid,
        f"{of}_kubeconfig": kubeconfig,
        f"{of}_soak_seconds": 0,
        f"{of}_url": url,
        **{f"{of}_{name}": value for name, value in more.items()},
    }
    own: dict[str, dict[str, Any]] = {
        "rental": {"rental_paths": {"health": "/health", "list": "/version", "active": "/settings"}},
        "catalytic": {"catalytic_verify_database": ["/shop", "check"], "catalytic_prometheus": ""},
        "syriamart": {
            "syriamart_paths": {"health": "/health", "speed": "/version"},
            "syriamart_database": {"workload": [_serving(host)], "argv": ["/shop", "check"]},
        },
    }
    return common | own[of]


def _serving(host: str) -> str:
    return f"deployment/{host}{'-blue' if host == 'catalog-service' else ''}"


def profile_of_fifty(namespace: str, uid: str, kubeconfig: str) -> dict[str, Any]:
    """Return the profile of the service that has fifty workloads in one component."""
    workloads = [f"deployment/worker-{number:02}" for number in range(FIFTY)]
    return {
        "ansible_connection": "local",
        "rollback_service": {"name": "fifty", "environment": "drill", "identity": {"namespace_uid": uid}},
        "rollback_state": {"kind": "kubernetes", "namespace": namespace, "kubeconfig": kubeconfig},
        "rollback_budgets": {"level1": 120},
        "rollback_soak_seconds": 0,
        "rollback_kubernetes": [{"name": "workers", "workloads": workloads}],
        "rollback_checks": [{"name": "pods", "kind": "pods", "workload": workloads}],
    }
