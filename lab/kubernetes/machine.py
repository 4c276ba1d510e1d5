# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node changes on the machine around it, and how all of that is taken back, also after a crash.

Everything here can be done twice, and does nothing where nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.kubernetes.layout import BRIDGE, NETWORK, NODE_ADDRESS, POD_NETWORK, SERVICE_NETWORK, Layout

# Nothing of the caller's own: a proxy for HTTP, say, must not come between API server and kubelet.
ENVIRONMENT = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/bin:/sbin:/bin"}
SYSCTLS = (  # kubelet sets these for the whole machine
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
)  # fmt: skip
# Pods talk to one another over the bridge: also where a firewall (Docker's, say) forwards nothing by default.
FORWARD = ["FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-m", "comment", "--comment", NETWORK, "-j", "ACCEPT"]
OURS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "containerd")
FOLDERS = (  # made by the parts themselves, wherever they are told to keep their things
    "/var/lib/kubelet/device-plugins", "/var/lib/kubelet", "/var/lib/cni/results", "/var/lib/cni",
    "/var/log/containers", "/run/containerd/s", "/run/containerd",
)  # fmt: skip
SHIM = "containerd-shim-runc-v2"
CONTROLLERS = ("cpuset", "cpu", "memory", "pids", "hugetlb", "io")


def prepare(layout: Layout) -> None:
    """Make the machine ready for the node: settings remembered, bridge, cgroup, firewall rule."""
    _remember_sysctls(layout)
    for module in ("overlay", "br_netfilter"):  # built in, or loaded by hand, where there is no modprobe
        attempt("modprobe", "--quiet", module)
    _bridge()
    _make_cgroup(layout.cgroup)
    if not attempt("iptables", "-w", "-C", *FORWARD):
        run("iptables", "-w", "-I", *FORWARD)


def restore(layout: Layout) -> None:
    """Take back everything that the node of this cluster did to the machine; its components have ended."""
    end_processes(layout)
    _unmount(layout.directory)
    if not (layout.directory / "sysctls").exists():
        return  # prepare() has not run: what there is, is somebody else's
    _remove_cgroup(layout.cgroup)
    attempt("ip", "link", "delete", BRIDGE)
    for tool in ("iptables", "ip6tables"):
        _clean_firewall(tool)
    for sockets in layout.directory.glob("containerd/state/io.containerd.runtime.v2.task/*/*/address"):
        with contextlib.suppress(OSError):
            Path(sockets.read_text(encoding="utf-8").removeprefix("unix://")).unlink(missing_ok=True)
    _remove_files(layout)
    _restore_sysctls(layout)


def strangers(layout: Layout) -> list[str]:
    """Return the kubelets and kube-proxies of somebody else in this network: theirs and ours would undo one another."""
    own = Path("/proc/self/ns/net").readlink()
    found = []
    for pid, argv in _commands():
        if Path(argv[0]).name in {"kubelet", "kube-proxy", "k3s"} and not _belongs(argv, layout):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/ns/net").readlink() == own:
                    found.append(f"{Path(argv[0]).name} (pid {pid})")
    return found


def end_processes(layout: Layout) -> None:
    """Kill what still runs of this cluster: components without a pid file, shims, and everything inside of pods."""
    _kill(lambda: {*_named(layout, {*OURS, SHIM}), *_inside(layout.cgroup)})


def end_strays(layout: Layout, component: str) -> None:
    """Kill a component that no pid file tells of: whoever started it was killed before it could write one."""
    _kill(lambda: set(_named(layout, {component})))


def run(*argv: str, stdin: str = "") -> str:
    """Run a command that has to succeed; return what it prints."""
    done = subprocess.run(argv, input=stdin, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def attempt(*argv: str) -> bool:
    """Run a command that may fail, or be missing; say whether it succeeded."""
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(argv, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0
    return False


def which(program: str) -> str | None:
    """Return where a program is, also where the caller's PATH lacks the folders for root."""
    return shutil.which(program, path=ENVIRONMENT["PATH"])


def _kill(find: Callable[[], set[int]]) -> None:
    end = time.monotonic() + 15
    while left := find():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise RuntimeError(f"these processes of the lab do not end, not even by SIGKILL: {left}")
        time.sleep(0.05)


def _named(layout: Layout, names: set[str]) -> list[int]:
    return [pid for pid, argv in _commands() if Path(argv[0]).name in names and _belongs(argv, layout)]


def _belongs(argv: list[str], layout: Layout) -> bool:
    """Say whether a command line names something in this cluster's folder."""
    return any(f"{layout.directory}/" in word for word in argv[1:])


def _commands() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words := (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]:
                yield int(folder.name), words


def _bridge() -> None:
    """Make the pods' bridge, with the node's address on it: nothing of the lab is on the machine's real network."""
    if not Path("/sys/class/net", BRIDGE).exists():
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "replace", f"{NODE_ADDRESS}/{POD_NETWORK.split('/')[1]}", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    # Where no kube-proxy runs, a request to a Service shall not leave by the machine's own gateway.
    run("ip", "route", "replace", SERVICE_NETWORK, "dev", BRIDGE)
    # For this bridge alone: what comes from a pod may go to a Service, and is changed back on its way home.
    Path("/sys/class/net", BRIDGE, "bridge/nf_call_iptables").write_text("1", encoding="ascii")
    Path("/proc/sys/net/ipv4/conf", BRIDGE, "forwarding").write_text("1", encoding="ascii")


def _mounts() -> list[tuple[str, str]]:
    """Return where something is mounted and its kind of filesystem, the innermost last."""
    rows = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    return [(row[4].replace("\\040", " "), row[row.index("-") + 1]) for row in rows]


def _unmount(folder: Path) -> None:
    for where, _kind in reversed(_mounts()):
        if Path(where).is_relative_to(folder):
            run("umount", "--lazy", where)


def _hierarchies() -> list[Path]:
    """Return the cgroup trees: one per controller (version 1), or the one of version 2, or both."""
    return [Path(where) for where, kind in _mounts() if kind in {"cgroup", "cgroup2"}]


def _make_cgroup(name: str) -> None:
    for tree in _hierarchies():
        (tree / name).mkdir(exist_ok=True)
        for level in (tree, tree / name):
            # Version 2 only: what is below may use these controllers.
            if (level / "cgroup.controllers").exists():
                there = (level / "cgroup.controllers").read_text(encoding="ascii").split()
                wanted = " ".join(f"+{one}" for one in CONTROLLERS if one in there)
                (level / "cgroup.subtree_control").write_text(wanted, encoding="ascii")


def _inside(name: str) -> list[int]:
    """Return the processes below the cluster's cgroup."""
    found: list[int] = []
    for tree in _hierarchies():
        for file in (tree / name).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found += [int(line) for line in file.read_text(encoding="ascii").split()]
    return [pid for pid in found if pid]


def _remove_cgroup(name: str) -> None:
    end = time.monotonic() + 5
    for tree in _hierarchies():
        top = tree / name
        while top.exists():
            for folder in sorted((path for path in [top, *top.rglob("*")] if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):  # a process that was killed is still on its way out
                    folder.rmdir()
            if time.monotonic() > end:
                raise RuntimeError(f"{top} cannot be removed: a process is still in it")
            time.sleep(0.02)


def _clean_firewall(tool: str) -> None:
    """Remove the chains KUBE-* and what leads into them, and the lab's own rule."""
    if which(f"{tool}-save") is None:
        return
    lines: list[str] = []
    for line in run(f"{tool}-save").splitlines():
        words = line.split()
        if line.startswith("*"):
            lines += [line]
            chains: list[str] = []
        elif line.startswith(":KUBE-"):
            chains += [words[0][1:]]
            lines += [line]  # naming a chain empties it
        elif line.startswith("-A ") and not words[1].startswith("KUBE-") and (" -j KUBE-" in line or NETWORK in words):
            lines += ["-D" + line[2:]]
        elif line == "COMMIT":
            lines += [*(f"-X {chain}" for chain in chains), line]
    run(f"{tool}-restore", "--noflush", "--wait", stdin="\n".join([*lines, ""]))


def _remove_files(layout: Layout) -> None:
    """Remove what the node's parts write to places of their own, whatever they are told."""
    for left in Path("/var/lib/cni/results").glob("*"):
        if f"{layout.directory}/" in left.read_text(encoding="utf-8", errors="replace"):
            left.unlink(missing_ok=True)
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(layout.directory):
            link.unlink(missing_ok=True)
    for file in ("kubelet.sock", "kubelet_internal_checkpoint"):
        Path(FOLDERS[0], file).unlink(missing_ok=True)
    for folder in FOLDERS:
        with contextlib.suppress(OSError):  # not empty: somebody else's
            Path(folder).rmdir()


def _remember_sysctls(layout: Layout) -> None:
    kept = layout.directory / "sysctls"
    if not kept.exists():
        kept.mkdir()
        for name in SYSCTLS:
            with contextlib.suppress(OSError):
                (kept / name.replace("/", ".")).write_text(Path("/proc/sys", name).read_text(encoding="ascii"), "ascii")


def _restore_sysctls(layout: Layout) -> None:
    for name in SYSCTLS:
        with contextlib.suppress(OSError):
            before = (layout.directory / "sysctls" / name.replace("/", ".")).read_text(encoding="ascii")
            Path("/proc/sys", name).write_text(before, encoding="ascii")
