# SPDX-License-Identifier: GPL-3.0-or-later
"""Where drivers of things in Kubernetes keep what they record: sealed, compressed documents in ConfigMaps or Secrets.

An object may hold 1 MiB (https://kubernetes.io/docs/concepts/configuration/configmap/#motivation); what is larger is
cut into several.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from typing import Any

from .durable import seal, unseal
from .errors import RollbackError
from .kube_client import Client, KubeError

PIECE_BYTES = 700_000  # base64 makes a third more of it, and metadata needs some room


def pack(name: str, document: dict[str, Any]) -> dict[str, str]:
    """Return the binaryData of a ConfigMap that holds one document, compressed and with its digest."""
    return {f"{name}.json.gz": _encoded(document).decode()}


def unpack(item: Mapping[str, Any] | None, name: str, what: str) -> dict[str, Any] | None:
    """Return the document that pack made; None when the object or the document is not there.

    :param what: what it is, for the message.
    :raises RollbackError: it is damaged.
    """
    text = ((item or {}).get("binaryData") or {}).get(f"{name}.json.gz")
    return None if text is None else _decoded(text, what)


class Shelf:
    """The place for one recorded version of one component. `name` is what Version.at carries."""

    def __init__(self, client: Client, namespace: str, name: str, meta: Mapping[str, Any]) -> None:
        """Name the objects; nothing is written yet. meta: their labels."""
        self.client = client
        self.namespace = namespace
        self.name = name[:240].strip("-.")
        self.meta = meta

    def save(self, document: dict[str, Any], *, secret: bool = False) -> str:
        """Write a document durably and return the shelf's name. secret: into Secrets, which fewer people may read."""
        whole = _encoded(document).decode()
        pieces = [whole[start : start + PIECE_BYTES] for start in range(0, len(whole), PIECE_BYTES)]
        for number, piece in enumerate(pieces):
            name = self.name if number == 0 else f"{self.name}-{number}"
            self._put(name, {"piece": piece, "pieces": _plain(str(len(pieces)))}, secret=secret)
        return self.name

    def _put(self, name: str, data: dict[str, str], *, secret: bool) -> None:
        folder, kind = ("secrets", "Secret") if secret else ("configmaps", "ConfigMap")
        field = "data" if secret else "binaryData"
        meta = {**self.meta, "name": name}
        body: dict[str, Any] = {"apiVersion": "v1", "kind": kind, "metadata": meta, field: data}
        if secret:
            body["type"] = "rollbackctl.io/recorded"
        path = f"/api/v1/namespaces/{self.namespace}/{folder}"
        try:
            self.client.create(path, body)
        except KubeError as error:
            if error.status not in (0, 409):
                raise
            self.client.merge_patch(f"{path}/{name}", {field: data})


def read_shelf(client: Client, namespace: str, name: str, *, secret: bool = False) -> dict[str, Any]:
    """Return the document that a shelf holds.

    :raises RollbackError: it is not there any more, or damaged.
    """
    folder, field = ("secrets", "data") if secret else ("configmaps", "binaryData")
    path = f"/api/v1/namespaces/{namespace}/{folder}"
    text, number, pieces = "", 0, 1
    while number < pieces:
        item = client.find(f"{path}/{name if number == 0 else f'{name}-{number}'}")
        if item is None:
            raise RollbackError(f"What was recorded as {name} is no longer in namespace {namespace}.")
        text += item[field]["piece"]
        pieces = int(base64.b64decode(item[field]["pieces"]))
        number += 1
    return _decoded(text, f"What was recorded as {name}")


def _encoded(document: dict[str, Any]) -> bytes:
    return base64.b64encode(gzip.compress(seal(document), mtime=0))


def _decoded(text: str, what: str) -> dict[str, Any]:
    try:
        raw = gzip.decompress(base64.b64decode(text))
    except (OSError, EOFError, ValueError) as error:
        raise RollbackError(f"{what} is damaged: it cannot be unpacked.") from error
    return unseal(raw, what)


def _plain(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
