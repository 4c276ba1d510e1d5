# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's Kubernetes cluster for tests: one for all of them, a fresh namespace for each, users with few rights."""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import functools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client, Rule
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.kubernetes.cluster import Cluster, cluster
from tests.support.kube_proxy import FaultProxy

PATIENCE_SECONDS = 10.0
_TOOL = Path(__file__).resolve().parents[2] / "lab" / "kubernetes" / "cluster.py"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
# Processes that use the cluster hold this lock together; its content says that tests brought the cluster up.
_USERS = Path(tempfile.gettempdir()) / f"rollbackctl-lab-{os.getuid()}.users"


@pytest.fixture(scope="session")
def lab_cluster() -> Iterator[Cluster]:
    """The running cluster. When tests brought it up, the last of them takes it down."""
    lab = cluster()
    with _USERS.open("a+") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        if not lab.running():
            users.truncate(0)
            # By a process that ends: what is started here would be our child, and so would all that runs in its pods.
            subprocess.run([sys.executable, str(_TOOL), "up"], check=True)
            users.write("tests\n")
            users.flush()
        yield lab
        with contextlib.suppress(BlockingIOError):  # somebody else still uses it
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            users.seek(0)
            if users.read():
                lab.down()
                users.truncate(0)


@pytest.fixture(scope="session")
def admin(lab_cluster: Cluster) -> Client:
    """A client that may do everything."""
    return Client(find_access({"kubeconfig": str(lab_cluster.kubeconfig)}, os.environ))


@pytest.fixture
def namespace(admin: Client) -> Iterator[str]:
    """A fresh namespace; what is in it goes when the test has ended, nobody waits for that."""
    with fresh_namespace(admin) as name:
        yield name


@contextlib.contextmanager
def fresh_namespace(admin: Client, prefix: str = "test") -> Iterator[str]:
    """Make a namespace in which pods can be started, and have it removed afterwards."""
    name = f"{prefix}-{secrets.token_hex(4)}"
    admin.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": {"made-for": "tests"}}})
    try:
        # A pod needs it, and a controller makes it a moment later.
        _until(lambda: admin.find(f"/api/v1/namespaces/{name}/serviceaccounts/default") is not None)
        yield name
    finally:
        admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def fault_proxy(lab_cluster: Cluster) -> Iterator[FaultProxy]:
    """A proxy in front of the cluster's API server that spoils what a test asks for.

    Its clients use token_kubeconfig(..., server=fault_proxy.url).
    """
    _, identity = proxy_keys()
    with FaultProxy(lab_cluster.server, certificate_authority(lab_cluster), identity=identity) as proxy:
        yield proxy


@functools.cache
def proxy_keys() -> tuple[str, tuple[Path, Path]]:
    """Return the PEM certificate to know fault proxies by, and the files of their own certificate and key.

    They speak TLS, because kubectl sends no token without.
    """
    folder = Path(tempfile.mkdtemp(prefix="fault-proxy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    key = ec.generate_private_key(ec.SECP256R1())
    # Signed by itself, under a name of its own: beside the cluster's authority the one cannot be taken for the other.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fault-proxy")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key").write_bytes(secret)
    text = certificate.public_bytes(encoding).decode()
    (folder / "certificate").write_text(text, encoding="ascii")
    return text, (folder / "certificate", folder / "key")


def certificate_authority(lab: Cluster) -> str:
    """Return the PEM certificate that the API server's is signed with."""
    listed = yaml.safe_load(lab.kubeconfig.read_text(encoding="utf-8"))["clusters"][0]["cluster"]
    if inline := listed.get("certificate-authority-data"):
        return base64.b64decode(inline).decode()
    path: str = listed["certificate-authority"]
    return (lab.kubeconfig.parent / path).read_text(encoding="utf-8")


def token_kubeconfig(
    lab: Cluster,
    namespace: str,
    rules: Sequence[Mapping[str, Any]],
    into: Path,
    *,
    server: str = "",
    cluster_rules: Sequence[Mapping[str, Any]] = (),
    seconds: int = 3600,
) -> Path:
    """Make a ServiceAccount with these rights in the namespace; return a new kubeconfig in `into` with a token of it.

    rules: as in a Role, e.g. {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}. cluster_rules:
    the same for the whole cluster. server: another address for the API server, e.g. that of a proxy. All of it goes
    when the namespace goes.
    """
    admin = Client(find_access({"kubeconfig": str(lab.kubeconfig)}, os.environ))
    name = f"robot-{secrets.token_hex(3)}"
    here = f"/api/v1/namespaces/{namespace}"
    admin.create(f"{here}/serviceaccounts", {"metadata": {"name": name}})
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    inside = f"{_RBAC}/namespaces/{namespace}"
    _grant(admin, inside, "Role", {"name": name}, rules, subjects)
    if cluster_rules:
        owner = {"apiVersion": "v1", "kind": "Namespace", "name": namespace, "uid": admin.get(here)["metadata"]["uid"]}
        metadata = {"name": f"{namespace}-{name}", "ownerReferences": [owner]}
        _grant(admin, _RBAC, "ClusterRole", metadata, cluster_rules, subjects)
    asked = {"spec": {"expirationSeconds": max(seconds, 600)}}
    token = admin.create(f"{here}/serviceaccounts/{name}/token", asked)["status"]["token"]
    # The API server hears of new roles a moment later; asked directly, not through a proxy that may be spoiling things.
    direct = _written(lab, namespace, token, into / f"{name}.direct", "")
    robot = Client(find_access({"kubeconfig": str(direct)}, os.environ))
    wanted = [_first(rule, namespace) for rule in rules] + [_first(rule, "") for rule in cluster_rules]
    _until(lambda: not robot.allowed(wanted))
    robot.close()
    admin.close()
    direct.unlink()
    return _written(lab, namespace, token, into / f"{name}.kubeconfig", server)


def _grant(
    admin: Client,
    place: str,
    kind: str,
    metadata: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]],
    subjects: Sequence[Mapping[str, Any]],
) -> None:
    admin.create(f"{place}/{kind.lower()}s", {"metadata": metadata, "rules": list(rules)})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": metadata["name"]}
    binding = {"metadata": metadata, "roleRef": role, "subjects": list(subjects)}
    admin.create(f"{place}/{kind.lower()}bindings", binding)


def _first(rule: Mapping[str, Any], namespace: str) -> Rule:
    """Return one right out of a rule."""
    verb, resource, group = rule["verbs"][0], rule["resources"][0], rule["apiGroups"][0]
    resource, _, subresource = resource.partition("/")
    return Rule(verb, resource, group, namespace, (rule.get("resourceNames") or [""])[0], subresource)


def _written(lab: Cluster, namespace: str, token: str, path: Path, server: str) -> Path:
    authorities = certificate_authority(lab) + "\n" + proxy_keys()[0]
    place = {
        "server": server or lab.server,
        "certificate-authority-data": base64.b64encode(authorities.encode()).decode(),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "robot", "namespace": namespace}}],
        "clusters": [{"name": "lab", "cluster": place}],
        "users": [{"name": "robot", "user": {"token": token}}],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def _until(true: Any) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"the cluster did not follow within {PATIENCE_SECONDS:g} s")
        time.sleep(0.02)
