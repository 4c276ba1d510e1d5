# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `pod_command` in a real pod, with every kind of credentials, and what a run with few rights may do."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.check_kube_command import container_of, judge
from ansible.module_utils.rollbackctl.check_kube_select import NothingToAsk
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError
from ansible.module_utils.rollbackctl.kube_pod_exec import Ended, execute

from lab.kubernetes.cluster import Cluster
from tests.support.kube import token_kubeconfig
from tests.support.kube_service import KubeService
from tests.unit.module_utils.check_lab import RIGHTS, ask, one

HEALTH = ["/shop", "get", "http://127.0.0.1:8080/health"]


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    return KubeService(lab_cluster, admin, namespace)


def test_exit_code_and_output_are_compared(service: KubeService) -> None:
    service.make()
    (pod,) = service.pods()
    where = f"in pod {pod['metadata']['name']}"
    many = {"timeout": 30, "kind": "pod_command", "argv": HEALTH}
    found = ask(
        service,
        {"name": "good", **many, "stdout_contains": '"version":"1.4.0"'},
        {"name": "named", **many, "selector": "app=api", "container": "shop"},
        {"name": "lacks", **many, "stdout_contains": "1.5.0"},
        {"name": "no-json", **many, "json": {"status": "ok"}},
        {"name": "code", **many, "argv": ["/shop", "nonsense"]},
        {"name": "code-wanted", **many, "argv": ["/shop", "nonsense"], "rc": 2},
        {"name": "absent", **many, "argv": ["/bin/absent", "-c", "true"]},
        {"name": "no-shell", **many, "argv": ["/shop", "get", "http://127.0.0.1:8080/health; exit 0"], "rc": 1},
        {"name": "container", **many, "container": "db"},
        {"name": "nobody", **many, "selector": "app=none"},
        {"name": "late", **many, "argv": ["/shop", "pause"], "timeout": 2},
    )
    texts = {name: result.text.removeprefix(f"{where}: ") for name, result in found.items()}
    assert texts["good"] == texts["named"] == "exit code 0"
    assert texts["lacks"] == "exit code 0, but its output lacks '1.5.0'"
    assert texts["no-json"] == "the answer is not JSON"
    assert texts["code"].startswith("exit code 2, expected 0: shop: unknown: nonsense; known: check")
    assert texts["absent"].startswith('exec: "/bin/absent": stat /bin/absent: no such file or directory')
    assert texts["container"] == f"pod {pod['metadata']['name']} has no container db; it has shop"
    assert texts["nobody"] == "no pod of selector app=none is ready, so there is none to run it in"
    assert texts["late"] == "did not end within 2 s, and may still run there"
    assert [name for name, result in found.items() if result.ok] == ["good", "named", "code-wanted", "no-shell"]
    assert [name for name, result in found.items() if result.unverified] == ["absent"]
    dry = one(service, kind="pod_command", argv=HEALTH, check_mode=True)
    assert (dry.unverified, dry.text) == (True, "not run, because this is check mode")


@contextmanager
def proxy(to: str) -> Iterator[str]:
    """A proxy that understands CONNECT; the address of it, with a password inside."""
    host, port = to.rpartition("/")[2].split(":")

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = self.rfile.readline()
            while (line := self.rfile.readline()) not in {b"\r\n", b""}:
                head += line
            assert b"proxy-authorization: basic " in head.lower()
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with socket.create_connection((host, int(port))) as back:
                threading.Thread(target=pump, args=(back.recv, self.connection.sendall), daemon=True).start()
                pump(self.rfile.read1, back.sendall)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server:
        server.daemon_threads = True
        threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True).start()
        yield f"http://robot:secret@127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def pump(read: Any, write: Any) -> None:
    try:
        while data := read(65536):
            write(data)
    except OSError:
        pass


def test_every_kind_of_credentials_works(service: KubeService, tmp_path: Path) -> None:
    service.make()
    (pod,) = service.pods()
    lab = service.lab
    robot = token_kubeconfig(lab, service.namespace, RIGHTS, tmp_path)
    document = yaml.safe_load(robot.read_text(encoding="utf-8"))
    token = document["users"][0]["user"]["token"]
    plugin = tmp_path / "plugin"
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    plugin.write_text(f"#!{sys.executable} -S\nprint({json.dumps(said)!r})\n", encoding="utf-8")
    plugin.chmod(0o700)
    asked = {"apiVersion": said["apiVersion"], "command": str(plugin), "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": asked}
    executing = tmp_path / "exec.kubeconfig"
    executing.write_text(yaml.safe_dump(document), encoding="utf-8")
    certificate = find_access({"kubeconfig": str(lab.kubeconfig)}, os.environ)
    with proxy(lab.server) as through:
        accesses = {
            "certificate": certificate,
            "token": find_access({"kubeconfig": str(robot)}, os.environ),
            "plugin": find_access({"kubeconfig": str(executing)}, os.environ),
            "proxy": replace(certificate, proxy=through),
            "impersonation": replace(
                certificate,
                impersonate=(("Impersonate-User", "somebody"), ("Impersonate-Group", "system:masters")),
            ),
        }
        ended = {
            how: execute(access, service.namespace, pod["metadata"]["name"], "shop", HEALTH, 30)
            for how, access in accesses.items()
        }
    assert {how: one.rc for how, one in ended.items()} == dict.fromkeys(accesses, 0)
    assert all(b'"status":"ok"' in one.stdout for one in ended.values())
    nobody = replace(certificate, impersonate=(("Impersonate-User", "nobody"),))
    with pytest.raises(KubeError, match=r'User "nobody" cannot (get|create) resource "pods/exec"') as refused:
        execute(nobody, service.namespace, pod["metadata"]["name"], "shop", HEALTH, 30)
    assert refused.value.status == 403
    for server in ("https://127.0.0.1:1", f"{lab.server}/not/there"):
        with pytest.raises(KubeError, match="run a command in pod"):
            execute(replace(certificate, server=server), service.namespace, "x", "shop", HEALTH, 30)
    with pytest.raises(KubeError, match="proxy that itself speaks TLS"):
        execute(replace(certificate, proxy="https://127.0.0.1:1"), service.namespace, "x", "shop", HEALTH, 30)


def test_these_rights_are_enough_for_all_checks(service: KubeService, tmp_path: Path) -> None:
    """And without them nothing is known, which is no success."""
    service.make()
    checks: list[dict[str, Any]] = [
        {"name": "pods", "kind": "pods"},
        {"name": "events", "kind": "events", "reasons": ["OOMKilled"]},
        {"name": "log", "kind": "pod_log", "pattern": "ERROR"},
        {"name": "command", "kind": "pod_command", "argv": HEALTH, "timeout": 30},
    ]
    robot = token_kubeconfig(service.lab, service.namespace, RIGHTS, tmp_path)
    enough = ask(service, *checks, kubeconfig=robot)
    assert {name: result.text for name, result in enough.items() if not result.ok} == {}
    few = token_kubeconfig(service.lab, service.namespace, RIGHTS[:2], tmp_path)
    denied = ask(service, *[{**check, "within": 0} for check in checks], kubeconfig=few)
    assert all(result.unverified and "403 Forbidden" in result.text for result in denied.values()), denied


def test_output_is_bounded_and_judged_without_a_cluster() -> None:
    body = json.dumps({"rows": [{"count": 3}], "ok": True}).encode()
    ended = Ended(rc=0, stdout=body)
    assert judge({"json": {"rows.0.count": {"min": 3}, "ok": True}}, ended, "in pod x", 5).ok
    assert judge({"json": {"rows.0.count": 4}}, ended, "in pod x", 5).text == "in pod x: rows.0.count is 3, expected 4"
    broken = judge({}, Ended(problem="the connection broke before it had ended"), "in pod x", 5)
    assert broken.unverified


def test_the_container_that_kubectl_would_take() -> None:
    pod: dict[str, Any] = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "proxy"}, {"name": "app"}]}}
    assert container_of(pod, {}) == "proxy"
    pod["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "app"}
    assert container_of(pod, {}) == "app"
    with pytest.raises(NothingToAsk, match="has no container db; it has proxy, app"):
        container_of(pod, {"container": "db"})
