# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a drill's namespace from outside, with nothing of rollbackctl: kubectl, and requests as users make them."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.kubernetes.cluster import cluster

# All that a run might touch by mistake. What others only report (events, endpoints) is no state of its own.
KINDS = (
    "deployments,statefulsets,daemonsets,replicasets,controllerrevisions,horizontalpodautoscalers,poddisruptionbudgets,"
    "cronjobs,jobs,ingresses,services,configmaps,secrets,resourcequotas,serviceaccounts,roles,rolebindings,pods"
)
OWN = {"app.kubernetes.io/managed-by": "rollbackctl"}
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Asked:
    """One request of a client. at: seconds since 1970 when it was sent; status: 0 is no answer."""

    at: float
    seconds: float
    status: int
    version: str


@dataclass(frozen=True)
class Drill:
    """A drill's namespace; all about it is below one folder, the root: drill.py says what."""

    root: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        """What `make` wrote down: inventory, namespace, uid, urls by host."""
        found: dict[str, Any] = json.loads((self.root / "about.json").read_text(encoding="utf-8"))
        return found

    @property
    def namespace(self) -> str:
        """The drill's namespace."""
        return str(self.about["namespace"])

    def kubectl(self, *words: str, given: str = "") -> str:
        """Run kubectl as the cluster's administrator, in the drill's namespace."""
        return cluster().kubectl("--namespace", self.namespace, *words, input=given)

    def get(self, *what: str) -> dict[str, Any]:
        """Return an object, or a list of them, as kubectl prints it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *what, "--output=json"))
        return found

    def objects(self) -> dict[str, Any]:
        """Return every object of the namespace, without statuses, what rollbackctl itself keeps, and what is on its way
        out."""
        found = {}
        for item in self.get(KINDS)["items"]:
            own = OWN.items() <= (item["metadata"].get("labels") or {}).items()
            if not own and not item["metadata"].get("deletionTimestamp"):
                found[f"{item['kind'].lower()}/{item['metadata']['name']}"] = cleaned(item)
        return found

    def seen(self, label: str) -> dict[str, Any]:
        """Return what `look --as LABEL` saw: objects, and answers by host."""
        found: dict[str, Any] = json.loads((self.root / "looks" / f"{label}.json").read_text(encoding="utf-8"))
        return found

    def look(self) -> dict[str, Any]:
        """Look at it now."""
        return {"objects": self.objects(), "answers": {host: self.ask(host) for host in self.about["urls"]}}

    def ask(self, host: str, path: str = "/version") -> dict[str, Any]:
        """Ask a service once, through its Service, as users do."""
        return ask(f"{self.about['urls'][host]}{path}")

    def tell(self, app: str, mode: str) -> None:
        """Change the mode of all pods of an application, as they run (lab/kubernetes/sample)."""
        for pod in self.get("pods", f"--selector=app={app}")["items"]:
            if pod["metadata"].get("deletionTimestamp"):
                continue  # nobody may be at its address any more
            url = f"http://{pod['status']['podIP']}:8080/break?mode={mode}"
            with urllib.request.urlopen(url, data=b"", timeout=2 * PATIENCE_SECONDS):
                pass

    def asked(self, host: str) -> list[Asked]:
        """Return the requests of the client that keeps asking a service, oldest first."""
        lines = (self.root / f"{host}.asked").read_text(encoding="utf-8").splitlines()
        return sorted((Asked(**json.loads(line)) for line in lines if line.endswith("}")), key=lambda one: one.at)

    def history(self, workload: str) -> list[str]:
        """Return the numbers of a Deployment's revisions, as kubectl lists them, oldest first."""
        lines = self.kubectl("rollout", "history", workload).splitlines()
        return [line.split()[0] for line in lines if line[:1].isdigit()]


def cleaned(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object without what others report about it; a Secret's values as digests."""
    metadata = {
        key: value for key, value in item["metadata"].items() if key not in {"resourceVersion", "managedFields"}
    }
    rest = {key: value for key, value in item.items() if key not in {"status", "metadata", "data"}}
    data = item.get("data") or {}
    if item["kind"] == "Secret":
        data = {key: hashlib.sha256(value.encode()).hexdigest() for key, value in data.items()}
    return {**rest, "metadata": metadata, **({"data": data} if data else {})}


def ask(url: str) -> dict[str, Any]:
    """Ask once: status (0 is no answer), and what was answered."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - http, of the lab
            return {"status": answer.status, **json.loads(answer.read())}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "version": error.headers.get("X-Version", "")}
    except (OSError, ValueError) as error:
        return {"status": 0, "error": type(error).__name__}
