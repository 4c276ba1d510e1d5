# SPDX-License-Identifier: GPL-3.0-or-later
"""What the drills deploy: the sample service behind the names of a real one, as the objects that kubectl is given.

All is small and quick to go: two pods, probes each second, three seconds to end.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from lab.kubernetes.images import REPOSITORY

Object = dict[str, Any]
CAUSE = "kubernetes.io/change-cause"
OTHERS = {"example.com/owner": "another team"}  # nobody but its owner may change it
SMALL = {"requests": {"cpu": "1m", "memory": "8Mi"}}


def deployment(
    name: str,
    version: str,
    *,
    labels: Mapping[str, str] | None = None,
    replicas: int = 2,
    env_from: Sequence[Mapping[str, Any]] = (),
) -> Object:
    """Return a Deployment of the sample service, with a container of its own name."""
    carried = dict(labels or {"app": name})
    container = {
        "name": name,
        "image": f"{REPOSITORY}:{version}",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": 8080}],
        # A pod that is slow goes on being asked.
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 5},
        "env": [{"name": "SLOW_MS", "value": "1500"}],
        "resources": SMALL,
        "envFrom": list(env_from),
    }
    return _workload(name, version, carried, replicas, container)


def tiny(name: str, version: str, labels: Mapping[str, str]) -> Object:
    """Return a Deployment that does nothing at all; its version is only in its environment."""
    container = {
        "name": name,
        "image": f"{REPOSITORY}:1.4.0",
        "imagePullPolicy": "IfNotPresent",
        "args": ["pause"],
        "env": [{"name": "VERSION", "value": version}],
        "resources": SMALL,
    }
    return _workload(name, version, {**labels, "app": name}, 1, container)


def _workload(
    name: str, version: str, labels: Mapping[str, str], replicas: int, container: Mapping[str, Any]
) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": {**labels},
            "annotations": {**OTHERS, CAUSE: f"release {version}"},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {**labels}},
            "template": {
                "metadata": {"labels": {**labels}},
                "spec": {"terminationGracePeriodSeconds": 3, "containers": [dict(container)]},
            },
        },
    }


def service(name: str, selector: Mapping[str, str] | None = None) -> Object:
    """Return the Service that users come by."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": OTHERS},
        "spec": {
            "selector": dict(selector or {"app": name}),
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


def config_map(name: str, data: Mapping[str, str]) -> Object:
    """Return a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "annotations": OTHERS},
        "data": {**data},
    }


def secret(name: str, data: Mapping[str, str]) -> Object:
    """Return a Secret."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "annotations": OTHERS}, "data": encoded}


def autoscaler(name: str, low: int, high: int) -> Object:
    """Return a HorizontalPodAutoscaler; without metrics it never acts by itself."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "annotations": OTHERS},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": low,
            "maxReplicas": high,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300, "policies": [_policy(50)]}},
        },
    }


def _policy(percent: int) -> Object:
    return {"type": "Percent", "value": percent, "periodSeconds": 60}


def cron_job(name: str, *, suspend: bool) -> Object:
    """Return a CronJob that is due once a year."""
    pod = {
        "restartPolicy": "Never",
        "containers": [{"name": name, "image": f"{REPOSITORY}:1.4.0", "args": ["get", "http://127.0.0.1:8080/health"]}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "annotations": OTHERS},
        "spec": {"schedule": "0 0 1 1 *", "suspend": suspend, "jobTemplate": {"spec": {"template": {"spec": pod}}}},
    }
