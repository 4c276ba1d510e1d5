# SPDX-License-Identifier: GPL-3.0-or-later
"""The Roles that ship with rollback_kubernetes, as rules for a test's own user (tests/support/kube.py)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

_FILES = Path(__file__).resolve().parents[2] / "roles" / "rollback_kubernetes" / "files"
LEVELS = ("level1.yml", "level2.yml")
Rules = list[dict[str, Any]]


def shipped(file: str) -> list[dict[str, Any]]:
    """Return the objects of a file."""
    return list(yaml.safe_load((_FILES / file).read_text(encoding="utf-8"))["items"])


def role(name: str) -> Rules:
    """Return the rules of a Role that ships."""
    documents = [document for file in LEVELS for document in shipped(file)]
    (found,) = [document["rules"] for document in documents if document["metadata"]["name"] == name]
    return list(copy.deepcopy(found))


LEVEL1 = [*role("rollbackctl-state"), *role("rollbackctl-level1")]
LEVEL2 = [*LEVEL1, *role("rollbackctl-level2"), *role("rollbackctl-state-secrets")]
