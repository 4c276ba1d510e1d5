# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_difference import compare
from ansible.module_utils.rollbackctl.kube_objects import template_of
from ansible.module_utils.rollbackctl.kube_owner import gitops_owner, maker_of, owner_problem, whose

from tests.unit.module_utils.kube_recorded import recorded


def managed(name: str, **fields: Any) -> dict[str, Any]:
    entry = {"manager": name, "operation": "Apply", "time": "2026-12-01T10:00:00Z", "fieldsV1": fields}
    return {"managedFields": [{"manager": "kubectl", "operation": "Update"}, entry]}


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({}, ""),
        ({"annotations": {"meta.helm.sh/release-name": "shop"}}, ""),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/api"}}, "Argo CD"),
        ({"annotations": {"configsync.gke.io/resource-id": "apps_deployment_shop_api"}}, "Config Sync"),
        ({"labels": {"argocd.argoproj.io/instance": "shop"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}, "Flux"),
        ({"labels": {"helm.toolkit.fluxcd.io/name": "shop"}}, "Flux"),
        (managed("argocd-controller"), "Argo CD"),
        (managed("kustomize-controller"), "Flux"),
        (managed("fleetagent"), "Fleet"),
        (managed("kube-controller-manager"), ""),
    ],
)  # fmt: skip
def test_who_would_put_it_back_to_what_git_says(metadata: dict[str, Any], owner: str) -> None:
    item = recorded("deployment")
    item["metadata"].update(copy.deepcopy(metadata))
    assert gitops_owner(item) == owner


def test_only_an_owner_that_controls_an_object_writes_it_again() -> None:
    item = recorded("deployment")
    item["metadata"]["ownerReferences"] = [{"kind": "Namespace", "name": "shop", "uid": "1"}]
    assert maker_of(item) == ""
    item["metadata"]["ownerReferences"].append({"kind": "Shop", "name": "eu", "uid": "2", "controller": True})
    assert maker_of(item) == "Shop/eu"
    assert "is made by Shop/eu, whose controller would write it again" in owner_problem("deployment/api", item, "")
    assert owner_problem("deployment/api", item, "paused") == ""


FIELDS: dict[str, Any] = {
    "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"shop"}': {"f:image": {}, "f:args": {}}}}}}
}


@pytest.mark.parametrize(
    ("manager", "keeps"),
    [
        ("shop-operator", True), ("manager", True), ("shop-controller-manager", True), ("Shop_Controller", True),
        ("kube-controller-manager", False), ("kubectl-client-side-apply", False), ("helm", False), ("operators", False),
        ("kubectl-edit", False), ("rollbackctl", False), ("deploy-bot", False), ("Terraform", False),
    ],
)  # fmt: skip
def test_a_field_that_an_operator_wrote_is_its_own(manager: str, *, keeps: bool) -> None:
    item = recorded("deployment")
    item["metadata"].update(managed(manager, **FIELDS))
    wanted = template_of(item)
    wanted["spec"]["containers"][0]["image"] = "shop:other"
    found = owner_problem("deployment/api", item, "", compare(template_of(item), wanted))
    assert bool(found) is keeps
    if keeps:
        assert f"template.spec.containers[shop].image was written by {manager} at 2026-12-01T10:00:00Z" in found
    assert owner_problem("deployment/api", item, "", compare(template_of(item), template_of(item))) == ""


def test_who_wrote_what_reads_otherwise_is_said_and_ourselves_not() -> None:
    item = recorded("deployment")
    item["metadata"].update(managed("anybody", **FIELDS))
    wanted = template_of(item)
    wanted["spec"]["containers"][0].update(image="shop:other", command=["x"])
    wanted["metadata"]["labels"]["more"] = "1"
    said = whose(item, compare(wanted, template_of(item)))
    assert said == "template.spec.containers[shop].image was written by anybody at 2026-12-01T10:00:00Z"
    item["metadata"].update(managed("rollbackctl", **FIELDS))
    assert whose(item, compare(wanted, template_of(item))) == ""
