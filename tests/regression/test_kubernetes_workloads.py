# SPDX-License-Identifier: GPL-3.0-or-later
"""What was wrong in the written runbooks about workloads in Kubernetes, each proven not to be wrong here.

The runbooks' own commands are run first, by the lab's kubectl on the same cluster: what they did is not made up. The
numbers are those of docs/acceptance.md.
"""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_objects import image_text

from lab.kubernetes.cluster import Cluster, LabError
from tests.faults.harness import Died
from tests.support.kube_service import BAD, GOOD, KubeService


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """A Deployment whose good version has a proven checkpoint, and whose bad one runs."""
    found = KubeService(lab_cluster, admin, namespace)
    found.make()
    found.serve()
    found.checkpoint()
    found.deploy()
    return found


def kubectl(service: KubeService, *words: str) -> str:
    return service.lab.kubectl("--namespace", service.namespace, *words)


def image(service: KubeService, workload: str = "deployment/api") -> str:
    return image_text(service.get(workload)["spec"]["template"])


def test_b1_the_current_revision_is_not_the_previous_one(service: KubeService) -> None:
    """`rollout history | tail -2 | head -1` picks the current revision, and undoing to it succeeds and does nothing."""
    history = kubectl(service, "rollout", "history", "deployment/api").split("\n")
    picked = history[-3:][0].split()[0]  # tail -2 | head -1: the output ends with an empty line
    assert picked == service.get()["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    said = kubectl(service, "rollout", "undo", "deployment/api", f"--to-revision={picked}")
    assert "skipped rollback" in said
    assert image(service) == "shop:1.5.0", "with exit code 0"

    named = service.run(to=f"revision:{picked}")
    assert named.outcome == "already", "the word says that nothing was put back"
    assert any(f"revision:{picked} (shop:1.5.0" in note and "live)" in note for note in named.notes())
    assert service.run().outcome == "done"
    assert image(service) == "shop:1.4.0"


def test_b2_a_paused_rollout_is_put_back(service: KubeService) -> None:
    """`rollout pause`, as the runbook begins, makes kubectl refuse the undo that comes next."""
    kubectl(service, "rollout", "pause", "deployment/api")
    with pytest.raises(LabError, match="cannot rollback a paused deployment"):
        kubectl(service, "rollout", "undo", "deployment/api")
    ended = service.run()
    assert ended.outcome == "done", ended
    assert service.version() == GOOD


def test_b3_no_command_that_does_not_exist_is_needed(service: KubeService) -> None:
    """`kubectl rollback undo` is none. The way here asks the API, and kubectl need not be there at all."""
    command = [str(service.lab.bin / "kubectl"), "rollback", "undo", "deployment/api", "--to-revision=1"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'unknown command "rollback"' in asked.stderr
    code = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "rollbackctl"
    callers = [path.name for path in code.glob("kube_*.py") if "subprocess" in path.read_text(encoding="utf-8")]
    assert callers == ["kube_exec.py"], "which starts what a kubeconfig names to log in"
    assert service.run(to="revision:1").outcome == "done"
    assert service.version() == GOOD


def test_b17_the_bad_version_stays_as_evidence_and_as_the_way_forward(service: KubeService) -> None:
    """The runbook deletes the bad Deployment right after the switch."""
    bad = {name for name in service.objects() if name.startswith("replicasets/")}
    done = service.run()
    assert done.outcome == "done", done
    assert {name for name in service.objects() if name.startswith("replicasets/")} == bad
    assert service.run("undo", named=done.run).outcome == "done"
    assert service.version() == BAD


def test_b22_configuration_and_template_are_one_rollout(service: KubeService) -> None:
    """`rollout undo` and then `rollout restart`: two rollouts, and two entries in the history."""
    maps = f"/api/v1/namespaces/{service.namespace}/configmaps"
    service.admin.create(maps, {"metadata": {"name": "app"}, "data": {"level": "good"}})
    settings = {"name": "settings", "configmaps": ["app"]}
    service.component["config"] = "settings"
    roles = {"restore_kubernetes_config": [settings], "rollback_kubernetes": [service.component]}
    service.run(to="revision:1")
    service.checkpoint(roles=roles)
    service.deploy()
    service.admin.merge_patch(f"{maps}/app", {"data": {"level": "bad"}})
    with service.seen() as states:
        ended = service.run(roles=roles)
    assert ended.outcome == "done", ended
    generations = [one["metadata"]["generation"] for one in states]
    assert generations[-1] == generations[0] + 1, "one change of the Deployment"
    assert (image(service), service.version()) == ("shop:1.4.0", GOOD)
    assert service.admin.get(f"{maps}/app")["data"] == {"level": "good"}

    service.admin.merge_patch(f"{maps}/app", {"data": {"level": "bad"}})
    (before,) = service.pods(app="api")
    ended = service.run(roles=roles)  # the same template: only what the pods read was bad
    assert ended.outcome == "done", ended
    (after,) = service.pods(app="api")
    assert after["metadata"]["uid"] != before["metadata"]["uid"], "a new pod, which has read what is good"


@pytest.mark.parametrize("killed", [False, True])
def test_b24_no_new_pod_before_the_last_old_one_has_ended(service: KubeService, killed: bool) -> None:  # noqa: FBT001
    """Scaled to 0 and not waited for, the old version still writes while its data is put back. Its pods take their time
    to end here: they are waited for, also by the run that goes on after a kill, and so is the rollout."""
    service.component["strategy"] = "recreate"
    service.deploy(env={"DRAIN_MS": "3000"}, wait=False)
    service.edit(
        "deployment/api", {"op": "replace", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": 8}
    )
    service.wait()
    both, over = [], threading.Event()
    path = f"/api/v1/namespaces/{service.namespace}/pods"
    service.until(lambda: len(service.admin.list(path)) == 1)  # the releases before have ended

    def look() -> None:
        while not over.wait(0.05):
            found = {image_text(pod) for pod in service.admin.list(path) if pod["status"].get("phase") == "Running"}
            both.extend([found] if len(found) > 1 else [])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        if killed:
            with pytest.raises(Died) as died:
                service.run(failpoint="rollback_kubernetes.scale.after:kill")
            ended = service.run(named=died.value.run)
        else:
            ended = service.run()
    finally:
        over.set()
        watcher.join()
    assert ended.outcome == "done", ended
    assert both == [], "two versions at once"
    assert (service.version(), len(service.pods(app="api"))) == (GOOD, 1)


def commands() -> set[str]:
    """Return the command lines of all processes of this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_b27_no_port_forward_is_left_behind(service: KubeService) -> None:
    """The runbook starts `kubectl port-forward` in the background and never ends it. The Service is asked through the
    API server here, and no process is started for it."""
    ended = service.run()
    assert ended.outcome == "done", ended
    assert service.component["answer"], "the version was asked for"
    assert not [one for one in commands() if service.namespace in one]
