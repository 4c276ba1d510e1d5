# SPDX-License-Identifier: GPL-3.0-or-later
"""Exec plugins of a kubeconfig: a command that prints an ExecCredential (aws eks get-token, kubelogin, ...).

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
The command is an argument list, never a shell. What it prints on stdout is a secret and goes nowhere; what it prints on
stderr is for people and goes into the message when it fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .errors import Refused
from .kube_credentials import Credentials, Source, clean_token
from .names import printable

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Plugin(Source):
    """environ: everything that the command gets, the kubeconfig's `env` included."""

    version: str
    command: str
    arguments: tuple[str, ...] = dataclasses.field(repr=False)
    environ: Mapping[str, str] = dataclasses.field(repr=False)
    hint: str = ""
    cluster: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def fetch(self) -> Credentials:
        """Run the command.

        :raises Refused: it is missing, fails, takes too long, or prints something else.
        """
        program = shutil.which(self.command, path=self.environ.get("PATH", os.defpath))
        if program is None:
            raise Refused(f"{self._name} is not installed.{f' {self.hint}' if self.hint else ''}")
        return self._understood(self._run(program))

    @property
    def _name(self) -> str:
        return f"the kubeconfig's exec plugin {printable(self.command)!r}"

    def _run(self, program: str) -> bytes:
        info: dict[str, Any] = {"interactive": False}
        if self.cluster is not None:
            info["cluster"] = dict(self.cluster)
        question = json.dumps({"apiVersion": self.version, "kind": "ExecCredential", "spec": info})
        try:
            process = subprocess.Popen(
                [program, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**self.environ, "KUBERNETES_EXEC_INFO": question},
                start_new_session=True,
            )
        except OSError as exc:
            raise Refused(f"{self._name} cannot be started: {exc.strerror}.") from None
        with process:
            try:
                out, err = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                _end(process)
                raise Refused(f"{self._name} did not end within {SECONDS:g} s.") from None
            except BaseException:
                _end(process)
                raise
        if process.returncode != 0:
            said = printable(" ".join(err.decode(errors="replace").split()))[-400:]
            raise Refused(f"{self._name} ended with {process.returncode}: {said or 'it said nothing'}")
        return out

    def _understood(self, out: bytes) -> Credentials:
        try:
            document = json.loads(out)
            version, status = document["apiVersion"], document["status"]
            token, expires = status.get("token") or "", _timestamp(status.get("expirationTimestamp"))
            certificate, key = status.get("clientCertificateData") or "", status.get("clientKeyData") or ""
            credentials = Credentials(
                token=clean_token("token", token.encode()) if token else "",
                certificate=certificate.encode(),
                key=key.encode(),
                expires=expires,
            )
            usable = document["kind"] == "ExecCredential" and bool(certificate) == bool(key)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            usable, credentials = False, Credentials()
        if not usable or not (credentials.token or credentials.certificate):
            raise Refused(f"{self._name} printed no ExecCredential with a token, or a client certificate and its key.")
        if version != self.version:
            raise Refused(f"{self._name} printed another apiVersion than {self.version}, which the kubeconfig has.")
        return credentials


def _timestamp(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what was started, its children included: they hold the pipes open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
