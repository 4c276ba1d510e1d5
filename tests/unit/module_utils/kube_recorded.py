# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as a real Kubernetes 1.34 gave them, in the states that decide something (recorded/kubernetes.json).

deployment/api: two pods, made as 1.4.0, then 1.5.0 (-second), then restarted; twin is another application with the same
label. statefulset/db: 1.4.0, 1.5.0 (-second), then a version that crashes (-rolling). daemonset/agent: 1.4.0, 1.5.0.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

_ALL: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / "kubernetes.json").read_text(encoding="utf-8"))


def recorded(name: str) -> dict[str, Any]:
    """Return a copy of one object."""
    return dict(copy.deepcopy(_ALL[name]))


def listed(name: str) -> list[dict[str, Any]]:
    """Return a copy of one list: replicasets or controllerrevisions."""
    return list(copy.deepcopy(_ALL[name]))
