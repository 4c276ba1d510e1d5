# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealed, compressed documents in ConfigMaps or Secrets: what the state store keeps, and what drivers record.

An object may hold 1 MiB (https://kubernetes.io/docs/concepts/configuration/configmap/#motivation); what is larger is
cut into several.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
import time
import zlib
from collections.abc import Mapping
from typing import Any

from .durable import seal, unseal
from .errors import RollbackError
from .kube_client import Client, KubeError

PIECE_BYTES = 700_000  # base64 makes a third more of it, and metadata needs some room
UNPACKED_BYTES = 256 * 1024 * 1024
ATTEMPTS = 5
# After these nobody knows whether a write took effect: read back, then try again, a little later each time.
UNKNOWN = frozenset({0, 500, 502, 503, 504})
PAUSE_SECONDS = 0.1
_PLAIN_PART = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def part_of_name(text: str) -> str:
    """Return a component's name as it may stand in an object's: lower case, letters, digits, dashes; never that of
    another component."""
    if _PLAIN_PART.fullmatch(text):
        return text
    plain = re.sub(r"[^a-z0-9-]", "-", text.lower()).strip("-")
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


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


def put(client: Client, folder: str, body: Mapping[str, Any], field: str) -> None:
    """Make an object, or give the one of that name our `field`; a lost answer is found out by reading back.

    :param folder: path of the collection.
    :raises KubeError: the API server does not take it, or it is not known whether it did.
    """
    path = f"{folder}/{body['metadata']['name']}"
    found: Mapping[str, Any] | None = None
    problem: KubeError | None = None
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * PAUSE_SECONDS)
        try:
            if found is None:
                client.create(folder, body)
            else:
                client.merge_patch(path, {field: body[field]})
        except KubeError as error:
            if error.status not in {404, 409, *UNKNOWN}:
                raise
            problem = error
        else:
            return
        found = client.find(path)
        if found is not None and found.get(field) == body[field]:
            return
    if problem is not None:
        raise problem


class Shelf:
    """The place for one recorded version of one component. `name` is what Version.at carries."""

    def __init__(self, client: Client, namespace: str, name: str, meta: Mapping[str, Any]) -> None:
        """Name the objects; nothing is written yet. meta: their labels."""
        self.client = client
        self.namespace = namespace
        self.name = name
        self.meta = meta

    def save(self, document: dict[str, Any], *, secret: bool = False) -> str:
        """Write a document durably and return the shelf's name. secret: into Secrets, which fewer people may read.

        The first piece, which says how many there are, is written last: what is half written is not there at all.
        """
        whole = _encoded(document).decode()
        pieces = [whole[start : start + PIECE_BYTES] for start in range(0, len(whole), PIECE_BYTES)]
        for number, piece in reversed(list(enumerate(pieces))):
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
        put(self.client, f"/api/v1/namespaces/{self.namespace}/{folder}", body, field)


def read_shelf(client: Client, namespace: str, name: str, *, secret: bool = False) -> dict[str, Any]:
    """Return the document that a shelf holds.

    :raises RollbackError: it is not there any more, or damaged.
    """
    folder, field = ("secrets", "data") if secret else ("configmaps", "binaryData")
    path = f"/api/v1/namespaces/{namespace}/{folder}"
    what = f"What was recorded as {name}"
    text, number, pieces = "", 0, 1
    while number < pieces:
        item = client.find(f"{path}/{name if number == 0 else f'{name}-{number}'}")
        if item is None:
            raise RollbackError(f"{what} is no longer in namespace {namespace}.")
        try:
            text += item[field]["piece"]
            pieces = int(base64.b64decode(item[field]["pieces"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RollbackError(f"{what} is damaged: it is not what rollbackctl writes.") from error
        number += 1
    return _decoded(text, what)


def _encoded(document: dict[str, Any]) -> bytes:
    return base64.b64encode(gzip.compress(seal(document), mtime=0))


def _decoded(text: str, what: str) -> dict[str, Any]:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(text, validate=True))) as file:
            raw = file.read(UNPACKED_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RollbackError(
            f"{what} is damaged: it cannot be unpacked.",
            "Do not edit what the state store holds. Restore it from a backup, or choose another one.",
        ) from error
    if len(raw) > UNPACKED_BYTES:
        raise RollbackError(f"{what} is damaged: it is larger than anything that rollbackctl writes.")
    return unseal(raw, what)


def _plain(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
