# SPDX-License-Identifier: GPL-3.0-or-later
"""How a client proves who it is: where token or certificate come from, fetched when needed, again when refused.

Nothing here is printed: the fields that hold or lead to a secret are left out of every repr. A pickle does hold them.
"""

from __future__ import annotations

import base64
import binascii
import copy
import dataclasses
import importlib
import os
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from .errors import Refused

# A mounted token is replaced now and then while it is still valid; Kubernetes' own clients look once a minute.
FILE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Credentials:
    """What is sent. expires: the wall-clock time at which to fetch anew, or None."""

    token: str = dataclasses.field(default="", repr=False)
    certificate: bytes = dataclasses.field(default=b"", repr=False)
    key: bytes = dataclasses.field(default=b"", repr=False)
    expires: float | None = None


class Source(ABC):
    """Where credentials come from. renewable: fetching again may bring others."""

    renewable: ClassVar[bool] = True

    @abstractmethod
    def fetch(self) -> Credentials:
        """Return the credentials as they are now.

        :raises Refused: they cannot be had; the message names where, never the secret.
        """


@dataclasses.dataclass(frozen=True)
class Part:
    """One piece of text or bytes: inline, or the path of a file. what: its name for messages."""

    what: str
    inline: bytes = dataclasses.field(default=b"", repr=False)
    path: str = ""

    def __bool__(self) -> bool:
        """Say whether there is anything."""
        return bool(self.inline or self.path)

    def read(self) -> bytes:
        """Return the content."""
        if not self.path:
            return self.inline
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as exc:
            raise Refused(f"{self.what} {self.path!r} cannot be read: {exc.strerror}.") from None


def decoded(what: str, text: str) -> bytes:
    """Return what is base64 in a kubeconfig or an ExecCredential."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{what} is not base64.") from None


@dataclasses.dataclass(frozen=True)
class Given(Source):
    """A token, a certificate with its key, or nothing; inline or in files."""

    token: Part = Part("token")
    certificate: Part = Part("client certificate")
    key: Part = Part("client key")

    def fetch(self) -> Credentials:
        """Read the files."""
        token = clean_token(self.token.what, self.token.read()) if self.token else ""
        return Credentials(
            token=token,
            certificate=self.certificate.read(),
            key=self.key.read(),
            expires=time.time() + FILE_SECONDS if self.token.path else None,
        )


def clean_token(what: str, raw: bytes) -> str:
    """Return a token that can stand in a header."""
    token = raw.decode("utf-8", errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Refused(f"the {what} is empty or holds characters that no token has.")
    return token


@dataclasses.dataclass(frozen=True)
class Provider(Source):
    """An `auth-provider` (oidc, gcp), as kubeconfigs had before exec plugins; the official client knows these."""

    name: str
    document: dict[str, Any] = dataclasses.field(repr=False)
    context: str
    directory: str

    def fetch(self) -> Credentials:
        """Have the official loader get the token.

        :raises Refused: it cannot.
        """
        try:
            # Only now: importing it costs 240 ms, and it is hardly ever needed.
            loading = importlib.import_module("kubernetes.config.kube_config")
            loader = loading.KubeConfigLoader(
                config_dict=self._believing(importlib.import_module("certifi").where()),
                active_context=self.context,
                config_base_path=self.directory,
            )
            loader.load_and_set(importlib.import_module("kubernetes.client").Configuration())
            kind, _, token = str(getattr(loader, "token", "")).partition(" ")
        except Exception as exc:  # noqa: BLE001 - whatever a foreign loader raises; its text may hold a token
            raise Refused(self._problem(type(exc).__name__)) from None
        if kind != "Bearer" or not token:
            raise Refused(self._problem("no token came"))
        return Credentials(token=clean_token("token", token.encode()), expires=time.time() + FILE_SECONDS)

    def _believing(self, authorities: str) -> dict[str, Any]:
        """Return the document, with authorities for the identity provider's address: without, none is checked."""
        document = copy.deepcopy(self.document)
        config = document["users"][0]["user"]["auth-provider"].get("config") or {}
        if "idp-certificate-authority-data" not in config:
            config.setdefault("idp-certificate-authority", authorities)
        return document

    def _problem(self, why: str) -> str:
        return (
            f"the auth-provider {self.name!r} of the kubeconfig gave no token ({why}). Use an exec plugin "
            "(kubelogin, gke-gcloud-auth-plugin) or a ServiceAccount's token instead."
        )


def check_readable(*parts: Part) -> None:
    """Refuse early what cannot be read."""
    for part in parts:
        if part.path and not os.access(part.path, os.R_OK):
            part.read()
