# SPDX-License-Identifier: GPL-3.0-or-later
"""What only the controller knows: the state store in Kubernetes and the drivers of things there.

A module on a host must not reach this file: Ansible ships everything that a module's imports reach, on each call.
"""

from __future__ import annotations

from .kube_config import KubeConfigDriver
from .kube_shutdown import KubeShutdownDriver
from .kube_store import KubernetesStore
from .kube_traffic import KubeTrafficDriver
from .kube_workloads import KubernetesDriver
from .registry import DRIVERS
from .store import KINDS


def install() -> None:
    """Make the engine in this process know the kind `kubernetes` and its drivers."""
    KINDS["kubernetes"] = KubernetesStore
    DRIVERS.update({
        "restore_kubernetes_config": KubeConfigDriver,
        "rollback_kubernetes": KubernetesDriver,
        "shutdown_kubernetes": KubeShutdownDriver,
        "stop_kubernetes": KubeTrafficDriver,
    })  # fmt: skip
