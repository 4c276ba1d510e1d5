# SPDX-License-Identifier: GPL-3.0-or-later
"""Pod templates put back in a real cluster, by runs of the engine: what works, what is refused, what fails and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import kube_retry
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError
from ansible.module_utils.rollbackctl.kube_objects import image_text, template_hash
from ansible.module_utils.rollbackctl.kube_patch import FAST, HELD
from ansible.module_utils.rollbackctl.kube_rollout import progress

from lab.kubernetes.cluster import Cluster, LabError
from tests.faults.harness import Died
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import FaultProxy, Request
from tests.support.kube_service import BAD, CAUSE, GOOD, OTHERS, Ended, KubeService

PAUSED = {"op": "add", "path": "/spec/paused", "value": True}


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """Nothing is made yet."""
    return KubeService(lab_cluster, admin, namespace)


def running(service: KubeService, **made: Any) -> KubeService:
    """Make the service with its good version, and a proven checkpoint of it."""
    service.make(**made)
    service.serve()
    service.checkpoint()
    return service


def image(service: KubeService, workload: str = "deployment/api") -> str:
    return image_text(service.get(workload)["spec"]["template"])


def outside_template(item: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of an object that a run must leave as it is."""
    spec = {key: value for key, value in item["spec"].items() if key not in {"template", "paused"}}
    kept = {key: item["metadata"].get(key) for key in ("labels", "finalizers", "ownerReferences", "name", "uid")}
    ours = {CAUSE, "deployment.kubernetes.io/revision"}
    notes = {key: value for key, value in item["metadata"]["annotations"].items() if key not in ours}
    return {"spec": spec, "annotations": notes, **kept}


def refused(service: KubeService, words: str, **run: Any) -> Ended:
    """Make a run that must be refused: nothing of the namespace is touched."""
    before = service.objects()
    ended = service.run(**run)
    assert ended.outcome == "refused", ended
    assert words in ended.message, ended.message
    assert service.objects() == before
    return ended


# -- there and back ---------------------------------------------------------------------------------------------------


def test_there_again_and_forward(service: KubeService) -> None:
    """K6, K22: a rollback, the same once more, undone; another deploy of the bad one is gone back from again."""
    running(service, replicas=2)
    before = service.get()
    service.deploy()
    assert service.version() == BAD
    ended = service.run()
    assert ended.outcome == "done", ended
    assert service.version() == GOOD
    assert template_hash(service.get()["spec"]["template"]) == template_hash(before["spec"]["template"])
    assert outside_template(service.get()) == outside_template(before)
    assert service.get()["metadata"]["annotations"][CAUSE] == "release 1.4.0"
    unchanged = service.get()["metadata"]["generation"]
    assert service.run().outcome == "already"
    assert service.get()["metadata"]["generation"] == unchanged
    forward = service.run("undo", named=ended.run)
    assert forward.outcome == "done", forward
    assert (service.version(), service.get()["metadata"]["annotations"][CAUSE]) == (BAD, "release 1.5.0")
    back = service.run()
    assert back.outcome == "done", back
    refused(service, "quarantined", to="version:1.5.0")
    assert (service.version(), outside_template(service.get())) == (GOOD, outside_template(before))


@pytest.mark.parametrize(("kind", "name"), [("statefulset", "db"), ("daemonset", "agent")])
def test_stateful_sets_and_daemon_sets(service: KubeService, kind: str, name: str) -> None:
    workload = f"{kind}/{name}"
    service.component.update(workloads=[workload], service=name)
    service.make(workload, env={"SHOP_LEVEL": "1"})
    service.serve(name)
    service.checkpoint()
    service.deploy(workload, GOOD, env={"SHOP_LEVEL": "2"})  # the same image: only the environment tells them apart
    ended = service.run()
    assert ended.outcome == "done", ended
    changes = "template.spec.containers[0].env[1].value"
    assert f"{workload} keeps its images; what changes: {changes}" in ended.notes()
    assert service.get(workload)["spec"]["template"]["spec"]["containers"][0]["env"][-1]["value"] == "1"
    (pod,) = service.pods(app=name)
    assert pod["spec"]["containers"][0]["env"][-1]["value"] == "1"
    service.deploy(workload)
    assert service.run(to="revision:4").outcome == "already"
    assert service.run(to="revision:3").outcome == "done", "of its history, where the undone one has a new number"
    assert image(service, workload) == "shop:1.4.0"


def test_several_workloads_at_once_by_one_form_for_each(service: KubeService) -> None:
    names = ["api", "worker"]
    service.component.update(workloads=[f"deployment/{name}" for name in names])
    for name in names:
        service.make(f"deployment/{name}")
    service.make("statefulset/db", wait=False)
    service.serve()
    for name in names:
        service.deploy(f"deployment/{name}")
    ended = service.run(to="deployment/api=version:1.4.0, deployment/worker=revision:1")
    assert ended.outcome == "done", ended
    assert [image(service, f"deployment/{name}") for name in names] == ["shop:1.4.0", "shop:1.4.0"]
    refused(service, "must say for each workload", to="deployment/api=revision:1")


def test_a_pruned_revision_comes_back_from_the_checkpoint(service: KubeService) -> None:
    """K5: a template needs no ReplicaSet."""
    running(service, spec={"revisionHistoryLimit": 0})
    service.deploy()
    path = f"/apis/apps/v1/namespaces/{service.namespace}/replicasets"
    service.until(lambda: len(service.admin.list(path)) == 1)
    refused(service, "api: deployment/api: there is no revision:1. Known: revision:2 (shop:1.5.0, ", to="revision:1")
    assert service.run().outcome == "done"
    assert service.version() == GOOD


def test_without_a_checkpoint_or_history_the_candidates_are_listed(service: KubeService) -> None:
    """K5."""
    service.make()
    service.serve()
    refused(service, "There is no proven checkpoint to take api back to.")
    ended = refused(service, "deployment/api: there is no revision:7. Known: revision:1 (shop:1.4.0, ", to="revision:7")
    assert "release 1.4.0, live)" in ended.message
    assert '{"rollback_to": {"api": "revision:NUMBER"}}' in ended.message
    assert service.run(to="revision:1").outcome == "already", "what is named runs already: said, not called success"


def test_another_application_s_history_is_not_ours(service: KubeService) -> None:
    """K7: two applications share a label, and each has a revision 1."""
    running(service, labels={"app": "api", "part": "a"})
    service.make("deployment/twin", "1.3.0", labels={"app": "api", "part": "b"}, cause="another application")
    service.deploy()
    twin = service.objects()["deployments/twin"]
    assert not any("another application" in note for note in service.run("rollback", to="revision:2").notes())
    refused(service, "of workloads that no component of this service names", to="revision:1")
    service.edit("services/api", {"op": "add", "path": "/spec/selector/part", "value": "a"})
    ended = service.run(to="revision:1")
    assert ended.outcome == "done", ended
    assert image(service) == "shop:1.4.0"
    assert service.objects()["deployments/twin"] == twin


def test_a_paused_rollout_goes_on_with_the_same_change(service: KubeService) -> None:
    """K8: paused half-way, which kubectl refuses."""
    running(service, replicas=2)
    service.deploy(env={"MODE": "notready"}, wait=False)
    service.until(lambda: len(service.pods(app="api")) == 3)
    service.edit("deployment/api", PAUSED)
    ended = service.run()
    assert ended.outcome == "done", ended
    assert any("is paused; it goes on with the same change" in note for note in ended.notes())
    assert "paused" not in service.get()["spec"]
    assert (service.version(), len(service.pods(app="api"))) == (GOOD, 2)


def test_taken_back_half_way_a_paused_rollout_is_paused_again(service: KubeService) -> None:
    """K8: or taking the run back would bring the bad version to everybody."""
    running(service, replicas=2)
    service.deploy(env={"MODE": "notready"}, wait=False)
    service.until(lambda: len(service.pods(app="api")) == 3)
    service.edit("deployment/api", PAUSED)
    service.until(lambda: service.get()["status"]["observedGeneration"] == service.get()["metadata"]["generation"])
    before = service.get()
    ended = service.run(break_after="verify")
    assert ended.outcome == "restored", ended
    after = service.get()
    assert (after["spec"], outside_template(after)) == (before["spec"], outside_template(before))
    assert service.version() == GOOD, "whose pods still serve"


# -- strategies -------------------------------------------------------------------------------------------------------


def test_fast_lets_all_start_at_once_and_leaves_the_strategy_as_it_was(service: KubeService) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    service.component["strategy"] = "fast"
    running(service, replicas=3, spec={"strategy": strategy})
    before = service.get()
    service.deploy()
    with service.seen() as states:
        ended = service.run()
    assert ended.outcome == "done", ended
    assert next(one["spec"]["strategy"] for one in states if one["spec"]["strategy"] != strategy) == FAST
    assert max(one["status"].get("replicas", 0) for one in states) == 3 + 3
    assert outside_template(service.get()) == outside_template(before)
    assert service.get()["spec"]["strategy"] == strategy


def test_fast_killed_on_the_way_gives_the_strategy_back_when_resumed(service: KubeService) -> None:
    service.component["strategy"] = "fast"
    running(service)
    before = service.get()
    service.deploy()
    with pytest.raises(Died) as died:
        service.run(failpoint="rollback_kubernetes.patch.after:kill")
    assert service.get()["spec"]["strategy"] == FAST
    assert HELD in service.get()["metadata"]["annotations"]
    ended = service.run(named=died.value.run)
    assert ended.outcome in {"done", "already"}, ended
    assert outside_template(service.get()) == outside_template(before)
    assert service.version() == GOOD


def test_taking_back_that_is_killed_during_its_rollout_goes_on(service: KubeService) -> None:
    """The template is the former one already, and its pods are not ready yet: that is not restored, and nobody else
    changed anything."""
    running(service, spec={"minReadySeconds": 6})
    service.deploy()
    place = "rollback_kubernetes.patch.after:kill"
    ended = service.run(break_after="verify", failpoint=place, only="undo", survives=True)
    assert not progress("deployment", service.get()).done
    assert image(service) == "shop:1.5.0"
    assert (ended.outcome, ended.next) == ("resumable", f"rollbackctl resume {ended.run}"), ended
    assert "neither old nor new (api: between (deployment/api shop:1.5.0; not rolled out" in ended.message
    ended = service.run(named=ended.run, controller="second")
    assert ended.outcome == "restored", ended
    assert progress("deployment", service.get()).done
    assert (service.version(), image(service)) == (BAD, "shop:1.5.0")


def autoscale(service: KubeService) -> None:
    """Make a HorizontalPodAutoscaler; without metrics it scales nothing, and its object tells who touched it."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
    }
    spec = {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 5, "metrics": [metric]}
    path = f"/apis/autoscaling/v2/namespaces/{service.namespace}/horizontalpodautoscalers"
    service.admin.create(path, {"metadata": {"name": "api"}, "spec": spec})


@pytest.mark.parametrize("place", ["", "scale.after"])
def test_recreate_stops_all_old_pods_first_and_knows_the_count_from_the_object(
    service: KubeService, place: str
) -> None:
    """B16, K13: no number is anybody's guess, and the autoscaler is left alone. Killed anywhere, a resume goes on."""
    service.component["strategy"] = "recreate"
    running(service, replicas=2)
    autoscale(service)
    service.deploy()
    before, scaler = service.get(), service.objects()["horizontalpodautoscalers/api"]
    with service.seen() as states:
        if place:
            with pytest.raises(Died) as died:
                service.run(failpoint=f"rollback_kubernetes.{place}:kill")
            ended = service.run(named=died.value.run)
        else:
            ended = service.run()
    assert ended.outcome == "done", ended
    good = [image_text(one["spec"]["template"]) == "shop:1.4.0" for one in states]
    assert states[good.index(True)]["status"].get("replicas", 0) == 0, "no old pod when the first new one starts"
    assert [one["spec"]["replicas"] for one in states if image_text(one["spec"]["template"]) == "shop:1.5.0"][-1] == 0
    assert outside_template(service.get()) == outside_template(before)
    assert service.objects()["horizontalpodautoscalers/api"] == scaler
    assert (service.version(), len(service.pods(app="api"))) == (GOOD, 2)


@pytest.mark.parametrize("strategy", ["undo", "recreate"])
def test_a_disruption_budget_stops_evictions_and_no_rollback(
    service: KubeService, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """K14: one that lets no pod be evicted. It is in nobody's way, and is left as it is."""
    service.component["strategy"] = strategy
    running(service, replicas=2)
    service.deploy()
    budgets = f"/apis/policy/v1/namespaces/{service.namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 2, "selector": {"matchLabels": {"app": "api"}}}
    service.admin.create(budgets, {"metadata": {"name": "api"}, "spec": spec})
    service.until(lambda: service.admin.get(f"{budgets}/api").get("status", {}).get("currentHealthy") == 2)
    name = service.pods(app="api")[0]["metadata"]["name"]
    with monkeypatch.context() as patch:
        patch.setattr(kube_retry, "TOTAL_SECONDS", 1.0)
        with pytest.raises(KubeError, match="disruption budget"):
            service.admin.create(f"{service.path(f'pods/{name}')}/eviction", {"metadata": {"name": name}})
    before = service.objects()["poddisruptionbudgets/api"]
    ended = service.run()
    assert ended.outcome == "done", ended
    assert service.objects()["poddisruptionbudgets/api"] == before
    assert (service.version(), len(service.pods(app="api"))) == (GOOD, 2)


def test_a_deployment_that_never_runs_two_versions_at_once_does_not_for_fast(service: KubeService) -> None:
    service.component["strategy"] = "fast"
    running(service, spec={"strategy": {"type": "Recreate"}})
    service.deploy()
    with service.seen() as states:
        ended = service.run()
    assert ended.outcome == "done", ended
    assert {one["spec"]["strategy"]["type"] for one in states} == {"Recreate"}
    assert any("never runs two versions at once" in note for note in ended.notes())


# -- refusals: nothing is touched -------------------------------------------------------------------------------------


def quota(service: KubeService, **hard: str) -> None:
    path = f"/api/v1/namespaces/{service.namespace}/resourcequotas"
    service.admin.create(path, {"metadata": {"name": "small"}, "spec": {"hard": hard}})
    service.until(lambda: service.admin.get(f"{path}/small").get("status", {}).get("used"))


def test_a_quota_that_does_not_let_the_new_pods_in(service: KubeService) -> None:
    """K12: refused where no way fits; where only the large surge does not, the workload's own strategy is used."""
    running(service, replicas=2)
    service.deploy()
    quota(service, pods="3")
    # A pod of the former version that is still ending counts as well.
    small = f"/api/v1/namespaces/{service.namespace}/resourcequotas/small"
    service.until(lambda: service.admin.get(small)["status"]["used"] == {"pods": "2"})
    service.component["strategy"] = "fast"
    with service.seen() as states:
        ended = service.run()
    assert ended.outcome == "done", ended
    assert all(one["spec"]["strategy"] != FAST for one in states)
    assert any("lets no 2 more pods in (2 of 3 are used): the pods start by" in note for note in ended.notes())
    service.admin.merge_patch(small, {"spec": {"hard": {"pods": "2"}}})
    # Nor has the last pod of the run above ended at once.
    service.until(lambda: service.admin.get(small)["status"] == {"hard": {"pods": "2"}, "used": {"pods": "2"}})
    refused(service, "quota small lets no 1 more pods in (2 of 2 are used)", to="version:1.5.0")


@pytest.mark.parametrize("owner", ["Argo CD", "Flux"])
def test_what_git_would_put_back_is_refused(service: KubeService, owner: str) -> None:
    """K15."""
    service.make(replicas=0)
    labels = {"argocd.argoproj.io/instance" if owner == "Argo CD" else "kustomize.toolkit.fluxcd.io/name": "shop"}
    service.edit("deployment/api", {"op": "add", "path": "/metadata/labels", "value": labels})
    service.component["service"] = ""
    refused(service, f"deployment/api belongs to {owner}, which would put the bad version back", to="version:1.5.0")
    service.component["gitops"] = "paused"
    assert service.run(to="version:1.5.0").outcome == "done"
    assert service.get()["metadata"]["labels"] == labels


def test_what_the_api_server_would_not_take_is_refused_with_the_field(service: KubeService) -> None:
    """K16, K19: the Deployment was made anew with another selector; a policy forbids the version."""
    service.make(replicas=0)
    service.component["service"] = ""
    service.checkpoint()
    service.admin.delete(service.path("deployment/api"))
    service.make(version=BAD, replicas=0, labels={"app": "api", "tier": "web"})
    refused(service, "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`")
    policy(service, "!object.spec.template.spec.containers.exists(c, c.image.endsWith('1.3.0'))", "1.3.0 has a hole")
    service.until(lambda: "1.3.0 has a hole" in denied(service, "1.3.0"))  # it takes effect some seconds later
    refused(service, "1.3.0 has a hole", to="version:1.3.0")
    refused(service, "the API server would refuse it: ", to="version:1.3.0")


def policy(service: KubeService, expression: str, message: str) -> None:
    """Make an admission policy for the namespace; it goes when that goes."""
    place = service.admin.get(f"/api/v1/namespaces/{service.namespace}")
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": service.namespace, "uid": place["metadata"]["uid"]}
    metadata = {"name": service.namespace, "ownerReferences": [owner]}
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": service.namespace}}
    resources = {"namespaceSelector": selector, "resourceRules": [rule]}
    validations = [{"expression": expression, "message": message}]
    base = "/apis/admissionregistration.k8s.io/v1"
    spec = {"failurePolicy": "Fail", "matchConstraints": resources, "validations": validations}
    service.admin.create(f"{base}/validatingadmissionpolicies", {"metadata": metadata, "spec": spec})
    bound = {"policyName": service.namespace, "validationActions": ["Deny"]}
    service.admin.create(f"{base}/validatingadmissionpolicybindings", {"metadata": metadata, "spec": bound})


def denied(service: KubeService, version: str) -> str:
    """Return why a version would not be taken; nothing when it would."""
    change = f"*=lab.local/shop:{version}"
    try:
        service.lab.kubectl(
            "-n", service.namespace, "set", "image", "deployment/api", change, "--dry-run=server", "--output=name"
        )
    except LabError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("workload", "strategy", "words"),
    [
        ("statefulset/db", {"type": "OnDelete"}, "its pods change only when somebody deletes them"),
        ("daemonset/db", {"type": "OnDelete"}, "its pods change only when somebody deletes them"),
        ("statefulset/db", {"rollingUpdate": {"partition": 1}}, "statefulset/db has a partition of 1"),
    ],
)
def test_what_would_not_reach_the_pods_is_refused(
    service: KubeService, workload: str, strategy: Mapping[str, Any], words: str
) -> None:
    """K17."""
    service.component.update(workloads=[workload], service="")
    service.make(workload, replicas=0, spec={"updateStrategy": strategy}, wait=False)
    service.until(lambda: service.get(workload).get("status", {}).get("observedGeneration"))
    refused(service, words, to="version:1.5.0")


def test_a_daemon_set_cannot_be_scaled_down_first(service: KubeService) -> None:
    service.component.update(workloads=["daemonset/agent"], service="", strategy="recreate")
    service.make("daemonset/agent")
    refused(service, "daemonset/agent cannot be scaled to 0; use the strategy undo for it", to="version:1.5.0")


def test_what_is_on_its_way_out_is_refused(service: KubeService) -> None:
    """K20: deleted, but held by a finalizer; then its whole namespace."""
    service.make(replicas=0)
    service.component["service"] = ""
    path = service.path("deployment/api")
    service.edit("deployment/api", {"op": "add", "path": "/metadata/finalizers", "value": ["example.com/later"]})
    service.admin.delete(path)
    refused(service, "deployment/api is being deleted", to="version:1.5.0")
    service.admin.delete(f"/api/v1/namespaces/{service.namespace}")
    place = f"/api/v1/namespaces/{service.namespace}"
    service.until(lambda: service.admin.get(place)["status"]["phase"] == "Terminating")
    try:
        ended = service.run(to="version:1.5.0")
        assert ended.outcome == "refused", ended
        assert image(service) == "shop:1.4.0"
    finally:
        service.edit("deployment/api", {"op": "remove", "path": "/metadata/finalizers"})


@pytest.mark.parametrize(
    ("component", "words"),
    [
        ({"workloads": []}, "api: strategy undo needs `workloads`, such as [deployment/api]."),
        ({"workloads": ["pod/api"]}, "api: 'pod/api' is not a workload"),
        ({"workloads": ["deployment/ghost"]}, "api: deployment/ghost does not exist in namespace "),
        ({"service": "ghost"}, "api: there is no service ghost in namespace "),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(service: KubeService, component: dict[str, Any], words: str) -> None:
    service.make(replicas=0)
    service.component.update(component)
    ended = refused(service, words, to="version:1.5.0")
    assert service.store.lease() is None, "the next run need not wait"
    assert ended.phases == ["guard", "preflight", *(["plan"] if "plan" in ended.phases else []), "finish"]


def test_no_checkpoint_of_what_tells_no_version_or_is_on_its_way(service: KubeService) -> None:
    service.make(replicas=5)  # which of them answers is up to chance: nine times the same one is not to be expected
    service.serve()
    service.component["answer"] = {"port": "http", "path": "/version", "in_a_row": 9}
    ended = service.run("checkpoint")
    assert "answers /version differently each time" in ended.message, "each pod has its own name in the whole answer"
    service.component["answer"] = {"port": "http", "path": "/nothing", "json": "version"}
    assert "does not say its version" in service.run("checkpoint").message
    service.component["answer"] = None
    service.deploy(env={"MODE": "notready"}, wait=False)
    ended = service.run("checkpoint")
    assert "A checkpoint is taken of what runs, not of what is on its way" in ended.message
    assert service.store.checkpoints() == []


def test_a_workload_that_the_checkpoint_does_not_know(service: KubeService) -> None:
    service.make(replicas=0)
    service.make("deployment/new", replicas=0)
    service.component["service"] = ""
    service.checkpoint()
    service.component["workloads"] = ["deployment/api", "deployment/new"]
    refused(service, "deployment/new did not belong to this component yet when ")


# -- what fails: early, with its reason, and put back -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("none", ["container shop: ", "lab.local/shop:none", "Events: "]),
        ("crash", ["CrashLoopBackOff, it ended with 1", "Its last lines: INFO version 1.4.0", "ERROR crash"]),
    ],
)
def test_a_version_that_does_not_start_is_given_up_in_seconds(
    service: KubeService, mode: str, words: list[str]
) -> None:
    """K9: what serves goes on serving, and the message has the pod's last words and what else there is."""
    service.component["timeout"] = 80
    service.probed = True
    service.make()
    service.serve()
    service.deploy()
    before = service.get()
    wanted = f"{service.lab.image(GOOD).rpartition(':')[0]}:none" if mode == "none" else service.lab.image(GOOD, mode)
    service.lab.image(GOOD, "crash")
    ended = service.run(to=f"image:{wanted}")
    assert ended.outcome == "restored", ended
    assert all(word in ended.message for word in words), ended.message
    assert "Other versions for rollback_to: deployment/api=revision:1 (shop:1.4.0, " in ended.message
    assert ended.seconds("rollback") < 90
    assert (service.version(), service.get()["spec"]) == (BAD, before["spec"])
    assert service.get()["metadata"]["annotations"].items() >= {**OTHERS, CAUSE: "release 1.5.0"}.items()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"env": {"MODE": "notready"}}, ["0 old ones left", "Its last lines: ", "Readiness probe failed"]),
        ({"container": {"resources": {"requests": {"cpu": "900"}}}}, ["0/1 nodes are available: 1 Insufficient cpu"]),
    ],
)
def test_a_version_that_never_gets_ready_has_its_deadline(
    service: KubeService, broken: dict[str, Any], words: list[str]
) -> None:
    """K11, K12: the policy then is to put it back, or to hold."""
    service.component.update(timeout=8)
    service.make(wait=False, **broken)
    service.serve()
    service.deploy()
    ended = service.run(to="revision:1")
    assert ended.outcome == "restored", ended
    assert "Not rolled out within 8 s: deployment/api: 1 of 1 updated, 1 available, 1 old ones left." in ended.message
    assert all(word in ended.message for word in words[1:]), ended.message
    assert (service.version(), image(service)) == (BAD, "shop:1.5.0")


def test_a_quota_that_came_meanwhile_is_found_out_in_seconds(service: KubeService) -> None:
    """K12."""
    running(service)
    service.deploy()
    ended = service.run(before={"rollback": lambda: quota(service, pods="1")})
    assert ended.outcome == "restored", ended
    assert "deployment/api will not roll out: pods cannot be made: " in ended.message
    assert "exceeded quota: small" in ended.message
    assert (service.version(), image(service)) == (BAD, "shop:1.5.0")


def test_a_stateful_set_waits_for_a_broken_pod_that_nobody_replaces(service: KubeService) -> None:
    """Kubernetes' own rule. Only the environment is bad: the broken pod is not mistaken for one of the good version."""
    service.component.update(workloads=["statefulset/db"], service="db", timeout=60)
    service.probed = True
    service.make("statefulset/db", GOOD)
    service.serve("db")
    service.checkpoint()
    service.deploy("statefulset/db", GOOD, env={"MODE": "crash"}, wait=False)
    service.until(lambda: service.pods(app="db")[0]["status"]["containerStatuses"][0]["restartCount"] >= 2)
    ended = service.run()
    command = f"kubectl --namespace {service.namespace} delete pod db-0"
    assert ended.outcome == "resumable", ended
    assert "does not replace pod db-0, which is of the bad version, before it is ready" in ended.message
    assert command in ended.message
    assert ended.next == f"rollbackctl resume {ended.run}"
    service.lab.kubectl(*command.split()[1:])
    resumed = service.run(named=ended.run)
    assert resumed.outcome == "done", resumed
    assert service.version("db") == GOOD


def test_scaled_down_first_a_broken_stateful_set_comes_back_by_itself(service: KubeService) -> None:
    service.component.update(workloads=["statefulset/db"], service="db", strategy="recreate")
    service.make("statefulset/db", GOOD)
    service.serve("db")
    service.checkpoint()
    service.deploy("statefulset/db", GOOD, env={"MODE": "notready"}, wait=False)
    service.until(lambda: service.pods(app="db")[0]["spec"]["containers"][0]["env"][-1]["value"] == "notready")
    ended = service.run()
    assert ended.outcome == "done", ended
    assert (service.version("db"), service.get("statefulset/db")["spec"]["replicas"]) == (GOOD, 1)


def test_a_tag_that_was_moved_is_noticed(service: KubeService) -> None:
    tag = f"moved-{service.namespace.rpartition('-')[2]}"
    repository = service.lab.image(GOOD).rpartition(":")[0]
    service.lab.image(tag)
    running(service, version=tag)
    service.deploy()
    service.lab._images().make(f"{repository}:{tag}", program(), [], {"VERSION": "6.6.6"})
    ended = service.run()
    service.lab.remove_image(f"{repository}:{tag}")
    assert ended.outcome == "restored", ended
    assert "deployment/api, container shop: its image's tag has been moved. It runs sha256:" in ended.message
    assert service.version() == BAD


def test_an_image_that_is_gone_from_the_node_is_missed_in_seconds(service: KubeService) -> None:
    """K10: no registry has it either. What serves goes on serving."""
    tag = f"gone-{service.namespace.rpartition('-')[2]}"
    reference = service.lab.image(tag)
    running(service, version=tag)
    service.deploy()
    service.lab.remove_image(reference)
    ended = service.run()
    assert ended.outcome == "restored", ended
    assert "deployment/api will not roll out: pod " in ended.message
    assert reference in ended.message
    assert (service.version(), image(service)) == (BAD, "shop:1.5.0")


def program() -> Path:
    from lab.kubernetes import build  # noqa: PLC0415 - builds it

    return build.sample()


def test_users_must_get_the_answer_of_the_checkpoint(service: KubeService) -> None:
    """The template is the same and the pods are ready: what they read has been changed."""
    maps = f"/api/v1/namespaces/{service.namespace}/configmaps"
    service.admin.create(maps, {"metadata": {"name": "app"}, "data": {"version": "1.4.0"}})
    source = {"name": "VERSION", "valueFrom": {"configMapKeyRef": {"name": "app", "key": "version"}}}
    running(service, container={"env": [{"name": "DRAIN_MS", "value": "0"}, source]})
    service.admin.merge_patch(f"{maps}/app", {"data": {"version": "9.9.9"}})
    service.deploy()
    ended = service.run()
    assert ended.outcome == "restored", ended
    assert "Service api answers 9.9.9 all the time, not 1.4.0, although its pods are made from the" in ended.message
    assert service.version() == BAD


def test_a_run_is_taken_back_to_a_version_that_answers_nothing(service: KubeService) -> None:
    """What was broken before need not work when it is gone back to."""
    running(service)
    service.deploy(env={"MODE": "errors"})
    ended = service.run(break_after="verify")
    assert ended.outcome == "restored", ended
    assert ended.seconds("undo") < 30
    assert image(service) == "shop:1.5.0"


# -- others who write at the same time --------------------------------------------------------------------------------

EVERYTHING = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
NODES = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
DEPLOYMENT = "/deployments/api$"


def through(service: KubeService, proxy: FaultProxy, folder: Path) -> None:
    """Let runs come by the proxy from now on."""
    service.kubeconfig = token_kubeconfig(
        service.lab, service.namespace, EVERYTHING, folder, server=proxy.url, cluster_rules=NODES
    )


def test_a_deploy_between_reading_and_writing_is_not_overwritten(
    service: KubeService, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    """K2."""
    running(service)
    service.deploy()
    through(service, fault_proxy, tmp_path)

    def deploy(_request: Request) -> None:
        service.deploy(version="1.3.0", cause="a colleague's", wait=False)

    met = fault_proxy.add(DEPLOYMENT, "PATCH", call=deploy)
    ended = service.run()
    assert met.met == 1
    assert ended.outcome == "unknown", ended
    assert "deployment/api was changed by somebody else in this very moment; it was left as it is." in ended.message
    assert (image(service), service.get()["metadata"]["annotations"][CAUSE]) == ("shop:1.3.0", "a colleague's")


def test_an_autoscaler_that_writes_at_the_same_time_keeps_its_count(
    service: KubeService, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    running(service)
    service.deploy()
    through(service, fault_proxy, tmp_path)

    def scale(_request: Request) -> None:
        count = service.get()["spec"]["replicas"] + 1
        service.edit("deployment/api", {"op": "replace", "path": "/spec/replicas", "value": count})

    met = fault_proxy.add(DEPLOYMENT, "PATCH", call=scale, times=2)
    ended = service.run()
    assert ended.outcome == "done", ended
    assert met.met >= 2
    assert (service.get()["spec"]["replicas"], image(service)) == (3, "shop:1.4.0")


def test_an_autoscaler_that_acts_before_verify_is_no_failure(service: KubeService) -> None:
    """More pods of the version that is gone back to are wanted, and not there yet."""
    running(service)
    service.deploy()

    def scale() -> None:
        service.edit("deployment/api", {"op": "replace", "path": "/spec/replicas", "value": 3})
        service.until(lambda: service.get()["status"]["observedGeneration"] == service.get()["metadata"]["generation"])

    ended = service.run(before={"verify": scale})
    assert ended.outcome == "done", ended


def test_a_lost_answer_is_read_back_and_nothing_is_written_twice(
    service: KubeService, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    running(service)
    service.deploy()
    through(service, fault_proxy, tmp_path)
    fault_proxy.add(DEPLOYMENT, "PATCH", drop="after")
    generation = service.get()["metadata"]["generation"]
    ended = service.run()
    assert ended.outcome == "done", ended
    assert service.get()["metadata"]["generation"] == generation + 1
    assert any(seen.status == 0 for seen in fault_proxy.requests)
