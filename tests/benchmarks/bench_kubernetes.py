# SPDX-License-Identifier: GPL-3.0-or-later
"""Deployments on the lab's real API server, ours beside kubectl's and the collection's ways, latency added or not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_rollout import progress

from lab.kubernetes.cluster import Cluster, cluster
from tests.benchmarks.kubernetes_clients import Watcher
from tests.benchmarks.rows import row
from tests.support.kube import fresh_namespace
from tests.support.kube_proxy import LatencyProxy

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
LATENCY_SECONDS = 0.02
COUNTS, MOST = (1, 10, 50), (200,)
REPEATS = 3
BAR_FIFTY_SECONDS, BAR_PANIC_SECONDS = 2.5, 1.5
BAR_OVERHEAD_SECONDS, BAR_SWITCH_SECONDS = 2.0, 1.0
COLLECTION = "ansible"  # the PyPI package that carries kubernetes.core
PATIENCE_SECONDS = 900
RESTING_SHARE = 0.25
REPLICAS = 3  # of the service that clients ask
STRATEGIES = ("undo", "fast", "recreate", "blue_green")


def bench() -> Iterator[dict[str, Any]]:
    """Yield one line per measurement."""
    with _lab() as (lab, folder):
        yield from _users(lab, folder)
        yield from _each_count(lab, folder, COUNTS)


def bench_most() -> Iterator[dict[str, Any]]:
    """Yield the lines of the largest count: on two cores its pods take minutes to be replaced, for each figure."""
    with _lab() as (lab, folder):
        yield from _each_count(lab, folder, MOST)


@contextmanager
def _lab() -> Iterator[tuple[Cluster, Path]]:
    """Bring up the lab with all that is needed before anything is timed; give a folder for files, too."""
    lab = cluster()
    lab.up()
    for version in ("1.4.0", "1.5.0"):
        lab.image(version)
    _collections()
    with tempfile.TemporaryDirectory(prefix="rollbackctl-bench-") as folder:
        yield lab, Path(folder)


def _each_count(lab: Cluster, folder: Path, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the lines of so many Deployments, with and without latency."""
    for count in counts:
        for latency in (0.0, LATENCY_SECONDS):
            _tell(f"{_what(count, latency)} ...")
            yield from _many(lab, folder, count, latency)


class Field:
    """A namespace with so many Deployments of one pod each, a proven checkpoint, and ways to break them all."""

    def __init__(self, lab: Cluster, admin: Client, namespace: str, folder: Path, count: int) -> None:
        """Make them and wait until they run."""
        self.lab, self.admin, self.namespace, self.folder = lab, admin, namespace, folder
        self.names = [f"w{number:03d}" for number in range(count)]
        self.path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        admin.each(lambda name: admin.create(self.path, _deployment(name)), self.names)
        self.ready()
        self.version = 1

    def ready(self) -> None:
        """Wait until every Deployment is available, of the version that it asks for."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not all(progress("deployment", item).done for item in self.admin.list(self.path)):
            if time.monotonic() > end:
                raise TimeoutError(f"not every Deployment is available within {PATIENCE_SECONDS} s")
            time.sleep(0.3)

    def deploy(self) -> None:
        """Release the next version everywhere."""
        self.version += 1
        change = [{"op": "replace", "path": "/spec/template/spec/containers/0/env/0/value", "value": str(self.version)}]
        self.admin.each(lambda name: self.admin.json_patch(f"{self.path}/{name}", change), self.names)
        self.ready()
        _rest(self.admin, self.namespace, len(self.names))

    def inventory(self, kubeconfig: Path) -> Path:
        """Write the profile of one service with one component of all workloads."""
        profile = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "rollback_service": {"name": "field", "environment": "bench"},
            "rollback_state": {"kind": "kubernetes", "namespace": self.namespace, "kubeconfig": str(kubeconfig)},
            "rollback_soak_seconds": 0,
            "rollback_kubernetes": [
                {
                    "name": "all",
                    "workloads": [f"deployment/{name}" for name in self.names],
                    "timeout": PATIENCE_SECONDS,
                }
            ],
        }
        path = self.folder / f"{self.namespace}.yml"
        path.write_text(json.dumps({"all": {"hosts": {"field": profile}}}), encoding="utf-8")
        return path

    def accepted(self, since: datetime, mark: int) -> float:
        """Return how long after a moment the last change of a Deployment was accepted, seconds, by the audit log from a
        mark (Cluster.audit_end) on."""
        ends = [
            datetime.fromisoformat(entry["stageTimestamp"])
            for entry in self.lab.audit(mark)
            if entry["verb"] == "patch"
            and entry["requestURI"].startswith(self.path)
            and entry.get("stage") == "ResponseComplete"
        ]
        return (max(ends) - since).total_seconds()


def _rest(admin: Client, namespace: str, pods: int) -> None:
    """Wait until the pods of the version before have ended too, so that only so many are left, and the processors are
    mostly idle: what a machine of two cores still does with 50 pods would be measured with what comes next."""
    end = time.monotonic() + PATIENCE_SECONDS
    while len(admin.list(f"/api/v1/namespaces/{namespace}/pods")) > pods:
        if time.monotonic() > end:
            raise TimeoutError(f"pods of the version before have not ended within {PATIENCE_SECONDS} s")
        time.sleep(0.3)
    while _busy_share(seconds=1.0) > RESTING_SHARE and time.monotonic() < end:
        pass


def _busy_share(seconds: float) -> float:
    """Return which part of all processors' time was used, over so many seconds from now on."""

    def times() -> list[int]:
        return [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]

    before = times()
    time.sleep(seconds)
    spent = [after - earlier for after, earlier in zip(times(), before, strict=True)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))  # idle and waiting for the disk: proc(5)


def _tell(text: str) -> None:
    """Say how far it is: it takes long."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _what(count: int, latency: float) -> str:
    """Return what is measured, in words."""
    return f"{count} Deployment{'s' if count > 1 else ''}" + (f", {latency * 1000:.0f} ms latency" if latency else "")


def _many(lab: Cluster, folder: Path, count: int, latency: float) -> list[dict[str, Any]]:
    admin = Client(find_access({"kubeconfig": str(lab.kubeconfig)}, os.environ))
    ours: list[float] = []
    panic: list[float] = []
    overhead: list[float] = []
    bars = count == 50 and latency > 0
    usual: dict[str, list[float]] = {}
    failed: list[str] = []
    with fresh_namespace(admin, "bench") as namespace, _behind(lab, folder, latency) as kubeconfig:
        field = Field(lab, admin, namespace, folder, count)
        hosts = field.inventory(kubeconfig)
        _play("checkpoint.yml", hosts, folder, "-l", "field", "-e", "rollback_reason=bench")
        for _ in range(1 if count >= 50 and not bars else REPEATS):  # hundreds of pods take minutes
            for name, way in _usual_ways(field, kubeconfig).items():
                field.deploy()
                began = time.monotonic()
                try:
                    way()
                except subprocess.CalledProcessError as error:  # another's tool; ours is measured all the same
                    said = (error.stdout + error.stderr)[-800:].decode(errors="replace")
                    _tell(f"{name} failed, not counted: {said}")
                    failed.append(name)
                    continue
                usual.setdefault(name, []).append(time.monotonic() - began)
                _tell(f"{name} {usual[name][-1]:.2f} s")
            for book, found in (("rollback-level1.yml", ours), ("panic.yml", panic)):
                field.deploy()
                mark, since = lab.audit_end(), datetime.now().astimezone()
                extra = ("-e", "rollback_environment=bench") if book == "panic.yml" else ("-l", "field")
                record = _play(book, hosts, folder, *extra, "-e", "rollback_reason=bench")
                found.append(field.accepted(since, mark))
                _tell(f"{book} {found[-1]:.2f} s")
                if book == "rollback-level1.yml":
                    overhead.append(float(record["overhead_seconds"]))
    what = _what(count, latency)
    note = "from the command to the last accepted change; ours counts Ansible's start, all checks and the plan in"
    rows = [
        row(
            f"{what}: level 1" if number == 0 else f"{what}: level 1, beside another way",
            ours,
            times,
            way=name,
            bar_seconds=BAR_FIFTY_SECONDS if bars and number == 0 else None,
            note="; ".join([*([note] if number == 0 else []), *_failures(failed.count(name))]),
        )
        for number, (name, times) in enumerate(usual.items())
    ]
    first = next(iter(usual))
    rows.append(
        row(
            f"{what}: panic",
            panic,
            usual[first],
            way=first,
            bar_seconds=BAR_PANIC_SECONDS if bars else None,
        )
    )
    if count == 1 and not latency:
        rows.append(
            row(
                "overhead of a level for a service in Kubernetes",
                overhead,
                usual[first],
                way=first,
                bar_seconds=BAR_OVERHEAD_SECONDS,
                note="the run's time without the time inside components",
            )
        )
    return rows


def _failures(count: int) -> list[str]:
    return [f"the other way failed {count} times, which is not in its figure"] if count else []


def _usual_ways(field: Field, kubeconfig: Path) -> Mapping[str, Callable[[], None]]:
    """Return the ways people do it today."""
    kubectl = [str(field.lab.bin / "kubectl"), "--kubeconfig", str(kubeconfig), "-n", field.namespace]
    undo = [*kubectl, "rollout", "undo"]
    return {
        "kubectl rollout undo, one after another": lambda: _each(undo, field.names),
        "kubectl rollout undo, xargs -P 16": lambda: _side_by_side(undo, field.names),
        "kubernetes.core.k8s_rollback in a loop": lambda: _collection(field, kubeconfig),
    }


def _each(argv: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        subprocess.run([*argv, f"deployment/{name}"], check=True, capture_output=True)


def _side_by_side(argv: Sequence[str], names: Sequence[str]) -> None:
    text = "".join(f"deployment/{name}\n" for name in names).encode()
    subprocess.run(["xargs", "-P", "16", "-n", "1", *argv], check=True, capture_output=True, input=text)


def _collection(field: Field, kubeconfig: Path) -> None:
    """Run the collection's module in a loop; it takes another application's history where labels are shared."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {
                "kubernetes.core.k8s_rollback": {
                    "api_version": "apps/v1",
                    "kind": "Deployment",
                    "name": "{{ item }}",
                    "namespace": field.namespace,
                    "kubeconfig": str(kubeconfig),
                },
                "loop": field.names,
            }
        ],
    }
    book = field.folder / "collection.yml"
    book.write_text(yaml.safe_dump([play]), encoding="utf-8")
    settings = field.folder / "collection.cfg"  # Ansible's own defaults, as nobody's settings
    settings.touch()
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(_collections()), "ANSIBLE_CONFIG": str(settings)}
    environment["ANSIBLE_PYTHON_INTERPRETER"] = str(BIN / "python")
    subprocess.run(
        [BIN / "ansible-playbook", str(book)], check=True, capture_output=True, env=environment, timeout=1800
    )


def _collections() -> Path:
    """Return where kubernetes.core is, fetched once from the package that carries it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollbackctl-lab" / "collections"
    place = cache / "ansible_collections" / "kubernetes"
    if not place.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            argv = [
                str(ROOT / ".uv" / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                folder,
            ]
            subprocess.run([*argv, COLLECTION], check=True, capture_output=True, timeout=600)
            cache.mkdir(parents=True, exist_ok=True)
            shutil.copytree(Path(folder) / "ansible_collections" / "kubernetes", place)
    return cache


def _play(book: str, hosts: Path, folder: Path, *extra: str) -> dict[str, Any]:
    """Run a shipped playbook as a person would; return its record."""
    records = folder / "records"
    shutil.rmtree(records, ignore_errors=True)
    environment = {**os.environ, "ROLLBACKCTL_RECORDS": str(records), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    argv = [str(BIN / "ansible-playbook"), str(ROOT / "playbooks" / book), "-i", str(hosts), *extra]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"{book} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-1000:]}")
    (record,) = records.glob("*.json")
    return dict(json.loads(record.read_text(encoding="utf-8")))


@contextmanager
def _behind(lab: Cluster, folder: Path, latency: float) -> Iterator[Path]:
    """Give a kubeconfig of the administrator that reaches the API server so much later."""
    if not latency:
        yield lab.kubeconfig
        return
    document = yaml.safe_load(lab.kubeconfig.read_text(encoding="utf-8"))
    with LatencyProxy.to(lab.server, latency) as proxy:
        document["clusters"][0]["cluster"]["server"] = proxy.url
        path = folder / "slow.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        yield path


# -- what users see --------------------------------------------------------------------------------------------------


def _users(lab: Cluster, folder: Path) -> list[dict[str, Any]]:
    """Return, for each strategy, what a client that keeps asking saw, beside the usual way to do the same."""
    admin = Client(find_access({"kubeconfig": str(lab.kubeconfig)}, os.environ))
    rows = []
    for strategy in STRATEGIES:
        _tell(f"users of {strategy} ...")
        with fresh_namespace(admin, "bench") as namespace:
            shop = Shop(lab, admin, namespace, folder, strategy)
            ours = shop.watched(shop.ours)
            theirs = shop.watched(shop.usual)
        bars = {"undo": "0 failed requests", "fast": "0 failed requests", "blue_green": "<= 1 s mixed, 0 failed"}
        met = ours.failed == 0 and (strategy != "blue_green" or ours.mixed <= BAR_SWITCH_SECONDS)
        rows.append(
            row(
                f"{strategy}: from the command to the first answer of the good version",
                [ours.first],
                [theirs.first],
                way=shop.way,
                bar_seconds=None if strategy == "recreate" else ours.first,
                bar=bars.get(strategy, ""),
                also=met,
                note=f"failed requests {ours.failed} of {ours.total} (usual way {theirs.failed} of {theirs.total}), "
                f"longest gap {ours.gap * 1000:.0f} ms ({theirs.gap * 1000:.0f} ms), both versions answered for "
                f"{ours.mixed:.2f} s ({theirs.mixed:.2f} s)",
            )
        )
    return rows


class Shop:
    """A service of three pods behind a Service, or of two colours, with a bad release to take back."""

    def __init__(self, lab: Cluster, admin: Client, namespace: str, folder: Path, strategy: str) -> None:
        """Make it with a proven checkpoint."""
        self.lab, self.admin, self.namespace, self.folder, self.strategy = lab, admin, namespace, folder, strategy
        self.colours = strategy == "blue_green"
        self.names = ["api-blue", "api-green"] if self.colours else ["api"]
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        for name in self.names:
            admin.create(path, _served(name, "1.5.0" if name.endswith("green") else "1.4.0"))
        self._ready()
        labels = {"app": "api", **({"version": "api-blue"} if self.colours else {})}
        spec = {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"}, "spec": spec}
        self.address = admin.create(f"/api/v1/namespaces/{namespace}/services", service)["spec"]["clusterIP"]
        component: dict[str, Any] = {
            "name": "api",
            "workloads": [f"deployment/{name}" for name in self.names],
            "strategy": strategy,
            "service": "api",
            "answer": {"port": "http", "path": "/version", "json": "version"},
        }
        profile = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "rollback_service": {"name": "shop", "environment": "bench"},
            "rollback_state": {"kind": "kubernetes", "namespace": namespace, "kubeconfig": str(lab.kubeconfig)},
            "rollback_soak_seconds": 0,
            "rollback_kubernetes": [component],
        }
        self.hosts = folder / f"{namespace}.yml"
        self.hosts.write_text(json.dumps({"all": {"hosts": {"shop": profile}}}), encoding="utf-8")
        _play("checkpoint.yml", self.hosts, folder, "-l", "shop", "-e", "rollback_reason=bench")

    @property
    def way(self) -> str:
        """The usual way, in words."""
        return {
            "undo": "kubectl rollout undo",
            "fast": "kubectl rollout undo",
            "recreate": f"scale 0, wait, set image, scale {REPLICAS}",
            "blue_green": "kubectl patch service",
        }[self.strategy]

    def watched(self, run: Callable[[], None]) -> Watcher:
        """Break it, and run one way of putting it back under the eyes of a client."""
        self._break()
        with Watcher(f"http://{self.address}/version", good="1.4.0") as client:
            client.start(bad="1.5.0")
            run()
            self._ready()
            client.settle()
        return client

    def ours(self) -> None:
        """Run level 1."""
        _play("rollback-level1.yml", self.hosts, self.folder, "-l", "shop", "-e", "rollback_reason=bench")

    def usual(self) -> None:
        """Do what a runbook says."""
        if self.colours:
            self._kubectl("patch", "service", "api", "-p", '{"spec":{"selector":{"version":"api-blue"}}}')
        elif self.strategy == "recreate":
            self._kubectl("scale", "deployment/api", "--replicas=0")
            self._kubectl("wait", "--for=delete", "pod", "-l", "app=api", "--timeout=60s")
            self._kubectl("set", "image", "deployment/api", "api=lab.local/shop:1.4.0")
            self._kubectl("scale", "deployment/api", f"--replicas={REPLICAS}")
        else:
            self._kubectl("rollout", "undo", "deployment/api")

    def _break(self) -> None:
        if self.colours:
            self._kubectl("patch", "service", "api", "-p", '{"spec":{"selector":{"version":"api-green"}}}')
        else:
            self._kubectl("set", "image", "deployment/api", "api=lab.local/shop:1.5.0")
        self._ready()
        _rest(self.admin, self.namespace, REPLICAS * len(self.names))  # a pod that ends may still answer

    def _ready(self) -> None:
        for name in self.names:
            self._kubectl("rollout", "status", f"deployment/{name}", f"--timeout={PATIENCE_SECONDS}s")

    def _kubectl(self, *arguments: str) -> str:
        return self.lab.kubectl("-n", self.namespace, *arguments)


def _deployment(name: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "lab.local/shop:1.4.0",
        "args": ["pause"],
        "env": [{"name": "RELEASE", "value": "1"}],
    }
    return _workload(name, {"app": name}, 1, {"terminationGracePeriodSeconds": 1, "containers": [container]})


def _served(name: str, version: str) -> dict[str, Any]:
    container = {
        "name": "api",
        "image": f"lab.local/shop:{version}",
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
    }
    labels = {"app": "api", "version": name}
    return _workload(name, labels, REPLICAS, {"terminationGracePeriodSeconds": 5, "containers": [container]})


def _workload(name: str, labels: Mapping[str, str], replicas: int, spec: Mapping[str, Any]) -> dict[str, Any]:
    template = {"metadata": {"labels": dict(labels)}, "spec": dict(spec)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": dict(labels)}, "template": template},
    }
