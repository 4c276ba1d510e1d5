# SPDX-License-Identifier: GPL-3.0-or-later
"""What a drill under molecule/ does in the lab's cluster, from the command line: make, break, use, look at, remove.

Each drill has a namespace of its own. All about it is below one folder, the root:

about.json          inventory, namespace, addresses of the Services by host
hosts.yml           the hosts of a shipped inventory with the place put in; links beside it: host_vars, group_vars
looks/NAME.json     what `look --as NAME` saw (lab/kubernetes/proof.py)
NAME.run            the newest run's id, written by `note --as NAME`
HOST.asked          the requests of the client that keeps asking a service, one a line
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # started by its path

import yaml  # noqa: E402 - after the path above

from lab.kubernetes.cluster import Cluster, cluster  # noqa: E402 - the same
from lab.kubernetes.objects import CAUSE, Object, deployment  # noqa: E402 - the same
from lab.kubernetes.proof import Asked, Drill  # noqa: E402 - the same
from lab.kubernetes.scenes import SCENES, Scene, catalytic_settings, fifty, place, syriamart_settings  # noqa: E402 - the same

RIGHTS = ROOT / "roles" / "rollback_kubernetes" / "files"
FURTHER = [  # what a profile asks for beyond its level
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},  # run_verify: pod_command
    {  # stop_kubernetes
        "apiGroups": ["autoscaling", "batch"],
        "resources": ["horizontalpodautoscalers", "cronjobs", "jobs"],
        "verbs": ["get", "list", "watch", "patch"],
    },
]
ROLLOUT = "--timeout=90s"
ANY = "--selector=!no-such-label"
ASK_SECONDS, ASK_PATIENCE_SECONDS = 0.05, 5.0


def make(root: Path, scene: Scene, *, rights: int = 0, more: Mapping[str, Any] | None = None) -> Drill:
    """Make the namespace and what is in it, wait until it serves, and write the inventory.

    rights: the level whose shipped Roles say what runs may do; without it they may do everything.
    more: further variables of the place.
    """
    lab = cluster()
    if not lab.running():
        lab.up()
    for object_ in scene.objects:
        if object_["kind"] == "Deployment":
            import_image(lab, object_["spec"]["template"]["spec"]["containers"][0]["image"])
    namespace = f"drill-{scene.inventory or 'fifty'}-{secrets.token_hex(3)}"
    root.mkdir(parents=True, exist_ok=True)
    about = {"inventory": scene.inventory, "namespace": namespace, "urls": {}}
    # Written first: what is half made can be removed too.
    (root / "about.json").write_text(json.dumps(about), encoding="utf-8")
    lab.kubectl("create", "namespace", namespace)
    drill = Drill(root)
    apply(drill, scene.objects)
    drill.kubectl("rollout", "status", "deployment", ANY, ROLLOUT)
    uid = lab.kubectl("get", "namespace", namespace, "--output=jsonpath={.metadata.uid}")
    kubeconfig = str(robot(drill, lab, rights) if rights else lab.kubeconfig)
    found = {item["metadata"]["name"]: item["spec"]["clusterIP"] for item in drill.get("services")["items"]}
    urls = {host: f"http://{found[name]}" for host, name in scene.services.items() if name}
    (root / "about.json").write_text(json.dumps({**about, "uid": uid, "urls": urls}), encoding="utf-8")
    places = {
        host: place(
            scene, host, urls.get(host, ""), namespace=namespace, uid=uid, kubeconfig=kubeconfig, more=more or {}
        )
        for host in scene.services
    }
    write_inventory(root, scene, places)
    return Drill(root)


def apply(drill: Drill, objects: Sequence[Object]) -> None:
    """Have objects made, or changed."""
    several = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    # On the server: otherwise the whole of a Secret would stand in an annotation of it.
    drill.kubectl("apply", "--server-side", "--filename=-", given=json.dumps(several))


def import_image(lab: Cluster, reference: str) -> None:
    """Have the node know an image of the sample service."""
    version, _, mode = reference.rpartition(":")[2].partition("-")
    if lab.image(version, mode) != reference:
        raise SystemExit(f"{reference} is no image of the sample service")


def write_inventory(root: Path, scene: Scene, places: dict[str, dict[str, Any]]) -> None:
    """Write hosts.yml beside links to the shipped profile: Ansible reads host_vars and group_vars from there."""
    document: dict[str, Any] = {"all": {"hosts": places}}
    if scene.inventory:
        shipped = ROOT / "inventories" / scene.inventory
        document = yaml.safe_load((shipped / "hosts").read_text(encoding="utf-8"))
        hosts = document["all"]["hosts"]
        document["all"]["hosts"] = {name: {**(hosts[name] or {}), **own} for name, own in places.items()}
        for folder in ("host_vars", "group_vars"):
            (root / folder).symlink_to(shipped / folder)
    (root / "hosts.yml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def robot(drill: Drill, lab: Cluster, level: int) -> Path:
    """Make a user with the rights that ship for a level, and those that READMEs name; return its kubeconfig."""
    shipped = [
        document
        for number in range(1, level + 1)
        for document in yaml.safe_load((RIGHTS / f"level{number}.yml").read_text(encoding="utf-8"))["items"]
        if document["kind"] == "Role" and "finalize" not in document["metadata"]["name"]
    ]
    version = "rbac.authorization.k8s.io/v1"
    roles = [*shipped, {"apiVersion": version, "kind": "Role", "metadata": {"name": "further"}, "rules": FURTHER}]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "rollbackctl"}}
    bindings = [
        {
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": {"name": role["metadata"]["name"]},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": "rollbackctl", "namespace": drill.namespace}],
        }
        for role in roles
    ]
    apply(drill, [account, *roles, *bindings])
    token = drill.kubectl("create", "token", "rollbackctl", "--duration=1h").strip()
    settings = json.loads(lab.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    settings["users"] = [{"name": "rollbackctl", "user": {"token": token}}]
    settings["contexts"][0]["context"]["user"] = "rollbackctl"
    path = drill.root / "rollbackctl.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def release(
    drill: Drill, name: str, version: str, *, mode: str = "", environment: Sequence[str] = (), wait: bool = True
) -> None:
    """Deploy another version to a Deployment, as a pipeline does."""
    reference = cluster().image(version, mode)
    container: dict[str, Any] = {"name": name, "image": reference}
    if environment:
        container["env"] = [dict(zip(("name", "value"), pair.split("=", 1), strict=True)) for pair in environment]
    patch = {
        "metadata": {"annotations": {CAUSE: f"release {version}"}},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    drill.kubectl("patch", "deployment", name, f"--patch={json.dumps(patch)}")
    if wait:
        drill.kubectl("rollout", "status", f"deployment/{name}", ROLLOUT)


def main(words: Sequence[str] | None = None) -> int:
    """Do one thing; return the exit code."""
    options = _arguments(words)
    _COMMANDS[options.command](options)
    return 0


def _make(options: argparse.Namespace) -> None:
    scene = SCENES[options.scene](*options.which)
    more = {name: yaml.safe_load(value) for name, value in (pair.split("=", 1) for pair in options.set)}
    make(options.root, scene, rights=options.rights, more=more)


def _release(options: argparse.Namespace) -> None:
    drill = Drill(options.root)
    for name in options.names:
        release(
            drill, name, options.version, mode=options.mode, environment=options.environment, wait=not options.no_wait
        )


def _release_all(options: argparse.Namespace) -> None:
    """Deploy another version to each Deployment of fifty, as one pipeline."""
    drill = Drill(options.root)
    apply(drill, fifty(options.version).objects)
    drill.kubectl("rollout", "status", "deployment", ANY, ROLLOUT)


def _settings(options: argparse.Namespace) -> None:
    """Change the settings of catalytic, or of some services of syriamart."""
    changed = [syriamart_settings(name, good=False) for name in options.names] or catalytic_settings(good=False)
    apply(Drill(options.root), changed)


def _errors(options: argparse.Namespace) -> None:
    """Have a service answer so many requests with errors, each of which is a line in a pod's log, and no more."""
    drill = Drill(options.root)
    drill.tell(options.host, "errors")
    for _ in range(options.count):
        if drill.ask(options.host)["status"] != http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise SystemExit(f"{options.host} does not fail as it was told to")
    drill.tell(options.host, "ok")


def _controller(options: argparse.Namespace) -> None:
    """Run a playbook on another controller: a host name, a home and records of its own. It may be killed half-way."""
    home = options.root / options.name
    home.mkdir(exist_ok=True)
    mark = home / "paused"
    environment = {**os.environ, "HOME": str(home), "ROLLBACKCTL_RECORDS": str(home / "records")}
    if options.kill_at:
        environment["ROLLBACKCTL_FAILPOINT"] = f"{options.kill_at}:pause={mark}"
    become_host(options.name)
    program = Path(sys.executable).parent / "ansible-playbook"
    argv = [program, "--inventory", options.root / "hosts.yml", "--limit", "all", *options.words]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment)
    while options.kill_at and not mark.exists() and process.poll() is None:
        time.sleep(0.02)
    if options.kill_at and mark.exists():
        process.kill()
    code = process.wait()
    if code != (-signal.SIGKILL if options.kill_at else 0):
        raise SystemExit(f"ansible-playbook ended with {code}")


def become_host(name: str) -> None:
    """Give this process, and those that it starts, another host name."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x04000000) != 0:  # CLONE_NEWUTS, unshare(2)
        raise OSError(ctypes.get_errno(), "unshare")
    socket.sethostname(name)


def _outlast(options: argparse.Namespace) -> None:
    """Wait until the lease of whoever is gone has ended by itself."""
    spec = Drill(options.root).get("lease", f"rollbackctl-{options.host}")["spec"]
    renewed = datetime.fromisoformat(spec["renewTime"])
    left = (renewed - datetime.now(UTC)).total_seconds() + spec["leaseDurationSeconds"]
    time.sleep(max(0.0, left) + 1.0)


def _kubectl(options: argparse.Namespace) -> None:
    print(Drill(options.root).kubectl(*options.words), end="")


def _canary(options: argparse.Namespace) -> None:
    drill = Drill(options.root)
    made = deployment(
        f"{options.name}-canary", options.version, labels={"app": options.name, "version": "canary"}, replicas=1
    )
    reference = cluster().image(options.version, options.mode)
    made["spec"]["template"]["spec"]["containers"][0]["image"] = reference
    apply(drill, [made])
    drill.kubectl("rollout", "status", f"deployment/{options.name}-canary", ROLLOUT)


def _look(options: argparse.Namespace) -> None:
    (options.root / "looks").mkdir(exist_ok=True)
    path = options.root / "looks" / f"{options.label}.json"
    path.write_text(json.dumps(Drill(options.root).look()), encoding="utf-8")


def _note(options: argparse.Namespace) -> None:
    newest = max((options.root / options.of / "records").glob("rb-*.json"), key=lambda path: path.name)
    run = json.loads(newest.read_text(encoding="utf-8"))["run"]
    (options.root / f"{options.label}.run").write_text(run, encoding="ascii")


def _client(options: argparse.Namespace) -> None:
    """Start a client in the background; it ends by itself when the drill's folder goes."""
    argv = [sys.executable, str(Path(__file__).resolve()), "--root", str(options.root), "ask", options.host]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(argv, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def _ask(options: argparse.Namespace) -> None:
    """Keep asking, each time on a new connection: an open one would stay with its pod."""
    address = urlsplit(Drill(options.root).about["urls"][options.host]).netloc
    about = options.root / "about.json"
    with (options.root / f"{options.host}.asked").open("w", encoding="utf-8", buffering=1) as file:
        while about.exists():
            file.write(json.dumps(vars(_once(address))) + "\n")
            time.sleep(ASK_SECONDS)


def _once(address: str) -> Asked:
    began, clock, status, version = time.time(), time.monotonic(), 0, ""
    connection = http.client.HTTPConnection(address, timeout=ASK_PATIENCE_SECONDS)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/version")
        answer = connection.getresponse()
        answer.read()
        status, version = answer.status, str(answer.getheader("X-Version", ""))
    connection.close()
    return Asked(began, time.monotonic() - clock, status, version)


def _remove(options: argparse.Namespace) -> None:
    if (options.root / "about.json").exists() and cluster().running():
        namespace = Drill(options.root).namespace
        cluster().kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")
    shutil.rmtree(options.root, ignore_errors=True)


_COMMANDS = {
    "make": _make,
    "release": _release,
    "release-all": _release_all,
    "settings": _settings,
    "errors": _errors,
    "controller": _controller,
    "outlast": _outlast,
    "kubectl": _kubectl,
    "canary": _canary,
    "look": _look,
    "note": _note,
    "client": _client,
    "ask": _ask,
    "remove": _remove,
}


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder in which all about the drill is")
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("make", help="make a namespace with healthy services in it")
    made.add_argument("scene", choices=sorted(SCENES))
    made.add_argument("which", nargs="*", help="of syriamart: some of the four services; of the others: a version")
    made.add_argument("--rights", type=int, default=0, help="the level whose shipped Roles say what runs may do")
    made.add_argument("--set", action="append", default=[], help="NAME=VALUE: one more variable of the place")
    released = commands.add_parser("release", help="deploy a version")
    released.add_argument("names", nargs="+")
    released.add_argument("--environment", action="append", default=[], help="NAME=VALUE of the container")
    released.add_argument("--no-wait", action="store_true", help="do not wait until it is rolled out")
    canary = commands.add_parser("canary", help="deploy a version to one more pod, beside a service")
    canary.add_argument("name")
    for parsed in (released, canary):
        parsed.add_argument("--version", required=True)
        parsed.add_argument("--mode", default="", help="how it is broken (lab/kubernetes/sample)")
    commands.add_parser("release-all", help="of fifty: deploy a version").add_argument("--version", required=True)
    commands.add_parser("settings", help="change what pods read when they start").add_argument("names", nargs="*")
    failing = commands.add_parser(
        "errors", help="have a service fail so many requests, with a line in its log for each"
    )
    failing.add_argument("host")
    failing.add_argument("count", type=int)
    other = commands.add_parser("controller", help="run a playbook on another controller")
    other.add_argument("--kill-at", default="", help="a failpoint: the controller is killed there")
    other.add_argument("name")
    other.add_argument("words", nargs="+", help="as ansible-playbook takes them")
    commands.add_parser("outlast", help="wait until the lease of whoever is gone has ended").add_argument("host")
    commands.add_parser("kubectl", help="kubectl in the drill's namespace").add_argument("words", nargs="+")
    looked = commands.add_parser("look", help="write down all that is there")
    noted = commands.add_parser("note", help="write down the newest run's id")
    noted.add_argument("--of", default="", help="another controller's")
    for parsed in (looked, noted):
        parsed.add_argument("--as", dest="label", required=True)
    for name, text in (("client", "start a client that keeps asking a service"), ("ask", "be that client")):
        commands.add_parser(name, help=text).add_argument("host")
    commands.add_parser("remove", help="remove the namespace and everything about the drill")
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
