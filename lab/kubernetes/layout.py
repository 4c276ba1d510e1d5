# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the parts of one cluster are: folder, ports, addresses."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

FULL = "lab"  # the one cluster with a node; a machine has room for one
NODE = "node-1"
NODE_ADDRESS = "10.244.0.1"
POD_NETWORK = "10.244.0.0/22"  # four times the 250 pods: addresses of pods that went are not handed out again at once
SERVICE_NETWORK = "10.96.0.0/24"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"  # nobody answers there; without it every pod gets a warning event
BRIDGE = "cni-lab"
NETWORK = "rollbackctl-lab"


class Layout:
    """The folder of a cluster, what is where in it, and its ports on loopback."""

    def __init__(self, name: str) -> None:
        """Take the cluster's name; nothing is made yet."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
            raise ValueError(f"a cluster's name is lower-case letters, digits and dashes, not {name!r}")
        self.name = name
        self.full = name == FULL
        self.base = Path(os.environ.get("ROLLBACKCTL_LAB") or "/var/tmp/rollbackctl-lab")  # noqa: S108 - it must outlive a login, and is checked
        self.directory = self.base / name
        self.keys = self.directory / "keys"
        self.etc = self.directory / "etc"
        self.logs = self.directory / "logs"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.audit_log = self.logs / "audit.jsonl"
        self.socket = self.directory / "containerd.sock"
        # Ten ports below those of NodePorts (30000 and up), the same ones each time.
        self._first = 16440 if self.full else 16450 + zlib.crc32(name.encode()) % 1350 * 10
        # Kubelet removes what it doesn't know below its own cgroup: it must be nobody else's.
        self.cgroup = f"rollbackctl-lab-{zlib.crc32(str(self.directory).encode()):08x}"

    @property
    def server(self) -> str:
        """Return the API server's address."""
        return f"https://127.0.0.1:{self.port('kube-apiserver')}"

    @property
    def etcd(self) -> str:
        """Return etcd's address for clients."""
        return f"http://127.0.0.1:{self.port('etcd')}"

    def port(self, what: str) -> int:
        """Return the port of a component, or of a second thing that it listens for."""
        order = (
            "etcd", "etcd-peer", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
            "kubelet", "kubelet-health", "proxy-health", "proxy-metrics",
        )  # fmt: skip
        return self._first + 1 + order.index(what)
