# SPDX-License-Identifier: GPL-3.0-or-later
"""Every folder under molecule/ is a drill, and every drill has to hold.

A drill really breaks a service, runs the shipped playbook as a person would, and has the result looked at from outside
(testinfra). What a drill must not do is pass without having looked: molecule only warns when a scenario has no tests.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.kubernetes.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
DRILLS = sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))

# Patience, not a measure of speed: a drill that hangs has to end before whoever waits for it gives up.
PATIENCE_SECONDS = 900


def test_there_are_drills() -> None:
    """An empty folder would otherwise be the quickest way to a green run."""
    assert DRILLS, "no drill found: molecule/*/molecule.yml"


@pytest.mark.timeout(PATIENCE_SECONDS + 60)
@pytest.mark.parametrize("drill", DRILLS)
def test_drill(drill: str, tmp_path: Path, ansible_env: dict[str, str], request: pytest.FixtureRequest) -> None:
    """Run one drill from a clean start to its clean-up; show everything it said when it fails."""
    env = ansible_env | {"MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path), "NO_COLOR": "1"}
    del env["ANSIBLE_CONFIG"]  # molecule writes its own
    program = program_of(drill)
    if "kubernetes" in program:
        lab: Cluster = request.getfixturevalue("lab_cluster")
        env |= {"KUBECONFIG": str(lab.kubeconfig), "PATH": f"{env['PATH']}{os.pathsep}{lab.bin}"}
    process = subprocess.Popen(
        # Named, because molecule looks for it at the root of the git clone and says nothing when there is none.
        ["molecule", "--base-config", ".config/molecule/config.yml", "test", "--scenario-name", drill],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"drill {drill} did not end within {PATIENCE_SECONDS} s:\n{output}")
    finally:
        # Its own clean-up did not run when it was killed, or when this test was interrupted.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run([sys.executable, program, "--root", tmp_path / "services", "remove"], cwd=ROOT, check=True)
    assert process.returncode == 0, f"drill {drill} failed:\n{output}"
    proved = re.search(r"\b[1-9]\d* passed\b", output)
    assert proved, f"drill {drill} proved nothing: no test of molecule/{drill}/tests/ ran:\n{output}"


def program_of(drill: str) -> str:
    """Return the program that makes and removes a drill's services."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "molecule" / drill / "molecule.yml").read_text(encoding="utf-8"))
    named: str = settings.get("ansible", {}).get("env", {}).get("DRILL_PROGRAM", "lab/sample/drill.py")
    return named
