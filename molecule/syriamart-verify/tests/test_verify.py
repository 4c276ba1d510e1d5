# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks of a healthy service succeeded, and really looked.

What fails them: tests/acceptance/test_verify_kubernetes.py.
"""

from __future__ import annotations

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.sample import proof

NAME = "user-service"


def test_there_were_ten_lines_with_errors(kube: Drill, host: Host) -> None:
    logs = host.check_output("kubectl --namespace %s logs --selector app=%s --tail=-1", kube.namespace, NAME)
    assert sum("ERROR" in line for line in logs.splitlines()) == 10


def test_every_check_looked_and_was_content(drill: proof.Drill) -> None:
    record = drill.records()[0]
    assert (record["kind"], record["outcome"]) == ("verify", "done")
    checks = {check["name"]: check for check in record["services"][NAME]["checks"]}
    assert sorted(checks) == ["database", "few-errors", "health", "speed"]
    assert all(check["ok"] and not check["unverified"] for check in checks.values())
    assert checks["few-errors"]["text"].startswith("10 matching lines of 2 pods")


def test_looking_changed_nothing(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "done"]
    assert kube.objects() == kube.seen("good")["objects"]
