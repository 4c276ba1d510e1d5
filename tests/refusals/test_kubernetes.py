# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused for a service in Kubernetes; each time all objects of its namespace are as they were."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore

from lab.kubernetes.cluster import Cluster
from lab.kubernetes.drill import release
from lab.kubernetes.scenes import BAD, EARLIER, GOOD, rental, syriamart
from tests.support.kube import token_kubeconfig
from tests.support.kube_bench import KubeBench

LEVEL1 = "rollback-level1.yml"
NAME = "rental-api"
WORKLOAD = f"deployment/{NAME}"
MEANT = {"rollback_reason": "x", "rollback_confirm": NAME}


@pytest.fixture(scope="module")
def bench(lab_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeBench]:
    """One Deployment with a proven checkpoint, then a bad release. Nothing changes it, so it is made once."""
    assert lab_cluster.running()
    made = KubeBench(tmp_path_factory.mktemp("kubernetes"), rental(EARLIER))
    try:
        release(made.drill, NAME, GOOD)
        done = made.play("checkpoint.yml", rollback_reason="before the release")
        assert done.record.get("outcome") == "done", done.output
        release(made.drill, NAME, BAD, mode="errors")
        made.look()
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def meanwhile(bench: KubeBench, *words: str, back: tuple[str, ...]) -> Iterator[None]:
    """Change something by kubectl for a while: `unchanged` then means as changed."""
    bench.drill.kubectl(*words)
    bench.look()
    try:
        yield
    finally:
        bench.drill.kubectl(*back)
        bench.look()


def component(bench: KubeBench, **changes: Any) -> list[dict[str, Any]]:
    """Return the profile's component, changed."""
    path = bench.inventory / "host_vars" / f"{NAME}.yml"
    (known,) = yaml.safe_load(path.read_text(encoding="utf-8"))["rollback_kubernetes"]
    return [{**known, **changes}]


def test_without_a_checkpoint_the_candidates_are_listed(bench: KubeBench) -> None:
    service = {"name": "rental-new", "environment": "production"}
    hosts = bench.profile("new", rollback_service=service)
    ran = bench.play(LEVEL1, hosts=hosts, rollback_reason="x", rollback_confirm="rental-new")
    bench.refused(ran, f"no proven checkpoint to take {NAME} back to", "revision:2", "shop:1.4.0", "revision:1")


def test_a_revision_that_does_not_exist(bench: KubeBench) -> None:
    ran = bench.play(LEVEL1, **MEANT, rollback_to={NAME: "revision:99"})
    bench.refused(ran, "revision:99", "revision:3", "revision:2 (shop:1.4.0", "revision:1 (shop:1.3.0")


def test_a_form_that_nobody_knows(bench: KubeBench) -> None:
    ran = bench.play(LEVEL1, **MEANT, rollback_to={NAME: "yesterday"})
    bench.refused(ran, "'yesterday' names no version", "revision:NUMBER", "image:", "version:TAG")


def test_a_workload_that_is_not_there(bench: KubeBench) -> None:
    hosts = bench.profile("absent", rollback_kubernetes=component(bench, workloads=["deployment/rental-ap"]))
    bench.refused(bench.play(LEVEL1, hosts=hosts, **MEANT), "deployment/rental-ap does not exist in namespace")


def test_no_namespace_is_named(bench: KubeBench) -> None:
    hosts = bench.profile("nowhere", rollback_state={"kind": "kubernetes"})
    bench.refused(bench.play(LEVEL1, hosts=hosts, **MEANT), "rollback_state", "namespace")


def test_a_namespace_that_is_not_there(bench: KubeBench) -> None:
    state = {"kind": "kubernetes", "namespace": "no-such-place", "kubeconfig": "{{ rental_kubeconfig }}"}
    hosts = bench.profile("elsewhere", rollback_state=state)
    bench.refused(bench.play(LEVEL1, hosts=hosts, **MEANT), "no-such-place", "Is this the right cluster?")


def test_a_namespace_of_the_same_name_in_another_cluster(bench: KubeBench) -> None:
    uid = "00000000-0000-0000-0000-000000000000"
    service = {"name": NAME, "environment": "production", "identity": {"namespace_uid": uid}}
    hosts = bench.profile("impostor", rollback_service=service)
    found = bench.drill.about["uid"]
    bench.refused(bench.play(LEVEL1, hosts=hosts, **MEANT), uid, found, "This is another place")


def test_production_has_to_be_meant(bench: KubeBench) -> None:
    bench.refused(bench.play(LEVEL1, rollback_reason="x"), f"rollback_confirm={NAME}")


def test_a_run_that_is_under_way_names_who_holds_it(bench: KubeBench) -> None:
    store = bench.store(NAME)
    with store.locked():
        lease = store.acquire("rb-20260101-000000-beef", "anna", "another-controller", 4711, 60.0)
    try:
        ran = bench.play(LEVEL1, **MEANT)
        bench.refused(ran, "rb-20260101-000000-beef", "anna", "another-controller", "4711")
    finally:
        with store.locked():
            store.release(lease.run, lease.token)


def quarantine(store: KubernetesStore, combinations: list[dict[str, Any]]) -> None:
    """Write the list, as a run does: under its lease."""
    with store.locked():
        lease = store.acquire("rb-20260101-000000-cafe", "anna", "another-controller", 4711, 60.0)
        store.write_quarantine(combinations)
        store.release(lease.run, lease.token)


def test_a_quarantined_combination(bench: KubeBench) -> None:
    store = bench.store(NAME)
    (checkpoint,) = store.checkpoints()
    bad = {NAME: checkpoint["components"][NAME]["identity"]}
    entry = {"id": "q-1400", "since": "2026-11-01T00:00:00Z", "run": "rb-1", "reason": "lost orders", "texts": {}}
    quarantine(store, [{**entry, "combination": bad}])
    try:
        named = bench.play(LEVEL1, **MEANT, rollback_to={NAME: "version:1.4.0"})
        bench.refused(named, "quarantined as q-1400", "lost orders", "rollbackctl quarantine release q-1400")
        unnamed = bench.play(LEVEL1, **MEANT)
        bench.refused(unnamed, f"no proven checkpoint to take {NAME} back to")
    finally:
        quarantine(store, [])


def test_what_argo_cd_owns_is_refused_unless_it_is_paused_there(bench: KubeBench) -> None:
    label = "argocd.argoproj.io/instance"
    with meanwhile(bench, "label", WORKLOAD, f"{label}=rental", back=("label", WORKLOAD, f"{label}-")):
        bench.refused(bench.play(LEVEL1, **MEANT), "Argo CD", "gitops: paused")
        hosts = bench.profile("paused", rollback_kubernetes=component(bench, gitops="paused"))
        looked = bench.play(LEVEL1, "--check", hosts=hosts, **MEANT)
        assert looked.record["outcome"] == "done", looked.said
        bench.unchanged()


def test_a_workload_that_somebody_changed_meanwhile_is_left_alone(bench: KubeBench) -> None:
    """Between the plan and the change a colleague deploys a hotfix."""
    back = ("set", "env", WORKLOAD, "SHOP_HOTFIX-")
    try:
        with bench.paused("rollback_kubernetes.patch.before", LEVEL1, **MEANT) as (process, mark):
            bench.drill.kubectl("set", "env", WORKLOAD, "SHOP_HOTFIX=1")
            bench.drill.kubectl("rollout", "status", WORKLOAD, "--timeout=90s")
            bench.look()
            mark.unlink()
            ran = bench.end(process)
        assert ran.code != 0, ran.output
        assert ran.record["outcome"] != "done", ran.said
        assert "was changed by somebody else in this very moment; it was left as it is" in ran.said
        bench.unchanged()
    finally:
        bench.drill.kubectl(*back)
        bench.drill.kubectl("rollout", "status", WORKLOAD, "--timeout=90s")
        bench.look()


def test_a_right_that_is_missing_is_named(bench: KubeBench, lab_cluster: Cluster, tmp_path: Path) -> None:
    """All rights but to change the Deployment."""
    rules: list[dict[str, Any]] = [
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods", "services", "configmaps", "services/proxy"], "verbs": ["*"]},
        {"apiGroups": ["apps"], "resources": ["deployments", "replicasets"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["*"]},
    ]
    kubeconfig = token_kubeconfig(lab_cluster, bench.drill.namespace, rules, tmp_path)
    bench.look()
    state = {"kind": "kubernetes", "namespace": bench.drill.namespace, "kubeconfig": str(kubeconfig)}
    ran = bench.play(LEVEL1, hosts=bench.profile("weak", rollback_state=state), **MEANT)
    bench.refused(ran, "may not patch", "deployments", NAME)


def test_an_option_that_nobody_knows(bench: KubeBench) -> None:
    hosts = bench.profile("typing", rollback_kubernetes=component(bench, workload="deployment/rental-api"))
    bench.refused(bench.play(LEVEL1, hosts=hosts, **MEANT), "rollback_kubernetes", "workload")


def test_roles_of_another_kind_of_state(bench: KubeBench, tmp_path: Path) -> None:
    """Both at once in a service of each kind: the whole list is said."""
    files = [{"name": "static", "path": "/srv/rental/static"}]
    git = [{"name": "code", "repository": "/srv/rental", "branch": "main"}]
    hosts = bench.profile("mixed", restore_files=files, rollback_git=git)
    ran = bench.play(LEVEL1, hosts=hosts, **MEANT)
    bench.refused(
        ran,
        "restore_files needs rollback_state.kind directory; this service's is kubernetes",
        "rollback_git needs rollback_state.kind directory; this service's is kubernetes",
    )
    there = bench.profile("directory", rollback_state={"kind": "directory", "path": str(tmp_path / "state")})
    ran = bench.play(LEVEL1, hosts=there, **MEANT)
    bench.refused(ran, "rollback_kubernetes needs rollback_state.kind kubernetes; this service's is directory")
    assert not (tmp_path / "state").exists()


def test_a_run_that_goes_on_leaves_alone_what_somebody_else_deployed(
    lab_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The controller dies in the middle; before the run is resumed, a colleague deploys another release."""
    assert lab_cluster.running()
    bench = KubeBench(tmp_path_factory.mktemp("other"), rental())
    try:
        done = bench.play("checkpoint.yml", rollback_reason="before the release")
        assert done.record.get("outcome") == "done", done.output
        release(bench.drill, NAME, BAD, mode="errors")
        with bench.paused("rollback_kubernetes.patch.after", LEVEL1, **MEANT) as (process, _):
            process.kill()
            process.wait()
        run = bench.record_of(process.pid)["run"]
        release(bench.drill, NAME, "1.6.0")
        bench.look()
        ran = bench.play(LEVEL1, **MEANT, rollback_run=run)
        assert ran.code != 0, ran.output
        assert ran.record["outcome"] not in {"done", "already"}, ran.said
        assert "reads as deployment/rental-api shop:1.6.0" in ran.said
        assert "Somebody else changed it" in ran.said
        bench.unchanged()
        new = bench.play(LEVEL1, **MEANT)
        assert new.record["outcome"] == "done", f"a new run knows the present state: {new.said}"
    finally:
        bench.remove()


def test_one_of_several_services_refuses_and_none_is_changed(
    lab_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Order-service could be put back; user-service belongs to Flux."""
    assert lab_cluster.running()
    scene = syriamart("user-service", "order-service")
    bench = KubeBench(tmp_path_factory.mktemp("several"), scene, environment="staging")
    try:
        done = bench.play("checkpoint.yml", rollback_reason="before the release")
        assert done.record.get("outcome") == "done", done.output
        for name in scene.services:
            release(bench.drill, name, BAD, mode="errors")
        bench.drill.kubectl("label", "deployment", "user-service", "kustomize.toolkit.fluxcd.io/name=market")
        bench.look()
        ran = bench.play(LEVEL1, rollback_reason="x")
        bench.refused(ran, "deployment/user-service belongs to Flux")
        outcomes = {name: one["outcome"] for name, one in ran.record["services"].items()}
        assert outcomes == {"user-service": "refused", "order-service": "refused"}
        assert not ran.record["services"]["order-service"]["problems"]
        leases = json.loads(bench.drill.kubectl("get", "leases", "--output=json"))["items"]
        assert [lease["spec"].get("holderIdentity", "") for lease in leases] == ["", ""]
    finally:
        bench.remove()
