# SPDX-License-Identifier: GPL-3.0-or-later
"""Held against `kubectl rollout undo`: the same histories, on the same cluster, put back by the lab's kubectl and here.

What was measured stands in docs/kubernetes.md. ROLLBACKCTL_WRITE_DOCS=1 writes it there anew; otherwise the page must
say just what is measured now.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_objects import images
from ansible.module_utils.rollbackctl.kube_rollout import pod_failure

from lab.kubernetes.cluster import Cluster, LabError
from tests.support.kube import certificate_authority, fresh_namespace, token_kubeconfig
from tests.support.kube_proxy import FaultProxy, Request
from tests.support.kube_service import BAD, GOOD, OTHERS, Ended, KubeService
from tests.unit.module_utils.kube_server import Keys

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
WRITE = "ROLLBACKCTL_WRITE_DOCS"
HEAD = "| history | `kubectl rollout undo` | rollbackctl |\n|---|---|---|"
_PART = re.compile(r"(<!-- measured: undo -->\n).*?(<!-- end -->)", re.DOTALL)

THEIRS = "1.3.0"
WORDS = {
    GOOD: "the good version",
    BAD: "the bad version",
    THEIRS: "the colleague's version",
    "none": "the one without image",
}
EVERYTHING = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
NODES = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]


@dataclass
class Case:
    """A history, made twice. to: what is named, for kubectl and for us. after: what else is looked at, afterwards."""

    make: Callable[[KubeService], None]
    workload: str = "deployment/api"
    to_revision: str = ""
    to: str = ""
    undo_first: bool = False
    meanwhile: bool = False
    after: Callable[[KubeService], str] | None = None


def asks_for(service: KubeService, workload: str) -> str:
    """Return in words which version a workload asks for."""
    (image,) = images(service.get(workload)["spec"]["template"]).values()
    return WORDS[image.rpartition(":")[2]]


def by_kubectl(service: KubeService, case: Case, proxy: FaultProxy, folder: Path) -> str:
    """Put it back as a person would, and return in words what came of it."""
    words = ["--namespace", service.namespace, "rollout", "undo", case.workload]
    words += [f"--to-revision={case.to_revision}"] if case.to_revision else []
    if case.undo_first:
        service.lab.kubectl(*words)
        service.wait(case.workload)
    if case.meanwhile:
        words = ["--kubeconfig", str(through(service, proxy, folder)), *words]
        meanwhile(service, proxy)
    try:
        said, code = service.lab.kubectl(*words).strip(), 0
    except LabError as error:
        said, code = str(error).removeprefix("error: "), 1
    said = said.removeprefix(f"{case.workload.partition('/')[0]}.apps/{case.workload.partition('/')[2]} ")
    extra = f"; {case.after(service)}" if case.after else ""
    return f'exit code {code}, "{said}"; it asks for {asks_for(service, case.workload)}{extra}'


def by_us(service: KubeService, case: Case, proxy: FaultProxy, folder: Path) -> str:
    """Put it back by a run of the engine, and return in words what came of it."""
    if case.undo_first:
        assert service.run().outcome == "done"
    if case.meanwhile:
        service.kubeconfig = through(service, proxy, folder)
        meanwhile(service, proxy)
    before = service.objects()
    ended = service.run(to=case.to)
    if ended.outcome in {"refused", "already"}:
        assert service.objects() == before
    extra = f"; {case.after(service)}" if case.after else ""
    return f"`{ended.outcome}`{why(ended)}; it asks for {asks_for(service, case.workload)}{extra}"


def why(ended: Ended) -> str:
    """Return what a run said, in words without names and times."""
    known = {
        "There is no proven checkpoint": "there is no proven checkpoint, it says how to name a version",
        "there is no revision:": "there is no such revision, it lists those that there are",
        "was changed by somebody else in this very moment": "somebody else changed it in this very moment",
        "does not replace pod": "it names the broken pod that Kubernetes does not replace, and the command",
        "will not roll out": "the version does not start, it says why and what else there is",
    }
    found = [words for part, words in known.items() if part in ended.message]
    assert len(found) == (ended.outcome not in {"done", "already"}), ended
    return f": {found[0]}" if found else ""


def through(service: KubeService, proxy: FaultProxy, folder: Path) -> Path:
    """Return a kubeconfig that leads through the proxy. kubectl shows its token to nobody but by TLS."""
    path = token_kubeconfig(service.lab, service.namespace, EVERYTHING, folder, server=proxy.url, cluster_rules=NODES)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    authority = base64.b64encode((folder / "ca.crt").read_bytes()).decode()
    settings["clusters"][0]["cluster"]["certificate-authority-data"] = authority
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def meanwhile(service: KubeService, proxy: FaultProxy) -> None:
    """Have a colleague deploy after the object was read, and before it is written."""

    def deploy(_request: Request) -> None:
        service.deploy(version=THEIRS, cause="a colleague's", wait=False)

    proxy.add("/deployments/api(\\?(?!.*dryRun).*)?$", "PATCH", call=deploy)


# -- histories --------------------------------------------------------------------------------------------------------


def good(service: KubeService, workload: str = "deployment/api", **made: object) -> None:
    """Make the good version, and take a checkpoint of it."""
    name = workload.partition("/")[2]
    service.component.update(workloads=[workload], service=name)
    service.make(workload, **made)  # type: ignore[arg-type] # handed on as it is
    service.serve(name)
    service.checkpoint()


def one_revision(service: KubeService) -> None:
    service.make(version=BAD, cause="release 1.5.0")
    service.serve()


def two(service: KubeService) -> None:
    good(service)
    service.deploy()


def pruned(service: KubeService) -> None:
    good(service, spec={"revisionHistoryLimit": 0})
    service.deploy()
    path = f"/apis/apps/v1/namespaces/{service.namespace}/replicasets"
    service.until(lambda: len(service.admin.list(path)) == 1)


def paused(service: KubeService) -> None:
    two(service)
    service.edit("deployment/api", {"op": "add", "path": "/spec/paused", "value": True})


def same_twice(service: KubeService) -> None:
    two(service)
    service.deploy(version=GOOD, cause="release 1.4.0 again")


def shared_label(service: KubeService) -> None:
    good(service, labels={"app": "api", "part": "a"})
    service.make("deployment/twin", THEIRS, labels={"app": "api", "part": "b"}, wait=False)
    service.edit("services/api", {"op": "add", "path": "/spec/selector/part", "value": "a"})
    service.wait("deployment/twin")
    service.deploy()


def annotated(service: KubeService) -> None:
    two(service)
    notes = {**service.get()["metadata"]["annotations"], "example.com/on-call": "team-b"}
    service.edit("deployment/api", {"op": "replace", "path": "/metadata/annotations", "value": notes})


def notes_are(service: KubeService) -> str:
    kept = service.get()["metadata"]["annotations"]
    assert kept.items() >= OTHERS.items()
    return "the annotation that others made since is " + ("kept" if "example.com/on-call" in kept else "lost")


def stateful(service: KubeService) -> None:
    good(service, "statefulset/db")
    service.deploy("statefulset/db")


def stateful_broken(service: KubeService) -> None:
    good(service, "statefulset/db")
    service.deploy("statefulset/db", image=f"{service.lab.image(GOOD).rpartition(':')[0]}:none", wait=False)
    service.until(lambda: pod_failure(service.pods(app="db")[0]))


def pod_is(service: KubeService) -> str:
    (pod,) = service.pods(app="db")
    (image,) = images({"spec": pod["spec"]}).values()
    return f"its pod is of {WORDS[image.rpartition(':')[2]]}"


def daemon(service: KubeService) -> None:
    good(service, "daemonset/agent")
    service.deploy("daemonset/agent")


def not_startable(service: KubeService) -> None:
    service.make(image=f"{service.lab.image(GOOD).rpartition(':')[0]}:none", wait=False)
    service.serve()
    service.deploy()


CASES: dict[str, Case] = {
    "only one revision": Case(one_revision),
    "the good revision was pruned (`revisionHistoryLimit`)": Case(pruned),
    "the rollout is paused": Case(paused),
    "undone already, and once more": Case(two, undo_first=True),
    "the same template twice: good, bad, good again": Case(same_twice),
    "... and the good one by its first number": Case(same_twice, to_revision="1", to="revision:1"),
    "by the number of what runs now": Case(two, to_revision="2", to="revision:2"),
    "two applications share a label": Case(shared_label),
    "others have annotated it since": Case(annotated, after=notes_are),
    "a StatefulSet": Case(stateful, "statefulset/db"),
    "a StatefulSet whose bad pod never starts (no image)": Case(stateful_broken, "statefulset/db", after=pod_is),
    "a DaemonSet": Case(daemon, "daemonset/agent"),
    "the older revision does not start (no image)": Case(not_startable, to_revision="1", to="revision:1"),
    "a colleague deploys between read and write": Case(two, meanwhile=True),
}


def rows(text: str) -> dict[str, str]:
    """Return the rows of the page's table by their first cell."""
    part = _PART.search(text)
    assert part is not None, f"{PAGE.name} has no measured part"
    lines = [line for line in part[0].splitlines() if line.startswith("|")][2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def write(name: str, row: str) -> None:
    """Put a row into the page's table, in the order of the cases."""
    text = PAGE.read_text(encoding="utf-8")
    found = {**rows(text), name: row}
    table = "\n".join([HEAD, *(found[case] for case in CASES if case in found)])
    PAGE.write_text(_PART.sub(lambda part: f"{part[1]}\n{table}\n\n{part[2]}", text), encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_what_each_does_is_what_the_page_says(lab_cluster: Cluster, admin: Client, tmp_path: Path, name: str) -> None:
    identity = Keys(tmp_path).make("proxy", "proxy", ["127.0.0.1"])

    def measure(put_back: Callable[[KubeService, Case, FaultProxy, Path], str]) -> str:
        proxy = FaultProxy(lab_cluster.server, certificate_authority(lab_cluster), identity=identity)
        with fresh_namespace(admin, "undo") as namespace, proxy:
            service = KubeService(lab_cluster, admin, namespace)
            CASES[name].make(service)
            return put_back(service, CASES[name], proxy, tmp_path)

    with ThreadPoolExecutor(1) as pool:  # each mostly waits for its pods; a run wants to be in the main thread
        beside = pool.submit(measure, by_kubectl)
        ours = measure(by_us)
        theirs = beside.result()
    row = f"| {name} | {theirs} | {ours} |"
    if os.environ.get(WRITE):
        write(name, row)
    assert rows(PAGE.read_text(encoding="utf-8"))[name] == row, f"{WRITE}=1 writes it anew"


def test_the_page_has_a_row_for_each_history_and_none_besides() -> None:
    assert list(rows(PAGE.read_text(encoding="utf-8"))) == list(CASES)
