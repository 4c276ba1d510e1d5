# SPDX-License-Identifier: GPL-3.0-or-later
"""Images for the cluster, put together without any builder or registry: one layer, one static program."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from lab.kubernetes.build import architecture
from lab.kubernetes.machine import run

REPOSITORY = "lab.local/shop"
_OCI = "application/vnd.oci.image"


class Images:
    """The images that one containerd holds for kubelet."""

    def __init__(self, socket: Path) -> None:
        """Take containerd's socket."""
        self._ctr = ("ctr", "--address", str(socket), "--namespace", "k8s.io", "images")

    def names(self) -> list[str]:
        """Return the references, without those that containerd makes for itself (digests)."""
        return sorted(name for name in self._all() if not name.startswith("sha256:") and "@" not in name)

    def make(self, name: str, program: Path, arguments: list[str], environment: dict[str, str]) -> None:
        """Import an image that starts a program, unless the same one is there."""
        archive, digest = image(name, program, arguments, environment)
        if self._all().get(name) == digest:
            return
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            file.write(archive)
            file.flush()
            run(*self._ctr, "import", file.name)

    def remove(self, name: str) -> None:
        """Remove an image under each of its names, so that a pod that asks for it does not get it."""
        known = self._all()
        if name in known:
            run(*self._ctr, "remove", "--sync", *(other for other in known if known[other] == known[name]))

    def _all(self) -> dict[str, str]:
        rows = [line.split() for line in run(*self._ctr, "list").splitlines()[1:]]
        return {row[0]: row[2] for row in rows}


def image(name: str, program: Path, arguments: list[str], environment: dict[str, str]) -> tuple[bytes, str]:
    """Return an image as an OCI archive, and its digest, which is the same for the same contents."""
    layer = _tar({program.name: program.read_bytes()}, mode=0o755)
    config = _json(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": [f"/{program.name}", *arguments],
                "Env": [f"{key}={value}" for key, value in environment.items()],
                "ExposedPorts": {"8080/tcp": {}},
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar", layer)],
        }
    )
    entry = _descriptor("manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name}
    index = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [entry]}
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    blobs = {f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}": blob for blob in (layer, config, manifest)}
    return _tar({**files, **blobs}), _digest(manifest)


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)  # owner 0, time 0: the same bytes each time
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
