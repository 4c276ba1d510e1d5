# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrong place: another host, another kind of store, a playbook without the project around it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.support.bench import ROOT, Bench, refused, tree, unchanged

LEVEL3 = "rollback-level3.yml"


def test_a_host_that_is_another_place(bench: Bench) -> None:
    """The marker file is there, but it is that of another service."""
    proof = {"path": str(bench.sample.identity), "content": "shop of production"}
    hosts = bench.profile("elsewhere", rollback_service={"name": "shop", "environment": "demo", "identity": proof})
    store = tree(bench.sample.state)
    ran = bench.play(LEVEL3, hosts=hosts, rollback_reason="x")
    refused(bench, ran, "Identity proof failed", str(bench.sample.identity), "This is another place")
    assert tree(bench.sample.state) == store


def test_a_host_without_the_marker_file(bench: Bench) -> None:
    proof = {"path": str(bench.folder / "nowhere"), "content": "shop of the rollbackctl lab"}
    hosts = bench.profile("nowhere", rollback_service={"name": "shop", "environment": "demo", "identity": proof})
    ran = bench.play(LEVEL3, hosts=hosts, rollback_reason="x")
    refused(bench, ran, "Identity proof failed", "cannot be read", "Is this the right host?")


def test_a_state_store_of_another_kind(bench: Bench) -> None:
    hosts = bench.profile("store", rollback_state={"kind": "postgresql", "path": "/var/lib/rollbackctl"})
    ran = bench.play(LEVEL3, hosts=hosts, rollback_reason="x")
    refused(bench, ran, "must be one of: directory, kubernetes, got: postgresql found in rollback_state")


def test_a_state_store_that_cannot_be_written(bench: Bench) -> None:
    hosts = bench.profile("full", rollback_state={"kind": "directory", "path": "/proc/rollbackctl"})
    refused(
        bench,
        bench.play(LEVEL3, hosts=hosts, rollback_reason="x"),
        "The state store /proc/rollbackctl cannot be written",
    )


@pytest.mark.parametrize("words", [(), ("--check",)])
def test_a_state_folder_that_others_can_write_into(bench: Bench, words: tuple[str, ...]) -> None:
    state = bench.sample.state
    state.chmod(0o775)
    try:
        store = tree(state)
        ran = bench.play(LEVEL3, *words, rollback_reason="x")
        refused(bench, ran, f"others can write into {state}", f"chmod 0700 {state}")
        assert tree(state) == store
    finally:
        state.chmod(0o700)


def test_one_service_under_two_names(bench: Bench) -> None:
    """Nothing of it may be changed twice in one run."""
    text = bench.hosts.read_text(encoding="utf-8")
    names = bench.folder / "inventory" / "twice.yml"
    hosts = yaml.safe_load(text)
    known = hosts["all"]["hosts"]
    known["shop-again"] = known["shop"]
    names.write_text(yaml.safe_dump(hosts), encoding="utf-8")
    accepted = {"rollback_reason": "x", "rollback_accept_data_loss_since": bench.taken}
    ran = bench.play(LEVEL3, hosts=names, limit="shop,shop-again", **accepted)
    assert ran.record["outcome"] == "refused", f"{ran.said}\n{ran.output}"
    told = " ".join(str(service["message"]) for service in ran.record["services"].values())
    assert "are one service" in told
    unchanged(bench)
    assert DirectoryStore(str(bench.sample.state)).lease() is None


def test_without_the_callback_plugin_nothing_runs(bench: Bench, tmp_path: Path) -> None:
    """A playbook copied out of the project, with all but the plugin that writes the record and catches signals."""
    shutil.copytree(ROOT / "playbooks", tmp_path / "playbooks", symlinks=True)
    for name in ("action_plugins", "library", "module_utils", "roles"):
        link = tmp_path / "playbooks" / name
        link.unlink()
        link.symlink_to((ROOT / "playbooks" / name).resolve())
    (tmp_path / "playbooks" / "callback_plugins").unlink()
    for name in ("plugins", "ansible.cfg"):
        (tmp_path / "playbooks" / name).unlink()
    store = tree(bench.sample.state)
    (tmp_path / "ansible.cfg").write_text("", encoding="ascii")
    ran = bench.play(
        f"{tmp_path}/playbooks/{LEVEL3}",
        cwd=tmp_path,
        env={"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_CALLBACK_PLUGINS": str(tmp_path)},
        rollback_reason="x",
    )
    assert ran.code == 2
    assert "Refused, nothing was changed" in ran.output
    assert "plugins/callback folder to ANSIBLE_CALLBACK_PLUGINS" in " ".join(ran.output.split())
    assert ran.record == {}
    assert tree(bench.sample.state) == store
    unchanged(bench)


def test_a_callback_that_another_process_announced_does_not_count(bench: Bench, tmp_path: Path) -> None:
    """The announcement is inherited by whatever a run starts; a run in it must not take it for its own."""
    shutil.copytree(ROOT / "playbooks", tmp_path / "playbooks", symlinks=True)
    for name in ("action_plugins", "library", "module_utils", "roles"):
        link = tmp_path / "playbooks" / name
        link.unlink()
        link.symlink_to((ROOT / "playbooks" / name).resolve())
    for name in ("callback_plugins", "plugins", "ansible.cfg"):
        (tmp_path / "playbooks" / name).unlink()
    (tmp_path / "ansible.cfg").write_text("", encoding="ascii")
    ran = bench.play(
        f"{tmp_path}/playbooks/{LEVEL3}",
        cwd=tmp_path,
        env={
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ROLLBACKCTL_CALLBACK": '{"pid": 1, "run": "rb-20261121-093015-4f2a"}',
        },
        rollback_reason="x",
    )
    assert ran.code == 2
    assert "callback plugin is not loaded" in " ".join(ran.output.split())
    unchanged(bench)
