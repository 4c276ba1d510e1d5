# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of ConfigMaps and Secrets share: a good and a bad deploy of them in a namespace of the cluster."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.component import LIVE, Entry, Finding, Place, Version
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_config import KubeConfigDriver
from ansible.module_utils.rollbackctl.kube_shelf import Shelf
from ansible.module_utils.rollbackctl.kube_store import Cluster

# Values that may be seen nowhere but in Secrets.
CANARY_GOOD, CANARY_BAD = "canary-good-4711", "canary-bad-0815"
MAP, SECRET = "app-config", "app-secrets"
GOOD_MAP = {"LOG_LEVEL": "info", "CURRENCY": "EUR", "app.yaml": "a: 1\nb: 2\n"}
BAD_MAP = {"LOG_LEVEL": "debug", "CURRENCY": "EUR", "NEW_FLOW": "on"}
GOOD_SECRET = {"PASSWORD": CANARY_GOOD, "PIN": "4711"}
BAD_SECRET = {"PASSWORD": CANARY_BAD, "PIN": "0815"}


def encoded(values: Mapping[str, str]) -> dict[str, str]:
    """Return a Secret's data."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def everything_proven() -> None:
    """Be the proof of a run that still holds its lease."""


class Scene:
    """A component's objects in one namespace, which also is that of the state."""

    def __init__(self, client: Client, namespace: str, backups: Path | None = None) -> None:
        self.client = client
        self.namespace = namespace
        self.options: dict[str, Any] = {"name": "settings", "configmaps": [MAP], "secrets": [SECRET]}
        if backups is not None:
            self.options["backups"] = str(backups)
        self.prove: Callable[[], None] = everything_proven

    def emptied(self) -> Scene:
        """Remove what an earlier test left in the namespace."""
        for kind in ("configmap", "secret"):
            self.client.delete(self.path(kind, "")[:-1])
        return self

    # -- the objects ---------------------------------------------------------------------------------------------------

    def path(self, kind: str, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{kind}s/{name}"

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return self.client.get(self.path(kind, name))

    def make(self, kind: str, name: str, **fields: Any) -> None:
        metadata = {"name": name, **fields.pop("metadata", {})}
        word = "Secret" if kind == "secret" else "ConfigMap"
        folder = self.path(kind, "")[:-1]
        self.client.create(folder, {"apiVersion": "v1", "kind": word, "metadata": metadata, **fields})

    def make_good(self) -> None:
        self.make("configmap", MAP, data=GOOD_MAP)
        self.make("secret", SECRET, stringData=GOOD_SECRET)

    def set(self, kind: str, name: str, values: Mapping[str, str]) -> None:
        """Be somebody else who replaces a content."""
        data = encoded(values) if kind == "secret" else dict(values)
        self.client.json_patch(self.path(kind, name), [{"op": "replace", "path": "/data", "value": data}])

    def break_it(self) -> None:
        self.set("configmap", MAP, BAD_MAP)
        self.set("secret", SECRET, BAD_SECRET)

    def data(self, kind: str, name: str) -> dict[str, str]:
        found = self.get(kind, name).get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in found.items()} if kind == "secret" else found

    def is_good(self) -> bool:
        return self.data("configmap", MAP) == GOOD_MAP and self.data("secret", SECRET) == GOOD_SECRET

    def is_bad(self) -> bool:
        return self.data("configmap", MAP) == BAD_MAP and self.data("secret", SECRET) == BAD_SECRET

    def versions(self) -> list[str]:
        """Return what changes with every write."""
        return [self.get(k, n)["metadata"]["resourceVersion"] for k, n in (("configmap", MAP), ("secret", SECRET))]

    # -- the driver ----------------------------------------------------------------------------------------------------

    def driver(self, *, run: str = "rb-1", client: Client | None = None, **options: Any) -> KubeConfigDriver:
        cluster = Cluster(client or self.client, self.namespace, self.prove)
        return KubeConfigDriver({**self.options, **options}, Place(run=run, cluster=cluster))

    def shelf(self, label: str, client: Client | None = None) -> Shelf:
        name = f"rollbackctl-shop-{label}-settings-recorded"
        labels = {"app.kubernetes.io/managed-by": "rollbackctl"}
        return Shelf(client or self.client, self.namespace, name, {"labels": labels})

    def record(self, label: str, **options: Any) -> Version:
        return stored(self.driver(**options).record(self.shelf(label)))

    def recorded_and_broken(self, **options: Any) -> Version:
        """Have the good content recorded and the bad one live."""
        self.make_good()
        version = self.record("cp-1", **options)
        self.break_it()
        return version

    def plan(
        self, want: Version | str, *, run: str = "rb-1", client: Client | None = None, **options: Any
    ) -> tuple[Entry, Finding]:
        """Do what preflight does; return what the next processes get of it."""
        driver = self.driver(run=run, client=client, **options)
        live = driver.live(exact=True)
        target = driver.resolve(want)
        finding = driver.check(live, target)
        entry = Entry(
            "settings", "restore_kubernetes_config", "configuration", stored(live), stored(target), "change", finding
        )
        return entry, finding

    def roll(self, entry: Entry, *, client: Client | None = None, **options: Any) -> str:
        """Do what the phase rollback does, in a process of its own; return how it reads then."""
        driver = self.driver(client=client, **options)
        state, _ = driver.state(entry, opened=False)
        if state == LIVE:
            driver.record(self.shelf("kept", client))
        driver.apply(entry.target)
        return self.driver(client=client, **options).state(entry, opened=False)[0]


def stored(version: Version) -> Version:
    """Return a version as the journal gives it back."""
    return Version.from_dict(json.loads(json.dumps(version.to_dict())))


def client_of(kubeconfig: Path, **settings: Any) -> Client:
    """Return a new client."""
    return Client(find_access({"kubeconfig": str(kubeconfig)}, os.environ), **settings)


def manifest(kind: str, name: str, values: Mapping[str, str], **more: str) -> str:
    """Return a manifest as kubectl writes one."""
    word = "Secret" if kind == "secret" else "ConfigMap"
    data = encoded(values) if kind == "secret" else dict(values)
    metadata = {"name": name, **more}
    return f"apiVersion: v1\ndata: {json.dumps(data)}\nkind: {word}\nmetadata: {json.dumps(metadata)}\n"


def listed(*manifests: str) -> str:
    """Return a List of manifests."""
    items = "".join("- " + textwrap.indent(one, "  ")[2:] for one in manifests)
    return f"apiVersion: v1\nkind: List\nitems:\n{items}"


def unpacked(document: Any) -> str:
    """Return all text in an object of the API server, unpacked wherever it is packed."""
    if isinstance(document, Mapping):
        return "\n".join(f"{key}: {unpacked(value)}" for key, value in document.items())
    if isinstance(document, list):
        return "\n".join(unpacked(one) for one in document)
    text = str(document)
    try:
        raw = base64.b64decode(text, validate=True)
        text += "\n" + (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "replace")
    except (ValueError, OSError, EOFError):
        pass
    return text


def told(version: Version | Finding) -> str:
    """Return all that a version or a finding says, as it would be stored."""
    return json.dumps(dataclasses.asdict(version))
