# SPDX-License-Identifier: GPL-3.0-or-later
"""The fault proxy in a process of its own, for tests that fork.

A process that is forked while another thread speaks TLS may inherit a lock of OpenSSL's that nobody will ever open.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Self

import pytest

from lab.kubernetes.cluster import Cluster
from tests.support.kube import certificate_authority, proxy_keys
from tests.support.kube_proxy import Fault, FaultProxy, Request, Seen

# The processes of all proxies: children of this one that are nobody else's business.
PROCESSES: set[int] = set()


class FarProxy(FaultProxy):
    """As FaultProxy, but it spoils what it was told when it was last told to serve; its address stays the same.

    What a Fault calls is called in the proxy's process, where `faults` is the list that counts.
    """

    def __init__(self, server: str, ca: str, identity: tuple[Path, Path], log: Path) -> None:
        """Take an address; nothing is served yet."""
        super().__init__(server, ca, identity=identity)
        self.log = log
        self._pid = 0

    def __enter__(self) -> Self:
        self.serve()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        self._listener.server_close()

    def serve(self, *faults: Fault, latency: float = 0.0) -> None:
        """Begin anew, with these faults and no others. What was recorded so far is forgotten."""
        self._end()
        self.log.write_text("", encoding="ascii")
        self.faults[:], self.latency = faults, latency
        self._pid = os.fork()
        if self._pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._listener.serve_forever(poll_interval=0.02)
            finally:
                os._exit(1)
        PROCESSES.add(self._pid)

    def record(self, request: Request, status: int, fault: Fault | None) -> None:
        """Keep what a client got where the tests can read it."""
        seen = Seen(request.method, request.path, status, fault.name if fault else "")
        with self.log.open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(seen)) + "\n")

    def seen(self, method: str = "", path: str = "") -> list[Seen]:
        """Return the requests of a method (a pattern) and a path (likewise) since the proxy last began."""
        found = [Seen(**json.loads(line)) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [one for one in found if re.search(path, one.path) and re.fullmatch(method or ".*", one.method)]

    def spoilt(self) -> list[Seen]:
        """Return the requests that met a fault."""
        return [one for one in self.seen() if one.fault]

    def _end(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            PROCESSES.discard(self._pid)
            self._pid = 0


def far_proxy_of(lab: Cluster, log: Path) -> FarProxy:
    """Return a proxy in front of a cluster's API server."""
    _, identity = proxy_keys()
    return FarProxy(lab.server, certificate_authority(lab), identity, log)


@pytest.fixture
def far_proxy(lab_cluster: Cluster, tmp_path: Path) -> Iterator[FarProxy]:
    """A proxy in a process of its own; its clients use token_kubeconfig(..., server=far_proxy.url)."""
    with far_proxy_of(lab_cluster, tmp_path / "far-proxy.log") as proxy:
        yield proxy
