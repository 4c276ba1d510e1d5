# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in a ConfigMap or a Secret, and how two contents are told apart without giving a secret away.

A ConfigMap's mark is a sha256. A plain digest of a short secret is found by trying, so a Secret's is an HMAC with a
random key that stays in the cluster (kube_config_key.py). No function here puts a value into a text.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from .durable import canonical, digest

ABSENT = "absent"
# A Secret's mark while there is no key yet: which writing of the object, or which backup file.
UNRECORDED = "unrecorded:"
CONFIGMAP, SECRET = "configmap", "secret"
OPAQUE = "Opaque"
SIZE_LIMIT = 1 << 20  # https://kubernetes.io/docs/concepts/configuration/configmap/#motivation
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_TYPE = ":type"  # beside the marks of keys; no key has a colon

# One mark for the whole content, or one for each key.
Mark = Union[str, Mapping[str, str]]


class Ref(NamedTuple):
    """One ConfigMap or Secret of the component's namespace."""

    kind: str
    name: str

    def __str__(self) -> str:
        """Return it as kubectl writes it: configmap/app-config."""
        return f"{self.kind}/{self.name}"

    def folder(self, namespace: str) -> str:
        """Return the path of the collection that it is in."""
        return f"/api/v1/namespaces/{namespace}/{self.kind}s"

    def path(self, namespace: str) -> str:
        """Return the path of the object."""
        return f"{self.folder(namespace)}/{self.name}"

    def named(self, name: str) -> Ref:
        """Return another object of the same kind."""
        return Ref(self.kind, name)


@dataclass(frozen=True)
class Content:
    """What an object holds. Values are never shown, not even by repr.

    data: a ConfigMap's texts; a Secret's values in base64. binary: a ConfigMap's binaryData, in base64.
    """

    data: Mapping[str, str] = field(repr=False)
    binary: Mapping[str, str] = field(default_factory=dict, repr=False)
    type: str = ""
    immutable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def parts(self) -> dict[str, list[str]]:
        """Return what each key holds."""
        found = {key: ["data", value] for key, value in self.data.items()}
        found.update({key: ["binaryData", value] for key, value in self.binary.items()})
        return found

    @property
    def size(self) -> int:
        """Return how many bytes the API server counts, roughly."""
        return sum(len(key) + len(value[1].encode()) for key, value in self.parts.items())

    def same(self, other: Content | None) -> bool:
        """Say whether another content is this one."""
        return other is not None and self.type == other.type and self.parts == other.parts

    def within(self, other: Content | None) -> bool:
        """Say whether another content holds this one, and maybe more keys."""
        return other is not None and self.type == other.type and self.parts.items() <= other.parts.items()

    def added_to(self, other: Content) -> Content:
        """Return this content with the other's further keys."""
        mine = self.parts
        return Content(
            {**{key: value for key, value in other.data.items() if key not in mine}, **self.data},
            {**{key: value for key, value in other.binary.items() if key not in mine}, **self.binary},
            self.type,
        )

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "data": dict(self.data),
            "binary": dict(self.binary),
            "type": self.type,
            "immutable": self.immutable,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None) -> Content | None:
        """Return what to_document wrote; None for an object that was not there."""
        return None if document is None else cls(**document)


def is_object_name(name: str) -> bool:
    """Say whether an object may be called so (an RFC 1123 subdomain): never a path or a pattern."""
    return _NAME.fullmatch(name) is not None


def is_key(name: Any) -> bool:
    """Say whether a key of a ConfigMap or Secret may be called so."""
    return isinstance(name, str) and _KEY.fullmatch(name) is not None and name not in {".", ".."}


def content_of(kind: str, item: Mapping[str, Any] | None) -> Content | None:
    """Return the content of an object as the API server gave it."""
    if item is None:
        return None
    metadata = item["metadata"]
    return Content(
        dict(item.get("data") or {}),
        dict(item.get("binaryData") or {}) if kind == CONFIGMAP else {},
        str(item.get("type") or OPAQUE) if kind == SECRET else "",
        bool(item.get("immutable")),
        dict(metadata.get("labels") or {}),
        dict(metadata.get("annotations") or {}),
    )


def body_of(ref: Ref, content: Content, *, labels: Mapping[str, str], notes: Mapping[str, str]) -> dict[str, Any]:
    """Return a new object with this content."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret" if ref.kind == SECRET else "ConfigMap",
        "metadata": {"name": ref.name, "labels": dict(labels), "annotations": dict(notes)},
        "data": dict(content.data),
    }
    if ref.kind == SECRET:
        body["type"] = content.type or OPAQUE
    elif content.binary:
        body["binaryData"] = dict(content.binary)
    return body


def mark_of(ref: Ref, content: Content | None, key: bytes | None, *, each: bool) -> Mark:
    """Return what tells this content from others; the same wherever the same key is used.

    :param ref: whose content it is: equal contents of two Secrets do not look equal.
    :param key: needed for Secrets. each: a mark for every key, where others may add keys of their own.
    """
    if content is None:
        return ABSENT
    if not each:
        return _mark(ref, {"type": content.type, "parts": content.parts}, key)
    marks = {name: _mark(ref, [name, part], key) for name, part in content.parts.items()}
    return {**marks, _TYPE: content.type} if ref.kind == SECRET else marks


def _mark(ref: Ref, document: Any, key: bytes | None) -> str:
    if ref.kind == CONFIGMAP:
        return f"sha256:{digest(document)}"
    if key is None:
        raise ValueError("a Secret has no mark without the key")
    return f"hmac:{hmac.new(key, canonical([str(ref), document]), 'sha256').hexdigest()}"


def fits(reading: Mark, wanted: Mark) -> bool:
    """Say whether a reading is the wanted content: equal, or each wanted key equal. What was not there is left alone,
    so that anything fits it."""
    if wanted == ABSENT:
        return True
    if isinstance(reading, Mapping) and isinstance(wanted, Mapping):
        return wanted.items() <= reading.items()
    return reading == wanted


def short(mark: Mark) -> str:
    """Return a few digits that tell marks apart, for people."""
    return digest(dict(mark))[:8] if isinstance(mark, Mapping) else mark.partition(":")[2][:8]


def stem(ref: Ref) -> str:
    """Return what the names of an object's copies begin with."""
    return ref.name[:240].rstrip("-.")


def copy_name(ref: Ref, mark: Mark) -> str:
    """Return the name of the immutable copy that holds the content of this mark; empty where there is no content."""
    digits = mark.partition(":")[2] if isinstance(mark, str) and not mark.startswith(UNRECORDED) else ""
    return f"{stem(ref)}-{digits[:10]}" if digits else ""


def plain_base64(text: str) -> str | None:
    """Return base64 in its one spelling; None when it is none. Line breaks within it are allowed, as in a manifest."""
    try:
        return base64.b64encode(base64.b64decode("".join(text.split()), validate=True)).decode()
    except (binascii.Error, ValueError):
        return None
