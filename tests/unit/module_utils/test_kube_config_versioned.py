# SPDX-License-Identifier: GPL-3.0-or-later
"""Mode versioned: immutable copies which pods refer to, and nothing is changed in place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET, Place
from ansible.module_utils.rollbackctl.errors import StateOther, StepFailed
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError
from ansible.module_utils.rollbackctl.kube_config import KubeConfigDriver
from ansible.module_utils.rollbackctl.kube_config_content import Ref
from ansible.module_utils.rollbackctl.kube_config_copies import chosen, original_name, used
from ansible.module_utils.rollbackctl.kube_config_references import references, rewritten
from ansible.module_utils.rollbackctl.kube_store import Cluster as Site
from ansible.module_utils.rollbackctl.kube_workloads import KubernetesDriver

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace, token_kubeconfig
from tests.support.kube_proxy import FaultProxy
from tests.unit.module_utils.kube_config_parts import (
    BAD_SECRET,
    GOOD_MAP,
    GOOD_SECRET,
    MAP,
    SECRET,
    Scene,
    client_of,
    encoded,
    manifest,
)

CONFIG, LOGIN = Ref("configmap", MAP), Ref("secret", SECRET)
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "api"}},
    "spec": {
        "containers": [
            {
                "name": "api",
                "image": "lab.local/shop:1.4.0",
                "envFrom": [{"configMapRef": {"name": MAP}}],
                "env": [{"name": "P", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "PASSWORD"}}}],
            }
        ],
    },
}


class VersionedScene(Scene):
    """The objects, a workload that reads them, and drivers of both."""

    def __init__(self, client: Client, namespace: str, backups: Path | None = None) -> None:
        super().__init__(client, namespace, backups)
        self.options["mode"] = "versioned"

    @property
    def deployment(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/api"

    def emptied(self) -> VersionedScene:
        super().emptied()
        self.client.delete(self.deployment.rpartition("/")[0])
        spec = {"replicas": 0, "selector": {"matchLabels": {"app": "api"}}, "template": TEMPLATE}
        self.client.create(self.deployment.rpartition("/")[0], {"metadata": {"name": "api"}, "spec": spec})
        return self

    def template(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(self.deployment)["spec"]["template"]
        return found

    def use(self, template: Mapping[str, Any]) -> None:
        """Be the workload's driver."""
        self.client.json_patch(self.deployment, [{"op": "replace", "path": "/spec/template", "value": dict(template)}])

    def driver(self, *, run: str = "rb-1", client: Client | None = None, **options: Any) -> KubeConfigDriver:
        driver = super().driver(run=run, client=client, **options)
        workload = {"name": "api", "workloads": ["deployment/api"], "config": "settings"}
        place = Place(run=run, cluster=Site(client or self.client, self.namespace, self.prove))
        driver.siblings = {"settings": driver, "api": KubernetesDriver(workload, place)}
        return driver

    def copies(self) -> dict[str, dict[str, Any]]:
        """Return the copies by kind and name."""
        label = "rollbackctl.io/kind=copy"
        return {
            f"{kind}/{item['metadata']['name']}": item
            for kind in ("configmap", "secret")
            for item in self.client.list(self.path(kind, "")[:-1], labelSelector=label)
        }


@pytest.fixture(scope="module")
def shared(admin: Client) -> Iterator[str]:
    with fresh_namespace(admin) as name:
        yield name


@pytest.fixture
def scene(admin: Client, shared: str) -> VersionedScene:
    return VersionedScene(admin, shared).emptied()


def test_copies_are_made_and_nothing_is_changed_in_place(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    untouched = scene.versions()
    entry, finding = scene.plan(good)
    assert finding.problems == ()
    assert scene.roll(entry) == TARGET
    assert scene.versions() == untouched
    names = entry.target.artefacts["copies"]
    assert set(names) == {str(CONFIG), str(LOGIN)}
    for ref in (CONFIG, LOGIN):
        assert re.fullmatch(rf"{ref.name}-[0-9a-f]{{10}}", names[str(ref)])
    found = scene.copies()
    assert set(found) == {f"configmap/{names[str(CONFIG)]}", f"secret/{names[str(LOGIN)]}"}
    assert all(item["immutable"] for item in found.values())
    assert not any(item["metadata"].get("ownerReferences") for item in found.values())
    assert scene.data("configmap", names[str(CONFIG)]) == GOOD_MAP
    assert scene.data("secret", names[str(LOGIN)]) == GOOD_SECRET


def test_a_template_refers_to_the_copies_and_is_read_as_if_it_did_not(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    assert scene.driver().copied_names(TEMPLATE, entry.target.identity) == TEMPLATE, "there are none yet"
    scene.roll(entry)
    driver = scene.driver()
    template = driver.copied_names(TEMPLATE, entry.target.identity)
    names = entry.target.artefacts["copies"]
    assert references(template) == {"configmaps": {names[str(CONFIG)]}, "secrets": {names[str(LOGIN)]}}
    assert driver.original_names(template) == TEMPLATE
    in_place = scene.driver(mode="in_place")
    assert in_place.copied_names(TEMPLATE, entry.target.identity) == TEMPLATE
    assert in_place.original_names(template) == template


def test_what_pods_refer_to_is_what_is_live(scene: VersionedScene) -> None:
    """So a checkpoint after such a rollback holds the pair that works, and not the bad content beside it."""
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    scene.roll(entry)
    later = scene.driver(run="rb-2")
    assert later.live(exact=True).identity == entry.live.identity, "nobody refers to them yet"
    scene.use(later.copied_names(TEMPLATE, entry.target.identity))
    assert later.live(exact=True).identity == good.identity
    again = later.record(scene.shelf("cp-2"))
    assert again.identity == good.identity
    assert later.matches(later.live(exact=True), later.resolve(good), exact=True)
    # A deploy that refers to the objects themselves is another version again.
    scene.use(TEMPLATE)
    assert scene.driver(run="rb-3").live(exact=True).identity == entry.live.identity


def test_it_is_taken_back_by_copies_too(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    driver = scene.driver()
    driver.state(entry, opened=False)
    before = driver.record(scene.shelf("kept"))
    driver.apply(entry.target)
    scene.use(driver.copied_names(TEMPLATE, entry.target.identity))
    back = scene.driver()
    assert not back.matches(back.live(exact=True), before, exact=True)
    assert back.state(entry, opened=False)[0] == TARGET
    back.apply(before)
    assert back.matches(back.live(exact=True), before, exact=True)
    scene.use(back.copied_names(TEMPLATE, before.identity))
    state, reading = scene.driver().state(entry, opened=False)
    assert (state, reading.identity) == (LIVE, before.identity)
    (name,) = references(scene.template())["secrets"]
    assert scene.data("secret", name) == BAD_SECRET
    assert len(scene.copies()) == 4
    # And forward once more, in the same run: the copies are there, only the choice is written.
    forward = scene.driver()
    forward.state(entry, opened=False)
    forward.apply(entry.target)
    assert scene.driver().state(entry, opened=False)[0] == TARGET
    assert len(scene.copies()) == 4


def test_some_copies_are_half_way(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    scene.roll(entry)
    kind, name = "secret", entry.target.artefacts["copies"][str(LOGIN)]
    scene.client.delete(scene.path(kind, name))
    assert scene.driver().state(entry, opened=False)[0] == BETWEEN
    assert scene.roll(entry) == TARGET
    scene.set("configmap", MAP, {"third": "deploy"})
    assert scene.driver(run="rb-1").state(entry, opened=False)[0] == TARGET, "pods do not read it any more"
    assert scene.driver(run="rb-9").state(entry, opened=False)[0] == OTHER


def test_a_copy_of_the_same_content_is_shared_by_runs(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    scene.roll(scene.plan(good)[0])
    entry, finding = scene.plan(good, run="rb-2")
    assert finding.problems == ()
    assert scene.driver(run="rb-2").state(entry, opened=False)[0] == LIVE
    driver = scene.driver(run="rb-2")
    driver.apply(entry.target)
    assert scene.driver(run="rb-2").state(entry, opened=False)[0] == TARGET
    assert len(scene.copies()) == 2


def test_something_else_of_the_copy_s_name_is_left_alone(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    scene.make("configmap", entry.target.artefacts["copies"][str(CONFIG)], data={"not": "ours"})
    driver = scene.driver()
    driver.state(entry, opened=False)
    with pytest.raises(StateOther, match="was to be a copy of app-config but holds something else") as refused:
        driver.apply(entry.target)
    assert f"kubectl delete -n {scene.namespace} configmap/" in refused.value.next_step


def test_a_copy_cannot_be_changed_by_anybody(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    scene.roll(entry)
    with pytest.raises(KubeError, match="immutable"):
        scene.set("secret", entry.target.artefacts["copies"][str(LOGIN)], {"PASSWORD": "x"})


def test_an_immutable_object_can_be_gone_back_from(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    scene.client.merge_patch(scene.path("configmap", MAP), {"immutable": True})
    entry, finding = scene.plan(good)
    assert finding.problems == ()
    assert scene.roll(entry) == TARGET


def test_what_is_right_already_is_not_copied(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    scene.set("configmap", MAP, GOOD_MAP)
    entry, _ = scene.plan(good)
    assert scene.roll(entry) == TARGET
    assert [name.partition("/")[0] for name in scene.copies()] == ["secret"]
    template = scene.driver().copied_names(TEMPLATE, entry.target.identity)
    assert references(template)["configmaps"] == {MAP}


def test_secrets_need_a_first_checkpoint_for_their_names(scene: VersionedScene, tmp_path: Path) -> None:
    scene.make_good()
    scene.break_it()
    text = manifest("configmap", MAP, GOOD_MAP) + "---\n" + manifest("secret", SECRET, GOOD_SECRET)
    (tmp_path / "b.yaml").write_text(text, encoding="utf-8")
    entry, finding = scene.plan("b.yaml", backups=str(tmp_path))
    assert "Secrets can be copied only once a checkpoint was taken here" in "".join(finding.problems)
    with pytest.raises(StepFailed, match="cannot be copied before anything was recorded"):
        scene.driver(configmaps=[]).apply(entry.target)


def test_copies_that_nobody_would_read_are_refused(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    driver = scene.driver()
    driver.siblings = {}
    live = driver.live(exact=True)
    finding = driver.check(live, driver.resolve(good))
    assert "no workload would read the copies. Set `config: settings` on the rollback_kubernetes component" in "".join(
        finding.problems
    )


def test_every_right_that_is_missing_for_copies_is_named(
    scene: VersionedScene, lab_cluster: Cluster, tmp_path: Path
) -> None:
    good = scene.recorded_and_broken()
    read = ["get", "list"]
    rules = [
        {"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": read},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
    ]
    robot = client_of(token_kubeconfig(lab_cluster, scene.namespace, rules, tmp_path))
    _, finding = scene.plan(good, client=robot)
    for right in ("create configmaps", "create secrets", "patch configmaps", "patch secrets"):
        assert f"the credentials may not {right} in {scene.namespace}" in finding.problems


@pytest.mark.parametrize(("drop", "requests"), [("after", 1), ("before", 2)])
def test_a_lost_answer_is_read_back(
    scene: VersionedScene, lab_cluster: Cluster, fault_proxy: FaultProxy, tmp_path: Path, drop: str, requests: int
) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    rules = [{"apiGroups": ["", "apps"], "resources": ["configmaps", "secrets", "deployments"], "verbs": ["*"]}]
    robot = client_of(token_kubeconfig(lab_cluster, scene.namespace, rules, tmp_path, server=fault_proxy.url))
    driver = scene.driver(client=robot)
    driver.state(entry, opened=False)
    fault_proxy.add("/secrets$", "POST", drop=drop)
    driver.apply(entry.target)
    assert fault_proxy.count("POST", "/secrets$") == requests
    assert scene.driver().state(entry, opened=False)[0] == TARGET
    assert len(scene.copies()) == 2


@pytest.mark.parametrize("failpoint", ["copy.before", "copy.after"])
def test_an_error_of_the_machine_leaves_what_can_go_on(
    scene: VersionedScene, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    driver = scene.driver()
    driver.state(entry, opened=False)
    monkeypatch.setitem(os.environ, "ROLLBACKCTL_FAILPOINT", f"restore_kubernetes_config.{failpoint}:fail")
    with pytest.raises(StepFailed):
        driver.apply(entry.target)
    monkeypatch.delitem(os.environ, "ROLLBACKCTL_FAILPOINT")
    assert scene.driver().state(entry, opened=False)[0] == (LIVE if failpoint.endswith("before") else BETWEEN)
    assert scene.roll(entry) == TARGET


# -- names and references, without a cluster ---------------------------------------------------------------------------


WIDE: dict[str, Any] = {
    "spec": {
        "initContainers": [
            {"envFrom": [{"secretRef": {"name": "s1"}, "prefix": "A_"}, {"configMapRef": {"name": "c1"}}]}
        ],
        "containers": [
            {
                "env": [
                    {"name": "A", "value": "c1"},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k", "optional": True}}},
                    {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ]
            },
            {"name": "bare"},
        ],
        "volumes": [
            {"name": "c1", "configMap": {"name": "c3", "items": [{"key": "c1", "path": "s1"}]}},
            {"name": "s", "secret": {"secretName": "s3"}},
            {
                "name": "p",
                "projected": {
                    "sources": [
                        {"configMap": {"name": "c4"}},
                        {"secret": {"name": "s4"}},
                        {"serviceAccountToken": {"path": "token"}},
                    ]
                },
            },
            {"name": "e", "emptyDir": {}},
        ],
        "imagePullSecrets": [{"name": "s5"}],
    }
}


def test_every_place_that_refers_to_one_is_found() -> None:
    assert references(WIDE) == {
        "configmaps": {"c1", "c2", "c3", "c4"},
        "secrets": {"s1", "s2", "s3", "s4", "s5"},
    }
    empties: list[dict[str, Any]] = [{}, {"spec": {}}, {"spec": {"containers": [{"name": "a"}], "volumes": None}}]
    for empty in empties:
        assert references(empty) == {"configmaps": set(), "secrets": set()}


def test_every_place_is_rewritten_and_nothing_else() -> None:
    names = {f"configmap/c{n}": f"c{n}-new" for n in (1, 2, 3, 4)} | {f"secret/s{n}": f"s{n}-new" for n in range(1, 6)}
    before = repr(WIDE)
    new = rewritten(WIDE, names)
    assert repr(WIDE) == before
    assert references(new) == {
        "configmaps": {"c1-new", "c2-new", "c3-new", "c4-new"},
        "secrets": {"s1-new", "s2-new", "s3-new", "s4-new", "s5-new"},
    }
    assert rewritten(new, {f"{key}-new": key.partition("/")[2] for key in names}) == WIDE
    assert rewritten(WIDE, {}) == WIDE
    assert rewritten(WIDE, {"configmap/s1": "x", "secret/c1": "x"}) == WIDE, "kinds are told apart"


@pytest.mark.parametrize(
    ("name", "original"),
    [
        (MAP, MAP),
        (f"{MAP}-1a2b3c4d5e", MAP),
        (f"{MAP}-1a2b3c4d5", ""),
        (f"{MAP}-1A2B3C4D5E", ""),
        (f"{MAP}-other-1a2b3c4d5e", ""),
        ("other", ""),
    ],
)
def test_a_copy_is_known_by_its_name(name: str, original: str) -> None:
    assert original_name(CONFIG, name) == original


def test_workloads_that_do_not_agree_refer_to_nothing() -> None:
    copy = rewritten(TEMPLATE, {str(CONFIG): f"{MAP}-1a2b3c4d5e"})
    assert used([CONFIG, LOGIN], [copy, copy]) == {CONFIG: f"{MAP}-1a2b3c4d5e", LOGIN: SECRET}
    assert used([CONFIG, LOGIN], [copy, TEMPLATE]) == {LOGIN: SECRET}
    assert used([CONFIG], []) == {}


def test_the_last_choice_of_a_run_counts() -> None:
    def copy(name: str, choice: str, of: str = MAP) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "annotations": {"rollbackctl.io/copy-of": of, "rollbackctl.io/chosen": choice}}
        }

    copies = [
        copy("a", "rb-1 1"),
        copy("b", "rb-1 10"),
        copy("c", "rb-1 9"),
        copy("d", "rb-2 11"),
        copy("e", "rb-1 99", "other"),
        {"metadata": {"name": "f"}},
        copy("g", "nonsense"),
    ]
    assert chosen([CONFIG], {"configmap": copies}, "rb-1") == {CONFIG: "b"}
    assert chosen([CONFIG], {"configmap": copies}, "rb-3") == {}


def test_no_value_is_in_a_copy_s_metadata(scene: VersionedScene) -> None:
    good = scene.recorded_and_broken()
    scene.roll(scene.plan(good)[0])
    for item in scene.copies().values():
        shown = repr(item["metadata"])
        assert not any(value in shown for value in (*encoded(GOOD_SECRET).values(), *GOOD_SECRET.values()))
