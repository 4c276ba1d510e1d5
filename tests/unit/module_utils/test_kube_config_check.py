# SPDX-License-Identifier: GPL-3.0-or-later
"""What would not work, or not last, is said before anything is changed; a real API server says no."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import TARGET, Version
from ansible.module_utils.rollbackctl.errors import StepFailed
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace, token_kubeconfig
from tests.unit.module_utils.kube_config_parts import (
    BAD_MAP,
    BAD_SECRET,
    CANARY_BAD,
    CANARY_GOOD,
    GOOD_MAP,
    GOOD_SECRET,
    MAP,
    SECRET,
    Scene,
    client_of,
    encoded,
)

_ADMISSION = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture(scope="module")
def shared(admin: Client) -> Iterator[str]:
    with fresh_namespace(admin) as name:
        yield name


@pytest.fixture
def scene(admin: Client, shared: str) -> Scene:
    return Scene(admin, shared).emptied()


def patch(scene: Scene, kind: str, name: str, change: Mapping[str, Any]) -> None:
    scene.client.merge_patch(scene.path(kind, name), change)


def problems(scene: Scene, want: Version | str, **options: Any) -> str:
    """Return what preflight says; nothing may have been changed by it."""
    before = scene.versions()
    _, finding = scene.plan(want, **options)
    assert scene.versions() == before
    return "\n".join(finding.problems)


def test_an_immutable_object_cannot_be_changed_in_place(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    patch(scene, "configmap", MAP, {"immutable": True})
    said = problems(scene, good)
    assert said == (
        f"configmap/{MAP} is immutable and cannot be changed in place. Set `mode: versioned` on this component."
    )


def test_an_immutable_object_that_is_right_already_is_no_problem(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    scene.set("configmap", MAP, GOOD_MAP)
    patch(scene, "configmap", MAP, {"immutable": True})
    entry, finding = scene.plan(good)
    assert finding.problems == ()
    assert scene.roll(entry) == TARGET


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "shop:/ConfigMap:x/app-config"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}, "Flux"),
        ({"labels": {"helm.toolkit.fluxcd.io/name": "shop"}}, "Flux"),
    ],
)
def test_what_git_would_put_back_is_refused_unless_that_is_paused(
    scene: Scene, metadata: dict[str, Any], owner: str
) -> None:
    good = scene.recorded_and_broken()
    patch(scene, "configmap", MAP, {"metadata": metadata})
    assert f"configmap/{MAP} is kept by {owner}, which would put the bad content back." in problems(scene, good)
    entry, finding = scene.plan(good, gitops="paused")
    assert finding.problems == ()
    assert "said to be paused" in "".join(finding.notes)
    assert scene.roll(entry, gitops="paused") == TARGET


def test_a_field_manager_of_gitops_is_enough(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    path = f"{scene.path('secret', SECRET)}?fieldManager=kustomize-controller"
    scene.client.merge_patch(path, {"metadata": {"annotations": {"note": "x"}}})
    assert f"secret/{SECRET} is kept by Flux" in problems(scene, good)


def test_the_label_that_charts_set_too_is_no_proof_of_gitops(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    patch(scene, "configmap", MAP, {"metadata": {"labels": {"app.kubernetes.io/instance": "shop"}}})
    assert problems(scene, good) == ""


def test_what_a_controller_makes_is_refused(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    scene.make("configmap", "maker", data={})
    uid = scene.get("configmap", "maker")["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "maker", "uid": uid, "controller": True}
    patch(scene, "secret", SECRET, {"metadata": {"ownerReferences": [owner]}})
    said = problems(scene, good)
    assert f"secret/{SECRET} is made by ConfigMap/maker, whose controller would write it again." in said
    assert problems(scene, good, gitops="paused") == ""


def test_what_is_being_deleted_is_refused(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    patch(scene, "configmap", MAP, {"metadata": {"finalizers": ["example.org/wait"]}})
    scene.client.delete(scene.path("configmap", MAP))
    assert f"configmap/{MAP} is being deleted" in problems(scene, good)
    patch(scene, "configmap", MAP, {"metadata": {"finalizers": None}})


def test_another_type_of_secret_cannot_be_changed_in_place(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    scene.client.delete(scene.path("secret", SECRET))
    scene.make("secret", SECRET, stringData=BAD_SECRET, type="example.org/login")
    assert f"secret/{SECRET} is of type example.org/login, the target of type Opaque" in problems(scene, good)


def test_more_than_an_object_can_hold_is_refused(scene: Scene, tmp_path: Path) -> None:
    scene.make_good()
    document = {"kind": "ConfigMap", "metadata": {"name": MAP}, "data": {**GOOD_MAP, "big": "x" * (1 << 20)}}
    (tmp_path / "big.json").write_text(json.dumps(document), encoding="utf-8")
    said = problems(scene, "big.json", secrets=[], backups=str(tmp_path))
    assert f"configmap/{MAP} would hold" in said
    assert "1 MiB is what an object may hold" in said


# -- rights ------------------------------------------------------------------------------------------------------------


def rule(resources: Sequence[str], verbs: Sequence[str], names: Sequence[str] = ()) -> dict[str, Any]:
    found = {"apiGroups": [""], "resources": list(resources), "verbs": list(verbs)}
    return {**found, "resourceNames": list(names)} if names else found


def test_every_right_that_is_missing_is_named(scene: Scene, lab_cluster: Cluster, tmp_path: Path) -> None:
    good = scene.recorded_and_broken()
    rules = [rule(["configmaps", "secrets"], ["get"]), rule(["configmaps"], ["patch"])]
    robot = client_of(token_kubeconfig(lab_cluster, scene.namespace, rules, tmp_path))
    said = problems(scene, good, client=robot)
    for right in (
        f"patch secrets {SECRET} in {scene.namespace}",
        f"create secrets in {scene.namespace}",
        f"create configmaps in {scene.namespace}",
    ):
        assert f"the credentials may not {right}" in said
    assert "patch configmaps" not in said
    scene.client.delete(scene.path("configmap", MAP))
    _, finding = scene.plan(good, client=robot)
    assert f"the credentials may not create configmaps in {scene.namespace}" in finding.problems


def test_the_rights_that_are_asked_for_are_enough(scene: Scene, lab_cluster: Cluster, tmp_path: Path) -> None:
    good = scene.recorded_and_broken()
    scene.client.delete(scene.path("secret", SECRET))
    rules = [rule(["configmaps", "secrets"], ["get", "create", "patch"])]
    robot = client_of(token_kubeconfig(lab_cluster, scene.namespace, rules, tmp_path))
    entry, finding = scene.plan(good, client=robot)
    assert finding.problems == ()
    assert scene.roll(entry, client=robot) == TARGET
    assert scene.is_good()


def test_a_missing_right_to_read_says_which_and_what_to_do(scene: Scene, lab_cluster: Cluster, tmp_path: Path) -> None:
    scene.make_good()
    rules = [rule(["configmaps"], ["get"])]
    robot = client_of(token_kubeconfig(lab_cluster, scene.namespace, rules, tmp_path))
    with pytest.raises(KubeError, match='cannot get resource "secrets"') as refused:
        scene.driver(client=robot).live(exact=True)
    assert refused.value.next_step != ""


# -- admission ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(scene: Scene) -> Iterator[str]:
    """A policy of the cluster that refuses to change contents to the good ones, and quotes values in doing so."""
    name = f"{scene.namespace}-freeze"
    rules = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["configmaps", "secrets"]}
    free = (
        "!has(object.data) || (!('PASSWORD' in object.data) && !('CURRENCY' in object.data)) || 'free' in object.data"
    )
    quoting = "'not now: ' + object.data.map(key, object.data[key]).join(', ')"
    spec = {
        "matchConstraints": {"resourceRules": [rules]},
        "validations": [{"expression": free, "messageExpression": quoting, "reason": "Forbidden"}],
    }
    only_here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": only_here}
    scene.client.create(f"{_ADMISSION}/validatingadmissionpolicies", {"metadata": {"name": name}, "spec": spec})
    scene.client.create(
        f"{_ADMISSION}/validatingadmissionpolicybindings", {"metadata": {"name": name}, "spec": binding}
    )
    yield name
    scene.client.delete(f"{_ADMISSION}/validatingadmissionpolicybindings/{name}")
    scene.client.delete(f"{_ADMISSION}/validatingadmissionpolicies/{name}")
    _until(scene, refuses=False)


def _until(scene: Scene, *, refuses: bool) -> None:
    """Wait until the API server has heard of the policy, or of its end."""
    end = time.monotonic() + 30
    while True:
        try:
            change = [{"op": "add", "path": "/metadata/annotations", "value": {"try": str(time.monotonic())}}]
            scene.client.json_patch(scene.path("configmap", MAP), change, dry_run=True)
            now = False
        except KubeError:
            now = True
        if now is refuses:
            return
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_a_policy_refuses_is_known_before_and_no_value_is_passed_on(scene: Scene, policy: str) -> None:
    scene.make_good()
    version = scene.record("cp-1")
    scene.client.delete(scene.path("configmap", MAP))
    scene.client.delete(scene.path("secret", SECRET))
    scene.make("configmap", MAP, data=BAD_MAP)
    scene.make("secret", SECRET, stringData=BAD_SECRET)
    _until(scene, refuses=True)
    said = problems(scene, version)
    assert f"secret/{SECRET} would not be taken: the API server answered 403 Forbidden" in said
    assert f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request" in said
    assert f"configmap/{MAP} would not be taken" in said
    with pytest.raises(KubeError, match=encoded(GOOD_SECRET)["PIN"]):  # so there is something to keep back
        scene.set("secret", SECRET, GOOD_SECRET)
    entry, _ = scene.plan(version)
    driver = scene.driver(configmaps=[])
    with pytest.raises(StepFailed, match=f"secret/{SECRET} was not put back") as failed:
        driver.apply(driver.resolve(version))
    for value in (CANARY_GOOD, CANARY_BAD, *encoded(GOOD_SECRET).values(), *encoded(BAD_SECRET).values()):
        assert value not in said + str(failed.value) + str(failed.value.__context__) + json.dumps(entry.to_dict())
    assert scene.is_bad()
