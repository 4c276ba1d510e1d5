# SPDX-License-Identifier: GPL-3.0-or-later
"""A second API server of the lab's cluster, on the same etcd: it can be killed, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import ssl
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Self

import yaml

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.components import arguments
from lab.kubernetes.layout import Layout
from lab.kubernetes.machine import ENVIRONMENT
from lab.kubernetes.processes import Process
from tests.faults.shop import wait_for

START_SECONDS = 180.0
_OTHERWISE = ("--secure-port=", "--audit-")


class SecondApiServer:
    """Its process, and a kubeconfig that leads there."""

    def __init__(self, lab: Cluster, folder: Path) -> None:
        """Choose a free port; nothing is started yet."""
        self._layout = Layout(lab.name)
        with socket.create_server(("127.0.0.1", 0)) as line:
            self._port = line.getsockname()[1]
        argv = arguments(self._layout, "kube-apiserver", lab.bin)
        self._argv = [word for word in argv if not word.startswith(_OTHERWISE)] + [f"--secure-port={self._port}"]
        self._process = Process(folder, "kube-apiserver")
        document = yaml.safe_load(lab.kubeconfig.read_text(encoding="utf-8"))
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self._port}"
        self.kubeconfig = folder / "second.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(document), encoding="utf-8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process.start(self._argv, ENVIRONMENT)
        wait_for(self._answers, f"an API server; its log is {self._process.log}", START_SECONDS)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._process.kill()

    def _answers(self) -> bool:
        assert self._process.pid, f"the API server ended; the end of {self._process.log}:\n{self._process.tail(20)}"
        keys = self._layout.keys
        context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with contextlib.suppress(OSError, HTTPException):
            opener.open(f"https://127.0.0.1:{self._port}/readyz", timeout=5).close()
            return True
        return False
