# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Kubernetes cluster on this machine, for drills and tests.

cluster.py up|down|status|env [NAME]

NAME "lab", the default, has a node that runs pods. Any other name is one more control plane, without pods, for what
must tell two clusters apart.

ROLLBACKCTL_LAB=/folder             where clusters keep everything (default: /var/tmp/rollbackctl-lab)
ROLLBACKCTL_LAB_KUBECONFIG=/path    use this cluster, as it is, in place of "lab"; up and down do nothing then
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # started by its path

import yaml  # noqa: E402 - after the path above

from lab.kubernetes import build, machine  # noqa: E402 - the same
from lab.kubernetes.components import PAUSE, arguments, components, write_files  # noqa: E402 - the same
from lab.kubernetes.images import REPOSITORY, Images  # noqa: E402 - the same
from lab.kubernetes.layout import FULL, NODE, NODE_ADDRESS, Layout  # noqa: E402 - the same
from lab.kubernetes.processes import Process, boot  # noqa: E402 - the same

NEEDED = {  # program -> Debian's package
    "containerd": "containerd", "ctr": "containerd", "containerd-shim-runc-v2": "containerd", "runc": "runc",
    "iptables": "iptables", "ip": "iproute2", "mount": "mount", "umount": "mount",
}  # fmt: skip
PATIENCE_SECONDS = 120.0


class LabError(Exception):
    """The lab cannot do what was asked; the text says what to do."""


class Cluster:
    """One cluster in its own folder."""

    def __init__(self, name: str = FULL) -> None:
        """Take the name; nothing is started."""
        self._layout = Layout(name)
        self.name = name
        self.directory = self._layout.directory
        self.kubeconfig = self._layout.kubeconfig
        self.server = self._layout.server
        self.node_address = NODE_ADDRESS if self._layout.full else ""

    @property
    def bin(self) -> Path:
        """Return the folder with kubectl, etcd and the rest; builds them if need be."""
        return build.program()

    def up(self) -> None:
        """Start whatever is not running, and wait until pods could be made; does nothing where all is well."""
        _need_root()
        if self._layout.full:
            _need_packages()
            if there := machine.strangers(self._layout):
                raise LabError(f"another Kubernetes node runs here: {', '.join(there)}. Use a machine without one.")
            build.sample()
        programs = build.program()
        with self._alone():
            self._make()
            if self._layout.full:
                machine.prepare(self._layout)
            for component in components(self._layout):
                self._start(component, programs)
            self._wait(self._usable)

    def down(self) -> None:
        """Stop it and remove all that it left on this machine, also after a crash."""
        _need_root()
        if self.directory.exists():
            with self._alone():
                self._remove()

    def running(self) -> bool:
        """Say whether every component runs and the API server answers."""
        return all(self._process(one).pid for one in components(self._layout)) and self._answers("/readyz")

    def state(self) -> dict[str, int]:
        """Return the components and their process numbers; 0 for one that does not run."""
        return {one: self._process(one).pid for one in components(self._layout)}

    def kubectl(self, *arguments: str, input: str = "") -> str:  # noqa: A002 - subprocess's own word
        """Run the lab's own kubectl as the cluster's administrator; return what it prints.

        :raises LabError: it failed; the text is what it said.
        """
        argv = [self.bin / "kubectl", "--kubeconfig", self.kubeconfig, "--cache-dir", self.directory / "kubectl-cache"]
        return _kubectl([*map(str, argv), *arguments], input)

    def kill(self, component: str) -> None:
        """Kill a component, as a crash would."""
        self._process(component).kill()

    def start(self, component: str) -> None:
        """Start a component again, and wait until it answers, where it is one that is asked."""
        self._start(component, build.program())

    def image(self, version: str, mode: str = "") -> str:
        """Import the sample service as a version, broken in a way if mode says so; return the image's reference."""
        name = f"{REPOSITORY}:{version}{mode and '-'}{mode}"
        settings = {"VERSION": version, **({"MODE": mode} if mode else {})}
        self._images().make(name, build.sample(), [], settings)
        return name

    def images(self) -> list[str]:
        """Return the references of the images that the node has."""
        return self._images().names()

    def remove_image(self, reference: str) -> None:
        """Remove an image from the node; kubelet reports that in the node's status within 35 seconds."""
        self._images().remove(reference)

    def audit(self, since: int = 0) -> list[dict[str, Any]]:
        """Return what the API server was asked, oldest first; without contents, and without its own parts.

        since: an audit_end() of earlier; the whole log can be long.
        """
        return [json.loads(line) for line in self._audited(since).splitlines()]

    def audit_end(self) -> int:
        """Return where the audit log ends now."""
        size = self._audit_size()
        return size + len(self._audited(size))

    def _audit_size(self) -> int:
        return self._layout.audit_log.stat().st_size

    def _audited(self, since: int) -> bytes:
        """Return the audit log from a place on, up to a request made now: all that was answered is before it."""
        mark = uuid.uuid4().hex
        self._get(f"/version?mark={mark}")
        end = time.monotonic() + 5
        while True:
            with self._layout.audit_log.open("rb") as log:
                log.seek(since if since <= self._audit_size() else 0)  # a log that got too long was begun anew
                before, found, _ = log.read().partition(mark.encode())
            if found:
                return before[: before.rfind(b"\n") + 1]
            if time.monotonic() > end:
                raise LabError(f"{self._layout.audit_log} does not have the request that was just answered")
            time.sleep(0.02)

    def _process(self, component: str) -> Process:
        if component not in components(self._layout):
            raise LabError(f"cluster {self.name} has no {component}; it has {', '.join(components(self._layout))}")
        return Process(self._layout.logs, component)

    def _images(self) -> Images:
        if not self._layout.full:
            raise LabError(f"cluster {self.name} has no node, so it has no images")
        return Images(self._layout.socket)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from starting or removing a cluster; the folder of all clusters goes with the last one."""
        base = self._layout.base
        while True:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.fstat(lock).st_nlink == 0:
                    continue  # it was removed while we waited
                if os.fstat(lock).st_uid != os.geteuid():
                    raise LabError(f"{base} belongs to somebody else. Set ROLLBACKCTL_LAB to a folder of your own.")
                yield
                with contextlib.suppress(OSError):
                    base.rmdir()
                return
            finally:
                os.close(lock)

    def _make(self) -> None:
        """Make the cluster's folder, unless it is there; what an earlier boot or half a start left is removed first."""
        made = self.directory / "made"
        if made.exists() and made.read_text(encoding="ascii") == boot():
            return
        if self.directory.exists():
            self._remove()
        self._layout.logs.mkdir(parents=True)
        write_files(self._layout)
        made.write_text(boot(), encoding="ascii")

    def _remove(self) -> None:
        for component in reversed(components(self._layout)):
            self._process(component).stop()
        if self._layout.full:
            machine.restore(self._layout)
        else:
            machine.end_processes(self._layout)
        shutil.rmtree(self.directory)

    def _start(self, component: str, programs: Path) -> None:
        process = self._process(component)
        if not process.pid:
            machine.end_strays(self._layout, component)
            process.start(arguments(self._layout, component, programs), machine.ENVIRONMENT)
        if component == "kube-apiserver":
            self._wait(lambda: self._answers("/readyz"), component)
        elif component == "containerd":
            self._wait(lambda: machine.attempt("ctr", "--address", str(self._layout.socket), "version"), component)
            self._images().make(PAUSE, build.sample(), ["pause"], {})

    def _wait(self, good: Callable[[], bool], component: str = "") -> None:
        """Wait for a component, or for all of them."""
        watched = [self._process(one) for one in ([component] if component else components(self._layout))]
        end = time.monotonic() + PATIENCE_SECONDS
        while not good():
            for process in watched:
                if not process.pid:
                    raise LabError(f"{process.name} ended; the end of {process.log}:\n{process.tail()}")
            if time.monotonic() > end:
                process = watched[-1]
                raise LabError(f"{process.name} does not get ready; the end of {process.log}:\n{process.tail()}")
            time.sleep(0.05)

    def _usable(self) -> bool:
        """Say whether a pod could be made: all runs, the default service account is there, and a node that is ready."""
        if 0 in self.state().values():
            return False
        if not self._answers("/api/v1/namespaces/default/serviceaccounts/default"):
            return False
        if not self._layout.full:
            return True
        if not self._answers(f"/api/v1/nodes/{NODE}"):
            return False
        conditions = json.loads(self._get(f"/api/v1/nodes/{NODE}"))["status"]["conditions"]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _answers(self, path: str) -> bool:
        try:
            self._get(path)
        except (OSError, HTTPException):  # an error status is an OSError, and so are keys that are not there yet
            return False
        return True

    def _get(self, path: str) -> bytes:
        keys = self._layout.keys
        context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"{self.server}{path}", timeout=10) as answer:
            body: bytes = answer.read()
        return body


class Existing(Cluster):
    """A cluster that somebody else made and looks after."""

    def __init__(self, kubeconfig: Path) -> None:
        """Read where it is."""
        super().__init__()
        self.kubeconfig = kubeconfig
        settings = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        contexts = {one["name"]: one["context"] for one in settings["contexts"]}
        servers = {one["name"]: one["cluster"]["server"] for one in settings["clusters"]}
        self.server = servers[contexts[settings["current-context"]]["cluster"]]

    @property
    def bin(self) -> Path:
        """Return the folder with kubectl: the machine's own, else the lab's."""
        found = shutil.which("kubectl")
        return Path(found).parent if found else build.program()

    def up(self) -> None:
        """Do nothing: it is as it is."""

    def down(self) -> None:
        """Do nothing: it is not ours."""

    def running(self) -> bool:
        """Say whether its API server answers."""
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except LabError:
            return False

    def state(self) -> dict[str, int]:
        """Return nothing: its processes are not ours."""
        return {}

    def kubectl(self, *arguments: str, input: str = "") -> str:  # noqa: A002 - as above
        """Run kubectl with the kubeconfig that was given."""
        return _kubectl([str(self.bin / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments], input)

    def kill(self, component: str) -> None:
        """Refuse: that is for the lab's own cluster."""
        raise LabError(f"{component} of a cluster that somebody else looks after is not killed")

    def start(self, component: str) -> None:
        """Refuse, likewise."""
        raise LabError(f"{component} of a cluster that somebody else looks after is not started")

    def image(self, version: str, mode: str = "") -> str:
        """Return the reference; the cluster must be able to get it."""
        return f"{REPOSITORY}:{version}{mode and '-'}{mode}"

    def images(self) -> list[str]:
        """Return the references that its nodes report."""
        nodes = json.loads(self.kubectl("get", "nodes", "--output=json"))["items"]
        return sorted({name for node in nodes for one in node["status"].get("images", []) for name in one["names"]})

    def remove_image(self, reference: str) -> None:
        """Refuse: its images are not ours."""
        raise LabError(f"{reference} is not removed from a cluster that somebody else looks after")

    def audit(self, since: int = 0) -> list[dict[str, Any]]:
        """Refuse: where its audit log is, nobody said."""
        raise LabError(f"the audit log of a cluster that somebody else looks after cannot be read (from {since} on)")

    def audit_end(self) -> int:
        """Refuse, likewise."""
        raise LabError("the audit log of a cluster that somebody else looks after cannot be read")


def cluster(name: str = FULL) -> Cluster:
    """Return a cluster by name; it need not run yet."""
    given = os.environ.get("ROLLBACKCTL_LAB_KUBECONFIG")
    return Existing(Path(given)) if given and name == FULL else Cluster(name)


def _kubectl(argv: list[str], stdin: str) -> str:
    home = {"HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        argv, input=stdin, env=machine.ENVIRONMENT | home, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(done.stderr.strip() or f"kubectl ended with {done.returncode}")
    return done.stdout


def _need_root() -> None:
    if os.geteuid():
        raise LabError(
            "the lab's cluster needs root (network, mounts, cgroups). Type:  sudo make lab\n"
            "Or name a cluster that you have:  export ROLLBACKCTL_LAB_KUBECONFIG=/path/to/kubeconfig"
        )


def _need_packages() -> None:
    missing = {package for program, package in NEEDED.items() if machine.which(program) is None}
    if not any(Path(folder, "bridge").exists() for folder in ("/usr/lib/cni", "/opt/cni/bin")):
        missing.add("containernetworking-plugins")
    if missing:
        raise LabError(
            f"these packages are missing; type:  apt-get install --no-install-recommends {' '.join(sorted(missing))}"
        )


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", choices=["up", "down", "status", "env"])
    parser.add_argument("name", nargs="?", default=FULL)
    options = parser.parse_args()
    try:
        return _do(options.word, cluster(options.name))
    except (LabError, build.BuildError, RuntimeError, ValueError) as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return 1


def _do(word: str, one: Cluster) -> int:
    if word == "up":
        one.up()
        print(f"Cluster {one.name} runs: {one.server}. To use it, type:")
    if word == "down":
        one.down()
        print(f"Cluster {one.name} is gone.")
    if word == "status":
        for component, pid in one.state().items():
            print(f"{component:24} {f'pid {pid}' if pid else 'does not run'}")
        print(f"{one.server} {'answers' if one.running() else 'does not answer, or something is missing'}")
        return 0 if one.running() else 1
    if word in {"up", "env"}:
        print(f"export KUBECONFIG={one.kubeconfig}")
        print(f'export PATH={one.bin}:"$PATH"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
