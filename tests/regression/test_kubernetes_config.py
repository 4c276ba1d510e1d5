# SPDX-License-Identifier: GPL-3.0-or-later
"""B23: the written runbook's script for level 2 applied configmap-backup-latest.yaml, which may be the bad one, and
forgot the Secrets. Here the newest proven checkpoint is the target, and what belongs together comes back together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.store import open_store

from lab.kubernetes.cluster import Cluster
from tests.unit.module_utils.kube_config_parts import (
    BAD_MAP,
    BAD_SECRET,
    GOOD_MAP,
    MAP,
    SECRET,
    Scene,
    manifest,
)
from tests.unit.module_utils.kube_config_runs import Service


@pytest.fixture
def service(admin: Client, namespace: str, lab_cluster: Cluster, tmp_path: Path) -> Service:
    """A service that was good, whose bad deploy was saved as the latest backup and recorded, but never proven."""
    scene = Scene(admin, namespace, tmp_path)
    service = Service(scene, lab_cluster.kubeconfig)
    scene.make_good()
    service.checkpoint()
    good = tmp_path / "configmap-backup-20260115-1200.yaml"
    good.write_text(manifest("configmap", MAP, GOOD_MAP), encoding="utf-8")
    os.utime(good, (0, 0))
    scene.break_it()
    (tmp_path / "configmap-backup-latest.yaml").write_text(manifest("configmap", MAP, BAD_MAP), encoding="utf-8")
    service.checkpoint(soak=3600)
    return service


def test_b23_the_proven_pair_comes_back_not_the_latest_backup(service: Service) -> None:
    newest, proven = open_store(dict(service.profile["state"])).checkpoints()
    assert (newest["state"], proven["state"]) == ("candidate", "proven")
    ending, run = service.run()
    assert ending["outcome"] == "done", ending
    assert service.scene.is_good(), "the Secret too"
    assert run.run["checkpoint"] == proven["id"]


def test_b23_a_backup_without_the_secret_is_refused(service: Service) -> None:
    for name in ("20260115-1200", "configmap-backup-latest.yaml"):
        ending, _ = service.run(to={"settings": name})
        assert ending["outcome"] == "refused"
        assert f"the backup does not hold secret/{SECRET}, and a configuration belongs together" in ending["message"]
    assert service.scene.data("configmap", MAP) == BAD_MAP
    assert service.scene.data("secret", SECRET) == BAD_SECRET
