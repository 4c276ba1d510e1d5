# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole runs over ConfigMaps and Secrets: done, taken back, killed and resumed, and no secret in what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.faults.harness import Died
from tests.support.kube import fresh_namespace
from tests.unit.module_utils.kube_config_parts import (
    BAD_SECRET,
    GOOD_MAP,
    GOOD_SECRET,
    MAP,
    SECRET,
    Scene,
    encoded,
    listed,
    manifest,
)
from tests.unit.module_utils.kube_config_runs import Service


@pytest.fixture(scope="module")
def shared(admin: Client) -> Iterator[str]:
    with fresh_namespace(admin) as name:
        yield name


@pytest.fixture
def scene(admin: Client, shared: str, tmp_path: Path) -> Scene:
    (tmp_path / "config-20260115-1200.yaml").write_text(
        listed(manifest("configmap", MAP, GOOD_MAP), manifest("secret", SECRET, GOOD_SECRET)), encoding="utf-8"
    )
    for collection in ("leases", "deployments"):
        group = "coordination.k8s.io" if collection == "leases" else "apps"
        admin.delete(f"/apis/{group}/v1/namespaces/{shared}/{collection}")
    return Scene(admin, shared, tmp_path).emptied()


@pytest.fixture
def service(scene: Scene, lab_cluster: Cluster) -> Service:
    return Service(scene, lab_cluster.kubeconfig)


def test_runs_of_every_kind_end_well_and_leave_no_secret_but_in_secrets(scene: Scene, service: Service) -> None:
    scene.make_good()
    service.checkpoint()
    scene.break_it()
    done, run = service.run()
    assert (done["outcome"], scene.is_good()) == ("done", True)
    assert done["quarantined"]
    assert service.run()[0]["outcome"] == "already"
    undone, again = service.run(kind="undo", named=run.run["id"])
    assert (undone["outcome"], scene.is_bad()) == ("done", True)
    failed, last = service.run(break_after="verify")
    assert (failed["outcome"], scene.is_bad()) == ("restored", True)

    shown = service.shown() + json.dumps([done, undone, failed])
    shown += "".join(json.dumps(service.events(one)) for one in (run, again, last))
    assert MAP in shown
    assert "hmac:" in shown, "the plans were read"
    for values in (GOOD_SECRET, BAD_SECRET):
        assert values["PASSWORD"] not in shown
        assert not any(value in shown for value in encoded(values).values())


def test_what_a_run_kept_of_secrets_goes_when_it_is_finalized(scene: Scene, service: Service) -> None:
    scene.make_good()
    service.checkpoint()
    scene.break_it()
    _, run = service.run()
    names = [item["metadata"]["name"] for item in scene.client.names(scene.path("secret", "")[:-1])]
    kept = [name for name in names if run.run["id"] in name]
    assert len(kept) == 1
    ending, _ = service.run(kind="finalize", named=run.run["id"])
    assert ending["outcome"] == "done"
    left = [item["metadata"]["name"] for item in scene.client.names(scene.path("secret", "")[:-1])]
    assert sorted(left) == sorted(set(names) - set(kept))


def test_a_backup_is_put_back_and_taken_back_before_anything_was_recorded(scene: Scene, service: Service) -> None:
    scene.make_good()
    scene.break_it()
    ending, run = service.run(to={"settings": "20260115-1200"})
    assert (ending["outcome"], scene.is_good()) == ("done", True)
    ending, _ = service.run(kind="undo", named=run.run["id"])
    assert (ending["outcome"], scene.is_bad()) == ("done", True)


@pytest.mark.parametrize(("point", "recorded"), [("record.after", False), ("write.after", True)])
def test_a_killed_run_is_resumed(scene: Scene, service: Service, point: str, *, recorded: bool) -> None:
    scene.make_good()
    if recorded:
        service.checkpoint()
    scene.break_it()
    to = {} if recorded else {"settings": "20260115-1200"}
    with pytest.raises(Died) as died:
        service.run(to=to, failpoint=f"restore_kubernetes_config.{point}:kill", only="rollback")
    ending, _ = service.run(to=to, named=died.value.run)
    assert (ending["outcome"], scene.is_good()) == ("done", True)


def test_a_run_whose_step_is_killed_is_put_back_by_its_controller(scene: Scene, service: Service) -> None:
    scene.make_good()
    service.checkpoint()
    scene.break_it()
    point = "restore_kubernetes_config.write.after:kill"
    ending, _ = service.run(failpoint=point, only="rollback", survives=True)
    assert (ending["outcome"], scene.is_bad()) == ("restored", True)


def test_a_third_state_stops_the_run_and_is_left(scene: Scene, service: Service) -> None:
    scene.make_good()
    service.checkpoint()
    scene.break_it()
    third = {"PASSWORD": "canary-third"}
    ending, run = service.run(before={"rollback": lambda: scene.set("secret", SECRET, third)})
    assert ending["outcome"] in {"refused", "unknown"}
    assert scene.data("secret", SECRET) == third
    assert "canary" not in json.dumps(ending) + json.dumps(service.events(run))
