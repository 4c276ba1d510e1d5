# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes from the command to the run's first event, by playbook and by the wrapper, and Ansible's floor."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import row
from tests.support.bench import BIN, PATIENCE_SECONDS, Bench

USUAL = Path(__file__).resolve().parent / "usual"
ROOT = USUAL.parents[2]
REPEATS = 5


def bench() -> list[dict[str, Any]]:
    """Return a line for ansible-playbook and one for the wrapper."""
    playbook, wrapper, empty = [], [], []
    with tempfile.TemporaryDirectory(prefix="rollbackctl-bench-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.prove_checkpoint()
            play = [str(BIN / "ansible-playbook"), "playbooks/preflight.yml", "--inventory", str(bench.hosts)]
            play += ["--limit", "shop", "--extra-vars", "rollback_reason=benchmark"]
            wrap = [str(BIN / "rollbackctl"), "plan", "3", "shop", "--inventory", str(bench.hosts)]
            wrap += ["--reason", "benchmark"]
            nothing = [str(BIN / "ansible-playbook"), str(USUAL / "empty.yml"), "--inventory", str(bench.hosts)]
            for _ in range(REPEATS):
                playbook.append(_until(bench, play, "TASK [run_guard"))
                wrapper.append(_until(bench, wrap, " guard "))
                empty.append(_until(bench, nothing, "TASK [", ANSIBLE_CONFIG=str(USUAL / "ansible.cfg")))
        finally:
            bench.sample.remove()
    way = "ansible-playbook with an empty play, to its first task"
    return [
        row("start: from ansible-playbook to the guard", playbook, empty, way=way, note="preflight.yml"),
        row("start: from rollbackctl to the guard", wrapper, empty, way=way, note="rollbackctl plan 3"),
    ]


def _until(bench: Bench, argv: list[str], mark: str, **environment: str) -> float:
    """Return the seconds until a program prints a line with a mark in it; then wait for its end."""
    began = time.monotonic()
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env=bench.environment(PYTHONUNBUFFERED="1", **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if mark in line:
                seconds = time.monotonic() - began
                process.communicate(timeout=PATIENCE_SECONDS)
                return seconds
    raise RuntimeError(f"{argv} never printed {mark!r}: {seen}")
