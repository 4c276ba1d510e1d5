# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's cluster is a real one, stays what it is when asked for twice, and leaves nothing where it is removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from lab.kubernetes import build
from lab.kubernetes.cluster import Cluster, Existing, LabError, cluster
from lab.kubernetes.images import image

PATIENCE_SECONDS = 60.0
TOOL = "lab/kubernetes/cluster.py"
SERVICE = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: shop}}}}
  template:
    metadata: {{labels: {{app: shop}}}}
    spec:
      containers:
        - name: shop
          image: {image}
          imagePullPolicy: Never
          env: [{{name: SHOP_CURRENCY, value: EUR}}, {{name: DRAIN_MS, value: "0"}}]
          volumeMounts: [{{name: settings, mountPath: /settings}}]
          readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
      volumes: [{{name: settings, configMap: {{name: shop}}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: shop, namespace: {namespace}}}
data: {{greeting: hello}}
---
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: {namespace}}}
spec:
  selector: {{app: shop}}
  ports: [{{port: 80, targetPort: 8080}}]
"""


def eventually(good: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while not good():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def get(host: str, port: int, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def reached(host: str, port: int) -> bool:
    try:
        get(host, port, "/version")
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def lab(lab_cluster: Cluster) -> Cluster:
    """The cluster that everybody uses."""
    return lab_cluster


@pytest.fixture
def own(lab_cluster: Cluster) -> Cluster:
    """The same, also where somebody else's cluster is used in its place."""
    one = Cluster() if isinstance(lab_cluster, Existing) else lab_cluster
    one.up()
    return one


@pytest.fixture
def namespace(lab: Cluster) -> Iterator[str]:
    name = f"lab-{uuid.uuid4().hex[:8]}"
    lab.kubectl("create", "namespace", name)
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def other() -> Iterator[Cluster]:
    one = Cluster(f"t{uuid.uuid4().hex[:6]}")
    try:
        one.up()
        yield one
    finally:
        one.down()


def test_a_version_answers_through_its_service(lab: Cluster, namespace: str) -> None:
    lab.kubectl("apply", "-f", "-", input=SERVICE.format(namespace=namespace, image=lab.image("0.1.0")))
    lab.kubectl("-n", namespace, "rollout", "status", "deployment/shop", "--timeout=60s")
    address = lab.kubectl("-n", namespace, "get", "service", "shop", "--output=jsonpath={.spec.clusterIP}")

    assert eventually(lambda: reached(address, 80))  # kube-proxy hears of a Service a moment later
    status, answer = get(address, 80, "/version")

    assert status == 200
    assert answer["version"] == "0.1.0"
    assert answer["settings"] == {"SHOP_CURRENCY": "EUR", "greeting": "hello"}
    pods = json.loads(lab.kubectl("-n", namespace, "get", "pods", "--output=json"))["items"]
    assert answer["pod"] in {pod["metadata"]["name"] for pod in pods}
    assert get(pods[0]["status"]["podIP"], 8080, "/version")[0] == 200
    # From inside, and from one pod to the others over the bridge; what it says is in its log.
    inside = ("-n", namespace, "exec", "deployment/shop", "--", "/shop")
    assert lab.kubectl(*inside, "check").startswith("200 ")
    assert '"version":"0.1.0"' in lab.kubectl(*inside, "get", f"http://{address}/version")
    assert "version 0.1.0 listens" in lab.kubectl("-n", namespace, "logs", "deployment/shop")


def test_up_changes_nothing_that_runs(own: Cluster) -> None:
    before = own.state()
    own.up()
    assert own.running()
    assert own.state() == before
    assert len(before) == 7


def test_an_image_is_on_the_node_until_it_is_removed(own: Cluster) -> None:
    reference = own.image("0.1.1", "slow")
    assert reference == "lab.local/shop:0.1.1-slow"
    assert own.image("0.1.1", "slow") == reference
    assert reference in own.images()
    own.remove_image(reference)
    assert reference not in own.images()
    own.remove_image(reference)


def test_an_image_has_the_same_digest_each_time() -> None:
    made = [image("lab.local/shop:1", build.sample(), [], {"VERSION": version}) for version in ("1", "1", "2")]
    assert made[0] == made[1]
    assert made[0][1] != made[2][1]


def test_a_pod_without_its_image_does_not_start_and_asks_nobody(own: Cluster, namespace: str) -> None:
    own.kubectl("-n", namespace, "run", "gone", "--image=lab.local/shop:never-made")

    def message() -> str:
        path = "{.status.containerStatuses[0].state.waiting.message}"
        return own.kubectl("-n", namespace, "get", "pod", "gone", f"--output=jsonpath={path}")

    assert eventually(lambda: "127.0.0.1:1" in message()), message()


def test_a_service_account_has_its_own_rights(lab: Cluster, namespace: str, tmp_path: Path) -> None:
    here = ("-n", namespace)
    lab.kubectl(*here, "create", "serviceaccount", "reader")
    lab.kubectl(*here, "create", "role", "reader", "--verb=list", "--resource=pods")
    lab.kubectl(*here, "create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:reader")
    settings = json.loads(lab.kubectl("config", "view", "--raw", "--output=json"))
    settings["users"][0]["user"] = {"token": lab.kubectl(*here, "create", "token", "reader").strip()}
    kubeconfig = tmp_path / "reader"
    kubeconfig.write_text(json.dumps(settings), encoding="utf-8")

    reader = Existing(kubeconfig)

    assert reader.server == lab.server
    reader.kubectl(*here, "get", "pods")
    with pytest.raises(LabError, match="Forbidden"):
        reader.kubectl(*here, "get", "secrets")


def test_a_cluster_that_is_given_is_used_as_it_is(own: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLBACKCTL_LAB_KUBECONFIG", str(own.kubeconfig))
    before = own.state()
    given = cluster()
    given.up()
    given.down()
    assert given.running()
    assert given.server == own.server
    assert own.state() == before
    assert given.image("9.9.9") not in own.images()
    with pytest.raises(LabError, match="somebody else"):
        given.kill("etcd")


def test_another_user_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"(?s)sudo make lab.*ROLLBACKCTL_LAB_KUBECONFIG"):
        Cluster().up()


def test_where_another_node_runs_nothing_is_begun(
    own: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLBACKCTL_LAB", str(tmp_path / "lab"))
    second = Cluster()
    with pytest.raises(LabError, match=rf"kubelet \(pid {own.state()['kubelet']}\)"):
        second.up()
    second.down()
    assert not (tmp_path / "lab").exists()
    assert own.running()


def test_another_cluster_is_another_one(lab: Cluster, other: Cluster) -> None:
    def uid(one: Cluster) -> str:
        return one.kubectl("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}")

    assert uid(lab) != uid(other)
    assert list(other.state()) == ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
    with pytest.raises(LabError, match="no node"):
        other.image("1.0.0")
    with pytest.raises(LabError, match="has no kubelet"):
        other.kill("kubelet")


def test_an_api_server_that_was_killed_knows_everything(other: Cluster) -> None:
    other.kubectl("create", "namespace", "kept")
    before = other.state()
    other.kill("kube-apiserver")
    assert not other.running()
    with pytest.raises(LabError, match="refused"):
        other.kubectl("get", "namespace", "kept")
    other.start("kube-apiserver")
    other.kubectl("get", "namespace", "kept")
    assert {name for name, pid in other.state().items() if pid != before[name]} == {"kube-apiserver"}


def test_up_starts_what_was_killed(other: Cluster) -> None:
    other.kill("etcd")
    other.kill("kube-scheduler")
    before = other.state()
    other.up()
    assert other.running()
    assert [name for name, pid in before.items() if not pid] == ["etcd", "kube-scheduler"]
    assert all(other.state()[name] == pid for name, pid in before.items() if pid)


def test_the_audit_log_has_who_asked_for_what(other: Cluster) -> None:
    before = other.audit_end()
    other.kubectl("create", "configmap", "audited", "--from-literal=word=secret")
    entries = other.audit(before)
    assert len(other.audit()) > len(entries)
    asked = [(one["verb"], one["objectRef"]["name"]) for one in entries if "name" in one.get("objectRef", {})]
    assert ("create", "audited") in asked
    assert "secret" not in json.dumps([one for one in entries if one["verb"] == "create"])


def test_after_a_reboot_a_cluster_begins_anew(other: Cluster) -> None:
    other.kubectl("create", "namespace", "before-the-reboot")
    (other.directory / "made").write_text("another boot", encoding="ascii")
    other.up()
    assert "before-the-reboot" not in other.kubectl("get", "namespaces")


def test_a_cluster_that_is_removed_leaves_nothing(other: Cluster, root: Path) -> None:
    other.up()
    # Whoever started it was killed before it wrote the pid file: a program runs that nothing tells of.
    stray = other.state()["kube-scheduler"]
    (other.directory / "logs" / "kube-scheduler.pid").unlink()
    other.up()
    assert not alive(stray)
    pids = list(other.state().values())
    (other.directory / "logs" / "kube-scheduler.pid").unlink()
    assert other.state()["kube-scheduler"] == 0

    subprocess.run([sys.executable, TOOL, "down", other.name], cwd=root, check=True)

    assert not other.directory.exists()
    assert [pid for pid in pids if alive(pid)] == []
    assert not other.running()
    other.down()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Elsewhere:
    """A network and folders of its own, in which a second full cluster has room."""

    def __init__(self, folder: Path) -> None:
        self.lab = folder / "lab"
        argv = ["unshare", "--net", "--mount", "--propagation=private", "sleep", "240"]
        self._holder = subprocess.Popen(argv)
        link, mine = Path(f"/proc/{self._holder.pid}/ns/net"), Path("/proc/self/ns/net").readlink()
        assert eventually(lambda: link.readlink() != mine)
        cgroups = folder / "cgroups"
        cgroups.mkdir()
        # /sys shows the interfaces of the network in which it was mounted.
        self("mount", "--rbind", "/sys/fs/cgroup", str(cgroups))
        self("mount", "-t", "sysfs", "sysfs", "/sys")
        self("mount", "--move", str(cgroups), "/sys/fs/cgroup")
        for shared in ("/run", "/var/lib", "/var/log"):
            self("mount", "-t", "tmpfs", "tmpfs", shared)
        self("ip", "link", "set", "lo", "up")

    def __call__(self, *argv: str, stdin: str = "") -> str:
        done = self.run(*argv, stdin=stdin)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount", f"--wd={Path.cwd()}", *argv]
        environment = {**os.environ, "ROLLBACKCTL_LAB": str(self.lab)}
        environment.pop("ROLLBACKCTL_LAB_KUBECONFIG", None)
        return subprocess.run(inside, env=environment, input=stdin, text=True, capture_output=True, check=False)

    def traces(self) -> set[str]:
        """What is left on the machine: mounts, interfaces, routes, firewall, files, cgroups, settings."""
        mounts = self("findmnt", "--raw", "--noheadings", "--output=TARGET").splitlines()
        # Copies of the mounts of the cluster that everybody uses come and go with its pods.
        found = "".join(f"{line}\n" for line in mounts if line.startswith(str(self.lab)))
        found += self("ip", "-br", "link") + self("ip", "route")
        found += self("iptables-save") + self("ip6tables-save")
        found += self("find", "/var/lib", "/var/log", "/run", str(self.lab.parent), "-mindepth", "1")
        found += self("find", "/sys/fs/cgroup", "-maxdepth", "3", "-name", "rollbackctl-lab-*")
        found += self("sysctl", "vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.ip_forward")
        # /run/mount is what mount and umount themselves keep.
        skipped = ("#", ":", "*", "COMMIT", "/run/mount")
        return {line for line in found.splitlines() if not line.startswith(skipped)}

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()


@pytest.fixture
def elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    monkeypatch.chdir(root)
    folder = Path(tempfile.mkdtemp())  # a short one: kubelet's sockets have at most 107 bytes for their path
    there = Elsewhere(folder)
    try:
        yield there
    finally:
        try:
            there(sys.executable, TOOL, "down")
        finally:
            there.end()
            shutil.rmtree(folder)


def test_a_node_that_crashed_comes_back_and_is_removed_without_a_trace(elsewhere: Elsewhere) -> None:
    elsewhere("iptables", "-N", "THEIRS")
    elsewhere("iptables", "-A", "FORWARD", "-s", "192.0.2.7", "-j", "THEIRS")
    before = elsewhere.traces()
    elsewhere(sys.executable, TOOL, "up")
    folder = elsewhere.lab / "lab"
    kubectl = [str(build.program() / "kubectl"), "--kubeconfig", str(folder / "admin.kubeconfig")]
    make = "from lab.kubernetes.cluster import Cluster; print(Cluster().image('1.0.0'))"
    reference = elsewhere(sys.executable, "-c", make).strip()
    elsewhere(*kubectl, "apply", "-f", "-", stdin=SERVICE.format(namespace="default", image=reference))
    elsewhere(*kubectl, "rollout", "status", "deployment/shop", "--timeout=60s")

    crash(folder)
    elsewhere(sys.executable, TOOL, "up")
    address = elsewhere(*kubectl, "get", "service", "shop", "--output=jsonpath={.spec.clusterIP}")
    elsewhere(*kubectl, "rollout", "restart", "deployment/shop")
    elsewhere(*kubectl, "rollout", "status", "deployment/shop", "--timeout=60s")
    ask = [str(build.sample()), "get", f"http://{address}/version"]
    # kube-proxy may name the pods that are gone for a moment longer.
    assert eventually(lambda: '"version":"1.0.0"' in elsewhere.run(*ask).stdout)
    assert elsewhere.traces() != before

    pids = crash(folder)
    elsewhere(sys.executable, TOOL, "down")
    assert not [pid for pid in pids if alive(pid)]
    assert elsewhere.traces() ^ before == set()


def crash(folder: Path) -> list[int]:
    """Kill every component at once; what is inside of pods goes on. Returns who was killed."""
    pids = [int(file.read_text(encoding="ascii").split()[0]) for file in (folder / "logs").glob("*.pid")]
    for pid in pids:
        os.kill(pid, 9)
    assert eventually(lambda: not any(map(alive, pids)))
    return pids
