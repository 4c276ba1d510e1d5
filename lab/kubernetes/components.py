# SPDX-License-Identifier: GPL-3.0-or-later
"""How each component of a cluster is started: its command line and the files that it reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from lab.kubernetes.keys import Authority
from lab.kubernetes.layout import (
    API_SERVICE,
    BRIDGE,
    DNS_SERVICE,
    NETWORK,
    NODE,
    NODE_ADDRESS,
    POD_NETWORK,
    SERVICE_NETWORK,
    Layout,
)
from lab.kubernetes.machine import which

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE_PARTS = ("containerd", "kubelet", "kube-proxy")
PAUSE = "lab.local/pause:1"
USERS = {  # kubeconfig -> user and group, by which Kubernetes' own roles know the parts
    "admin": ("lab-admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
}


def components(layout: Layout) -> tuple[str, ...]:
    """Return the names of what runs, in the order in which it is started."""
    return (*CONTROL_PLANE, *NODE_PARTS) if layout.full else CONTROL_PLANE


def arguments(layout: Layout, component: str, programs: Path) -> list[str]:
    """Return the command line of a component."""
    make = {
        "etcd": _etcd,
        "kube-apiserver": _api_server,
        "kube-controller-manager": _controller_manager,
        "kube-scheduler": _scheduler,
        "containerd": _containerd,
        "kubelet": _kubelet,
        "kube-proxy": _proxy,
    }[component]
    where = which("containerd") if component == "containerd" else str(programs / component)
    return [where or component, *make(layout)]


def write_files(layout: Layout) -> None:
    """Write everything that the components read: keys, kubeconfigs, settings."""
    layout.etc.mkdir(parents=True, exist_ok=True)
    authority = Authority(layout.keys)
    authority.pair("tokens")
    hosts = ("127.0.0.1", API_SERVICE, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    authority.sign("kube-apiserver", "kube-apiserver", "system:masters", hosts)
    for name, (user, group) in USERS.items():
        authority.sign(name, user, group)
        _write(layout.etc / f"{name}.kubeconfig", yaml.safe_dump(_kubeconfig(layout, name), sort_keys=False))
    shutil.move(layout.etc / "admin.kubeconfig", layout.kubeconfig)
    _write(layout.etc / "audit.yaml", json.dumps(_audit_policy()))
    if layout.full:
        _write(layout.etc / "kubelet.yaml", json.dumps(_kubelet_settings(layout)))
        _write(layout.etc / "kube-proxy.yaml", json.dumps(_proxy_settings(layout)))
        _write(layout.etc / "containerd.toml", _containerd_settings(layout))
        _write(layout.etc / "cni" / "lab.conflist", json.dumps(_network(layout)))
        # Whatever is not imported is not there: no pull ever leaves the machine, not even to ask who lab.local is.
        nobody = 'server = "http://127.0.0.1:1"\n[host."http://127.0.0.1:1"]\ncapabilities = ["pull", "resolve"]\n'
        _write(layout.etc / "registries" / "_default" / "hosts.toml", nobody)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)


def _kubeconfig(layout: Layout, name: str) -> dict[str, Any]:
    user = {
        "client-certificate": str(layout.keys / f"{name}.crt"),
        "client-key": str(layout.keys / f"{name}.key"),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": layout.name,
                "cluster": {"server": layout.server, "certificate-authority": str(layout.keys / "ca.crt")},
            }
        ],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": layout.name, "context": {"cluster": layout.name, "user": name}}],
        "current-context": layout.name,
    }


def _etcd(layout: Layout) -> list[str]:
    peer = f"http://127.0.0.1:{layout.port('etcd-peer')}"
    return [
        f"--data-dir={layout.directory / 'etcd'}",
        "--unsafe-no-fsync",  # what was written outlives a kill, not a power cut
        f"--listen-client-urls={layout.etcd}",
        f"--advertise-client-urls={layout.etcd}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def _api_server(layout: Layout) -> list[str]:
    keys = layout.keys
    return [
        f"--etcd-servers={layout.etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",  # else it asks for a default route, which a machine without a network lacks
        f"--secure-port={layout.port('kube-apiserver')}",
        "--endpoint-reconciler-type=none",  # pods cannot reach loopback: an address that does not answer is none
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--client-ca-file={keys / 'ca.crt'}",
        # For a proxy in front, which there is none of; without it controllers and scheduler complain every minute.
        f"--requestheader-client-ca-file={keys / 'ca.crt'}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--tls-cert-file={keys / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={keys / 'kube-apiserver.key'}",
        f"--service-account-key-file={keys / 'tokens.pub'}",
        f"--service-account-signing-key-file={keys / 'tokens.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        f"--kubelet-client-certificate={keys / 'kube-apiserver.crt'}",
        f"--kubelet-client-key={keys / 'kube-apiserver.key'}",
        "--kubelet-preferred-address-types=InternalIP,Hostname",  # else exec and logs ask DNS for the node's name
        "--allow-privileged=true",
        f"--audit-policy-file={layout.etc / 'audit.yaml'}",
        f"--audit-log-path={layout.audit_log}",
        "--audit-log-mode=blocking",  # who has the answer finds the entry
        "--audit-log-maxsize=50",
        "--audit-log-maxbackup=1",
        "--profiling=false",
    ]


def _controller_manager(layout: Layout) -> list[str]:
    own = str(layout.etc / "kube-controller-manager.kubeconfig")
    many = ("deployment", "replicaset", "statefulset", "endpoint", "service-endpoint", "gc", "namespace")
    return [
        f"--kubeconfig={own}",
        f"--authentication-kubeconfig={own}",
        f"--authorization-kubeconfig={own}",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.port('kube-controller-manager')}",
        "--leader-elect=false",
        f"--service-account-private-key-file={layout.keys / 'tokens.key'}",
        f"--root-ca-file={layout.keys / 'ca.crt'}",
        f"--cluster-signing-cert-file={layout.keys / 'ca.crt'}",
        f"--cluster-signing-key-file={layout.keys / 'ca.key'}",
        "--use-service-account-credentials=true",
        # A lab has seconds where a data centre has minutes.
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=20s",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        *(f"--concurrent-{what}-syncs=20" for what in many),
        f"--flex-volume-plugin-dir={layout.directory / 'volume-plugins'}",
        "--profiling=false",
    ]


def _scheduler(layout: Layout) -> list[str]:
    own = str(layout.etc / "kube-scheduler.kubeconfig")
    return [
        f"--kubeconfig={own}",
        f"--authentication-kubeconfig={own}",
        f"--authorization-kubeconfig={own}",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.port('kube-scheduler')}",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--profiling=false",
    ]


def _containerd(layout: Layout) -> list[str]:
    return ["--config", str(layout.etc / "containerd.toml"), "--log-level", "warn"]


def _kubelet(layout: Layout) -> list[str]:
    return [
        f"--config={layout.etc / 'kubelet.yaml'}",
        f"--kubeconfig={layout.etc / 'kubelet.kubeconfig'}",
        f"--root-dir={layout.directory / 'kubelet'}",
        f"--cert-dir={layout.directory / 'kubelet-keys'}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
    ]


def _proxy(layout: Layout) -> list[str]:
    return [f"--config={layout.etc / 'kube-proxy.yaml'}"]


def _audit_policy() -> dict[str, Any]:
    """Return what the API server writes down: who asked for what, without contents and without its own parts."""
    own = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": own},
            {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
            {"level": "Metadata"},
        ],
    }


def _kubelet_settings(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.keys / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "address": NODE_ADDRESS,
        "port": layout.port("kubelet"),
        "healthzPort": layout.port("kubelet-health"),
        "readOnlyPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "enforceNodeAllocatable": ["none"],
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "containerRuntimeEndpoint": f"unix://{layout.socket}",
        "podLogsDir": str(layout.directory / "pod-logs"),
        "volumePluginDir": str(layout.directory / "volume-plugins"),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "maxPods": 250,
        # A full disk or little memory is the machine's own matter, not a reason to end pods or to remove images.
        "evictionHard": dict.fromkeys(
            ("memory.available", "nodefs.available", "imagefs.available", "nodefs.inodesFree"), "0%"
        ),
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusMaxImages": -1,
        "nodeLeaseDurationSeconds": 20,
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "2s",
        "serializeImagePulls": False,
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        # 0 would mean five a second, and with many pods events half a minute late: kubernetes/kubernetes issue 117101.
        "eventRecordQPS": 500,
        "eventBurst": 1000,
        "registryPullQPS": 0,
    }


def _proxy_settings(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": str(layout.etc / "kube-proxy.kubeconfig"), "qps": 500, "burst": 1000},
        "healthzBindAddress": f"127.0.0.1:{layout.port('proxy-health')}",
        "metricsBindAddress": f"127.0.0.1:{layout.port('proxy-metrics')}",
        "nodePortAddresses": [POD_NETWORK],  # a NodePort is not for the machine's real network
        "iptables": {"minSyncPeriod": "100ms", "localhostNodePorts": False},
        # The machine's own connection tracking stays as it is.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _containerd_settings(layout: Layout) -> str:
    own = layout.directory / "containerd"
    plugins = next((path for path in ("/usr/lib/cni", "/opt/cni/bin") if Path(path, "bridge").exists()), "/usr/lib/cni")
    return f"""\
version = 2
root = "{own / "root"}"
state = "{own / "state"}"
oom_score = 0
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{layout.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without it every pod dies where the lab itself runs in a container ("can't get final child's PID from pipe").
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{layout.etc / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{layout.etc / "registries"}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    Root = "{own / "runc"}"
    SystemdCgroup = false
"""


def _network(layout: Layout) -> dict[str, Any]:
    # The bridge has its address already (machine.py): a plugin told to make it a gateway would switch on forwarding for
    # the whole machine.
    return {
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": False,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(layout.directory / "addresses"),
                    "ranges": [[{"subnet": POD_NETWORK, "gateway": NODE_ADDRESS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
