# SPDX-License-Identifier: GPL-3.0-or-later
"""The random key that Secrets' contents are told apart with: a Secret of the state's namespace, one for all services.

Whoever may read it may read the recorded Secrets beside it as well, so it needs no better place.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from typing import Any

from .errors import Refused, StepFailed
from .kube_client import Client, KubeError
from .kube_config_content import SECRET, Ref
from .kube_config_write import why

NAME = "rollbackctl-key"
TYPE = "rollbackctl.io/key"
_FIELD = "key"
_BYTES = 32


def key_path(namespace: str) -> str:
    """Return the path of the key's object."""
    return f"/api/v1/namespaces/{namespace}/secrets/{NAME}"


def key_in(item: dict[str, Any] | None) -> bytes | None:
    """Return the key in an object that was read; None when nothing was ever recorded here.

    :raises Refused: there is something else in it.
    """
    if item is None:
        return None
    try:
        key = base64.b64decode((item.get("data") or {})[_FIELD], validate=True)
    except (KeyError, binascii.Error, ValueError):
        key = b""
    if len(key) != _BYTES:
        where = f"secret/{NAME} in {item['metadata'].get('namespace', '')}"
        raise Refused(
            f"{where} holds no key of rollbackctl: somebody changed it. Nothing was changed.",
            "Delete it. The next checkpoint makes a new one; what was recorded until then can still be put back.",
        )
    return key


def ensure_key(client: Client, namespace: str) -> bytes:
    """Return the key, made now if there is none. It never changes: the object is immutable.

    :raises StepFailed: it could not be made.
    """
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/managed-by": "rollbackctl"}},
        "type": TYPE,
        "immutable": True,
        "data": {_FIELD: base64.b64encode(secrets.token_bytes(_BYTES)).decode()},
    }
    failure: KubeError | None = None
    for _ in range(3):
        key = key_in(client.find(key_path(namespace)))
        if key is not None:
            return key
        try:
            client.create(key_path(namespace).rpartition("/")[0], body)
        except KubeError as error:
            failure = error
            if error.status not in (0, 409):  # lost, or somebody else was quicker: look
                break
    said = why(Ref(SECRET, NAME), failure) if failure else "it went away again."
    raise StepFailed(f"secret/{NAME} could not be made in {namespace}: {said}", failure.next_step if failure else "")


def key_id(key: bytes | None) -> str:
    """Return what tells keys apart and does not give one away; empty without a key."""
    return hmac.new(key, b"which key", "sha256").hexdigest()[:12] if key else ""
