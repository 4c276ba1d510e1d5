# SPDX-License-Identifier: GPL-3.0-or-later
"""The same run by every caller: from the project's folder, from playbooks/, and by ansible-runner as AWX starts it.

Nothing but the playbook's folder may be needed. AWX has a project of its own (a clone), an inventory, extra variables
in which each value is tagged !unsafe, its own callback plugin, and it reads no ansible.cfg but one in the project.
"""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.sample.build import GOOD
from tests.support.bench import BIN, PATIENCE_SECONDS, ROOT, Bench, Ran, broken, refused, unchanged

LEVEL3 = "rollback-level3.yml"
RUNNER = """
import json, sys
import ansible_runner
order = json.loads(sys.argv[1])
done = ansible_runner.run(**order)
print(done.rc, done.status)
"""


def clone(there: Path) -> Path:
    """Return a copy of the project as a checkout of it is, links and all, without what git does not know."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--", "playbooks", "plugins", "library", "roles"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, there / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    return there


def as_awx(bench: Bench, folder: Path, values: Mapping[str, Any], *options: str) -> Ran:
    """Run level 3 in a process of its own by ansible-runner, with a private data directory as AWX makes one."""
    project = clone(folder / "project")
    (folder / "inventory").mkdir()
    # AWX hands an executable script over that prints its inventory.
    script = folder / "inventory" / "hosts"
    inventory = bench.sample.inventory(folder / "kept" / "hosts.yml")
    listed = subprocess.run(
        [BIN / "ansible-inventory", "-i", inventory, "--list"], capture_output=True, text=True, check=True
    )
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{listed.stdout}\nEND\n", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / "env").mkdir()
    tagged = "".join(f"{name}: !unsafe {json.dumps(value)}\n" for name, value in values.items())
    (folder / "env" / "extravars").write_text(f"---\n{tagged}", encoding="utf-8")
    order = {
        "private_data_dir": str(folder),
        "project_dir": str(project),
        "playbook": f"playbooks/{LEVEL3}",
        "limit": "shop",
        "cmdline": " ".join(options) or None,
        "quiet": True,
    }
    env = {name: value for name, value in bench.environment().items() if name != "ANSIBLE_CONFIG"}
    env |= {"ANSIBLE_CALLBACK_PLUGINS": str(folder / "no-plugins-here"), "HOME": str(folder), "AWX_HOST": "x"}
    done = subprocess.run(
        [str(BIN / "python"), "-c", RUNNER, json.dumps(order)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    (said,) = folder.glob("artifacts/*/stdout")
    output = said.read_text(encoding="utf-8")
    newest = max(bench.records.glob("*.json"), key=lambda path: path.stat().st_mtime)
    return Ran(int(done.stdout.split()[0]), output, json.loads(newest.read_text(encoding="utf-8")))


def shape(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a record must be the same whoever started the run."""
    services = {
        name: {
            "outcome": service["outcome"],
            "problems": service["problems"],
            "actions": [(entry["name"], entry["action"]) for entry in (service["plan"] or {}).get("entries", [])],
            "hash": (service["plan"] or {}).get("hash"),
            "steps": [(step["phase"], step["component"], step["status"]) for step in service["steps"]],
            "keys": sorted(service),
        }
        for name, service in record["services"].items()
    }
    kept = ("schema", "kind", "level", "playbook", "outcome", "exit_code", "message", "next", "limit", "check_mode")
    return {
        "keys": sorted(record),
        "phases": [(phase["name"], phase["status"]) for phase in record["phases"]],
        "services": services,
        **{key: record[key] for key in kept},
    }


@pytest.mark.parametrize("accepted", [False, True], ids=["refused", "planned"])
def test_one_run_by_three_callers(bench: Bench, tmp_path: Path, *, accepted: bool) -> None:
    """A refusal, and a whole plan in check mode: the same record from each, to the plan's hash."""
    values = {"rollback_reason": 'orders fail: $(x) "it\'s" } yes'}
    options = ["--check"] if accepted else []
    if accepted:
        values["rollback_accept_data_loss_since"] = bench.taken
    runs = {
        "root": bench.play(LEVEL3, *options, **values),
        "playbooks": bench.play(LEVEL3, *options, cwd=ROOT / "playbooks", env={"ANSIBLE_CONFIG": ""}, **values),
        "awx": as_awx(bench, tmp_path, values, *options),
    }
    for caller, ran in runs.items():
        assert ran.record["outcome"] == ("done" if accepted else "refused"), f"{caller}: {ran.output}"
        assert (ran.code == 0) is accepted, caller
        assert ran.record["reason"] == values["rollback_reason"], caller
    assert shape(runs["playbooks"].record) == shape(runs["root"].record)
    assert shape(runs["awx"].record) == shape(runs["root"].record)
    unchanged(bench)


def test_awx_values_that_look_like_templates_stay_text(bench: Bench, tmp_path: Path) -> None:
    """Tagged !unsafe they are data: the reason is recorded as it is, and the checkpoint's name is no name."""
    canary = tmp_path / "canary"
    text = f"{{{{ lookup('ansible.builtin.pipe', 'touch {canary}') }}}}"
    (tmp_path / "job").mkdir()
    ran = as_awx(bench, tmp_path / "job", {"rollback_reason": text, "rollback_checkpoint": text})
    refused(bench, ran, "rollback_checkpoint=", "is not a name (letters, digits, dots, dashes, underscores)")
    assert ran.record["reason"] == text
    assert not canary.exists()


def test_awx_puts_the_service_back(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The whole of level 3, started as AWX does: done, proven, and its record like that of any other run."""
    bench = broken(tmp_path_factory.mktemp("awx"))
    try:
        accepted = {"rollback_reason": "orders fail", "rollback_accept_data_loss_since": bench.taken}
        ran = as_awx(bench, tmp_path, accepted)
        assert (ran.code, ran.record["outcome"]) == (0, "done"), ran.output
        assert all(check["ok"] for check in ran.record["services"]["shop"]["checks"])
        status, health = bench.sample.get("/health")
        assert (status, health["version"]) == (200, GOOD)
        assert bench.sample.revision() == "0002"
    finally:
        bench.sample.remove()
